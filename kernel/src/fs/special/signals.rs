//! signalfd(2): signals that are read.

use super::Special;
use crate::fs::buffer::Buffer;
use crate::fs::watch::{Events, Poller, Watchers};
use crate::process::signal::{self, Info, UNBLOCKABLE};
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use core::sync::atomic::{AtomicU64, Ordering};
use linux_raw_sys::general::{POLLIN, SI_TIMER, SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};

/// Bytes of a `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// Those who watch any of them: whoever is told looks which signals there are.
static WATCHERS: Watchers = Watchers::new();

/// A signal was sent to somebody.
pub fn notify() {
    WATCHERS.notify(POLLIN);
}

/// A signalfd. It is the signals of whoever reads that it tells.
pub struct Signals {
    mask: AtomicU64,
}

impl Signals {
    /// Of these signals.
    pub fn new(mask: u64) -> Signals {
        Signals {
            mask: AtomicU64::new(mask & !UNBLOCKABLE),
        }
    }

    /// Of these from now on.
    pub fn set(&self, mask: u64) {
        self.mask.store(mask & !UNBLOCKABLE, Ordering::Relaxed);
        notify();
    }

    fn mask(&self) -> u64 {
        self.mask.load(Ordering::Relaxed)
    }

    fn take(&self) -> Option<Info> {
        signal::take_awaited(&current(), self.mask())
    }

    fn wait(&self) -> Result<Info, Errno> {
        let poller = Poller::new()?;
        let ticket = WATCHERS.add(poller.clone())?;
        let result = loop {
            if let Some(info) = self.take() {
                break Ok(info);
            }
            if let Err(error) = poller.wait(None) {
                break Err(error);
            }
        };
        WATCHERS.remove(ticket);
        result
    }
}

/// `struct signalfd_siginfo`.
fn bytes(info: &Info) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, value: u64, len: usize| {
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    let [first, second, third, fourth] = info.fields;
    put(0, info.signal.into(), 4);
    put(4, info.error as u64, 4);
    put(8, info.code as u64, 4);
    match info.signal {
        SIGILL | SIGFPE | SIGSEGV | SIGBUS | SIGTRAP if info.code > 0 => put(72, first, 8),
        SIGCHLD if info.code > 0 => {
            // Who, his user, the status, and what he has used.
            put(12, first, 8);
            put(40, second, 4);
            put(56, third, 8);
            put(64, fourth, 8);
        }
        _ if info.code == SI_TIMER => {
            put(24, first, 4);
            put(32, first >> 32, 4);
            put(44, second, 4);
            put(48, second, 8);
        }
        _ => {
            put(12, first, 8);
            if info.code < 0 {
                put(44, second, 4);
                put(48, second, 8);
            }
        }
    }
    bytes
}

impl Special for Signals {
    fn read(&self, to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        if to.left() < SIZE {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        while to.left() >= SIZE {
            let info = match self.take() {
                Some(info) => info,
                None if done > 0 => break,
                None if nonblocking => return Err(Errno::EAGAIN),
                None => self.wait()?,
            };
            match to.put_whole(&bytes(&info)) {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn ready(&self) -> Events {
        if signal::pending(&current()) & self.mask() != 0 {
            POLLIN
        } else {
            0
        }
    }

    fn watchers(&self) -> &Watchers {
        &WATCHERS
    }
}
