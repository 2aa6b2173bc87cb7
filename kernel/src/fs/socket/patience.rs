//! How long a call on a socket waits.

use super::Socket;
use crate::arch::{cpu, time};
use crate::process::timer::{self, Alarm};
use crate::syscall::errno::Errno;
use core::sync::atomic::Ordering;

/// How long one call waits, however often it does.
pub struct Patience {
    /// Until this counter value; none: for ever.
    deadline: Option<u64>,
    /// What wakes the thread then.
    _alarm: Option<Alarm>,
}

impl Patience {
    /// For a call that begins now, in a direction. To be taken before any lock.
    pub(super) fn new(
        socket: &Socket,
        direction: usize,
        nonblocking: bool,
    ) -> Result<Patience, Errno> {
        let microseconds = match nonblocking {
            true => 0,
            false => socket.timeout(direction).unwrap_or(u64::MAX),
        };
        let deadline = match microseconds {
            u64::MAX => None,
            0 => Some(0),
            some => Some(time::now().saturating_add(timer::ticks(some.saturating_mul(1000)))),
        };
        let alarm = deadline.filter(|&deadline| deadline > 0);
        Ok(Patience {
            deadline,
            _alarm: alarm.map(Alarm::waking).transpose()?,
        })
    }

    /// Whether it has waited long enough.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| {
            // The alarm either finds the thread about to sleep, or was over before this.
            cpu::fence();
            time::now() >= deadline
        })
    }

    /// What a signal makes of the wait: if that has an end, it is not begun again.
    pub(super) fn interrupted(&self) -> Errno {
        match self.deadline {
            Some(_) => Errno::EINTR_FINAL,
            None => Errno::EINTR,
        }
    }
}

impl Socket {
    /// SO_RCVTIMEO (or SO_SNDTIMEO), microseconds. None: as long as it takes.
    pub fn timeout(&self, direction: usize) -> Option<u64> {
        let timeout = self.timeouts[direction].load(Ordering::Relaxed);
        (timeout != u64::MAX).then_some(timeout)
    }

    /// Sets that. 0 is not to wait at all.
    pub fn set_timeout(&self, direction: usize, timeout: Option<u64>) {
        self.timeouts[direction].store(timeout.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
