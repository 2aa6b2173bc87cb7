//! The system call instruction.

use crate::{Errno, Result};
use core::arch::asm;

/// Makes the system call `number` with up to six arguments.
///
/// # Safety
///
/// The kernel does what the call says, to whatever memory the arguments name: the caller must be
/// allowed to do the same.
#[inline(always)]
pub unsafe fn syscall<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    let mut x = [0; 6];
    x[..N].copy_from_slice(&arguments);
    let result: usize;
    // SAFETY: the ABI of Linux/arm64: number in x8, arguments in x0-x5, result in x0, every other
    // register kept. Memory may change, which asm! assumes by default. The rest is the caller's.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number as usize,
            inlateout("x0") x[0] => result,
            in("x1") x[1],
            in("x2") x[2],
            in("x3") x[3],
            in("x4") x[4],
            in("x5") x[5],
            options(nostack)
        );
    }
    // The last page of the address space is never a result: -4095 to -1 are errors.
    match -(result as isize) {
        errno @ 1..=4095 => Err(Errno(errno as u32)),
        _ => Ok(result),
    }
}
