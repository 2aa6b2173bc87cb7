//! The file tree of the initramfs: built once at boot, read-only afterwards.

use super::cpio;
use crate::arch::heap;
use crate::process::elf::Elf;
use crate::syscall::errno::Errno;
use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, Ordering};
use linux_raw_sys::general::{PATH_MAX, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use memory::PageCache;
use spin::Once;

/// How many symbolic links one lookup follows before it gives up (Linux's MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// The longest name of one path component.
const NAME_MAX: usize = 255;

type Index = usize;
const ROOT: Index = 0;

/// A file, directory, link or device.
pub struct Node {
    /// Number of the file, from 1; also its id in the trace.
    pub id: u32,
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// The trace has been told of it.
    pub announced: AtomicBool,
    /// What it holds.
    pub content: Content,
    name: &'static [u8],
    parent: Index,
}

/// What a node holds.
pub enum Content {
    /// A directory: its entries by name.
    Directory(BTreeMap<&'static [u8], Index>),
    /// A regular file.
    Regular(Regular),
    /// A symbolic link: its target.
    Link(&'static [u8]),
    /// A character device: major and minor number.
    Device(u32, u32),
    /// Anything else the archive may hold: it can be named, not opened.
    Other,
}

/// A regular file: its bytes in the archive, and its pages once somebody maps it.
pub struct Regular {
    /// The contents.
    pub bytes: &'static [u8],
    cache: Once<Arc<PageCache>>,
    program: Once<Elf>,
}

struct Tree {
    nodes: Vec<Node>,
}

static TREE: Once<Tree> = Once::new();

/// Builds the tree from the archive that the boot loader left. A damaged archive gives the
/// entries before the damage.
pub fn build(archive: &'static [u8]) {
    TREE.call_once(|| {
        let mut tree = Tree { nodes: Vec::new() };
        tree.push(
            ROOT,
            b"",
            S_IFDIR | 0o755,
            Content::Directory(BTreeMap::new()),
        );
        let mut links = BTreeMap::new();
        for entry in cpio::entries(archive) {
            match entry {
                Ok(entry) => tree.add(&entry, &mut links),
                Err(error) => {
                    defmt::error!(
                        "initramfs: damaged archive, the rest of it is lost: {}",
                        defmt::Debug2Format(&error)
                    );
                    break;
                }
            }
        }
        for (name, minor) in [
            (&b"null"[..], 3),
            (b"zero", 5),
            (b"random", 8),
            (b"urandom", 9),
        ] {
            tree.add_device(name, 1, minor);
        }
        tree.add_device(b"tty", 5, 0);
        tree.add_device(b"console", 5, 1);
        tree
    });
}

fn tree() -> &'static Tree {
    TREE.get()
        .expect("the tree is built before the first process starts")
}

/// The root directory.
pub fn root() -> &'static Node {
    &tree().nodes[ROOT]
}

/// All files that have been mapped or executed, for the trace: from the one after `id`, in rotation.
pub fn next_mapped(id: u32) -> Option<&'static Node> {
    let nodes = &tree().nodes;
    nodes
        .iter()
        .skip(id as usize)
        .find(|node| node.announced.load(Ordering::Relaxed))
}

/// The entry at `position` of a directory, with "." and "..", and its name.
pub fn entry(directory: &'static Node, position: u64) -> Option<(&'static [u8], &'static Node)> {
    let Content::Directory(entries) = &directory.content else {
        return None;
    };
    let position = usize::try_from(position).ok()?;
    match position {
        0 => Some((b".", directory)),
        1 => Some((b"..", &tree().nodes[directory.parent])),
        _ => entries
            .iter()
            .nth(position - 2)
            .map(|(name, &index)| (*name, &tree().nodes[index])),
    }
}

/// Looks `path` up, from `start` if it is relative. `follow`: a link at the end of the path is followed.
pub fn lookup(start: &'static Node, path: &[u8], follow: bool) -> Result<&'static Node, Errno> {
    tree()
        .lookup(start.index(), path, follow, &mut 0)
        .map(|index| &tree().nodes[index])
}

impl Tree {
    fn push(&mut self, parent: Index, name: &'static [u8], mode: u32, content: Content) -> Index {
        let index = self.nodes.len();
        let announced = AtomicBool::new(false);
        self.nodes.push(Node {
            id: index as u32 + 1,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            announced,
            content,
            name,
            parent,
        });
        if let Content::Directory(entries) = &mut self.nodes[parent].content
            && index != ROOT
        {
            entries.insert(name, index);
        }
        index
    }

    fn child(&self, directory: Index, name: &[u8]) -> Option<Index> {
        match &self.nodes[directory].content {
            Content::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// The directory `name` in `parent`, made if it does not exist.
    fn directory(&mut self, parent: Index, name: &'static [u8]) -> Index {
        match self.child(parent, name) {
            Some(index) if matches!(self.nodes[index].content, Content::Directory(_)) => index,
            _ => self.push(
                parent,
                name,
                S_IFDIR | 0o755,
                Content::Directory(BTreeMap::new()),
            ),
        }
    }

    fn add(&mut self, entry: &cpio::Entry<'static>, links: &mut BTreeMap<(u32, u32, u32), Index>) {
        let mut parts = entry
            .name
            .split(|&byte| byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"." | b".."));
        if parts.clone().any(|part| part.len() > NAME_MAX) {
            defmt::warn!("initramfs: a name is longer than {=usize} bytes", NAME_MAX);
            return;
        }
        let Some(mut name) = parts.next() else { return };
        let mut parent = ROOT;
        for next in parts {
            parent = self.directory(parent, name);
            name = next;
        }
        let content = match entry.mode & S_IFMT {
            S_IFDIR => {
                let index = self.directory(parent, name);
                self.nodes[index].mode = entry.mode;
                return;
            }
            S_IFREG => Content::Regular(Regular {
                bytes: entry.data,
                cache: Once::new(),
                program: Once::new(),
            }),
            S_IFLNK => Content::Link(entry.data),
            S_IFCHR => Content::Device(entry.device.0, entry.device.1),
            S_IFBLK => Content::Other,
            _ => Content::Other,
        };
        // Of several hard links, the archive stores the contents once, with any one of them.
        if entry.links > 1 && entry.mode & S_IFMT == S_IFREG {
            if let Some(&first) = links.get(&entry.identity) {
                if let Content::Regular(file) = &mut self.nodes[first].content
                    && file.bytes.is_empty()
                {
                    file.bytes = entry.data;
                }
                if let Content::Directory(entries) = &mut self.nodes[parent].content {
                    entries.insert(name, first);
                }
                return;
            }
            links.insert(entry.identity, self.nodes.len());
        }
        let index = self.push(parent, name, entry.mode, content);
        let node = &mut self.nodes[index];
        (node.uid, node.gid, node.mtime) = (entry.uid, entry.gid, entry.mtime);
    }

    fn add_device(&mut self, name: &'static [u8], major: u32, minor: u32) {
        let dev = self.directory(ROOT, b"dev");
        if self.child(dev, name).is_none() {
            self.push(dev, name, S_IFCHR | 0o666, Content::Device(major, minor));
        }
    }

    fn lookup(
        &self,
        start: Index,
        path: &[u8],
        follow: bool,
        links: &mut usize,
    ) -> Result<Index, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut at = if path[0] == b'/' { ROOT } else { start };
        let must_be_directory = path.ends_with(b"/");
        let mut parts = path
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
            .peekable();
        while let Some(part) = parts.next() {
            let Content::Directory(entries) = &self.nodes[at].content else {
                return Err(Errno::ENOTDIR);
            };
            if part.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
            let next = match part {
                b"." => at,
                b".." => self.nodes[at].parent,
                _ => *entries.get(part).ok_or(Errno::ENOENT)?,
            };
            let last = parts.peek().is_none();
            at = match &self.nodes[next].content {
                Content::Link(target) if !last || follow || must_be_directory => {
                    *links += 1;
                    if *links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    self.lookup(at, target, true, links)?
                }
                _ => next,
            };
        }
        if must_be_directory && !matches!(self.nodes[at].content, Content::Directory(_)) {
            return Err(Errno::ENOTDIR);
        }
        Ok(at)
    }
}

impl Node {
    fn index(&self) -> Index {
        self.id as usize - 1
    }

    /// Length in bytes, as `stat` reports it.
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Regular(file) => file.bytes.len() as u64,
            Content::Link(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// How many names it has in effect: a directory's own, its parent's and its children's.
    pub fn links(&self) -> u32 {
        match &self.content {
            Content::Directory(entries) => {
                let directories = entries
                    .values()
                    .filter(|&&index| tree().nodes[index].is_directory());
                2 + directories.count() as u32
            }
            _ => 1,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }

    /// Puts the absolute path into `buf`; returns how much of `buf` is used. A path that is too
    /// long loses its front.
    pub fn path<'b>(&self, buf: &'b mut [u8]) -> &'b [u8] {
        let mut start = buf.len();
        let mut node = self;
        loop {
            let parent = &tree().nodes[node.parent];
            let room = node.name.len() + 1;
            if room > start {
                break;
            }
            if node.index() == ROOT {
                if start == buf.len() {
                    start -= 1;
                    buf[start] = b'/';
                }
                break;
            }
            start -= room;
            buf[start] = b'/';
            buf[start + 1..start + room].copy_from_slice(node.name);
            node = parent;
        }
        &buf[start..]
    }

    /// The last component of the path.
    pub fn name(&self) -> &'static [u8] {
        self.name
    }

    /// Whether anybody may execute it (the only user is root, as on Linux any x bit will do).
    pub fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}

impl Regular {
    /// The file as a program: looked into once, since it never changes. ENOEXEC if it is none.
    pub fn program(&self) -> Result<&Elf, Errno> {
        self.program.try_call_once(|| Elf::parse(self.bytes))
    }

    /// The build id of the file, if it is a program with one.
    pub fn build_id(&self) -> Option<&'static [u8]> {
        self.program().ok()?.build_id
    }

    /// The file's pages, shared by all who map it.
    pub fn cache(&'static self, id: u32) -> Result<&'static Arc<PageCache>, Errno> {
        /// A cache and its source, and the allocator's tags.
        const HEAP: usize = size_of::<PageCache>() + size_of::<Archive>() + 256;
        self.cache.try_call_once(|| {
            if !heap::reserve(HEAP) {
                return Err(Errno::ENOMEM);
            }
            Ok(Arc::new(PageCache::new(
                id,
                self.bytes.len() as u64,
                Box::new(Archive(self.bytes)),
            )))
        })
    }
}

/// The bytes of a file in the archive, as the page cache's source.
struct Archive(&'static [u8]);

impl memory::Source for Archive {
    fn fill(&self, offset: u64, page: &mut [u8; 4096]) {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..))
            .unwrap_or(&[]);
        let len = rest.len().min(page.len());
        page[..len].copy_from_slice(&rest[..len]);
        page[len..].fill(0);
    }
}
