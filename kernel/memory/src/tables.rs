//! Walking and extending translation tables.

use crate::change::{Slot, link, prepare};
use crate::descriptor::Table;
use crate::frame::{Frame, Fresh, PAGE_SIZE};
use crate::memory::Memory;
use crate::mmu::Mmu;

/// Bytes that a level 3 table maps.
pub(crate) const L3_SPAN: u64 = PAGE_SIZE << 9;

/// Bytes that a level 2 table maps.
pub(crate) const L2_SPAN: u64 = L3_SPAN << 9;

/// One past the last address of the aligned block of `span` bytes that holds `va`.
#[inline]
pub(crate) const fn block_end(va: u64, span: u64) -> u64 {
    (va | (span - 1)) + 1
}

/// Where a walk ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Walk {
    /// At a level 3 entry, valid or not.
    Page(Slot),
    /// At an empty entry of level 1 or 2.
    NoTable(Slot),
}

#[inline]
pub(crate) fn walk<M: Mmu>(mmu: &M, root: Frame, va: u64) -> Walk {
    let slot = Slot::new(root, 1, va);
    let Some(l2) = Table::from_bits(slot.read(mmu)) else {
        return Walk::NoTable(slot);
    };
    let slot = Slot::new(l2.frame(), 2, va);
    let Some(l3) = Table::from_bits(slot.read(mmu)) else {
        return Walk::NoTable(slot);
    };
    Walk::Page(Slot::new(l3.frame(), 3, va))
}

/// The tables that a page lacks, allocated but not linked: nothing to undo if what follows fails.
pub(crate) struct Reserve {
    slot: Slot,
    l2: Option<Fresh>,
    l3: Option<Fresh>,
}

impl Reserve {
    /// `None`: out of memory.
    #[inline]
    pub fn new<M: Mmu>(mem: &Memory<M>, walk: Walk) -> Option<Reserve> {
        match walk {
            Walk::Page(slot) => Some(Reserve {
                slot,
                l2: None,
                l3: None,
            }),
            Walk::NoTable(slot) => Reserve::tables(mem, slot),
        }
    }

    #[cold]
    fn tables<M: Mmu>(mem: &Memory<M>, slot: Slot) -> Option<Reserve> {
        let l3 = mem.take_table()?;
        if slot.level == 2 {
            return Some(Reserve {
                slot,
                l2: None,
                l3: Some(l3),
            });
        }
        match mem.take_table() {
            Some(l2) => Some(Reserve {
                slot,
                l2: Some(l2),
                l3: Some(l3),
            }),
            None => {
                mem.give_back(l3);
                None
            }
        }
    }

    /// Links the tables, and gives the level 3 entry.
    #[inline]
    pub fn install<M: Mmu>(self, mmu: &M, va: u64) -> Slot {
        let Some(l3) = self.l3 else { return self.slot };
        let l3 = l3.into_frame();
        // Bottom up: the walker sees a whole path or none.
        match self.l2 {
            Some(l2) => {
                let l2 = l2.into_frame();
                prepare(mmu, Slot::new(l2, 2, va), Table::new(l3).bits());
                link(mmu, self.slot, l2);
            }
            None => link(mmu, self.slot, l3),
        }
        Slot::new(l3, 3, va)
    }

    #[cold]
    pub fn give_back<M: Mmu>(self, mem: &Memory<M>) {
        for table in [self.l2, self.l3].into_iter().flatten() {
            mem.give_back(table);
        }
    }
}

/// A range within the 2 MiB of one level 3 table that exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub start: u64,
    pub end: u64,
    pub l3: Frame,
}

impl Chunk {
    /// The pages and their entries.
    #[inline]
    pub fn pages(self) -> impl Iterator<Item = (u64, Slot)> {
        let first = Slot::new(self.l3, 3, self.start).index;
        let count = ((self.end - self.start) / PAGE_SIZE) as usize;
        (0..count).map(move |i| {
            (
                self.start + i as u64 * PAGE_SIZE,
                Slot {
                    table: self.l3,
                    index: first + i,
                    level: 3,
                },
            )
        })
    }
}

/// Calls `f` for each level 3 table that maps part of a range, until an error.
#[inline]
pub(crate) fn for_chunks<M: Mmu, E>(
    mmu: &M,
    root: Frame,
    start: u64,
    end: u64,
    mut f: impl FnMut(Chunk) -> Result<(), E>,
) -> Result<(), E> {
    let mut va = start;
    while va < end {
        let Some(l2) = Table::from_bits(Slot::new(root, 1, va).read(mmu)) else {
            va = block_end(va, L2_SPAN);
            continue;
        };
        let l2_end = block_end(va, L2_SPAN).min(end);
        while va < l2_end {
            let l3_end = block_end(va, L3_SPAN).min(l2_end);
            if let Some(l3) = Table::from_bits(Slot::new(l2.frame(), 2, va).read(mmu)) {
                f(Chunk {
                    start: va,
                    end: l3_end,
                    l3: l3.frame(),
                })?;
            }
            va = l3_end;
        }
    }
    Ok(())
}
