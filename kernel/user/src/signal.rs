//! Signals: handlers, masks, sending.

use crate::process::Pid;
use crate::{Result, syscall};
use linux_raw_sys::general::{
    __NR_kill, __NR_rt_sigaction, __NR_rt_sigpending, __NR_rt_sigprocmask, __NR_rt_sigqueueinfo,
    __NR_rt_sigsuspend, __NR_rt_sigtimedwait, __NR_sigaltstack, SI_QUEUE, SIG_BLOCK, SIG_SETMASK,
    SIG_UNBLOCK,
};

/// A set of signals: bit `n - 1` for signal `n`.
pub type Set = u64;

/// The set of one signal.
pub const fn set(signal: u32) -> Set {
    1 << (signal - 1)
}

/// `siginfo_t`. What the fields mean depends on signal and code.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Info {
    /// si_signo.
    pub signal: u32,
    /// si_errno.
    pub error: i32,
    /// si_code.
    pub code: i32,
    pad: u32,
    /// Offset 16: si_addr, or si_pid and si_uid.
    pub first: u64,
    /// Offset 24: si_value, or si_status.
    pub second: u64,
    rest: [u64; 12],
}

impl Info {
    /// si_pid.
    pub fn pid(&self) -> Pid {
        self.first as Pid
    }
}

/// `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stack {
    /// Lowest address.
    pub address: usize,
    /// SS_*.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
    /// Bytes.
    pub size: usize,
}

/// `ucontext_t` as far as programs look into it.
#[repr(C)]
pub struct Context {
    /// uc_flags, uc_link.
    pub head: [u64; 2],
    /// uc_stack.
    pub stack: Stack,
    /// uc_sigmask.
    pub mask: Set,
    pad: [u64; 16],
    /// uc_mcontext: the address of the fault.
    pub fault_address: u64,
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP.
    pub sp: u64,
    /// PC.
    pub pc: u64,
    /// PSTATE.
    pub pstate: u64,
    pad2: u64,
    /// Records, each with magic and size.
    pub records: [u32; 1024],
}

/// What handles a signal.
pub type Handler = extern "C" fn(u32, &mut Info, &mut Context);

/// What to do on a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Action {
    /// A handler's address, 0 (default) or 1 (ignore).
    pub handler: usize,
    /// SA_*.
    pub flags: usize,
    /// Not ours: handlers return through the kernel's page.
    pub restorer: usize,
    /// Blocked while it runs.
    pub mask: Set,
}

impl Action {
    /// Takes the default.
    pub const DEFAULT: Action = Action {
        handler: 0,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    /// Ignores it.
    pub const IGNORE: Action = Action {
        handler: 1,
        ..Action::DEFAULT
    };

    /// Calls a function.
    pub fn call(handler: Handler, flags: u32) -> Action {
        Action {
            handler: handler as *const () as usize,
            flags: flags as usize,
            ..Action::DEFAULT
        }
    }
}

/// Sets the action of a signal; returns the one before.
pub fn set_action(signal: u32, action: &Action) -> Result<Action> {
    let mut before = Action::DEFAULT;
    // SAFETY: the kernel reads and writes the two structures. Handlers are functions of the type
    // that it calls.
    unsafe {
        syscall(
            __NR_rt_sigaction,
            [
                signal as usize,
                (&raw const *action) as usize,
                (&raw mut before) as usize,
                8,
            ],
        )
    }?;
    Ok(before)
}

fn change_mask(how: u32, signals: Set) -> Result<Set> {
    let mut before: Set = 0;
    // SAFETY: the kernel reads and writes the two words.
    unsafe {
        syscall(
            __NR_rt_sigprocmask,
            [
                how as usize,
                (&raw const signals) as usize,
                (&raw mut before) as usize,
                8,
            ],
        )
    }?;
    Ok(before)
}

/// Blocks signals; returns the mask before.
pub fn block(signals: Set) -> Result<Set> {
    change_mask(SIG_BLOCK, signals)
}

/// Unblocks signals; returns the mask before.
pub fn unblock(signals: Set) -> Result<Set> {
    change_mask(SIG_UNBLOCK, signals)
}

/// Sets the mask; returns the one before.
pub fn set_mask(signals: Set) -> Result<Set> {
    change_mask(SIG_SETMASK, signals)
}

/// Signals that are blocked and wait.
pub fn pending() -> Result<Set> {
    let mut pending: Set = 0;
    // SAFETY: the kernel writes one word.
    unsafe { syscall(__NR_rt_sigpending, [(&raw mut pending) as usize, 8]) }?;
    Ok(pending)
}

/// Sends a signal.
pub fn kill(pid: Pid, signal: u32) -> Result<()> {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_kill, [pid as usize, signal as usize]) }.map(drop)
}

/// Sends a signal with a value.
pub fn queue(pid: Pid, signal: u32, value: u64) -> Result<()> {
    let info = Info {
        signal,
        code: SI_QUEUE,
        second: value,
        ..Info::default()
    };
    // SAFETY: the kernel reads the structure.
    unsafe {
        syscall(
            __NR_rt_sigqueueinfo,
            [pid as usize, signal as usize, (&raw const info) as usize],
        )
    }
    .map(drop)
}

/// Waits, with another mask, until a handler has run.
pub fn suspend(mask: Set) -> crate::Errno {
    // SAFETY: the kernel reads the word.
    match unsafe { syscall(__NR_rt_sigsuspend, [(&raw const mask) as usize, 8]) } {
        Err(errno) => errno,
        Ok(value) => crate::fail(format_args!("rt_sigsuspend returned {value}")),
    }
}

/// Waits for one of `signals`, which are blocked, for so many nanoseconds.
pub fn wait(signals: Set, nanoseconds: u64) -> Result<Info> {
    let mut info = Info::default();
    let timeout = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    // SAFETY: the kernel reads the set and the time, and writes a siginfo_t.
    unsafe {
        syscall(
            __NR_rt_sigtimedwait,
            [
                (&raw const signals) as usize,
                (&raw mut info) as usize,
                timeout.as_ptr() as usize,
                8,
            ],
        )
    }?;
    Ok(info)
}

/// Sets the alternate stack, if one is given; returns the one before.
///
/// # Safety
///
/// Nothing else uses the memory until another is set.
pub unsafe fn alternate_stack(stack: Option<&Stack>) -> Result<Stack> {
    let mut before = Stack::default();
    let new = stack.map_or(0, |stack| (&raw const *stack) as usize);
    // SAFETY: the kernel reads and writes the structures.
    unsafe { syscall(__NR_sigaltstack, [new, (&raw mut before) as usize]) }?;
    Ok(before)
}
