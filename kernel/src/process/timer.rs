//! The tick, and threads that sleep until a time.

use super::{scheduler, thread, timers};
use crate::arch::time;
use crate::fs::watch::Watcher;
use crate::syscall::errno::Errno;
use alloc::{collections::BinaryHeap, sync::Arc};
use core::cmp::{Ordering, Reverse};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use memory::{Lock, Rank};
use thread::Thread;

/// Ticks per second.
pub const HZ: u64 = 100;

struct Sleeper {
    deadline: u64,
    /// The thread's number, or that of an alarm, from [`FIRST_ALARM`] on.
    key: u64,
    target: Target,
}

/// Who is told.
enum Target {
    Thread(Arc<Thread>),
    /// Not the thread itself: it may be between looking at the time and falling asleep.
    Watcher(Arc<dyn Watcher>),
}

/// Keys below are numbers of threads.
const FIRST_ALARM: u64 = 1 << 32;
static NEXT_ALARM: AtomicU64 = AtomicU64::new(FIRST_ALARM);

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.deadline, self.key).cmp(&(other.deadline, other.key))
    }
}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Sleeper {}

static SLEEPERS: Lock<BinaryHeap<Reverse<Sleeper>>> = Lock::new(Rank::Waiting, BinaryHeap::new());

/// Sleeps until the counter reaches `deadline`, or a signal ends the sleep: EINTR.
pub fn sleep_until(deadline: u64) -> Result<(), Errno> {
    if time::now() >= deadline {
        return Ok(());
    }
    let thread = thread::current();
    {
        let mut sleepers = SLEEPERS.lock();
        sleepers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        sleepers.push(Reverse(Sleeper {
            deadline,
            key: thread.tid().into(),
            target: Target::Thread(thread.share()),
        }));
    }
    if deadline < scheduler::cpu().timer.get() {
        program(time::now());
    }
    loop {
        let sleepers = SLEEPERS.lock();
        if time::now() >= deadline {
            return Ok(());
        }
        scheduler::prepare_to_block();
        drop(sleepers);
        scheduler::block();
        if thread.interrupted() {
            SLEEPERS
                .lock()
                .retain(|Reverse(sleeper)| sleeper.key != u64::from(thread.tid()));
            return Err(Errno::EINTR);
        }
    }
}

/// Tells a watcher, or a thread, that a time has come, unless it is dropped first.
pub struct Alarm {
    key: u64,
}

impl Alarm {
    /// When the counter reaches `deadline`.
    pub fn new(deadline: u64, watcher: Arc<dyn Watcher>) -> Result<Alarm, Errno> {
        Alarm::enter(deadline, Target::Watcher(watcher))
    }

    /// Wakes the current thread then.
    pub fn waking(deadline: u64) -> Result<Alarm, Errno> {
        Alarm::enter(deadline, Target::Thread(thread::current().share()))
    }

    fn enter(deadline: u64, target: Target) -> Result<Alarm, Errno> {
        let key = NEXT_ALARM.fetch_add(1, Relaxed);
        let mut sleepers = SLEEPERS.lock();
        sleepers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        sleepers.push(Reverse(Sleeper {
            deadline,
            key,
            target,
        }));
        drop(sleepers);
        if deadline < scheduler::cpu().timer.get() {
            program(time::now());
        }
        Ok(Alarm { key })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let key = self.key;
        let mut gone = None;
        let mut sleepers = SLEEPERS.lock();
        sleepers.retain(|Reverse(sleeper)| {
            if sleeper.key == key
                && let Target::Watcher(watcher) = &sleeper.target
            {
                gone = Some(watcher.clone());
            }
            sleeper.key != key
        });
        drop(sleepers);
        // It may be the last reference, to something with locks of its own.
        drop(gone);
    }
}

/// A timer was set that ends at `end`.
pub fn rearm(end: u64) {
    if end < scheduler::cpu().timer.get() {
        program(time::now());
    }
}

/// Starts the tick on this CPU.
pub fn start() {
    program(time::now());
}

/// The timer interrupt: wakes who has slept enough, and asks for the next interrupt.
pub fn expire() {
    let now = time::now();
    let mut sleepers = SLEEPERS.lock();
    while let Some(Reverse(first)) = sleepers.peek()
        && first.deadline <= now
    {
        if let Some(Reverse(sleeper)) = sleepers.pop() {
            match sleeper.target {
                Target::Watcher(watcher) => watcher.notify(0),
                Target::Thread(thread) => scheduler::wake(&thread),
            }
        }
    }
    drop(sleepers);
    timers::expire(now);
    program(now);
}

/// Asks for an interrupt at the next tick, or earlier if somebody's sleep ends before.
fn program(now: u64) {
    let mut next = now + time::hz() / HZ;
    if let Some(Reverse(first)) = SLEEPERS.lock().peek() {
        next = next.min(first.deadline.max(now + 1));
    }
    if let Some(end) = timers::next_alarm() {
        next = next.min(end.max(now + 1));
    }
    scheduler::cpu().timer.set(next);
    time::set_timer(next - now);
}

/// Counter ticks for a time in nanoseconds, rounded up; saturating.
pub fn ticks(nanoseconds: u64) -> u64 {
    let ticks = (u128::from(nanoseconds) * u128::from(time::hz())).div_ceil(1_000_000_000);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
