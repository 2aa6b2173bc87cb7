//! The only code that writes descriptors of live tables, and the barriers that each kind of change
//! needs. No other module issues a barrier or a TLBI.
//!
//! ```text
//! make      DMB ISHST; STR; DSB ISHST                          nothing -> something
//! relax     STR; DSB NSHST; TLBI VALE1; DSB NSH                more rights, same frame: this CPU only
//! replace   STR 0; DSB ISHST; TLBI VALE1IS; DSB ISH; STR; DSB ISHST     another frame
//! own_table, replace_table     as replace, by ASIDE1IS                 a table
//! forget_local     DSB NSH; TLBI VAE1; DSB NSH                 nothing has changed, but the fault was taken
//! Flush     STR...; DSB ISHST; TLBI VALE1IS... | ASIDE1IS; DSB ISH      fewer rights, or nothing
//! ```
//!
//! * *make*: the frame's contents must be visible before the descriptor is (DMB), and the retried
//!   access must see the descriptor (DSB, and ERET as context synchronisation): invalid entries
//!   are not cached, so there is nothing to invalidate.
//! * *relax*: other CPUs may hold the narrower entry. They take one fault each, which finds
//!   nothing to do (`Outcome::Spurious`): cheaper than a broadcast on each reuse.
//! * *replace* is break-before-make: a valid entry must never change its output address in place,
//!   or two CPUs (or one, speculatively) use both frames at once.
//! * Entries that lead to tables only ever change by break-before-make, even if only APTable does:
//!   the manual is not clear about less.
//! * Whatever names an ASID reads it after its DSB (see `asid`).
//! * *Flush*: rights are gone, and frames may be reused, when the last DSB has completed and not
//!   before. It also waits for accesses that were translated through the old entry.
//!
//! What the compiler enforces: a frame whose descriptor was broken is a [`Retired`], which can only
//! be released against a [`Flushed`], and a `Flushed` comes out of a completed invalidation only.
//!
//! A broken entry keeps its old bits but for bit 0, so that a walk after the flush finds what it
//! has to release: removing any number of pages needs one flush and no memory.

use crate::asid::Context;
use crate::descriptor::{Leaf, Table, bits, unbroken};
use crate::frame::{Frame, PAGE_SIZE};
use crate::mmu::{Barrier, Mmu, Tlbi};

/// An entry of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub table: Frame,
    /// Small enough for all of it to be passed in a register.
    pub index: u16,
    pub level: u8,
}

impl Slot {
    /// The entry for `va` in a table of a level.
    #[inline]
    pub fn new(table: Frame, level: u8, va: u64) -> Slot {
        Slot::at(table, level, (va >> (39 - 9 * u32::from(level))) as usize)
    }

    /// An entry by its index in the table.
    #[inline]
    pub fn at(table: Frame, level: u8, index: usize) -> Slot {
        Slot {
            table,
            index: (index & 511) as u16,
            level,
        }
    }

    #[inline]
    pub fn index(self) -> usize {
        self.index.into()
    }

    #[inline]
    pub fn read<M: Mmu>(self, mmu: &M) -> u64 {
        mmu.read_descriptor(self.table, self.index())
    }

    #[inline(always)]
    #[cfg_attr(feature = "mutate", track_caller)]
    fn write<M: Mmu>(self, mmu: &M, value: u64) {
        leave_out!("STR", when tightens(self.read(mmu), value));
        mmu.write_descriptor(self.table, self.index(), self.level, value);
    }
}

/// Proof that an invalidation has completed on all CPUs: what was broken before it is cached
/// nowhere, and no access through it is under way.
#[derive(Debug)]
pub(crate) struct Flushed(());

/// A frame or table whose descriptor was broken, and whose reference is still held.
#[must_use = "the reference of a broken descriptor must be released"]
#[derive(Debug)]
pub(crate) struct Retired(Frame);

impl Retired {
    /// The frame, to look at what it holds.
    #[inline]
    pub fn frame(&self) -> Frame {
        self.0
    }

    /// The frame, for [`Memory::release`](crate::Memory): it wants the token as well.
    #[inline]
    pub fn into_frame(self, _: &Flushed) -> Frame {
        self.0
    }
}

/// A leaf for an entry that was empty.
#[inline(always)]
pub(crate) fn make<M: Mmu>(mmu: &M, slot: Slot, new: Leaf) {
    debug_assert_eq!(slot.read(mmu), 0, "make over something");
    mmu.barrier(Barrier::DmbIshst);
    slot.write(mmu, new.bits());
    mmu.barrier(Barrier::DsbIshst);
}

/// A table for an entry that was empty. The `make` of a leaf below it follows, whose DSB completes this too.
#[inline]
pub(crate) fn link<M: Mmu>(mmu: &M, slot: Slot, table: Frame) {
    debug_assert_eq!(slot.read(mmu), 0, "link over something");
    mmu.barrier(Barrier::DmbIshst);
    slot.write(mmu, Table::new(table).bits());
}

/// An entry of a table that no CPU can reach yet: publishing the table orders it.
#[inline]
#[cfg_attr(feature = "mutate", track_caller)]
pub(crate) fn prepare<M: Mmu>(mmu: &M, slot: Slot, value: u64) {
    slot.write(mmu, value);
}

/// More rights for the same frame.
#[inline(always)]
pub(crate) fn relax<M: Mmu>(mmu: &M, slot: Slot, va: u64, context: &Context, new: Leaf) {
    debug_assert!(same_frame(slot.read(mmu), new), "relax changes the frame");
    slot.write(mmu, new.bits());
    mmu.barrier(Barrier::DsbNshst);
    let asid = context.asid();
    mmu.tlbi(Tlbi::Vale1 { va, asid });
    mmu.barrier(Barrier::DsbNsh);
}

/// Other software bits for the same frame and rights: no TLB holds them.
#[inline]
#[cfg_attr(feature = "mutate", track_caller)]
pub(crate) fn annotate<M: Mmu>(mmu: &M, slot: Slot, new: Leaf) {
    debug_assert!(
        same_frame(slot.read(mmu), new),
        "annotate changes the frame"
    );
    slot.write(mmu, new.bits());
}

/// Fewer rights in a table that is shared: APTable\[1\] grants none of them to anybody.
#[inline]
#[cfg_attr(feature = "mutate", track_caller)]
pub(crate) fn freeze<M: Mmu>(mmu: &M, slot: Slot, new: Leaf) {
    debug_assert!(same_frame(slot.read(mmu), new), "freeze changes the frame");
    debug_assert!(!new.writable());
    slot.write(mmu, new.bits());
}

/// The same table, which is not shared any more.
pub(crate) fn own_table<M: Mmu>(mmu: &M, slot: Slot, context: &Context, table: Frame) {
    change_table(mmu, slot, context, table);
}

/// Another table in place of a shared one.
pub(crate) fn replace_table<M: Mmu>(
    mmu: &M,
    slot: Slot,
    context: &Context,
    old: Table,
    new: Frame,
) -> (Retired, Flushed) {
    change_table(mmu, slot, context, new);
    (Retired(old.frame()), Flushed(()))
}

/// By ASID: no walk cache may lead to an old table from now on, whatever the page, since its other
/// owner may soon write it; and no leaf may stay that is narrower for having been shared, since
/// each would cost a spurious fault.
fn change_table<M: Mmu>(mmu: &M, slot: Slot, context: &Context, table: Frame) {
    slot.write(mmu, 0);
    mmu.barrier(Barrier::DsbIshst);
    let asid = context.asid();
    mmu.tlbi(Tlbi::Aside1Is { asid });
    mmu.barrier(Barrier::DsbIsh);
    slot.write(mmu, Table::new(table).bits());
    mmu.barrier(Barrier::DsbIshst);
}

/// Puts a table that was broken, and is flushed, back as a shared one. `publish` follows the last.
pub(crate) fn share_broken<M: Mmu>(mmu: &M, slot: Slot, _: &Flushed) {
    if let Some(old) = unbroken(slot.read(mmu)) {
        slot.write(mmu, Table::shared(old.frame()).bits());
    }
}

/// Completes `share_broken` and `put`: later accesses of this CPU find the tables.
pub(crate) fn publish<M: Mmu>(mmu: &M) {
    mmu.barrier(Barrier::DsbIshst);
}

/// Forgets what this CPU has cached for a page, tables included: the descriptors permit what has
/// faulted. The first DSB orders the TLBI after the loads that found that out: nothing else does,
/// and if it acted before them, the walker could fetch what another CPU has just changed once more
/// as it was, and the access would fault again.
#[inline]
pub(crate) fn forget_local<M: Mmu>(mmu: &M, va: u64, context: &Context) {
    mmu.barrier(Barrier::DsbNsh);
    let asid = context.asid();
    mmu.tlbi(Tlbi::Vae1 { va, asid });
    mmu.barrier(Barrier::DsbNsh);
}

/// Empties this CPU's TLB. The DSB of the switch to the next address space completes it.
pub(crate) fn forget_all_local<M: Mmu>(mmu: &M) {
    mmu.tlbi(Tlbi::Vmalle1);
}

/// Another frame in place of the one that is mapped.
#[inline(always)]
pub(crate) fn replace<M: Mmu>(
    mmu: &M,
    slot: Slot,
    va: u64,
    context: &Context,
    old: Leaf,
    new: Leaf,
) -> (Retired, Flushed) {
    debug_assert_eq!(slot.read(mmu), old.bits());
    slot.write(mmu, 0);
    mmu.barrier(Barrier::DsbIshst);
    let asid = context.asid();
    mmu.tlbi(Tlbi::Vale1Is { va, asid });
    mmu.barrier(Barrier::DsbIsh);
    slot.write(mmu, new.bits());
    mmu.barrier(Barrier::DsbIshst);
    (Retired(old.frame()), Flushed(()))
}

/// Above this many pages one ASIDE1IS is cheaper than as many VALE1IS, even counting what else it
/// evicts.
const BY_PAGE_MAX: u64 = 64;

/// Descriptors that lost rights or were broken, and are not yet gone from the TLBs.
#[must_use = "nothing may rely on the change before it is flushed"]
#[derive(Debug)]
pub(crate) struct Flush<'a> {
    context: &'a Context,
    /// The pages concerned lie in `low..high`.
    low: u64,
    high: u64,
    /// Tables were broken too: leaf invalidations would leave them in walk caches.
    all: bool,
}

impl<'a> Flush<'a> {
    #[inline]
    pub fn new(context: &'a Context) -> Flush<'a> {
        Flush {
            context,
            low: u64::MAX,
            high: 0,
            all: false,
        }
    }

    /// A flush of the whole address space.
    #[inline]
    pub fn everything(context: &'a Context) -> Flush<'a> {
        Flush {
            context,
            low: u64::MAX,
            high: 0,
            all: true,
        }
    }

    /// The whole address space instead of single pages.
    #[inline]
    pub fn widen(&mut self) {
        self.all = true;
    }

    /// Pages come in order.
    #[inline]
    fn cover(&mut self, va: u64) {
        debug_assert!(self.high <= va, "a page out of order");
        self.low = self.low.min(va);
        self.high = va + PAGE_SIZE;
    }

    /// Other rights for the same frame.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn set_rights<M: Mmu>(&mut self, mmu: &M, slot: Slot, va: u64, new: Leaf) {
        debug_assert!(
            same_frame(slot.read(mmu), new),
            "set_rights changes the frame"
        );
        slot.write(mmu, new.bits());
        self.cover(va);
    }

    /// Nothing in place of a page.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn break_leaf<M: Mmu>(&mut self, mmu: &M, slot: Slot, va: u64, old: Leaf) {
        slot.write(mmu, old.bits() & !bits::VALID);
        self.cover(va);
    }

    /// Nothing in place of a table, and of all that it maps.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn break_table<M: Mmu>(&mut self, mmu: &M, slot: Slot, old: Table) {
        slot.write(mmu, old.bits() & !bits::VALID);
        self.all = true;
    }

    /// Completes on all CPUs.
    #[inline]
    pub fn complete<M: Mmu>(self, mmu: &M) -> Flushed {
        if self.all || self.low < self.high {
            mmu.barrier(Barrier::DsbIshst);
            let asid = self.context.asid();
            if self.all || self.high - self.low > BY_PAGE_MAX * PAGE_SIZE {
                mmu.tlbi(Tlbi::Aside1Is { asid });
            } else {
                mmu.tlbi_leaves(self.low, self.high, asid);
            }
            mmu.barrier(Barrier::DsbIsh);
        }
        Flushed(())
    }
}

/// Empties a broken entry and hands out what it referred to, and the leaf it was (if it was one). `None` if the entry is not broken.
#[inline]
#[cfg_attr(feature = "mutate", track_caller)]
pub(crate) fn take_broken<M: Mmu>(mmu: &M, slot: Slot) -> Option<(Retired, Leaf)> {
    let old = unbroken(slot.read(mmu))?;
    slot.write(mmu, 0);
    Some((Retired(old.frame()), old))
}

/// What a valid entry refers to, in a table that is itself broken and flushed: the entry is not
/// cleared, since the table goes as well.
#[inline]
pub(crate) fn take_dead(frame: Frame, _: &Flushed) -> Retired {
    Retired(frame)
}

/// Takes what an entry refers to out of it, to put it elsewhere as it is. The entry is broken, or
/// lies in a table that is. `None`: it is empty.
#[inline]
#[cfg_attr(feature = "mutate", track_caller)]
pub(crate) fn take_to_move<M: Mmu>(mmu: &M, slot: Slot, _: &Flushed) -> Option<Moved> {
    let old = slot.read(mmu);
    if let Some(leaf) = unbroken(old) {
        slot.write(mmu, 0);
        return Some(Moved(leaf.bits()));
    }
    (old != 0).then_some(Moved(old))
}

/// A descriptor on its way from one entry to another, with its reference.
#[must_use = "what is taken out must be put somewhere"]
#[derive(Debug)]
pub(crate) struct Moved(u64);

/// A descriptor in its new, empty entry. Nothing has to be ordered before it: the frame and its
/// contents were published where it comes from. `publish` follows the last.
#[inline]
#[cfg_attr(feature = "mutate", track_caller)]
pub(crate) fn put<M: Mmu>(mmu: &M, slot: Slot, moved: Moved) {
    debug_assert_eq!(slot.read(mmu), 0, "put over something");
    slot.write(mmu, moved.0);
}

fn same_frame(old: u64, new: Leaf) -> bool {
    Leaf::from_bits(old).is_some_and(|old| old.frame() == new.frame())
}

/// The new descriptor permits less than the old one, or clears what was broken.
#[cfg(feature = "mutate")]
fn tightens(old: u64, new: u64) -> bool {
    let lost = old & !new & (bits::VALID | bits::EL0);
    let forbidden = new & !old & (bits::READ_ONLY | bits::UXN | bits::TABLE_READ_ONLY);
    old != 0 && (new == 0 || old & bits::VALID != 0 && lost | forbidden != 0)
}
