//! The checker's memory, and the global allocator that keeps it apart from the kernel's heap.

use crate::arch::{cpu, heap};
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
use talc::{TalcLock, source::Manual};

/// What the checker has, in one piece of the kernel's heap.
static OWN: TalcLock<spin::Mutex<()>, Manual> = TalcLock::new(Manual);
static START: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);
/// Bytes of it in use.
static USED: AtomicUsize = AtomicUsize::new(0);

/// The CPU that runs the checker, plus one; 0: none does.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

struct Either;

#[global_allocator]
static ALLOCATOR: Either = Either;

/// What an allocation takes: its tag, and up to the next unit of the allocator.
fn cost(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(32)
}

// SAFETY: each of the two is an allocator, and gets back what it gave.
unsafe impl GlobalAlloc for Either {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if INSIDE.load(Ordering::Relaxed) != cpu::id() + 1 {
            // SAFETY: the caller's.
            return unsafe { heap::ALLOCATOR.alloc(layout) };
        }
        USED.fetch_add(cost(layout), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { OWN.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let offset = at.addr().wrapping_sub(START.load(Ordering::Relaxed));
        if offset >= SIZE.load(Ordering::Relaxed) {
            // SAFETY: it is not of the checker's piece, so it came from the heap.
            return unsafe { heap::ALLOCATOR.dealloc(at, layout) };
        }
        USED.fetch_sub(cost(layout), Ordering::Relaxed);
        // SAFETY: it is in the checker's piece, of which nobody else allocates.
        unsafe { OWN.dealloc(at, layout) }
    }
}

/// Takes so much of the kernel's heap for the checker, for good. False: there is not so much.
pub fn take(bytes: u64) -> bool {
    let mut room: Vec<u8> = Vec::new();
    let bytes = bytes as usize;
    if room.try_reserve_exact(bytes).is_err() {
        return false;
    }
    let start = room.leak().as_mut_ptr();
    // SAFETY: reserved above, and leaked: it is nobody else's.
    if unsafe { OWN.lock().claim(start, bytes) }.is_none() {
        return false;
    }
    START.store(start.addr(), Ordering::Relaxed);
    SIZE.store(bytes, Ordering::Relaxed);
    true
}

/// Runs `f`, whose allocations are the checker's. One CPU at a time: who has the checker locked.
pub fn inside(f: impl FnOnce()) {
    INSIDE.store(cpu::id() + 1, Ordering::Relaxed);
    f();
    INSIDE.store(0, Ordering::Relaxed);
}

/// 7/8 are in use: what is left is for what one event may need.
pub fn is_full() -> bool {
    USED.load(Ordering::Relaxed) > SIZE.load(Ordering::Relaxed) / 8 * 7
}
