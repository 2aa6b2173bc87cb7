//! A switch for tests: leaves out one barrier, TLBI, reference count or write-protection, by the
//! place in the source that executes it, or refuses one allocation. Feature `mutate`, which only
//! this package's own tests turn on: other builds contain none of it.
//!
//! A function that a test may leave out begins with `leave_out!` and is `track_caller` in such
//! builds; so are those that only pass on to one. The places are then the calls of such functions,
//! and a test compares those that it met with those that it finds in the source.

use core::panic::Location;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::thread_local;

/// A place in the source, and what it executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Source file.
    pub file: &'static str,
    /// Line in it.
    pub line: u32,
    /// Column in it: of the call.
    pub column: u32,
    /// What would be left out.
    pub what: &'static str,
}

/// How often a place was met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// At all.
    pub times: u64,
    /// With something to leave out: a descriptor that loses no rights is no write-protection.
    pub to_leave_out: u64,
}

thread_local! {
    static LEFT_OUT: Cell<Option<Site>> = const { Cell::new(None) };
    static RECORD: RefCell<Option<BTreeMap<Site, Met>>> = const { RefCell::new(None) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static REFUSED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Leaves out, in this thread, what a place executes; `None`: nothing. What was left out before.
pub fn leave_out(site: Option<Site>) -> Option<Site> {
    LEFT_OUT.replace(site)
}

/// Records, in this thread, the places that are met from now on.
pub fn record() {
    RECORD.set(Some(BTreeMap::new()));
}

/// Ends the record.
pub fn recorded() -> BTreeMap<Site, Met> {
    RECORD.take().unwrap_or_default()
}

/// What the caller of the caller executes is left out.
#[track_caller]
pub fn is_left_out(what: &'static str, candidate: bool) -> bool {
    let location = Location::caller();
    let site = || Site {
        file: location.file(),
        line: location.line(),
        column: location.column(),
        what,
    };
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            let met = record.entry(site()).or_default();
            met.times += 1;
            met.to_leave_out += u64::from(candidate);
        }
    });
    candidate && LEFT_OUT.get().is_some_and(|left_out| left_out == site())
}

/// Refuses, in this thread, the allocation after so many more (of a frame, or of heap); `None`: none.
pub fn refuse(after: Option<u64>) {
    REFUSED.set(after.map(|after| ALLOCATIONS.get() + after));
}

/// Allocations of this thread so far, the refused one included.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// One was refused, since there had been so many.
pub fn refused_since(allocations: u64) -> bool {
    let refused = allocations..ALLOCATIONS.get();
    REFUSED
        .get()
        .is_some_and(|number| refused.contains(&number))
}

/// This allocation is refused.
pub(crate) fn is_refused() -> bool {
    let number = ALLOCATIONS.get();
    ALLOCATIONS.set(number + 1);
    REFUSED.get() == Some(number)
}
