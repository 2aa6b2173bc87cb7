//! Locks that programs put on files: flock(2), and fcntl(2)'s record locks, of a process or of an
//! open file description. All are advisory.

use crate::process::scheduler::WaitQueue;
use crate::process::thread;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use memory::{Lock, Rank};

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process's (F_SETLK): gone when it closes any descriptor of the file.
    Process(u32),
    /// An open file description's (F_OFD_SETLK): the address of it.
    Description(usize),
    /// The same, of flock: it does not meet the others.
    Flock(usize),
}

impl Owner {
    fn meets(self, other: Owner) -> bool {
        matches!(self, Owner::Flock(_)) == matches!(other, Owner::Flock(_))
    }
}

/// A lock of part of a file.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Whose.
    pub owner: Owner,
    /// Nobody else may have one.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// One past the last byte; `u64::MAX`: to the end, wherever that is.
    pub end: u64,
}

impl Record {
    fn conflicts(&self, other: &Record) -> bool {
        self.owner != other.owner
            && self.owner.meets(other.owner)
            && (self.exclusive || other.exclusive)
            && self.start < other.end
            && other.start < self.end
    }
}

struct State {
    records: Vec<Record>,
    waiting: WaitQueue,
}

/// The locks of a file.
pub struct Locks {
    /// There may be some: most files never have any.
    any: AtomicBool,
    state: Lock<State>,
}

impl Locks {
    /// None.
    pub const fn new() -> Locks {
        Locks {
            any: AtomicBool::new(false),
            state: Lock::new(
                Rank::Waiting,
                State {
                    records: Vec::new(),
                    waiting: WaitQueue::new(),
                },
            ),
        }
    }

    /// The first lock that keeps `wanted` from being made.
    pub fn conflict(&self, wanted: &Record) -> Option<Record> {
        let state = self.state.lock();
        state
            .records
            .iter()
            .filter(|record| record.conflicts(wanted))
            .min_by_key(|record| record.start)
            .copied()
    }

    /// Makes a lock, in place of what the owner has of the range; sleeps until that is possible if
    /// `wait`, else EAGAIN.
    pub fn set(&self, wanted: Record, wait: bool) -> Result<(), Errno> {
        self.any.store(true, Ordering::Release);
        let mut state = self.state.lock();
        // A lock of flock's is given up before it is changed.
        if matches!(wanted.owner, Owner::Flock(_)) {
            state.remove(wanted.owner, 0, u64::MAX)?;
        }
        loop {
            if !state.records.iter().any(|record| record.conflicts(&wanted)) {
                state.remove(wanted.owner, wanted.start, wanted.end)?;
                state.records.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
                state.insert(wanted);
                state.waiting.wake_all();
                return Ok(());
            }
            if !wait {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.state, state, |state| &mut state.waiting);
            if thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
    }

    /// Gives up what the owner has of a range.
    pub fn clear(&self, owner: Owner, start: u64, end: u64) -> Result<(), Errno> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state.lock();
        state.remove(owner, start, end)?;
        state.waiting.wake_all();
        Ok(())
    }

    /// Gives up all that the owner has.
    pub fn clear_all(&self, owner: Owner) {
        // Removing whole records takes no memory.
        let _ = self.clear(owner, 0, u64::MAX);
    }
}

impl State {
    fn remove(&mut self, owner: Owner, start: u64, end: u64) -> Result<(), Errno> {
        let inside =
            |record: &Record| record.owner == owner && record.start < end && start < record.end;
        // At most one record sticks out on both sides, and then there are two.
        let splits = |record: &&Record| inside(record) && record.start < start && end < record.end;
        if let Some(&whole) = self.records.iter().find(splits) {
            self.records.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
            self.records.push(Record {
                start: end,
                ..whole
            });
        }
        for record in &mut self.records {
            if inside(record) {
                if record.start < start {
                    record.end = start;
                } else if end < record.end {
                    record.start = end;
                } else {
                    record.end = record.start;
                }
            }
        }
        self.records.retain(|record| record.start < record.end);
        Ok(())
    }

    /// Adds a record, and joins it with its like.
    fn insert(&mut self, mut new: Record) {
        self.records.retain(|record| {
            let joins = record.owner == new.owner
                && record.exclusive == new.exclusive
                && record.start <= new.end
                && new.start <= record.end;
            if joins {
                new.start = new.start.min(record.start);
                new.end = new.end.max(record.end);
            }
            !joins
        });
        self.records.push(new);
    }
}
