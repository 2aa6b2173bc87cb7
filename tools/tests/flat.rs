//! Reading a trace takes memory for what lives in it, not for how long it is.
//!
//! A test binary of its own: it counts all of its allocations.

#[allow(dead_code)]
mod support;
#[path = "support/sweeps.rs"]
mod sweeps;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sweeps::sweeps;
use tools::report::args::ReportFormat;
use tools::report::{Options, run_to};

/// The system's allocator, counted.
struct Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; only numbers are kept beside.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(
            NOW.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

const PAGES: u64 = 64;

/// The most bytes that a report had at once, beside the trace.
fn most(forks: usize, story: bool) -> usize {
    let trace = sweeps(PAGES, forks).end();
    let options = Options {
        format: ReportFormat::Text,
        story,
        top: 10,
        strict: true,
        symbols: Default::default(),
        filter: Default::default(),
    };
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    run_to(&mut trace.as_slice(), &options, &mut io::sink()).unwrap();
    MOST.load(Relaxed) - before
}

/// What is kept one by one is bounded, and 4,500 forks are more than any of the bounds. The traces
/// use frames that were never used before, as a long trace of a large machine does.
#[test]
fn twice_the_trace_takes_no_more_memory() {
    let (once, twice) = (most(4_500, true), most(9_000, true));
    let more = twice.saturating_sub(once);
    assert!(
        more < once / 20,
        "{once} bytes for 4,500 forks, {more} more for twice as many"
    );
}
