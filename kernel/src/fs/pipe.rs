//! Pipes and FIFOs, with pipe(7)'s semantics: writes of up to `PIPE_BUF` bytes are atomic, a
//! reader without writers sees the end, a writer without readers gets EPIPE.
//!
//! As on Linux a pipe holds so many pages, and each write goes into the last page if all of its
//! odd end fits there, else into pages of its own: so it is full at the same point.

use super::buffer::Buffer;
use super::watch::{Events, Watchers};
use crate::arch::heap;
use crate::process::scheduler::WaitQueue;
use crate::process::thread;
use crate::syscall::errno::Errno;
use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use linux_raw_sys::general::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use memory::{Lock, PAGE_BYTES as PAGE, Rank};

/// Pages that a pipe holds unless told otherwise.
const PAGES: usize = 16;
/// The most that anybody but root may ask for, bytes (/proc/sys/fs/pipe-max-size).
pub const MAX_SIZE: u64 = 1 << 20;
/// Most pages are filled by small writes, and get no more memory than these need.
const SMALL: usize = 512;

/// A pipe.
pub struct Pipe {
    state: Lock<State>,
    watchers: Watchers,
}

/// Bytes of one write, or of several small ones.
struct Page {
    bytes: Vec<u8>,
    start: usize,
    /// Of a write in packet mode: read as a whole, and nothing is added.
    packet: bool,
}

impl Page {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
}

struct State {
    pages: VecDeque<Page>,
    /// Memory of the last page that was read, for the next one.
    spare: Vec<u8>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// How often each end was opened, for those who wait for the other one.
    opened: [u64; 2],
    wait_read: WaitQueue,
    wait_write: WaitQueue,
    wait_open: WaitQueue,
}

/// An open end of a pipe, or both. Dropping it closes it.
pub struct End {
    pipe: Arc<Pipe>,
    read: bool,
    write: bool,
    /// Writes are packets (O_DIRECT).
    packets: bool,
    /// Writers that had come when this end was opened: without another one there is no hang-up.
    seen: u64,
}

/// Which ends of a FIFO an open asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
}

impl Pipe {
    /// An empty pipe without ends.
    pub fn new() -> Result<Arc<Pipe>, Errno> {
        heap::try_arc(Pipe {
            state: Lock::new(
                Rank::Waiting,
                State {
                    pages: VecDeque::new(),
                    spare: Vec::new(),
                    capacity: PAGES,
                    readers: 0,
                    writers: 0,
                    opened: [0; 2],
                    wait_read: WaitQueue::new(),
                    wait_write: WaitQueue::new(),
                    wait_open: WaitQueue::new(),
                },
            ),
            watchers: Watchers::new(),
        })
        .ok_or(Errno::ENOMEM)
    }

    /// One more end, at once.
    pub fn end(self: &Arc<Pipe>, ends: Ends, packets: bool) -> End {
        let mut state = self.state.lock();
        for (index, wanted) in [ends.read, ends.write].into_iter().enumerate() {
            state.opened[index] += u64::from(wanted);
        }
        state.readers += usize::from(ends.read);
        state.writers += usize::from(ends.write);
        state.wait_open.wake_all();
        End {
            pipe: self.clone(),
            read: ends.read,
            write: ends.write,
            packets,
            seen: 0,
        }
    }

    /// Opens a FIFO: the reader waits for a writer and the other way round, unless `nonblocking`:
    /// then it is ENXIO to have nobody to write for.
    pub fn open(self: &Arc<Pipe>, ends: Ends, nonblocking: bool) -> Result<End, Errno> {
        if ends.write && !ends.read && nonblocking && self.state.lock().readers == 0 {
            return Err(Errno::ENXIO);
        }
        let mut end = self.end(ends, false);
        if ends.read && ends.write {
            return Ok(end);
        }
        let mut state = self.state.lock();
        let (there, other) = if ends.read {
            (state.writers, 1)
        } else {
            (state.readers, 0)
        };
        let before = state.opened[other];
        if there > 0 {
            return Ok(end);
        }
        if nonblocking {
            end.seen = before;
            return Ok(end);
        }
        // Somebody who came counts, even if he has left again.
        while state.opened[other] == before {
            state = WaitQueue::wait(&self.state, state, |state| &mut state.wait_open);
            if thread::current().interrupted() && state.opened[other] == before {
                drop(state);
                return Err(Errno::EINTR);
            }
        }
        drop(state);
        Ok(end)
    }
}

/// A new pipe's read end and write end.
pub fn pair(packets: bool) -> Result<(End, End), Errno> {
    let pipe = Pipe::new()?;
    let (read, write) = (
        Ends {
            read: true,
            write: false,
        },
        Ends {
            read: false,
            write: true,
        },
    );
    Ok((pipe.end(read, packets), pipe.end(write, packets)))
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.read);
        state.writers -= usize::from(self.write);
        let gone = self.read && state.readers == 0 || self.write && state.writers == 0;
        if gone {
            state.wait_read.wake_all();
            state.wait_write.wake_all();
        }
        if state.readers == 0 && state.writers == 0 {
            // A FIFO forgets what nobody reads.
            state.pages = VecDeque::new();
            state.spare = Vec::new();
        }
        drop(state);
        if gone {
            self.pipe
                .watchers
                .notify(POLLHUP | POLLERR | POLLIN | POLLOUT);
        }
    }
}

impl End {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Those who watch it.
    pub fn watchers(&self) -> &Watchers {
        &self.pipe.watchers
    }

    /// Bytes that wait to be read (FIONREAD).
    pub fn waiting(&self) -> usize {
        self.pipe.state.lock().pages.iter().map(Page::len).sum()
    }

    /// Bytes that it holds at most (F_GETPIPE_SZ).
    pub fn size(&self) -> u64 {
        (self.pipe.state.lock().capacity * PAGE) as u64
    }

    /// Changes that (F_SETPIPE_SZ); returns what it is now.
    pub fn set_size(&self, bytes: u64, privileged: bool) -> Result<u64, Errno> {
        if bytes > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let pages = bytes.div_ceil(PAGE as u64).max(1).next_power_of_two();
        if pages * PAGE as u64 > MAX_SIZE && !privileged {
            return Err(Errno::EPERM);
        }
        let mut state = self.pipe.state.lock();
        if (pages as usize) < state.pages.len() {
            return Err(Errno::EBUSY);
        }
        state.capacity = pages as usize;
        state.wait_write.wake_all();
        drop(state);
        self.pipe.watchers.notify(POLLOUT);
        Ok(pages * PAGE as u64)
    }

    /// What poll says.
    pub fn ready(&self) -> Events {
        let state = self.pipe.state.lock();
        let mut events = 0;
        if self.read {
            if !state.pages.is_empty() {
                events |= POLLIN | POLLRDNORM;
            }
            if state.writers == 0 && state.opened[1] != self.seen {
                events |= POLLHUP;
            }
        }
        if self.write {
            if state.pages.len() < state.capacity {
                events |= POLLOUT | POLLWRNORM;
            }
            if state.readers == 0 {
                events |= POLLERR;
            }
        }
        events
    }

    /// Waits until there is something to read, or nobody will write.
    pub fn wait_data(&self, nonblocking: bool) -> Result<(), Errno> {
        let mut state = self.pipe.state.lock();
        while state.pages.is_empty() {
            if state.writers == 0 {
                return Ok(());
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_read);
            if state.pages.is_empty() && thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
        // The wake-up may have been meant for a reader, who finds the data still there.
        state.wait_read.wake_all();
        Ok(())
    }

    /// Waits until a page can be written.
    pub fn wait_room(&self, nonblocking: bool) -> Result<(), Errno> {
        let mut state = self.pipe.state.lock();
        loop {
            if state.readers == 0 {
                return Err(Errno::EPIPE);
            }
            if state.pages.len() < state.capacity {
                return Ok(());
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_write);
            let full = state.pages.len() >= state.capacity;
            if full && state.readers > 0 && thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
    }

    /// Copies what follows the first `skip` bytes, which all stay.
    pub fn peek(&self, mut skip: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for page in &self.pipe.state.lock().pages {
            let bytes = &page.bytes[page.start..];
            let rest = &bytes[skip.min(bytes.len())..];
            skip -= skip.min(bytes.len());
            let count = rest.len().min(to.len() - done);
            to[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        done
    }

    /// Undoes a read of `bytes`, but for the first `kept`: for a moment the pipe may hold a page
    /// more than it should. Between the two somebody else may have read what comes after.
    pub fn put_back(&self, bytes: Vec<u8>, kept: usize) -> Result<(), Errno> {
        let mut state = self.pipe.state.lock();
        state.pages.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        state.pages.push_front(Page {
            bytes,
            start: kept,
            packet: false,
        });
        state.wait_read.wake_all();
        drop(state);
        self.pipe.watchers.notify(POLLIN);
        Ok(())
    }

    /// Reads what there is; waits for the first byte unless `nonblocking`.
    pub fn read(&self, to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        if to.left() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        loop {
            if !state.pages.is_empty() {
                let done = state.take(to);
                state.wait_write.wake_all();
                drop(state);
                self.pipe.watchers.notify(POLLOUT);
                return done;
            }
            if state.writers == 0 {
                return Ok(0);
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_read);
            if state.pages.is_empty() && thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
    }

    /// Writes all of it; waits for room unless `nonblocking`.
    pub fn write(&self, from: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        let mut done = 0;
        let mut result = Ok(());
        let mut state = self.pipe.state.lock();
        if state.readers > 0 && from.left() == 0 {
            return Ok(0);
        }
        let odd = from.left() % PAGE;
        if state.readers > 0 && odd > 0 && !self.packets {
            match state.append(from, odd) {
                Ok(count) => done += count,
                Err(error) => return Err(error),
            }
        }
        while from.left() > 0 {
            if state.readers == 0 {
                result = Err(Errno::EPIPE);
                break;
            }
            if state.pages.len() < state.capacity {
                match state.add(from, self.packets) {
                    Ok(count) => done += count,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                state.wait_read.wake_all();
                continue;
            }
            if nonblocking {
                result = Err(Errno::EAGAIN);
                break;
            }
            // Who polls must hear of what is there before this sleeps.
            self.pipe.watchers.notify(POLLIN);
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_write);
            if state.pages.len() >= state.capacity
                && state.readers > 0
                && thread::current().interrupted()
            {
                result = Err(Errno::EINTR);
                break;
            }
        }
        if done > 0 {
            state.wait_read.wake_all();
        }
        drop(state);
        if done > 0 {
            self.pipe.watchers.notify(POLLIN);
            return Ok(done);
        }
        result.map(|()| 0)
    }
}

// The user copies below may fault, and the fault handler takes an address space's lock: it is
// below the pipe's in the lock order, and the handler never touches a pipe.
impl State {
    /// Moves what there is to the reader.
    fn take(&mut self, to: &mut Buffer<'_>) -> Result<usize, Errno> {
        let mut done = 0;
        while to.left() > 0
            && let Some(page) = self.pages.front_mut()
        {
            let wanted = page.len().min(to.left());
            match to.put(&page.bytes[page.start..]) {
                // Of a page that a fault cuts short nothing was read, as on Linux.
                Ok(count) if count < wanted && done == 0 => return Err(Errno::EFAULT),
                Ok(count) if count < wanted => break,
                Ok(count) => {
                    page.start += count;
                    done += count;
                    let packet = page.packet;
                    if page.len() == 0 || packet {
                        self.recycle();
                    }
                    if packet {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn recycle(&mut self) {
        if let Some(mut page) = self.pages.pop_front()
            && page.bytes.capacity() > self.spare.capacity()
        {
            page.bytes.clear();
            self.spare = page.bytes;
        }
    }

    /// Adds `count` bytes to the last page, if they fit.
    fn append(&mut self, from: &mut Buffer<'_>, count: usize) -> Result<usize, Errno> {
        match self.pages.back_mut() {
            Some(page) if !page.packet && page.bytes.len() + count <= PAGE => {
                fill(&mut page.bytes, from, count)
            }
            _ => Ok(0),
        }
    }

    /// A new page.
    fn add(&mut self, from: &mut Buffer<'_>, packet: bool) -> Result<usize, Errno> {
        self.pages.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let mut bytes = core::mem::take(&mut self.spare);
        let result = fill(&mut bytes, from, from.left().min(PAGE));
        if bytes.is_empty() {
            self.spare = bytes;
        } else {
            self.pages.push_back(Page {
                bytes,
                start: 0,
                packet,
            });
        }
        result
    }
}

/// Appends bytes of the writer's; after a fault none.
fn fill(bytes: &mut Vec<u8>, from: &mut Buffer<'_>, count: usize) -> Result<usize, Errno> {
    let len = bytes.len();
    let wanted = (len + count).max(SMALL);
    if wanted > bytes.capacity() {
        // As small writes add up the page doubles.
        let wanted = wanted.max(2 * len).min(PAGE);
        bytes
            .try_reserve_exact(wanted - len)
            .map_err(|_| Errno::ENOMEM)?;
    }
    bytes.resize(len + count, 0);
    match from.take(&mut bytes[len..]) {
        Ok(done) => {
            // A write that faults in a page leaves nothing in it, as on Linux.
            if done < count {
                bytes.truncate(len);
                return Err(Errno::EFAULT);
            }
            Ok(done)
        }
        Err(error) => {
            bytes.truncate(len);
            Err(error)
        }
    }
}
