//! /proc: files that are made up when they are read.

mod link;
mod list;
pub mod memory;
mod process;
mod system;
mod text;

use super::PROC_DEVICE;
use super::buffer::Buffer;
use super::node::{Content, Node};
use super::tree::{Entry, Target};
use crate::process::{Process, table, thread};
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use core::fmt;
use linux_raw_sys::general::{S_IFDIR, S_IFLNK, S_IFREG};
use text::Window;

/// A file of /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// /proc itself.
    Root,
    /// /proc/self.
    Own,
    /// /proc/thread-self.
    OwnThread,
    /// /proc/PID.
    Process(u32),
    /// /proc/PID/exe, cwd or root.
    Place(u32, Place),
    /// /proc/PID/fd.
    Descriptors(u32),
    /// /proc/PID/fd/N.
    Descriptor(u32, u32),
    /// A file of /proc/PID.
    Fact(u32, Fact),
    /// /proc/PID/task.
    Tasks(u32),
    /// A directory of the machine's facts.
    Folder(list::Folder),
    /// A file of them.
    Word(list::Word),
}

/// The places that a process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its program.
    Program,
    /// Its working directory.
    Directory,
    /// Its root directory.
    Root,
}

/// The files of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Its mappings.
    Maps,
    /// And what of them it uses.
    Smaps,
    /// All of that together.
    SmapsRollup,
    /// What it is, in one line.
    Stat,
    /// And for people.
    Status,
    /// Its sizes in pages.
    Statm,
    /// Its name.
    Comm,
    /// Its arguments.
    Cmdline,
    /// Its environment.
    Environ,
}

/// The node of /proc.
pub fn root() -> Result<Arc<Node>, Errno> {
    node(Item::Root)
}

fn node(item: Item) -> Result<Arc<Node>, Errno> {
    let mode = match item.file_type() {
        S_IFDIR if matches!(item, Item::Descriptors(_)) => 0o500,
        S_IFDIR => 0o555,
        S_IFLNK => 0o777,
        _ => 0o444,
    };
    let node = Node::with_id(item.number(), PROC_DEVICE, Content::Proc(item), mode, 0, 0)?;
    let links = if item.file_type() == S_IFDIR { 2 } else { 1 };
    node.change(|attributes| attributes.links = links);
    Ok(node)
}

/// The process `pid`, if it has not been collected.
fn find(pid: u32) -> Result<Arc<Process>, Errno> {
    table::get(pid).ok_or(Errno::ENOENT)
}

impl Item {
    /// S_IFDIR, S_IFREG or S_IFLNK.
    pub fn file_type(self) -> u32 {
        match self {
            Item::Root
            | Item::Process(_)
            | Item::Descriptors(_)
            | Item::Tasks(_)
            | Item::Folder(_) => S_IFDIR,
            Item::Fact(..) | Item::Word(_) => S_IFREG,
            Item::Own | Item::OwnThread | Item::Place(..) | Item::Descriptor(..) => S_IFLNK,
        }
    }

    /// The number of the file in its file system.
    pub fn number(self) -> u32 {
        /// Numbers per process; its descriptors are above all others.
        const PER_PROCESS: u32 = 64;
        match self {
            Item::Root => 1,
            Item::Own => 2,
            Item::OwnThread => 3,
            Item::Process(pid) => pid * PER_PROCESS,
            Item::Place(pid, place) => pid * PER_PROCESS + 1 + place as u32,
            Item::Descriptors(pid) => pid * PER_PROCESS + 4,
            Item::Tasks(pid) => pid * PER_PROCESS + 5,
            Item::Fact(pid, fact) => pid * PER_PROCESS + 6 + fact as u32,
            Item::Folder(folder) => 4 + folder as u32,
            Item::Word(word) => 16 + word as u32,
            Item::Descriptor(pid, fd) => 1 << 31 | (pid << 10 ^ fd) & !(1 << 31),
        }
    }

    /// What is called `name` in the directory.
    pub fn child(self, parent: &Arc<Entry>, name: &[u8]) -> Result<Option<Arc<Entry>>, Errno> {
        let found = match self {
            Item::Root => list::in_root(name),
            Item::Folder(folder) => list::in_folder(folder, name),
            Item::Tasks(pid) => list::in_tasks(pid, name)?,
            Item::Process(pid) => list::in_process(pid, name)?,
            Item::Descriptors(pid) => list::descriptor(pid, name)?,
            _ => return Err(Errno::ENOTDIR),
        };
        found
            .map(|item| Entry::new(node(item)?, Some(parent.clone()), name))
            .transpose()
    }

    /// Where the link leads.
    pub fn target(self) -> Result<Target, Errno> {
        link::target(self)
    }

    /// Whether it can be opened.
    pub fn open(self, writes: bool) -> Result<(), Errno> {
        match self.file_type() {
            S_IFDIR if writes => Err(Errno::EISDIR),
            S_IFLNK => Err(Errno::ELOOP),
            S_IFREG if writes => Err(Errno::EACCES),
            _ => Ok(()),
        }
    }

    /// Reads from `offset` on.
    pub fn read(self, offset: u64, to: &mut Buffer<'_>) -> Result<usize, Errno> {
        /// So much is made at once, at most.
        const STEP: usize = 4096;
        if self.file_type() != S_IFREG {
            return Err(Errno::EISDIR);
        }
        let mut window = Window::new(offset, STEP.min(to.left()))?;
        // An error means that the window is full.
        let _ = match self {
            Item::Word(word) => system::write(&mut window, word),
            Item::Fact(pid, fact) => {
                let process = table::get(pid).ok_or(Errno::ESRCH)?;
                fact.write(&mut window, &process)
            }
            _ => Ok(()),
        };
        to.put(window.bytes())
    }

    /// Writes.
    pub fn write(self, _from: &mut Buffer<'_>) -> Result<usize, Errno> {
        Err(Errno::EBADF)
    }

    /// The entry of the directory at or after a place, and the place after it.
    pub fn next(self, cookie: u64) -> Result<Option<(u64, list::Name, Item)>, Errno> {
        list::next(self, cookie)
    }
}

impl Fact {
    fn write(self, to: &mut Window, process: &Process) -> fmt::Result {
        use memory::with_space;
        // A process without memory has nothing to tell of it.
        match self {
            Fact::Maps => with_space(process, |space| memory::maps(to, space)).unwrap_or(Ok(())),
            Fact::Smaps => with_space(process, |space| memory::smaps(to, space)).unwrap_or(Ok(())),
            Fact::SmapsRollup => {
                with_space(process, |space| memory::rollup(to, space)).unwrap_or(Ok(()))
            }
            Fact::Stat => process::stat(to, process),
            Fact::Status => process::status(to, process),
            Fact::Statm => process::statm(to, process),
            Fact::Comm => process::comm(to, process),
            Fact::Cmdline => process::strings(to, process, false),
            Fact::Environ => process::strings(to, process, true),
        }
    }
}

fn own_pid() -> u32 {
    thread::current().process.pid
}
