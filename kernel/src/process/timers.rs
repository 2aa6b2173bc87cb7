//! Timers of processes: setitimer(2), timer_create(2), and the limit on CPU time.
//!
//! Those that follow a clock of the world are in [`ALARMS`], in the order in which they end; whoever
//! programs the hardware's timer looks there. Those that follow the CPU time of a process are looked
//! at by the tick, as on Linux. All times are in ticks of the counter.

use super::signal::{self, Info};
use super::thread::Thread;
use super::{Process, clock, limits, table, timer, usage};
use crate::arch::time;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use linux_raw_sys::general::{RLIMIT_CPU, SI_TIMER, SIGALRM, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU};
use memory::{Lock, Rank};

/// The most timers of one process.
const MAX_TIMERS: usize = 1024;

/// When a timer ends, and how long it then runs again. In ticks of whatever it follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    /// When it ends; 0: it does not run.
    pub end: u64,
    /// 0: once.
    pub interval: u64,
}

impl Setting {
    /// It has ended by `now`: how often, and runs again if it should. At most one signal per 100 µs
    /// is worth the interrupts; what an interval is shorter counts as overruns.
    fn expire(&mut self, now: u64) -> u64 {
        if self.interval == 0 {
            self.end = 0;
            return 1;
        }
        let shortest = time::hz() / 10_000;
        let past = now.saturating_sub(self.end);
        let mut times = past / self.interval + 1;
        let mut next = self.end.saturating_add(times.saturating_mul(self.interval));
        if next - now < shortest {
            let more = (shortest - (next - now)).div_ceil(self.interval);
            if self.interval < shortest {
                times += more;
                next = next.saturating_add(more.saturating_mul(self.interval));
            }
        }
        self.end = next;
        times
    }
}

/// What a timer of timer_create follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// The monotonic clock, or the boot clock.
    Monotonic,
    /// The time of day.
    Realtime,
    /// The CPU time of the process, or of its thread.
    Cpu,
}

/// A timer of timer_create.
pub struct Timer {
    follows: Follows,
    setting: Setting,
    /// The signal; 0: none (SIGEV_NONE).
    signal: u32,
    value: u64,
    /// For the thread (SIGEV_THREAD_ID) instead of the process.
    thread: Option<u32>,
    /// Of the last signal that was delivered.
    overrun: u32,
}

/// Which timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// ITIMER_REAL.
    Real,
    /// By the number of timer_create.
    Numbered(u32),
}

/// The timers of a process.
pub struct Timers {
    /// Some timer, or limit, is to be looked at by the tick.
    ticking: AtomicBool,
    state: Lock<State>,
}

#[derive(Default)]
struct State {
    real: Setting,
    /// ITIMER_VIRTUAL and ITIMER_PROF.
    cpu: [Setting; 2],
    numbered: Vec<Option<Timer>>,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            ticking: AtomicBool::new(false),
            state: Lock::new(Rank::Timers, State::default()),
        }
    }
}

/// A timer that runs.
struct Alarm {
    end: u64,
    pid: u32,
    which: Which,
}

/// Sorted, the first to end comes last.
static ALARMS: Lock<Vec<Alarm>> = Lock::new(Rank::Alarms, Vec::new());

/// When the next timer ends.
pub fn next_alarm() -> Option<u64> {
    ALARMS.lock().last().map(|alarm| alarm.end)
}

fn start(end: u64, pid: u32, which: Which) -> Result<(), Errno> {
    let mut alarms = ALARMS.lock();
    alarms.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
    let at = alarms.partition_point(|alarm| alarm.end > end);
    alarms.insert(at, Alarm { end, pid, which });
    drop(alarms);
    timer::rearm(end);
    Ok(())
}

fn stop(pid: u32, which: Option<Which>) {
    ALARMS
        .lock()
        .retain(|alarm| alarm.pid != pid || which.is_some_and(|which| which != alarm.which));
}

/// The timer interrupt: what has ended by now.
pub fn expire(now: u64) {
    loop {
        let alarm = {
            let mut alarms = ALARMS.lock();
            if alarms.last().is_none_or(|alarm| alarm.end > now) {
                return;
            }
            alarms.pop()
        };
        if let Some(alarm) = alarm
            && let Some(process) = table::get(alarm.pid)
        {
            ring(&process, alarm.which, now);
        }
    }
}

fn ring(process: &Process, which: Which, now: u64) {
    let (info, thread, again) = {
        let mut state = process.timers.state.lock();
        match which {
            Which::Real if state.real.end != 0 && state.real.end <= now => {
                state.real.expire(now);
                (Some(Info::kernel(SIGALRM)), None, state.real.end)
            }
            Which::Numbered(id) => {
                let Some(Some(timer)) = state.numbered.get_mut(id as usize) else {
                    return;
                };
                if timer.setting.end == 0 || timer.setting.end > now {
                    return;
                }
                let times = timer.setting.expire(now);
                (timer.info(id, times), timer.thread, timer.setting.end)
            }
            Which::Real => return,
        }
    };
    if again != 0 {
        // Without memory it ends here.
        let _ = start(again, process.pid, which);
    }
    send(process, info, thread);
}

impl Timer {
    fn info(&self, id: u32, times: u64) -> Option<Info> {
        let overrun = (times - 1).min(i32::MAX as u64);
        (self.signal != 0).then(|| Info {
            signal: self.signal,
            code: SI_TIMER,
            fields: [u64::from(id) | overrun << 32, self.value, 0, 0],
            ..Info::default()
        })
    }
}

fn send(process: &Process, info: Option<Info>, thread: Option<u32>) {
    let Some(info) = info else { return };
    match thread.and_then(table::thread) {
        Some(thread) => signal::send_to_thread(&thread, info),
        None => signal::send_info(process, info),
    };
}

/// A signal of a timer reaches the program: its overruns are what timer_getoverrun tells.
pub fn delivered(process: &Process, info: &Info) {
    if let Some(id) = info.timer() {
        let mut state = process.timers.state.lock();
        if let Some(Some(timer)) = state.numbered.get_mut(id as usize) {
            timer.overrun = (info.fields[0] >> 32) as u32;
        }
    }
}

/// The tick, for the thread that it interrupted: CPU timers and the limit.
pub fn tick(thread: &Thread) {
    let process = &thread.process;
    if process.timers.ticking.load(Ordering::Relaxed) {
        look_at_cpu_time(process);
    }
}

#[cold]
fn look_at_cpu_time(process: &Process) {
    let used = usage::of_process(process);
    let times = [used.user, used.time()];
    for (which, signal) in [SIGVTALRM, SIGPROF].into_iter().enumerate() {
        let due = {
            let setting = &mut process.timers.state.lock().cpu[which];
            let due = setting.end != 0 && setting.end <= times[which];
            if due {
                setting.expire(times[which]);
            }
            due
        };
        if due {
            signal::send_info(process, Info::kernel(signal));
        }
    }
    let mut id = 0;
    loop {
        let (info, thread) = {
            let mut state = process.timers.state.lock();
            let Some(slot) = state.numbered.get_mut(id as usize) else {
                break;
            };
            match slot {
                Some(timer)
                    if timer.follows == Follows::Cpu
                        && timer.setting.end != 0
                        && timer.setting.end <= used.time() =>
                {
                    let times = timer.setting.expire(used.time());
                    (timer.info(id, times), timer.thread)
                }
                _ => (None, None),
            }
        };
        send(process, info, thread);
        id += 1;
    }
    let (soft, hard) = process.limits.lock().get(RLIMIT_CPU);
    let ticks = |seconds: u64| seconds.saturating_mul(time::hz());
    if hard != limits::INFINITY && used.time() >= ticks(hard) {
        signal::send_info(process, Info::kernel(SIGKILL));
    } else if soft != limits::INFINITY && used.time() >= ticks(soft) {
        // The next one is due in a second.
        process.limits.lock().allow_second(soft);
        signal::send_info(process, Info::kernel(SIGXCPU));
    }
}

impl Timers {
    /// Whether the tick looks at it.
    pub fn is_watched(&self) -> bool {
        self.ticking.load(Ordering::Relaxed)
    }
}

/// The tick has to look at a process from now on.
pub fn watch(process: &Process) {
    process.timers.ticking.store(true, Ordering::Relaxed);
}

/// The time that an interval timer (ITIMER_*) follows.
fn now_of(process: &Process, which: u32) -> u64 {
    let used = usage::of_process(process);
    match which {
        0 => time::now(),
        1 => used.user,
        _ => used.time(),
    }
}

/// getitimer: what is left, and the interval.
pub fn interval_timer(process: &Process, which: u32) -> Setting {
    let now = now_of(process, which);
    let state = process.timers.state.lock();
    let setting = match which {
        0 => state.real,
        n => state.cpu[n as usize - 1],
    };
    left(setting, now)
}

/// What is left of a timer, at least a tick while it runs.
fn left(setting: Setting, now: u64) -> Setting {
    let end = match setting.end {
        0 => 0,
        end => end.saturating_sub(now).max(1),
    };
    Setting { end, ..setting }
}

/// setitimer: `new.end` is how long from now.
pub fn set_interval_timer(process: &Process, which: u32, new: Setting) -> Result<Setting, Errno> {
    let before = interval_timer(process, which);
    let now = now_of(process, which);
    let setting = from_now(new, now);
    if which == 0 {
        stop(process.pid, Some(Which::Real));
        process.timers.state.lock().real = setting;
        if setting.end != 0 {
            start(setting.end, process.pid, Which::Real)?;
        }
    } else {
        process.timers.state.lock().cpu[which as usize - 1] = setting;
        watch(process);
    }
    Ok(before)
}

fn from_now(new: Setting, now: u64) -> Setting {
    let end = match new.end {
        0 => 0,
        after => now.saturating_add(after),
    };
    Setting { end, ..new }
}

/// timer_create.
pub fn create(
    process: &Process,
    follows: Follows,
    signal: u32,
    value: Option<u64>,
    thread: Option<u32>,
) -> Result<u32, Errno> {
    let mut state = process.timers.state.lock();
    let free = state.numbered.iter().position(Option::is_none);
    let id = free.unwrap_or(state.numbered.len());
    if id >= MAX_TIMERS {
        return Err(Errno::EAGAIN);
    }
    if free.is_none() {
        state.numbered.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        state.numbered.push(None);
    }
    state.numbered[id] = Some(Timer {
        follows,
        setting: Setting::default(),
        signal,
        // Without a sigevent, the value is the number.
        value: value.unwrap_or(id as u64),
        thread,
        overrun: 0,
    });
    Ok(id as u32)
}

fn with<T>(process: &Process, id: u32, f: impl FnOnce(&mut Timer) -> T) -> Result<T, Errno> {
    let mut state = process.timers.state.lock();
    match state.numbered.get_mut(id as usize) {
        Some(Some(timer)) => Ok(f(timer)),
        _ => Err(Errno::EINVAL),
    }
}

fn now_for(process: &Process, follows: Follows) -> u64 {
    match follows {
        Follows::Cpu => usage::of_process(process).time(),
        Follows::Monotonic | Follows::Realtime => time::now(),
    }
}

/// timer_gettime.
pub fn get(process: &Process, id: u32) -> Result<Setting, Errno> {
    let follows = with(process, id, |timer| timer.follows)?;
    let now = now_for(process, follows);
    with(process, id, |timer| left(timer.setting, now))
}

/// timer_settime; `end` in nanoseconds, of the clock if `absolute`, else from now.
pub fn set(
    process: &Process,
    id: u32,
    absolute: bool,
    end: u64,
    interval: u64,
) -> Result<Setting, Errno> {
    let before = get(process, id)?;
    let follows = with(process, id, |timer| timer.follows)?;
    let now = now_for(process, follows);
    let new = Setting {
        end: timer::ticks(end),
        interval: timer::ticks(interval),
    };
    let setting = if end == 0 {
        Setting { end: 0, ..new }
    } else if absolute {
        let epoch = match follows {
            Follows::Realtime => clock::epoch(),
            Follows::Monotonic | Follows::Cpu => 0,
        };
        Setting {
            end: timer::ticks(end.saturating_sub(epoch)).max(1),
            ..new
        }
    } else {
        from_now(new, now)
    };
    with(process, id, |timer| timer.setting = setting)?;
    let which = Which::Numbered(id);
    stop(process.pid, Some(which));
    if follows == Follows::Cpu {
        watch(process);
    } else if setting.end != 0 {
        start(setting.end, process.pid, which)?;
    }
    Ok(before)
}

/// timer_getoverrun.
pub fn overrun(process: &Process, id: u32) -> Result<u32, Errno> {
    with(process, id, |timer| timer.overrun)
}

/// timer_delete.
pub fn delete(process: &Process, id: u32) -> Result<(), Errno> {
    let mut state = process.timers.state.lock();
    let slot = state.numbered.get_mut(id as usize);
    slot.and_then(Option::take).ok_or(Errno::EINVAL)?;
    drop(state);
    stop(process.pid, Some(Which::Numbered(id)));
    Ok(())
}

/// A new program keeps the interval timers, and loses the others.
pub fn exec(process: &Process) {
    let dropped = core::mem::take(&mut process.timers.state.lock().numbered);
    for (id, timer) in dropped.iter().enumerate() {
        if timer.is_some() {
            stop(process.pid, Some(Which::Numbered(id as u32)));
        }
    }
}

/// The process has ended.
pub fn end(process: &Process) {
    let runs = {
        let mut state = process.timers.state.lock();
        let runs = state.real.end != 0 || !state.numbered.is_empty();
        state.real = Setting::default();
        drop(core::mem::take(&mut state.numbered));
        runs
    };
    if runs {
        stop(process.pid, None);
    }
}
