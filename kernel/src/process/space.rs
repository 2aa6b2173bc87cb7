//! An address space as the kernel holds it: locked, shared, and traced. Every change of its
//! mappings goes through here, so that every change is an event.

use super::table;
use super::thread::try_current;
use crate::arch::{self, heap::Place};
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use memory::descriptor::{Content, Leaf};
use memory::{
    AddressSpace, Assigned, Backing, Dropped, ForkCounts, Handled, MapError, Mapping, Outcome,
    PAGE_SIZE, PageCache, Prot, Rank, Rare, Refusal, Region, Remap, Request, Root, RwLock,
    SpaceError, USER_END, WriteGuard,
};
use wire::event::{self, Event, ForkMode};

/// An address space.
///
/// The lock is never held across an access to user memory: that may fault, and the handler takes it.
pub struct Space {
    /// Its number in the trace.
    pub serial: u32,
    /// Its root table and its ASID, which may change when it next runs.
    pub root: Root,
    /// Its threads use membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED).
    pub wants_barriers: AtomicBool,
    inner: RwLock<Inner>,
}

/// What the lock protects.
pub struct Inner {
    /// The mappings and tables.
    pub map: AddressSpace,
    /// The break: where the heap starts, and its current end (not rounded to pages).
    pub heap: (u64, u64),
}

impl Space {
    /// An empty address space.
    pub fn new() -> Result<Arc<Space>, Errno> {
        let place = Place::new().ok_or(Errno::ENOMEM)?;
        let map = AddressSpace::new(arch::mmu::memory()).map_err(space_errno)?;
        Ok(Space::begin(place, map, (0, 0)))
    }

    fn begin(place: Place<Space>, map: AddressSpace, heap: (u64, u64)) -> Arc<Space> {
        let space = place.fill(|| Space {
            serial: map.serial(),
            root: map.root(),
            wants_barriers: AtomicBool::new(false),
            inner: RwLock::new(Rank::Space, Inner { map, heap }),
        });
        trace::emit(Event::SpaceNew {
            space: space.serial,
            root: space.root.frame().number(),
            asid: space.root.asid(),
        });
        space
    }

    /// Makes it the active one of this CPU. The value of TTBR0: its ASID and root table.
    #[inline]
    pub fn activate(&self) -> u64 {
        if let Some(new) = arch::mmu::memory().activate(self.root, arch::cpu::id()) {
            self.has_asid(new);
        }
        let ttbr0 = self.root.ttbr0();
        arch::mmu::activate(ttbr0);
        ttbr0
    }

    #[cold]
    #[inline(never)]
    fn has_asid(&self, new: Assigned) {
        trace::emit(Event::AsidNew {
            space: self.serial,
            asid: new.asid,
            generation: new.generation,
        });
    }

    /// Serial number, frame of the root table, and ASID.
    pub fn identity(&self) -> (u32, u64, u16) {
        (self.serial, self.root.frame().number(), self.root.asid())
    }

    /// Locks it.
    #[cfg_attr(feature = "checks", track_caller)]
    #[inline]
    pub fn lock(&self) -> WriteGuard<'_, Inner> {
        self.inner.write()
    }

    /// Makes a mapping, in place of what is mapped there.
    pub fn map(&self, mapping: Mapping) -> Result<(), Errno> {
        self.map_locked(&mut self.lock(), mapping)
    }

    /// `map`, of who has the lock.
    #[inline(always)]
    pub fn map_locked(&self, inner: &mut Inner, mapping: Mapping) -> Result<(), Errno> {
        let (start, end) = (mapping.start, mapping.end);
        let told = trace::enabled(trace::MAP)
            .then(|| (self.describe(&mapping), inner.overlaps(start, end)));
        let done = inner.map.map(arch::mmu::memory(), mapping).map_err(errno)?;
        if let Some((event, replaces)) = told {
            if replaces {
                self.tell_unmapped(start, end, done);
            }
            trace::emit(Event::Map(event));
        }
        Ok(())
    }

    /// Removes all mappings in a range.
    pub fn unmap(&self, start: u64, end: u64) -> Result<(), Errno> {
        self.unmap_locked(&mut self.lock(), start, end)
    }

    fn unmap_locked(&self, inner: &mut Inner, start: u64, end: u64) -> Result<(), Errno> {
        let done = inner.map.unmap(arch::mmu::memory(), start, end);
        self.tell_unmapped(start, end, done.map_err(errno)?);
        Ok(())
    }

    fn tell_unmapped(&self, start: u64, end: u64, done: Dropped) {
        trace::emit(Event::Unmap {
            space: self.serial,
            start,
            end,
            dropped: done.dropped,
            freed: done.freed,
        });
    }

    /// Drops the pages of a range of a file, of this address space's own copies only if `copies`.
    fn drop_pages_of(
        &self,
        cache: &Arc<PageCache>,
        from: u64,
        to: u64,
        copies: bool,
    ) -> Result<(), Errno> {
        let mut inner = self.lock();
        let mut at = 0;
        while let Some((start, end)) = inner.next_of(cache, from, to, at) {
            let end = match copies {
                true => end,
                false => inner.until_copy(start, end),
            };
            // Past the copy, if there is one.
            at = end.max(start + PAGE_SIZE);
            if start == end {
                continue;
            }
            let done = inner.map.discard(arch::mmu::memory(), start, end);
            let done = done.map_err(errno)?;
            trace::emit(Event::Discard {
                space: self.serial,
                start,
                end,
                dropped: done.dropped.dropped,
                freed: done.dropped.freed,
            });
        }
        Ok(())
    }

    /// Moves the break; where it is now. As on Linux it stays where it is if it cannot be moved.
    pub fn set_break(&self, wanted: u64) -> u64 {
        let mut inner = self.lock();
        let (start, end) = inner.heap;
        if wanted < start || wanted > USER_END {
            return end;
        }
        let (old, new) = (
            end.next_multiple_of(PAGE_SIZE),
            wanted.next_multiple_of(PAGE_SIZE),
        );
        let done = if new > old {
            // A page stays free above it, as does the room that a stack above it has for growth.
            let free = inner.map.find_free(new - old, old) == Some(old);
            if !free || inner.overlaps(old, new + PAGE_SIZE) {
                return end;
            }
            let grown = Mapping {
                start: old,
                end: new,
                prot: Prot::READ.union(Prot::WRITE),
                shared: false,
                may_write: true,
                backing: Backing::Anonymous,
                region: Region::Heap,
                charged: false,
            };
            self.map_locked(&mut inner, grown)
        } else if new < old {
            self.unmap_locked(&mut inner, new, old)
        } else {
            Ok(())
        };
        if done.is_err() {
            return end;
        }
        inner.heap.1 = wanted;
        wanted
    }

    /// Changes the protection of a range, up to its first hole (ENOMEM), or the first mapping that must
    /// not become writable (EACCES).
    pub fn protect(&self, start: u64, end: u64, prot: Prot) -> Result<(), Errno> {
        let mut inner = self.lock();
        let done = inner
            .map
            .protect(arch::mmu::memory(), start, end, prot)
            .map_err(errno)?;
        trace::emit(Event::Protect {
            space: self.serial,
            start,
            end: done.end,
            prot: prot.bits(),
            tightened: done.tightened,
        });
        match done.end == end {
            true => Ok(()),
            false if done.denied => Err(Errno::EACCES),
            false => Err(Errno::ENOMEM),
        }
    }

    /// Drops the pages of a range, and keeps the mappings; whether all of it was mapped.
    pub fn discard(&self, start: u64, end: u64) -> Result<bool, Errno> {
        let mut inner = self.lock();
        let done = inner.map.discard(arch::mmu::memory(), start, end);
        let done = done.map_err(errno)?;
        trace::emit(Event::Discard {
            space: self.serial,
            start,
            end,
            dropped: done.dropped.dropped,
            freed: done.dropped.freed,
        });
        Ok(done.whole)
    }

    /// Changes the length of a mapping, or its place; where it is now.
    pub fn remap(&self, to: Remap) -> Result<u64, Errno> {
        let mut inner = self.lock();
        let done = match inner.map.remap(arch::mmu::memory(), to) {
            Ok(done) => done,
            Err(MapError::NotMapped) => return Err(Errno::EFAULT),
            Err(error) => return Err(errno(error)),
        };
        let Remap {
            start,
            len,
            new_len,
            ..
        } = to;
        // In the order in which it was done.
        if let Some(dropped) = done.replaced {
            self.tell_unmapped(done.start, done.start + new_len, dropped);
        }
        if let Some(dropped) = done.cut {
            self.tell_unmapped(start + new_len, start + len, dropped);
        }
        if done.moved > 0 {
            trace::emit(Event::Move {
                space: self.serial,
                start,
                end: start + done.moved,
                to: done.start,
            });
        }
        if new_len > len {
            self.tell_mapped(&inner, done.start + len, done.start + new_len);
        }
        if to.keep {
            self.tell_mapped(&inner, start, start + len);
        }
        Ok(done.start)
    }

    /// Puts a part of a mapping on record.
    fn tell_mapped(&self, inner: &Inner, start: u64, end: u64) {
        let mut mappings = inner.map.mappings().iter();
        if let Some(mapping) = mappings.find(|m| (m.start..m.end).contains(&start)) {
            let whole = self.describe(mapping);
            let backing = match whole.backing {
                event::Backing::File { file, offset } => event::Backing::File {
                    file,
                    offset: offset + (start - mapping.start),
                },
                other => other,
            };
            trace::emit(Event::Map(event::Map {
                start,
                end,
                backing,
                ..whole
            }));
        }
    }

    /// Resolves a fault. Who holds the lock may put it on record before another thread's can be
    /// resolved: what the trace tells of a page is in the order in which it was done.
    #[inline(always)]
    pub fn fault(&self, inner: &mut Inner, request: Request) -> Handled {
        let handled = inner.map.fault(arch::mmu::memory(), request);
        if let Some((start, end)) = handled.grown {
            self.tell_grown(start, end);
        }
        handled
    }

    /// `fault`, of what is not common; the outcome.
    #[inline(never)]
    pub fn fault_rarely(&self, inner: &mut Inner, request: Request, rare: Rare) -> Outcome {
        let memory = arch::mmu::memory();
        let handled = inner.map.fault_rarely(memory, request, rare);
        if let Some((start, end)) = handled.grown {
            self.tell_grown(start, end);
        }
        handled.outcome
    }

    /// `fault`, at the same time as those of other threads, where that may be: `tell` comes before
    /// what else changes in the page's table.
    pub fn fault_beside(&self, request: Request, tell: impl FnOnce(&Handled)) -> Option<Handled> {
        let inner = self.inner.read();
        inner.map.fault_beside(arch::mmu::memory(), request, tell)
    }

    #[cold]
    fn tell_grown(&self, start: u64, end: u64) {
        trace::emit(Event::Map(event::Map {
            space: self.serial,
            start,
            end,
            prot: Prot::READ.union(Prot::WRITE).bits(),
            shared: false,
            backing: event::Backing::Anonymous,
            region: event::Region::Stack,
        }));
    }

    /// A copy for a forked child. `tell` puts it on record, as with [`Space::fault`].
    pub fn fork(
        &self,
        mode: ForkMode,
        tell: impl FnOnce(&Space, ForkCounts),
    ) -> Result<Arc<Space>, Errno> {
        let mode = match mode {
            ForkMode::Eager => memory::ForkMode::Eager,
            ForkMode::SharedTables => memory::ForkMode::SharedTables,
            ForkMode::Classic | ForkMode::Vfork => memory::ForkMode::Classic,
        };
        let place = Place::new().ok_or(Errno::ENOMEM)?;
        let mut inner = self.lock();
        let heap = inner.heap;
        let (map, counts) = inner
            .map
            .fork(arch::mmu::memory(), mode)
            .map_err(space_errno)?;
        let space = Space::begin(place, map, heap);
        let wants_barriers = self.wants_barriers.load(Ordering::Relaxed);
        space
            .wants_barriers
            .store(wants_barriers, Ordering::Relaxed);
        tell(&space, counts);
        drop(inner);
        Ok(space)
    }

    /// Reports what it maps, for the tools to compare.
    pub fn report_resident(&self) {
        if trace::enabled(trace::RESIDENT) {
            let inner = self.lock();
            let resident = inner.map.resident();
            trace::emit(Event::Resident {
                space: self.serial,
                anon: resident.anon,
                file: resident.file,
                zero: resident.zero,
            });
        }
    }

    /// Gives one reference up; with the last one, the address space ends. No CPU may use it any
    /// more as its active one on behalf of that reference.
    pub fn release(space: Arc<Space>) {
        let Some(space) = Arc::into_inner(space) else {
            return;
        };
        let start = arch::time::cycles();
        let asid = space.root.asid();
        let ended = space.inner.into_inner().map.destroy(arch::mmu::memory());
        trace::emit(Event::SpaceEnd {
            space: space.serial,
            asid,
            dropped: ended.dropped,
            freed: ended.freed,
            tables: ended.tables,
            cost: arch::time::cycles().wrapping_sub(start) as u32,
        });
    }

    fn describe(&self, mapping: &Mapping) -> event::Map {
        event::Map {
            space: self.serial,
            start: mapping.start,
            end: mapping.end,
            prot: mapping.prot.bits(),
            shared: mapping.shared,
            backing: match &mapping.backing {
                Backing::Anonymous => event::Backing::Anonymous,
                Backing::File { cache, offset } => event::Backing::File {
                    file: cache.id(),
                    offset: *offset,
                },
            },
            region: match mapping.region {
                Region::Program => event::Region::Program,
                Region::Heap => event::Region::Heap,
                Region::Stack => event::Region::Stack,
                Region::Mmap => event::Region::Mmap,
                Region::Vdso => event::Region::Vdso,
            },
        }
    }
}

/// Drops the pages of a range of a file from all address spaces, since the file has them no more.
/// Copies that a private mapping has made of them go too if `copies`. On an error some may be left: the
/// pages as they were.
pub fn drop_file_pages(
    cache: &Arc<PageCache>,
    from: u64,
    to: u64,
    copies: bool,
) -> Result<(), Errno> {
    let mut result = Ok(());
    let mut pid = 0;
    while let Some(process) = table::next(pid) {
        pid = process.pid;
        let space = process.state.lock().memory.upgrade();
        if let Some(space) = space {
            result = result.and(space.drop_pages_of(cache, from, to, copies));
            Space::release(space);
        }
    }
    result
}

impl Inner {
    /// Whether a whole range is mapped.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        self.map.mapped_until(start, end) == end
    }

    /// A byte for each page from `at` on, up to the end of its mapping: 1 if it is there, or in its
    /// file's cache. How many; 0 if nothing is mapped there.
    pub fn in_core(&self, at: u64, end: u64, to: &mut [u8]) -> usize {
        let Some(mapping) = self.map.mappings_in(at, at + PAGE_SIZE).next() else {
            return 0;
        };
        let cached = |va| match &mapping.backing {
            Backing::Anonymous => false,
            Backing::File { cache, offset } => {
                let offset = offset + (va - mapping.start);
                cache.seek(offset, true) == Some(offset)
            }
        };
        let pages = (at..end.min(mapping.end)).step_by(PAGE_SIZE as usize);
        let mut count = 0;
        for (byte, va) in to.iter_mut().zip(pages) {
            *byte = (self.map.leaf(arch::mmu::memory(), va) != 0 || cached(va)).into();
            count += 1;
        }
        count
    }

    /// The first page of a range that is a private copy; the range's end if there is none.
    fn until_copy(&self, start: u64, end: u64) -> u64 {
        let is_copy = |&va: &u64| {
            let leaf = Leaf::from_bits(self.map.leaf(arch::mmu::memory(), va));
            leaf.is_some_and(|leaf| leaf.content() == Content::Anon)
        };
        let mut pages = (start..end).step_by(PAGE_SIZE as usize);
        pages.find(is_copy).unwrap_or(end)
    }

    /// Where a range of a file is mapped: the first place that ends above address `at`.
    fn next_of(&self, cache: &Arc<PageCache>, from: u64, to: u64, at: u64) -> Option<(u64, u64)> {
        let mappings = self.map.mappings();
        let first = mappings.partition_point(|mapping| mapping.end <= at);
        mappings[first..].iter().find_map(|mapping| {
            let Backing::File {
                cache: theirs,
                offset,
            } = &mapping.backing
            else {
                return None;
            };
            let end = (offset + mapping.len()).min(to);
            let start = (*offset).max(from);
            if !Arc::ptr_eq(theirs, cache) || start >= end {
                return None;
            }
            let place = |at| mapping.start + (at - offset);
            (place(end) > at).then(|| (place(start).max(at), place(end)))
        })
    }

    /// Whether anything is mapped in a range.
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        self.map.mappings_in(start, end).next().is_some()
    }
}

/// The error code of a refused mapping.
#[cold]
#[inline(never)]
fn errno(error: MapError) -> Errno {
    match error {
        MapError::Refused(refusal) => refused(refusal),
        MapError::OutOfMemory | MapError::NotMapped | MapError::NoRoom => Errno::ENOMEM,
        MapError::Invalid => Errno::EINVAL,
        MapError::Denied => Errno::EACCES,
    }
}

/// Takes down what the current thread was refused: its system call may be tried again, or tells it.
#[cold]
fn refused(refusal: Refusal) -> Errno {
    if let Some(thread) = try_current() {
        thread.note_refusal(refusal);
    }
    Errno::ENOMEM
}

#[cold]
#[inline(never)]
fn space_errno(error: SpaceError) -> Errno {
    match error {
        SpaceError::Refused(refusal) => refused(refusal),
        SpaceError::OutOfMemory => no_frame(),
        SpaceError::TooManyReferences => Errno::ENOMEM,
    }
}

/// The error code of a system call for which the kernel has no frame of its own.
#[cold]
#[inline(never)]
pub fn no_frame() -> Errno {
    let left = arch::mmu::memory().frames.available();
    refused(Refusal { pages: 0, left })
}
