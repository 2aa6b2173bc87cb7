//! System calls on signals.

use super::errno::Errno;
use super::{Result, user};
use crate::arch::{self, trap::TrapFrame, uaccess};
use crate::process::signal::{self, Action, AlternateStack, Info, MAX, UNBLOCKABLE, frame};
use crate::process::thread::{Current, Thread, current};
use crate::process::{INIT, Process, credentials, table, timer};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    SI_TKILL, SI_USER, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGCONT, SIGSEGV,
};

/// Bytes in a signal mask.
const MASK: u64 = 8;

type Fallible<T> = core::result::Result<T, Errno>;

fn check_number(number: u32) -> Fallible<()> {
    if number > MAX {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Whether the caller may send `number` to a process.
fn may_send(to: &Process, number: u32) -> bool {
    let from = &current().process;
    credentials::may_signal(from, to)
        || number == SIGCONT
            && from.session.load(Ordering::Relaxed) == to.session.load(Ordering::Relaxed)
}

/// Sends to a process, or only asks whether that would be possible, for signal 0.
fn send(process: &Process, info: Info) -> Fallible<()> {
    if !may_send(process, info.signal) {
        return Err(Errno::EPERM);
    }
    if info.signal != 0 && !signal::send_info(process, info) && is_queued(&info) {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

/// Whether a signal must not be sent without its info: a real-time signal of rt_sigqueueinfo.
fn is_queued(info: &Info) -> bool {
    info.signal >= signal::FIRST_REAL_TIME && info.code != SI_USER as i32
}

/// kill(pid, signal).
pub fn kill(pid: i32, number: u32) -> Result {
    check_number(number)?;
    let info = Info::from_current(number, SI_USER as i32);
    let own = &current().process;
    let group = match pid {
        1.. => {
            let process = table::get_any(pid as u32).ok_or(Errno::ESRCH)?;
            send(&process, info)?;
            return Ok(0);
        }
        0 => own.group.load(Ordering::Relaxed),
        -1 => 0,
        i32::MIN => return Err(Errno::ESRCH),
        _ => pid.unsigned_abs(),
    };
    let sent = (number != 0).then_some(info);
    signal::send_to(sent, |process| {
        let selected = if pid == -1 {
            process.pid != own.pid && process.pid != INIT
        } else {
            process.group.load(Ordering::Relaxed) == group
        };
        selected.then(|| may_send(process, number))
    })?;
    Ok(0)
}

/// The thread `tid`, of process `pid` if one is named, and its process. The first thread may have
/// ended before its process was collected: that is there all the same, as on Linux.
fn thread(pid: Option<i32>, tid: i32) -> Fallible<(Arc<Process>, Option<Arc<Thread>>)> {
    if tid <= 0 || pid.is_some_and(|pid| pid <= 0) {
        return Err(Errno::EINVAL);
    }
    let thread = table::thread(tid as u32);
    let process = match &thread {
        Some(thread) => thread.process.clone(),
        None => table::get(tid as u32).ok_or(Errno::ESRCH)?,
    };
    if pid.is_some_and(|pid| pid as u32 != process.pid) {
        return Err(Errno::ESRCH);
    }
    Ok((process, thread))
}

fn send_to_thread((process, thread): (Arc<Process>, Option<Arc<Thread>>), info: Info) -> Result {
    if !may_send(&process, info.signal) {
        return Err(Errno::EPERM);
    }
    let Some(thread) = &thread else {
        return Ok(0);
    };
    if info.signal != 0 && !signal::send_to_thread(thread, info) && is_queued(&info) {
        return Err(Errno::EAGAIN);
    }
    Ok(0)
}

/// tkill(thread, signal).
pub fn tkill(tid: i32, number: u32) -> Result {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let thread = thread(None, tid)?;
    check_number(number)?;
    send_to_thread(thread, Info::from_current(number, SI_TKILL))
}

/// tgkill(process, thread, signal).
pub fn tgkill(pid: i32, tid: i32, number: u32) -> Result {
    let thread = thread(Some(pid), tid)?;
    check_number(number)?;
    send_to_thread(thread, Info::from_current(number, SI_TKILL))
}

/// The info that a program sends. It may not claim to come from the kernel, or from kill, unless it
/// sends to itself.
fn read_info(number: u32, addr: u64, own: bool) -> Fallible<Info> {
    let mut sent: Info = user::read(addr)?;
    sent.signal = number;
    if !own && (sent.code >= 0 || sent.code == SI_TKILL) {
        return Err(Errno::EPERM);
    }
    Ok(sent)
}

/// rt_sigqueueinfo(process, signal, info).
pub fn rt_sigqueueinfo(pid: i32, number: u32, addr: u64) -> Result {
    let sent = read_info(number, addr, pid as u32 == current().process.pid)?;
    check_number(number)?;
    let process = table::get(pid as u32).filter(|_| pid > 0);
    send(&*process.ok_or(Errno::ESRCH)?, sent)?;
    Ok(0)
}

/// rt_tgsigqueueinfo(process, thread, signal, info).
pub fn rt_tgsigqueueinfo(pid: i32, tid: i32, number: u32, addr: u64) -> Result {
    let sent = read_info(number, addr, pid as u32 == current().process.pid)?;
    let thread = thread(Some(pid), tid)?;
    check_number(number)?;
    send_to_thread(thread, sent)
}

/// rt_sigaction(signal, new, old, mask size).
pub fn rt_sigaction(number: u32, new: u64, old: u64, size: u64) -> Result {
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let wanted = if new != 0 {
        Some(user::read::<Action>(new)?)
    } else {
        None
    };
    if !(1..=MAX).contains(&number) || (new != 0 && signal::bit(number) & UNBLOCKABLE != 0) {
        return Err(Errno::EINVAL);
    }
    let process = &current().process;
    let before = match wanted {
        Some(wanted) => signal::set_action(process, number, wanted)?,
        None => signal::action(process, number),
    };
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// rt_sigprocmask(how, new, old, mask size).
pub fn rt_sigprocmask(how: u32, new: u64, old: u64, size: u64) -> Result {
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let thread = current();
    let before = thread.signals.blocked();
    if new != 0 {
        let mask: u64 = user::read(new)?;
        let after = match how {
            SIG_BLOCK => before | mask,
            SIG_UNBLOCK => before & !mask,
            SIG_SETMASK => mask,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(&thread, after);
    }
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// rt_sigpending(mask, mask size).
pub fn rt_sigpending(addr: u64, size: u64) -> Result {
    if size > MASK {
        return Err(Errno::EINVAL);
    }
    let thread = current();
    let pending = signal::pending(&thread) & thread.signals.blocked();
    uaccess::write(addr, &pending.to_le_bytes()[..size as usize])?;
    Ok(0)
}

/// rt_sigsuspend(mask, mask size): always ends with EINTR, or not at all.
pub fn rt_sigsuspend(mask: u64, size: u64) -> Result {
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let mask = user::read(mask)?;
    let thread = current();
    signal::set_temporary_mask(&thread, mask);
    signal::wait_for_any(&thread);
    Err(Errno::EINTR)
}

/// rt_sigtimedwait(signals, info, timeout, mask size): returns the signal.
pub fn rt_sigtimedwait(signals: u64, addr: u64, timeout: u64, size: u64) -> Result {
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let wanted: u64 = user::read(signals)?;
    let deadline = if timeout == 0 {
        u64::MAX
    } else {
        let ticks = timer::ticks(super::time::read_timespec(timeout)?);
        ticks.saturating_add(arch::time::now())
    };
    let thread = current();
    let info = wait_for(&thread, wanted, deadline)?;
    if addr != 0 {
        info.write(addr)?;
    }
    Ok(info.signal.into())
}

/// Takes one of `wanted`, waiting until `deadline` for it.
fn wait_for(thread: &Current, wanted: u64, deadline: u64) -> Fallible<Info> {
    signal::await_signals(thread, wanted);
    let mut slept = Ok(());
    let info = loop {
        if let Some(info) = signal::take_awaited(thread, wanted) {
            break Ok(info);
        }
        match slept {
            // Something else came.
            Err(error) => break Err(error),
            Ok(()) if arch::time::now() >= deadline => break Err(Errno::EAGAIN),
            Ok(()) => slept = timer::sleep_until(deadline),
        }
    };
    signal::await_signals(thread, 0);
    info
}

/// rt_sigreturn(): the end of a handler. A frame that makes no sense is a SIGSEGV.
pub fn rt_sigreturn(registers: &mut TrapFrame) -> Result {
    let thread = current();
    if frame::restore(&thread, registers).is_err() {
        let info = Info::fault(
            SIGSEGV,
            frame::fault_code(&thread, registers.sp),
            registers.sp,
        );
        signal::force(&thread, info);
    }
    // Whatever x0 is now, it stays.
    Ok(registers.x[0])
}

/// sigaltstack(new, old), with the stack pointer at `sp`.
pub fn sigaltstack(sp: u64, new: u64, old: u64) -> Result {
    let thread = current();
    let wanted = if new != 0 {
        Some(user::read::<AlternateStack>(new)?)
    } else {
        None
    };
    let stack = thread.signals.own().stack;
    let before = AlternateStack {
        flags: frame::stack_status(&stack, sp),
        ..stack
    };
    if let Some(wanted) = wanted {
        frame::set_stack(&thread, &wanted, sp)?;
    }
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}
