//! Walking and extending translation tables.

use crate::OutOfMemory;
use crate::asid::Context;
use crate::change::{Flushed, Slot, freeze, link, own_table, prepare, replace_table, take_dead};
use crate::descriptor::{Content, Leaf, Table};
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
    /// At a level 3 entry, valid or not, of a table that belongs to this address space alone.
    Page(Slot),
    /// At a level 3 entry of a shared table: nothing in it may be changed before `own`.
    Shared(SharedSlot),
    /// At an empty entry of level 1 or 2.
    NoTable(Slot),
}

/// An entry that can only be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedSlot(Slot);

impl Walk {
    /// The level 3 descriptor, 0 if there is no table.
    #[inline]
    pub fn read<M: Mmu>(self, mmu: &M) -> u64 {
        match self {
            Walk::Page(slot) | Walk::Shared(SharedSlot(slot)) => slot.read(mmu),
            Walk::NoTable(_) => 0,
        }
    }
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
    let slot = Slot::new(l3.frame(), 3, va);
    if l3.is_shared() {
        Walk::Shared(SharedSlot(slot))
    } else {
        Walk::Page(slot)
    }
}

/// What [`own`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owned {
    /// Nothing: the table was not shared, or there is none.
    Already,
    /// The other owners had gone: the table is writable again, with all the rights that its leaves
    /// kept.
    Reused,
    /// Others use it too: this address space has a copy now.
    Copied,
}

/// Makes the level 3 table of an address belong to this address space alone. On an error nothing
/// has changed. What the program may do is the same before and after. `charged`: the table is one
/// that this address space is charged for.
///
/// Address spaces that share a table may do this at the same time, without a lock: a shared table
/// is frozen but for leaves that lose the right to write, which they can do twice. Who finds one
/// reference is the only one that can find the table at all.
#[cold]
pub(crate) fn own<M: Mmu>(
    mem: &Memory<M>,
    root: Frame,
    context: &Context,
    va: u64,
    charged: bool,
) -> Result<Owned, OutOfMemory> {
    let mmu = &mem.mmu;
    let Some(l2) = Table::from_bits(Slot::new(root, 1, va).read(mmu)) else {
        return Ok(Owned::Already);
    };
    let slot = Slot::new(l2.frame(), 2, va);
    let old = match Table::from_bits(slot.read(mmu)) {
        Some(old) if old.is_shared() => old,
        _ => return Ok(Owned::Already),
    };
    if mem.frames.refs(old.frame()) == 1 {
        own_table(mmu, slot, context, old.frame());
        // Never one less: what is shared was charged to all.
        let kept = mem.frames.mark(old.frame(), charged);
        debug_assert!(!kept, "a table lost its charge while it was shared");
        return Ok(Owned::Reused);
    }
    let copy = mem.take_table(charged).ok_or(OutOfMemory)?;
    for index in 0..512 {
        let from = Slot::at(old.frame(), 3, index);
        let Some(leaf) = Leaf::from_bits(from.read(mmu)) else {
            continue;
        };
        if leaf.counted() && mem.share(leaf.frame()).is_err() {
            undo_copy(mem, copy, index);
            return Err(OutOfMemory);
        }
        // In both: the last owner takes the old table back with the rights that it has.
        let new = leaf.forked();
        if new != leaf {
            freeze(mmu, from, new);
        }
        prepare(
            mmu,
            Slot {
                table: copy.frame(),
                ..from
            },
            new.bits(),
        );
    }
    let (retired, flushed) = replace_table(mmu, slot, context, old, copy.into_frame());
    if mem
        .frames
        .drop_parent(retired.into_frame(&flushed), &flushed)
    {
        // The others left meanwhile.
        release_leaves(mem, old.frame(), &flushed);
        mem.free_table(old.frame());
    }
    Ok(Owned::Copied)
}

/// Gives back a copy that was never reachable, and the references of its first leaves.
fn undo_copy<M: Mmu>(mem: &Memory<M>, copy: Fresh, leaves: usize) {
    for index in 0..leaves {
        let slot = Slot::at(copy.frame(), 3, index);
        if let Some(leaf) = Leaf::from_bits(slot.read(&mem.mmu)).filter(|leaf| leaf.counted()) {
            mem.drop_hold(leaf.frame());
        }
    }
    mem.give_back(copy);
}

/// Releases all leaves of a table that nothing leads to any more. How many private frames are free now.
pub(crate) fn release_leaves<M: Mmu>(mem: &Memory<M>, table: Frame, flushed: &Flushed) -> u32 {
    let mut freed = 0;
    let mut leaving = mem.leaving();
    for index in 0..512 {
        if let Some(leaf) = Leaf::from_bits(Slot::at(table, 3, index).read(&mem.mmu)) {
            let retired = take_dead(leaf.frame(), flushed);
            let gone = mem.release_with(&mut leaving, retired, flushed);
            freed += u32::from(gone && leaf.content() == Content::Anon);
        }
    }
    freed
}

/// The tables that a page lacks, allocated but not linked: nothing to undo if what follows fails.
pub(crate) struct Reserve {
    slot: Slot,
    l2: Option<Fresh>,
    l3: Fresh,
}

impl Reserve {
    /// The tables that a walk to an empty entry of level 1 or 2 lacks, and whether those of level 2
    /// and 3 are charged. `None`: out of memory.
    pub fn new<M: Mmu>(mem: &Memory<M>, slot: Slot, charged: [bool; 2]) -> Option<Reserve> {
        let l3 = mem.take_table(charged[1])?;
        if slot.level == 2 {
            return Some(Reserve { slot, l2: None, l3 });
        }
        match mem.take_table(charged[0]) {
            Some(l2) => Some(Reserve {
                slot,
                l2: Some(l2),
                l3,
            }),
            None => {
                mem.give_back(l3);
                None
            }
        }
    }

    /// Links the tables. A leaf follows, whose barrier completes this.
    pub fn install<M: Mmu>(self, mmu: &M, va: u64) {
        let l3 = self.l3.into_frame();
        // Bottom up: the walker sees a whole path or none.
        match self.l2 {
            Some(l2) => {
                let l2 = l2.into_frame();
                prepare(mmu, Slot::new(l2, 2, va), Table::new(l3).bits());
                link(mmu, self.slot, l2);
            }
            None => link(mmu, self.slot, l3),
        }
    }

    /// Gives them back instead.
    pub fn cancel<M: Mmu>(self, mem: &Memory<M>) {
        mem.give_back(self.l3);
        if let Some(l2) = self.l2 {
            mem.give_back(l2);
        }
    }
}

/// A range within the 2 MiB of one level 3 table that exists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub start: u64,
    pub end: u64,
    /// The entry that leads to the table.
    pub parent: Slot,
    pub table: Table,
}

impl Chunk {
    /// The range is all that the table maps.
    #[inline]
    pub fn whole(&self) -> bool {
        self.end - self.start == L3_SPAN
    }

    /// The pages and their entries.
    #[inline]
    pub fn pages(self) -> impl Iterator<Item = (u64, Slot)> {
        let table = self.table.frame();
        let first = Slot::new(table, 3, self.start).index();
        let count = ((self.end - self.start) / PAGE_SIZE) as usize;
        (0..count).map(move |i| {
            let slot = Slot::at(table, 3, first + i);
            (self.start + i as u64 * PAGE_SIZE, slot)
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
    for_entries(
        mmu,
        root,
        start,
        end,
        |start, end, parent, entry| match Table::from_bits(entry) {
            Some(table) => f(Chunk {
                start,
                end,
                parent,
                table,
            }),
            None => Ok(()),
        },
    )
}

/// Calls `f` for each level 2 entry of a range, with its part of the range, until an error.
#[inline]
pub(crate) fn for_entries<M: Mmu, E>(
    mmu: &M,
    root: Frame,
    start: u64,
    end: u64,
    mut f: impl FnMut(u64, u64, Slot, u64) -> Result<(), E>,
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
            let slot = Slot::new(l2.frame(), 2, va);
            f(va, l3_end, slot, slot.read(mmu))?;
            va = l3_end;
        }
    }
    Ok(())
}
