//! timerfd(2): a timer that is read.

use super::Special;
use crate::arch::heap;
use crate::arch::time::now;
use crate::fs::buffer::Buffer;
use crate::fs::watch::{Events, Watcher, Watchers};
use crate::process::scheduler::WaitQueue;
use crate::process::thread::current;
use crate::process::timer::Alarm;
use crate::process::timers::Setting;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use linux_raw_sys::general::POLLIN;
use memory::{Lock, Rank};

/// A timerfd.
pub struct Timer {
    /// It follows the time of day.
    pub realtime: bool,
    clock: Arc<Clock>,
}

/// What the alarm tells.
struct Clock {
    state: Lock<State>,
    watchers: Watchers,
}

struct State {
    /// When it ends, as the counter has it.
    setting: Setting,
    alarm: Option<Alarm>,
    waiting: WaitQueue,
}

impl Watcher for Clock {
    fn notify(&self, _: Events) {
        // Who waits looks at the time again; the list of watchers has the queue, too.
        self.watchers.notify(POLLIN);
    }
}

/// A thread that waits in read.
struct Reader(Arc<Clock>);

impl Watcher for Reader {
    fn notify(&self, _: Events) {
        self.0.state.lock().waiting.wake_all();
    }
}

impl Timer {
    /// One that does not run.
    pub fn new(realtime: bool) -> Result<Timer, Errno> {
        let clock = heap::try_arc(Clock {
            state: Lock::new(
                Rank::Ready,
                State {
                    setting: Setting::default(),
                    alarm: None,
                    waiting: WaitQueue::new(),
                },
            ),
            watchers: Watchers::new(),
        });
        Ok(Timer {
            realtime,
            clock: clock.ok_or(Errno::ENOMEM)?,
        })
    }

    /// How long it still runs, and its interval, in ticks of the counter.
    pub fn get(&self) -> Setting {
        let state = self.clock.state.lock();
        let setting = state.setting;
        let end = match setting.end {
            0 => 0,
            end if end > now() => end - now(),
            end if setting.interval > 0 => setting.interval - (now() - end) % setting.interval,
            _ => 0,
        };
        Setting { end, ..setting }
    }

    /// Sets it; `end` is a value of the counter, 0 stops it.
    pub fn set(&self, setting: Setting) -> Result<(), Errno> {
        let alarm = self.alarm(setting.end)?;
        let mut state = self.clock.state.lock();
        state.setting = setting;
        let before = core::mem::replace(&mut state.alarm, alarm);
        state.waiting.wake_all();
        drop(state);
        drop(before);
        self.clock.watchers.notify(POLLIN);
        Ok(())
    }

    fn alarm(&self, end: u64) -> Result<Option<Alarm>, Errno> {
        if end == 0 {
            return Ok(None);
        }
        Alarm::new(end, self.clock.clone()).map(Some)
    }

    /// Takes how often it has ended, and has it tell of the next time.
    fn take(&self) -> Result<Option<u64>, Errno> {
        let (times, end) = {
            let mut state = self.clock.state.lock();
            let setting = &mut state.setting;
            let now = now();
            if setting.end == 0 || setting.end > now {
                return Ok(None);
            }
            let past = now - setting.end;
            match past.checked_div(setting.interval) {
                None => {
                    setting.end = 0;
                    (1, 0)
                }
                Some(more) => {
                    let whole = (more + 1).saturating_mul(setting.interval);
                    setting.end = setting.end.saturating_add(whole);
                    (more + 1, setting.end)
                }
            }
        };
        let alarm = self.alarm(end)?;
        let before = core::mem::replace(&mut self.clock.state.lock().alarm, alarm);
        drop(before);
        Ok(Some(times))
    }

    fn wait(&self) -> Result<u64, Errno> {
        let reader = heap::try_arc(Reader(self.clock.clone())).ok_or(Errno::ENOMEM)?;
        let ticket = self.clock.watchers.add(reader)?;
        let result = loop {
            match self.take() {
                Ok(None) => {}
                Ok(Some(times)) => break Ok(times),
                Err(error) => break Err(error),
            }
            let state = self.clock.state.lock();
            if state.setting.end != 0 && state.setting.end <= now() {
                continue;
            }
            if current().interrupted() {
                break Err(Errno::EINTR);
            }
            drop(WaitQueue::wait(&self.clock.state, state, |state| {
                &mut state.waiting
            }));
        };
        self.clock.watchers.remove(ticket);
        result
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The alarm holds on to what it tells.
        let alarm = self.clock.state.lock().alarm.take();
        drop(alarm);
    }
}

impl Special for Timer {
    fn read(&self, to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        if to.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let times = match self.take()? {
            Some(times) => times,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => self.wait()?,
        };
        to.put_whole(&times.to_le_bytes())
    }

    fn ready(&self) -> Events {
        let state = self.clock.state.lock();
        if state.setting.end != 0 && state.setting.end <= now() {
            POLLIN
        } else {
            0
        }
    }

    fn watchers(&self) -> &Watchers {
        &self.clock.watchers
    }
}
