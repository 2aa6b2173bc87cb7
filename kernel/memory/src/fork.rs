//! Fork: the child maps the parent's frames, and neither may write them any more.

use crate::change::{Flush, Slot, prepare, publish, relax_lazily};
use crate::descriptor::{Content, Leaf, Rights, Table};
use crate::frame::{Frame, Kind};
use crate::mapping::Prot;
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use crate::tables::{Chunk, L3_SPAN, Walk, for_chunks, walk};
use crate::{ForkError, OutOfMemory};

/// How an address space is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForkMode {
    /// Every descriptor is copied, and private pages are write-protected on both sides.
    Classic,
    /// Private memory is copied at once: for comparison.
    Eager,
}

/// What fork did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkCounts {
    /// Private pages now shared between the two (the zero page not counted).
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
    /// Makes a copy of the address space. Every valid leaf is copied, so the child faults only
    /// where the parent would have.
    ///
    /// Other threads of the parent may run meanwhile, on other CPUs, and write through entries
    /// that their TLBs still hold: until the flush, the frames are the child's as well, so such a
    /// write counts as before the fork. After the flush they fault and wait for the lock.
    pub fn fork<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        mode: ForkMode,
    ) -> Result<(AddressSpace, ForkCounts), ForkError> {
        let mut child = AddressSpace::new(mem)?;
        child.stack_limit = self.stack_limit;
        let mut counts = ForkCounts {
            tables: 1,
            ..ForkCounts::default()
        };
        let mut flush = Flush::new(self.asid());
        let mut result = self.copy_leaves(mem, &mut child, &mut counts, &mut flush);
        // Also on failure: the parent stays write-protected, which is only slower, but its TLB
        // entries must not say otherwise.
        if counts.protected > 0 {
            flush.widen();
        }
        let _ = flush.complete(&mem.mmu);
        if mode == ForkMode::Eager && result.is_ok() {
            // After the flush, or a copy could tear: half before another thread's write, half after.
            result = self.copy_frames(mem, &mut child, &mut counts);
        }
        match result {
            Ok(()) => Ok((child, counts)),
            Err(error) => {
                child.destroy(mem);
                Err(error)
            }
        }
    }

    fn copy_leaves<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        child: &mut AddressSpace,
        counts: &mut ForkCounts,
        flush: &mut Flush,
    ) -> Result<(), ForkError> {
        let mmu = &mem.mmu;
        child.mappings = self.mappings.try_clone()?;
        let mut last: Option<(u64, Frame)> = None;
        for mapping in self.mappings.as_slice() {
            for_chunks(mmu, self.root, mapping.start, mapping.end, |chunk| {
                for (va, slot) in chunk.pages() {
                    let Some(old) = Leaf::from_bits(slot.read(mmu)) else {
                        continue;
                    };
                    let table = match last {
                        Some((block, table)) if block == va / L3_SPAN => table,
                        _ => child.table_for(mem, va, counts)?,
                    };
                    last = Some((va / L3_SPAN, table));
                    if old.counted() {
                        mem.share(old.frame())?;
                        counts.shared += u32::from(old.content() != Content::Shared);
                    }
                    let new = old.forked();
                    if old.writable() && new != old {
                        flush.tighten(mmu, slot, va, new);
                        counts.protected += 1;
                    } else if new != old {
                        relax_lazily(mmu, slot, new);
                    }
                    prepare(mmu, Slot { table, ..slot }, new.bits());
                    child.resident.add(new.content());
                    counts.leaves += 1;
                }
                Ok::<(), ForkError>(())
            })?;
        }
        Ok(())
    }

    /// The level 3 table for an address, in a space that no CPU uses yet.
    fn table_for<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        va: u64,
        counts: &mut ForkCounts,
    ) -> Result<Frame, OutOfMemory> {
        let mut missing = match walk(&mem.mmu, self.root, va) {
            Walk::Page(slot) => return Ok(slot.table),
            Walk::NoTable(slot) => slot,
        };
        loop {
            let table = mem.take_table().ok_or(OutOfMemory)?.into_frame();
            counts.tables += 1;
            prepare(&mem.mmu, missing, Table::new(table).bits());
            if missing.level == 2 {
                return Ok(table);
            }
            missing = Slot::new(table, 2, va);
        }
    }

    /// The eager mode's second half: a frame of its own for each of the child's private pages, and
    /// the parent may write again where it is alone.
    fn copy_frames<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        child: &mut AddressSpace,
        counts: &mut ForkCounts,
    ) -> Result<(), ForkError> {
        let mmu = &mem.mmu;
        let child_root = child.root;
        for mapping in self.mappings.as_slice() {
            let rights = match mapping.prot {
                Prot::NONE => Rights::None,
                prot if prot.contains(Prot::WRITE) => Rights::Write,
                _ => Rights::Read {
                    exec: false,
                    cow: false,
                },
            };
            for_chunks(
                mmu,
                child_root,
                mapping.start,
                mapping.end,
                |chunk: Chunk| {
                    for (va, slot) in chunk.pages() {
                        let Some(leaf) = Leaf::from_bits(slot.read(mmu)) else {
                            continue;
                        };
                        if leaf.content() != Content::Anon {
                            continue;
                        }
                        let fresh = mem.take(Kind::Anon).ok_or(OutOfMemory)?;
                        mmu.copy_frame(leaf.frame(), fresh.frame());
                        prepare(
                            mmu,
                            slot,
                            Leaf::new(fresh.into_frame(), Content::Anon, rights).bits(),
                        );
                        // The child's descriptor was never reachable: its reference was a mere hold.
                        mem.drop_hold(leaf.frame());
                        counts.shared -= 1;
                        counts.copied += 1;
                        if rights == Rights::Write
                            && !leaf.executable()
                            && mem.frames.refs(leaf.frame()) == 1
                            && let Walk::Page(slot) = walk(mmu, self.root, va)
                        {
                            mem.frames.clear_icache_clean(leaf.frame());
                            relax_lazily(mmu, slot, leaf.with(Rights::Write));
                        }
                    }
                    Ok::<(), ForkError>(())
                },
            )?;
        }
        publish(mmu);
        Ok(())
    }
}
