//! From the kernel's first instruction to `main`, and what happens on a panic.

use crate::{Args, eprintln, process};
use core::arch::naked_asm;
use core::panic::PanicInfo;

unsafe extern "C" {
    /// Defined by [`program!`](crate::program).
    fn program_main(stack: *const usize) -> !;
}

/// The entry point. The kernel leaves argc, argv, envp and auxv on the stack.
///
/// A zero frame pointer ends the chain of frame records, so that a stack walk stops here.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text._start")]
extern "C" fn _start() -> ! {
    naked_asm!(
        "mov x29, #0",
        "mov x30, #0",
        "mov x0, sp",
        "b {main}",
        main = sym program_main,
    )
}

/// What `main` may return.
pub trait Termination {
    /// The exit code.
    fn code(self) -> i32;
}

impl Termination for () {
    fn code(self) -> i32 {
        0
    }
}

impl Termination for i32 {
    fn code(self) -> i32 {
        self
    }
}

/// Runs `main` and exits with its code. Only [`program!`](crate::program) calls this.
///
/// # Safety
///
/// `stack` must be the stack pointer that the kernel started the process with.
pub unsafe fn run<T: Termination>(
    stack: *const usize,
    usage: &'static str,
    main: fn(Args) -> T,
) -> ! {
    // SAFETY: the caller's condition is the same.
    let args = unsafe { Args::from_stack(stack, usage) };
    args.help();
    process::exit(main(args).code())
}

/// Names the program's `main` and its usage text (printed by `--help` and on wrong arguments;
/// empty: the program takes every argument as it is).
#[macro_export]
macro_rules! program {
    ($main:path, $usage:expr) => {
        #[unsafe(no_mangle)]
        extern "C" fn program_main(stack: *const usize) -> ! {
            // SAFETY: called by `_start` alone, with the initial stack pointer.
            unsafe { $crate::run(stack, $usage, $main) }
        }
    };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    process::exit(101)
}
