//! An address space: its mappings, its translation tables, its ASID.

use core::convert::Infallible;

use crate::asid::Asid;
use crate::cache::PageCache;
use crate::change::{Flush, Flushed, Slot, take_broken, take_dead};
use crate::descriptor::{Content, Leaf, Rights, Table};
use crate::frame::{Frame, PAGE_SIZE};
use crate::mapping::{Backing, MAP_MIN, Mapping, Mappings, Prot};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::tables::{L2_SPAN, L3_SPAN, Walk, block_end, for_chunks, walk};
use crate::{MapError, SpaceError, USER_END};

/// How far a stack may grow, unless [`AddressSpace::set_stack_limit`] says otherwise: Linux's default.
const STACK_LIMIT: u64 = 8 << 20;

/// Unmapped bytes that stay between a growing stack and what lies below it: 256 pages, as on Linux.
pub(crate) const STACK_GUARD: u64 = 256 * PAGE_SIZE;

/// What an address space maps: valid leaves, by what their frames are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Private frames.
    pub anon: u32,
    /// Frames of page caches.
    pub file: u32,
    /// The zero page.
    pub zero: u32,
}

impl Resident {
    #[inline]
    fn of(&mut self, content: Content) -> &mut u32 {
        match content {
            Content::Anon => &mut self.anon,
            Content::File | Content::Shared => &mut self.file,
            Content::Zero => &mut self.zero,
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, content: Content) {
        *self.of(content) += 1;
    }

    #[inline]
    pub(crate) fn remove(&mut self, content: Content) {
        *self.of(content) -= 1;
    }
}

/// What unmapping gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// References dropped; the zero page is not counted.
    pub dropped: u32,
    /// Frames freed because this was the last reference.
    pub freed: u32,
}

impl Dropped {
    #[inline]
    fn count(&mut self, leaf: Leaf, freed: bool) {
        self.dropped += u32::from(leaf.counted());
        self.freed += u32::from(freed);
    }
}

/// Leaves that lost rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tightened(pub u32);

/// What the end of an address space gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// References dropped; the zero page is not counted.
    pub dropped: u32,
    /// Frames freed because this was the last reference.
    pub freed: u32,
    /// Translation tables freed, root included.
    pub tables: u32,
}

/// An address space. Changing it takes `&mut`: the kernel keeps each behind a lock, held for the
/// whole of a fault or a fork. It must end in [`destroy`](Self::destroy).
#[derive(Debug)]
pub struct AddressSpace {
    pub(crate) serial: u32,
    pub(crate) asid: Asid,
    pub(crate) root: Frame,
    pub(crate) mappings: Mappings,
    pub(crate) resident: Resident,
    pub(crate) stack_limit: u64,
}

impl AddressSpace {
    /// An empty address space, with a root table and an ASID of its own.
    pub fn new<M: Mmu>(mem: &Memory<M>) -> Result<AddressSpace, SpaceError> {
        // The root first: an ASID is only ever given back after a flush.
        let root = mem.take_table().ok_or(SpaceError::OutOfMemory)?;
        let Some(asid) = mem.asids.allocate() else {
            mem.give_back(root);
            return Err(SpaceError::OutOfAsids);
        };
        Ok(AddressSpace {
            serial: mem.next_serial(),
            asid,
            root: root.into_frame(),
            mappings: Mappings::default(),
            resident: Resident::default(),
            stack_limit: STACK_LIMIT,
        })
    }

    /// A number that no other address space ever has, unlike its ASID.
    #[inline]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The ASID.
    #[inline]
    pub fn asid(&self) -> u16 {
        self.asid.number()
    }

    /// The level 1 table.
    #[inline]
    pub fn root(&self) -> Frame {
        self.root
    }

    /// The value of TTBR0_EL1 that makes this address space current: ASID and root in one write (TCR_EL1.A1 = 0).
    #[inline]
    pub fn ttbr0(&self) -> u64 {
        u64::from(self.asid()) << 48 | self.root.addr()
    }

    /// What is mapped by valid leaves.
    pub fn resident(&self) -> Resident {
        self.resident
    }

    /// The mappings, in order of address.
    pub fn mappings(&self) -> &[Mapping] {
        self.mappings.as_slice()
    }

    /// How far stacks may grow, bytes (RLIMIT_STACK).
    pub fn set_stack_limit(&mut self, bytes: u64) {
        self.stack_limit = bytes;
    }

    /// The leaf descriptor of an address, 0 if there is none.
    pub fn leaf<M: Mmu>(&self, mem: &Memory<M>, addr: u64) -> u64 {
        match walk(&mem.mmu, self.root, addr) {
            _ if addr >= USER_END => 0,
            Walk::Page(slot) => slot.read(&mem.mmu),
            Walk::NoTable(_) => 0,
        }
    }

    /// A hole of `len` bytes (a multiple of the page size): at `hint` if that is free, else as high
    /// as possible below the stack's room for growth.
    pub fn find_free(&self, len: u64, hint: u64) -> Option<u64> {
        self.mappings
            .find_free(len, hint, self.stack_limit + STACK_GUARD)
    }

    /// Makes a mapping, in place of whatever is mapped in its range (MAP_FIXED). Pages come with faults.
    pub fn map<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        mut mapping: Mapping,
    ) -> Result<Dropped, MapError> {
        check(mapping.start, mapping.end)?;
        if mapping.start < MAP_MIN {
            return Err(MapError::Invalid);
        }
        if let Backing::File { offset, .. } = mapping.backing
            && (!offset.is_multiple_of(PAGE_SIZE) || offset.checked_add(mapping.len()).is_none())
        {
            return Err(MapError::Invalid);
        }
        self.mappings.reserve(3)?;
        if mapping.shared && matches!(mapping.backing, Backing::Anonymous) {
            let cache = PageCache::zeroed(0, mapping.len()).try_arc()?;
            mapping.backing = Backing::File { cache, offset: 0 };
        }
        let dropped = self.remove(mem, mapping.start, mapping.end);
        self.mappings.insert(mapping);
        Ok(dropped)
    }

    /// Removes what is mapped in a range, which may have holes.
    pub fn unmap<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
    ) -> Result<Dropped, MapError> {
        check(start, end)?;
        self.mappings.reserve(2)?;
        Ok(self.remove(mem, start, end))
    }

    fn remove<M: Mmu>(&mut self, mem: &Memory<M>, start: u64, end: u64) -> Dropped {
        let mut any = false;
        self.mappings.remove(start, end, |mapping| {
            any = true;
            release_backing(mem, mapping);
        });
        if !any {
            return Dropped::default();
        }
        // Tables go with the last mapping they serve, so that each table always serves one.
        let (low, high) = self.mappings.hole(start);
        let mut flush = Flush::new(self.asid());
        self.break_range(mem, start, end, low, high, &mut flush);
        let flushed = flush.complete(&mem.mmu);
        self.release_range(mem, start, end, &flushed)
    }

    /// First pass: nothing of the range can be reached any more, once flushed. `low..high` is the hole around it.
    fn break_range<M: Mmu>(
        &self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
        low: u64,
        high: u64,
        flush: &mut Flush,
    ) {
        let mmu = &mem.mmu;
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
                    Some(l3) => {
                        while va < l3_end {
                            let slot = Slot::new(l3.frame(), 3, va);
                            if let Some(leaf) = Leaf::from_bits(slot.read(mmu)) {
                                flush.break_leaf(mmu, slot, va, leaf);
                            }
                            va += PAGE_SIZE;
                        }
                    }
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
            if let Some(l2) = Table::from_bits(entry) {
                while va < l2_end {
                    let l3_end = block_end(va, L3_SPAN).min(l2_end);
                    let slot = Slot::new(l2.frame(), 2, va);
                    match Table::from_bits(slot.read(mmu)) {
                        Some(l3) => {
                            self.release_broken(mem, l3.frame(), va, l3_end, flushed, &mut dropped)
                        }
                        None => {
                            if let Some((retired, _)) = take_broken(mmu, slot) {
                                self.release_dead(
                                    mem,
                                    retired.frame(),
                                    va,
                                    l3_end,
                                    flushed,
                                    &mut dropped,
                                );
                                mem.release(retired, flushed);
                            }
                        }
                    }
                    va = l3_end;
                }
            } else if let Some((l2, _)) = take_broken(mmu, slot) {
                while va < l2_end {
                    let l3_end = block_end(va, L3_SPAN).min(l2_end);
                    if let Some(l3) = Table::from_bits(Slot::new(l2.frame(), 2, va).read(mmu)) {
                        self.release_dead(mem, l3.frame(), va, l3_end, flushed, &mut dropped);
                        mem.release(take_dead(l3.frame(), flushed), flushed);
                    }
                    va = l3_end;
                }
                mem.release(l2, flushed);
            }
            va = l2_end;
        }
        dropped
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
        let mut va = start;
        while va < end {
            if let Some((retired, leaf)) = take_broken(&mem.mmu, Slot::new(l3, 3, va)) {
                self.resident.remove(leaf.content());
                dropped.count(leaf, mem.release(retired, flushed));
            }
            va += PAGE_SIZE;
        }
    }

    /// Releases the leaves of a table that is itself broken.
    #[inline]
    fn release_dead<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        l3: Frame,
        start: u64,
        end: u64,
        flushed: &Flushed,
        dropped: &mut Dropped,
    ) {
        let mut va = start;
        while va < end {
            if let Some(leaf) = Leaf::from_bits(Slot::new(l3, 3, va).read(&mem.mmu)) {
                self.resident.remove(leaf.content());
                dropped.count(leaf, mem.release(take_dead(leaf.frame(), flushed), flushed));
            }
            va += PAGE_SIZE;
        }
    }

    /// Sets the permissions of a range that is mapped throughout. Leaves only ever lose rights
    /// here, on all CPUs before the return; faults give what was gained. In particular no leaf
    /// becomes writable: only a fault knows whether its frame is shared.
    pub fn protect<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
        prot: Prot,
    ) -> Result<Tightened, MapError> {
        check(start, end)?;
        if !self.mappings.covers(start, end) {
            return Err(MapError::NotMapped);
        }
        self.mappings.reserve(2)?;
        let mmu = &mem.mmu;
        let mut flush = Flush::new(self.asid());
        let mut tightened = 0;
        let first = self.mappings.after(start);
        for mapping in self.mappings.as_slice()[first..]
            .iter()
            .take_while(|mapping| mapping.start < end)
        {
            let lost =
                mapping.prot.bits() & !prot.bits() & (Prot::WRITE.bits() | Prot::EXEC.bits()) != 0;
            if !lost && prot != Prot::NONE && mapping.prot != Prot::NONE {
                continue;
            }
            let (from, to) = (mapping.start.max(start), mapping.end.min(end));
            let Ok(()) = for_chunks::<M, Infallible>(mmu, self.root, from, to, |chunk| {
                for (va, slot) in chunk.pages() {
                    let Some(leaf) = Leaf::from_bits(slot.read(mmu)) else {
                        continue;
                    };
                    let cow = leaf.cow();
                    if prot == Prot::NONE {
                        if leaf.accessible() {
                            flush.set_rights(mmu, slot, va, leaf.with(Rights::None));
                            tightened += 1;
                        }
                    } else if !leaf.accessible() {
                        // PROT_NONE is over. Reading is safe whoever shares the frame, and a fault
                        // would have no better name for it.
                        let cow = leaf.content() != Content::Shared;
                        flush.set_rights(
                            mmu,
                            slot,
                            va,
                            leaf.with(Rights::Read { exec: false, cow }),
                        );
                    } else if (leaf.writable() && !prot.contains(Prot::WRITE))
                        || (leaf.executable() && !prot.contains(Prot::EXEC))
                    {
                        flush.set_rights(
                            mmu,
                            slot,
                            va,
                            leaf.with(Rights::Read { exec: false, cow }),
                        );
                        tightened += 1;
                    }
                }
                Ok(())
            });
        }
        self.mappings.protect(start, end, prot);
        let _ = flush.complete(mmu);
        Ok(Tightened(tightened))
    }

    /// Ends the address space. No CPU may have it in TTBR0 any more. Cannot fail, allocates nothing.
    pub fn destroy<M: Mmu>(mut self, mem: &Memory<M>) -> Ended {
        let mmu = &mem.mmu;
        let flushed = Flush::everything(self.asid()).complete(mmu);
        let mut ended = Ended::default();
        let mut dropped = Dropped::default();
        let mut mappings = core::mem::take(&mut self.mappings);
        // Each table serves at least one mapping, so walking the mappings finds all of them, in
        // order; those that serve several come several times in a row.
        let mut done = |table: Frame| {
            ended.tables += 1;
            mem.release(take_dead(table, &flushed), &flushed);
        };
        let mut last = self.root;
        for mapping in mappings.as_slice() {
            let (start, end) = (mapping.start, mapping.end);
            let Ok(()) = for_chunks::<M, Infallible>(mmu, self.root, start, end, |chunk| {
                if chunk.l3 != last && last != self.root {
                    done(last);
                }
                last = chunk.l3;
                self.release_dead(
                    mem,
                    chunk.l3,
                    chunk.start,
                    chunk.end,
                    &flushed,
                    &mut dropped,
                );
                Ok(())
            });
        }
        if last != self.root {
            done(last);
        }
        let mut next = 0;
        for mapping in mappings.as_slice() {
            let mut va = mapping.start.max(next);
            while va < mapping.end {
                if let Some(l2) = Table::from_bits(Slot::new(self.root, 1, va).read(mmu)) {
                    done(l2.frame());
                }
                va = block_end(va, L2_SPAN);
                next = va;
            }
        }
        done(self.root);
        debug_assert_eq!(
            self.resident,
            Resident::default(),
            "leaves outside of mappings"
        );
        mappings.clear(|mapping| release_backing(mem, mapping));
        mem.asids.release(self.asid, &flushed);
        Ended {
            dropped: dropped.dropped,
            freed: dropped.freed,
            ..ended
        }
    }
}

/// Lets go of a mapping's page cache. Its frames are counted: those still mapped stay.
fn release_backing<M: Mmu>(mem: &Memory<M>, mapping: Mapping) {
    if let Backing::File { cache, .. } = mapping.backing {
        PageCache::release(cache, mem);
    }
}

fn check(start: u64, end: u64) -> Result<(), MapError> {
    if start < end
        && end <= USER_END
        && start.is_multiple_of(PAGE_SIZE)
        && end.is_multiple_of(PAGE_SIZE)
    {
        Ok(())
    } else {
        Err(MapError::Invalid)
    }
}
