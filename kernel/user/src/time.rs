//! Clocks and randomness.

use crate::{Result, syscall};
use core::arch::asm;
use linux_raw_sys::general::{__NR_clock_gettime, __NR_getrandom, __NR_nanosleep, CLOCK_MONOTONIC};

/// Nanoseconds of CLOCK_MONOTONIC, by system call.
pub fn now() -> Result<u64> {
    let mut time = [0u64; 2];
    // SAFETY: the kernel writes a timespec: two 64-bit words.
    unsafe {
        syscall(
            __NR_clock_gettime,
            [CLOCK_MONOTONIC as usize, time.as_mut_ptr() as usize],
        )
    }?;
    Ok(time[0] * 1_000_000_000 + time[1])
}

/// Sleeps for so many nanoseconds; what is left of them if a signal ends it.
pub fn sleep(nanoseconds: u64) -> core::result::Result<(), (crate::Errno, u64)> {
    let wanted = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    let mut left = [0u64; 2];
    // SAFETY: the kernel reads one timespec and writes another.
    unsafe {
        syscall(
            __NR_nanosleep,
            [wanted.as_ptr() as usize, left.as_mut_ptr() as usize],
        )
    }
    .map(drop)
    .map_err(|errno| (errno, left[0] * 1_000_000_000 + left[1]))
}

/// The generic timer's counter (CNTVCT_EL0), and its frequency in Hz: time without a system call.
pub fn counter() -> (u64, u64) {
    let (count, frequency);
    // SAFETY: reads two registers that EL0 may read.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) count, out(reg) frequency,
            options(nostack, preserves_flags));
    }
    (count, frequency)
}

/// Fills `buffer` with random bytes; returns how many.
pub fn getrandom(buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes into `buffer` only.
    unsafe {
        syscall(
            __NR_getrandom,
            [buffer.as_mut_ptr() as usize, buffer.len(), 0],
        )
    }
}
