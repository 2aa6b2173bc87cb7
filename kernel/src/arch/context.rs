//! Switching between kernel stacks, and the thread pointer.

use aarch64_cpu::registers::{Readable, TPIDR_EL0, Writeable};

/// What a thread that is not running keeps: the callee-saved registers and SP.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct Context {
    x19_to_x28: [u64; 10],
    fp: u64,
    lr: u64,
    sp: u64,
}

unsafe extern "C" {
    fn context_switch(from: *mut Context, to: *const Context);
    fn context_start();
}

impl Context {
    /// A context that has yet to be filled by switching away from it.
    pub const fn empty() -> Self {
        Self {
            x19_to_x28: [0; 10],
            fp: 0,
            lr: 0,
            sp: 0,
        }
    }

    /// A context that runs `entry(arg)` on the stack that ends at `stack_top` (16-byte aligned).
    pub fn new(stack_top: u64, entry: extern "C" fn(usize) -> !, arg: usize) -> Self {
        let mut context = Self::empty();
        context.x19_to_x28[0] = entry as usize as u64;
        context.x19_to_x28[1] = arg as u64;
        context.lr = context_start as *const () as u64;
        context.sp = stack_top;
        context
    }
}

/// Saves the running context in `from` and goes on in `to`.
///
/// # Safety
/// Both point to contexts that nobody else touches meanwhile; `to` was made by [`Context::new`] on
/// a live stack or saved by this function, and is resumed once.
#[inline]
pub unsafe fn switch(from: *mut Context, to: *const Context) {
    // SAFETY: the caller's promise; the callee-saved registers and SP are what the ABI lets a
    // function preserve.
    unsafe { context_switch(from, to) }
}

/// TPIDR_EL0, the program's thread pointer.
pub fn thread_pointer() -> u64 {
    TPIDR_EL0.get()
}

/// Sets TPIDR_EL0.
pub fn set_thread_pointer(value: u64) {
    TPIDR_EL0.set(value);
}
