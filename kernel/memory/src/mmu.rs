//! The seam between this crate and the machine.
//!
//! In the kernel the trait's methods are single instructions; on the host they are a model that
//! caches translations for as long as the architecture lets it. Nothing else here touches
//! hardware.

use core::alloc::Layout;

use crate::frame::{Frame, PAGE_BYTES, PAGE_SIZE};

/// Barriers, by the names of the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// Orders a frame's contents before the descriptor that publishes it.
    DmbIshst,
    /// Completes descriptor stores before a broadcast TLBI, or before a retried access.
    DsbIshst,
    /// The same, when only this CPU matters.
    DsbNshst,
    /// Completes a broadcast TLBI, and every access that used what it removed.
    DsbIsh,
    /// Completes a local TLBI.
    DsbNsh,
    /// Context synchronisation of this CPU.
    Isb,
}

/// TLB invalidations, by the names of the instructions (`Is`: on all CPUs; else on this one).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tlbi {
    /// The leaf of (address, ASID).
    Vale1 {
        /// Virtual address, bytes.
        va: u64,
        /// Address space identifier.
        asid: u16,
    },
    /// The leaf and the table entries on the way to it, of (address, ASID).
    Vae1 {
        /// Virtual address, bytes.
        va: u64,
        /// Address space identifier.
        asid: u16,
    },
    /// `Vale1`, on all CPUs.
    Vale1Is {
        /// Virtual address, bytes.
        va: u64,
        /// Address space identifier.
        asid: u16,
    },
    /// `Vae1`, on all CPUs.
    Vae1Is {
        /// Virtual address, bytes.
        va: u64,
        /// Address space identifier.
        asid: u16,
    },
    /// The leaf of an address in every ASID, on all CPUs.
    Vaale1Is {
        /// Virtual address, bytes.
        va: u64,
    },
    /// The leaf of an address and the table entries on the way to it in every ASID, on all CPUs.
    Vaae1Is {
        /// Virtual address, bytes.
        va: u64,
    },
    /// Everything of one ASID, on all CPUs.
    Aside1Is {
        /// Address space identifier.
        asid: u16,
    },
    /// Everything, on this CPU.
    Vmalle1,
    /// Everything, on all CPUs.
    Vmalle1Is,
}

impl Tlbi {
    /// The instruction's register operand: VA\[55:12\] in bits 43:0, the ASID in bits 63:48, and
    /// bits 47:44 (the TTL hint of ARMv8.4) zero. Zero for the forms that take none.
    #[inline(always)]
    pub const fn operand(self) -> u64 {
        const fn page(va: u64) -> u64 {
            (va >> 12) & ((1 << 44) - 1)
        }
        match self {
            Tlbi::Vale1 { va, asid }
            | Tlbi::Vae1 { va, asid }
            | Tlbi::Vale1Is { va, asid }
            | Tlbi::Vae1Is { va, asid } => page(va) | (asid as u64) << 48,
            Tlbi::Vaale1Is { va } | Tlbi::Vaae1Is { va } => page(va),
            Tlbi::Aside1Is { asid } => (asid as u64) << 48,
            Tlbi::Vmalle1 | Tlbi::Vmalle1Is => 0,
        }
    }
}

/// What this crate needs from the machine. Implementations should be `#[inline]`.
///
/// `write_descriptor`, `barrier` and `tlbi` are `#[track_caller]`, so that the host tests can tell
/// one call site from another and leave each of them out in turn; inlined, it costs nothing.
pub trait Mmu {
    /// Reads a descriptor (`index` below 512): one 64-bit load.
    fn read_descriptor(&self, table: Frame, index: usize) -> u64;

    /// Writes a descriptor: one 64-bit store, no barrier. `level` (1 to 3) is for the record only.
    #[track_caller]
    fn write_descriptor(&self, table: Frame, index: usize, level: u8, value: u64);

    /// Executes a barrier.
    #[track_caller]
    fn barrier(&self, barrier: Barrier);

    /// Issues a TLB invalidation, no barrier.
    #[track_caller]
    fn tlbi(&self, op: Tlbi);

    /// `Vale1Is` for each page of `low..high`.
    #[inline]
    #[track_caller]
    fn tlbi_leaves(&self, low: u64, high: u64, asid: u16) {
        let mut va = low;
        while va < high {
            self.tlbi(Tlbi::Vale1Is { va, asid });
            va += PAGE_SIZE;
        }
    }

    /// Fills a frame with zeros.
    #[cfg_attr(feature = "mutate", track_caller)]
    fn zero_frame(&self, frame: Frame);

    /// Copies a frame.
    #[cfg_attr(feature = "mutate", track_caller)]
    fn copy_frame(&self, from: Frame, to: Frame);

    /// Lends a frame's bytes.
    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; PAGE_BYTES]));

    /// Makes what was stored to a frame visible to instruction fetches, on all CPUs and at every
    /// virtual address (a VIPT instruction cache needs more than IC IVAU at the kernel's alias).
    #[cfg_attr(feature = "mutate", track_caller)]
    fn sync_icache(&self, frame: Frame);

    /// The level 3 tables of `start..end` (whole ones) are shared by two address spaces, by their
    /// serial numbers, from the fork that is under way: a hook for the record.
    #[inline]
    fn tables_shared(&self, parent: u32, child: u32, start: u64, end: u64) {
        let _ = (parent, child, start, end);
    }

    /// An address space, by its serial number, took the level 3 table of an address for its own
    /// outside a fault: by a copy, or, as its last owner, as it is. A hook for the record; faults
    /// have outcomes for it.
    #[inline]
    fn table_owned(&self, space: u32, va: u64, copied: bool) {
        let _ = (space, va, copied);
    }

    /// Makes sure that the next allocation by this CPU cannot fail, if it is one of this layout.
    /// False: there is no memory. On the host there always is.
    #[inline]
    fn make_ready(&self, layout: Layout) -> bool {
        let _ = layout;
        true
    }

    /// The number of the CPU that executes this, below the number of CPUs that
    /// [`Memory::new`](crate::Memory::new) was told: which list of free frames is its own.
    #[inline]
    fn cpu(&self) -> usize {
        0
    }

    /// A frame was taken from the allocator, or is about to be given back: a hook for the record.
    #[inline]
    fn frame_event(&self, frame: Frame, freed: bool) {
        let _ = (frame, freed);
    }
}
