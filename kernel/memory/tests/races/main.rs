//! What two CPUs do at the same time, in every order that `shuttle` can think of.
//!
//! The crate's own sources, but for `sync`: here each atomic operation, each lock and each look at
//! a descriptor is a point where another CPU may go on. Schedules are random, from fixed seeds: a
//! failure prints its own, and comes again in the next run.
//!
//! `shuttle` executes one CPU at a time and every write is seen at once: what it finds are wrong
//! orders of steps. Missing barriers are the business of the other tests.
#![allow(dead_code, unused_imports, reason = "no race needs all of the crate")]

extern crate alloc;

/// The switches of `memory::mutate` are for other tests.
macro_rules! leave_out {
    ($($any:tt)*) => {};
}
macro_rules! refuse {
    ($any:expr) => {};
}

#[path = "../../src/access.rs"]
mod access;
#[path = "../../src/asid.rs"]
mod asid;
#[path = "../../src/cache.rs"]
mod cache;
#[path = "../../src/change.rs"]
mod change;
#[path = "../../src/commit.rs"]
mod commit;
#[path = "../../src/descriptor.rs"]
mod descriptor;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/fault.rs"]
mod fault;
#[path = "../../src/fork.rs"]
mod fork;
#[path = "../../src/frame.rs"]
mod frame;
#[path = "../../src/free.rs"]
mod free;
#[path = "../../src/lock.rs"]
mod lock;
#[path = "../../src/mapping.rs"]
mod mapping;
#[path = "../../src/memory.rs"]
mod memory;
#[path = "../../src/mmu.rs"]
mod mmu;
#[path = "../../src/remap.rs"]
mod remap;
#[path = "../../src/space.rs"]
mod space;
#[path = "../../src/tables.rs"]
mod tables;
#[path = "../../src/teardown.rs"]
mod teardown;
#[path = "../../src/usage.rs"]
mod usage;

mod machine;
mod race;
mod sync;
mod world;

use asid::{AsidPool, Root};
use cache::{NoPage, PageCache, Quota, Source};
use commit::Refusal;
use error::{ForkError, MapError, OutOfMemory, SpaceError};
use fault::Request;
use fork::ForkMode;
use frame::{Frame, FrameMeta, Frames, PAGE_BYTES, PAGE_SIZE, Saturated};
use mapping::{Access, Backing, Mapping, Prot, Region, USER_END};
use memory::Memory;
use mmu::{Barrier, Mmu, Tlbi};
use space::AddressSpace;
