//! Faults of the kernel's own making, for tests of what is to notice them: `inject=` at boot.
//!
//! * `inject=omit:INSTRUCTION[:N]`: the Nth (the first) such barrier or TLBI is not executed, and
//!   does not tell of itself either. Names as in [`INSTRUCTIONS`].
//! * `inject=spurious:EVERY[:TIMES]`: every so manyth page fault is taken again, once or `TIMES`
//!   times, as if this CPU still had the old entry in its TLB, which QEMU's never has.
//! * `inject=hang:loop[:N]`: after its Nth page fault a CPU goes round in circles, for good.
//! * `inject=hang:lock[:N]`: after its Nth page fault a CPU takes a lock, and waits for what another
//!   would do if it had that lock, which it takes after its next page fault.
//! * `inject=room:KIB`: the checker has so little memory.

use crate::arch::cpu;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use memory::{Barrier, Lock, Rank, Tlbi};

/// What can be left out.
const INSTRUCTIONS: [&str; 15] = [
    "dmb-ishst",
    "dsb-ishst",
    "dsb-nshst",
    "dsb-ish",
    "dsb-nsh",
    "isb",
    "vale1",
    "vae1",
    "vale1is",
    "vae1is",
    "vaale1is",
    "vaae1is",
    "aside1is",
    "vmalle1",
    "vmalle1is",
];

const NONE: u32 = u32::MAX;

/// Which of them is left out, and after how many more.
static OMITTED: AtomicU32 = AtomicU32::new(NONE);
static OMIT_AFTER: AtomicU32 = AtomicU32::new(0);
static EVERY: AtomicU32 = AtomicU32::new(0);
static TIMES: AtomicU32 = AtomicU32::new(0);
static FAULTS: AtomicU32 = AtomicU32::new(0);
static HANG: AtomicU8 = AtomicU8::new(0);
static HANG_AFTER: AtomicU32 = AtomicU32::new(0);
static ROOM: AtomicU32 = AtomicU32::new(0);

/// What the boot argument asks for begins now.
pub fn start(argument: Option<&str>) {
    let Some(argument) = argument else { return };
    if set(argument).is_none() {
        defmt::warn!("inject={=str} is not understood", argument);
    }
}

fn set(argument: &str) -> Option<()> {
    let mut words = argument.split(':');
    let kind = words.next()?;
    let what = words.next()?;
    let number = words.next().map_or(Some(1), |word| word.parse().ok())?;
    match kind {
        "omit" => {
            let index = INSTRUCTIONS.iter().position(|name| *name == what)?;
            OMIT_AFTER.store(number, Ordering::Relaxed);
            OMITTED.store(index as u32, Ordering::Relaxed);
        }
        "spurious" => {
            TIMES.store(number, Ordering::Relaxed);
            EVERY.store(what.parse().ok()?, Ordering::Relaxed);
        }
        "hang" => {
            let kind = match what {
                "loop" => LOOP,
                "lock" => HOLD,
                _ => return None,
            };
            HANG_AFTER.store(number, Ordering::Relaxed);
            HANG.store(kind, Ordering::Relaxed);
        }
        "room" => ROOM.store(what.parse().ok()?, Ordering::Relaxed),
        _ => return None,
    }
    Some(())
}

/// Bytes of memory that the checker is to have instead of what it would take; 0: that.
pub fn room() -> u64 {
    u64::from(ROOM.load(Ordering::Relaxed)) << 10
}

fn omits(index: usize) -> bool {
    OMITTED.load(Ordering::Relaxed) == index as u32
        && OMIT_AFTER.fetch_sub(1, Ordering::Relaxed) == 1
}

/// This barrier is left out.
pub fn omits_barrier(barrier: Barrier) -> bool {
    omits(match barrier {
        Barrier::DmbIshst => 0,
        Barrier::DsbIshst => 1,
        Barrier::DsbNshst => 2,
        Barrier::DsbIsh => 3,
        Barrier::DsbNsh => 4,
        Barrier::Isb => 5,
    })
}

/// This TLBI is left out.
pub fn omits_tlbi(op: Tlbi) -> bool {
    omits(match op {
        Tlbi::Vale1 { .. } => 6,
        Tlbi::Vae1 { .. } => 7,
        Tlbi::Vale1Is { .. } => 8,
        Tlbi::Vae1Is { .. } => 9,
        Tlbi::Vaale1Is { .. } => 10,
        Tlbi::Vaae1Is { .. } => 11,
        Tlbi::Aside1Is { .. } => 12,
        Tlbi::Vmalle1 => 13,
        Tlbi::Vmalle1Is => 14,
    })
}

/// How often the page fault that was just handled is taken again.
pub fn repeats() -> u32 {
    let every = EVERY.load(Ordering::Relaxed);
    if every == 0 || !(FAULTS.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every) {
        return 0;
    }
    TIMES.load(Ordering::Relaxed)
}

const LOOP: u8 = 1;
const HOLD: u8 = 2;
/// As `HOLD`, and one CPU does.
const WANT: u8 = 3;

static WANTED: Lock<()> = Lock::new(Rank::Rotation, ());

/// A page fault has been handled, and no lock is held: it may be time to hang.
pub fn hang() {
    match HANG.load(Ordering::Relaxed) {
        0 => {}
        WANT => want(),
        kind => {
            if HANG_AFTER.fetch_sub(1, Ordering::Relaxed) == 1 {
                let turns = if kind == LOOP { circle() } else { hold() };
                HANG_AFTER.store(turns, Ordering::Relaxed);
            }
        }
    }
}

/// Until somebody says that it is enough, which nobody does; how long that was.
#[inline(never)]
fn circle() -> u32 {
    let mut turns = 0;
    while HANG.load(Ordering::Relaxed) != 0 {
        turn(&mut turns);
    }
    turns
}

/// A call, so that the loop is on the stack.
#[inline(never)]
fn turn(turns: &mut u32) {
    *turns = turns.wrapping_add(1);
    cpu::relax();
}

#[inline(never)]
fn hold() -> u32 {
    let held = WANTED.lock();
    HANG.store(WANT, Ordering::Relaxed);
    let turns = circle();
    drop(held);
    turns
}

#[inline(never)]
fn want() {
    let held = WANTED.lock();
    HANG.store(0, Ordering::Relaxed);
    drop(held);
}
