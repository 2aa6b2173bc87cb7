//! What an address space is meant to hold: the mappings. They are the authority; descriptors are
//! a cache of them, filled by faults.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::OutOfMemory;
use crate::cache::PageCache;
use crate::frame::PAGE_SIZE;
use crate::tables::L3_SPAN;

/// One past the last user address: 39 bits.
pub const USER_END: u64 = 1 << 39;

/// Permissions of a mapping, by PROT_READ, PROT_WRITE and PROT_EXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prot(u8);

impl Prot {
    /// PROT_NONE.
    pub const NONE: Prot = Prot(0);
    /// PROT_READ.
    pub const READ: Prot = Prot(1);
    /// PROT_WRITE.
    pub const WRITE: Prot = Prot(2);
    /// PROT_EXEC.
    pub const EXEC: Prot = Prot(4);

    /// The permissions of the bits of `mmap`'s argument; other bits are ignored.
    #[inline]
    pub const fn from_bits(bits: u8) -> Prot {
        Prot(bits & 7)
    }

    /// As `mmap`'s argument.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// All of `other`'s.
    #[inline]
    pub const fn contains(self, other: Prot) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`'s.
    #[inline]
    pub const fn union(self, other: Prot) -> Prot {
        Prot(self.0 | other.0)
    }

    /// The access is allowed. As on Linux, every permission but PROT_NONE implies reading: the
    /// hardware cannot write without it, and before FEAT_PAN3 execute-only memory is a trap for
    /// the kernel.
    #[inline]
    pub const fn allows(self, access: Access) -> bool {
        self.0 & access as u8 != 0
    }
}

/// What an access wants to do: by the permissions of which it needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Access {
    /// A load.
    Read = Prot::READ.union(Prot::WRITE).union(Prot::EXEC).bits(),
    /// A store (`WnR && !CM`).
    Write = Prot::WRITE.bits(),
    /// An instruction fetch.
    Exec = Prot::EXEC.bits(),
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Region {
    /// A segment of the program.
    Program,
    /// The break.
    Heap,
    /// The stack, which grows down.
    Stack,
    /// `mmap`.
    Mmap,
    /// The kernel's signal trampoline.
    Vdso,
}

/// Where a mapping's pages come from.
#[derive(Clone, Debug)]
pub enum Backing {
    /// Zero-filled memory.
    Anonymous,
    /// A file's page cache.
    File {
        /// The pages.
        cache: Arc<PageCache>,
        /// Offset in bytes of the mapping's first byte; a multiple of the page size.
        offset: u64,
    },
}

impl Backing {
    /// The backing of the part that starts `distance` bytes further.
    pub(crate) fn advanced(&self, distance: u64) -> Backing {
        match self {
            Backing::Anonymous => Backing::Anonymous,
            Backing::File { cache, offset } => Backing::File {
                cache: cache.clone(),
                offset: offset + distance,
            },
        }
    }

    fn continued_by(&self, length: u64, next: &Backing) -> bool {
        match (self, next) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (
                Backing::File {
                    cache: a,
                    offset: from,
                },
                Backing::File {
                    cache: b,
                    offset: to,
                },
            ) => Arc::ptr_eq(a, b) && from + length == *to,
            _ => false,
        }
    }
}

/// A range of an address space and what it holds.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First byte; a multiple of the page size.
    pub start: u64,
    /// One past the last byte; a multiple of the page size.
    pub end: u64,
    /// What the program may do.
    pub prot: Prot,
    /// MAP_SHARED: fork shares it, writes are never copied.
    pub shared: bool,
    /// `protect` may make it writable (VM_MAYWRITE): all but shared files that were opened to read.
    pub may_write: bool,
    /// Where its pages come from.
    pub backing: Backing,
    /// What it is for.
    pub region: Region,
    /// It is, or was, writable, and charged for that: see [`commit`](crate::commit). Address spaces
    /// set it, whatever it is in a mapping that is handed to them.
    pub charged: bool,
}

impl Mapping {
    /// Bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether an address lies in it.
    #[inline]
    pub(crate) fn holds(&self, addr: u64) -> bool {
        addr.wrapping_sub(self.start) < self.len()
    }

    /// Never true of a mapping in an address space.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    fn joins(&self, next: &Mapping) -> bool {
        self.end == next.start
            && self.prot == next.prot
            && self.shared == next.shared
            && self.may_write == next.may_write
            && self.charged == next.charged
            && self.region == next.region
            && self.backing.continued_by(self.len(), &next.backing)
    }
}

/// Mappings per address space, as Linux's default: a bound on what one process can make the kernel keep.
const MAPPINGS_MAX: usize = 65_530;

/// The lowest address that can be mapped: null pointers with small offsets fault.
pub const MAP_MIN: u64 = 0x1_0000;

/// One past the last address that `find_free` gives out: programs compute ends of memory.
const TOP: u64 = USER_END - PAGE_SIZE;

/// The mappings of an address space, sorted, disjoint, and merged where they join.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    list: Vec<Mapping>,
    /// Where the last search ended: faults come in runs, and system calls look for the same place
    /// again and again. A hint, whoever has left it.
    hit: AtomicUsize,
}

impl Mappings {
    pub fn as_slice(&self) -> &[Mapping] {
        &self.list
    }

    #[inline]
    pub fn get(&self, index: usize) -> &Mapping {
        &self.list[index]
    }

    /// The mapping that holds an address.
    #[inline]
    pub fn find(&self, addr: u64) -> Option<&Mapping> {
        match self.list.get(self.hit.load(Ordering::Relaxed)) {
            Some(mapping) if mapping.holds(addr) => Some(mapping),
            _ => self.search(addr),
        }
    }

    #[cold]
    fn search(&self, addr: u64) -> Option<&Mapping> {
        let mapping = self.list.get(self.after(addr));
        mapping.filter(|mapping| mapping.holds(addr))
    }

    /// The first mapping that ends above an address.
    #[inline]
    pub fn after(&self, addr: u64) -> usize {
        let hit = self.hit.load(Ordering::Relaxed);
        let above = self.list.get(hit).is_some_and(|mapping| mapping.end > addr);
        if above && (hit == 0 || self.list[hit - 1].end <= addr) {
            return hit;
        }
        self.search_after(addr)
    }

    #[inline(never)]
    fn search_after(&self, addr: u64) -> usize {
        let index = self.list.partition_point(|mapping| mapping.end <= addr);
        self.hit.store(index, Ordering::Relaxed);
        index
    }

    /// Room for `more` mappings: what follows cannot fail.
    pub fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        refuse!(Err(OutOfMemory));
        if self.list.len() + more > MAPPINGS_MAX {
            return Err(OutOfMemory);
        }
        self.list.try_reserve(more).map_err(|_| OutOfMemory)
    }

    pub fn try_clone(&self) -> Result<Mappings, OutOfMemory> {
        refuse!(Err(OutOfMemory));
        let mut list = Vec::new();
        list.try_reserve_exact(self.list.len())
            .map_err(|_| OutOfMemory)?;
        list.extend(self.list.iter().cloned());
        Ok(Mappings {
            list,
            hit: AtomicUsize::new(self.hit.load(Ordering::Relaxed)),
        })
    }

    /// Inserts a mapping where nothing is mapped, and merges it with its neighbours. Room for one must be reserved.
    #[inline(always)]
    pub fn insert(&mut self, mapping: Mapping) {
        let index = self.after(mapping.start);
        if index > 0 && self.list[index - 1].joins(&mapping) {
            self.list[index - 1].end = mapping.end;
            self.join(index);
            return;
        }
        debug_assert!(
            self.list.len() < self.list.capacity(),
            "room was not reserved"
        );
        self.list.insert(index, mapping);
        self.join(index + 1);
    }

    /// Merges a mapping into the one before it, if they join.
    fn join(&mut self, index: usize) {
        if index == 0 || index >= self.list.len() || !self.list[index - 1].joins(&self.list[index])
        {
            return;
        }
        self.list[index - 1].end = self.list[index].end;
        self.list.remove(index);
    }

    /// Makes an address within a mapping a boundary.
    #[inline(never)]
    fn split(&mut self, index: usize, addr: u64) {
        debug_assert!(
            self.list.len() < self.list.capacity(),
            "room was not reserved"
        );
        let mapping = &mut self.list[index];
        let mut rest = mapping.clone();
        rest.backing = mapping.backing.advanced(addr - mapping.start);
        rest.start = addr;
        mapping.end = addr;
        self.list.insert(index + 1, rest);
    }

    /// Makes both ends of a range boundaries: which mappings lie in it. Room for two must be reserved.
    fn cut(&mut self, start: u64, end: u64) -> Range<usize> {
        let mut from = self.after(start);
        if self
            .list
            .get(from)
            .is_some_and(|mapping| mapping.start < start)
        {
            self.split(from, start);
            from += 1;
        }
        let mut to = from;
        while let Some(mapping) = self.list.get(to)
            && mapping.start < end
        {
            if mapping.end > end {
                self.split(to, end);
            }
            to += 1;
        }
        from..to
    }

    /// Removes a range. Room for two must be reserved. Each removed piece is handed to `removed`.
    pub fn remove(&mut self, start: u64, end: u64, removed: impl FnMut(Mapping)) {
        let range = self.cut(start, end);
        self.list.drain(range).for_each(removed);
    }

    /// True if anything is mapped in a range, which may be empty.
    pub fn any_in(&self, start: u64, end: u64) -> bool {
        let next = self.list.get(self.after(start));
        next.is_some_and(|mapping| mapping.start.max(start) < end)
    }

    /// Pages that are mapped in a range.
    pub fn pages_in(&self, start: u64, end: u64) -> u64 {
        let mappings = self.list[self.after(start)..].iter();
        let inside = mappings.take_while(|mapping| mapping.start < end);
        inside
            .map(|mapping| (mapping.end.min(end) - mapping.start.max(start)) / PAGE_SIZE)
            .sum()
    }

    /// True if a write somewhere in a range would change private memory.
    pub fn private_writable_in(&self, start: u64, end: u64) -> bool {
        let mappings = self.list[self.after(start)..].iter();
        mappings
            .take_while(|mapping| mapping.start < end)
            .any(|mapping| mapping.prot.contains(Prot::WRITE) && !mapping.shared)
    }

    /// Removes all.
    pub fn clear(&mut self, removed: impl FnMut(Mapping)) {
        self.list.drain(..).for_each(removed);
    }

    /// The first address of a range that is not mapped, or by what is not `fit`; its end, if all is.
    pub fn mapped_until(&self, start: u64, end: u64, fit: impl Fn(&Mapping) -> bool) -> u64 {
        let mut at = start;
        for mapping in &self.list[self.after(start)..] {
            if mapping.start > at || at >= end || !fit(mapping) {
                break;
            }
            at = mapping.end;
        }
        at.min(end)
    }

    /// Sets the permissions of a mapped range. Room for two must be reserved.
    pub fn protect(&mut self, start: u64, end: u64, prot: Prot) {
        let range = self.cut(start, end);
        for mapping in &mut self.list[range.clone()] {
            mapping.prot = prot;
            mapping.charged |= prot.contains(Prot::WRITE);
        }
        for index in (range.start..=range.end).rev() {
            self.join(index);
        }
    }

    /// Moves a mapping's end up, over nothing.
    pub fn set_end(&mut self, index: usize, end: u64) {
        self.list[index].end = end;
        self.join(index + 1);
    }

    /// Moves a mapping's start down, over nothing.
    pub fn set_start(&mut self, index: usize, start: u64) {
        debug_assert!(index == 0 || self.list[index - 1].end <= start);
        self.list[index].start = start;
    }

    /// The hole around an unmapped range: the end of the mapping below, the start of the one above.
    pub fn hole(&self, start: u64) -> (u64, u64) {
        let index = self.after(start);
        let low = if index == 0 {
            0
        } else {
            self.list[index - 1].end
        };
        let high = self
            .list
            .get(index)
            .map_or(USER_END, |mapping| mapping.start);
        (low, high)
    }

    /// A hole of `len` bytes: at `hint` if that is free, else as high as possible below the stack,
    /// of which `reserve` bytes from its end stay free for it to grow, or above it. What is smaller
    /// than a table's 2 MiB goes below the stack first, where it shares tables with others.
    pub fn find_free(&self, len: u64, hint: u64, reserve: u64) -> Option<u64> {
        if len == 0 || len > USER_END || !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let hint = hint & !(PAGE_SIZE - 1);
        if hint >= MAP_MIN && hint <= USER_END - len {
            let (_, high) = self.hole(hint);
            let taken = self
                .list
                .get(self.after(hint))
                .is_some_and(|mapping| mapping.start <= hint);
            let stack = self.list.get(self.after(hint)).is_some_and(|mapping| {
                mapping.region == Region::Stack && hint + len > mapping.end.saturating_sub(reserve)
            });
            if !taken && !stack && hint + len <= high {
                return Some(hint);
            }
        }
        let all = self.list.len();
        let stack = self.list.iter().rposition(|m| m.region == Region::Stack);
        let (below, above) = stack.map_or((TOP, TOP), |stack| {
            let stack = &self.list[stack];
            let room = stack.end.saturating_sub(reserve);
            (stack.start.min(room), stack.end)
        });
        let below = || self.highest(len, MAP_MIN, below, stack.unwrap_or(all));
        let above = || self.highest(len, above, TOP, all);
        if len < L3_SPAN {
            below().or_else(above)
        } else {
            above().or_else(below)
        }
    }

    /// The highest hole of `len` bytes in a range, in which only the first `count` mappings may lie.
    #[inline]
    fn highest(&self, len: u64, low: u64, high: u64, count: usize) -> Option<u64> {
        let mut top = high;
        for (index, mapping) in self.list[..count].iter().enumerate().rev() {
            if mapping.end <= low {
                break;
            }
            if mapping.end <= top && top - mapping.end >= len {
                // What is looked for next.
                self.hit.store(index + 1, Ordering::Relaxed);
                return Some(top - len);
            }
            top = top.min(mapping.start);
        }
        (top >= low && top - low >= len).then(|| top - len)
    }
}
