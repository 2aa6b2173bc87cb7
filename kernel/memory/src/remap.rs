//! Growing, shrinking and moving a mapping (mremap): descriptors move, frames stay where they are.
//!
//! Until the old place is flushed on all CPUs, nothing appears at the new one, and no table or
//! frame is released: a write through a stale entry of the old place would else reach what is no
//! longer its own (CVE-2018-18281).

use alloc::vec::Vec;
use core::convert::Infallible;
use core::ops::Range;

use crate::change::{
    Flush, Flushed, Slot, link, publish, put, take_broken, take_dead, take_to_move,
};
use crate::commit::Charge;
use crate::descriptor::Table;
use crate::frame::{Frame, Fresh, PAGE_SIZE};
use crate::mapping::{Backing, MAP_MIN, Mapping, Region};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::{AddressSpace, check};
use crate::tables::{Chunk, L2_SPAN, L3_SPAN, block_end, for_chunks};
use crate::teardown::{Dropped, release_backing};
use crate::{MapError, OutOfMemory};

/// Where a mapping may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it stays.
    Here,
    /// Anywhere, if it does not fit where it is (MREMAP_MAYMOVE).
    Anywhere,
    /// To this address, in place of what is mapped there (MREMAP_FIXED).
    At(u64),
}

/// What to make of a mapped range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remap {
    /// First byte; a multiple of the page size.
    pub start: u64,
    /// Bytes now; a multiple of the page size, not 0.
    pub len: u64,
    /// Bytes afterwards; likewise.
    pub new_len: u64,
    /// Where.
    pub place: Place,
    /// The old range stays mapped, without its pages, and the new one is elsewhere
    /// (MREMAP_DONTUNMAP). The lengths must be equal.
    pub keep: bool,
}

/// What `remap` did, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remapped {
    /// Where the mapping is now.
    pub start: u64,
    /// It was cut to its new length, and this was dropped.
    pub cut: Option<Dropped>,
    /// This was mapped at the new place.
    pub replaced: Option<Dropped>,
    /// So many bytes moved, with their pages.
    pub moved: u64,
}

impl AddressSpace {
    /// Changes the length of a mapping, its place, or both. Its part that stays must lie in one
    /// mapping. On an error nothing has changed.
    pub fn remap<M: Mmu>(&mut self, mem: &Memory<M>, to: Remap) -> Result<Remapped, MapError> {
        let Remap { start, len, .. } = to;
        let end = start.checked_add(len).ok_or(MapError::Invalid)?;
        check(start, end)?;
        if to.new_len == 0
            || !to.new_len.is_multiple_of(PAGE_SIZE)
            || (to.keep && (len != to.new_len || to.place == Place::Here))
        {
            return Err(MapError::Invalid);
        }
        self.mappings.find(start).ok_or(MapError::NotMapped)?;
        let index = self.mappings.after(start);
        let stays = !to.keep && !matches!(to.place, Place::At(_));
        if stays && to.new_len <= len {
            let rest = start + to.new_len;
            let cut = (rest < end)
                .then(|| self.unmap(mem, rest, end))
                .transpose()?;
            return Ok(Remapped {
                start,
                cut,
                replaced: None,
                moved: 0,
            });
        }
        let mapping = self.mappings.get(index);
        let mapping_end = mapping.end;
        if start + len.min(to.new_len) > mapping_end {
            return Err(MapError::NotMapped);
        }
        if let Backing::File { offset, .. } = &mapping.backing
            && (offset + (start - mapping.start))
                .checked_add(to.new_len)
                .is_none()
        {
            return Err(MapError::Invalid);
        }
        if stays && end == mapping_end {
            // Nor may it take the room that a stack above it has for growth.
            if self.find_free(to.new_len - len, end) == Some(end) {
                let grown = Mapping {
                    start: end,
                    end: start + to.new_len,
                    ..self.mappings.get(index).clone()
                };
                let (old, new) = (Charge::default(), self.mappings.charge_with(&grown));
                self.charge_more(mem, old, new)?;
                self.mappings.set_end(index, grown.end);
                self.settle(mem, (end, grown.end), old, new);
                release_backing(mem, grown);
                return Ok(Remapped {
                    start,
                    cut: None,
                    replaced: None,
                    moved: 0,
                });
            }
        }
        let at = match to.place {
            Place::Here => return Err(MapError::NoRoom),
            Place::Anywhere => self.find_free(to.new_len, 0).ok_or(MapError::NoRoom)?,
            Place::At(at) => {
                let at_end = at.checked_add(to.new_len).ok_or(MapError::Invalid)?;
                check(at, at_end)?;
                if at < MAP_MIN || (at < end && start < at_end) {
                    return Err(MapError::Invalid);
                }
                at
            }
        };
        self.relocate(mem, to, at)
    }

    /// Moves the pages of one mapping, or of a part of it, to `at`.
    fn relocate<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        to: Remap,
        at: u64,
    ) -> Result<Remapped, MapError> {
        let (end, target) = (to.start + to.len, at..at + to.new_len);
        let moved = to.len.min(to.new_len);
        let source = to.start..to.start + moved;
        let (mmu, root) = (&mem.mmu, self.root);
        let by_table = |chunk: &Chunk| chunk.whole() && (at ^ source.start).is_multiple_of(L3_SPAN);
        // All that can fail.
        self.mappings.reserve(8)?;
        self.own_edges(mem, target.start, target.end)?;
        if source.end < end {
            self.own_edges(mem, source.end, end)?;
        }
        for_chunks(
            mmu,
            root,
            source.start,
            source.end,
            |chunk| match by_table(&chunk) {
                true => Ok(()),
                false => self.own_table(mem, chunk.start),
            },
        )?;
        let old = self.mappings.as_slice()[self.mappings.after(source.start)].clone();
        let mapping = Mapping {
            start: target.start,
            end: target.end,
            backing: old.backing.advanced(source.start - old.start),
            // What makes a heap or a stack is where it is.
            region: Region::Mmap,
            ..old
        };
        release_backing(mem, old);
        // What is given up at the old place pays for the new one; tables may be needed in both.
        let before = self.mappings.charge(target.start, target.end).total();
        let after = self.mappings.charge_with(&mapping).total();
        let gone = if to.keep { source.end } else { source.start };
        let given_up = match gone < end {
            true => self.mappings.charge(gone, end).pages,
            false => 0,
        };
        let more = after.saturating_sub(before + given_up);
        if more > 0
            && let Err(refusal) = mem.frames.charge(more)
        {
            release_backing(mem, mapping);
            return Err(refusal.into());
        }
        let mut spare = match self.spare_tables(mem, &source, &target, by_table) {
            Ok(spare) => spare,
            Err(error) => {
                mem.frames.commit.uncharge(more, 0);
                release_backing(mem, mapping);
                return Err(error.into());
            }
        };
        self.charged += more;

        let mut less = more + before;
        let replaces = self.mappings.any_in(target.start, target.end);
        let replaced = replaces.then(|| self.remove(mem, target.start, target.end));
        self.mappings.insert(mapping);
        let cut = (source.end < end).then(|| {
            less += self.mappings.charge(source.end, end).total();
            self.remove(mem, source.end, end)
        });
        if !to.keep {
            less += self.mappings.charge(source.start, source.end).total();
            self.mappings
                .remove(source.start, source.end, |old| release_backing(mem, old));
        }

        let mut flush = Flush::new(self.context);
        let Ok(()) = for_chunks::<M, Infallible>(mmu, root, source.start, source.end, |chunk| {
            if by_table(&chunk) {
                flush.break_table(mmu, chunk.parent, chunk.table);
            }
            Ok(())
        });
        self.break_range(mem, source.start, source.end, &mut flush);
        let flushed = flush.complete(mmu);
        self.move_range(mem, source, at, &mut spare, &flushed);
        publish(mmu);
        spare.into_iter().for_each(|table| mem.give_back(table));
        self.settle_move(mem, to.start..end, target, less - after);
        Ok(Remapped {
            start: at,
            cut,
            replaced,
            moved,
        })
    }

    /// The accounts after a move: its tables are marked by what they serve now, and what it costs
    /// less than before is given back.
    fn settle_move<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        source: Range<u64>,
        target: Range<u64>,
        less: u64,
    ) {
        let mut kept = 0;
        for range in [&source, &target] {
            kept += self.mark_tables(mem, range.start, true)
                + self.mark_tables(mem, range.end - PAGE_SIZE, true);
        }
        let (start, end) = (target.start, target.end);
        let Ok(()) = for_chunks::<M, Infallible>(&mem.mmu, self.root, start, end, |chunk| {
            kept += self.mark_tables(mem, chunk.start, true);
            Ok(())
        });
        mem.frames.commit.uncharge(less, kept);
        self.charged -= less;
    }

    /// The tables that the new place will lack, once what is mapped there has gone: allocated
    /// before anything is changed. They may turn out to be more than are needed.
    fn spare_tables<M: Mmu>(
        &self,
        mem: &Memory<M>,
        source: &Range<u64>,
        target: &Range<u64>,
        by_table: impl Fn(&Chunk) -> bool,
    ) -> Result<Vec<Fresh>, OutOfMemory> {
        let stays = |va: u64, span: u64| {
            let (first, last) = (va & !(span - 1), block_end(va, span));
            self.mappings.any_in(first, target.start) || self.mappings.any_in(target.end, last)
        };
        let (mut count, mut last) = (0, (None, None));
        let Ok(()) =
            for_chunks::<M, Infallible>(&mem.mmu, self.root, source.start, source.end, |chunk| {
                for va in [chunk.start, chunk.end - PAGE_SIZE] {
                    let va = va - source.start + target.start;
                    let l2 = Table::from_bits(Slot::new(self.root, 1, va).read(&mem.mmu))
                        .filter(|_| stays(va, L2_SPAN));
                    let l3 = l2
                        .and_then(|l2| {
                            Table::from_bits(Slot::new(l2.frame(), 2, va).read(&mem.mmu))
                        })
                        .filter(|_| stays(va, L3_SPAN));
                    let new = |last: &mut Option<u64>, block| last.replace(block) != Some(block);
                    count += usize::from(new(&mut last.0, va / L2_SPAN) && l2.is_none());
                    if !by_table(&chunk) {
                        count += usize::from(new(&mut last.1, va / L3_SPAN) && l3.is_none());
                    }
                }
                Ok(())
            });
        let mut spare = Vec::new();
        refuse!(Err(OutOfMemory));
        spare.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        while spare.len() < count {
            let Some(table) = mem.take_table(false) else {
                spare.into_iter().for_each(|table| mem.give_back(table));
                return Err(OutOfMemory);
            };
            spare.push(table);
        }
        Ok(spare)
    }

    /// Puts what `break_range` has broken where it belongs now, and releases the tables that it
    /// leaves empty.
    fn move_range<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        source: Range<u64>,
        at: u64,
        spare: &mut Vec<Fresh>,
        flushed: &Flushed,
    ) {
        let mmu = &mem.mmu;
        let mut va = source.start;
        while va < source.end {
            let l2_end = block_end(va, L2_SPAN).min(source.end);
            let entry = Slot::new(self.root, 1, va);
            let (l2, gone) = match Table::from_bits(entry.read(mmu)) {
                Some(l2) => (l2.frame(), None),
                None => match take_broken(mmu, entry) {
                    Some((l2, _)) => (l2.frame(), Some(l2)),
                    None => {
                        va = l2_end;
                        continue;
                    }
                },
            };
            while va < l2_end {
                let l3_end = block_end(va, L3_SPAN).min(l2_end);
                let target = va - source.start + at;
                let block = Block {
                    entry: Slot::new(l2, 2, va),
                    dead: gone.is_some(),
                    pages: va..l3_end,
                };
                self.move_block(mem, block, target, spare, flushed);
                va = l3_end;
            }
            if let Some(l2) = gone {
                mem.release(l2, flushed);
            }
        }
    }

    fn move_block<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        block: Block,
        target: u64,
        spare: &mut Vec<Fresh>,
        flushed: &Flushed,
    ) {
        let Block { entry, dead, pages } = block;
        let mmu = &mem.mmu;
        if pages.end - pages.start == L3_SPAN && target.is_multiple_of(L3_SPAN) {
            // The table goes as it is, even if others share it.
            if let Some(table) = take_to_move(mmu, entry, flushed) {
                put(mmu, self.entry_for(mem, target, spare), table);
            }
            return;
        }
        let (l3, gone) = match Table::from_bits(entry.read(mmu)) {
            Some(l3) if dead => (l3.frame(), Some(take_dead(l3.frame(), flushed))),
            Some(l3) => (l3.frame(), None),
            None => match take_broken(mmu, entry) {
                Some((l3, _)) => (l3.frame(), Some(l3)),
                None => return,
            },
        };
        let mut va = pages.start;
        while va < pages.end {
            if let Some(leaf) = take_to_move(mmu, Slot::new(l3, 3, va), flushed) {
                put(
                    mmu,
                    self.leaf_for(mem, va - pages.start + target, spare),
                    leaf,
                );
            }
            va += PAGE_SIZE;
        }
        if let Some(l3) = gone {
            let table = l3.into_frame(flushed);
            let last = mem.frames.drop_parent(table, flushed);
            debug_assert!(last, "a table was moved out of, and is shared");
            mem.free_table(table);
        }
    }

    /// The level 2 entry for an address, its table made of a spare one if need be.
    fn entry_for<M: Mmu>(&self, mem: &Memory<M>, va: u64, spare: &mut Vec<Fresh>) -> Slot {
        let slot = Slot::new(self.root, 1, va);
        Slot::new(table_below(mem, slot, spare), 2, va)
    }

    /// The level 3 entry, likewise.
    fn leaf_for<M: Mmu>(&self, mem: &Memory<M>, va: u64, spare: &mut Vec<Fresh>) -> Slot {
        let slot = self.entry_for(mem, va, spare);
        Slot::new(table_below(mem, slot, spare), 3, va)
    }
}

/// The pages of one level 3 table that move.
struct Block {
    /// The entry that leads to the table, or did before it was broken.
    entry: Slot,
    /// The table of that entry was broken itself.
    dead: bool,
    pages: Range<u64>,
}

fn table_below<M: Mmu>(mem: &Memory<M>, slot: Slot, spare: &mut Vec<Fresh>) -> Frame {
    if let Some(table) = Table::from_bits(slot.read(&mem.mmu)) {
        return table.frame();
    }
    let table = spare
        .pop()
        .expect("`spare_tables` has counted")
        .into_frame();
    link(&mem.mmu, slot, table);
    table
}
