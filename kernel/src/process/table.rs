//! The process table: every process that has not been collected, by pid, and who is whose child;
//! and every thread that is not the first of its process, by its number, which is one of the same kind.

use super::{INIT, Process, thread::Thread};
use crate::arch::heap;
use crate::syscall::errno::Errno;
use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::SIGCHLD;
use memory::{Lock, Rank};

/// Pids are below this on a large machine, and below the other one on a small one.
const PIDS_MOST: u64 = 1 << 22;
const PIDS_LEAST: u64 = 1 << 15;
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

/// What a number is of.
#[derive(Default)]
enum Slot {
    #[default]
    Free,
    Process(Entry),
    /// A thread that is not the first of its process.
    Thread(Arc<Thread>),
}

const _: () = assert!(size_of::<Slot>() == size_of::<Entry>());

/// The entries of [`BLOCK`] pids in a row.
#[derive(Default)]
struct Block {
    /// Empty while none of the pids is in use.
    entries: Vec<Slot>,
    used: usize,
}

struct Table {
    blocks: Vec<Block>,
    /// Pids are below this.
    limit: u32,
    /// Where the search for a free pid goes on.
    next: u32,
}

static TABLE: Lock<Table> = Lock::new(
    Rank::Processes,
    Table {
        blocks: Vec::new(),
        limit: PIDS_LEAST as u32,
        next: FIRST,
    },
);

/// Entries in use. Changed under the table's lock, but read without: the trace wants it.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What wait found.
pub enum Found<T> {
    /// A child with something to tell.
    Child(T),
    /// Only children that have nothing to tell yet.
    Running,
    /// No such child.
    None,
}

/// What wait thinks of a child.
pub enum Verdict<T> {
    /// It is the one.
    This(T),
    /// It may be, but has nothing to tell yet.
    NotYet,
    /// It is not asked for.
    Other,
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
    fn slot(&mut self, pid: u32) -> Option<&mut Slot> {
        let block = self.blocks.get_mut(pid as usize / BLOCK)?;
        block.entries.get_mut(pid as usize % BLOCK)
    }

    fn entry(&mut self, pid: u32) -> Option<&mut Entry> {
        match self.slot(pid)? {
            Slot::Process(entry) => Some(entry),
            Slot::Free | Slot::Thread(_) => None,
        }
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

    /// Who gets the children of `pid` when it ends.
    fn reaper(&mut self, pid: u32) -> u32 {
        let mut at = pid;
        loop {
            let parent = self
                .entry(at)
                .map_or(0, |entry| entry.process.parent.load(Ordering::Relaxed));
            match self.entry(parent) {
                None => return INIT,
                Some(entry) if entry.process.subreaper.load(Ordering::Relaxed) && !entry.ended => {
                    return parent;
                }
                Some(_) => at = parent,
            }
        }
    }

    fn remove(&mut self, pid: u32) -> Option<Arc<Process>> {
        let parent = self.entry(pid)?.process.parent.load(Ordering::Relaxed);
        self.unlink(pid, parent);
        let slot = core::mem::take(self.slot(pid)?);
        COUNT.fetch_sub(1, Ordering::Relaxed);
        self.unuse(pid);
        match slot {
            Slot::Process(entry) => Some(entry.process),
            Slot::Free | Slot::Thread(_) => None,
        }
    }

    /// One pid of a block is free again. A block without any gives its memory back, unless the next
    /// pids come from it: and even then if it was made while the heap was very large, or that would
    /// stay so.
    fn unuse(&mut self, pid: u32) {
        let index = pid as usize / BLOCK;
        let next = self.next as usize / BLOCK;
        if let Some(block) = self.blocks.get_mut(index) {
            block.used -= 1;
            let kept = index == next && !heap::is_far(block.entries.as_ptr());
            if block.used == 0 && !kept {
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

/// Settles how many pids a machine of so many frames has: one for each, which is more than it has
/// room for. The list of blocks never grows again: it stays for ever wherever it is in the heap.
pub fn init(frames: u64) {
    let mut table = TABLE.lock();
    table.limit = frames.clamp(PIDS_LEAST, PIDS_MOST) as u32;
    let blocks = (table.limit as usize).div_ceil(BLOCK);
    table.blocks.resize_with(blocks, Block::default);
}

/// Pids are below this.
pub fn limit() -> u32 {
    TABLE.lock().limit
}

/// Chooses a free pid.
pub fn allocate() -> Result<Pid, Errno> {
    let mut table = TABLE.lock();
    for _ in FIRST..table.limit {
        let pid = table.next;
        table.next = if pid + 1 < table.limit {
            pid + 1
        } else {
            FIRST
        };
        let block = &mut table.blocks[pid as usize / BLOCK];
        if block.entries.is_empty() {
            let entries = &mut block.entries;
            entries
                .try_reserve_exact(BLOCK)
                .map_err(|_| Errno::EAGAIN)?;
            entries.resize_with(BLOCK, Slot::default);
        }
        if matches!(block.entries[pid as usize % BLOCK], Slot::Free) {
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
        *slot = Slot::Process(Entry {
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

/// Enters a thread that is not the first of its process, with the number it was made with.
pub fn insert_thread(tid: Pid, thread: Arc<Thread>) {
    let mut table = TABLE.lock();
    let number = tid.number();
    // The thread holds on to the number from here.
    core::mem::forget(tid);
    if let Some(slot) = table.slot(number) {
        *slot = Slot::Thread(thread);
    }
}

/// Removes such a thread.
pub fn remove_thread(tid: u32) {
    let removed = {
        let mut table = TABLE.lock();
        let removed = match table.slot(tid) {
            Some(slot @ Slot::Thread(_)) => core::mem::take(slot),
            _ => return,
        };
        table.unuse(tid);
        removed
    };
    // Without the table's lock.
    drop(removed);
}

/// The process `pid`.
pub fn get(pid: u32) -> Option<Arc<Process>> {
    TABLE.lock().entry(pid).map(|entry| entry.process.clone())
}

/// The process `pid`, or that of the thread with this number.
pub fn get_any(number: u32) -> Option<Arc<Process>> {
    match TABLE.lock().slot(number)? {
        Slot::Free => None,
        Slot::Process(entry) => Some(entry.process.clone()),
        Slot::Thread(thread) => Some(thread.process.clone()),
    }
}

/// The thread `tid`, if it has not ended.
pub fn thread(tid: u32) -> Option<Arc<Thread>> {
    let process = match TABLE.lock().slot(tid)? {
        Slot::Free => return None,
        Slot::Thread(thread) => return Some(thread.clone()),
        Slot::Process(entry) => entry.process.clone(),
    };
    process.signals.lock().threads.get(tid).cloned()
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

/// Who has to know that a process has ended.
pub struct Bereaved {
    /// Its parent, if it has one.
    pub parent: Option<Arc<Process>>,
    /// Who got a child of its that had ended already.
    pub heir: Option<Arc<Process>>,
    /// Its children that run.
    pub children: Vec<Arc<Process>>,
}

/// Notes that `pid` has ended: its children become those of the nearest ancestor that takes them,
/// `/init` if nobody else does.
pub fn end(pid: u32) -> Bereaved {
    let mut table = TABLE.lock();
    let reaper = table.reaper(pid);
    let mut inherited = false;
    let mut children = Vec::new();
    while let Some(child) = table.entry(pid).map(|entry| entry.first_child)
        && child != 0
    {
        table.unlink(child, pid);
        let mut ended = false;
        if let Some(entry) = table.entry(child) {
            entry.process.parent.store(reaper, Ordering::Relaxed);
            entry.process.end_signal.store(SIGCHLD, Ordering::Relaxed);
            ended = entry.ended;
            // Without memory, one is not told.
            if !ended && children.try_reserve(1).is_ok() {
                children.push(entry.process.clone());
            }
        }
        if ended {
            inherited = true;
            table.link(child, reaper);
        } else {
            table.link_running(child, reaper);
        }
    }
    let mut parent = 0;
    if let Some(entry) = table.entry(pid) {
        entry.ended = true;
        parent = entry.process.parent.load(Ordering::Relaxed);
    }
    table.unlink(pid, parent);
    table.link(pid, parent);
    let mut process = |pid| table.entry(pid).map(|entry| entry.process.clone());
    Bereaved {
        parent: process(parent),
        heir: if inherited { process(reaper) } else { None },
        children,
    }
}

/// Looks for a child of `parent`. `look` judges one, and is told whether it has ended; those that
/// have not are only seen if `running`.
pub fn find_child<T>(
    parent: u32,
    select: Select,
    running: bool,
    mut look: impl FnMut(&Arc<Process>, bool) -> Verdict<T>,
) -> Found<T> {
    let mut table = TABLE.lock();
    let mut found = Found::None;
    let mut at = match select {
        Select::Pid(pid) => pid,
        _ => table.entry(parent).map_or(0, |entry| entry.first_child),
    };
    while let Some(entry) = table.entry(at) {
        let process = &entry.process;
        let (wanted, next) = match select {
            Select::Any => (true, entry.older),
            Select::Group(group) => (process.group.load(Ordering::Relaxed) == group, entry.older),
            Select::Pid(_) => (process.parent.load(Ordering::Relaxed) == parent, 0),
        };
        at = next;
        if !wanted {
            continue;
        }
        match look(process, entry.ended) {
            Verdict::This(child) => return Found::Child(child),
            Verdict::NotYet => found = Found::Running,
            Verdict::Other => continue,
        }
        // All that have ended come first.
        if matches!(select, Select::Any) && !entry.ended && !running {
            break;
        }
    }
    found
}

/// Removes an ended process. False: somebody else was faster.
pub fn remove(pid: u32) -> bool {
    // What the process still holds is dropped after the table is unlocked.
    let removed = TABLE.lock().remove(pid);
    removed.is_some()
}
