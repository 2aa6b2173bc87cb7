//! The threads of a process: who there is, and how they end together.
//!
//! The list is behind the lock of the process's signals: whoever sends one chooses among them. A
//! thread is on it from before it runs until nothing of it is left but its stack.

use super::signal;
use super::thread::{Current, Thread};
use super::{Process, exec, scheduler, table, usage};
use crate::arch::heap;
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use wire::event::Event;

/// Who has to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Nobody.
    #[default]
    Nobody,
    /// All but the thread with this number, which runs another program.
    Others(u32),
    /// All, and this is the wait status of the process.
    All(u32),
}

/// The threads of a process.
#[derive(Default)]
pub struct Threads {
    /// The one that the process began with, or has after exec; none once that has ended.
    first: Option<Arc<Thread>>,
    /// The others, which most processes never have.
    #[allow(
        clippy::box_collection,
        reason = "a process without others has 8 bytes for them, not 24"
    )]
    others: Option<Box<Vec<Other>>>,
    /// Who has to end.
    pub end: End,
}

/// A thread that is not the first of its process.
struct Other {
    thread: Arc<Thread>,
    /// What `ps` shows. The first thread's name is the process's.
    name: [u8; 16],
}

impl Threads {
    /// With the first one.
    pub fn begin(&mut self, thread: Arc<Thread>) {
        self.first = Some(thread);
    }

    fn others(&self) -> &[Other] {
        self.others.as_deref().map_or(&[], Vec::as_slice)
    }

    /// All, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Thread>> {
        let others = self.others().iter().map(|other| &other.thread);
        self.first.iter().chain(others)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.others().len()
    }

    /// Whether there is none: the process has ended.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.others().is_empty()
    }

    /// Whether there are others than the first.
    #[inline]
    pub fn are_many(&self) -> bool {
        !self.others().is_empty()
    }

    /// The first, or another if that has ended.
    #[inline]
    pub fn any(&self) -> Option<&Arc<Thread>> {
        match &self.first {
            Some(first) => Some(first),
            None => self.iter().next(),
        }
    }

    /// The one with a number.
    pub fn get(&self, tid: u32) -> Option<&Arc<Thread>> {
        self.iter().find(|thread| thread.tid() == tid)
    }

    /// The lowest number of a thread above `last`.
    pub fn after(&self, last: u32) -> Option<u32> {
        let numbers = self.iter().map(|thread| thread.tid());
        numbers.filter(|&tid| tid > last).min()
    }

    /// The name of a thread that is not the first.
    pub fn name(&self, tid: u32) -> Option<[u8; 16]> {
        let mut others = self.others().iter();
        others
            .find(|other| other.thread.tid() == tid)
            .map(|other| other.name)
    }

    /// Sets it; whether there is such a thread.
    pub fn set_name(&mut self, tid: u32, name: [u8; 16]) -> bool {
        let mut others = self.others.iter_mut().flat_map(|others| others.iter_mut());
        let found = others.find(|other| other.thread.tid() == tid);
        found.map(|other| other.name = name).is_some()
    }

    /// One more. EINTR: its maker has to end.
    fn add(&mut self, thread: Arc<Thread>, name: [u8; 16]) -> Result<(), Errno> {
        if self.end != End::Nobody {
            return Err(Errno::EINTR);
        }
        if self.others.is_none() {
            self.others = Some(heap::try_box(Vec::new()).ok_or(Errno::ENOMEM)?);
        }
        let others = self.others.as_mut().ok_or(Errno::ENOMEM)?;
        others.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        others.push(Other { thread, name });
        Ok(())
    }

    /// Takes one out.
    fn remove(&mut self, thread: &Thread) -> Option<Arc<Thread>> {
        let is_it = |other: &Arc<Thread>| ptr::eq(&**other, thread);
        if self.first.as_ref().is_some_and(is_it) {
            return self.first.take();
        }
        let others = self.others.as_mut()?;
        let at = others.iter().position(|other| is_it(&other.thread))?;
        let removed = others.swap_remove(at).thread;
        if others.is_empty() {
            self.others = None;
        }
        Some(removed)
    }

    /// Who is to act on a signal to the process: one that does not block it and has nothing to do
    /// yet, if there is one; else whoever does not block it, or anybody.
    pub fn choose(&self, signals: u64) -> Option<&Arc<Thread>> {
        if !self.are_many() {
            return self.first.as_ref();
        }
        let wants = |thread: &&Arc<Thread>| {
            !thread.ending.load(Relaxed) && thread.signals.wanted() & signals != 0
        };
        let idle = |thread: &&Arc<Thread>| wants(thread) && !thread.signals.attention();
        self.iter()
            .find(idle)
            .or_else(|| self.iter().find(wants))
            .or_else(|| self.any())
    }

    /// Signals that wait for the process, and that `thread` will not act upon, become the business
    /// of others.
    pub fn retarget(&self, thread: &Thread, signals: u64) {
        let others = self.iter().filter(|other| !ptr::eq(&***other, thread));
        for other in others.filter(|other| !other.ending.load(Relaxed)) {
            if other.signals.wanted() & signals != 0 {
                signal::notify(other);
            }
        }
    }

    /// Makes all but `thread` end as soon as they look at their signals, which they do at once.
    fn sentence_others(&self, thread: &Thread) {
        for other in self.iter().filter(|other| !ptr::eq(&***other, thread)) {
            signal::sentence(other);
        }
    }

    /// Whether all that are left are stopped.
    pub fn all_stopped(&self) -> bool {
        self.iter()
            .all(|thread| thread.stopped.load(Relaxed) || thread.ending.load(Relaxed))
    }
}

/// Enters a new thread, which does not run yet, into its process: named as its maker, which is current.
pub fn enter(maker: &Current, thread: &Arc<Thread>) -> Result<(), Errno> {
    let process = &maker.process;
    let first = process.state.lock().name;
    let mut state = process.signals.lock();
    let name = state.threads.name(maker.tid()).unwrap_or(first);
    state.threads.add(thread.clone(), name)
}

/// The whole process is to end with this status, or with another if somebody was faster.
pub fn end_all(thread: &Current, status: u32) -> u32 {
    let mut state = thread.process.signals.lock();
    match state.threads.end {
        End::All(status) => status,
        // Only this thread: the one that runs another program is the process from then on.
        End::Others(_) => status,
        End::Nobody => {
            state.threads.end = End::All(status);
            state.threads.sentence_others(thread);
            status
        }
    }
}

/// The current thread begins to end. With the last one the process does: its wait status.
pub fn begin_end(thread: &Current, status: u32) -> Option<u32> {
    let process = &thread.process;
    let mut state = process.signals.lock();
    thread.ending.store(true, Relaxed);
    if state.threads.are_many() {
        let left = |thread: &Arc<Thread>| !thread.ending.load(Relaxed);
        if state.threads.iter().any(left) {
            state.threads.retarget(thread, signal::pending(thread));
            return None;
        }
    }
    let status = match state.threads.end {
        End::All(status) => status,
        End::Nobody | End::Others(_) => status,
    };
    state.threads.end = End::All(status);
    Some(status)
}

/// The current thread has nothing left. If it was the last, its process has ended: the wait status.
pub fn finish_end(thread: &Current) -> Option<u32> {
    let process = &thread.process;
    let (removed, ended, stopped) = {
        let mut state = process.signals.lock();
        usage::end(process, thread);
        let removed = state.threads.remove(thread);
        let ended = match state.threads.end {
            End::All(status) if state.threads.is_empty() => Some(status),
            End::Others(tid) => {
                if let Some(waiter) = state.threads.get(tid) {
                    scheduler::wake(waiter);
                }
                None
            }
            _ => None,
        };
        let stopped = ended.is_none().then(|| state.stop_is_complete()).flatten();
        (removed, ended, stopped)
    };
    drop(removed);
    if let Some(signal) = stopped {
        super::group::report_stopped(process, signal);
    }
    if thread.tid() != process.pid {
        table::remove_thread(thread.tid());
    }
    ended
}

/// Ends all threads but the current one, which takes the number of its process: for exec. EAGAIN:
/// it has to end itself.
pub fn end_others(thread: &Current) -> Result<(), Errno> {
    let process = &thread.process;
    {
        let mut state = process.signals.lock();
        if state.threads.end != End::Nobody {
            return Err(Errno::EAGAIN);
        }
        if !state.threads.are_many() && thread.tid() == process.pid {
            return Ok(());
        }
        state.threads.end = End::Others(thread.tid());
        state.threads.sentence_others(thread);
    }
    loop {
        let mut state = process.signals.lock();
        if state.threads.count() == 1 {
            state.threads.end = End::Nobody;
            break;
        }
        scheduler::prepare_to_block();
        if signal::is_killed(thread) {
            thread.set_state(super::thread::State::Running);
            // All are to end now, and this one will say so.
            state.threads.end = End::Nobody;
            return Err(Errno::EAGAIN);
        }
        drop(state);
        scheduler::block_for_good();
    }
    let tid = thread.tid();
    if tid != process.pid {
        let mut state = process.signals.lock();
        let only = state.threads.remove(thread);
        state.threads.first = only;
        thread.become_first();
        drop(state);
        table::remove_thread(tid);
        trace::renumber(process.pid);
        trace::emit(Event::ThreadExit {
            pid: process.pid,
            tid,
        });
    }
    Ok(())
}

/// The name of a thread of a process, padded with NUL.
pub fn name(process: &Process, tid: u32) -> [u8; 16] {
    let other = process.signals.lock().threads.name(tid);
    other.unwrap_or_else(|| process.state.lock().name)
}

/// Gives the current thread another name.
pub fn set_name(thread: &Current, name: &[u8]) {
    let process = &thread.process;
    let name = exec::short_name(name);
    let other = process.signals.lock().threads.set_name(thread.tid(), name);
    if other {
        announce(process, thread.tid());
    } else {
        process.state.lock().name = name;
        process.announce();
    }
}

/// Tells the trace of a thread that is not the first of its process.
pub fn announce(process: &Process, tid: u32) {
    // Under the lock: nobody tells what is true no more after what is.
    let state = process.signals.lock();
    if let Some(name) = state.threads.name(tid) {
        let pid = process.pid;
        trace::meta(trace::meta::Meta::Thread { pid, tid, name });
    }
}
