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
//! * `lock`: the order of all locks; `free`: the free frames, a list per CPU;
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
mod error;
mod fault;
mod fork;
mod frame;
mod free;
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
pub use error::{ForkError, MapError, OutOfMemory, SpaceError};
pub use fault::{Denial, Handled, Outcome, Rare, Request};
pub use fork::{ForkCounts, ForkMode};
pub use frame::{Frame, FrameMeta, Frames, Kind, PAGE_BYTES, PAGE_SIZE, REFS_LIMIT, Saturated};
pub use lock::{Guard, Lock, Rank, ReadGuard, RwLock, WriteGuard};
pub use mapping::{Access, Backing, MAP_MIN, Mapping, Prot, Region, USER_END};
pub use memory::Memory;
pub use mmu::{Barrier, Mmu, Tlbi};
pub use remap::{Place, Remap, Remapped};
pub use space::{AddressSpace, Protected, Resident};
pub use teardown::{Discarded, Dropped, Ended};
pub use usage::Usage;

// A 256th of RAM.
const _: () = assert!(size_of::<FrameMeta>() == 16);
