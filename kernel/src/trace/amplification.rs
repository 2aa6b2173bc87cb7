//! How much of each copied page really changes (boot argument `amplification`).
//!
//! When copy-on-write, an eager fork or a first write to a file's page copies a frame, a second copy
//! is kept beside it, which nobody writes. When the frame is freed, or at the end of the machine, the
//! two are compared, and the result is an event. A page that was changed and changed back is
//! unchanged.
//!
//! What is kept is as large as what was copied, and comes from the same free memory. An eighth of all
//! frames stays for the program; a page that could not be kept is told as such.

use crate::arch::mmu;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use memory::{Frame, Kind};
use spin::Once;
use wire::event::Event;

/// One part in so many of all frames is left free.
const LEFT: u64 = 8;

/// By frame, from the first that has metadata: nothing, [`NOT_KEPT`], or the number of the frame with
/// the copy plus [`FIRST`]. Each entry is that frame's owner's.
struct Kept {
    first: u64,
    frames: Vec<AtomicU32>,
}

const NOT_KEPT: u32 = 1;
const FIRST: u32 = 2;

static KEPT: Once<Kept> = Once::new();

/// From now on. False: there is no memory for it.
pub fn start() -> bool {
    let numbers = mmu::memory().frames.numbers();
    let count = (numbers.end - numbers.start) as usize;
    let mut frames = Vec::new();
    if frames.try_reserve_exact(count).is_err() {
        return false;
    }
    frames.resize_with(count, || AtomicU32::new(0));
    let first = numbers.start;
    KEPT.call_once(|| Kept { first, frames });
    mmu::set_compared();
    true
}

/// A frame has just become the copy of another, and no descriptor leads to it yet.
pub fn keep(frame: Frame) {
    let memory = mmu::memory();
    let Some(entry) = entry(frame) else { return };
    if memory.frames.kind(frame) != Kind::Anon {
        return;
    }
    let room = memory.frames.available() > memory.frames.total() / LEFT;
    let word = match room.then(|| memory.alloc()).flatten() {
        Some(copy) => {
            // SAFETY: `copy` is ours alone, and nobody else knows of `frame` yet.
            unsafe { mmu::keep_page(frame, copy) };
            copy.number() as u32 + FIRST
        }
        None => NOT_KEPT,
    };
    entry.store(word, Ordering::Relaxed);
}

/// A frame has lost its last reference, and nobody else can have it yet.
pub fn compare(frame: Frame) {
    if let Some(entry) = entry(frame) {
        compare_entry(frame, entry, true);
    }
}

fn compare_entry(frame: Frame, entry: &AtomicU32, freed: bool) {
    let word = entry.load(Ordering::Relaxed);
    if word == 0 {
        return;
    }
    entry.store(0, Ordering::Relaxed);
    let copy = word.checked_sub(FIRST).map(|copy| Frame::new(copy.into()));
    let (bytes, lines) = match copy {
        // SAFETY: nobody writes the copy; and the frame is nobody's any more, or all programs stand still.
        Some(copy) => unsafe { mmu::differences(frame, copy) },
        None => (0, 0),
    };
    super::emit(Event::Amplification {
        frame: frame.number(),
        freed,
        kept: copy.is_some(),
        bytes,
        lines,
    });
    if let Some(copy) = copy {
        mmu::memory().free(copy);
    }
}

/// The machine ends, and no program runs any more: compares what is left. `drain` makes room for
/// the events.
pub fn end(mut drain: impl FnMut()) {
    let Some(kept) = KEPT.get() else { return };
    let mut told = 0;
    for (number, entry) in (kept.first..).zip(&kept.frames) {
        if entry.load(Ordering::Relaxed) != 0 {
            if told % 64 == 0 {
                drain();
            }
            told += 1;
            compare_entry(Frame::new(number), entry, false);
        }
    }
}

fn entry(frame: Frame) -> Option<&'static AtomicU32> {
    let kept = KEPT.get()?;
    kept.frames
        .get(frame.number().checked_sub(kept.first)? as usize)
}
