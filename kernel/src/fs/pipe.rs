//! Pipes and FIFOs, with pipe(7)'s semantics: writes of up to `PIPE_BUF` bytes are atomic, a
//! reader without writers sees the end, a writer without readers gets EPIPE.
//!
//! As on Linux a pipe holds so many pages, and each write goes into the last page if all of its
//! odd end fits there, else into pages of its own: so it is full at the same point.

use super::buffer::Buffer;
use super::watch::{Events, Watchers};
use crate::arch::{heap, uaccess};
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

/// Bytes of one write, or of several small ones: those from `start` to `end`.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Of a write in packet mode: read as a whole, and nothing is added.
    packet: bool,
}

struct State {
    /// If the first one is empty, it is the only one and stays for the next write.
    pages: VecDeque<Page>,
    /// Memory of a page that was read, for a later one.
    spare: Vec<u8>,
    /// Somebody holds the first page: whether it is a packet.
    held: Option<bool>,
    /// Pages that somebody is about to bring.
    reserved: usize,
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

/// The first page of a pipe, with all that follows. Whoever reads waits until it is dropped: what is
/// not taken has never left its place.
pub struct Held<'a> {
    end: &'a End,
    /// The page is a packet.
    pub packet: bool,
    used: usize,
}

impl Held<'_> {
    /// Copies what follows the first `skip` bytes, which all stay.
    pub fn peek(&self, mut skip: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        for page in &self.end.pipe.state.lock().pages {
            let bytes = page.bytes();
            let rest = &bytes[skip.min(bytes.len())..];
            skip -= skip.min(bytes.len());
            let count = rest.len().min(to.len() - done);
            to[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        done
    }

    /// Copies bytes of the first page.
    pub fn first(&self, to: &mut [u8]) -> usize {
        let state = self.end.pipe.state.lock();
        let bytes = state.pages.front().map_or(&[][..], Page::bytes);
        let count = bytes.len().min(to.len());
        to[..count].copy_from_slice(&bytes[..count]);
        count
    }

    /// So many bytes of the first page have been read.
    pub fn take(mut self, count: usize) {
        self.used = count;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.end.pipe.state.lock();
        state.held = None;
        if let Some(page) = state.pages.front_mut() {
            page.packet = self.packet;
            page.start += self.used;
            if page.len() == 0 {
                state.emptied();
            }
        }
        state.wait_read.wake_all();
        state.wait_write.wake_all();
        drop(state);
        self.end.pipe.watchers.notify(POLLIN | POLLOUT);
    }
}

/// Room for a page in a pipe, so that what is taken from elsewhere for it gets there.
pub struct Room<'a>(&'a End);

impl Room<'_> {
    /// Fills it with the first `count` bytes. EPIPE if nobody will read them.
    pub fn put(self, bytes: Vec<u8>, count: usize) -> Result<(), Errno> {
        let mut state = self.0.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        if state.is_empty() {
            state.pages.clear();
        }
        state.pages.push_back(Page {
            bytes,
            end: count,
            ..Page::default()
        });
        state.wait_read.wake_all();
        drop(state);
        self.0.pipe.watchers.notify(POLLIN);
        Ok(())
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut state = self.0.pipe.state.lock();
        state.reserved -= 1;
        state.wait_write.wake_all();
        drop(state);
        self.0.pipe.watchers.notify(POLLOUT);
    }
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
                    held: None,
                    reserved: 0,
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
        if (pages as usize) < state.used() {
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
            if state.is_readable() {
                events |= POLLIN | POLLRDNORM;
            }
            if state.writers == 0 && state.opened[1] != self.seen {
                events |= POLLHUP;
            }
        }
        if self.write {
            if !state.is_full() {
                events |= POLLOUT | POLLWRNORM;
            }
            if state.readers == 0 {
                events |= POLLERR;
            }
        }
        events
    }

    /// Waits until there is something to read; false: nobody will write.
    pub fn wait_data(&self, nonblocking: bool) -> Result<bool, Errno> {
        if !self.read {
            return Err(Errno::EBADF);
        }
        let mut state = self.pipe.state.lock();
        if !state.is_readable() {
            loop {
                if state.is_empty() && state.writers == 0 {
                    return Ok(false);
                }
                if nonblocking {
                    return Err(Errno::EAGAIN);
                }
                state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_read);
                if state.is_readable() {
                    break;
                }
                if thread::current().interrupted() {
                    return Err(Errno::EINTR);
                }
            }
        }
        // The wake-up may have been meant for a reader, who finds the data still there.
        state.wait_read.wake_all();
        Ok(true)
    }

    /// Waits until a page can be written.
    pub fn wait_room(&self, nonblocking: bool) -> Result<(), Errno> {
        let mut state = self.pipe.state.lock();
        loop {
            if state.readers == 0 {
                return Err(Errno::EPIPE);
            }
            if !state.is_full() {
                return Ok(());
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_write);
            if state.is_full() && state.readers > 0 && thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
    }

    /// Room for a page. EAGAIN if there is none.
    pub fn room(&self) -> Result<Room<'_>, Errno> {
        let mut state = self.pipe.state.lock();
        if state.is_full() {
            return Err(Errno::EAGAIN);
        }
        let reserved = state.reserved + 1;
        let reserve = state.pages.try_reserve(reserved);
        reserve.map_err(|_| Errno::ENOMEM)?;
        state.reserved = reserved;
        Ok(Room(self))
    }

    /// Holds the first page, which nobody else reads until then. `None`: there is none to read.
    pub fn hold(&self) -> Option<Held<'_>> {
        let mut state = self.pipe.state.lock();
        if !state.is_readable() {
            return None;
        }
        // What is marked so is read the long way, and nothing is added to it.
        let page = state.pages.front_mut()?;
        let packet = core::mem::replace(&mut page.packet, true);
        state.held = Some(packet);
        drop(state);
        Some(Held {
            end: self,
            packet,
            used: 0,
        })
    }

    /// Reads what there is; waits for the first byte unless `nonblocking`.
    pub fn read(&self, to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        if to.left() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        loop {
            if state.is_readable() {
                let done = state.take(to);
                state.wait_write.wake_all();
                drop(state);
                self.pipe.watchers.notify(POLLOUT);
                return done;
            }
            if state.is_empty() && state.writers == 0 {
                return Ok(0);
            }
            if nonblocking {
                return Err(Errno::EAGAIN);
            }
            state = WaitQueue::wait(&self.pipe.state, state, |state| &mut state.wait_read);
            if !state.is_readable() && thread::current().interrupted() {
                return Err(Errno::EINTR);
            }
        }
    }

    /// Reads as most reads are for which a user's buffer is [`small`]: what is there is of one write.
    /// `None`: nothing has happened, and [`End::read`] knows what to do.
    #[inline(always)]
    pub fn read_at_once(&self, to: u64, len: usize) -> Option<usize> {
        if !self.read {
            return None;
        }
        let mut guard = self.pipe.state.lock();
        let state = &mut *guard;
        let others = state.pages.len() > 1;
        let page = state.pages.front_mut()?;
        let count = page.len().min(len);
        if count == 0 || page.packet || others && count < len {
            return None;
        }
        uaccess::write(to, &page.bytes()[..count]).ok()?;
        page.start += count;
        if page.len() == 0 {
            if others {
                state.recycle();
            } else {
                page.clear();
            }
            state.wait_write.wake_all();
        }
        drop(guard);
        self.pipe.watchers.notify(POLLOUT);
        Some(count)
    }

    /// Writes as most writes are from a user's buffer that is [`small`]: there is room. `None`: nothing
    /// has happened, and [`End::write`] knows what to do.
    #[inline]
    pub fn write_at_once(&self, from: u64, len: usize) -> Option<usize> {
        if !self.write || self.packets {
            return None;
        }
        let copy = |to: &mut [u8]| Ok(uaccess::read(to, from).map(|()| len)?);
        let mut guard = self.pipe.state.lock();
        let state = &mut *guard;
        if state.readers == 0 {
            return None;
        }
        if state.append(len, copy).ok()? == 0 {
            if state.is_full() {
                return None;
            }
            state.add(len, false, copy).ok()?;
        }
        state.wait_read.wake_all();
        drop(guard);
        self.pipe.watchers.notify(POLLIN);
        Some(len)
    }

    /// Writes all of it; waits for room unless `nonblocking`.
    pub fn write(&self, from: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        self.write_as(from, nonblocking, self.packets)
    }

    /// The same, as packets or not, whatever the end's flag says.
    pub fn write_as(
        &self,
        from: &mut Buffer<'_>,
        nonblocking: bool,
        packets: bool,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        let mut result = Ok(());
        let mut state = self.pipe.state.lock();
        if state.readers > 0 && from.left() == 0 {
            return Ok(0);
        }
        let odd = from.left() % PAGE;
        if state.readers > 0 && odd > 0 && !packets {
            match state.append(odd, |to| from.take(to)) {
                Ok(count) => done += count,
                Err(error) => return Err(error),
            }
        }
        while from.left() > 0 {
            if state.readers == 0 {
                result = Err(Errno::EPIPE);
                break;
            }
            if !state.is_full() {
                let count = from.left().min(PAGE);
                match state.add(count, packets, |to| from.take(to)) {
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
            if state.is_full() && state.readers > 0 && thread::current().interrupted() {
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
    /// Pages that hold something.
    #[inline]
    fn used(&self) -> usize {
        match self.pages.front() {
            Some(page) if page.len() > 0 => self.pages.len(),
            _ => 0,
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.used() == 0
    }

    /// Something is there that nobody holds.
    #[inline]
    fn is_readable(&self) -> bool {
        self.held.is_none() && !self.is_empty()
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.used() + self.reserved >= self.capacity
    }

    /// Moves what there is to the reader.
    fn take(&mut self, to: &mut Buffer<'_>) -> Result<usize, Errno> {
        let mut done = 0;
        while to.left() > 0
            && let Some(page) = self.pages.front_mut()
            && page.len() > 0
        {
            let wanted = page.len().min(to.left());
            match to.put(page.bytes()) {
                // Of a page that a fault cuts short nothing was read, as on Linux.
                Ok(count) if count < wanted && done == 0 => return Err(Errno::EFAULT),
                Ok(count) if count < wanted => break,
                Ok(count) => {
                    page.start += count;
                    done += count;
                    let packet = page.packet;
                    if page.len() == 0 || packet {
                        self.emptied();
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

    /// The first page has been read.
    #[inline]
    fn emptied(&mut self) {
        if self.pages.len() > 1 {
            self.recycle();
        } else if let Some(page) = self.pages.front_mut() {
            page.clear();
        }
    }

    #[inline(never)]
    fn recycle(&mut self) {
        if let Some(page) = self.pages.pop_front()
            && page.bytes.len() > self.spare.len()
        {
            self.spare = page.bytes;
        }
    }

    /// Adds `count` bytes to the last page, if they fit: else 0.
    #[inline(always)]
    fn append(
        &mut self,
        count: usize,
        copy: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        match self.pages.back_mut() {
            Some(page) if !page.packet && page.end + count <= PAGE => page.append(count, copy),
            _ => Ok(0),
        }
    }

    /// Adds `count` bytes as a page of their own.
    #[inline(always)]
    fn add(
        &mut self,
        count: usize,
        packet: bool,
        copy: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let page = self.fresh().ok_or(Errno::ENOMEM)?;
        let result = page.append(count, copy);
        match result {
            Ok(_) => page.packet = packet,
            Err(_) if self.pages.len() > 1 => drop(self.pages.pop_back()),
            Err(_) => {}
        }
        result
    }

    /// An empty page at the end.
    #[inline(never)]
    fn fresh(&mut self) -> Option<&mut Page> {
        if self.pages.is_empty() || !self.is_empty() {
            self.pages.try_reserve(1 + self.reserved).ok()?;
            self.pages.push_back(Page {
                bytes: core::mem::take(&mut self.spare),
                ..Page::default()
            });
        }
        self.pages.back_mut()
    }
}

impl Page {
    #[inline]
    fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    #[inline]
    fn clear(&mut self) {
        (self.start, self.end, self.packet) = (0, 0, false);
    }

    /// Appends `count` bytes of the writer's, which `copy` fetches; after a fault none, as on Linux.
    #[inline(always)]
    fn append(
        &mut self,
        count: usize,
        copy: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let end = self.end + count;
        if end > self.bytes.len() {
            self.grow(end)?;
        }
        if copy(&mut self.bytes[self.end..end])? < count {
            return Err(Errno::EFAULT);
        }
        self.end = end;
        Ok(count)
    }

    /// Gets memory for `len` bytes: as small writes add up it doubles.
    #[inline(never)]
    fn grow(&mut self, len: usize) -> Result<(), Errno> {
        let len = len.max(SMALL).max(2 * self.bytes.len()).min(PAGE);
        self.bytes
            .try_reserve_exact(len - self.bytes.len())
            .map_err(|_| Errno::ENOMEM)?;
        self.bytes.resize(len, 0);
        Ok(())
    }
}

/// The length of a user's buffer that is small and in one page.
#[inline]
pub fn small(addr: u64, len: u64) -> Option<usize> {
    let fits = (1..=SMALL as u64).contains(&len) && addr % PAGE as u64 + len <= PAGE as u64;
    fits.then_some(len as usize)
}
