//! The process table: every process that has not been collected, by pid, and who is whose child.
//!

use super::{INIT, Process};
use crate::syscall::errno::Errno;
use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use memory::{Lock, Rank};

/// Pids are below this.
const PID_MAX: u32 = 1 << 22;
/// Entries per block.
const BLOCK: usize = 512;
/// Pids are not reused before this many others were.
const FIRST: u32 = INIT;

/// A process and its family. The links are pids, 0 for none; a child that has ended comes before
/// all that have not.
struct Entry {
    process: Arc<Process>,
    first_child: u32,
    older: u32,
    younger: u32,
    ended: bool,
}

/// The entries of [`BLOCK`] pids in a row.
#[derive(Default)]
struct Block {
    /// Empty while none of the pids is in use.
    entries: Vec<Option<Entry>>,
    used: usize,
}

struct Table {
    blocks: Vec<Block>,
    /// Where the search for a free pid goes on.
    next: u32,
}

static TABLE: Lock<Table> = Lock::new(
    Rank::Processes,
    Table {
        blocks: Vec::new(),
        next: FIRST,
    },
);

/// Entries in use. Changed under the table's lock, but read without: the trace wants it.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What wait found.
pub enum Found {
    /// A child that has ended.
    Ended(Arc<Process>),
    /// Only children that run.
    Running,
    /// No such child.
    None,
}

/// Which children wait asks for.
#[derive(Clone, Copy)]
pub enum Select {
    /// Any.
    Any,
    /// One.
    Pid(u32),
    /// Those of a process group.
    Group(u32),
}

impl Table {
    fn slot(&mut self, pid: u32) -> Option<&mut Option<Entry>> {
        let block = self.blocks.get_mut(pid as usize / BLOCK)?;
        block.entries.get_mut(pid as usize % BLOCK)
    }

    fn entry(&mut self, pid: u32) -> Option<&mut Entry> {
        self.slot(pid)?.as_mut()
    }

    /// Puts `pid` first among the children of `parent`.
    fn link(&mut self, pid: u32, parent: u32) {
        let Some(entry) = self.entry(parent) else {
            return;
        };
        let first = core::mem::replace(&mut entry.first_child, pid);
        if let Some(entry) = self.entry(first) {
            entry.younger = pid;
        }
        if let Some(entry) = self.entry(pid) {
            (entry.older, entry.younger) = (first, 0);
        }
    }

    /// Takes `pid` out of the children of `parent`.
    fn unlink(&mut self, pid: u32, parent: u32) {
        let Some(entry) = self.entry(pid) else { return };
        let (older, younger) = (entry.older, entry.younger);
        if let Some(entry) = self.entry(older) {
            entry.younger = younger;
        }
        if let Some(entry) = self.entry(younger) {
            entry.older = older;
        } else if let Some(entry) = self.entry(parent) {
            entry.first_child = older;
        }
    }

    /// The first child of `parent` that is none of the ended ones, and the last of those.
    fn end_of_ended(&mut self, parent: u32) -> u32 {
        let mut last = 0;
        let mut at = self.entry(parent).map_or(0, |entry| entry.first_child);
        while let Some(entry) = self.entry(at)
            && entry.ended
        {
            last = at;
            at = entry.older;
        }
        last
    }

    /// Puts `pid`, which runs, behind the children of `parent` that have ended.
    fn link_running(&mut self, pid: u32, parent: u32) {
        let last = self.end_of_ended(parent);
        if last == 0 {
            return self.link(pid, parent);
        }
        let older = self
            .entry(last)
            .map_or(0, |entry| core::mem::replace(&mut entry.older, pid));
        if let Some(entry) = self.entry(older) {
            entry.younger = pid;
        }
        if let Some(entry) = self.entry(pid) {
            (entry.older, entry.younger) = (older, last);
        }
    }

    fn remove(&mut self, pid: u32) -> Option<Arc<Process>> {
        let parent = self.entry(pid)?.process.parent.load(Ordering::Relaxed);
        self.unlink(pid, parent);
        let entry = self.slot(pid)?.take()?;
        COUNT.fetch_sub(1, Ordering::Relaxed);
        self.unuse(pid);
        Some(entry.process)
    }

    /// One pid of a block is free again. A block without any gives its memory back, unless the next
    /// pids come from it.
    fn unuse(&mut self, pid: u32) {
        let index = pid as usize / BLOCK;
        let next = self.next as usize / BLOCK;
        if let Some(block) = self.blocks.get_mut(index) {
            block.used -= 1;
            if block.used == 0 && index != next {
                block.entries = Vec::new();
            }
        }
    }
}

/// A free pid, with memory for its entry: until it is dropped, or used up by [`insert`].
pub struct Pid(u32);

impl Pid {
    /// The number.
    pub fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for Pid {
    fn drop(&mut self) {
        TABLE.lock().unuse(self.0);
    }
}

/// Chooses a free pid.
pub fn allocate() -> Result<Pid, Errno> {
    let mut table = TABLE.lock();
    for _ in FIRST..PID_MAX {
        let pid = table.next;
        table.next = if pid + 1 < PID_MAX { pid + 1 } else { FIRST };
        let index = pid as usize / BLOCK;
        while index >= table.blocks.len() {
            table.blocks.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
            table.blocks.push(Block::default());
        }
        let block = &mut table.blocks[index];
        if block.entries.is_empty() {
            let entries = &mut block.entries;
            entries
                .try_reserve_exact(BLOCK)
                .map_err(|_| Errno::EAGAIN)?;
            entries.resize_with(BLOCK, || None);
        }
        if block.entries[pid as usize % BLOCK].is_none() {
            block.used += 1;
            return Ok(Pid(pid));
        }
    }
    Err(Errno::EAGAIN)
}

/// Enters a process with the pid it was made with, as a child of `parent`.
pub fn insert(pid: Pid, process: Arc<Process>, parent: u32) {
    let mut table = TABLE.lock();
    let number = pid.number();
    // The process holds on to the number from here.
    core::mem::forget(pid);
    let pid = number;
    if let Some(slot) = table.slot(pid) {
        *slot = Some(Entry {
            process,
            first_child: 0,
            older: 0,
            younger: 0,
            ended: false,
        });
        COUNT.fetch_add(1, Ordering::Relaxed);
        table.link_running(pid, parent);
    }
}

/// The process `pid`.
pub fn get(pid: u32) -> Option<Arc<Process>> {
    TABLE.lock().entry(pid).map(|entry| entry.process.clone())
}

/// The process with the lowest pid above `after`.
pub fn next(after: u32) -> Option<Arc<Process>> {
    let mut table = TABLE.lock();
    let mut pid = after + 1;
    while let Some(block) = table.blocks.get(pid as usize / BLOCK) {
        if block.used == 0 {
            pid = (pid as usize / BLOCK * BLOCK + BLOCK) as u32;
        } else if let Some(entry) = table.entry(pid) {
            return Some(entry.process.clone());
        } else {
            pid += 1;
        }
    }
    None
}

/// How many processes there are, uncollected ones included.
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

/// Notes that `pid` has ended: its children become `/init`'s. Returns its parent, if it has one,
/// and whether `/init` got a child that has ended already.
pub fn end(pid: u32) -> (Option<Arc<Process>>, bool) {
    let mut table = TABLE.lock();
    let mut inherited = false;
    while let Some(child) = table.entry(pid).map(|entry| entry.first_child)
        && child != 0
    {
        table.unlink(child, pid);
        let mut ended = false;
        if let Some(entry) = table.entry(child) {
            entry.process.parent.store(INIT, Ordering::Relaxed);
            ended = entry.ended;
        }
        if ended {
            inherited = true;
            table.link(child, INIT);
        } else {
            table.link_running(child, INIT);
        }
    }
    let mut parent = 0;
    if let Some(entry) = table.entry(pid) {
        entry.ended = true;
        parent = entry.process.parent.load(Ordering::Relaxed);
    }
    table.unlink(pid, parent);
    table.link(pid, parent);
    (
        table.entry(parent).map(|entry| entry.process.clone()),
        inherited,
    )
}

/// Looks for a child of `parent` that has ended.
pub fn find_ended(parent: u32, select: Select) -> Found {
    let mut table = TABLE.lock();
    if let Select::Pid(pid) = select {
        return match table.entry(pid) {
            Some(entry) if entry.process.parent.load(Ordering::Relaxed) != parent => Found::None,
            Some(entry) if entry.ended => Found::Ended(entry.process.clone()),
            Some(_) => Found::Running,
            None => Found::None,
        };
    }
    let mut found = Found::None;
    let mut at = table.entry(parent).map_or(0, |entry| entry.first_child);
    while let Some(entry) = table.entry(at) {
        let process = &entry.process;
        if let Select::Group(group) = select
            && process.group.load(Ordering::Relaxed) != group
        {
            at = entry.older;
            continue;
        }
        if entry.ended {
            return Found::Ended(process.clone());
        }
        found = Found::Running;
        if matches!(select, Select::Any) {
            break;
        }
        at = entry.older;
    }
    found
}

/// Removes an ended process. False: somebody else was faster.
pub fn remove(pid: u32) -> bool {
    // What the process still holds is dropped after the table is unlocked.
    let removed = TABLE.lock().remove(pid);
    removed.is_some()
}
