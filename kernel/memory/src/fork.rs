//! Fork: the child maps the parent's frames, and neither may write them any more.

use crate::change::{Flush, Slot, annotate, prepare};
use crate::descriptor::{Content, Leaf, Rights, Table};
use crate::frame::{Frame, Kind};
use crate::mapping::Prot;
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use crate::tables::{L3_SPAN, Walk, for_chunks, walk};
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
        let mut space = AddressSpace::new(mem)?;
        space.stack_limit = self.stack_limit;
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
        };
        let mut flush = Flush::new(self.asid());
        let mut result = self.copy_leaves(mem, &mut child, mode, &mut flush);
        // Also on failure: the parent stays write-protected, which is only slower, but its TLB
        // entries must not say otherwise.
        if child.counts.protected > 0 {
            flush.widen();
        }
        let _ = flush.complete(&mem.mmu);
        if mode == ForkMode::Eager && result.is_ok() {
            // After the flush, or a copy could tear: half before another thread's write, half after.
            let mut flush = Flush::new(self.asid());
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

    /// The first half: all leaves, but for those that the eager mode copies together with their
    /// frames. Those are only write-protected.
    fn copy_leaves<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        child: &mut Child,
        mode: ForkMode,
        flush: &mut Flush,
    ) -> Result<(), ForkError> {
        let mmu = &mem.mmu;
        for mapping in self.mappings.as_slice() {
            for_chunks(mmu, self.root, mapping.start, mapping.end, |chunk| {
                for (va, slot) in chunk.pages() {
                    let Some(old) = Leaf::from_bits(slot.read(mmu)) else {
                        continue;
                    };
                    let new = old.forked();
                    let later = mode == ForkMode::Eager && old.content() == Content::Anon;
                    if !later {
                        let table = child.table_for(mem, va)?;
                        if old.counted() {
                            mem.share(old.frame())?;
                            child.counts.shared += u32::from(old.content() != Content::Shared);
                        }
                        child.add(mmu, Slot { table, ..slot }, new);
                    }
                    if old.writable() && new != old {
                        flush.set_rights(mmu, slot, va, new);
                        child.counts.protected += 1;
                    } else if new != old {
                        annotate(mmu, slot, new);
                    }
                }
                Ok::<(), ForkError>(())
            })?;
        }
        Ok(())
    }

    /// The eager mode's second half: a frame of its own for each of the child's private pages, and
    /// the parent may write again where it is alone.
    fn copy_frames<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        child: &mut Child,
        flush: &mut Flush,
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
                    let alone = mem.frames.refs(leaf.frame()) == 1;
                    if alone && rights == Rights::Write && !leaf.executable() {
                        mem.frames.clear_icache_clean(leaf.frame());
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
}

impl Child {
    #[inline]
    fn add<M: Mmu>(&mut self, mmu: &M, slot: Slot, leaf: Leaf) {
        prepare(mmu, slot, leaf.bits());
        self.space.resident.add(leaf.content());
        self.counts.leaves += 1;
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
        let mut walk = walk(&mem.mmu, self.space.root, va);
        while let Walk::NoTable(slot) = walk {
            let table = mem.take_table().ok_or(OutOfMemory)?.into_frame();
            self.counts.tables += 1;
            prepare(&mem.mmu, slot, Table::new(table).bits());
            walk = match slot.level {
                1 => Walk::NoTable(Slot::new(table, 2, va)),
                _ => Walk::Page(Slot::new(table, 3, va)),
            };
        }
        let Walk::Page(slot) = walk else {
            unreachable!("the loop ends at a page")
        };
        self.last = Some((va / L3_SPAN, slot.table));
        Ok(slot.table)
    }
}
