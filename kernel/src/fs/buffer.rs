//! The memory that a read or write is from or to: one buffer of the user's, or several, or the
//! kernel's own.

use crate::arch::uaccess;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use memory::PAGE_SIZE;

/// One of several buffers (`struct iovec`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Iovec {
    /// Address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

enum Memory<'a> {
    User,
    Kernel(&'a mut [u8]),
}

/// Memory that is filled, or emptied, from its start.
pub struct Buffer<'a> {
    memory: Memory<'a>,
    /// The user's buffer that is in use, or how far the kernel's is.
    at: u64,
    room: usize,
    /// The user's buffers after that.
    more: Vec<Iovec>,
    next: usize,
    left: usize,
}

impl<'a> Buffer<'a> {
    /// One buffer of the user's.
    pub fn user(addr: u64, len: usize) -> Buffer<'a> {
        Buffer {
            memory: Memory::User,
            at: addr,
            room: len,
            more: Vec::new(),
            next: 0,
            left: len,
        }
    }

    /// Several, of `left` bytes together.
    pub fn users(more: Vec<Iovec>, left: usize) -> Buffer<'a> {
        Buffer {
            memory: Memory::User,
            at: 0,
            room: 0,
            more,
            next: 0,
            left,
        }
    }

    /// The kernel's own.
    pub fn kernel(bytes: &'a mut [u8]) -> Buffer<'a> {
        let len = bytes.len();
        Buffer {
            memory: Memory::Kernel(bytes),
            at: 0,
            room: len,
            more: Vec::new(),
            next: 0,
            left: len,
        }
    }

    /// Bytes that are left to be filled, or to be taken.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Does no more than `len` bytes from here on.
    pub fn limit(&mut self, len: usize) {
        self.left = self.left.min(len);
    }

    /// The next piece of at most `wanted` bytes, in one page of the user's: a fault then concerns
    /// all of it or nothing.
    fn piece(&mut self, wanted: usize) -> usize {
        while self.room == 0 && self.next < self.more.len() {
            let Iovec { base, len } = self.more[self.next];
            self.next += 1;
            (self.at, self.room) = (base, len as usize);
        }
        let len = wanted.min(self.room).min(self.left);
        match self.memory {
            Memory::User => len.min((PAGE_SIZE - self.at % PAGE_SIZE) as usize),
            Memory::Kernel(_) => len,
        }
    }

    fn advance(&mut self, count: usize) {
        self.at = self.at.wrapping_add(count as u64);
        self.room -= count;
        self.left -= count;
    }

    /// Runs `copy` piece by piece; what was done before a fault counts.
    fn each(
        &mut self,
        len: usize,
        mut copy: impl FnMut(&mut Memory<'a>, u64, usize, usize) -> Result<(), uaccess::Fault>,
    ) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len {
            let count = self.piece(len - done);
            if count == 0 {
                break;
            }
            match copy(&mut self.memory, self.at, done, count) {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(fault) => return Err(fault.into()),
            }
            self.advance(count);
            done += count;
        }
        Ok(done)
    }

    /// Whether so many bytes are the next piece, as they are of a small read or write: then there
    /// is nothing to be taken to pieces.
    #[inline]
    fn is_piece(&self, len: usize) -> bool {
        matches!(self.memory, Memory::User)
            && len <= self.room.min(self.left)
            && len as u64 <= PAGE_SIZE - self.at % PAGE_SIZE
    }

    /// Puts bytes into it, as many as there is room for.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if self.is_piece(bytes.len()) {
            uaccess::write(self.at, bytes)?;
            self.advance(bytes.len());
            return Ok(bytes.len());
        }
        self.put_pieces(bytes)
    }

    #[inline(never)]
    fn put_pieces(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.each(bytes.len(), |memory, at, done, count| {
            let bytes = &bytes[done..done + count];
            match memory {
                Memory::User => uaccess::write(at, bytes)?,
                Memory::Kernel(to) => to[at as usize..at as usize + count].copy_from_slice(bytes),
            }
            Ok(())
        })
    }

    /// Puts all of some bytes into it: EFAULT if a fault cuts them short.
    pub fn put_whole(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.put(bytes)? {
            count if count == bytes.len() => Ok(count),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Puts zeros into it.
    pub fn put_zeros(&mut self, len: usize) -> Result<usize, Errno> {
        self.each(len, |memory, at, _, count| {
            match memory {
                Memory::User => uaccess::zero(at, count)?,
                Memory::Kernel(to) => to[at as usize..at as usize + count].fill(0),
            }
            Ok(())
        })
    }

    /// Takes bytes out of it, as many as there are.
    #[inline]
    pub fn take(&mut self, to: &mut [u8]) -> Result<usize, Errno> {
        if self.is_piece(to.len()) {
            uaccess::read(to, self.at)?;
            self.advance(to.len());
            return Ok(to.len());
        }
        self.take_pieces(to)
    }

    #[inline(never)]
    fn take_pieces(&mut self, to: &mut [u8]) -> Result<usize, Errno> {
        self.each(to.len(), |memory, at, done, count| {
            let to = &mut to[done..done + count];
            match memory {
                Memory::User => uaccess::read(to, at)?,
                Memory::Kernel(from) => to.copy_from_slice(&from[at as usize..at as usize + count]),
            }
            Ok(())
        })
    }
}
