//! The trace: events into this CPU's ring, and from there to the wire.
//!
//! An event costs a look at a mask when its kind is off, and a store into the ring when it is on.
//! The ring is emptied by the idle loop, by the tick, and by whoever half fills it; when it is full
//! the newest events are dropped and counted, or, with `lossless`, it is emptied first.

pub mod meta;
mod output;
mod ring;
pub mod stack;

use crate::arch::{self, time};
use crate::driver::uart;
use crate::process::options::{self, Level};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use meta::Meta;
use output::{OUTPUT, Wait};
use ring::{Room, ring};
use wire::event::{Event, KIND_NAMES, KINDS};
use wire::frame::{Body, MAX_CONTENT};

/// The kind of fault events.
pub const FAULT: usize = kind("fault");
/// The kind of thread switches.
pub const SWITCH: usize = kind("switch");
/// The kinds that are of `trace=mmu` only.
const FIRST_MMU: usize = kind("descriptor");
const LAST_MMU: usize = kind("frame");
const CONTENTS: usize = kind("contents");
const KERNEL_PAGE: usize = kind("kernel-page");
/// The kind of counts of resident pages.
pub const RESIDENT: usize = kind("resident");

/// Batches that a tick sends at most, so that it does not keep the program waiting for long.
const TICK_BATCHES: usize = 16;

/// A bit per kind of event that is recorded.
static MASK: AtomicU32 = AtomicU32::new(0);
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
    ring().allocate(options.ring, options.lossless);
    LOSSLESS.store(options.lossless, Ordering::Relaxed);
    STACKS.store(options.stacks, Ordering::Relaxed);
    SECOND_CONSOLE.store(
        options.second_console && uart::console_uart().is_some(),
        Ordering::Relaxed,
    );
    MASK.store(mask, Ordering::Relaxed);
    let lost = OUTPUT.lock().start();
    arch::mmu::set_traced(options.level == Level::Mmu);
    if lost > 0 {
        defmt::warn!("{} log messages from before the stream were lost", lost);
    }
    if ring().capacity() < options.ring {
        defmt::warn!(
            "the trace ring holds {} events, not {}: no memory",
            ring().capacity(),
            options.ring
        );
    }
    if options.second_console && !SECOND_CONSOLE.load(Ordering::Relaxed) {
        defmt::warn!("console=uart1: this machine has no second UART");
    }
}

/// Whether events of this kind are recorded.
#[inline(always)]
pub fn enabled(kind: usize) -> bool {
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
    if enabled(event.kind()) {
        record(event);
    }
}

#[inline(never)]
fn record(event: Event) {
    let now = time::now();
    let kind = event.kind();
    let room = ring().push(now, event);
    match room {
        Room::Ample => {}
        Room::Half => drain_half(),
        Room::None if LOSSLESS.load(Ordering::Relaxed) => {
            OUTPUT.lock().drain(usize::MAX, Wait::Yes);
            ring().push(now, event);
        }
        Room::None => ring().dropped[kind] += 1,
    }
}

#[cold]
fn drain_half() {
    let wait = if LOSSLESS.load(Ordering::Relaxed) {
        Wait::Yes
    } else {
        Wait::No
    };
    OUTPUT.lock().drain(usize::MAX, wait);
}

/// An event of the MMU (`trace=mmu`).
pub fn mmu_event(event: Event) {
    emit(event);
}

/// Records that the CPU goes on with thread `to`.
#[inline]
pub fn switch(to: u32, event: impl FnOnce() -> Event) {
    if enabled(SWITCH) {
        record(event());
    }
    ring().tid = to;
}

/// Tells what a number stands for, in order with the events.
pub fn meta(meta: Meta) {
    if MASK.load(Ordering::Relaxed) == 0 {
        return;
    }
    let mut ring = ring();
    if !ring.meta_room() {
        drop(ring);
        let wait = if LOSSLESS.load(Ordering::Relaxed) {
            Wait::Yes
        } else {
            Wait::No
        };
        OUTPUT.lock().drain(usize::MAX, wait);
        ring = ring::ring();
    }
    // Without room even now it is left to the rotation.
    ring.push_meta(meta);
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
        for &byte in bytes {
            while !uart.try_put(byte) {}
        }
        return;
    }
    let mut output = OUTPUT.lock();
    output.drain(usize::MAX, Wait::Yes);
    for bytes in bytes.chunks(MAX_CONTENT) {
        output.send(Body::Console { fd, bytes }, Wait::Yes);
    }
}

/// The tick: sends some of what waits, so that a live listener is not far behind.
pub fn tick() {
    let mut output = OUTPUT.lock();
    output.pump();
    output.drain(TICK_BATCHES, Wait::No);
    output.heartbeat(time::now());
}

/// There is nothing to do until the timer interrupt at `until`: sends what waits.
pub fn idle(until: u64) {
    let mut output = OUTPUT.lock();
    loop {
        let drained = output.drain(TICK_BATCHES, Wait::No);
        if output.pump() && drained || time::now() >= until {
            return;
        }
    }
}

/// Sends everything, and the end.
pub fn end(code: i32) {
    arch::mmu::set_traced(false);
    OUTPUT.lock().end(code);
}
