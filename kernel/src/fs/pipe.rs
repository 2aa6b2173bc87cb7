//! Pipes, with pipe(7)'s semantics: writes of up to `PIPE_BUF` bytes are atomic, a reader
//! without writers sees the end, a writer without readers gets EPIPE.

use crate::arch::{heap, uaccess};
use crate::process::scheduler::WaitQueue;
use crate::process::thread;
use crate::syscall::errno::Errno;
use alloc::{sync::Arc, vec::Vec};
use memory::{Lock, Rank};

/// How much a pipe holds.
pub const CAPACITY: usize = 65536;
/// Writes up to this size are not mixed with others.
const ATOMIC: usize = 4096;

/// The buffer and its users.
pub struct Pipe {
    state: Lock<State>,
}

struct State {
    /// A ring; it grows to [`CAPACITY`] when it has to.
    buf: Vec<u8>,
    head: usize,
    len: usize,
    readers: usize,
    writers: usize,
    wait_read: WaitQueue,
    wait_write: WaitQueue,
}

/// One end of a pipe. Dropping it closes the end.
pub struct End {
    pipe: Arc<Pipe>,
    /// Which end.
    pub write: bool,
}

/// A new pipe: its read end and its write end.
pub fn new() -> Result<(End, End), Errno> {
    let state = State {
        buf: Vec::new(),
        head: 0,
        len: 0,
        readers: 1,
        writers: 1,
        wait_read: WaitQueue::new(),
        wait_write: WaitQueue::new(),
    };
    let pipe = heap::try_arc(Pipe {
        state: Lock::new(Rank::Waiting, state),
    })
    .ok_or(Errno::ENOMEM)?;
    Ok((
        End {
            pipe: pipe.clone(),
            write: false,
        },
        End { pipe, write: true },
    ))
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        if self.write {
            state.writers -= 1;
            if state.writers == 0 {
                state.wait_read.wake_all();
            }
        } else {
            state.readers -= 1;
            if state.readers == 0 {
                state.wait_write.wake_all();
            }
        }
    }
}

impl End {
    /// A number that both ends share and no other pipe has.
    pub fn identity(&self) -> u64 {
        Arc::as_ptr(&self.pipe).addr() as u64
    }

    /// Reads up to `len` bytes to the user's `addr`; waits for the first byte unless `nonblocking`.
    pub fn read(&self, addr: u64, len: usize, nonblocking: bool) -> Result<usize, Errno> {
        if len == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        loop {
            if state.len > 0 {
                let count = len.min(state.len);
                state.take(addr, count)?;
                state.wait_write.wake_all();
                return Ok(count);
            }
            if state.writers == 0 {
                return Ok(0);
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_read);
            if thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
    }

    /// Writes `len` bytes from the user's `addr`; waits for room unless `nonblocking`.
    pub fn write(&self, addr: u64, len: usize, nonblocking: bool) -> Result<usize, Errno> {
        let mut done = 0;
        let mut state = self.pipe.state.lock();
        while done < len || len == 0 {
            if state.readers == 0 {
                return if done > 0 {
                    Ok(done)
                } else {
                    Err(Errno::EPIPE)
                };
            }
            if len == 0 {
                return Ok(0);
            }
            let room = CAPACITY - state.len;
            let wanted = if len <= ATOMIC { len } else { 1 };
            if room >= wanted {
                let count = room.min(len - done);
                match state.put(addr + done as u64, count) {
                    Ok(()) => {}
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                }
                done += count;
                state.wait_read.wake_all();
                continue;
            }
            if nonblocking {
                return if done > 0 {
                    Ok(done)
                } else {
                    Err(Errno::EAGAIN)
                };
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_write);
            if thread::current().interrupted() {
                return if done > 0 {
                    Ok(done)
                } else {
                    Err(Errno::EINTR)
                };
            }
        }
        Ok(done)
    }
}

// The user copies below may fault, and the fault handler may take an address-space lock: it is
// below the pipe's in the lock order, and the handler never touches a pipe.
impl State {
    /// Moves `count` bytes, no more than there are, to the user.
    fn take(&mut self, addr: u64, count: usize) -> Result<(), Errno> {
        let first = count.min(self.buf.len() - self.head);
        uaccess::write(addr, &self.buf[self.head..self.head + first])?;
        uaccess::write(addr + first as u64, &self.buf[..count - first])?;
        self.len -= count;
        // An empty ring starts over, so that small messages stay in one piece and in the cache.
        self.head = if self.len == 0 {
            0
        } else {
            (self.head + count) % self.buf.len()
        };
        Ok(())
    }

    /// Moves `count` bytes from the user, for which there is room below [`CAPACITY`].
    fn put(&mut self, addr: u64, count: usize) -> Result<(), Errno> {
        if self.len + count > self.buf.len() {
            self.grow(self.len + count)?;
        }
        let size = self.buf.len();
        let mut tail = self.head + self.len;
        if tail >= size {
            tail -= size;
        }
        let first = count.min(size - tail);
        uaccess::read(&mut self.buf[tail..tail + first], addr)?;
        uaccess::read(&mut self.buf[..count - first], addr + first as u64)?;
        self.len += count;
        Ok(())
    }

    fn grow(&mut self, wanted: usize) -> Result<(), Errno> {
        let size = wanted.next_power_of_two().max(512);
        let mut buf = Vec::new();
        buf.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        let first = self.len.min(self.buf.len() - self.head);
        buf.extend_from_slice(&self.buf[self.head..self.head + first]);
        buf.extend_from_slice(&self.buf[..self.len - first]);
        buf.resize(size, 0);
        self.buf = buf;
        self.head = 0;
        Ok(())
    }
}
