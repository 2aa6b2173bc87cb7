//! epoll, eventfd, timerfd and signalfd.

use super::super::errno::Errno;
use super::super::time::{read_timespec, to_timespec};
use super::super::{Result, user};
use super::poll::{Deadline, with_mask};
use super::{any_file, file, install};
use crate::arch::{time, uaccess};
use crate::fs::special;
use crate::fs::special::epoll::{self, Epoll};
use crate::fs::special::event::Event;
use crate::fs::special::signals::Signals;
use crate::fs::special::timer::Timer;
use crate::fs::{File, Object};
use crate::process::timers::Setting;
use crate::process::{clock, timer};
use alloc::sync::Arc;
use linux_raw_sys::general::{
    CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME_ALARM,
    EFD_SEMAPHORE, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE,
    EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLWAKEUP, O_CLOEXEC, O_NONBLOCK, O_RDWR, TFD_TIMER_ABSTIME,
    TFD_TIMER_CANCEL_ON_SET,
};

/// Bytes of a `struct epoll_event`, which is not packed on arm64.
const EVENT: u64 = 16;
/// EP_MAX_EVENTS.
const MOST_EVENTS: u64 = i32::MAX as u64 / EVENT;

/// epoll_create1(flags).
pub fn epoll_create1(flags: u32) -> Result {
    if flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let file = special::file(Epoll::new()?, "[eventpoll]", O_RDWR)?;
    install(file, flags & O_CLOEXEC != 0, 0)
}

/// epoll_ctl(epoll, operation, fd, event).
pub fn epoll_ctl(own: u64, operation: u32, fd: u64, event: u64) -> Result {
    let (mut events, mut data) = (0, 0);
    if operation != EPOLL_CTL_DEL {
        events = user::read::<u32>(event)?;
        data = user::read::<u64>(event.wrapping_add(8))?;
    }
    let own = file(own)?;
    let target = file(fd)?;
    if target.watchers().is_none() {
        return Err(Errno::EPERM);
    }
    let epoll = epoll::of(&own)?;
    if Arc::ptr_eq(&own, &target) {
        return Err(Errno::EINVAL);
    }
    if events & EPOLLEXCLUSIVE != 0 {
        const ALLOWED: u32 =
            EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE;
        let nested = epoll::of(&target).is_ok();
        if operation == EPOLL_CTL_MOD
            || operation == EPOLL_CTL_ADD && (nested || events & !ALLOWED != 0)
        {
            return Err(Errno::EINVAL);
        }
    }
    let fd = fd as u32;
    match operation {
        EPOLL_CTL_ADD => epoll.add(&own, fd, &target, events, data)?,
        EPOLL_CTL_MOD => epoll.change(fd, &target, events, data)?,
        EPOLL_CTL_DEL => epoll.remove(fd, &target)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn wait(own: u64, addr: u64, most: u64, deadline: Deadline, mask: u64, size: u64) -> Result {
    with_mask(mask, size, || {
        if most as i32 <= 0 || most > MOST_EVENTS {
            return Err(Errno::EINVAL);
        }
        let own = any_file(own)?;
        let found = epoll::of(&own)?.wait(most as usize, deadline)?;
        for (index, (events, data)) in found.iter().enumerate() {
            let at = addr.wrapping_add(index as u64 * EVENT);
            user::write(at, &u64::from(*events))?;
            user::write(at.wrapping_add(8), data)?;
        }
        Ok(found.len() as u64)
    })
}

/// epoll_pwait(epoll, events, count, milliseconds, mask, mask size).
pub fn epoll_pwait(own: u64, addr: u64, most: u64, timeout: i32, mask: u64, size: u64) -> Result {
    let deadline = u64::try_from(timeout).ok().map(|milliseconds| {
        let ticks = timer::ticks(milliseconds * 1_000_000);
        time::now().saturating_add(ticks)
    });
    wait(own, addr, most as u32 as u64, deadline, mask, size)
}

/// epoll_pwait2(epoll, events, count, timeout, mask, mask size).
pub fn epoll_pwait2(own: u64, addr: u64, most: u64, timeout: u64, mask: u64, size: u64) -> Result {
    let deadline = super::poll::deadline(timeout)?;
    wait(own, addr, most as u32 as u64, deadline, mask, size)
}

/// eventfd2(count, flags).
pub fn eventfd2(count: u32, flags: u32) -> Result {
    if flags & !(O_CLOEXEC | O_NONBLOCK | EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL);
    }
    let event = Event::new(count, flags & EFD_SEMAPHORE != 0);
    let file = special::file(event, "[eventfd]", O_RDWR | flags & O_NONBLOCK)?;
    install(file, flags & O_CLOEXEC != 0, 0)
}

/// timerfd_create(clock, flags).
pub fn timerfd_create(clock: u32, flags: u32) -> Result {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let realtime = match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_ALARM => true,
        CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => false,
        _ => return Err(Errno::EINVAL),
    };
    let timer = Timer::new(realtime)?;
    let file = special::file(timer, "[timerfd]", O_RDWR | flags & O_NONBLOCK)?;
    install(file, flags & O_CLOEXEC != 0, 0)
}

fn timer_of(file: &File) -> core::result::Result<&Timer, Errno> {
    match &file.object {
        Object::Special(special) => special.downcast().ok_or(Errno::EINVAL),
        _ => Err(Errno::EINVAL),
    }
}

fn write_setting(addr: u64, setting: Setting) -> core::result::Result<(), Errno> {
    let time = |ticks| to_timespec(clock::from_ticks(ticks));
    user::write(addr, &time(setting.interval))?;
    user::write(addr.wrapping_add(16), &time(setting.end))
}

/// timerfd_settime(fd, flags, new, old).
pub fn timerfd_settime(fd: u64, flags: u32, new: u64, old: u64) -> Result {
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let interval = read_timespec(new)?;
    let value = read_timespec(new.wrapping_add(16))?;
    let file = file(fd)?;
    let timer = timer_of(&file)?;
    let end = if value == 0 {
        0
    } else if flags & TFD_TIMER_ABSTIME == 0 {
        time::now().saturating_add(timer::ticks(value)).max(1)
    } else {
        let epoch = if timer.realtime { clock::epoch() } else { 0 };
        timer::ticks(value.saturating_sub(epoch)).max(1)
    };
    let before = timer.get();
    timer.set(Setting {
        end,
        interval: timer::ticks(interval),
    })?;
    if old != 0 {
        write_setting(old, before)?;
    }
    Ok(0)
}

/// timerfd_gettime(fd, value).
pub fn timerfd_gettime(fd: u64, addr: u64) -> Result {
    let file = file(fd)?;
    write_setting(addr, timer_of(&file)?.get())?;
    Ok(0)
}

/// signalfd4(fd, mask, mask size, flags).
pub fn signalfd4(fd: u64, mask: u64, size: u64, flags: u32) -> Result {
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; 8];
    uaccess::read(&mut bytes, mask)?;
    let mask = u64::from_le_bytes(bytes);
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if fd as i32 == -1 {
        let signals = Signals::new(mask);
        let file = special::file(signals, "[signalfd]", O_RDWR | flags & O_NONBLOCK)?;
        return install(file, flags & O_CLOEXEC != 0, 0);
    }
    let file = file(fd)?;
    let Object::Special(special) = &file.object else {
        return Err(Errno::EINVAL);
    };
    let signals: &Signals = special.downcast().ok_or(Errno::EINVAL)?;
    signals.set(mask);
    Ok(u64::from(fd as u32))
}
