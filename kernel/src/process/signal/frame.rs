//! The frame that a handler runs on, with Linux's layout for arm64 (`arch/arm64/kernel/signal.c`,
//! `asm/sigcontext.h`, `asm/ucontext.h`): `siginfo_t`, then `ucontext_t` with the registers and a
//! list of records, then a frame record for those who walk the stack.
//!
//! It is the program's memory: written piece by piece, with its own permissions, so that a stack
//! page may be separated or appear at the first touch, and no kernel stack ever holds all of it.

use super::{Action, AlternateStack, Info, OfThread, info};
use crate::arch::uaccess::{self, Fault};
use crate::arch::{fp, trap::TrapFrame};
use crate::process::thread::Current;
use crate::process::vdso;
use crate::syscall::errno::Errno;
use crate::syscall::user;
use core::ops::ControlFlow;
use linux_raw_sys::general::{
    SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV, SS_AUTODISARM,
    SS_DISABLE, SS_ONSTACK,
};

/// Offsets of the parts.
const CONTEXT: u64 = info::SIZE as u64;
/// `uc_mcontext`: `fault_address`, then x0 to PSTATE as in [`TrapFrame`].
const MACHINE: u64 = CONTEXT + 176;
const REGISTERS: u64 = MACHINE + 8;
/// `uc_mcontext.__reserved`: records, each with its magic and size.
const RECORDS: u64 = MACHINE + 288;
const RECORDS_LEN: u64 = 4096;
/// `struct rt_sigframe`.
pub const SIZE: u64 = RECORDS + RECORDS_LEN;
const _: () = assert!(SIZE == 4688);
/// What a handler's frame takes at most, for AT_MINSIGSTKSZ: with the frame record and alignment.
pub const LEN_MAX: u64 = SIZE + 16 + 16;
/// The smallest alternate stack that may be set: Linux's MINSIGSTKSZ.
const MIN_STACK: u64 = 5120;

/// `struct fpsimd_context`: header, FPSR, FPCR, q0 to q31.
const FP_MAGIC: u32 = 0x4650_8001;
const FP_LEN: u32 = 528;
/// `struct esr_context`.
const ESR_MAGIC: u32 = 0x4553_5201;
const ESR_LEN: u32 = 16;

/// The beginning of `ucontext_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ContextHead {
    flags: u64,
    link: u64,
    stack: AlternateStack,
    mask: u64,
}

/// `struct _aarch64_ctx`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Record {
    magic: u32,
    len: u32,
}

/// `stack_t` as a program is told of it, with its stack pointer at `sp`.
pub fn stack_status(stack: &AlternateStack, sp: u64) -> u32 {
    let state = if stack.size == 0 {
        SS_DISABLE
    } else if on_stack(stack, sp) {
        SS_ONSTACK
    } else {
        0
    };
    state | stack.flags & SS_AUTODISARM
}

/// Whether `sp` is on the alternate stack. One that disarms itself is left by that alone.
pub fn on_stack(stack: &AlternateStack, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && sp > stack.address && sp - stack.address <= stack.size
}

/// Writes the frame, and sets the registers such that the handler runs. On an error nothing but
/// memory below the stack pointer has changed.
pub fn build(
    thread: &Current,
    frame: &mut TrapFrame,
    info: &Info,
    action: &Action,
) -> Result<(), Fault> {
    let (stack, fault) = {
        let own = thread.signals.own();
        (own.stack, own.fault)
    };
    let mut top = frame.sp;
    if action.has(SA_ONSTACK) && stack.size != 0 && !on_stack(&stack, frame.sp) {
        top = stack.address.wrapping_add(stack.size);
    }
    let frame_record = (top.wrapping_sub(16)) & !15;
    let base = frame_record.wrapping_sub(SIZE);
    let mask = saved_mask(&thread.signals);

    write(frame_record, &frame.x[29].to_le_bytes())?;
    write(frame_record.wrapping_add(8), &frame.x[30].to_le_bytes())?;
    if action.has(SA_SIGINFO) {
        info.write(base)?;
    }
    let head = ContextHead {
        flags: 0,
        link: 0,
        stack,
        mask,
    };
    put(base.wrapping_add(CONTEXT), &head)?;
    write(base.wrapping_add(MACHINE), &fault.0.to_le_bytes())?;
    put(base.wrapping_add(REGISTERS), &*frame)?;
    let mut at = base.wrapping_add(RECORDS);
    at = write_fp(thread, at)?;
    if matches!(info.signal, SIGSEGV | SIGBUS) && fault.1 != 0 {
        put(at, &header(ESR_MAGIC, ESR_LEN))?;
        write(at.wrapping_add(8), &fault.1.to_le_bytes())?;
        at = at.wrapping_add(ESR_LEN.into());
    }
    put(at, &header(0, 0))?;

    if stack.flags & SS_AUTODISARM != 0 {
        thread.signals.own().stack = AlternateStack::NONE;
    }
    frame.x[0] = info.signal.into();
    if action.has(SA_SIGINFO) {
        frame.x[1] = base;
        frame.x[2] = base.wrapping_add(CONTEXT);
    }
    frame.x[29] = frame_record;
    frame.x[30] = if action.has(SA_RESTORER) {
        action.restorer
    } else {
        vdso::sigreturn(thread)
    };
    frame.sp = base;
    frame.pc = action.handler;
    Ok(())
}

/// The mask that the handler's return brings back.
fn saved_mask(signals: &OfThread) -> u64 {
    signals.own().saved.unwrap_or(signals.blocked())
}

fn header(magic: u32, len: u32) -> Record {
    Record { magic, len }
}

fn write(at: u64, bytes: &[u8]) -> Result<(), Fault> {
    uaccess::write(at, bytes)
}

fn put<T: user::Plain>(at: u64, value: &T) -> Result<(), Fault> {
    user::write(at, value).map_err(|_| Fault)
}

/// Writes the FP record; returns where the next one goes.
fn write_fp(thread: &Current, at: u64) -> Result<u64, Fault> {
    thread.save_user_state();
    put(at, &header(FP_MAGIC, FP_LEN))?;
    let fp = thread.fp().clone();
    let (fpsr, fpcr) = fp.control();
    write(at.wrapping_add(8), &fpsr.to_le_bytes())?;
    write(at.wrapping_add(12), &fpcr.to_le_bytes())?;
    user::write_slice(at.wrapping_add(16), fp.vectors()).map_err(|_| Fault)?;
    Ok(at.wrapping_add(FP_LEN.into()))
}

/// `rt_sigreturn`: takes the registers, the mask and the alternate stack from the frame at the stack
/// pointer. None of it is taken unless all of it is good.
pub fn restore(thread: &Current, frame: &mut TrapFrame) -> Result<(), Fault> {
    /// PSTATE: the flags, DIT and SSBS, which belong to the program.
    const FREE: u64 = 0xf << 28 | 1 << 24 | 1 << 12;
    /// What must be 0: AArch32, an exception level or stack other than EL0's, masked interrupts.
    const FIXED: u64 = 1 << 4 | 0xf | 0xf << 6;
    let base = frame.sp;
    if !base.is_multiple_of(16) {
        return Err(Fault);
    }
    let get = |at| user::read::<ContextHead>(at).map_err(|_| Fault);
    let head = get(base.wrapping_add(CONTEXT))?;
    let mut registers: TrapFrame = user::read(base.wrapping_add(REGISTERS)).map_err(|_| Fault)?;
    if registers.pstate & FIXED != 0 {
        return Err(Fault);
    }
    registers.pstate &= FREE;
    let fp = find_fp(base.wrapping_add(RECORDS))?;
    let mut state = fp::State::new();
    let control = user::read::<u64>(fp.wrapping_add(8)).map_err(|_| Fault)?;
    state.set_control(control as u32, (control >> 32) as u32);
    user::read_slice(fp.wrapping_add(16), state.vectors_mut()).map_err(|_| Fault)?;
    thread.load_fp(&state);
    *frame = registers;
    super::set_blocked(thread, head.mask);
    // As on Linux, a stack that cannot be set is no reason to fail.
    let _ = set_stack(thread, &head.stack, frame.sp);
    Ok(())
}

/// Finds the FP record in the list at `start`, which must be in order.
fn find_fp(start: u64) -> Result<u64, Fault> {
    let mut found = None;
    let mut at = 0;
    while at + 8 <= RECORDS_LEN {
        let record: Record = user::read(start.wrapping_add(at)).map_err(|_| Fault)?;
        match check(record, RECORDS_LEN - at, found.is_some())? {
            ControlFlow::Break(()) => return found.ok_or(Fault),
            ControlFlow::Continue(()) if record.magic == FP_MAGIC => {
                found = Some(start.wrapping_add(at));
            }
            ControlFlow::Continue(()) => {}
        }
        at += u64::from(record.len);
    }
    Err(Fault)
}

/// One record of the list; `Break`: the last.
fn check(record: Record, room: u64, has_fp: bool) -> Result<ControlFlow<()>, Fault> {
    let good = match (record.magic, record.len) {
        (0, 0) => return Ok(ControlFlow::Break(())),
        (FP_MAGIC, FP_LEN) => !has_fp,
        (ESR_MAGIC, len) => len >= 8 && len % 16 == 0,
        _ => false,
    };
    if good && u64::from(record.len) <= room {
        Ok(ControlFlow::Continue(()))
    } else {
        Err(Fault)
    }
}

/// SEGV_* for a frame that is not where the stack pointer is.
pub fn fault_code(thread: &Current, addr: u64) -> u32 {
    let mapped = thread
        .space()
        .is_some_and(|space| space.lock().overlaps(addr, addr.saturating_add(1)));
    if mapped { SEGV_ACCERR } else { SEGV_MAPERR }
}

/// Sets the alternate stack, for a program with its stack pointer at `sp` (sigaltstack(2)).
pub fn set_stack(thread: &Current, stack: &AlternateStack, sp: u64) -> Result<(), Errno> {
    let mut own = thread.signals.own();
    if own.stack.size != 0 && on_stack(&own.stack, sp) {
        return Err(Errno::EPERM);
    }
    let mode = stack.flags & !SS_AUTODISARM;
    if mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0 {
        return Err(Errno::EINVAL);
    }
    own.stack = if mode == SS_DISABLE {
        AlternateStack {
            flags: stack.flags,
            ..AlternateStack::NONE
        }
    } else if stack.size < MIN_STACK {
        return Err(Errno::ENOMEM);
    } else {
        AlternateStack { pad: 0, ..*stack }
    };
    Ok(())
}
