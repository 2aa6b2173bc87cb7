//! The ways into this part of the kernel from the exception vectors.

use super::thread::{current, try_current};
use super::{exit, fault, scheduler, signal, timer};
use crate::arch::{
    self,
    trap::{Abort, TrapFrame},
};
use crate::fs::console;
use crate::{syscall, trace};
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{SIGBUS, SIGILL, SIGKILL, SIGTRAP};
use wire::event::Origin;

/// SVC from EL0.
#[inline]
pub fn syscall(frame: &mut TrapFrame) {
    let thread = current();
    syscall::dispatch(&thread, frame);
    if thread.pending.load(Ordering::Relaxed) != 0 {
        signal::deliver(&thread, frame);
    }
}

/// A data or instruction abort from EL0.
#[inline]
pub fn user_abort(frame: &mut TrapFrame, abort: Abort) {
    let thread = current();
    if let Err(signal) = fault::handle(&thread, frame, &abort, Origin::User) {
        exit::kill(&thread, signal, frame.pc, abort.addr);
    }
}

/// Any other exception from EL0.
pub fn user_exception(frame: &mut TrapFrame, esr: u64, addr: u64) {
    /// Exception classes (ESR_EL1.EC).
    const PC_ALIGNMENT: u64 = 0x22;
    const SP_ALIGNMENT: u64 = 0x26;
    const BREAKPOINT: core::ops::RangeInclusive<u64> = 0x30..=0x31;
    const STEP: core::ops::RangeInclusive<u64> = 0x32..=0x33;
    const WATCHPOINT: core::ops::RangeInclusive<u64> = 0x34..=0x35;
    const BRK: u64 = 0x3c;
    let class = esr >> 26 & 0x3f;
    let signal = match class {
        PC_ALIGNMENT | SP_ALIGNMENT => SIGBUS,
        BRK => SIGTRAP,
        _ if BREAKPOINT.contains(&class)
            || STEP.contains(&class)
            || WATCHPOINT.contains(&class) =>
        {
            SIGTRAP
        }
        _ => SIGILL,
    };
    let addr = if class == PC_ALIGNMENT { addr } else { 0 };
    exit::kill(&current(), signal, frame.pc, addr);
}

/// An abort of the kernel at an access to user memory. True: resolved, try again. False: the access
/// fails.
pub fn kernel_abort(abort: Abort) -> bool {
    if scheduler::cpu().no_faults.get() {
        return false;
    }
    let Some(thread) = try_current() else {
        return false;
    };
    // SAFETY: the frame at the top of the current thread's stack was written when the thread
    // entered the kernel, and the code that this exception interrupted does not change it in the
    // meantime.
    let frame = unsafe { &*thread.user_frame() };
    match fault::handle(&thread, frame, &abort, Origin::Kernel) {
        Ok(()) => true,
        Err(SIGKILL) if !thread.loading.load(Ordering::Relaxed) => {
            // Out of memory: the process ends as soon as the system call is over.
            thread
                .pending
                .fetch_or(signal::bit(SIGKILL), Ordering::Relaxed);
            false
        }
        Err(_) => false,
    }
}

/// The timer interrupt.
pub fn tick() {
    timer::expire();
    if arch::cpu::id() == 0 {
        console::receive();
        trace::tick();
    }
    scheduler::cpu().reschedule.set(true);
}

/// The UART's interrupt.
pub fn input() {
    console::receive();
}

/// Before an interrupt returns to EL0.
pub fn leave_interrupt(frame: &mut TrapFrame) {
    if scheduler::cpu().reschedule.replace(false) {
        scheduler::preempt();
    }
    let thread = current();
    if thread.pending.load(Ordering::Relaxed) != 0 {
        signal::deliver(&thread, frame);
    }
}
