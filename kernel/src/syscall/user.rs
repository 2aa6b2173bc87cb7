//! Structures and strings in the user's memory.

use super::errno::Errno;
use crate::arch::uaccess;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use linux_raw_sys::general::{
    PATH_MAX, rlimit64, rusage, stat, statx, termios, termios2, timespec, timeval,
};

/// A type whose every byte may be shown to the user, and whose every bit pattern is a value.
///
/// # Safety
/// No padding, no references, no invalid values.
pub unsafe trait Plain: Copy {}

/// A type as in [`Plain`], by the layouts of Linux's headers: integers only, padding spelled out.
macro_rules! plain {
    ($($type:ty: $size:literal)*) => {
        $(
            // SAFETY: integers only, and the size is that of the fields: no padding.
            unsafe impl Plain for $type {}
            const _: () = assert!(size_of::<$type>() == $size);
        )*
    };
}

plain! {
    u32: 4
    u64: 8
    u128: 16
    timespec: 16
    timeval: 16
    rlimit64: 16
    rusage: 144
    stat: 128
    crate::process::signal::Action: 32
    super::time::Tms: 32
    super::info::SysInfo: 112
    crate::fs::buffer::Iovec: 16
    super::file::descriptor::Flock: 32
    super::file::stat::Statfs: 120
    super::file::socket::Header: 56
    statx: 256
    crate::fs::tty::Winsize: 8
    termios: 36
    termios2: 44
    crate::arch::trap::TrapFrame: 272
    crate::process::signal::AlternateStack: 24
    crate::process::signal::frame::ContextHead: 48
    crate::process::signal::frame::Record: 8
    crate::process::signal::Info: 48
    super::timers::Event: 64
    super::process::CloneArguments: 64
}

/// Writes a value to the user's memory.
pub fn write<T: Plain>(addr: u64, value: &T) -> Result<(), Errno> {
    write_slice(addr, core::slice::from_ref(value))
}

/// Writes values that follow each other.
pub fn write_slice<T: Plain>(addr: u64, values: &[T]) -> Result<(), Errno> {
    // SAFETY: `Plain` promises that all bytes are initialised.
    let bytes = unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
    Ok(uaccess::write(addr, bytes)?)
}

/// Reads a value from the user's memory.
pub fn read<T: Plain>(addr: u64) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the bytes of `value`, all initialised.
    let bytes =
        unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<T>()) };
    uaccess::read(bytes, addr)?;
    // SAFETY: `Plain` promises that any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// Reads values that follow each other. After a fault, some of them may have been read.
pub fn read_slice<T: Plain>(addr: u64, values: &mut [T]) -> Result<(), Errno> {
    let len = size_of_val(values);
    // SAFETY: `Plain` promises that all bytes are initialised, and that any bytes are a value.
    let bytes = unsafe { core::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), len) };
    Ok(uaccess::read(bytes, addr)?)
}

/// Reads a path.
pub fn path(addr: u64) -> Result<Vec<u8>, Errno> {
    /// Most paths are shorter.
    const STEP: usize = 128;
    let mut path = Vec::new();
    loop {
        let at = path.len();
        if at >= PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        path.try_reserve(STEP).map_err(|_| Errno::ENOMEM)?;
        path.resize(at + STEP, 0);
        let len = uaccess::read_cstr(addr.wrapping_add(at as u64), &mut path[at..])?;
        if len < STEP {
            path.truncate(at + len);
            return Ok(path);
        }
    }
}
