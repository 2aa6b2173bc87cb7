//! Signals: sending, blocking, default actions.
//!
//! Handlers are recorded but not called yet: a signal with a handler takes its default action.
//! Stopping and continuing are ignored.

use super::thread::{Current, Thread};
use super::{INIT, Process, exit, scheduler, table};
use crate::arch::{heap, trap::TrapFrame};
use crate::syscall::errno::Errno;
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH,
};

/// Signals are 1 to this.
pub const MAX: u32 = 64;
/// SIG_DFL.
const DEFAULT: u64 = 0;
/// SIG_IGN.
const IGNORE: u64 = 1;

/// `struct sigaction` of the system call.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Action {
    /// Handler, SIG_DFL or SIG_IGN.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// What a process does on each signal.
pub type Actions = [Action; MAX as usize];

/// The bit of a signal in a mask.
pub const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Signals that cannot be blocked, caught or ignored.
pub const UNBLOCKABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);

/// Signals that do nothing by default, or that do what is not done here (stop and continue).
const HARMLESS: u64 = bit(SIGCHLD)
    | bit(SIGURG)
    | bit(SIGWINCH)
    | bit(SIGCONT)
    | bit(SIGSTOP)
    | bit(SIGTSTP)
    | bit(SIGTTIN)
    | bit(SIGTTOU);

/// The action of `signal`.
pub fn action(process: &Process, signal: u32) -> Action {
    process
        .actions
        .lock()
        .as_ref()
        .map_or(Action::default(), |actions| actions[signal as usize - 1])
}

/// A table of actions on the heap, or ENOMEM.
fn boxed(actions: &Actions) -> Result<Box<Actions>, Errno> {
    if !heap::reserve(2 * size_of::<Actions>()) {
        return Err(Errno::ENOMEM);
    }
    Ok(Box::new(*actions))
}

/// A copy for a forked child.
pub fn try_clone(actions: &Option<Box<Actions>>) -> Result<Option<Box<Actions>>, Errno> {
    actions.as_deref().map(boxed).transpose()
}

/// Sets the action of `signal`.
pub fn set_action(process: &Process, signal: u32, action: Action) -> Result<(), Errno> {
    if process.actions.lock().is_none() {
        let defaults = boxed(&[Action::default(); MAX as usize])?;
        *process.actions.lock() = Some(defaults);
    }
    if let Some(actions) = process.actions.lock().as_mut() {
        actions[signal as usize - 1] = action;
    }
    Ok(())
}

/// Whether a process ignores `signal`, by its action or by default.
pub fn ignores(process: &Process, signal: u32) -> bool {
    match action(process, signal).handler {
        IGNORE => true,
        DEFAULT => bit(signal) & HARMLESS != 0,
        // A handler of a harmless signal that is not called is the same as ignoring the signal.
        _ => bit(signal) & HARMLESS != 0,
    }
}

/// Whether the process said SIG_IGN.
pub fn ignores_explicitly(process: &Process, signal: u32) -> bool {
    action(process, signal).handler == IGNORE
}

/// Handlers go with the program they are in; what is ignored stays ignored.
pub fn reset_for_exec(actions: &mut Actions) {
    for action in actions.iter_mut().filter(|action| action.handler != IGNORE) {
        *action = Action::default();
    }
}

/// Sends `signal` to a process. `/init` gets only what it has a handler for.
pub fn send(process: &Arc<Process>, signal: u32) {
    let protected = process.pid == INIT && action(process, signal).handler <= IGNORE;
    if protected || bit(signal) & UNBLOCKABLE == 0 && ignores(process, signal) {
        return;
    }
    if let Some(thread) = process.thread() {
        thread.pending.fetch_or(bit(signal), Ordering::Release);
        if deliverable(&thread) != 0 {
            scheduler::wake(&thread);
        }
    }
}

/// Sends `signal` to all processes that `wanted` selects; ESRCH if there are none.
pub fn send_to(signal: u32, mut wanted: impl FnMut(&Process) -> bool) -> Result<(), Errno> {
    let mut found = Err(Errno::ESRCH);
    let mut pid = 0;
    while let Some(process) = table::next(pid) {
        pid = process.pid;
        if wanted(&process) {
            found = Ok(());
            if signal != 0 {
                send(&process, signal);
            }
        }
    }
    found
}

/// Signals of a thread that wait and are not blocked.
#[inline]
pub fn deliverable(thread: &Thread) -> u64 {
    let blocked = thread.blocked.load(Ordering::Relaxed) & !UNBLOCKABLE;
    thread.pending.load(Ordering::Acquire) & !blocked
}

/// Acts on what waits, before the thread returns to user mode.
pub fn deliver(thread: &Current, frame: &mut TrapFrame) {
    loop {
        let signals = deliverable(thread);
        if signals == 0 {
            return;
        }
        // SIGKILL first; else the lowest.
        let signal = if signals & bit(SIGKILL) != 0 {
            SIGKILL
        } else {
            signals.trailing_zeros() + 1
        };
        thread.pending.fetch_and(!bit(signal), Ordering::Relaxed);
        if signal == SIGKILL || !ignores(&thread.process, signal) {
            exit::kill(thread, signal, frame.pc, 0);
        }
    }
}
