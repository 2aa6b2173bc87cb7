//! File descriptors and pipes.

use crate::{Errno, Result, syscall};
use core::ffi::CStr;
use linux_raw_sys::general::{
    __NR_close, __NR_dup3, __NR_openat, __NR_pipe2, __NR_read, __NR_write, AT_FDCWD,
};

pub use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK, O_RDONLY};

/// A file descriptor. Plain numbers: forking programs share and close them in ways that an owning
/// type would get wrong.
pub type Fd = i32;

/// Reads into `buffer`; 0 at the end of the file.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes only into `buffer`, which is ours alone.
    unsafe { read_at(fd, buffer.as_mut_ptr() as usize, buffer.len()) }
}

/// Reads to an address.
///
/// # Safety
///
/// Nothing but the caller may use the `len` bytes at `address`, if they are mapped at all.
pub unsafe fn read_at(fd: Fd, address: usize, len: usize) -> Result<usize> {
    // SAFETY: the caller's condition.
    unsafe { syscall(__NR_read, [fd as usize, address, len]) }
}

/// Writes some of `bytes`; returns how many.
pub fn write(fd: Fd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel only reads `bytes`.
    unsafe {
        syscall(
            __NR_write,
            [fd as usize, bytes.as_ptr() as usize, bytes.len()],
        )
    }
}

/// Writes all of `bytes`.
pub fn write_all(fd: Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(0) => return Err(Errno::EIO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Opens a file with O_ flags.
pub fn open(path: &CStr, flags: u32) -> Result<Fd> {
    // SAFETY: the kernel only reads the path.
    unsafe {
        syscall(
            __NR_openat,
            [AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0],
        )
    }
    .map(|fd| fd as Fd)
}

/// Closes a descriptor.
pub fn close(fd: Fd) -> Result<()> {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_close, [fd as usize]) }.map(drop)
}

/// Makes `to` a copy of `from`.
pub fn dup3(from: Fd, to: Fd, flags: u32) -> Result<Fd> {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_dup3, [from as usize, to as usize, flags as usize]) }.map(|fd| fd as Fd)
}

/// Both ends of a pipe.
#[derive(Clone, Copy)]
pub struct Pipe {
    /// The end to read from.
    pub reader: Fd,
    /// The end to write to.
    pub writer: Fd,
}

/// Makes a pipe, with O_ flags.
pub fn pipe2(flags: u32) -> Result<Pipe> {
    let mut ends = [0 as Fd; 2];
    // SAFETY: the kernel writes two descriptors into `ends`.
    unsafe { syscall(__NR_pipe2, [ends.as_mut_ptr() as usize, flags as usize]) }?;
    Ok(Pipe {
        reader: ends[0],
        writer: ends[1],
    })
}
