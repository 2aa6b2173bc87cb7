//! What signals do to the thread that gets them: a handler, or the default action.

use super::restart::Interrupted;
use super::{
    Action, DEFAULT, HARMLESS, IGNORE, Info, STOPPING, UNBLOCKABLE, bit, deliverable, frame, take,
};
use crate::arch::trap::TrapFrame;
use crate::process::thread::{Current, State};
use crate::process::threads::End;
use crate::process::{exit, group, scheduler, timers};
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{SA_NODEFER, SA_RESETHAND, SIGBUS, SIGKILL, SIGSEGV, SIGSTOP};

/// Acts on what waits, before the thread returns to user mode.
pub fn deliver(thread: &Current, frame: &mut TrapFrame) {
    run(thread, frame, None);
}

/// The same, when the thread leaves a system call that has returned EINTR. `frame` has the
/// registers as the call was made.
#[cold]
pub fn deliver_interrupted(thread: &Current, frame: &mut TrapFrame) {
    let call = Interrupted::new(frame);
    run(thread, frame, Some(call));
}

fn run(thread: &Current, frame: &mut TrapFrame, mut call: Option<Interrupted>) {
    loop {
        // Before the look at the queues: what comes later raises it again.
        thread.signals.attention.store(false, Ordering::Relaxed);
        while let Some((info, action)) = next(thread, frame) {
            if let Some(call) = call.take() {
                call.handled(frame, &action);
            }
            handle(thread, frame, &info, &action);
        }
        if let Some(call) = call.take() {
            call.not_handled(frame, thread);
        }
        // No handler took it along: the mask of the time before the call is back, and what it did
        // not block, too.
        super::end_temporary_mask(thread);
        if !thread.signals.attention() {
            return;
        }
    }
}

/// The next signal that has a handler. Those that have none are acted upon here.
fn next(thread: &Current, frame: &TrapFrame) -> Option<(Info, Action)> {
    let process = &thread.process;
    loop {
        if process.signals.lock().stopped {
            sleep_while_stopped(thread);
        }
        let mut state = process.signals.lock();
        match state.threads.end {
            End::Nobody => {}
            End::Others(tid) if tid == thread.tid() => {}
            End::Others(_) => {
                drop(state);
                exit::thread_end(0);
            }
            End::All(status) => {
                drop(state);
                exit::thread_end(status);
            }
        }
        let unblocked = !thread.signals.blocked() | UNBLOCKABLE;
        let info = take(thread, &mut state, unblocked)?;
        let signal = info.signal;
        let action = state.action(signal);
        match action.handler {
            IGNORE => continue,
            DEFAULT => {}
            _ => {
                if action.has(SA_RESETHAND)
                    && let Some(actions) = state.actions.as_mut()
                {
                    actions[signal as usize - 1].handler = DEFAULT;
                }
                drop(state);
                timers::delivered(process, &info);
                return Some((info, action));
            }
        }
        if bit(signal) & HARMLESS != 0 || state.protects(process) {
            continue;
        }
        drop(state);
        if bit(signal) & STOPPING != 0 {
            stop(thread, signal);
        } else {
            let addr = match signal {
                SIGSEGV | SIGBUS if info.code > 0 => info.addr(),
                _ => 0,
            };
            exit::kill(thread, signal, frame.pc, addr);
        }
    }
}

/// Stops the process, unless nobody could make it go on: the terminal does not stop a process group
/// that no shell looks after.
fn stop(thread: &Current, signal: u32) {
    let process = &thread.process;
    if signal != SIGSTOP && group::is_orphaned(process.group.load(Ordering::Relaxed), None) {
        return;
    }
    {
        let mut state = process.signals.lock();
        // SIGCONT or SIGKILL came while nothing was locked.
        if !core::mem::take(&mut state.stopping) {
            return;
        }
        if !state.stopped {
            state.stop(thread, signal);
        }
    }
    sleep_while_stopped(thread);
}

fn sleep_while_stopped(thread: &Current) {
    let process = &thread.process;
    loop {
        let mut state = process.signals.lock();
        if !state.stopped || deliverable(thread) & bit(SIGKILL) != 0 {
            thread.stopped.store(false, Ordering::Relaxed);
            break;
        }
        thread.stopped.store(true, Ordering::Relaxed);
        // The last one tells.
        if let Some(signal) = state.stop_is_complete() {
            drop(state);
            group::report_stopped(process, signal);
            continue;
        }
        scheduler::prepare_to_block();
        drop(state);
        // No other signal ends it.
        scheduler::block_for_good();
    }
    thread.set_state(State::Running);
}

/// Makes the thread run its handler when it returns to user mode.
fn handle(thread: &Current, frame: &mut TrapFrame, info: &Info, action: &Action) {
    if frame::build(thread, frame, info, action).is_err() {
        let mut state = thread.process.signals.lock();
        // A SIGSEGV that cannot be handled is not handled.
        if info.signal == SIGSEGV
            && let Some(actions) = state.actions.as_mut()
        {
            actions[SIGSEGV as usize - 1].handler = DEFAULT;
        }
        drop(state);
        super::force(thread, Info::kernel(SIGSEGV));
        return;
    }
    let mut blocked = thread.signals.blocked() | action.mask;
    if !action.has(SA_NODEFER) {
        blocked |= bit(info.signal);
    }
    thread.signals.own().saved = None;
    super::set_blocked(thread, blocked);
}
