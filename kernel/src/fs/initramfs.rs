//! The tree as it is at boot: what the initramfs holds, the devices, and where /proc is.

use super::access::Caller;
use super::cpio;
use super::node::{Content, Node, Time};
use super::proc;
use super::regular::Regular;
use super::socket::Place;
use super::tree::{self, Entry, Last, NAME_MAX, Start, Walk};
use super::{change, pipe};
use crate::syscall::errno::Errno;
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use linux_raw_sys::general::{
    S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_ISVTX,
};
use memory::{Lock, Rank};

/// Character devices of /dev: name, major and minor number.
const DEVICES: [(&[u8], u32, u32); 7] = [
    (b"null", 1, 3),
    (b"zero", 1, 5),
    (b"full", 1, 7),
    (b"random", 1, 8),
    (b"urandom", 1, 9),
    (b"tty", 5, 0),
    (b"console", 5, 1),
];

/// Symbolic links of /dev.
const LINKS: [(&[u8], &[u8]); 4] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
];

type Links = BTreeMap<(u32, u32, u32), Arc<Node>>;

/// Builds the tree from the archive that the boot loader left. A damaged archive gives the
/// entries before the damage.
pub fn build(archive: &'static [u8]) {
    if let Err(error) = try_build(archive) {
        panic!("no memory for the initramfs (error {})", error.code());
    }
}

fn try_build(archive: &'static [u8]) -> Result<(), Errno> {
    let root = Node::new(empty_directory(), 0o755, 0, 0)?;
    root.change(|attributes| attributes.links = 2);
    let root = Entry::new(root, None, b"")?;
    tree::set_root(root.clone());
    let mut links = Links::new();
    for entry in cpio::entries(archive) {
        match entry {
            Ok(entry) => add(&root, &entry, &mut links)?,
            Err(error) => {
                defmt::error!(
                    "initramfs: damaged archive, the rest of it is lost: {}",
                    defmt::Debug2Format(&error)
                );
                break;
            }
        }
    }
    let dev = directory(&root, b"dev")?;
    for (name, major, minor) in DEVICES {
        missing(&dev, name, 0o666, || Ok(Content::Device(major, minor)))?;
    }
    for (name, target) in LINKS {
        missing(&dev, name, 0o777, || Ok(Content::Link(tree::copy(target)?)))?;
    }
    // For everybody, and nobody removes the others' files.
    for (parent, name) in [(&dev, &b"shm"[..]), (&root, b"tmp")] {
        let directory = directory(parent, name)?;
        directory
            .node
            .change(|attributes| attributes.mode |= 0o777 | S_ISVTX);
    }
    if child(&root, b"proc")?.is_none_or(|entry| is_empty(&entry)) {
        if let Some(entry) = child(&root, b"proc")? {
            change::unlink(&walk(&root, b"proc", Some(entry))?, &Caller::ROOT, true)?;
        }
        place(&root, b"proc", proc::root()?)?;
    }
    Ok(())
}

fn empty_directory() -> Content {
    Content::Directory(Lock::new(Rank::Directory, tree::Directory::default()))
}

fn is_empty(entry: &Entry) -> bool {
    matches!(&entry.node.content, Content::Directory(directory) if directory.lock().is_empty())
}

fn walk(parent: &Arc<Entry>, name: &[u8], entry: Option<Arc<Entry>>) -> Result<Walk, Errno> {
    Ok(Walk {
        parent: parent.clone(),
        name: tree::copy(name)?,
        last: Last::Name,
        slash: false,
        entry,
    })
}

fn place(parent: &Arc<Entry>, name: &[u8], node: Arc<Node>) -> Result<Arc<Entry>, Errno> {
    change::create(&walk(parent, name, None)?, &Caller::ROOT, node)
}

fn child(parent: &Arc<Entry>, name: &[u8]) -> Result<Option<Arc<Entry>>, Errno> {
    let start = Start {
        root: parent.clone(),
        directory: parent.clone(),
        caller: Caller::ROOT,
    };
    Ok(tree::walk(&start, name, false)?.entry)
}

fn missing(
    parent: &Arc<Entry>,
    name: &[u8],
    mode: u32,
    content: impl FnOnce() -> Result<Content, Errno>,
) -> Result<(), Errno> {
    if child(parent, name)?.is_none() {
        place(parent, name, Node::new(content()?, mode, 0, 0)?)?;
    }
    Ok(())
}

/// The directory `name` in `parent`, made if it does not exist.
fn directory(parent: &Arc<Entry>, name: &[u8]) -> Result<Arc<Entry>, Errno> {
    match child(parent, name)? {
        Some(entry) if entry.node.is_directory() => Ok(entry),
        other => {
            if let Some(other) = other {
                change::unlink(&walk(parent, name, Some(other))?, &Caller::ROOT, false)?;
            }
            place(parent, name, Node::new(empty_directory(), 0o755, 0, 0)?)
        }
    }
}

fn add(root: &Arc<Entry>, entry: &cpio::Entry<'static>, links: &mut Links) -> Result<(), Errno> {
    let parts: Vec<&[u8]> = entry
        .name
        .split(|&byte| byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"." | b".."))
        .collect();
    if parts.iter().any(|part| part.len() > NAME_MAX) {
        defmt::warn!("initramfs: a name is longer than {=usize} bytes", NAME_MAX);
        return Ok(());
    }
    let Some((&name, above)) = parts.split_last() else {
        return Ok(());
    };
    let mut parent = root.clone();
    for part in above {
        parent = directory(&parent, part)?;
    }
    let content = match entry.mode & S_IFMT {
        S_IFDIR => {
            let made = directory(&parent, name)?;
            set_attributes(&made.node, entry);
            return Ok(());
        }
        S_IFREG => {
            // Of several hard links, the archive stores the contents once, with the last of them.
            if entry.links > 1
                && let Some(first) = links.get(&entry.identity)
                && entry.data.is_empty()
            {
                let first = first.clone();
                remove(&parent, name)?;
                return change::link(&first, &walk(&parent, name, None)?, &Caller::ROOT, false);
            }
            Content::Regular(Regular::archived(entry.data)?)
        }
        S_IFLNK => Content::Link(tree::copy(entry.data)?),
        S_IFCHR => Content::Device(entry.device.0, entry.device.1),
        S_IFBLK => Content::Block(entry.device.0, entry.device.1),
        S_IFIFO => Content::Fifo(pipe::Pipe::new()?),
        S_IFSOCK => Content::Socket(Place::none()),
        _ => return Ok(()),
    };
    let node = Node::new(content, entry.mode, entry.uid, entry.gid)?;
    remove(&parent, name)?;
    place(&parent, name, node.clone())?;
    set_attributes(&node, entry);
    if entry.links > 1
        && entry.mode & S_IFMT == S_IFREG
        && let Some(earlier) = links.insert(entry.identity, node.clone())
    {
        replace(root, &earlier, &node)?;
    }
    Ok(())
}

/// Of several hard links the first came without the contents: they all lead to `node` from now on.
fn replace(directory: &Arc<Entry>, earlier: &Arc<Node>, node: &Arc<Node>) -> Result<(), Errno> {
    let mut pending = Vec::new();
    pending.push(directory.clone());
    while let Some(directory) = pending.pop() {
        let Content::Directory(entries) = &directory.node.content else {
            continue;
        };
        let mut cookie = 0;
        loop {
            let next = entries.lock().next(cookie);
            let Some((after, entry)) = next else { break };
            cookie = after;
            if entry.node.is_directory() {
                pending.push(entry);
            } else if Arc::ptr_eq(&entry.node, earlier) {
                let name = entry.name()?;
                remove(&directory, &name)?;
                change::link(node, &walk(&directory, &name, None)?, &Caller::ROOT, false)?;
            }
        }
    }
    Ok(())
}

fn remove(parent: &Arc<Entry>, name: &[u8]) -> Result<(), Errno> {
    match child(parent, name)? {
        Some(entry) if !entry.node.is_directory() => {
            change::unlink(&walk(parent, name, Some(entry))?, &Caller::ROOT, false)
        }
        _ => Ok(()),
    }
}

fn set_attributes(node: &Node, entry: &cpio::Entry<'_>) {
    let time = Time {
        seconds: entry.mtime.into(),
        nanoseconds: 0,
    };
    node.change(|attributes| {
        attributes.mode = attributes.mode & S_IFMT | entry.mode & !S_IFMT;
        (attributes.uid, attributes.gid) = (entry.uid, entry.gid);
        (attributes.accessed, attributes.modified, attributes.changed) = (time, time, time);
    });
}
