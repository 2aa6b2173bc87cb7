//! What processes have used: time and faults.
//!
//! Time is read from the counter where the kernel is entered and left: for page faults and all but
//! the shortest system calls, which are counted as the program's, as interrupts are.

use super::image::USER_HZ;
use super::thread::{Current, try_current};
use super::{Process, clock};
use crate::arch::time;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use memory::{Lock, Rank};

/// What a thread has used. Only the thread itself writes, while it runs; others read.
#[derive(Default)]
pub struct OfThread {
    /// Counter ticks in the program and in the kernel.
    user: AtomicU64,
    system: AtomicU64,
    /// What is not in either yet begins here.
    since: AtomicU64,
    /// Page faults.
    faults: AtomicU64,
    /// Times that it slept, and times that it was preempted.
    slept: AtomicU64,
    preempted: AtomicU64,
}

/// What a process has used.
pub struct OfProcess {
    /// By threads that have ended.
    ended: Lock<Totals>,
    /// By children that were waited for, and theirs.
    children: Lock<Totals>,
    /// The most pages that it had.
    resident: AtomicU64,
}

/// Sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Counter ticks in programs.
    pub user: u64,
    /// Counter ticks in the kernel.
    pub system: u64,
    /// Page faults. None waits for a disk: there is none.
    pub faults: u64,
    /// Pages at the most.
    pub resident: u64,
    /// Times that a thread slept.
    pub slept: u64,
    /// Times that a thread was preempted.
    pub preempted: u64,
}

impl Totals {
    /// Adds another's.
    pub fn add(&mut self, other: &Totals) {
        self.user += other.user;
        self.system += other.system;
        self.faults += other.faults;
        self.resident = self.resident.max(other.resident);
        self.slept += other.slept;
        self.preempted += other.preempted;
    }

    /// Counter ticks on CPUs.
    pub fn time(&self) -> u64 {
        self.user + self.system
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

impl OfThread {
    fn lap(&self) -> u64 {
        let now = time::rough();
        let since = self.since.load(Relaxed);
        self.since.store(now, Relaxed);
        now.saturating_sub(since)
    }

    /// The thread, which runs, has entered the kernel.
    #[inline]
    pub fn enter_kernel(&self) {
        add(&self.user, self.lap());
    }

    /// It is about to leave the kernel, or its CPU.
    #[inline]
    pub fn leave_kernel(&self) {
        add(&self.system, self.lap());
    }

    /// It is on a CPU again.
    #[inline]
    pub fn resume(&self) {
        self.since.store(time::rough(), Relaxed);
    }

    /// It had a page fault.
    #[inline]
    pub fn count_fault(&self) {
        add(&self.faults, 1);
    }

    /// It had a page fault, which began at a reading of the counter and is over: the same as to enter
    /// the kernel then and to leave it now.
    #[inline]
    pub fn count_short_fault(&self, start: u64) {
        let ticks = time::rough().saturating_sub(start);
        add(&self.system, ticks);
        add(&self.since, ticks);
        add(&self.faults, 1);
    }

    /// It leaves its CPU, of its own will or not.
    #[inline]
    pub fn count_switch(&self, preempted: bool) {
        add(
            if preempted {
                &self.preempted
            } else {
                &self.slept
            },
            1,
        );
    }

    /// What it has used until it last entered or left the kernel.
    pub fn totals(&self) -> Totals {
        Totals {
            user: self.user.load(Relaxed),
            system: self.system.load(Relaxed),
            faults: self.faults.load(Relaxed),
            resident: 0,
            slept: self.slept.load(Relaxed),
            preempted: self.preempted.load(Relaxed),
        }
    }
}

impl Default for OfProcess {
    fn default() -> Self {
        OfProcess {
            ended: Lock::new(Rank::Usage, Totals::default()),
            children: Lock::new(Rank::Usage, Totals::default()),
            resident: AtomicU64::new(0),
        }
    }
}

/// Counter ticks in units of USER_HZ.
pub fn user_hz(ticks: u64) -> u64 {
    clock::from_ticks(ticks) / (clock::SECOND / USER_HZ)
}

/// What a process has used until now.
pub fn of_process(process: &Process) -> Totals {
    let mut totals = {
        let state = process.signals.lock();
        let mut totals = *process.usage.ended.lock();
        for thread in state.threads.iter() {
            totals.add(&thread.usage.totals());
        }
        totals
    };
    // Another's address space may change at any time.
    if let Some(own) = try_current().filter(|own| own.process.pid == process.pid) {
        note_resident(process, &own);
    }
    totals.resident = process.usage.resident.load(Relaxed);
    totals
}

/// What its children have used.
pub fn of_children(process: &Process) -> Totals {
    *process.usage.children.lock()
}

/// Remembers how many pages a process has, if it never had as many. To be called before it gives
/// some up.
pub fn note_resident(process: &Process, thread: &Current) {
    if let Some(space) = thread.space() {
        let resident = space.lock().map.resident();
        let pages = u64::from(resident.anon) + u64::from(resident.file);
        process.usage.resident.fetch_max(pages, Relaxed);
    }
}

/// A thread ends: it is counted with those that have ended. The lock of the process's signals, which
/// those take who add them all up, is held.
pub fn end(process: &Process, thread: &Current) {
    thread.usage.leave_kernel();
    process.usage.ended.lock().add(&thread.usage.totals());
}

/// A child has been waited for.
pub fn inherit(parent: &Process, child: &Process) {
    let own = of_process(child);
    let theirs = of_children(child);
    let mut children = parent.usage.children.lock();
    children.add(&own);
    children.add(&theirs);
}
