//! Taking away: unmapping, and the end of an address space. Nothing here can fail or allocates, and
//! no frame or table is released before the TLBs have forgotten it.

use core::convert::Infallible;

use crate::MapError;
use crate::cache::PageCache;
use crate::change::{Flush, Flushed, Retired, Slot, take_broken, take_dead};
use crate::descriptor::{Content, Leaf, Table};
use crate::frame::{Frame, PAGE_SIZE};
use crate::mapping::{Backing, Mapping};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::{AddressSpace, check};
use crate::tables::{Chunk, L2_SPAN, L3_SPAN, block_end, for_chunks, release_leaves};

/// What unmapping gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// References dropped: valid leaves, the zero page not counted.
    pub dropped: u32,
    /// Private frames freed because this was the last reference. (Those of a file or of shared memory
    /// are its own: whether they go earlier or later than their mappings does not matter.)
    pub freed: u32,
}

impl Dropped {
    #[inline]
    fn count(&mut self, leaf: Leaf, freed: bool) {
        self.dropped += u32::from(leaf.counted());
        self.freed += u32::from(freed && leaf.content() == Content::Anon);
    }
}

/// What discarding gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// The references.
    pub dropped: Dropped,
    /// There were no holes in the range.
    pub whole: bool,
}

/// What the end of an address space gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// References dropped: valid leaves, the zero page not counted. Those of tables that others
    /// share are not looked at, and not counted.
    pub dropped: u32,
    /// Private frames freed because this was the last reference. (Those of a file or of shared memory
    /// are its own: whether they go earlier or later than their mappings does not matter.)
    pub freed: u32,
    /// Translation tables freed, root included.
    pub tables: u32,
}

impl AddressSpace {
    /// Removes a range. The tables at its edges are this address space's own where they stay in
    /// use, and there is room for two more mappings.
    pub(crate) fn remove<M: Mmu>(&mut self, mem: &Memory<M>, start: u64, end: u64) -> Dropped {
        let mut any = false;
        self.mappings.remove(start, end, |mapping| {
            any = true;
            release_backing(mem, mapping);
        });
        if !any {
            return Dropped::default();
        }
        self.release_unmapped(mem, start, end)
    }

    /// Lets go of tables around a page where nothing is mapped, if they serve nothing else: those of
    /// a stack that was about to grow.
    pub(crate) fn release_unused_tables<M: Mmu>(&mut self, mem: &Memory<M>, va: u64) {
        let (low, high) = self.mappings.hole(va);
        if low <= va & !(L3_SPAN - 1) && block_end(va, L3_SPAN) <= high {
            self.release_unmapped(mem, va, va + PAGE_SIZE);
        }
    }

    /// What descriptors still hold of a range where nothing is mapped any more.
    fn release_unmapped<M: Mmu>(&mut self, mem: &Memory<M>, start: u64, end: u64) -> Dropped {
        let mut flush = Flush::new(self.context);
        self.break_range(mem, start, end, &mut flush);
        let flushed = flush.complete(&mem.mmu);
        self.release_range(mem, start, end, &flushed)
    }

    /// Drops the pages of a range, which may have holes, and keeps the mappings (MADV_DONTNEED): the
    /// next access finds zeros, or what the file or the shared memory holds.
    ///
    /// A write that follows takes the way of a first write, through a fault that sees no leaf:
    /// dropping a private copy never gives write access to what it was copied from (CVE-2016-5195).
    pub fn discard<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
    ) -> Result<Discarded, MapError> {
        check(start, end)?;
        let mmu = &mem.mmu;
        let goes = |chunk: &Chunk| chunk.table.is_shared() && chunk.whole();
        // All that can fail, before anything is changed.
        for_chunks(mmu, self.root, start, end, |chunk| match goes(&chunk) {
            true => Ok(()),
            false => self.own_table(mem, chunk.start),
        })?;
        let mut flush = Flush::new(self.context);
        let Ok(()) = for_chunks::<M, Infallible>(mmu, self.root, start, end, |chunk| {
            match goes(&chunk) {
                // The others keep it.
                true => flush.break_table(mmu, chunk.parent, chunk.table),
                false => break_leaves(mmu, chunk.table, chunk.start, chunk.end, &mut flush),
            }
            Ok(())
        });
        let flushed = flush.complete(mmu);
        Ok(Discarded {
            dropped: self.release_range(mem, start, end, &flushed),
            whole: self.mapped_until(start, end) == end,
        })
    }

    /// First pass: once flushed, nothing of the range can be reached any more. A table goes with
    /// the last mapping it serves, so that each table always serves one.
    pub(crate) fn break_range<M: Mmu>(
        &self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
        flush: &mut Flush<'_>,
    ) {
        let mmu = &mem.mmu;
        let (low, high) = self.mappings.hole(start);
        let unused = |va: u64, span: u64| low <= va & !(span - 1) && block_end(va, span) <= high;
        let mut va = start;
        while va < end {
            let l2_end = block_end(va, L2_SPAN).min(end);
            let slot = Slot::new(self.root, 1, va);
            let Some(l2) = Table::from_bits(slot.read(mmu)) else {
                va = l2_end;
                continue;
            };
            if unused(va, L2_SPAN) {
                flush.break_table(mmu, slot, l2);
                va = l2_end;
                continue;
            }
            while va < l2_end {
                let l3_end = block_end(va, L3_SPAN).min(l2_end);
                let slot = Slot::new(l2.frame(), 2, va);
                match Table::from_bits(slot.read(mmu)) {
                    None => {}
                    Some(l3) if unused(va, L3_SPAN) => flush.break_table(mmu, slot, l3),
                    Some(l3) => break_leaves(mmu, l3, va, l3_end, flush),
                }
                va = l3_end;
            }
        }
    }

    /// Second pass: what the first one broke is released.
    fn release_range<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
        flushed: &Flushed,
    ) -> Dropped {
        let mmu = &mem.mmu;
        let mut dropped = Dropped::default();
        let mut va = start;
        while va < end {
            let l2_end = block_end(va, L2_SPAN).min(end);
            let slot = Slot::new(self.root, 1, va);
            let entry = slot.read(mmu);
            let gone = take_broken(mmu, slot);
            let l2 = match (&gone, Table::from_bits(entry)) {
                (Some((retired, _)), _) => retired.frame(),
                (None, Some(l2)) => l2.frame(),
                (None, None) => {
                    va = l2_end;
                    continue;
                }
            };
            while va < l2_end {
                let l3_end = block_end(va, L3_SPAN).min(l2_end);
                let slot = Slot::new(l2, 2, va);
                match Table::from_bits(slot.read(mmu)) {
                    Some(l3) if gone.is_some() => {
                        let l3 = take_dead(l3.frame(), flushed);
                        self.release_table(mem, l3, va, l3_end, flushed, &mut dropped);
                    }
                    Some(l3) => {
                        self.release_broken(mem, l3.frame(), va, l3_end, flushed, &mut dropped);
                    }
                    None => {
                        if let Some((l3, _)) = take_broken(mmu, slot) {
                            self.release_table(mem, l3, va, l3_end, flushed, &mut dropped);
                        }
                    }
                }
                va = l3_end;
            }
            if let Some((l2, _)) = gone {
                mem.release(l2, flushed);
            }
        }
        dropped
    }

    /// Releases a level 3 table that nothing of this address space leads to any more: all its
    /// leaves are in the range. If others share it, only this address space's part in it.
    fn release_table<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        table: Retired,
        start: u64,
        end: u64,
        flushed: &Flushed,
        dropped: &mut Dropped,
    ) {
        let table = table.into_frame(flushed);
        let shared = mem.frames.refs(table) > 1;
        if shared {
            // Before the reference goes: from then on it is the others', to change and to free.
            self.release_leaves(mem, table, start, end, None, dropped);
        }
        if mem.frames.drop_parent(table, flushed) {
            if shared {
                // The others left meanwhile.
                dropped.freed += release_leaves(mem, table, flushed);
            } else {
                self.release_leaves(mem, table, start, end, Some(flushed), dropped);
            }
            mem.free_table(table);
        }
    }

    /// Releases the broken leaves of a live table.
    fn release_broken<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        l3: Frame,
        start: u64,
        end: u64,
        flushed: &Flushed,
        dropped: &mut Dropped,
    ) {
        let mut leaving = mem.leaving();
        let mut va = start;
        while va < end {
            if let Some((retired, leaf)) = take_broken(&mem.mmu, Slot::new(l3, 3, va)) {
                self.resident.remove(leaf);
                dropped.count(leaf, mem.release_with(&mut leaving, retired, flushed));
            }
            va += PAGE_SIZE;
        }
    }

    /// Counts the leaves of a table that is gone, and with the token releases them: the table's
    /// own entries need no clearing.
    #[inline]
    fn release_leaves<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        l3: Frame,
        start: u64,
        end: u64,
        flushed: Option<&Flushed>,
        dropped: &mut Dropped,
    ) {
        let mut leaving = mem.leaving();
        let mut va = start;
        while va < end {
            if let Some(leaf) = Leaf::from_bits(Slot::new(l3, 3, va).read(&mem.mmu)) {
                self.resident.remove(leaf);
                let freed = flushed.is_some_and(|flushed| {
                    let retired = take_dead(leaf.frame(), flushed);
                    mem.release_with(&mut leaving, retired, flushed)
                });
                dropped.count(leaf, freed);
            }
            va += PAGE_SIZE;
        }
    }

    /// Ends the address space. No CPU may have it in TTBR0 any more. A table that others share
    /// costs one decrement.
    pub fn destroy<M: Mmu>(mut self, mem: &Memory<M>) -> Ended {
        let mmu = &mem.mmu;
        let flushed = Flush::everything(self.context).complete(mmu);
        let mut ended = Ended::default();
        let mut dropped = Dropped::default();
        let mut mappings = core::mem::take(&mut self.mappings);
        // Each table serves at least one mapping, so walking the mappings finds all of them, in
        // order; those that serve several come several times in a row.
        let mut last: Option<(Frame, bool)> = None;
        let mut close = |table: Option<(Frame, bool)>| {
            if let Some((table, true)) = table {
                ended.tables += 1;
                mem.free_table(table);
            }
        };
        for mapping in mappings.as_slice() {
            let (start, end) = (mapping.start, mapping.end);
            let Ok(()) = for_chunks::<M, Infallible>(mmu, self.root, start, end, |chunk| {
                let table = chunk.table.frame();
                let ours = match last {
                    Some((same, ours)) if same == table => ours,
                    _ => {
                        close(last);
                        let ours = mem.frames.drop_parent(table, &flushed);
                        last = Some((table, ours));
                        ours
                    }
                };
                if ours {
                    let flushed = Some(&flushed);
                    self.release_leaves(mem, table, chunk.start, chunk.end, flushed, &mut dropped);
                }
                Ok(())
            });
        }
        close(last);
        let mut next = 0;
        for mapping in mappings.as_slice() {
            let mut va = mapping.start.max(next);
            while va < mapping.end {
                if let Some(l2) = Table::from_bits(Slot::new(self.root, 1, va).read(mmu)) {
                    ended.tables += 1;
                    mem.release(take_dead(l2.frame(), &flushed), &flushed);
                }
                va = block_end(va, L2_SPAN);
                next = va;
            }
        }
        ended.tables += 1;
        // While the root is still its own: the number is in its metadata.
        mem.asids.release(self.context, &flushed);
        mem.release(take_dead(self.root, &flushed), &flushed);
        mappings.clear(|mapping| release_backing(mem, mapping));
        mem.frames.commit.uncharge(self.charged, 0);
        Ended {
            dropped: dropped.dropped,
            freed: dropped.freed,
            ..ended
        }
    }
}

fn break_leaves<M: Mmu>(mmu: &M, l3: Table, start: u64, end: u64, flush: &mut Flush<'_>) {
    debug_assert!(
        !l3.is_shared(),
        "a shared table is owned before it is changed"
    );
    let mut va = start;
    while va < end {
        let slot = Slot::new(l3.frame(), 3, va);
        if let Some(leaf) = Leaf::from_bits(slot.read(mmu)) {
            flush.break_leaf(mmu, slot, va, leaf);
        }
        va += PAGE_SIZE;
    }
}

/// Lets go of a mapping's page cache. Its frames are counted: those still mapped stay.
pub(crate) fn release_backing<M: Mmu>(mem: &Memory<M>, mapping: Mapping) {
    if let Backing::File { cache, .. } = mapping.backing {
        PageCache::release(cache, mem);
    }
}
