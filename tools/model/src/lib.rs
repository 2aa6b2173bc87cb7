//! Arm's translation rules as an adversary: a machine that goes wrong wherever software lets it.
//!
//! [`Machine`] has RAM and CPUs. Its TLBs and walk caches never forget by themselves and are filled
//! speculatively; its stores become visible late and out of order unless a barrier says otherwise;
//! a TLB invalidation acts at a random moment between its issue and the DSB that completes it; an
//! access is served by any entry that the architecture allows. QEMU does none of this, and real
//! CPUs only sometimes.
//!
//! Software that omits a barrier or an invalidation then reads a wrong byte, faults twice, or
//! leaves something behind that [`Machine`] reports as a [`Violation`]. The rules are those of
//! Simner et al., "Relaxed virtual memory in Armv8-A" (ESOP 2022), and of the Arm ARM's
//! break-before-make (D8.16) as Linux and casemate apply it. Stage 1, EL0, 4 KiB granule, 39-bit
//! addresses. All randomness comes from a seed.
//!
//! No `std`: a kernel with the feature `checks` links the checker and feeds it as it runs.
#![cfg_attr(not(test), no_std)]

#[macro_use]
extern crate alloc;

mod access;
pub mod checker;
mod cpu;
mod machine;
mod rng;
mod walk;

pub use access::{Fault, FaultKind};
pub use machine::{Machine, Rule, Violation};
pub use rng::Rng;

/// Bytes of a page, and of a frame.
pub const PAGE: usize = 4096;

/// Barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Barrier {
    DmbIshst,
    DsbIshst,
    DsbNshst,
    DsbIsh,
    DsbNsh,
    Isb,
}

/// What a TLB invalidation removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The leaf of a page, of one ASID or (`None`) of all (VALE1, VAALE1).
    Leaf {
        /// Virtual address.
        va: u64,
        /// ASID.
        asid: Option<u16>,
    },
    /// The leaf of a page and the table entries on the way (VAE1, VAAE1).
    Page {
        /// Virtual address.
        va: u64,
        /// ASID.
        asid: Option<u16>,
    },
    /// All of an ASID but global entries (ASIDE1).
    Asid(u16),
    /// Everything (VMALLE1).
    All,
}

/// A TLB invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tlbi {
    /// What it removes.
    pub scope: Scope,
    /// On all CPUs (the IS forms), or on the issuing one only.
    pub broadcast: bool,
}

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Access {
    Read,
    Write,
    Exec,
}
