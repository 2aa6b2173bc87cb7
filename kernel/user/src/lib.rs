//! The runtime of the user programs: what lies between a program and the Linux/arm64 system calls.
//!
//! The programs are ordinary static ELF files: they run on this kernel, on Linux and under
//! `qemu-aarch64`. QEMU's user mode differs from Linux in two ways that matter here: it runs
//! `vfork` as `fork`, and it cannot `execve` an arm64 file unless the host has binfmt_misc set up
//! for it. Each program says where that changes its result.
//!
//! The runtime has no writable statics and no heap, and output is buffered on the stack for the
//! length of one `print!`. So a program's pages change only where the program itself changes them,
//! which is what its trace is about.
//!
//! A program is a file in `src/bin`:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! user::program!(main, "usage: hello");
//!
//! fn main(_: user::Args) {
//!     user::println!("hello, world");
//! }
//! ```
//!
//! Exit codes: 0 success, 1 a check failed, 2 wrong arguments, 101 a panic.
#![no_std]

/// Keeps this function apart from others with equal code. The compiler merges such functions into
/// one, and then the report names the wrong one as the place of a fault.
#[macro_export]
macro_rules! distinct {
    () => {
        // SAFETY: a comment: no instruction.
        unsafe {
            core::arch::asm!(
                concat!("// line ", line!()),
                options(nomem, nostack, preserves_flags)
            )
        }
    };
}

mod args;
pub mod arguments;
mod errno;
pub mod file;
pub mod memory;
mod print;
pub mod process;
pub mod signal;
mod start;
pub mod sync;
mod syscall;
pub mod text;
pub mod thread;
pub mod time;

pub use args::{Args, Strings, Words};
pub use errno::{Errno, Result};
pub use fastrand::Rng;
pub use linux_raw_sys::{auxvec, errno as errno_numbers, general as linux, ioctl, net};
pub use print::{OrFail, fail, print};
pub use start::{Termination, run};
pub use syscall::syscall;
