//! What the directories of /proc hold.

use super::{Fact, Item, Place, find as find_process};
use crate::process::table;
use crate::syscall::errno::Errno;
use core::fmt::{self, Write};

/// A name: a word, or a number.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; 24],
    len: usize,
}

impl Name {
    /// What `value` displays as, up to 24 bytes.
    pub fn new(value: impl fmt::Display) -> Name {
        let mut name = Name {
            bytes: [0; 24],
            len: 0,
        };
        // No name here is longer.
        let _ = write!(name, "{value}");
        name
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// A directory of the machine's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// /proc/sys.
    Sys,
    /// /proc/sys/kernel.
    Kernel,
    /// /proc/sys/kernel/random.
    Random,
    /// /proc/sys/vm.
    Vm,
    /// /proc/sys/fs.
    Fs,
    /// /proc/sys/net.
    Net,
    /// /proc/sys/net/core.
    Core,
}

/// A fact of the machine, by the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Word {
    Meminfo,
    Cpuinfo,
    Stat,
    Uptime,
    Loadavg,
    Version,
    Mounts,
    Filesystems,
    Ostype,
    Osrelease,
    Hostname,
    PidMax,
    Uuid,
    BootId,
    Overcommit,
    PipeMax,
    Somaxconn,
}

const ROOT: [(&str, Item); 11] = [
    ("self", Item::Own),
    ("thread-self", Item::OwnThread),
    ("sys", Item::Folder(Folder::Sys)),
    ("meminfo", Item::Word(Word::Meminfo)),
    ("cpuinfo", Item::Word(Word::Cpuinfo)),
    ("stat", Item::Word(Word::Stat)),
    ("uptime", Item::Word(Word::Uptime)),
    ("loadavg", Item::Word(Word::Loadavg)),
    ("version", Item::Word(Word::Version)),
    ("mounts", Item::Word(Word::Mounts)),
    ("filesystems", Item::Word(Word::Filesystems)),
];

/// What a folder holds.
fn of_folder(folder: Folder) -> &'static [(&'static str, Item)] {
    match folder {
        Folder::Sys => &[
            ("kernel", Item::Folder(Folder::Kernel)),
            ("vm", Item::Folder(Folder::Vm)),
            ("fs", Item::Folder(Folder::Fs)),
            ("net", Item::Folder(Folder::Net)),
        ],
        Folder::Kernel => &[
            ("ostype", Item::Word(Word::Ostype)),
            ("osrelease", Item::Word(Word::Osrelease)),
            ("hostname", Item::Word(Word::Hostname)),
            ("pid_max", Item::Word(Word::PidMax)),
            ("random", Item::Folder(Folder::Random)),
        ],
        Folder::Random => &[
            ("uuid", Item::Word(Word::Uuid)),
            ("boot_id", Item::Word(Word::BootId)),
        ],
        Folder::Vm => &[("overcommit_memory", Item::Word(Word::Overcommit))],
        Folder::Fs => &[("pipe-max-size", Item::Word(Word::PipeMax))],
        Folder::Net => &[("core", Item::Folder(Folder::Core))],
        Folder::Core => &[("somaxconn", Item::Word(Word::Somaxconn))],
    }
}

/// What each process has.
fn of_process(pid: u32) -> [(&'static str, Item); 14] {
    [
        ("exe", Item::Place(pid, Place::Program)),
        ("cwd", Item::Place(pid, Place::Directory)),
        ("root", Item::Place(pid, Place::Root)),
        ("fd", Item::Descriptors(pid)),
        ("task", Item::Tasks(pid)),
        ("maps", Item::Fact(pid, Fact::Maps)),
        ("smaps", Item::Fact(pid, Fact::Smaps)),
        ("smaps_rollup", Item::Fact(pid, Fact::SmapsRollup)),
        ("stat", Item::Fact(pid, Fact::Stat)),
        ("status", Item::Fact(pid, Fact::Status)),
        ("statm", Item::Fact(pid, Fact::Statm)),
        ("comm", Item::Fact(pid, Fact::Comm)),
        ("cmdline", Item::Fact(pid, Fact::Cmdline)),
        ("environ", Item::Fact(pid, Fact::Environ)),
    ]
}

fn find(list: &[(&str, Item)], name: &[u8]) -> Option<Item> {
    let found = list.iter().find(|(word, _)| word.as_bytes() == name);
    found.map(|&(_, item)| item)
}

/// A decimal number without leading zeros.
fn number(name: &[u8]) -> Option<u32> {
    if name.len() > 1 && name[0] == b'0' || name.first() == Some(&b'+') {
        return None;
    }
    core::str::from_utf8(name).ok()?.parse().ok()
}

/// What is called `name` in /proc.
pub fn in_root(name: &[u8]) -> Option<Item> {
    find(&ROOT, name).or_else(|| {
        let pid = number(name)?;
        table::get(pid).map(|_| Item::Process(pid))
    })
}

/// What is called `name` in /proc/PID.
pub fn in_process(pid: u32, name: &[u8]) -> Result<Option<Item>, Errno> {
    find_process(pid)?;
    Ok(find(&of_process(pid), name))
}

/// What is called `name` in a folder.
pub fn in_folder(folder: Folder, name: &[u8]) -> Option<Item> {
    find(of_folder(folder), name)
}

/// What is called `name` in /proc/PID/task: a thread, of which is told what is told of its process.
pub fn in_tasks(pid: u32, name: &[u8]) -> Result<Option<Item>, Errno> {
    let process = find_process(pid)?;
    let is_one = |tid| tid == pid || process.signals.lock().threads.get(tid).is_some();
    Ok(number(name)
        .filter(|&tid| is_one(tid))
        .map(|_| Item::Process(pid)))
}

/// What is called `name` in /proc/PID/fd.
pub fn descriptor(pid: u32, name: &[u8]) -> Result<Option<Item>, Errno> {
    let process = find_process(pid)?;
    let Some(fd) = number(name) else {
        return Ok(None);
    };
    let there = process.files.lock().descriptor(fd.into()).is_ok();
    Ok(there.then_some(Item::Descriptor(pid, fd)))
}

/// The entry of a directory at or after a place, and the place after it.
pub fn next(directory: Item, cookie: u64) -> Result<Option<(u64, Name, Item)>, Errno> {
    let from_list = |list: &[(&str, Item)]| {
        let &(word, item) = list.get(usize::try_from(cookie).ok()?)?;
        Some((cookie + 1, Name::new(word), item))
    };
    Ok(match directory {
        Item::Root => {
            let first = ROOT.len() as u64;
            from_list(&ROOT).or_else(|| {
                let process = table::next((cookie - first) as u32)?;
                let pid = process.pid;
                Some((first + u64::from(pid), Name::new(pid), Item::Process(pid)))
            })
        }
        Item::Process(pid) => {
            find_process(pid)?;
            from_list(&of_process(pid))
        }
        Item::Folder(folder) => from_list(of_folder(folder)),
        Item::Tasks(pid) => {
            let process = find_process(pid)?;
            let after = process.signals.lock().threads.after(cookie as u32);
            let next = after.or_else(|| Some(pid).filter(|_| process.has_ended() && cookie == 0));
            next.map(|tid| (tid.into(), Name::new(tid), Item::Process(pid)))
        }
        Item::Descriptors(pid) => {
            let process = find_process(pid)?;
            let files = process.files.lock();
            let next = files.next(usize::try_from(cookie).map_err(|_| Errno::EINVAL)?);
            next.map(|(fd, _)| {
                let item = Item::Descriptor(pid, fd as u32);
                (fd as u64 + 1, Name::new(fd), item)
            })
        }
        _ => return Err(Errno::ENOTDIR),
    })
}
