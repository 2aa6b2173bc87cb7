//! Exceptions: what the vectors save, and who handles what.

use super::{time, uaccess};
use crate::{process, syscall};
use aarch64_cpu::registers::{ESR_EL1, FAR_EL1, Readable};
use core::arch::global_asm;
pub use wire::event::Access;

/// The registers of the interrupted code. At the top of the thread's kernel stack while a program
/// is interrupted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The interrupted stack pointer.
    pub sp: u64,
    /// The instruction to return to.
    pub pc: u64,
    /// PSTATE as SPSR_EL1 holds it (0: EL0, AArch64, interrupts on).
    pub pstate: u64,
}

const _: () = assert!(size_of::<TrapFrame>() == 272);

/// A data or instruction abort.
#[derive(Clone, Copy, Debug)]
pub struct Abort {
    /// FAR_EL1.
    pub addr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// What the access wanted.
    pub access: Access,
    /// PMCCNTR_EL0, read a few instructions after the exception was taken.
    pub entry_cycles: u64,
    /// The descriptors do not permit the access: a translation, access flag or permission fault. Not
    /// an alignment fault, an external abort, a TLB conflict, ...
    pub page_fault: bool,
}

const EC_INSTRUCTION_ABORT_EL0: u64 = 0x20;
const EC_DATA_ABORT_EL0: u64 = 0x24;
const EC_DATA_ABORT_EL1: u64 = 0x25;

pub(super) const EMERGENCY_SIZE: usize = 8192;
const OVERFLOW: u64 = 16;

#[repr(C, align(16))]
struct EmergencyStack([u8; EMERGENCY_SIZE]);

/// What reports a kernel stack overflow of the boot core, from which nothing returns. The others
/// get theirs when they are started.
static mut EMERGENCY_STACK: EmergencyStack = EmergencyStack([0; EMERGENCY_SIZE]);

/// The top of the boot core's emergency stack.
pub const BOOT_EMERGENCY_TOP: *const u8 = (&raw const EMERGENCY_STACK)
    .cast::<u8>()
    .wrapping_add(EMERGENCY_SIZE);

global_asm!(
    include_str!("vectors.s"),
    FRAME = const size_of::<TrapFrame>(),
    LOCAL_EMERGENCY = const super::cpu::LOCAL_EMERGENCY,
    OVERFLOW = const OVERFLOW,
    SYSCALL = sym system_call,
    SHORT_SYSCALL = sym short_system_call,
    SHORT_FIRST = const *syscall::SHORT.start(),
    SHORT_COUNT = const *syscall::SHORT.end() - *syscall::SHORT.start() + 1,
    TRACE_MASK = sym crate::trace::MASK,
    TRACE_FAULT = const crate::trace::FAULT,
    SHORT_ABORT = sym process::entry::short_abort,
    READ = const syscall::READ,
    READ_AT_ONCE = sym read_at_once,
    WRITE_AT_ONCE = sym write_at_once,
    EL0_EXCEPTION = sym el0_exception,
    EL0_INTERRUPT = sym el0_interrupt,
    EL1_EXCEPTION = sym el1_exception,
    EL1_INTERRUPT = sym el1_interrupt,
    FATAL = sym fatal,
);

impl Abort {
    /// From ESR_EL1, FAR_EL1 and PMCCNTR_EL0.
    #[inline(always)]
    pub fn new(esr: u64, addr: u64, entry_cycles: u64) -> Self {
        let instruction = esr >> 26 == EC_INSTRUCTION_ABORT_EL0;
        // Cache maintenance reports WnR=1 and CM=1 although it only needs to read.
        let write = esr & 1 << 6 != 0 && esr & 1 << 8 == 0;
        Self {
            addr,
            esr,
            access: match (instruction, write) {
                (true, _) => Access::Exec,
                (false, true) => Access::Write,
                (false, false) => Access::Read,
            },
            entry_cycles,
            page_fault: (0b000100..=0b001111).contains(&(esr & 0x3f)),
        }
    }

    /// What the kernel would take if it accessed a page for the user; `present`: the page is there,
    /// without the permission.
    pub fn for_user(addr: u64, write: bool, present: bool) -> Self {
        const LONG_INSTRUCTION: u64 = 1 << 25;
        const TRANSLATION_LEVEL_3: u64 = 0b000111;
        const PERMISSION_LEVEL_3: u64 = 0b001111;
        let status = match present {
            true => PERMISSION_LEVEL_3,
            false => TRANSLATION_LEVEL_3,
        };
        let esr = EC_DATA_ABORT_EL1 << 26 | LONG_INSTRUCTION | u64::from(write) << 6 | status;
        Self::new(esr, addr, time::cycles())
    }
}

/// What a short system call returns: in x0 and x1.
#[repr(C)]
struct Short {
    value: u64,
    /// 0: it has to be made as any other.
    done: u64,
}

extern "C" fn short_system_call(number: u32) -> Short {
    match process::entry::short_syscall(number) {
        Some(value) => Short { value, done: 1 },
        None => Short { value: 0, done: 0 },
    }
}

extern "C" fn system_call(frame: &mut TrapFrame) {
    process::entry::syscall(frame);
}

/// Whether the read is over: not 0.
extern "C" fn read_at_once(frame: &mut TrapFrame) -> u64 {
    process::entry::at_once(frame, syscall::read_at_once).into()
}

/// Whether the write is over: not 0.
extern "C" fn write_at_once(frame: &mut TrapFrame) -> u64 {
    process::entry::at_once(frame, syscall::write_at_once).into()
}

const _: () = assert!(syscall::WRITE == syscall::READ + 1);

extern "C" fn el0_exception(frame: &mut TrapFrame, esr: u64, cycles: u64, far: u64) {
    match esr >> 26 {
        EC_DATA_ABORT_EL0 | EC_INSTRUCTION_ABORT_EL0 => {
            process::entry::user_abort(frame, Abort::new(esr, far, cycles));
        }
        _ => process::entry::user_exception(frame, esr, far),
    }
}

extern "C" fn el0_interrupt(frame: &mut TrapFrame) {
    interrupt();
    process::entry::leave_interrupt(frame);
}

extern "C" fn el1_interrupt() {
    interrupt();
}

fn interrupt() {
    let timer = || {
        // Level triggered: quiet it before the controller is told that it was handled.
        time::stop_timer();
        process::entry::tick();
    };
    crate::driver::interrupt::handle(timer, process::entry::input, super::secondary::answer);
    process::membarrier::answer();
}

extern "C" fn el1_exception(frame: &mut TrapFrame, esr: u64, cycles: u64, far: u64) {
    if esr >> 26 == EC_DATA_ABORT_EL1
        && let Some(fix_up) = uaccess::fix_up(frame.pc)
    {
        if !process::entry::kernel_abort(Abort::new(esr, far, cycles)) {
            frame.pc = fix_up;
        }
        return;
    }
    crate::panic::exception("exception in the kernel", frame, esr, far)
}

extern "C" fn fatal(frame: &TrapFrame, vector: u64, esr: u64, far: u64) -> ! {
    let what = match vector {
        OVERFLOW => "kernel stack overflow",
        7 | 11 => "SError: an asynchronous external abort",
        6 | 10 => "FIQ, which nothing enables",
        12..=15 => "exception from AArch32",
        _ => "exception that cannot be",
    };
    crate::panic::exception(what, frame, esr, far)
}

/// Enters a program for the first time.
///
/// # Safety
/// `frame` lies at the very top of the running thread's kernel stack, and the address space it is
/// meant for is active.
pub unsafe fn return_to_user(frame: &TrapFrame) -> ! {
    unsafe extern "C" {
        fn return_to_user_frame(frame: *const TrapFrame) -> !;
    }
    // SAFETY: the caller's promise: SP ends at the top of the stack once the frame is popped.
    unsafe { return_to_user_frame(frame) }
}

/// ESR_EL1 and FAR_EL1 as they stand, for panics.
pub fn syndrome() -> (u64, u64) {
    (ESR_EL1.get(), FAR_EL1.get())
}
