//! Commit accounting: what processes were promised, so that no fault has to break a promise.
//!
//! A process may write all its private memory at any time, and each page may then need a frame, and
//! each 2 MiB a table. Who maps such memory, or forks, is *charged* for the worst case, and is
//! refused (ENOMEM) if that is more than there is: the error comes from a system call that can
//! report it, not from a store instruction that cannot. This is Linux's overcommit mode 2
//! (mm/util.c, `__vm_enough_memory`) with tables included, and with a limit that is not a guess:
//!
//! * *Charged* are, per address space, the pages of private mappings that are or ever were writable
//!   (a mapping that becomes read-only keeps its frames, and its charge), the level 3 tables of the
//!   2 MiB and the level 2 tables of the GiB in which there is something writable, and the root. A
//!   stack is charged for what is mapped of it; when it grows, for the growth. Anonymous shared
//!   memory is charged once, to its page cache.
//! * Frames that serve what is charged are marked in their metadata: all of private memory, and
//!   those tables. A marked frame takes nothing from anybody when it is allocated, and gives
//!   nothing when it is freed while the charge stays.
//! * *Available* is what is neither in use nor promised: free frames, less the charges that have no
//!   frame yet. Charges come out of it, but for a reserve; so does every frame that is not marked:
//!   the kernel's stacks and heap, page caches, tables of read-only memory. These are refused, too,
//!   where they would take what was promised.
//!
//! So free frames never are fewer than the charges without a frame, and a fault that fills, copies
//! or unshares what is charged finds its frames. A frame shared by `n` address spaces is charged
//! `n` times and in use once, which leaves `n - 1` for the copies: the last owner needs none.
//!
//! Without limit ([`Frames::set_overcommit`](crate::Frames::set_overcommit), Linux's mode 1)
//! charges are counted, nothing is refused before the last frame is gone, and then faults fail.

use core::convert::Infallible;
use core::sync::atomic::Ordering;

use crate::change::Slot;
use crate::descriptor::Table;
use crate::frame::PAGE_SIZE;
use crate::mapping::{Mapping, Mappings, Prot};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use crate::sync::AtomicU64;
use crate::tables::{L2_SPAN, L3_SPAN, block_end, for_chunks};

/// The part of all frames that cannot be promised, and its limit: 16 MiB. For the stack and the
/// bookkeeping of processes, and for pages of files: those that exist shall go on.
const RESERVE_PART: u64 = 64;
const RESERVE_MAX: u64 = 4096;

/// More was asked for than can be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Pages asked for, tables included.
    pub pages: u64,
    /// Pages that could have been had.
    pub left: u64,
}

/// The accounts of the machine.
#[derive(Debug)]
pub(crate) struct Commit {
    overcommit: bool,
    available: AtomicU64,
    committed: AtomicU64,
    refusals: AtomicU64,
}

impl Commit {
    pub const fn new() -> Commit {
        Commit {
            overcommit: false,
            available: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        }
    }

    pub fn set_overcommit(&mut self) {
        self.overcommit = true;
    }

    pub fn overcommits(&self) -> bool {
        self.overcommit
    }

    /// Pages that are charged.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Frames that are neither in use nor promised; means nothing without a limit.
    pub fn available(&self) -> u64 {
        self.available.load(Ordering::Relaxed)
    }

    /// Takes a frame for something that is not charged; whether there was one.
    #[inline]
    pub fn take(&self) -> bool {
        self.overcommit || self.take_above(1, 0).is_ok() || self.refuse()
    }

    /// Counts a refusal: of a frame or a charge. False.
    #[cold]
    pub fn refuse(&self) -> bool {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Refusals so far.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Back from `take`, or new.
    #[inline]
    pub fn give(&self, frames: u64) {
        self.available.fetch_add(frames, Ordering::Relaxed);
    }

    #[inline]
    fn take_above(&self, frames: u64, floor: u64) -> Result<u64, u64> {
        self.available
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |available| {
                available.checked_sub(frames).filter(|left| *left >= floor)
            })
    }

    /// Promises pages, out of `total` frames.
    pub fn charge(&self, pages: u64, total: u64) -> Result<(), Refusal> {
        if !self.overcommit {
            let reserve = (total / RESERVE_PART).min(RESERVE_MAX);
            self.take_above(pages, reserve).map_err(|available| {
                self.refuse();
                Refusal {
                    pages,
                    left: available.saturating_sub(reserve),
                }
            })?;
        }
        self.committed.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a promise of pages back, of which `kept` have a frame that stays, as nobody's charge.
    pub fn uncharge(&self, pages: u64, kept: u64) {
        debug_assert!(kept <= pages, "more is kept than was charged");
        let before = self.committed.fetch_sub(pages, Ordering::Relaxed);
        debug_assert!(before >= pages, "more is given back than was charged");
        if !self.overcommit {
            self.give(pages - kept);
        }
    }
}

/// What a range costs beyond what lies outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    pub pages: u64,
    pub l3_tables: u64,
    pub l2_tables: u64,
}

impl Charge {
    /// Both pay for as many tables of each level. (For the same ones, since one pays for all that the
    /// other does.)
    pub fn same_tables(self, other: Charge) -> bool {
        (self.l3_tables, self.l2_tables) == (other.l3_tables, other.l2_tables)
    }

    pub fn total(self) -> u64 {
        self.pages + self.l3_tables + self.l2_tables
    }
}

/// The aligned block of `span` bytes around an address.
fn block(va: u64, span: u64) -> (u64, u64) {
    (va & !(span - 1), block_end(va, span))
}

/// Counts the blocks of a range that pieces of it touch, in order, but for those that the outside
/// pays for.
struct Blocks {
    span: u64,
    next: u64,
    limit: u64,
    count: u64,
}

impl Blocks {
    /// `charged`: what is charged next to the range, of [`Mappings::charged_around`].
    #[inline]
    fn new(span: u64, start: u64, end: u64, charged: (u64, u64)) -> Blocks {
        let left = charged.0 > block(start, span).0;
        let right = charged.1 < block_end(end - 1, span);
        Blocks {
            span,
            next: start / span + u64::from(left),
            limit: (end - 1) / span + u64::from(!right),
            count: 0,
        }
    }

    /// For the tables of level 3 and 2. `first`: the first mapping that ends above `start`.
    #[inline(always)]
    fn both(mappings: &Mappings, first: usize, start: u64, end: u64) -> [Blocks; 2] {
        let charged = mappings.charged_around(first, start, end);
        [L3_SPAN, L2_SPAN].map(|span| Blocks::new(span, start, end, charged))
    }

    /// All blocks of the range, if all of it is charged.
    fn all(&self) -> u64 {
        self.limit.saturating_sub(self.next)
    }

    fn add(&mut self, start: u64, end: u64) {
        let from = (start / self.span).max(self.next);
        let to = ((end - 1) / self.span + 1).min(self.limit);
        if from < to {
            self.count += to - from;
            self.next = to;
        }
    }
}

impl Mappings {
    /// Where what is charged below a range ends (0: none), and where that above it starts (`u64::MAX`:
    /// none), as far as it has a table in common with the range. `first`: the first mapping that ends
    /// above `start`.
    #[inline]
    fn charged_around(&self, first: usize, start: u64, end: u64) -> (u64, u64) {
        let (low, high) = (block(start, L2_SPAN).0, block_end(end - 1, L2_SPAN));
        let (below, above) = self.as_slice().split_at(first);
        let across = above.first().filter(|m| m.start < start && m.charged);
        let mut nearest = below.iter().rev().take_while(|m| m.end > low);
        let ends = match across {
            Some(_) => start,
            None => nearest.find(|m| m.charged).map_or(0, |m| m.end),
        };
        let mut nearest = above.iter().take_while(|m| m.start < high);
        let starts = nearest
            .find(|m| m.charged && m.end > end)
            .map_or(u64::MAX, |m| m.start.max(end));
        (ends, starts)
    }

    /// True if something in a range, which may be empty, is charged.
    pub fn charged_in(&self, start: u64, end: u64) -> bool {
        start < end
            && self.as_slice()[self.after(start)..]
                .iter()
                .take_while(|mapping| mapping.start < end)
                .any(|mapping| mapping.charged)
    }

    /// True if the table of `span` bytes around an address is one that is charged.
    pub fn table_charged(&self, va: u64, span: u64) -> bool {
        let (start, end) = block(va, span);
        self.charged_in(start, end)
    }

    fn charge_of<'a>(
        &self,
        first: usize,
        start: u64,
        end: u64,
        pieces: impl Iterator<Item = &'a Mapping>,
    ) -> Charge {
        let mut blocks = None;
        let mut pages = 0;
        for piece in pieces {
            let (from, to) = (piece.start.max(start), piece.end.min(end));
            if !piece.shared {
                pages += (to - from) / PAGE_SIZE;
            }
            let blocks = blocks.get_or_insert_with(|| Blocks::both(self, first, start, end));
            blocks.iter_mut().for_each(|blocks| blocks.add(from, to));
        }
        let [l3_tables, l2_tables] = blocks.map_or([0; 2], |blocks| blocks.map(|b| b.count));
        Charge {
            pages,
            l3_tables,
            l2_tables,
        }
    }

    /// What a range is charged for.
    pub fn charge(&self, start: u64, end: u64) -> Charge {
        let first = self.after(start);
        let charged = |mapping: &&Mapping| mapping.charged;
        self.charge_of(first, start, end, self.from(first, end).filter(charged))
    }

    /// What it will be charged for with a mapping in place of all that is there.
    #[inline(always)]
    pub fn charge_with(&self, mapping: &Mapping) -> Charge {
        if !mapping.charged {
            return Charge::default();
        }
        let (start, end) = (mapping.start, mapping.end);
        let first = self.after(start);
        let [l3_tables, l2_tables] = Blocks::both(self, first, start, end).map(|b| b.all());
        Charge {
            pages: if mapping.shared {
                0
            } else {
                mapping.len() / PAGE_SIZE
            },
            l3_tables,
            l2_tables,
        }
    }

    /// What it is charged for, and will be with other permissions.
    pub fn charge_protected(&self, start: u64, end: u64, prot: Prot) -> (Charge, Charge) {
        let first = self.after(start);
        let writable = prot.contains(Prot::WRITE);
        if !writable || self.from(first, end).all(|mapping| mapping.charged) {
            // Nothing changes, whatever it is.
            return (Charge::default(), Charge::default());
        }
        let new = self.charge_of(first, start, end, self.from(first, end));
        (self.charge(start, end), new)
    }

    /// The mappings from one on that begin below an address.
    pub fn from(&self, first: usize, end: u64) -> impl Iterator<Item = &Mapping> {
        self.as_slice()[first..]
            .iter()
            .take_while(move |mapping| mapping.start < end)
    }
}

impl AddressSpace {
    /// Pages that are charged, tables included.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// Charges what a range costs more than before, before it is changed.
    pub(crate) fn charge_more<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        old: Charge,
        new: Charge,
    ) -> Result<(), Refusal> {
        let more = new.total().saturating_sub(old.total());
        if more > 0 {
            mem.frames.charge(more)?;
            self.charged += more;
        }
        Ok(())
    }

    /// The accounts after the mappings between two addresses have changed: marks the tables at
    /// both ends by what they serve now, and gives back what the range costs less than before.
    /// (Tables between the ends serve nothing else: they are new, or gone.)
    pub(crate) fn settle<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        (start, end): (u64, u64),
        old: Charge,
        new: Charge,
    ) {
        let mut kept = 0;
        if !old.same_tables(new) {
            let l2 = old.l2_tables != new.l2_tables;
            kept = self.mark_tables(mem, start, l2);
            if start / L3_SPAN != (end - 1) / L3_SPAN {
                kept += self.mark_tables(mem, end - 1, l2);
            }
        }
        let less = old.total().saturating_sub(new.total());
        debug_assert!(kept <= less, "a table lost its charge for nothing");
        if less > 0 {
            mem.frames.commit.uncharge(less, kept);
            self.charged -= less;
        }
    }

    /// Marks the tables of an address as charged, or not; that of level 2 if `l2`. How many no longer
    /// are. What is shared stays as it is: it is marked only if all that share it are charged, since
    /// who changes its part must own it first.
    #[inline(always)]
    pub(crate) fn mark_tables<M: Mmu>(&self, mem: &Memory<M>, va: u64, l2: bool) -> u64 {
        let Some(above) = Table::from_bits(Slot::new(self.root, 1, va).read(&mem.mmu)) else {
            return 0;
        };
        let l3 = Table::from_bits(Slot::new(above.frame(), 2, va).read(&mem.mmu));
        match (l2, l3.filter(|l3| !l3.is_shared())) {
            // Nothing is there yet.
            (false, None) => 0,
            (l2, l3) => self.mark_both(mem, va, l2.then_some(above), l3),
        }
    }

    /// `mark_tables`, all over a range.
    #[inline(never)]
    pub(crate) fn mark_range<M: Mmu>(&self, mem: &Memory<M>, start: u64, end: u64, l2: bool) {
        let Ok(()) = for_chunks::<M, Infallible>(&mem.mmu, self.root, start, end, |chunk| {
            self.mark_tables(mem, chunk.start, l2);
            Ok(())
        });
    }

    #[inline(never)]
    fn mark_both<M: Mmu>(
        &self,
        mem: &Memory<M>,
        va: u64,
        l2: Option<Table>,
        l3: Option<Table>,
    ) -> u64 {
        let here = self
            .mappings
            .find(va)
            .is_some_and(|mapping| mapping.charged);
        let mark = |table: Option<Table>, span| {
            table.is_some_and(|table| {
                let charged = here || self.mappings.table_charged(va, span);
                mem.frames.mark(table.frame(), charged)
            })
        };
        u64::from(mark(l2, L2_SPAN)) + u64::from(mark(l3, L3_SPAN))
    }
}
