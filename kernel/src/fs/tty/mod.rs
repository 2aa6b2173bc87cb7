//! The terminal: the console, where the tool's own descriptors are a terminal.
//!
//! There is one. What is typed comes through `fs/console.rs`, and [`line`] makes lines of it; who may
//! use it, and who is told of ^C, is in [`job`].

mod control;
pub mod job;
mod line;

pub use control::{Winsize, ioctl};

use super::buffer::Buffer;
use super::console;
use super::watch::{Events, Poller, Watchers};
use crate::arch::time;
use crate::process::options::options;
use crate::process::scheduler::WaitQueue;
use crate::process::signal;
use crate::process::thread;
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::vec::Vec;
use job::Job;
use line::{Line, STANDARD};
use linux_raw_sys::general::{
    POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, SIGHUP, SIGTTIN, SIGTTOU, SIGWINCH, TOSTOP,
};
use memory::{Guard, Lock, Rank};

static WATCHERS: Watchers = Watchers::new();

static TERMINAL: Lock<Terminal> = Lock::new(
    Rank::Terminal,
    Terminal {
        line: Line::new(STANDARD),
        job: Job::NONE,
        size: Winsize::UNKNOWN,
        ended: false,
        ready: false,
        readers: WaitQueue::new(),
        writers: WaitQueue::new(),
    },
);

/// All that there is to know of it.
struct Terminal {
    line: Line,
    job: Job,
    size: Winsize,
    /// Nothing more will be typed.
    ended: bool,
    /// It has been set up as the boot arguments say.
    ready: bool,
    /// Who waits for input, and who waits for ^Q.
    readers: WaitQueue,
    writers: WaitQueue,
}

/// Signals for a process group, to be sent without the terminal's lock.
#[derive(Default)]
struct News {
    group: u32,
    signals: [Option<u32>; 3],
    changed: bool,
}

impl News {
    fn send(self) {
        for signal in self.signals.into_iter().flatten() {
            if self.group != 0 {
                signal::send_to_group(self.group, signal);
            }
        }
        if self.changed {
            WATCHERS.notify(ready());
        }
    }
}

/// Whether somebody types: else the terminal is for output alone, and whoever shows that has a line
/// discipline of his own.
fn is_interactive() -> bool {
    options().input && options().terminals[0]
}

fn lock() -> Guard<'static, Terminal> {
    let mut terminal = TERMINAL.lock();
    if !terminal.ready {
        terminal.ready = true;
        if let Some((rows, columns)) = options().window {
            terminal.size = Winsize::new(rows, columns);
        }
        if !is_interactive() {
            let mut settings = STANDARD;
            settings.c_oflag = 0;
            terminal.line.set(settings);
        }
    }
    terminal
}

impl Terminal {
    /// Takes what the console has, as far as there is room, and before that `typed`.
    fn receive(&mut self, typed: Option<u8>) -> News {
        let mut news = News::default();
        let before = (self.line.is_ready(), self.ended);
        let stopped = self.line.stopped;
        if let Some(byte) = typed {
            self.line.receive(byte);
            news.signals[0] = self.line.take_signal();
        }
        if !is_interactive() {
            self.ended = true;
        }
        while !self.ended
            // One after the other, with what was typed in between: so the second is no sooner than the
            // first was dealt with.
            && news.signals[0].is_none()
            && self.line.has_room()
            && let Some(byte) = console::take()
        {
            self.line.receive(byte);
            news.signals[0] = self.line.take_signal();
        }
        if let Some((rows, columns)) = console::take_window()
            && self.size.set(Winsize::new(rows, columns))
        {
            news.signals[1] = Some(SIGWINCH);
        }
        if console::has_ended() && !self.ended {
            self.ended = true;
            news.signals[2] = Some(SIGHUP);
        }
        let echo = self.line.take_echo();
        if !echo.is_empty() {
            trace::console(output_stream(), &echo);
        }
        news.group = self.job.group;
        news.changed = (self.line.is_ready(), self.ended) != before
            || stopped != self.line.stopped
            || news.signals[0].is_some();
        if news.changed {
            self.readers.wake_all();
            self.writers.wake_all();
        }
        news
    }
}

/// As which stream writes that are none of descriptors 0 to 2 are told to the tool: the first of its
/// own output descriptors that is the terminal; 0 stands for the terminal that it reads.
pub fn output_stream() -> u8 {
    match options().terminals {
        [_, true, _] => 1,
        [_, _, true] => 2,
        _ => 0,
    }
}

/// Takes what was typed: when the console has something.
pub fn receive() {
    receive_with(None);
}

/// As if `byte` had been typed.
fn type_in(byte: u8) {
    receive_with(Some(byte));
}

fn receive_with(mut typed: Option<u8>) {
    loop {
        let news = lock().receive(typed.take());
        let more = news.signals[0].is_some();
        news.send();
        if !more {
            return;
        }
    }
}

/// Reads what was typed: a line, or, in raw mode, what VMIN and VTIME say.
pub fn read(to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
    job::check(SIGTTIN)?;
    if to.left() == 0 {
        return Ok(0);
    }
    let bytes = wait_and_take(to.left(), nonblocking)?;
    // Without the lock: the program's memory may have to be faulted in.
    to.put(&bytes)
}

fn wait_and_take(len: usize, nonblocking: bool) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    // Canonical mode gives a line, raw mode what is there.
    bytes
        .try_reserve_exact(len.min(line::CAPACITY))
        .map_err(|_| Errno::ENOMEM)?;
    let mut deadline = None;
    receive();
    let mut terminal = lock();
    loop {
        let canonical = terminal.line.is_canonical();
        let tenths = terminal.line.patience() * time::hz() / 10;
        let least = if canonical {
            1
        } else {
            terminal.line.least().min(len)
        };
        if terminal.line.is_ready() {
            terminal.line.take(len - bytes.len(), &mut bytes);
            // There is room again: what had to wait comes in.
            drop(terminal);
            receive();
            if canonical || bytes.len() >= least.max(1) {
                return Ok(bytes);
            }
            if tenths != 0 {
                deadline = Some(time::now() + tenths);
            }
            terminal = lock();
            continue;
        }
        if terminal.ended || !canonical && least == 0 && tenths == 0 {
            return Ok(bytes);
        }
        if nonblocking {
            return if bytes.is_empty() {
                Err(Errno::EAGAIN)
            } else {
                Ok(bytes)
            };
        }
        if !canonical && least == 0 && deadline.is_none() {
            deadline = Some(time::now() + tenths);
        }
        let interrupted = match deadline {
            // A time between two bytes begins with the first.
            Some(deadline) if !canonical => {
                drop(terminal);
                match wait_until(deadline) {
                    Ok(true) => false,
                    Ok(false) => return Ok(bytes),
                    Err(Errno::EINTR) => true,
                    Err(error) => return Err(error),
                }
            }
            _ => {
                drop(WaitQueue::wait(&TERMINAL, terminal, |terminal| {
                    &mut terminal.readers
                }));
                thread::current().interrupted()
            }
        };
        if interrupted && !lock().line.is_ready() {
            return if bytes.is_empty() {
                Err(Errno::EINTR)
            } else {
                Ok(bytes)
            };
        }
        // Somebody else may be in the foreground by now.
        job::check(SIGTTIN)?;
        terminal = lock();
    }
}

/// Waits until there is something to read; false: not before `deadline`.
fn wait_until(deadline: u64) -> Result<bool, Errno> {
    let poller = Poller::new()?;
    let ticket = WATCHERS.add(poller.clone())?;
    let result = if lock().line.is_ready() {
        Ok(true)
    } else {
        poller.wait(Some(deadline))
    };
    WATCHERS.remove(ticket);
    result
}

/// Writes to the terminal, told to the tool as `stream`.
pub fn write(stream: u8, from: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
    if lock().line.settings.c_lflag & TOSTOP != 0 {
        job::check(SIGTTOU)?;
    }
    let mut done = 0;
    let mut printed = Vec::new();
    while from.left() > 0 {
        let mut bytes = [0; super::CHUNK];
        let len = bytes.len().min(from.left());
        let count = match from.take(&mut bytes[..len]) {
            Ok(count) => count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        let mut terminal = lock();
        while terminal.line.stopped {
            // What was taken and not written has not been written.
            if nonblocking {
                return if done > 0 {
                    Ok(done)
                } else {
                    Err(Errno::EAGAIN)
                };
            }
            terminal = WaitQueue::wait(&TERMINAL, terminal, |terminal| &mut terminal.writers);
            if thread::current().interrupted() && terminal.line.stopped {
                drop(terminal);
                return if done > 0 {
                    Ok(done)
                } else {
                    Err(Errno::EINTR)
                };
            }
        }
        printed.clear();
        terminal.line.process(&bytes[..count], &mut printed);
        trace::console(stream, &printed);
        drop(terminal);
        done += count;
    }
    Ok(done)
}

/// What poll says.
pub fn ready() -> Events {
    let terminal = lock();
    let mut events = 0;
    if terminal.line.is_ready_for_poll() {
        events |= POLLIN | POLLRDNORM;
    }
    if terminal.ended {
        events |= POLLIN | POLLRDNORM | POLLHUP;
    }
    if !terminal.line.stopped {
        events |= POLLOUT | POLLWRNORM;
    }
    events
}

/// Those who watch it.
pub fn watchers() -> &'static Watchers {
    &WATCHERS
}
