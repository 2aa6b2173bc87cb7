//! Frames, translation tables, address spaces, copy-on-write, ASIDs.
//!
//! The memory of Cowscope's processes: what an address space holds ([`Mapping`]), how a page fault
//! is resolved ([`AddressSpace::fault`]), how fork shares pages and a write separates them, and
//! which barriers and TLB invalidations each step needs (`change`). No assembly and no MMIO: the
//! machine is behind [`Mmu`], so that the same code runs in the kernel and, on the host, under a
//! model whose TLBs never forget.
//!
//! Where to read on:
//! * `fault`: the fault handler, a case per [`Outcome`];
//! * `fork`: both sides of copy-on-write;
//! * `change`: the only code that writes live descriptors, with the barrier recipes;
//! * `commit`: what processes are promised, and when that is refused;
//! * `space` and `teardown`: mapping and protecting; unmapping, discarding, and the end;
//! * `remap`: growing, shrinking and moving, without a copy;
//! * `lock`: the order of all locks;
//! * `tables`: walks, and the tables that address spaces share after a fork.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "mutate")]
extern crate std;

#[cfg(all(feature = "mutate", target_os = "none"))]
compile_error!("a kernel that can leave out its barriers is for tests on the host only");

/// Where a test may leave out the rest of a function, if there is something to leave out (`when`),
/// and return something else at once: see `mutate`. In all other builds this is nothing.
macro_rules! leave_out {
    ($what:literal $(, when $candidate:expr)? $(, return $instead:expr)?) => {
        #[cfg(feature = "mutate")]
        if crate::mutate::is_left_out($what, true $(&& $candidate)?) {
            return $($instead)?;
        }
    };
}

/// Where a test may refuse an allocation.
macro_rules! refuse {
    ($instead:expr) => {
        #[cfg(feature = "mutate")]
        if crate::mutate::is_refused() {
            return $instead;
        }
    };
}

mod access;
mod asid;
mod cache;
mod change;
mod commit;
pub mod descriptor;
mod fault;
mod fork;
mod frame;
pub mod lock;
mod mapping;
mod memory;
mod mmu;
#[cfg(feature = "mutate")]
#[doc(hidden)]
pub mod mutate;
mod remap;
mod space;
mod sync;
mod tables;
mod teardown;
mod usage;

pub use asid::{AsidPool, Assigned, Root};
pub use cache::{NoPage, PageCache, Quota, Source};
pub use commit::Refusal;
pub use fault::{Denial, Handled, Outcome, Request};
pub use fork::{ForkCounts, ForkMode};
pub use frame::{Frame, FrameMeta, Frames, Kind, PAGE_BYTES, PAGE_SIZE, REFS_LIMIT, Saturated};
pub use lock::{Guard, Lock, Rank};
pub use mapping::{Access, Backing, MAP_MIN, Mapping, Prot, Region};
pub use memory::Memory;
pub use mmu::{Barrier, Mmu, Tlbi};
pub use remap::{Place, Remap, Remapped};
pub use space::{AddressSpace, Protected, Resident};
pub use teardown::{Discarded, Dropped, Ended};
pub use usage::Usage;

use core::fmt;

/// One past the last user address: 39 bits.
pub const USER_END: u64 = 1 << 39;

/// No frame, or no heap, was to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Why an address space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// No frame or heap (ENOMEM).
    OutOfMemory,
    /// A frame has as many references as can be counted (ENOMEM).
    TooManyReferences,
    /// More than can be promised (ENOMEM).
    Refused(Refusal),
}

/// Why fork failed. The parent is as it was, but for pages that now take one more fault each.
pub type ForkError = SpaceError;

/// Why mappings could not be changed. Nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The range is empty, not page-aligned, or not in user space (EINVAL).
    Invalid,
    /// The range, or its beginning, is not mapped (ENOMEM; EFAULT of mremap).
    NotMapped,
    /// It does not fit where it may go (ENOMEM).
    NoRoom,
    /// No frame or heap, or too many mappings (ENOMEM).
    OutOfMemory,
    /// More than can be promised (ENOMEM).
    Refused(Refusal),
}

impl From<Refusal> for SpaceError {
    fn from(refusal: Refusal) -> Self {
        SpaceError::Refused(refusal)
    }
}

impl From<Refusal> for MapError {
    fn from(refusal: Refusal) -> Self {
        MapError::Refused(refusal)
    }
}

impl From<OutOfMemory> for SpaceError {
    fn from(_: OutOfMemory) -> Self {
        SpaceError::OutOfMemory
    }
}

impl From<Saturated> for SpaceError {
    fn from(_: Saturated) -> Self {
        SpaceError::TooManyReferences
    }
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        MapError::OutOfMemory
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { pages, left } = self;
        write!(f, "{pages} pages are more than can be promised: {left}")
    }
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpaceError::OutOfMemory => f.write_str("out of memory"),
            SpaceError::TooManyReferences => f.write_str("a frame has too many references"),
            SpaceError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Invalid => f.write_str("not a page-aligned range of user space"),
            MapError::NotMapped => f.write_str("not mapped"),
            MapError::NoRoom => f.write_str("no room for it"),
            MapError::OutOfMemory => f.write_str("out of memory"),
            MapError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl core::error::Error for OutOfMemory {}
impl core::error::Error for SpaceError {}
impl core::error::Error for MapError {}
