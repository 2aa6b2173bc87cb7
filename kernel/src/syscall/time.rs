//! System calls on time.

use super::errno::Errno;
use super::{Result, user};
use crate::arch::time;
use crate::process::image::USER_HZ;
use crate::process::signal::restart::{Restart, Sleep};
use crate::process::thread::current;
use crate::process::{Process, clock, table, timer, usage};
use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID, TIMER_ABSTIME, timespec, timeval,
};

pub const SECOND: u64 = 1_000_000_000;

/// `struct tms`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Tms {
    times: [u64; 4],
}

/// The time of a clock in nanoseconds.
fn now(clock: u32) -> core::result::Result<u64, Errno> {
    match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE | CLOCK_TAI => Ok(clock::realtime()),
        CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_MONOTONIC_COARSE | CLOCK_BOOTTIME => {
            Ok(clock::monotonic())
        }
        CLOCK_PROCESS_CPUTIME_ID => Ok(cpu_time(&current().process)),
        CLOCK_THREAD_CPUTIME_ID => {
            let thread = current();
            thread.usage.leave_kernel();
            Ok(clock::from_ticks(thread.usage.totals().time()))
        }
        // The CPU time of a process: its number, inverted, above three bits that say which time.
        clock if clock as i32 <= -8 => {
            const SCHED: u32 = 2;
            const THREAD: u32 = 4;
            let pid = !(clock as i32 >> 3) as u32;
            if clock & THREAD != 0 {
                return thread_time(pid, clock & 3);
            }
            let process = match pid {
                0 => current().process.clone(),
                pid => table::get(pid).ok_or(Errno::EINVAL)?,
            };
            if clock & 3 > SCHED {
                return Err(Errno::EINVAL);
            }
            Ok(cpu_time(&process))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The CPU time of a thread of the caller's process; `which` is as in the clock's number.
fn thread_time(tid: u32, which: u32) -> core::result::Result<u64, Errno> {
    let own = current();
    if which == 3 {
        return Err(Errno::EINVAL);
    }
    if tid == 0 || tid == own.tid() {
        return now(CLOCK_THREAD_CPUTIME_ID);
    }
    let thread = table::thread(tid).filter(|thread| thread.process.pid == own.process.pid);
    let thread = thread.ok_or(Errno::EINVAL)?;
    Ok(clock::from_ticks(thread.usage.totals().time()))
}

fn cpu_time(process: &Process) -> u64 {
    let thread = current();
    if process.pid == thread.process.pid {
        thread.usage.leave_kernel();
    }
    clock::from_ticks(usage::of_process(process).time())
}

pub fn to_timespec(nanoseconds: u64) -> timespec {
    timespec {
        tv_sec: (nanoseconds / SECOND) as i64,
        tv_nsec: (nanoseconds % SECOND) as i64,
    }
}

/// Reads a `struct timespec` as nanoseconds, saturating.
pub fn read_timespec(addr: u64) -> core::result::Result<u64, Errno> {
    let time: timespec = user::read(addr)?;
    if time.tv_sec < 0 || !(0..SECOND as i64).contains(&time.tv_nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((time.tv_sec as u64)
        .saturating_mul(SECOND)
        .saturating_add(time.tv_nsec as u64))
}

/// clock_gettime(clock, time).
pub fn clock_gettime(clock: u32, addr: u64) -> Result {
    user::write(addr, &to_timespec(now(clock)?))?;
    Ok(0)
}

/// clock_getres(clock, resolution).
pub fn clock_getres(clock: u32, addr: u64) -> Result {
    /// What Linux says of the coarse clocks, with HZ=250.
    const COARSE: u64 = 4_000_000;
    now(clock)?;
    let resolution = match clock {
        CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE => COARSE,
        _ => 1,
    };
    if addr != 0 {
        user::write(addr, &to_timespec(resolution))?;
    }
    Ok(0)
}

/// gettimeofday(time, zone): the zone is Greenwich's.
pub fn gettimeofday(addr: u64, zone: u64) -> Result {
    if addr != 0 {
        let now = clock::realtime();
        let time = timeval {
            tv_sec: (now / SECOND) as i64,
            tv_usec: (now % SECOND / 1000) as i64,
        };
        user::write(addr, &time)?;
    }
    if zone != 0 {
        user::write(zone, &0_u64)?;
    }
    Ok(0)
}

/// nanosleep(request, remaining).
pub fn nanosleep(request: u64, remaining: u64) -> Result {
    let ticks = timer::ticks(read_timespec(request)?);
    sleep(Sleep {
        deadline: ticks.saturating_add(time::now()),
        remaining,
    })
}

/// clock_nanosleep(clock, flags, request, remaining).
pub fn clock_nanosleep(clock: u32, flags: u32, request: u64, remaining: u64) -> Result {
    now(clock)?;
    // Linux sleeps by these, and by CLOCK_PROCESS_CPUTIME_ID, which makes no sense with one thread.
    if !matches!(
        clock,
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_TAI
    ) {
        return Err(Errno::EOPNOTSUPP);
    }
    let wanted = read_timespec(request)?;
    if flags & TIMER_ABSTIME == 0 {
        return nanosleep(request, remaining);
    }
    let epoch = match clock {
        CLOCK_REALTIME | CLOCK_TAI => clock::epoch(),
        _ => 0,
    };
    timer::sleep_until(timer::ticks(wanted.saturating_sub(epoch)))?;
    Ok(0)
}

/// Sleeps for a time that was given as a duration; restart_syscall goes on with it.
fn sleep(sleep: Sleep) -> Result {
    let thread = current();
    let result = timer::sleep_until(sleep.deadline);
    if result == Err(Errno::EINTR) {
        if sleep.remaining != 0 {
            let left = sleep.deadline.saturating_sub(time::now());
            user::write(sleep.remaining, &to_timespec(clock::from_ticks(left)))?;
        }
        thread.signals.own().restart = Some(Restart::Sleep(sleep));
    }
    result?;
    Ok(0)
}

/// restart_syscall(): goes on with what was interrupted last, whose arguments `call` still has.
pub fn restart_syscall(call: &[u64; 31]) -> Result {
    let last = current().signals.own().restart.take();
    match last.ok_or(Errno::EINTR)? {
        Restart::Sleep(last) => sleep(last),
        Restart::Futex(deadline) => super::futex::wait_on(call, deadline),
    }
}

/// times(buffer): returns the time since boot.
pub fn times(addr: u64) -> Result {
    if addr != 0 {
        let process = &current().process;
        let (own, children) = (usage::of_process(process), usage::of_children(process));
        let times = [own.user, own.system, children.user, children.system];
        user::write(
            addr,
            &Tms {
                times: times.map(usage::user_hz),
            },
        )?;
    }
    Ok(clock::monotonic() / (SECOND / USER_HZ))
}
