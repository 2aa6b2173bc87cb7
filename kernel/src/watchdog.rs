//! Notices a CPU that makes no progress, and how long CPUs wait for locks.
//!
//! The kernel runs with interrupts masked, so a CPU that does not leave it takes no timer
//! interrupt. Each CPU counts its own, and looks at each whether the next CPU's count goes on, in a
//! ring: as long as one CPU is well, whoever before it is not is noticed. (So does Linux's "buddy"
//! detector of hard lockups.) A CPU that waits for a lock looks at the clock itself: that is all
//! there is on a machine of one CPU, where an endless loop in the kernel goes unnoticed.
//!
//! Waiting for the other end of the wire is no hang, however long it takes. Nor is it time for a CPU
//! that the machine stood still: at each look no more passes than [`STEP`].
//!
//! What follows is told by `panic::hang`.

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{cpu, secondary, time};
use crate::process::{options, timer};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use memory::Rank;
use spin::Once;

/// The time between two looks counts as so many periods of the timer at most.
const STEP: u64 = 4;
/// Attempts to take a lock between two looks at the clock.
const ATTEMPTS: u64 = 256;

/// What is known of a CPU.
#[repr(align(128))]
struct Watched {
    /// Timer interrupts that it has taken.
    ticks: AtomicU64,
    /// The lock that it waits for: its rank, plus one; 0: none.
    lock: AtomicU8,
    /// Where the frame record is from which its stack is to be read while it waits.
    frame: AtomicU64,
    /// It has stopped where it could, in a program or in the idle loop.
    answered: AtomicBool,
    /// For its own use: when it looked last, how far the next CPU was, and since how long.
    looked: AtomicU64,
    seen: AtomicU64,
    stuck: AtomicU64,
}

static CPUS: [Watched; MAX_CPUS] = [const {
    Watched {
        ticks: AtomicU64::new(0),
        lock: AtomicU8::new(0),
        frame: AtomicU64::new(0),
        answered: AtomicBool::new(false),
        looked: AtomicU64::new(0),
        seen: AtomicU64::new(0),
        stuck: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Counter ticks without progress that are a hang; 0: nobody watches.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Somebody puts bytes on the wire, which may take as long as its other end likes.
static ON_THE_WIRE: AtomicBool = AtomicBool::new(false);

/// Counts who waits for locks, from the start. Once, at boot.
pub fn init() {
    memory::lock::wait_by(wait);
}

/// Begins to watch, by the boot arguments.
pub fn start() {
    LIMIT.store(options::options().watchdog * time::hz(), Relaxed);
}

/// Whether somebody, who has the output locked, is at the wire.
#[inline]
pub fn at_the_wire(is: bool) {
    ON_THE_WIRE.store(is, Relaxed);
}

/// What has passed of the time in which nothing happened.
fn passed(since: u64, now: u64) -> u64 {
    if ON_THE_WIRE.load(Relaxed) {
        return 0;
    }
    now.saturating_sub(since).min(STEP * time::hz() / timer::HZ)
}

/// This CPU's timer interrupt.
pub fn tick() {
    let (me, online, limit) = (cpu::id(), secondary::online(), LIMIT.load(Relaxed));
    let own = &CPUS[me];
    own.ticks.store(own.ticks.load(Relaxed) + 1, Relaxed);
    if online == 1 || limit == 0 {
        return;
    }
    let next = (me + 1) % online;
    let (seen, now) = (CPUS[next].ticks.load(Relaxed), time::rough());
    let looked = own.looked.load(Relaxed);
    own.looked.store(now, Relaxed);
    if own.seen.load(Relaxed) != seen {
        own.seen.store(seen, Relaxed);
        own.stuck.store(0, Relaxed);
        return;
    }
    let stuck = own.stuck.load(Relaxed) + passed(looked, now);
    own.stuck.store(stuck, Relaxed);
    // One that has not started its timer is not watched.
    if stuck >= limit && seen != 0 {
        crate::panic::hang(format_args!(
            "CPU {next} has taken no timer interrupt for {} ms",
            stuck * 1000 / time::hz()
        ));
    }
}

/// How often a lock of a rank was not free, and what that cost.
struct Contended {
    rank: Once<Rank>,
    waits: AtomicU64,
    attempts: AtomicU64,
    ticks: AtomicU64,
    longest: AtomicU64,
}

static CONTENDED: [Contended; Rank::COUNT] = [const {
    Contended {
        rank: Once::new(),
        waits: AtomicU64::new(0),
        attempts: AtomicU64::new(0),
        ticks: AtomicU64::new(0),
        longest: AtomicU64::new(0),
    }
}; Rank::COUNT];

/// Waits for a lock: `attempt` says when it has it.
#[inline(never)]
fn wait(rank: Rank, attempt: &mut dyn FnMut() -> bool) {
    let own = &CPUS[cpu::id()];
    let contended = &CONTENDED[rank as usize];
    // By its number alone nobody could name it.
    contended.rank.call_once(|| rank);
    let frame: u64;
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) frame, options(nomem, nostack)) };
    own.frame.store(frame, Relaxed);
    own.lock.store(rank as u8 + 1, Relaxed);
    let start = time::rough();
    let (mut looked, mut waited, mut attempts) = (start, 0, 0);
    loop {
        cpu::relax();
        attempts += 1;
        if attempt() {
            break;
        }
        if attempts % ATTEMPTS == 0 {
            crate::panic::be_silent();
            let now = time::rough();
            waited += passed(looked, now);
            looked = now;
            let limit = LIMIT.load(Relaxed);
            if limit != 0 && waited >= limit {
                crate::panic::hang(format_args!(
                    "CPU {} has waited for the lock {rank:?} for {} ms",
                    cpu::id(),
                    waited * 1000 / time::hz()
                ));
            }
        }
    }
    own.lock.store(0, Relaxed);
    contended.waits.fetch_add(1, Relaxed);
    contended.attempts.fetch_add(attempts, Relaxed);
    let ticks = time::rough().saturating_sub(start);
    contended.ticks.fetch_add(ticks, Relaxed);
    contended.longest.fetch_max(ticks, Relaxed);
}

/// What waiting for the locks of a rank has cost so far.
pub struct Cost {
    /// Which locks.
    pub rank: Rank,
    /// Times that one was not free.
    pub waits: u64,
    /// Attempts to take it, until it was.
    pub attempts: u64,
    /// Counter ticks that passed in the meantime, of all CPUs that waited.
    pub ticks: u64,
    /// The longest of them.
    pub longest: u64,
}

/// Of all ranks that anybody has waited for, in their order.
pub fn costs() -> impl Iterator<Item = Cost> {
    CONTENDED.iter().filter_map(|contended| {
        Some(Cost {
            rank: *contended.rank.get()?,
            waits: contended.waits.load(Relaxed),
            attempts: contended.attempts.load(Relaxed),
            ticks: contended.ticks.load(Relaxed),
            longest: contended.longest.load(Relaxed),
        })
    })
}

/// This CPU stops, and holds no lock and waits for none: it came when it was called.
pub fn answer() {
    CPUS[cpu::id()].answered.store(true, Relaxed);
}

/// Whether a CPU has stopped where it could.
pub fn answered(number: usize) -> bool {
    CPUS[number].answered.load(Relaxed)
}

/// Where a CPU is, in words; and the frame record of its stack, if it is known. For when it goes on
/// no more.
pub fn whereabouts(text: &mut impl Write, number: usize) -> Result<Option<u64>, fmt::Error> {
    let cpu = &CPUS[number];
    let lock = cpu.lock.load(Relaxed);
    let mut frame = None;
    if lock != 0 {
        let name = CONTENDED
            .get(usize::from(lock) - 1)
            .and_then(|of| of.rank.get());
        match name {
            Some(rank) => write!(text, "waits for the lock {rank:?}")?,
            None => write!(text, "waits for a lock")?,
        }
        frame = Some(cpu.frame.load(Relaxed));
    } else if answered(number) {
        text.write_str("was in a program, or idle: it answers")?;
    } else if number == cpu::id() {
        text.write_str("tells this")?;
    } else {
        text.write_str("is in the kernel, and does not answer")?;
    }
    memory::lock::for_each_held(number, |rank, place| {
        // The port cannot fail.
        let _ = write!(text, "\n  holds the lock {rank:?}, taken at {place}");
    });
    Ok(frame)
}
