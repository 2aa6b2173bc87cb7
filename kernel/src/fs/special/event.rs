//! eventfd(2): a counter that can be waited for.

use super::Special;
use crate::fs::buffer::Buffer;
use crate::fs::watch::{Events, Watchers};
use crate::process::scheduler::WaitQueue;
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use linux_raw_sys::general::{POLLERR, POLLIN, POLLOUT};
use memory::{Lock, Rank};

/// The largest value; a write that would go beyond it waits.
const MAX: u64 = u64::MAX - 1;

struct State {
    count: u64,
    waiting: WaitQueue,
}

/// An eventfd.
pub struct Event {
    state: Lock<State>,
    /// A read takes 1 (EFD_SEMAPHORE).
    semaphore: bool,
    watchers: Watchers,
}

impl Event {
    /// With this count.
    pub fn new(count: u32, semaphore: bool) -> Event {
        Event {
            state: Lock::new(
                Rank::Waiting,
                State {
                    count: count.into(),
                    waiting: WaitQueue::new(),
                },
            ),
            semaphore,
            watchers: Watchers::new(),
        }
    }

    /// Waits until `f` has a result.
    fn wait<T>(
        &self,
        nonblocking: bool,
        mut f: impl FnMut(&mut u64) -> Option<T>,
    ) -> Result<T, Errno> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = f(&mut state.count) {
                state.waiting.wake_all();
                drop(state);
                self.watchers.notify(POLLIN | POLLOUT);
                return Ok(result);
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            if current().interrupted() {
                return Err(Errno::EINTR);
            }
            state = WaitQueue::wait(&self.state, state, |state| &mut state.waiting);
        }
    }
}

impl Special for Event {
    fn read(&self, to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        if to.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = self.wait(nonblocking, |count| {
            let taken = if self.semaphore { 1 } else { *count };
            (*count > 0).then(|| {
                *count -= taken;
                taken
            })
        })?;
        to.put_whole(&value.to_le_bytes())
    }

    fn write(&self, from: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        if from.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if from.take(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_le_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        self.wait(nonblocking, |count| {
            (MAX - *count >= value).then(|| *count += value)
        })?;
        Ok(8)
    }

    fn ready(&self) -> Events {
        let count = self.state.lock().count;
        let mut events = 0;
        if count > 0 {
            events |= POLLIN;
        }
        if count == u64::MAX {
            events |= POLLERR;
        }
        if count < MAX {
            events |= POLLOUT;
        }
        events
    }

    fn watchers(&self) -> &Watchers {
        &self.watchers
    }
}
