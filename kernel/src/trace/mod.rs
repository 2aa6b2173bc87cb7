//! The trace: events into this CPU's ring, and from there to the wire, in one order for all CPUs.
//!
//! An event costs a look at a mask when its kind is off, and a store into the ring when it is on.
//! The rings are emptied together, by the idle loop, by the boot CPU's tick, and by whoever half
//! fills one; when one is full its newest events are dropped and counted, or, with `lossless`, it
//! is emptied first.
//!
//! The output's lock is the last in the order of locks: whoever has it takes none but that of the
//! `Meta`s that wait. So events may be recorded, and logs written, under any other.

pub mod amplification;
pub mod meta;
mod output;
mod ring;
pub mod stack;

use crate::arch::{self, time};
use crate::driver::uart;
use crate::process::options::{self, Level};
use crate::process::random;
use crate::watchdog;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use memory::{Lock, Rank};
use meta::{Meta, Rotation, Subject};
use output::{Facts, OUTPUT, Output, Wait};
use ring::{Room, ring};
use wire::event::{Event, KIND_NAMES, KINDS};
use wire::frame::{Body, MAX_CONTENT};

/// The kind of fault events.
pub const FAULT: usize = kind("fault");
/// The kind of forks.
pub const FORK: usize = kind("fork");
/// The kind of thread switches.
pub const SWITCH: usize = kind("switch");
/// The kinds that are of `trace=mmu` only.
const FIRST_MMU: usize = kind("descriptor");
const LAST_MMU: usize = kind("frame");
const CONTENTS: usize = kind("contents");
const KERNEL_PAGE: usize = kind("kernel-page");
/// The kind of new mappings.
pub const MAP: usize = kind("map");
/// The kind of counts of resident pages.
pub const RESIDENT: usize = kind("resident");

/// Batches that a tick sends at most, so that it does not keep the program waiting for long.
const TICK_BATCHES: usize = 16;

/// A bit per kind of event that is recorded. The exception vectors look at it, too.
pub static MASK: AtomicU32 = AtomicU32::new(0);
static LOSSLESS: AtomicBool = AtomicBool::new(false);
static STACKS: AtomicBool = AtomicBool::new(false);
static SECOND_CONSOLE: AtomicBool = AtomicBool::new(false);

const fn kind(name: &str) -> usize {
    let mut kind = 0;
    while !equal(KIND_NAMES[kind].as_bytes(), name.as_bytes()) {
        kind += 1;
    }
    kind
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Starts the stream, by the boot arguments.
pub fn start() {
    let options = options::options();
    let mut mask = 0;
    for kind in 0..KINDS {
        let level = match kind {
            FIRST_MMU..=LAST_MMU | CONTENTS | KERNEL_PAGE => Level::Mmu,
            FAULT | SWITCH => Level::Faults,
            _ => Level::Life,
        };
        if options.level >= level {
            mask |= 1 << kind;
        }
    }
    ring::allocate(options.ring, options.lossless);
    meta::allocate();
    LOSSLESS.store(options.lossless, Ordering::Relaxed);
    STACKS.store(options.stacks, Ordering::Relaxed);
    SECOND_CONSOLE.store(
        options.second_console && uart::console_uart().is_some(),
        Ordering::Relaxed,
    );
    MASK.store(mask, Ordering::Relaxed);
    let room = Output::room();
    let lost = OUTPUT.lock().start(random::number(), room);
    watchdog::start();
    arch::mmu::set_traced(options.level == Level::Mmu || cfg!(feature = "checks"));
    #[cfg(feature = "checks")]
    crate::check::start();
    // What it compares, only faults explain.
    if options.amplification && (options.level < Level::Faults || !amplification::start()) {
        defmt::warn!("amplification: it needs trace=faults, and memory");
    }
    if lost > 0 {
        defmt::warn!("{} log messages from before the stream were lost", lost);
    }
    for (cpu, ring) in ring::rings().iter().enumerate() {
        if ring.capacity() < options.ring {
            defmt::warn!(
                "CPU {=usize}'s trace ring holds {=usize} events, not {=usize}: no memory",
                cpu,
                ring.capacity(),
                options.ring
            );
        }
    }
    if options.second_console && !SECOND_CONSOLE.load(Ordering::Relaxed) {
        defmt::warn!("console=uart1: this machine has no second UART");
    }
}

/// Whether somebody wants events of this kind: the trace or, with `checks`, the checker.
#[inline(always)]
pub fn enabled(kind: usize) -> bool {
    cfg!(feature = "checks") || recorded(kind)
}

/// Whether events of this kind are recorded.
#[inline(always)]
fn recorded(kind: usize) -> bool {
    MASK.load(Ordering::Relaxed) & 1 << kind != 0
}

/// Whether faults carry the user's call stack.
#[inline]
pub fn stacks() -> bool {
    STACKS.load(Ordering::Relaxed)
}

/// Records an event, if its kind is on.
#[inline(always)]
pub fn emit(event: Event) {
    if recorded(event.kind()) {
        record(event);
    }
    #[cfg(feature = "checks")]
    crate::check::tell(&event);
}

#[inline(never)]
fn record(event: Event) {
    let cpu = arch::cpu::id();
    let ring = ring(cpu);
    match ring.push(cpu, event) {
        Room::Ample => {}
        Room::Half => drain(),
        Room::None if LOSSLESS.load(Ordering::Relaxed) => {
            drain();
            ring.push(cpu, event);
        }
        Room::None => ring.drop_one(event.kind()),
    }
}

/// Makes room: all that is needed with `lossless`, else as much as goes without waiting.
#[cold]
fn drain() {
    arch::cpu::with_room(drain_here);
}

extern "C" fn drain_here(_: &mut ()) {
    if LOSSLESS.load(Ordering::Relaxed) {
        OUTPUT.lock().drain(usize::MAX, Wait::Yes);
    } else if let Some(mut output) = OUTPUT.try_lock() {
        output.drain(usize::MAX, Wait::No);
    }
}

/// An event of the MMU (`trace=mmu`).
pub fn mmu_event(event: Event) {
    emit(event);
}

/// Records that the CPU goes on with thread `to`.
#[inline]
pub fn switch(to: u32, event: impl FnOnce() -> Event) {
    if enabled(SWITCH) {
        emit(event());
    }
    ring(arch::cpu::id()).set_tid(to);
}

/// The running thread has another number from now on.
pub fn renumber(tid: u32) {
    ring(arch::cpu::id()).set_tid(tid);
}

/// Tells what a number stands for, in order with the events.
pub fn meta(meta: Meta) {
    if MASK.load(Ordering::Relaxed) == 0 {
        return;
    }
    if !meta::push(meta.clone()) {
        drain();
        // Without room even now it is left to the rotation.
        meta::push(meta);
    }
}

/// A raw `defmt` frame, in order with this CPU's events.
pub fn log(bytes: &[u8]) {
    let mut output = OUTPUT.lock();
    output.drain(usize::MAX, Wait::Yes);
    output.log(bytes);
}

/// What a program wrote to its terminal, in order with this CPU's events.
pub fn console(fd: u8, bytes: &[u8]) {
    if SECOND_CONSOLE.load(Ordering::Relaxed)
        && let Some(uart) = uart::console_uart()
    {
        watchdog::at_the_wire(true);
        for &byte in bytes {
            while !uart.try_put(byte) {}
        }
        watchdog::at_the_wire(false);
        return;
    }
    let mut output = OUTPUT.lock();
    output.drain(usize::MAX, Wait::Yes);
    for bytes in bytes.chunks(MAX_CONTENT) {
        output.send(Body::Console { fd, bytes }, Wait::Yes);
    }
}

/// What is told again and again.
static ROTATION: Lock<Rotation> = Lock::new(Rank::Rotation, Rotation::Done);

/// The boot CPU's tick: sends some of what waits, so that a live listener is not far behind.
pub fn tick() {
    let now = time::now();
    // Before the output is locked, which must be the last lock.
    let facts = output::snapshot_due(now).then(Facts::gather);
    let Some(mut output) = OUTPUT.try_lock() else {
        // Somebody is at it. What is due now will be due then.
        return;
    };
    output.pump();
    output.drain(TICK_BATCHES, Wait::No);
    let said_hello = output.heartbeat(now, facts);
    let room = output.has_room();
    drop(output);
    let mut rotation = ROTATION.lock();
    if said_hello && matches!(*rotation, Rotation::Done) && MASK.load(Ordering::Relaxed) != 0 {
        *rotation = Rotation::Processes(0);
    }
    if room {
        match rotation.next() {
            Some(Subject::Process(process)) => process.announce_all(),
            Some(Subject::File(label)) => meta(Meta::File(label)),
            None => {}
        }
    }
}

/// There is nothing to do until the timer interrupt at `until`, or until `woken`: sends what waits.
pub fn idle(until: u64, woken: impl Fn() -> bool) {
    loop {
        // One CPU does it; the others sleep.
        let Some(mut output) = OUTPUT.try_lock() else {
            return;
        };
        let drained = output.drain(TICK_BATCHES, Wait::No);
        if output.pump() && drained || time::now() >= until || woken() {
            return;
        }
    }
}

/// Sends everything, and the end. No other CPU runs any more.
pub fn end(code: i32) {
    amplification::end(|| {
        OUTPUT.lock().drain(usize::MAX, Wait::Yes);
    });
    arch::mmu::set_traced(false);
    #[cfg(feature = "checks")]
    crate::check::end();
    let facts = Facts::gather();
    OUTPUT.lock().end(code, facts);
}
