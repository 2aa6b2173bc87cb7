//! The ways into this part of the kernel from the exception vectors.

use super::signal::{self, Info, frame};
use super::thread::{Current, current, try_current};
use super::{fault, scheduler, timer, timers};
use crate::arch::{
    self,
    trap::{Abort, TrapFrame},
    uaccess,
};
use crate::fs::console;
use crate::syscall::errno::Errno;
use crate::{syscall, trace, watchdog};
use core::ops::Range;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    BUS_ADRALN, FPE_FLTDIV, FPE_FLTINV, FPE_FLTOVF, FPE_FLTRES, FPE_FLTUND, FPE_FLTUNK, ILL_ILLOPC,
    SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGTRAP, TRAP_BRKPT, TRAP_HWBKPT, TRAP_TRACE,
};
use memory::{Access, Denial, Mmu, descriptor::Leaf};
use wire::event::Origin;

/// SVC from EL0.
#[inline]
pub fn syscall(frame: &mut TrapFrame) {
    let thread = current();
    syscall::dispatch(&thread, frame);
    if thread.signals.attention() {
        signal::deliver(&thread, frame);
    }
}

/// SVC from EL0, of one of the calls that only look at something. `None`: it is `syscall`'s after
/// all, since a signal waits.
#[inline]
pub fn short_syscall(number: u32) -> Option<u64> {
    let thread = current();
    match thread.signals.attention() {
        true => None,
        false => syscall::short(&thread, number).ok(),
    }
}

/// An abort that is not recorded, by ESR_EL1 and FAR_EL1. False: it has to be handled as any other,
/// since it is no common one.
#[inline(never)]
pub extern "C" fn short_abort(esr: u64, addr: u64) -> bool {
    let thread = current();
    let start = arch::time::rough();
    let done = fault::handle_common(&thread, &Abort::new(esr, addr, 0));
    if done {
        thread.usage.count_short_fault(start);
    }
    done
}

/// SVC from EL0 for a read, or a write, that may be over at once. False: it is `syscall`'s after all,
/// also since a signal waits.
#[inline(always)]
pub fn at_once(
    frame: &mut TrapFrame,
    run: impl FnOnce(&Current, &TrapFrame) -> Option<u64>,
) -> bool {
    let thread = current();
    if thread.signals.attention() {
        return false;
    }
    match run(&thread, frame) {
        Some(value) => {
            frame.x[0] = value;
            true
        }
        None => false,
    }
}

/// A data or instruction abort from EL0.
#[inline]
pub fn user_abort(frame: &mut TrapFrame, abort: Abort) {
    let thread = current();
    thread.usage.enter_kernel();
    if let Err(info) = fault::handle(&thread, frame, abort, Origin::User) {
        thread.signals.own().fault = (abort.addr, told(abort.addr, abort.esr));
        signal::force(&thread, info);
        signal::deliver(&thread, frame);
    }
    thread.usage.leave_kernel();
}

/// Whether a trapped instruction is IC IVAU or one of DC's that EL0 may use: op0 1, op1 3, CRn 7, op2 1,
/// and a CRm of theirs. What of them a core does right is a matter of its errata, so that all trap.
fn is_maintenance(esr: u64) -> bool {
    const IC_IVAU: u64 = 5;
    const DC: [u64; 5] = [10, 11, 12, 13, 14];
    let named = 1 << 20 | 1 << 17 | 3 << 14 | 7 << 10;
    let crm = esr >> 1 & 0xf;
    esr & 0x3f_fc01 == named && (crm == IC_IVAU || DC.contains(&crm))
}

/// Does it for the whole page: programs that make code go on to the next line.
fn maintain(address: u64) -> Result<(), Info> {
    let thread = current();
    let fault = || Info::fault(SIGSEGV, frame::fault_code(&thread, address), address);
    uaccess::read(&mut [0], address).map_err(|_| fault())?;
    let Some(space) = thread.space() else {
        return Err(fault());
    };
    let inner = space.lock();
    let memory = arch::mmu::memory();
    // Another thread may have taken it away, which was as well after this.
    if let Some(leaf) = Leaf::from_bits(inner.map.leaf(memory, address)) {
        memory.mmu.sync_icache(leaf.frame());
    }
    Ok(())
}

/// What a handler is told of an abort: of the kernel's half no more than that nothing is there, as on
/// Linux.
fn told(addr: u64, esr: u64) -> u64 {
    // EC, IL, CM and WnR; and a translation fault at level 0.
    const KEPT: u64 = 0x3f << 26 | 1 << 25 | 1 << 8 | 1 << 6;
    match addr >> 55 & 1 {
        0 => esr,
        _ => esr & KEPT | 4,
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
    const FP: u64 = 0x2c;
    const SYSTEM: u64 = 0x18;
    let class = esr >> 26 & 0x3f;
    let info = match class {
        SYSTEM if is_maintenance(esr) => {
            let register = (esr >> 5 & 0x1f) as usize;
            // The last is XZR.
            let address = frame.x.get(register).copied().unwrap_or(0);
            match maintain(address) {
                Ok(()) => {
                    frame.pc += 4;
                    return;
                }
                Err(info) => info,
            }
        }
        PC_ALIGNMENT => Info::fault(SIGBUS, BUS_ADRALN, addr),
        SP_ALIGNMENT => Info::fault(SIGBUS, BUS_ADRALN, frame.sp),
        BRK => Info::fault(SIGTRAP, TRAP_BRKPT, frame.pc),
        FP => Info::fault(SIGFPE, fp_code(esr), frame.pc),
        _ if STEP.contains(&class) => Info::fault(SIGTRAP, TRAP_TRACE, frame.pc),
        _ if BREAKPOINT.contains(&class) || WATCHPOINT.contains(&class) => {
            Info::fault(SIGTRAP, TRAP_HWBKPT, addr)
        }
        _ => Info::fault(SIGILL, ILL_ILLOPC, frame.pc),
    };
    let thread = current();
    thread.signals.own().fault = (0, esr);
    signal::force(&thread, info);
    signal::deliver(&thread, frame);
}

/// FPE_* of a trapped floating-point exception: the ISS is valid if bit 23 (TFV) is set, and then
/// its low bits are those of FPSR.
fn fp_code(esr: u64) -> u32 {
    const CODES: [(u32, u32); 5] = [
        (0, FPE_FLTINV),
        (1, FPE_FLTDIV),
        (2, FPE_FLTOVF),
        (3, FPE_FLTUND),
        (4, FPE_FLTRES),
    ];
    CODES
        .iter()
        .find(|(bit, _)| esr & 1 << 23 != 0 && esr & 1 << bit != 0)
        .map_or(FPE_FLTUNK, |&(_, code)| code)
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
    if !trace::enabled(trace::FAULT) && short_abort(abort.esr, abort.addr) {
        return true;
    }
    match handle_for_user(&thread, abort) {
        Ok(()) => true,
        Err(info) if info.signal == SIGKILL && !thread.loading.load(Ordering::Relaxed) => {
            // Out of memory: the process ends as soon as the system call is over.
            signal::force(&thread, info);
            false
        }
        Err(_) => false,
    }
}

/// Handles an abort, real or not, of the kernel on behalf of the current thread.
#[inline(always)]
fn handle_for_user(thread: &Current, abort: Abort) -> Result<(), Info> {
    // SAFETY: the frame at the top of the current thread's stack was written when the thread
    // entered the kernel, and the code that got here does not change it in the meantime.
    let frame = unsafe { &*thread.user_frame() };
    fault::handle(thread, frame, abort, Origin::Kernel)
}

/// Has a range of pages of the current thread there, as if it had been read, or written, everywhere.
/// Errors are Linux's of MADV_POPULATE_READ and _WRITE (mm/madvise.c, `madvise_populate`): ENOMEM for
/// a hole, and without memory; EINVAL where the mapping does not permit it; EFAULT past the end of a
/// file; EINTR if the process has to end. The pages before are there then.
pub fn populate(thread: &Current, range: Range<u64>, write: bool) -> Result<(), Errno> {
    /// Pages after which others may run.
    const TURN: u32 = 512;
    let access = match write {
        true => Access::Write,
        false => Access::Read,
    };
    let space = thread.space().ok_or(Errno::ENOMEM)?;
    let (mut at, mut faults) = (range.start, 0u32);
    loop {
        let (next, present) = {
            let inner = space.lock();
            let memory = arch::mmu::memory();
            let next = inner.map.next_fault(memory, at, range.end, access);
            (
                next,
                matches!(next, Ok(Some(page)) if inner.map.leaf(memory, page) != 0),
            )
        };
        at = match next {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(()),
            Err(Denial::Forbidden) => return Err(Errno::EINVAL),
            Err(_) => return Err(Errno::ENOMEM),
        };
        match handle_for_user(thread, Abort::for_user(at, write, present)) {
            Ok(()) => faults += 1,
            Err(info) if info.signal == SIGKILL => return Err(Errno::ENOMEM),
            Err(info) if info.signal == SIGBUS => return Err(Errno::EFAULT),
            // Another thread has changed the mapping since: the next look says how.
            Err(_) => {}
        }
        if faults.is_multiple_of(TURN) {
            if signal::is_killed(thread) {
                return Err(Errno::EINTR);
            }
            scheduler::yield_now();
        }
    }
}

/// The timer interrupt.
pub fn tick() {
    watchdog::tick();
    timer::expire();
    if let Some(thread) = try_current() {
        thread.usage.enter_kernel();
        timers::tick(&thread);
    }
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
    // It may have lost the right to run here.
    let moves = !current().may_run_on(arch::cpu::id());
    if scheduler::cpu().reschedule.replace(false) || moves {
        scheduler::preempt();
    }
    let thread = current();
    if thread.signals.attention() {
        signal::deliver(&thread, frame);
    }
}
