//! System calls on time.

use super::errno::Errno;
use super::{Result, user};
use crate::arch::time;
use crate::process::image::USER_HZ;
use crate::process::timer;
use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_THREAD_CPUTIME_ID,
    TIMER_ABSTIME, timespec, timeval,
};

const SECOND: u64 = 1_000_000_000;

/// `struct tms`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Tms {
    times: [u64; 4],
}

/// The time of a clock in nanoseconds. Without a clock of the day the machine starts in 1970, and
/// the CPU's time is not told apart by process yet.
fn now(clock: u32) -> core::result::Result<u64, Errno> {
    match clock {
        CLOCK_REALTIME
        | CLOCK_MONOTONIC
        | CLOCK_PROCESS_CPUTIME_ID
        | CLOCK_THREAD_CPUTIME_ID
        | CLOCK_MONOTONIC_RAW
        | CLOCK_REALTIME_COARSE
        | CLOCK_MONOTONIC_COARSE
        | CLOCK_BOOTTIME => Ok(timer::nanoseconds()),
        _ => Err(Errno::EINVAL),
    }
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
    now(clock)?;
    if addr != 0 {
        user::write(addr, &to_timespec((SECOND / time::hz()).max(1)))?;
    }
    Ok(0)
}

/// gettimeofday(time).
pub fn gettimeofday(addr: u64) -> Result {
    if addr != 0 {
        let now = timer::nanoseconds();
        let time = timeval {
            tv_sec: (now / SECOND) as i64,
            tv_usec: (now % SECOND / 1000) as i64,
        };
        user::write(addr, &time)?;
    }
    Ok(0)
}

/// nanosleep(request, remaining).
pub fn nanosleep(request: u64, remaining: u64) -> Result {
    sleep(
        timer::ticks(read_timespec(request)?).saturating_add(time::now()),
        remaining,
    )
}

/// clock_nanosleep(clock, flags, request, remaining).
pub fn clock_nanosleep(clock: u32, flags: u32, request: u64, remaining: u64) -> Result {
    now(clock)?;
    let ticks = timer::ticks(read_timespec(request)?);
    if flags & TIMER_ABSTIME != 0 {
        sleep(ticks, 0)
    } else {
        sleep(ticks.saturating_add(time::now()), remaining)
    }
}

fn sleep(deadline: u64, remaining: u64) -> Result {
    let result = timer::sleep_until(deadline);
    if result.is_err() && remaining != 0 {
        let left = u128::from(deadline.saturating_sub(time::now())) * u128::from(SECOND)
            / u128::from(time::hz());
        user::write(remaining, &to_timespec(left as u64))?;
    }
    result?;
    Ok(0)
}

/// times(buffer): CPU times are not counted per process yet; the result is the time since boot.
pub fn times(addr: u64) -> Result {
    if addr != 0 {
        user::write(addr, &Tms::default())?;
    }
    Ok(timer::nanoseconds() / (SECOND / USER_HZ))
}
