//! An address space: its mappings, its translation tables, its ASID.

use alloc::sync::Arc;
use core::convert::Infallible;
use core::sync::atomic::Ordering;

use crate::asid::{Context, Root};
use crate::cache::PageCache;
use crate::change::Flush;
use crate::commit::Charge;
use crate::descriptor::{Content, Leaf, Rights};
use crate::frame::{Frame, PAGE_SIZE};
use crate::mapping::{Backing, MAP_MIN, Mapping, Mappings, Prot};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::sync::AtomicU32;
use crate::tables::{L3_SPAN, Owned, Walk, block_end, for_chunks, own, walk};
use crate::teardown::{Dropped, release_backing};
use crate::{MapError, OutOfMemory, SpaceError, USER_END};

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

/// The counts behind [`Resident`], by the descriptor bits that say what a leaf's frame is.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU32; 8]);

impl Counts {
    #[inline]
    pub fn add(&mut self, leaf: Leaf) {
        *self.0[leaf.content_bits()].get_mut() += 1;
    }

    #[inline]
    pub fn remove(&mut self, leaf: Leaf) {
        *self.0[leaf.content_bits()].get_mut() -= 1;
    }

    fn of(&self, content: Content) -> u32 {
        self.0[content as usize].load(Ordering::Relaxed)
    }
}

impl Clone for Counts {
    fn clone(&self) -> Counts {
        Counts(core::array::from_fn(|kind| {
            AtomicU32::new(self.0[kind].load(Ordering::Relaxed))
        }))
    }
}

/// [`Counts`] that a fault keeps in step: its own (`&mut`), or those of several at a time (`&`).
pub(crate) trait Tally {
    fn add(self, new: Leaf);
    fn swap(self, old: Leaf, new: Leaf);
}

impl Tally for &mut Counts {
    #[inline]
    fn add(self, new: Leaf) {
        Counts::add(self, new);
    }

    #[inline]
    fn swap(self, old: Leaf, new: Leaf) {
        self.remove(old);
        Counts::add(self, new);
    }
}

impl Tally for &Counts {
    fn add(self, new: Leaf) {
        self.0[new.content_bits()].fetch_add(1, Ordering::Relaxed);
    }

    fn swap(self, old: Leaf, new: Leaf) {
        self.0[old.content_bits()].fetch_sub(1, Ordering::Relaxed);
        self.add(new);
    }
}

/// What a change of permissions did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Leaves that lost rights.
    pub tightened: u32,
    /// One past the last byte that was changed: the end, or what stopped it before.
    pub end: u64,
    /// What stopped it is no hole, but a mapping that must not become writable.
    pub denied: bool,
}

/// An address space. Changing it takes `&mut`: the kernel keeps each behind a lock, held for the
/// whole of a fault or a fork. Only faults of programs with several threads share it:
/// [`fault_beside`](Self::fault_beside). It must end in [`destroy`](Self::destroy).
#[derive(Debug)]
pub struct AddressSpace {
    pub(crate) serial: u32,
    pub(crate) root: Frame,
    /// Its ASID: in the root's metadata.
    pub(crate) context: &'static Context,
    pub(crate) mappings: Mappings,
    pub(crate) resident: Counts,
    pub(crate) stack_limit: u64,
    /// Pages that are charged, tables included.
    pub(crate) charged: u64,
}

impl AddressSpace {
    /// An empty address space, with a root table and an ASID of its own.
    pub fn new<M: Mmu>(mem: &Memory<M>) -> Result<AddressSpace, SpaceError> {
        AddressSpace::charged_for(mem, 1)
    }

    /// An empty address space that is charged for what it will hold, its root included.
    pub(crate) fn charged_for<M: Mmu>(
        mem: &Memory<M>,
        pages: u64,
    ) -> Result<AddressSpace, SpaceError> {
        mem.frames.charge(pages)?;
        let Some(root) = mem.take_table(true) else {
            mem.frames.commit.uncharge(pages, 0);
            return Err(SpaceError::OutOfMemory);
        };
        let root = root.into_frame();
        let context = mem.frames.context(root);
        mem.asids.assign(context);
        Ok(AddressSpace {
            serial: mem.next_serial(),
            root,
            context,
            mappings: Mappings::default(),
            resident: Counts::default(),
            stack_limit: STACK_LIMIT,
            charged: pages,
        })
    }

    /// A number that no other address space ever has, unlike its ASID.
    #[inline]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// What [`Memory::activate`] needs, without the address space's lock.
    #[inline]
    pub fn root(&self) -> Root {
        Root {
            frame: self.root,
            context: self.context,
        }
    }

    /// What is mapped by valid leaves.
    pub fn resident(&self) -> Resident {
        Resident {
            anon: self.resident.of(Content::Anon),
            file: self.resident.of(Content::File) + self.resident.of(Content::Shared),
            zero: self.resident.of(Content::Zero),
        }
    }

    /// The mappings, in order of address.
    pub fn mappings(&self) -> &[Mapping] {
        self.mappings.as_slice()
    }

    /// The mappings that overlap a range.
    pub fn mappings_in(&self, start: u64, end: u64) -> impl Iterator<Item = &Mapping> {
        self.mappings.from(self.mappings.after(start), end)
    }

    /// The first address of a range that is not mapped; its end, if all is.
    pub fn mapped_until(&self, start: u64, end: u64) -> u64 {
        self.mappings.mapped_until(start, end, |_| true)
    }

    /// How far stacks may grow, bytes (RLIMIT_STACK).
    pub fn set_stack_limit(&mut self, bytes: u64) {
        self.stack_limit = bytes;
    }

    /// The leaf descriptor of an address, 0 if there is none. Its table may forbid more: see
    /// [`ForkMode::SharedTables`](crate::ForkMode).
    pub fn leaf<M: Mmu>(&self, mem: &Memory<M>, addr: u64) -> u64 {
        if addr < USER_END {
            walk(&mem.mmu, self.root, addr).read(&mem.mmu)
        } else {
            0
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
        mapping.charged = mapping.prot.contains(Prot::WRITE);
        let replaces = self.mappings.any_in(mapping.start, mapping.end);
        match self.prepare_map(mem, &mapping, replaces) {
            Ok((anonymous, old, new)) => {
                let range = (mapping.start, mapping.end);
                let dropped = match replaces {
                    true => self.remove(mem, mapping.start, mapping.end),
                    false => Dropped::default(),
                };
                let backing = match anonymous {
                    Some(cache) => Backing::File { cache, offset: 0 },
                    None => mapping.backing,
                };
                self.mappings.insert(Mapping { backing, ..mapping });
                self.settle(mem, range, old, new);
                Ok(dropped)
            }
            Err(error) => {
                release_backing(mem, mapping);
                Err(error)
            }
        }
    }

    /// All of `map` that can fail; what backs the mapping, if it is shared and anonymous, and what
    /// the range costs before and after.
    fn prepare_map<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        mapping: &Mapping,
        replaces: bool,
    ) -> Result<(Option<Arc<PageCache>>, Charge, Charge), MapError> {
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
        self.own_edges(mem, mapping.start, mapping.end)?;
        let mut anonymous = None;
        if mapping.shared && matches!(mapping.backing, Backing::Anonymous) {
            anonymous = Some(PageCache::promised(mem, mapping.len())?);
        }
        let old = match replaces {
            true => self.mappings.charge(mapping.start, mapping.end),
            false => Charge::default(),
        };
        let new = self.mappings.charge_with(mapping);
        if let Err(refusal) = self.charge_more(mem, old, new) {
            if let Some(cache) = anonymous {
                PageCache::release(cache, mem);
            }
            return Err(refusal.into());
        }
        Ok((anonymous, old, new))
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
        self.own_edges(mem, start, end)?;
        let charge = self.mappings.charge(start, end);
        let dropped = self.remove(mem, start, end);
        self.settle(mem, (start, end), charge, Charge::default());
        Ok(dropped)
    }

    /// Sets the permissions of a range, up to the first hole in it, or the first mapping that must
    /// not have them, as Linux does. Leaves only ever
    /// lose rights here, on all CPUs before the return; faults give what was gained. In particular
    /// no leaf becomes writable: only a fault knows whether its frame is shared.
    pub fn protect<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
        prot: Prot,
    ) -> Result<Protected, MapError> {
        check(start, end)?;
        let writes = prot.contains(Prot::WRITE);
        let fit = |mapping: &Mapping| !writes || mapping.may_write;
        let (wanted, end) = (end, self.mappings.mapped_until(start, end, fit));
        let denied = end < wanted && self.mappings.find(end).is_some();
        if start == end {
            return Err(match denied {
                true => MapError::Denied,
                false => MapError::NotMapped,
            });
        }
        self.mappings.reserve(2)?;
        let mmu = &mem.mmu;
        let (old, new) = self.mappings.charge_protected(start, end, prot);
        let first = self.mappings.after(start);
        // Where leaves may have to change, and not only the mapping.
        let affected = || {
            let mappings = self.mappings.as_slice()[first..].iter();
            mappings
                .take_while(|mapping| mapping.start < end)
                .filter(|mapping| {
                    let revocable = Prot::WRITE.union(Prot::EXEC).bits();
                    mapping.prot.bits() & !prot.bits() & revocable != 0
                        || prot == Prot::NONE
                        || mapping.prot == Prot::NONE
                })
                .map(|mapping| (mapping.start.max(start), mapping.end.min(end)))
        };
        // All that can fail, before anything is changed. (A program does not see whether it shares
        // a table.)
        for (from, to) in affected() {
            for_chunks(mmu, self.root, from, to, |chunk| {
                self.own_table(mem, chunk.start)
            })?;
        }
        let more = new.total() - old.total();
        if more > 0 {
            mem.frames.charge(more)?;
        }
        let mut flush = Flush::new(self.context);
        let mut tightened = 0;
        for (from, to) in affected() {
            let Ok(()) = for_chunks::<M, Infallible>(mmu, self.root, from, to, |chunk| {
                for (va, slot) in chunk.pages() {
                    let Some(leaf) = Leaf::from_bits(slot.read(mmu)) else {
                        continue;
                    };
                    if let Some(new) = narrowed(leaf, prot) {
                        flush.set_rights(mmu, slot, va, new);
                        tightened += u32::from(leaf.accessible());
                    }
                }
                Ok(())
            });
        }
        self.mappings.protect(start, end, prot);
        let _ = flush.complete(mmu);
        self.charged += more;
        if !old.same_tables(new) {
            self.mark_range(mem, start, end, old.l2_tables != new.l2_tables);
        }
        Ok(Protected {
            tightened,
            end,
            denied,
        })
    }

    /// Makes the level 3 table of an address this address space's own.
    pub(crate) fn own<M: Mmu>(&self, mem: &Memory<M>, va: u64) -> Result<Owned, OutOfMemory> {
        let charged = self.mappings.table_charged(va, L3_SPAN);
        own(mem, self.root, self.context, va, charged)
    }

    /// Makes the level 3 tables at the edges of a range that is about to go this address space's
    /// own, where they also serve pages that stay. What lies between goes with its table.
    #[inline(always)]
    pub(crate) fn own_edges<M: Mmu>(
        &self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
    ) -> Result<(), OutOfMemory> {
        let (first, last) = (start & !(L3_SPAN - 1), block_end(end - 1, L3_SPAN));
        let edge = |at, from, to| match self.mappings.any_in(from, to) {
            true => self.own_table(mem, at),
            false => Ok(()),
        };
        if self.is_shared(mem, start) {
            edge(start, first, start)?;
        } else if last - first == L3_SPAN {
            // The same table at both ends.
            return Ok(());
        }
        match self.is_shared(mem, end - 1) {
            true => edge(end - 1, end, last),
            false => Ok(()),
        }
    }

    #[inline]
    fn is_shared<M: Mmu>(&self, mem: &Memory<M>, va: u64) -> bool {
        matches!(walk(&mem.mmu, self.root, va), Walk::Shared(_))
    }

    /// Makes the level 3 table of an address, if there is one, this address space's own.
    #[inline(never)]
    pub(crate) fn own_table<M: Mmu>(&self, mem: &Memory<M>, va: u64) -> Result<(), OutOfMemory> {
        if self.is_shared(mem, va) {
            let owned = self.own(mem, va)?;
            let copied = owned == Owned::Copied;
            mem.mmu.table_owned(self.serial, va, copied);
        }
        Ok(())
    }
}

/// What is left of a leaf under other permissions. `None`: all of it.
#[inline]
fn narrowed(leaf: Leaf, prot: Prot) -> Option<Leaf> {
    if prot == Prot::NONE {
        return leaf.accessible().then(|| leaf.with(Rights::None));
    }
    if leaf.within(prot) {
        return None;
    }
    if leaf.accessible() {
        return Some(leaf.read_only());
    }
    // PROT_NONE is over. Reading is safe whoever shares the frame, and a fault would have no better
    // name for it.
    let cow = leaf.content() != Content::Shared;
    Some(leaf.with(Rights::Read { exec: false, cow }))
}

pub(crate) fn check(start: u64, end: u64) -> Result<(), MapError> {
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
