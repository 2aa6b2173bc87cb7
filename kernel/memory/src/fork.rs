//! Fork: the child maps the parent's frames, and neither may write them any more.

use core::convert::Infallible;
use core::ops::Range;

use crate::change::{Flush, Flushed, Slot, annotate, freeze, prepare, publish, share_broken};
use crate::descriptor::{Content, Leaf, Rights, Table};
use crate::frame::{Frame, Kind};
use crate::mapping::Prot;
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use crate::tables::{Chunk, L2_SPAN, L3_SPAN, for_chunks, for_entries};
use crate::{ForkError, OutOfMemory};

/// How an address space is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForkMode {
    /// Every descriptor is copied, and private pages are write-protected on both sides.
    Classic,
    /// Level 3 tables are shared, write-protected by APTable\[1\] of the entries that lead to them:
    /// one counter per 2 MiB. The first write below copies the table (or takes it back, if the
    /// others are gone), and then the page. Tables that serve few pages are copied at once.
    SharedTables,
    /// Private memory is copied at once: for comparison.
    Eager,
}

/// What fork did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkCounts {
    /// Private pages that both now map by tables of their own (the zero page not counted). Pages
    /// below shared tables are not looked at.
    pub shared: u32,
    /// Leaf descriptors of the parent that were write-protected.
    pub protected: u32,
    /// Leaf descriptors written in the child's own tables.
    pub leaves: u32,
    /// Pages copied at once.
    pub copied: u32,
    /// Translation tables allocated for the child, root included.
    pub tables: u32,
    /// Last-level tables shared between the two.
    pub tables_shared: u32,
}

impl AddressSpace {
    /// Makes a copy of the address space. Every valid leaf is copied or shared, so the
    /// child faults only where the parent would have.
    ///
    /// Other threads of the parent may run meanwhile, on other CPUs, and write through entries
    /// that their TLBs still hold: until the flush, the frames are the child's as well, so such a
    /// write counts as before the fork. After the flush they fault and wait for the lock.
    pub fn fork<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        mode: ForkMode,
    ) -> Result<(AddressSpace, ForkCounts), ForkError> {
        // All that the child may ever need, before anything is changed.
        let mut space = AddressSpace::charged_for(mem, self.charged)?;
        space.stack_limit = self.stack_limit;
        space.resident = self.resident.clone();
        space.mappings = match self.mappings.try_clone() {
            Ok(mappings) => mappings,
            Err(error) => {
                space.destroy(mem);
                return Err(error.into());
            }
        };
        let counts = ForkCounts {
            tables: 1,
            ..ForkCounts::default()
        };
        let mut child = Child {
            space,
            counts,
            last: None,
            shared: 0..0,
        };
        let mut flush = Flush::new(self.context);
        let mut result = self.copy_tables(mem, &mut child, mode, &mut flush);
        child.tell_shared(mem, self.serial);
        // Also on failure: the parent stays write-protected, which is only slower, but its TLB
        // entries must not say otherwise, and its tables must come back.
        if child.counts.protected > 0 {
            flush.widen();
        }
        let flushed = flush.complete(&mem.mmu);
        if child.counts.tables_shared > 0 {
            self.share_broken(mem, &flushed);
        }
        if mode == ForkMode::Eager && result.is_ok() {
            // After the flush, or a copy could tear: half before another thread's write, half after.
            let mut flush = Flush::new(self.context);
            result = self.copy_frames(mem, &mut child, &mut flush);
            // Not for safety, since rights were only gained, but so that no later fault is spurious.
            let _ = flush.complete(&mem.mmu);
        }
        match result {
            Ok(()) => Ok((child.space, child.counts)),
            Err(error) => {
                child.space.destroy(mem);
                Err(error)
            }
        }
    }

    /// All tables: those that are shared by a reference, the others leaf by leaf.
    fn copy_tables<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        child: &mut Child,
        mode: ForkMode,
        flush: &mut Flush<'_>,
    ) -> Result<(), ForkError> {
        let mmu = &mem.mmu;
        // The last block of 2 MiB, and whether its table is shared: it may serve several mappings.
        let mut last = None;
        for mapping in self.mappings.as_slice() {
            for_chunks(mmu, self.root, mapping.start, mapping.end, |chunk| {
                let block = chunk.start & !(L3_SPAN - 1);
                let shares = match last {
                    Some((same, shares)) if same == block => shares,
                    _ => mode == ForkMode::SharedTables && self.worth_sharing(mem, block),
                };
                last = Some((block, shares));
                if shares {
                    child.share_table(mem, self.serial, chunk, flush)
                } else {
                    child.copy_leaves(mem, chunk, mode, flush)
                }
            })?;
        }
        Ok(())
    }

    /// What nobody writes is shared for good, and costs nothing but a counter. Elsewhere the first
    /// write takes the tables apart, which a copy of few leaves undercuts.
    fn worth_sharing<M: Mmu>(&self, mem: &Memory<M>, block: u64) -> bool {
        let end = block + L3_SPAN;
        self.mappings.pages_in(block, end) >= mem.share_from
            || !self.mappings.private_writable_in(block, end)
    }

    /// The tables that were broken to be shared come back as shared ones.
    fn share_broken<M: Mmu>(&mut self, mem: &Memory<M>, flushed: &Flushed) {
        for mapping in self.mappings.as_slice() {
            let (start, end) = (mapping.start, mapping.end);
            let Ok(()) =
                for_entries::<M, Infallible>(&mem.mmu, self.root, start, end, |_, _, slot, _| {
                    share_broken(&mem.mmu, slot, flushed);
                    Ok(())
                });
        }
        publish(&mem.mmu);
    }

    /// The eager mode's second half: a frame of its own for each of the child's private pages, and
    /// the parent may write again where it is alone.
    fn copy_frames<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        child: &mut Child,
        flush: &mut Flush<'_>,
    ) -> Result<(), ForkError> {
        let mmu = &mem.mmu;
        for mapping in self.mappings.as_slice() {
            let rights = match mapping.prot {
                Prot::NONE => Rights::None,
                prot if prot.contains(Prot::WRITE) => Rights::Write,
                _ => Rights::Read {
                    exec: false,
                    cow: false,
                },
            };
            for_chunks(mmu, self.root, mapping.start, mapping.end, |chunk| {
                for (va, slot) in chunk.pages() {
                    let Some(leaf) = Leaf::from_bits(slot.read(mmu)) else {
                        continue;
                    };
                    if leaf.content() != Content::Anon {
                        continue;
                    }
                    let table = child.table_for(mem, va)?;
                    let fresh = mem.take(Kind::Anon).ok_or(OutOfMemory)?;
                    mmu.copy_frame(leaf.frame(), fresh.frame());
                    let copy = Leaf::new(fresh.into_frame(), Content::Anon, rights);
                    child.add(mmu, Slot { table, ..slot }, copy);
                    child.counts.copied += 1;
                    let alone = !chunk.table.is_shared() && mem.frames.refs(leaf.frame()) == 1;
                    if alone && rights == Rights::Write && !leaf.executable() {
                        mem.frames.meta(leaf.frame()).clear_icache_clean();
                        flush.set_rights(mmu, slot, va, leaf.with(Rights::Write));
                    }
                }
                Ok::<(), ForkError>(())
            })?;
        }
        Ok(())
    }
}

/// A child while its parent is copied: no CPU uses it yet.
struct Child {
    space: AddressSpace,
    counts: ForkCounts,
    /// The block of 2 MiB that was last written to, and its table.
    last: Option<(u64, Frame)>,
    /// Whole tables that were shared last, one after the other.
    shared: Range<u64>,
}

impl Child {
    #[inline]
    fn add<M: Mmu>(&mut self, mmu: &M, slot: Slot, leaf: Leaf) {
        prepare(mmu, slot, leaf.bits());
        self.counts.leaves += 1;
    }

    /// One more parent for a table of the parent's. Nothing below may be written until one of
    /// them takes it, or a copy of it, for its own.
    fn share_table<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        parent: u32,
        chunk: Chunk,
        flush: &mut Flush<'_>,
    ) -> Result<(), ForkError> {
        let table = chunk.table.frame();
        if self.last == Some((chunk.start / L3_SPAN, table)) {
            // Another mapping in the same 2 MiB.
            return Ok(());
        }
        let slot = self.entry_for(mem, chunk.start)?;
        mem.share(table)?;
        prepare(&mem.mmu, slot, Table::shared(table).bits());
        if !chunk.table.is_shared() {
            flush.break_table(&mem.mmu, chunk.parent, chunk.table);
        }
        self.counts.tables_shared += 1;
        self.last = Some((chunk.start / L3_SPAN, table));
        let start = chunk.start & !(L3_SPAN - 1);
        if self.shared.end != start {
            self.tell_shared(mem, parent);
            self.shared.start = start;
        }
        self.shared.end = start + L3_SPAN;
        Ok(())
    }

    /// Puts the tables that were shared last on record.
    fn tell_shared<M: Mmu>(&mut self, mem: &Memory<M>, parent: u32) {
        let Range { start, end } = core::mem::take(&mut self.shared);
        if start < end {
            let child = self.space.serial;
            mem.mmu.tables_shared(parent, child, start, end);
        }
    }

    /// The leaves of a part of a table, but for those that the eager mode copies together with
    /// their frames: those are only write-protected.
    fn copy_leaves<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        chunk: Chunk,
        mode: ForkMode,
        flush: &mut Flush<'_>,
    ) -> Result<(), ForkError> {
        let mmu = &mem.mmu;
        for (va, slot) in chunk.pages() {
            let Some(old) = Leaf::from_bits(slot.read(mmu)) else {
                continue;
            };
            let new = old.forked();
            if mode != ForkMode::Eager || old.content() != Content::Anon {
                let table = self.table_for(mem, va)?;
                if old.counted() {
                    mem.share(old.frame())?;
                    self.counts.shared += u32::from(old.content() != Content::Shared);
                }
                self.add(mmu, Slot { table, ..slot }, new);
            }
            if new == old {
                continue;
            }
            if chunk.table.is_shared() {
                freeze(mmu, slot, new);
            } else if old.writable() {
                flush.set_rights(mmu, slot, va, new);
                self.counts.protected += 1;
            } else {
                annotate(mmu, slot, new);
            }
        }
        Ok(())
    }

    /// The level 3 table for an address.
    #[inline]
    fn table_for<M: Mmu>(&mut self, mem: &Memory<M>, va: u64) -> Result<Frame, OutOfMemory> {
        match self.last {
            Some((block, table)) if block == va / L3_SPAN => Ok(table),
            _ => self.another_table(mem, va),
        }
    }

    #[cold]
    fn another_table<M: Mmu>(&mut self, mem: &Memory<M>, va: u64) -> Result<Frame, OutOfMemory> {
        let slot = self.entry_for(mem, va)?;
        let table = match Table::from_bits(slot.read(&mem.mmu)) {
            Some(table) => table.frame(),
            None => self.new_table(mem, slot, va, L3_SPAN)?,
        };
        self.last = Some((va / L3_SPAN, table));
        Ok(table)
    }

    /// The level 2 entry for an address.
    fn entry_for<M: Mmu>(&mut self, mem: &Memory<M>, va: u64) -> Result<Slot, OutOfMemory> {
        let slot = Slot::new(self.space.root, 1, va);
        let table = match Table::from_bits(slot.read(&mem.mmu)) {
            Some(table) => table.frame(),
            None => self.new_table(mem, slot, va, L2_SPAN)?,
        };
        Ok(Slot::new(table, 2, va))
    }

    /// A table for `span` bytes around an address, in an empty entry.
    fn new_table<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        slot: Slot,
        va: u64,
        span: u64,
    ) -> Result<Frame, OutOfMemory> {
        let charged = self.space.mappings.table_charged(va, span);
        let table = mem.take_table(charged).ok_or(OutOfMemory)?.into_frame();
        self.counts.tables += 1;
        prepare(&mem.mmu, slot, Table::new(table).bits());
        Ok(table)
    }
}
