//! Memory: mappings, and accesses to them that the compiler leaves alone.

use crate::file::Fd;
use crate::{Result, fail, syscall};
use core::mem::size_of;
use core::sync::atomic::AtomicU64;
use linux_raw_sys::general::{
    __NR_brk, __NR_mmap, __NR_mprotect, __NR_munmap, __NR_sysinfo, MAP_ANONYMOUS, MAP_NORESERVE,
    MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE,
};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// 64-bit words in a page.
pub const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// Maps memory: PROT_ and MAP_ flags and the rest as in mmap(2).
///
/// # Safety
///
/// With MAP_FIXED, no Rust object may lie in the range.
pub unsafe fn mmap(
    address: usize,
    len: usize,
    prot: u32,
    flags: u32,
    fd: i32,
    offset: usize,
) -> Result<usize> {
    // SAFETY: the caller's condition; without MAP_FIXED nothing that exists is touched.
    unsafe {
        syscall(
            __NR_mmap,
            [
                address,
                len,
                prot as usize,
                flags as usize,
                fd as usize,
                offset,
            ],
        )
    }
}

/// Bytes of RAM that are free, by sysinfo(2).
pub fn free() -> Result<u64> {
    // `struct sysinfo` is 112 bytes: after uptime, loads[3] and totalram comes freeram; mem_unit is
    // the first half of word 13.
    let mut info = [0u64; 14];
    // SAFETY: the buffer has the structure's size.
    unsafe { syscall(__NR_sysinfo, [info.as_mut_ptr().addr()])? };
    Ok(info[5] * (info[13] & 0xffff_ffff).max(1))
}

/// Sets or reads (0) the end of the heap; returns the end, which is the old one if it could not be
/// moved.
///
/// # Safety
///
/// No Rust object may lie in what is given back.
pub unsafe fn brk(end: usize) -> Result<usize> {
    // SAFETY: the caller's condition.
    unsafe { syscall(__NR_brk, [end]) }
}

/// Out of line, so that a function that touches a page has no frame full of message arguments to
/// write first.
#[cold]
#[inline(never)]
fn no_such_word(count: usize, page: usize, word: usize) -> ! {
    fail(format_args!("word {word} of page {page} of {count}"))
}

/// Mapped pages, named by index. Plain data, not an owner: after a fork both processes have it, and
/// to access a page that is gone or protected is what some programs are about (it ends in SIGSEGV;
/// no Rust object ever lies in these pages).
#[derive(Clone, Copy)]
pub struct Pages {
    start: usize,
    count: usize,
}

impl Pages {
    /// Maps `count` private anonymous pages, readable and writable, and touches none.
    pub fn map(count: usize) -> Result<Self> {
        Self::map_with(
            count,
            PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        )
    }

    /// Maps `count` anonymous pages that stay shared across fork.
    pub fn map_shared(count: usize) -> Result<Self> {
        Self::map_with(count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS)
    }

    /// Maps the first `count` pages of a file, private and read-only.
    pub fn map_file(fd: Fd, count: usize) -> Result<Self> {
        let len = count.saturating_mul(PAGE_SIZE);
        // SAFETY: no address is asked for, so nothing that exists is replaced.
        let start = unsafe { mmap(0, len, PROT_READ, MAP_PRIVATE, fd, 0) }?;
        Ok(Self { start, count })
    }

    /// Maps `count` pages with PROT_ and MAP_ flags (MAP_ANONYMOUS among them).
    pub fn map_with(count: usize, prot: u32, flags: u32) -> Result<Self> {
        // SAFETY: no address is asked for, so nothing that exists is replaced.
        let start = unsafe { mmap(0, count.saturating_mul(PAGE_SIZE), prot, flags, -1, 0) }?;
        Ok(Self { start, count })
    }

    /// The pages at `start`, mapped by other means.
    ///
    /// # Safety
    ///
    /// No Rust object may lie in them.
    pub unsafe fn at(start: usize, count: usize) -> Self {
        Self { start, count }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// The address of a page. One past the end is allowed, as an end.
    pub fn address(self, page: usize) -> usize {
        if page > self.count {
            fail(format_args!("page {page} of {}", self.count));
        }
        self.start + page * PAGE_SIZE
    }

    /// Part of the pages.
    pub fn part(self, first: usize, count: usize) -> Self {
        if first + count > self.count {
            fail(format_args!("pages {first}+{count} of {}", self.count));
        }
        Self {
            start: self.start + first * PAGE_SIZE,
            count,
        }
    }

    #[inline(always)]
    fn word_address(self, page: usize, word: usize) -> *mut u64 {
        if page >= self.count || word >= WORDS {
            no_such_word(self.count, page, word);
        }
        (self.start + page * PAGE_SIZE + word * size_of::<u64>()) as *mut u64
    }

    /// Reads the first word of a page, with one load.
    #[inline(always)]
    pub fn read(self, page: usize) -> u64 {
        self.read_word(page, 0)
    }

    /// Writes the first word of a page, with one store.
    #[inline(always)]
    pub fn write(self, page: usize, value: u64) {
        self.write_word(page, 0, value);
    }

    /// Reads a word of a page.
    #[inline(always)]
    pub fn read_word(self, page: usize, word: usize) -> u64 {
        // SAFETY: an aligned word within the pages, where no Rust object lies; unmapped, it is
        // SIGSEGV.
        unsafe { self.word_address(page, word).read_volatile() }
    }

    /// Writes a word of a page.
    #[inline(always)]
    pub fn write_word(self, page: usize, word: usize, value: u64) {
        // SAFETY: as in `read_word`; no reference to these pages exists.
        unsafe { self.word_address(page, word).write_volatile(value) }
    }

    /// A word of a page as an atomic, for pages that processes share.
    pub fn atomic(self, page: usize, word: usize) -> &'static AtomicU64 {
        // SAFETY: aligned, and any bit pattern is an AtomicU64. The programs that use this keep the
        // pages mapped until they end, and access these words only so.
        unsafe { AtomicU64::from_ptr(self.word_address(page, word)) }
    }

    /// Changes the protection, to PROT_ flags.
    pub fn protect(self, prot: u32) -> Result<()> {
        // SAFETY: no Rust object lies in the pages.
        unsafe {
            syscall(
                __NR_mprotect,
                [self.start, self.count * PAGE_SIZE, prot as usize],
            )
        }
        .map(drop)
    }

    /// Unmaps the pages.
    pub fn unmap(self) -> Result<()> {
        // SAFETY: no Rust object lies in the pages.
        unsafe { syscall(__NR_munmap, [self.start, self.count * PAGE_SIZE]) }.map(drop)
    }
}
