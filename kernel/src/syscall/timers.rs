//! System calls on timers.

use super::errno::Errno;
use super::time::{SECOND, read_timespec, to_timespec};
use super::{Result, user};
use crate::process::signal;
use crate::process::thread::current;
use crate::process::timers::{self, Follows, Setting};
use crate::process::{clock, table, timer};
use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME,
    CLOCK_THREAD_CPUTIME_ID, ITIMER_PROF, SIGALRM, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD_ID,
    TIMER_ABSTIME, timeval,
};

/// Reads a `struct timeval` as nanoseconds.
fn read_timeval(addr: u64) -> core::result::Result<u64, Errno> {
    let time: timeval = user::read(addr)?;
    if time.tv_sec < 0 || !(0..1_000_000).contains(&time.tv_usec) {
        return Err(Errno::EINVAL);
    }
    Ok((time.tv_sec as u64)
        .saturating_mul(SECOND)
        .saturating_add(time.tv_usec as u64 * 1000))
}

/// Rounded up, so that what runs is never shown as 0.
fn to_timeval(ticks: u64) -> timeval {
    let microseconds = clock::from_ticks(ticks).div_ceil(1000);
    timeval {
        tv_sec: (microseconds / 1_000_000) as i64,
        tv_usec: (microseconds % 1_000_000) as i64,
    }
}

fn write_interval(addr: u64, setting: Setting) -> core::result::Result<(), Errno> {
    user::write(addr, &to_timeval(setting.interval))?;
    user::write(addr.wrapping_add(16), &to_timeval(setting.end))
}

/// getitimer(which, value).
pub fn getitimer(which: u32, addr: u64) -> Result {
    if which > ITIMER_PROF {
        return Err(Errno::EINVAL);
    }
    write_interval(addr, timers::interval_timer(&current().process, which))?;
    Ok(0)
}

/// setitimer(which, new, old).
pub fn setitimer(which: u32, new: u64, old: u64) -> Result {
    let mut setting = Setting::default();
    if new != 0 {
        setting.interval = timer::ticks(read_timeval(new)?);
        setting.end = timer::ticks(read_timeval(new.wrapping_add(16))?);
    }
    if which > ITIMER_PROF {
        return Err(Errno::EINVAL);
    }
    let before = timers::set_interval_timer(&current().process, which, setting)?;
    if old != 0 {
        write_interval(old, before)?;
    }
    Ok(0)
}

/// `struct sigevent`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Event {
    value: u64,
    signal: u32,
    notify: u32,
    thread: u32,
    pad: [u32; 11],
}

/// timer_create(clock, event, id).
pub fn timer_create(clock: u32, event: u64, addr: u64) -> Result {
    let follows = match clock {
        CLOCK_MONOTONIC | CLOCK_BOOTTIME => Follows::Monotonic,
        CLOCK_REALTIME => Follows::Realtime,
        CLOCK_PROCESS_CPUTIME_ID | CLOCK_THREAD_CPUTIME_ID => Follows::Cpu,
        _ => return Err(Errno::EINVAL),
    };
    let process = &current().process;
    let (mut number, mut value, mut thread) = (SIGALRM, None, None);
    if event != 0 {
        let event: Event = user::read(event)?;
        value = Some(event.value);
        number = event.signal;
        match event.notify {
            SIGEV_NONE => number = 0,
            SIGEV_SIGNAL => {}
            notify if notify == SIGEV_SIGNAL | SIGEV_THREAD_ID => {
                let target = table::thread(event.thread);
                target
                    .filter(|target| target.process.pid == process.pid)
                    .ok_or(Errno::EINVAL)?;
                thread = Some(event.thread);
            }
            _ => return Err(Errno::EINVAL),
        }
        if event.notify != SIGEV_NONE && !(1..=signal::MAX).contains(&number) {
            return Err(Errno::EINVAL);
        }
    }
    let id = timers::create(process, follows, number, value, thread)?;
    if let Err(error) = user::write(addr, &id) {
        timers::delete(process, id)?;
        return Err(error);
    }
    Ok(0)
}

fn write_setting(addr: u64, setting: Setting) -> core::result::Result<(), Errno> {
    let time = |ticks| to_timespec(clock::from_ticks(ticks));
    user::write(addr, &time(setting.interval))?;
    user::write(addr.wrapping_add(16), &time(setting.end))
}

/// timer_settime(id, flags, new, old).
pub fn timer_settime(id: u32, flags: u32, new: u64, old: u64) -> Result {
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    let interval = read_timespec(new)?;
    let end = read_timespec(new.wrapping_add(16))?;
    let absolute = flags & TIMER_ABSTIME != 0;
    let before = timers::set(&current().process, id, absolute, end, interval)?;
    if old != 0 {
        write_setting(old, before)?;
    }
    Ok(0)
}

/// timer_gettime(id, value).
pub fn timer_gettime(id: u32, addr: u64) -> Result {
    write_setting(addr, timers::get(&current().process, id)?)?;
    Ok(0)
}

/// timer_getoverrun(id).
pub fn timer_getoverrun(id: u32) -> Result {
    Ok(timers::overrun(&current().process, id)?.into())
}

/// timer_delete(id).
pub fn timer_delete(id: u32) -> Result {
    timers::delete(&current().process, id)?;
    Ok(0)
}
