//! System calls on signals.

use super::errno::Errno;
use super::{Result, user};
use crate::process::signal::{self, Action, MAX, UNBLOCKABLE};
use crate::process::table;
use crate::process::thread::current;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK};

/// Bytes in a signal mask.
const MASK: u64 = 8;

/// kill(pid, signal).
pub fn kill(pid: i32, number: u32) -> Result {
    if number > MAX {
        return Err(Errno::EINVAL);
    }
    let own = &current().process;
    match pid {
        1.. => {
            let process = table::get(pid as u32).ok_or(Errno::ESRCH)?;
            if number != 0 {
                signal::send(&process, number);
            }
        }
        -1 => {
            let own = own.pid;
            signal::send_to(number, |process| {
                process.pid != own && process.pid != crate::process::INIT
            })?;
        }
        _ => {
            let group = if pid == 0 {
                own.group.load(Ordering::Relaxed)
            } else {
                pid.unsigned_abs()
            };
            signal::send_to(number, |process| {
                process.group.load(Ordering::Relaxed) == group
            })?;
        }
    }
    Ok(0)
}

/// tgkill(process, thread, signal).
pub fn tgkill(process: u32, thread: u32, number: u32) -> Result {
    if process as i32 <= 0 || thread as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    if process != thread {
        return Err(Errno::ESRCH);
    }
    kill(process as i32, number)
}

/// rt_sigaction(signal, new, old, mask size).
pub fn rt_sigaction(number: u32, new: u64, old: u64, size: u64) -> Result {
    if !(1..=MAX).contains(&number)
        || size != MASK
        || (new != 0 && signal::bit(number) & UNBLOCKABLE != 0)
    {
        return Err(Errno::EINVAL);
    }
    let process = &current().process;
    let wanted = if new != 0 {
        Some(user::read::<Action>(new)?)
    } else {
        None
    };
    let before = signal::action(process, number);
    if let Some(wanted) = wanted {
        signal::set_action(process, number, wanted)?;
    }
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
    let before = thread.blocked.load(Ordering::Relaxed);
    if new != 0 {
        let mask: u64 = user::read(new)?;
        let after = match how {
            SIG_BLOCK => before | mask,
            SIG_UNBLOCK => before & !mask,
            SIG_SETMASK => mask,
            _ => return Err(Errno::EINVAL),
        };
        thread
            .blocked
            .store(after & !UNBLOCKABLE, Ordering::Relaxed);
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
    let pending = thread.pending.load(Ordering::Relaxed) & thread.blocked.load(Ordering::Relaxed);
    crate::arch::uaccess::write(addr, &pending.to_le_bytes()[..size as usize])?;
    Ok(0)
}

/// sigaltstack(new, old): there are no handlers to run on it yet; the old one is "disabled".
pub fn sigaltstack(old: u64) -> Result {
    const DISABLE: u64 = 2;
    if old != 0 {
        for (offset, word) in [0, DISABLE, 0].into_iter().enumerate() {
            user::write(old + 8 * offset as u64, &word)?;
        }
    }
    Ok(0)
}
