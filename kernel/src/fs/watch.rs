//! Readiness: who wants to know when a file can be read or written.
//!
//! A file's object has [`Watchers`], and tells them what it has become ready for. A watcher is a
//! thread in poll, which has as many links as it polls files, or an entry of an epoll, which stays.

use crate::arch::heap;
use crate::process::{scheduler::WaitQueue, thread, timer};
use crate::syscall::errno::Errno;
use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};
use linux_raw_sys::general::{POLLERR, POLLHUP, POLLNVAL};
use memory::{Lock, Rank};

/// Events as poll(2) numbers them: POLLIN and so on.
pub type Events = u32;

/// What is told whether or not it was asked for.
pub const ALWAYS: Events = POLLERR | POLLHUP | POLLNVAL;

/// Somebody who wants to know.
pub trait Watcher: Send + Sync {
    /// The file may be ready for some of `events` now. Locks may be held: this only takes note.
    fn notify(&self, events: Events);
}

struct List {
    watchers: Vec<(u64, Arc<dyn Watcher>)>,
    next: u64,
}

/// Those who watch an object.
pub struct Watchers {
    /// How many there are: most objects have none.
    count: AtomicUsize,
    list: Lock<List>,
}

/// A place in a list of watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Watchers {
    /// Nobody.
    pub const fn new() -> Watchers {
        Watchers {
            count: AtomicUsize::new(0),
            list: Lock::new(
                Rank::Watchers,
                List {
                    watchers: Vec::new(),
                    next: 1,
                },
            ),
        }
    }

    /// Enters a watcher.
    pub fn add(&self, watcher: Arc<dyn Watcher>) -> Result<Ticket, Errno> {
        let mut list = self.list.lock();
        list.watchers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let ticket = list.next;
        list.next += 1;
        list.watchers.push((ticket, watcher));
        self.count.store(list.watchers.len(), Ordering::SeqCst);
        Ok(Ticket(ticket))
    }

    /// Takes it out.
    pub fn remove(&self, ticket: Ticket) {
        let mut list = self.list.lock();
        if let Ok(index) = list
            .watchers
            .binary_search_by_key(&ticket.0, |&(number, _)| number)
        {
            list.watchers.remove(index);
        }
        self.count.store(list.watchers.len(), Ordering::SeqCst);
    }

    /// Tells all. Whoever enters later looks at the object itself.
    #[inline]
    pub fn notify(&self, events: Events) {
        if self.count.load(Ordering::SeqCst) != 0 {
            self.tell(events);
        }
    }

    #[inline(never)]
    fn tell(&self, events: Events) {
        let mut last = 0;
        // One by one without the lock: an epoll tells its own watchers.
        while let Some((number, watcher)) = self.after(last) {
            last = number;
            watcher.notify(events);
        }
    }

    fn after(&self, last: u64) -> Option<(u64, Arc<dyn Watcher>)> {
        let list = self.list.lock();
        let index = list.watchers.partition_point(|&(number, _)| number <= last);
        list.watchers.get(index).cloned()
    }
}

struct State {
    notified: bool,
    queue: WaitQueue,
}

/// A thread that waits for one of several objects.
pub struct Poller(Lock<State>);

impl Watcher for Poller {
    fn notify(&self, _: Events) {
        let mut state = self.0.lock();
        state.notified = true;
        state.queue.wake_all();
    }
}

impl Poller {
    /// For the current thread.
    pub fn new() -> Result<Arc<Poller>, Errno> {
        heap::try_arc(Poller(Lock::new(
            Rank::Ready,
            State {
                notified: false,
                queue: WaitQueue::new(),
            },
        )))
        .ok_or(Errno::ENOMEM)
    }

    /// Sleeps until an object has told it something since the last time; false at the deadline
    /// (counter value), EINTR for a signal.
    pub fn wait(self: &Arc<Poller>, deadline: Option<u64>) -> Result<bool, Errno> {
        let alarm = |deadline| timer::Alarm::new(deadline, self.clone());
        let _alarm = deadline.map(alarm).transpose()?;
        let mut state = self.0.lock();
        loop {
            if core::mem::take(&mut state.notified) {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| crate::arch::time::now() >= deadline) {
                return Ok(false);
            }
            if thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
            state = WaitQueue::wait(&self.0, state, |state| &mut state.queue);
        }
    }
}
