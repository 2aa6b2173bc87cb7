//! The tree of names: directories, and how a path is looked up.
//!
//! Every change of names, and every lookup, is under one lock, so that a rename is one step for
//! everybody. What lies behind it are short searches; whoever removes a name lets go of the file
//! after the lock is released.

use super::access::{self, Caller};
use super::node::{Content, Node};
use crate::arch::heap;
use crate::syscall::errno::Errno;
use alloc::borrow::Cow;
use alloc::{sync::Arc, vec::Vec};
use hashbrown::HashTable;
use linux_raw_sys::general::{PATH_MAX, X_OK};
use memory::{Guard, Lock, Rank};
use spin::Once;

/// How many symbolic links one lookup follows before it gives up (Linux's MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// The longest name of one path component.
pub const NAME_MAX: usize = 255;
/// What a directory's size says of each entry: as Linux's tmpfs.
const ENTRY_SIZE: u64 = 20;

/// A name and what it leads to (Linux's dentry).
pub struct Entry {
    /// The file.
    pub node: Arc<Node>,
    place: Lock<Place>,
}

struct Place {
    /// None: the root, or something that never had a name.
    parent: Option<Arc<Entry>>,
    name: Vec<u8>,
    /// The parent has it.
    linked: bool,
    /// Where it is in the order of the parent's entries.
    cookie: u64,
}

/// The entries of a directory.
#[derive(Default)]
pub struct Directory {
    by_name: HashTable<Arc<Entry>>,
    /// In the order they were made: a listing that goes on after entries were removed skips none.
    order: Vec<(u64, Arc<Entry>)>,
    next: u64,
}

static NAMESPACE: Lock<()> = Lock::new(Rank::Tree, ());
static ROOT: Once<Arc<Entry>> = Once::new();

/// Locks the tree.
pub(super) fn lock() -> Guard<'static, ()> {
    NAMESPACE.lock()
}

/// Installs the root directory. Once, at boot.
pub(super) fn set_root(root: Arc<Entry>) {
    ROOT.call_once(|| root);
}

/// The root directory.
pub fn root() -> &'static Arc<Entry> {
    ROOT.get()
        .expect("the tree is built before the first process starts")
}

/// FNV-1a: names are short.
fn hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

impl Entry {
    /// An entry that is in no directory yet.
    pub fn new(
        node: Arc<Node>,
        parent: Option<Arc<Entry>>,
        name: &[u8],
    ) -> Result<Arc<Entry>, Errno> {
        let name = copy(name)?;
        heap::try_arc(Entry {
            node,
            place: Lock::new(
                Rank::Name,
                Place {
                    parent,
                    name,
                    linked: false,
                    cookie: 0,
                },
            ),
        })
        .ok_or(Errno::ENOMEM)
    }

    /// The directory it is in; its own for the root.
    pub fn parent(self: &Arc<Entry>) -> Arc<Entry> {
        let parent = self.place.lock().parent.clone();
        parent.unwrap_or_else(|| self.clone())
    }

    /// The last component of the path.
    pub fn name(&self) -> Result<Vec<u8>, Errno> {
        copy(&self.place.lock().name)
    }

    /// Whether its directory still has it.
    pub fn is_linked(&self) -> bool {
        let place = self.place.lock();
        self.is_stable(&place) || place.parent.is_none() && place.name.is_empty()
    }

    /// The files of /proc are in no list, but made for whoever asks.
    fn is_stable(&self, place: &Place) -> bool {
        place.linked || matches!(self.node.content, Content::Proc(_))
    }

    fn is_called(&self, name: &[u8]) -> bool {
        self.place.lock().name == name
    }

    /// Its path below `root`, and whether it still leads to the file. A file that never had a name
    /// is what it is called.
    pub fn path(self: &Arc<Entry>, root: &Arc<Entry>) -> Result<(Vec<u8>, bool), Errno> {
        let _tree = lock();
        let mut path = Vec::new();
        let mut linked = true;
        let mut at = self.clone();
        while !Arc::ptr_eq(&at, root) {
            let parent = {
                let place = at.place.lock();
                let Some(parent) = place.parent.clone() else {
                    if !place.name.is_empty() {
                        return Ok((copy(&place.name)?, true));
                    }
                    break;
                };
                linked &= at.is_stable(&place);
                // From the end, and turned around below.
                path.try_reserve(place.name.len() + 1)
                    .map_err(|_| Errno::ENOMEM)?;
                path.extend(place.name.iter().rev());
                path.push(b'/');
                parent
            };
            at = parent;
        }
        if path.is_empty() {
            path.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            path.push(b'/');
        }
        path.reverse();
        Ok((path, linked))
    }

    /// The entry `name` of a directory.
    pub(super) fn child(self: &Arc<Entry>, name: &[u8]) -> Result<Option<Arc<Entry>>, Errno> {
        match &self.node.content {
            Content::Directory(directory) => Ok(directory.lock().get(name)),
            Content::Proc(item) => item.child(self, name),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Whether `self` is `other` or above it.
    pub(super) fn holds(self: &Arc<Entry>, other: &Arc<Entry>) -> bool {
        let mut at = other.clone();
        loop {
            if Arc::ptr_eq(self, &at) {
                return true;
            }
            let parent = at.place.lock().parent.clone();
            match parent {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// Gives it another place, which has room for it. The tree is locked.
    pub(super) fn attach(self: &Arc<Entry>, parent: &Arc<Entry>, name: Vec<u8>) {
        let Content::Directory(directory) = &parent.node.content else {
            return;
        };
        let mut directory = directory.lock();
        let key = hash(&name);
        *self.place.lock() = Place {
            parent: Some(parent.clone()),
            name,
            linked: true,
            cookie: directory.next,
        };
        let cookie = directory.next;
        directory.next += 1;
        directory.order.push((cookie, self.clone()));
        directory
            .by_name
            .insert_unique(key, self.clone(), |entry| hash(&entry.place.lock().name));
    }

    /// Takes it out of its directory. The tree is locked.
    pub(super) fn detach(self: &Arc<Entry>) {
        let (parent, key, cookie) = {
            let mut place = self.place.lock();
            place.linked = false;
            (place.parent.clone(), hash(&place.name), place.cookie)
        };
        let Some(parent) = parent else { return };
        let Content::Directory(directory) = &parent.node.content else {
            return;
        };
        let mut directory = directory.lock();
        if let Ok(found) = directory
            .by_name
            .find_entry(key, |entry| Arc::ptr_eq(entry, self))
        {
            found.remove();
        }
        if let Ok(index) = directory
            .order
            .binary_search_by_key(&cookie, |&(cookie, _)| cookie)
        {
            directory.order.remove(index);
        }
    }
}

impl Directory {
    fn get(&self, name: &[u8]) -> Option<Arc<Entry>> {
        self.by_name
            .find(hash(name), |entry| entry.is_called(name))
            .cloned()
    }

    /// Room for one more entry.
    pub(super) fn reserve(&mut self) -> Result<(), Errno> {
        self.order.try_reserve(1).map_err(|_| Errno::ENOSPC)?;
        self.by_name
            .try_reserve(1, |entry| hash(&entry.place.lock().name))
            .map_err(|_| Errno::ENOSPC)
    }

    /// No entries.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What `stat` says of its size.
    pub fn size(&self) -> u64 {
        (self.order.len() as u64 + 2) * ENTRY_SIZE
    }

    /// The first entry at or after a place in the order, and the place after it.
    pub fn next(&self, cookie: u64) -> Option<(u64, Arc<Entry>)> {
        let index = self.order.partition_point(|&(at, _)| at < cookie);
        let (at, entry) = self.order.get(index)?;
        Some((at + 1, entry.clone()))
    }
}

/// A copy of a name or path, or ENOMEM.
pub fn copy(bytes: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len())
        .map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Where lookups begin, and who asks.
pub struct Start {
    /// Of absolute paths, and what ".." does not leave.
    pub root: Arc<Entry>,
    /// Of relative paths.
    pub directory: Arc<Entry>,
    /// Who asks.
    pub caller: Caller,
}

/// What the last component of a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name.
    Name,
    /// ".", or no component at all: the root.
    Dot,
    /// "..".
    DotDot,
}

/// Where a path leads.
pub struct Walk {
    /// The directory of the last component.
    pub parent: Arc<Entry>,
    /// The last component.
    pub name: Vec<u8>,
    /// What it is.
    pub last: Last,
    /// The path ended with a slash.
    pub slash: bool,
    /// What is there.
    pub entry: Option<Arc<Entry>>,
}

/// What a symbolic link stands for.
pub enum Target {
    /// More path.
    Path(Vec<u8>),
    /// A place, whatever its path: the links of /proc.
    Entry(Arc<Entry>),
}

/// Where a link leads; the tree is locked.
fn target(node: &Node) -> Result<Target, Errno> {
    match &node.content {
        Content::Link(target) => Ok(Target::Path(copy(target)?)),
        Content::Proc(item) => item.target(),
        _ => Err(Errno::EINVAL),
    }
}

/// Follows a path up to its last component, which need not exist. `follow`: if that is a symbolic
/// link, where it leads counts instead.
pub fn walk(start: &Start, path: &[u8], follow: bool) -> Result<Walk, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    if path.len() >= PATH_MAX as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    let _tree = lock();
    let first = |path: &[u8]| path.first() == Some(&b'/');
    let mut here = if first(path) {
        start.root.clone()
    } else {
        start.directory.clone()
    };
    let mut text = Cow::Borrowed(path);
    let (mut at, mut links) = (0, 0);
    loop {
        let rest = &text[at..];
        at += rest.iter().take_while(|&&byte| byte == b'/').count();
        let rest = &text[at..];
        let len = rest.iter().take_while(|&&byte| byte != b'/').count();
        let after = &rest[len..];
        let slash = !after.is_empty();
        let ends = after.iter().all(|&byte| byte == b'/');
        let part = &rest[..len];
        if !here.node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        access::check(&here.node, &start.caller, X_OK)?;
        let last = match part {
            b"" | b"." => Last::Dot,
            b".." => Last::DotDot,
            _ => Last::Name,
        };
        if last != Last::Name {
            if last == Last::DotDot && !Arc::ptr_eq(&here, &start.root) {
                here = here.parent();
            }
            if ends {
                return Ok(Walk {
                    parent: here.clone(),
                    name: Vec::new(),
                    last,
                    slash,
                    entry: Some(here),
                });
            }
            at += len;
            continue;
        }
        if len > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let child = here.child(part)?;
        if let Some(link) = &child
            && link.node.is_link()
            && (!ends || follow || slash)
        {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            match target(&link.node)? {
                Target::Path(mut path) => {
                    if path.is_empty() {
                        return Err(Errno::ENOENT);
                    }
                    if first(&path) {
                        here = start.root.clone();
                    }
                    path.try_reserve(after.len()).map_err(|_| Errno::ENOMEM)?;
                    path.extend_from_slice(after);
                    text = Cow::Owned(path);
                    at = 0;
                }
                Target::Entry(entry) if ends => {
                    return Ok(Walk {
                        parent: entry.parent(),
                        name: Vec::new(),
                        last,
                        slash,
                        entry: Some(entry),
                    });
                }
                Target::Entry(entry) => {
                    here = entry;
                    at += len;
                }
            }
            continue;
        }
        if ends {
            return Ok(Walk {
                name: copy(part)?,
                parent: here,
                last,
                slash,
                entry: child,
            });
        }
        here = child.ok_or(Errno::ENOENT)?;
        at += len;
    }
}

/// Looks `path` up. `follow`: a link at the end of the path is followed.
pub fn lookup(start: &Start, path: &[u8], follow: bool) -> Result<Arc<Entry>, Errno> {
    let found = walk(start, path, follow)?;
    let entry = found.entry.ok_or(Errno::ENOENT)?;
    if found.slash && !entry.node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    Ok(entry)
}

/// The text of a symbolic link.
pub fn read_link(entry: &Arc<Entry>, root: &Arc<Entry>) -> Result<Vec<u8>, Errno> {
    let target = {
        let _tree = lock();
        target(&entry.node)?
    };
    match target {
        Target::Path(path) => Ok(path),
        Target::Entry(entry) => {
            let (mut path, linked) = entry.path(root)?;
            if !linked {
                const DELETED: &[u8] = b" (deleted)";
                path.try_reserve(DELETED.len()).map_err(|_| Errno::ENOMEM)?;
                path.extend_from_slice(DELETED);
            }
            Ok(path)
        }
    }
}

impl Walk {
    /// The path is that of the root directory.
    pub fn is_root(&self) -> bool {
        self.entry
            .as_ref()
            .is_some_and(|entry| Arc::ptr_eq(entry, root()))
    }
}
