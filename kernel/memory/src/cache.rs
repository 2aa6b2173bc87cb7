//! The pages of a file, or of anonymous shared memory: one frame per page, shared by all who map it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::any::Any;
use core::fmt;
use core::sync::atomic::Ordering;

use spin::Once;

use crate::frame::{Frame, Kind, PAGE_BYTES, PAGE_SIZE};
use crate::lock::{Lock, Rank};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::sync::AtomicU64;
use crate::{MapError, OutOfMemory};

/// Where the pages of a file come from.
pub trait Source: Send + Sync {
    /// Fills the page at `offset` (a multiple of the page size). It arrives zeroed: what lies past
    /// the end of the file needs no care.
    fn fill(&self, offset: u64, page: &mut [u8; PAGE_BYTES]);

    /// The bytes from `offset` on, if they are in memory as they are: whoever only reads a file
    /// needs no frame for them then. As many as there are.
    fn lend(&self, offset: u64) -> Option<&[u8]> {
        let _ = offset;
        None
    }
}

/// How many frames the files of a file system may hold.
#[derive(Debug)]
pub struct Quota {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Quota {
    /// Nothing used of `limit` frames.
    pub const fn new(limit: u64) -> Quota {
        Quota {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
        }
    }

    /// Another limit, frames.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Frames in use, and how many may be.
    pub fn state(&self) -> (u64, u64) {
        let used = self.used.load(Ordering::Relaxed);
        (used, self.limit.load(Ordering::Relaxed))
    }

    fn charge(&self) -> Result<(), NoPage> {
        let limit = self.limit.load(Ordering::Relaxed);
        if self.used.fetch_add(1, Ordering::Relaxed) >= limit {
            self.refund();
            return Err(NoPage::Full);
        }
        Ok(())
    }

    fn refund(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a file has no frame for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// No frame or heap (ENOMEM).
    OutOfMemory,
    /// The file system may not hold more (ENOSPC).
    Full,
}

impl From<OutOfMemory> for NoPage {
    fn from(_: OutOfMemory) -> Self {
        NoPage::OutOfMemory
    }
}

/// Pages per second-level array: sparse files stay small, and no array is long.
const CHUNK: usize = 512;

/// No frame yet: the page is the source's, or zeros.
const EMPTY: u64 = 0;
/// No frame, and zeros whatever the source has: a hole was punched.
const HOLE: u64 = u64::MAX;
/// Added to the entry of a frame that nobody has used yet: it counts as a hole.
const UNUSED: u64 = 1 << 62;

/// What is known of [`CHUNK`] pages in a row.
struct Chunk {
    /// Index of its first page, divided by [`CHUNK`].
    index: u64,
    /// Frame number plus one by page index; or [`EMPTY`], or [`HOLE`].
    entries: Vec<u64>,
}

/// The chunks that anything is known of, in ascending order.
#[derive(Default)]
struct Pages {
    chunks: Vec<Chunk>,
    /// Frames held.
    frames: u64,
}

impl Pages {
    /// Where the chunk is, or belongs. Files without holes have it at its own index.
    fn position(&self, index: u64) -> Result<usize, usize> {
        match self.chunks.get(index as usize) {
            Some(chunk) if chunk.index == index => Ok(index as usize),
            _ => self
                .chunks
                .binary_search_by_key(&index, |chunk| chunk.index),
        }
    }

    fn get(&self, page: u64) -> u64 {
        match self.position(page / CHUNK as u64) {
            Ok(at) => self.chunks[at].entries[page as usize % CHUNK],
            Err(_) => EMPTY,
        }
    }

    fn entry(&mut self, page: u64) -> Result<&mut u64, OutOfMemory> {
        let index = page / CHUNK as u64;
        let at = match self.position(index) {
            Ok(at) => at,
            Err(at) => {
                refuse!(Err(OutOfMemory));
                let mut entries = Vec::new();
                entries.try_reserve_exact(CHUNK).map_err(|_| OutOfMemory)?;
                entries.resize(CHUNK, EMPTY);
                self.chunks.try_reserve(1).map_err(|_| OutOfMemory)?;
                self.chunks.insert(at, Chunk { index, entries });
                at
            }
        };
        Ok(&mut self.chunks[at].entries[page as usize % CHUNK])
    }

    /// The first page from `from` on, below `end`, that has a frame (and is in use, if `used`).
    fn next_frame(&self, from: u64, end: u64, used: bool) -> Option<u64> {
        let index = from / CHUNK as u64;
        let first = self.position(index).unwrap_or_else(|at| at);
        for chunk in &self.chunks[first..] {
            let base = chunk.index * CHUNK as u64;
            if base >= end {
                return None;
            }
            let skip = from.saturating_sub(base) as usize;
            let wanted = |&entry: &u64| frame(entry).is_some() && !(used && entry & UNUSED != 0);
            let found = chunk.entries[skip..].iter().position(wanted);
            if let Some(at) = found {
                let page = base + (skip + at) as u64;
                return (page < end).then_some(page);
            }
        }
        None
    }
}

fn frame(entry: u64) -> Option<Frame> {
    (entry != EMPTY && entry != HOLE).then(|| Frame::new((entry & !UNUSED) - 1))
}

/// A frame of the cache with a reference of the caller's, who must give it to a descriptor or back.
#[must_use = "the reference must be given to a descriptor or back"]
#[derive(Debug)]
pub(crate) struct Held(Frame);

impl Held {
    #[inline]
    pub(crate) fn frame(&self) -> Frame {
        self.0
    }

    /// Hands the reference over to the descriptor that is about to be written.
    #[inline]
    pub(crate) fn into_frame(self) -> Frame {
        self.0
    }

    pub(crate) fn let_go<M: Mmu>(self, mem: &Memory<M>) {
        mem.drop_hold(self.0);
    }
}

/// The frames of a file's pages. It holds one reference to each, so that a frame in use by the
/// cache is never exclusive to a process.
///
/// The last owner must hand it to [`PageCache::release`], which an address space does for its
/// mappings: a cache cannot give frames back by itself when it is dropped.
pub struct PageCache {
    id: u32,
    len: AtomicU64,
    source: Option<Box<dyn Source>>,
    /// So many bytes of the source count still: a file that was cut off has zeros when it grows again.
    source_len: AtomicU64,
    quota: Option<&'static Quota>,
    label: Once<Arc<dyn Any + Send + Sync>>,
    pages: Lock<Pages>,
    /// Pages that are charged for it.
    charged: u64,
}

impl PageCache {
    /// The pages of a file of `len` bytes. `id` is for the trace.
    pub fn new(id: u32, len: u64, source: Box<dyn Source>) -> PageCache {
        let mut cache = PageCache::zeroed(id, len);
        cache.source = Some(source);
        cache.source_len = AtomicU64::new(len);
        cache
    }

    /// `len` bytes of zeros, to be shared: MAP_SHARED | MAP_ANONYMOUS, or a file in memory.
    pub fn zeroed(id: u32, len: u64) -> PageCache {
        PageCache {
            id,
            len: AtomicU64::new(len),
            source: None,
            source_len: AtomicU64::new(0),
            quota: None,
            label: Once::new(),
            charged: 0,
            pages: Lock::new(Rank::PageCache, Pages::default()),
        }
    }

    /// Its frames count.
    pub fn with_quota(mut self, quota: &'static Quota) -> PageCache {
        self.quota = Some(quota);
        self
    }

    /// Zeros to be shared whose frames are promised: once, however many address spaces map them.
    pub(crate) fn promised<M: Mmu>(mem: &Memory<M>, len: u64) -> Result<Arc<PageCache>, MapError> {
        let charged = len / PAGE_SIZE;
        mem.frames.charge(charged)?;
        let mut cache = PageCache::zeroed(0, len);
        cache.charged = charged;
        cache.try_arc(mem).map_err(|error| {
            mem.frames.commit.uncharge(charged, 0);
            error.into()
        })
    }

    /// Pages that are charged for it.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// `Arc::new`, but an exhausted heap is an error.
    fn try_arc<M: Mmu>(self, mem: &Memory<M>) -> Result<Arc<PageCache>, OutOfMemory> {
        /// What the `Arc` allocates.
        #[repr(C)]
        struct Counted([usize; 2], PageCache);
        refuse!(Err(OutOfMemory));
        // There is no fallible `Arc::new` in stable Rust.
        if mem.mmu.make_ready(Layout::new::<Counted>()) {
            Ok(Arc::new(self))
        } else {
            Err(OutOfMemory)
        }
    }

    /// The id given at creation.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What its owner calls it, for those who find it behind a mapping. The first label stays.
    pub fn label(&self) -> &Once<Arc<dyn Any + Send + Sync>> {
        &self.label
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pages that take memory: those with a frame, and those that the source still stands for.
    pub fn allocated(&self) -> u64 {
        let source = self.source_len.load(Ordering::Relaxed).div_ceil(PAGE_SIZE);
        let pages = self.pages.lock();
        if source == 0 {
            return pages.frames;
        }
        let mut count = source;
        for chunk in &pages.chunks {
            let base = chunk.index * CHUNK as u64;
            for (page, &entry) in (base..).zip(&chunk.entries) {
                if page < source {
                    count -= u64::from(entry == HOLE);
                } else {
                    count += u64::from(frame(entry).is_some());
                }
            }
        }
        count
    }

    /// Sets the length in bytes. The frames of what is cut off are given back, and it is zero if the
    /// file grows again. Mappings keep what they have of it, zeroed, until it is dropped there.
    pub fn set_len<M: Mmu>(&self, mem: &Memory<M>, len: u64) {
        // Before the length: nobody shall find what was cut off.
        let before = self.len.swap(len, Ordering::AcqRel);
        if len > before {
            return;
        }
        self.source_len.fetch_min(len, Ordering::Relaxed);
        let (page, from) = (len / PAGE_SIZE, (len % PAGE_SIZE) as usize);
        if from > 0
            && let Some(held) = self.held(mem, page)
        {
            mem.frames.meta(held.frame()).clear_icache_clean();
            mem.mmu
                .with_frame(held.frame(), &mut |bytes| bytes[from..].fill(0));
            held.let_go(mem);
        }
        self.trim(mem);
    }

    /// Nobody finds pages past `len` from now on, so that they can be dropped where they are mapped
    /// before [`PageCache::set_len`] gives them back: in this order no mapping's is the last reference.
    pub fn close_from(&self, len: u64) {
        self.len.fetch_min(len, Ordering::AcqRel);
    }

    /// Makes the file longer, if it is shorter.
    pub fn grow(&self, len: u64) {
        self.len.fetch_max(len, Ordering::AcqRel);
    }

    /// Gives back the frames of pages that lie wholly past the end.
    fn trim<M: Mmu>(&self, mem: &Memory<M>) {
        let first = self.len().div_ceil(PAGE_SIZE);
        let mut pages = self.pages.lock();
        let mut at = first;
        while let Some(page) = pages.next_frame(at, u64::MAX, false) {
            self.drop_frame(mem, &mut pages, page, EMPTY);
            at = page + 1;
        }
        pages
            .chunks
            .retain(|chunk| chunk.index * (CHUNK as u64) < first);
        if let Some(last) = pages.chunks.last_mut() {
            // Holes past the end are past the source's end as well.
            let keep = first - last.index * CHUNK as u64;
            if keep < CHUNK as u64 {
                last.entries[keep as usize..].fill(EMPTY);
            }
        }
    }

    /// Makes `from..to` (bytes) zeros, and gives back the frames of whole pages in it. On an error
    /// part of it may be done.
    pub fn punch<M: Mmu>(&self, mem: &Memory<M>, from: u64, to: u64) -> Result<(), NoPage> {
        let to = to.min(self.len().next_multiple_of(PAGE_SIZE));
        let mut at = from;
        while at < to {
            let (page, start) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let next = ((page + 1) * PAGE_SIZE).min(to);
            let whole = start == 0 && next == (page + 1) * PAGE_SIZE;
            let sourced = page * PAGE_SIZE < self.source_len.load(Ordering::Relaxed);
            let mut pages = self.pages.lock();
            let entry = pages.get(page);
            if whole {
                if frame(entry).is_some() {
                    self.drop_frame(mem, &mut pages, page, if sourced { HOLE } else { EMPTY });
                } else if sourced {
                    *pages.entry(page)? = HOLE;
                }
            } else if frame(entry).is_some() || (sourced && entry != HOLE) {
                drop(pages);
                let end = (next - page * PAGE_SIZE) as usize;
                self.with_page_mut(mem, page, &mut |bytes| bytes[start..end].fill(0))?;
            }
            at = next;
        }
        Ok(())
    }

    fn drop_frame<M: Mmu>(&self, mem: &Memory<M>, pages: &mut Pages, page: u64, then: u64) {
        let Ok(at) = pages.position(page / CHUNK as u64) else {
            return;
        };
        let entry = &mut pages.chunks[at].entries[page as usize % CHUNK];
        if let Some(frame) = frame(core::mem::replace(entry, then)) {
            pages.frames -= 1;
            if let Some(quota) = self.quota {
                quota.refund();
            }
            if mem.frames.refs(frame) > 1 {
                mem.frames.meta(frame).clear_icache_clean();
                mem.mmu.zero_frame(frame);
            }
            mem.drop_hold(frame);
        }
    }

    /// The next offset from `offset` on, below the end, that holds data (or, if not `data`, that
    /// holds none: the end of the file counts as one). As SEEK_DATA and SEEK_HOLE.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        let len = self.len();
        if offset >= len {
            return None;
        }
        let source = self.source_len.load(Ordering::Relaxed).div_ceil(PAGE_SIZE);
        let end = len.div_ceil(PAGE_SIZE);
        let pages = self.pages.lock();
        let mut page = offset / PAGE_SIZE;
        while page < end {
            let entry = pages.get(page);
            let used = frame(entry).is_some() && entry & UNUSED == 0;
            let holds = used || (entry == EMPTY && page < source);
            if holds == data {
                break;
            }
            page = if data && page >= source {
                // Large holes are skipped in one step.
                pages.next_frame(page, end, true).unwrap_or(end)
            } else {
                page + 1
            };
        }
        if page >= end {
            return (!data).then_some(len);
        }
        Some(offset.max(page * PAGE_SIZE))
    }

    /// Lends what a page holds, if it is not all zeros; what is missing at its end is.
    pub fn with_page<M: Mmu>(
        &self,
        mem: &Memory<M>,
        page: u64,
        f: &mut dyn FnMut(&[u8]),
    ) -> Result<(), NoPage> {
        let held = match self.pages.lock().get(page) {
            HOLE => None,
            EMPTY => {
                let offset = page.saturating_mul(PAGE_SIZE);
                let rest = self
                    .source_len
                    .load(Ordering::Relaxed)
                    .saturating_sub(offset);
                match &self.source {
                    Some(source) if rest > 0 => {
                        if let Some(bytes) = source.lend(offset) {
                            let len = bytes.len().min(PAGE_BYTES).min(rest as usize);
                            f(&bytes[..len]);
                            return Ok(());
                        }
                        Some(())
                    }
                    _ => None,
                }
            }
            _ => Some(()),
        };
        if held.is_none() {
            f(&[]);
            return Ok(());
        }
        let held = self.frame(mem, page)?;
        mem.mmu.with_frame(held.frame(), &mut |bytes| f(bytes));
        held.let_go(mem);
        Ok(())
    }

    /// Lends a page to be written.
    pub fn with_page_mut<M: Mmu>(
        &self,
        mem: &Memory<M>,
        page: u64,
        f: &mut dyn FnMut(&mut [u8; PAGE_BYTES]),
    ) -> Result<(), NoPage> {
        let held = self.frame(mem, page)?;
        mem.frames.meta(held.frame()).clear_icache_clean();
        mem.frames.meta(held.frame()).set_written();
        mem.mmu.with_frame(held.frame(), f);
        held.let_go(mem);
        Ok(())
    }

    /// Reads bytes of the file; fewer than asked for at its end.
    pub fn read<M: Mmu>(
        &self,
        mem: &Memory<M>,
        offset: u64,
        to: &mut [u8],
    ) -> Result<usize, OutOfMemory> {
        let count = self.len().saturating_sub(offset).min(to.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let from = (at % PAGE_SIZE) as usize;
            let n = (PAGE_BYTES - from).min(count - done);
            let to = &mut to[done..done + n];
            self.with_page(mem, at / PAGE_SIZE, &mut |bytes| {
                let bytes = bytes.get(from..).unwrap_or(&[]);
                let some = bytes.len().min(n);
                to[..some].copy_from_slice(&bytes[..some]);
                to[some..].fill(0);
            })
            .map_err(|_| OutOfMemory)?;
            done += n;
        }
        Ok(done)
    }

    /// Writes bytes of the file, and makes it longer if they end past its end. On an error what came before it is written.
    pub fn write<M: Mmu>(
        &self,
        mem: &Memory<M>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, OutOfMemory> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let from = (at % PAGE_SIZE) as usize;
            let n = (PAGE_BYTES - from).min(bytes.len() - done);
            let part = &bytes[done..done + n];
            let written = self.with_page_mut(mem, at / PAGE_SIZE, &mut |page| {
                page[from..from + n].copy_from_slice(part);
            });
            match written {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(_) => return Err(OutOfMemory),
            }
            done += n;
            self.grow(at + n as u64);
        }
        Ok(done)
    }

    /// The frame of a page that has one.
    fn held<M: Mmu>(&self, mem: &Memory<M>, page: u64) -> Option<Held> {
        let pages = self.pages.lock();
        let frame = frame(pages.get(page))?;
        mem.share(frame).ok()?;
        Some(Held(frame))
    }

    /// Gets a frame for a page, which stays a hole for `seek` until it is used.
    pub fn reserve<M: Mmu>(&self, mem: &Memory<M>, page: u64) -> Result<(), NoPage> {
        let mut pages = self.pages.lock();
        let sourced = page.saturating_mul(PAGE_SIZE) < self.source_len.load(Ordering::Relaxed);
        let entry = *pages.entry(page)?;
        if frame(entry).is_some() || (sourced && entry == EMPTY) {
            return Ok(());
        }
        self.frame_of(mem, &mut pages, page)?;
        *pages.entry(page)? |= UNUSED;
        Ok(())
    }

    /// The frame of a page, filled at the first use.
    pub(crate) fn frame<M: Mmu>(&self, mem: &Memory<M>, page: u64) -> Result<Held, NoPage> {
        let mut pages = self.pages.lock();
        let frame = self.frame_of(mem, &mut pages, page)?;
        mem.share(frame).map_err(|_| NoPage::OutOfMemory)?;
        Ok(Held(frame))
    }

    fn frame_of<M: Mmu>(
        &self,
        mem: &Memory<M>,
        pages: &mut Pages,
        page: u64,
    ) -> Result<Frame, NoPage> {
        let entry = pages.entry(page)?;
        if let Some(frame) = frame(*entry) {
            *entry &= !UNUSED;
            return Ok(frame);
        }
        let hole = *entry == HOLE;
        if let Some(quota) = self.quota {
            quota.charge()?;
        }
        // The frame's reference is the cache's own.
        let fresh = match self.charged {
            0 => mem.take(Kind::Cache),
            _ => mem.take_charged(Kind::Cache),
        };
        let Some(fresh) = fresh else {
            if let Some(quota) = self.quota {
                quota.refund();
            }
            return Err(NoPage::OutOfMemory);
        };
        let frame = fresh.into_frame();
        mem.mmu.zero_frame(frame);
        self.fill(mem, page, frame, hole);
        *entry = frame.number() + 1;
        pages.frames += 1;
        Ok(frame)
    }

    fn fill<M: Mmu>(&self, mem: &Memory<M>, page: u64, frame: Frame, hole: bool) {
        let offset = page.saturating_mul(PAGE_SIZE);
        let rest = self
            .source_len
            .load(Ordering::Relaxed)
            .saturating_sub(offset);
        if let Some(source) = &self.source
            && rest > 0
            && !hole
        {
            mem.mmu.with_frame(frame, &mut |bytes| {
                source.fill(offset, bytes);
                if rest < PAGE_SIZE {
                    bytes[rest as usize..].fill(0);
                }
            });
        }
    }

    /// Fills a process's own frame with a page, whether or not that has a frame here.
    pub(crate) fn copy_page<M: Mmu>(&self, mem: &Memory<M>, page: u64, to: Frame) {
        let mut pages = self.pages.lock();
        match self.frame_of(mem, &mut pages, page) {
            Ok(frame) => mem.mmu.copy_frame(frame, to),
            Err(_) => {
                mem.mmu.zero_frame(to);
                self.fill(mem, page, to, pages.get(page) == HOLE);
            }
        }
    }

    /// Gives back the frames that nobody but the cache holds and whose contents the source still
    /// has, to be filled again when they are next used: how many.
    pub fn reclaim<M: Mmu>(&self, mem: &Memory<M>) -> u64 {
        let sourced = self.source_len.load(Ordering::Relaxed).div_ceil(PAGE_SIZE);
        let mut pages = self.pages.lock();
        let (before, mut at) = (pages.frames, 0);
        while let Some(page) = pages.next_frame(at, sourced, false) {
            // Nobody else gets hold of it without the lock.
            let idle = frame(pages.get(page))
                .is_some_and(|frame| mem.frames.refs(frame) == 1 && !mem.frames.written(frame));
            if idle {
                self.drop_frame(mem, &mut pages, page, EMPTY);
            }
            at = page + 1;
        }
        // The lists of pages stay: made again, they would lie where a heap that is large now ends.
        before - pages.frames
    }

    /// Drops a reference to a cache; the last one gives the frames back (those that are still
    /// mapped go when they are unmapped).
    pub fn release<M: Mmu>(this: Arc<PageCache>, mem: &Memory<M>) {
        let Some(mut cache) = Arc::into_inner(this) else {
            return;
        };
        let pages = core::mem::take(cache.pages.get_mut());
        let mut kept = 0;
        for entry in pages.chunks.into_iter().flat_map(|chunk| chunk.entries) {
            let Some(frame) = frame(entry) else { continue };
            if let Some(quota) = cache.quota {
                quota.refund();
            }
            // What is still mapped is about to go, as nobody's charge.
            kept += u64::from(cache.charged > 0 && mem.frames.mark(frame, false));
            mem.drop_hold(frame);
        }
        if cache.charged > 0 {
            mem.frames.commit.uncharge(cache.charged, kept);
        }
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        // A test that fails has said so already.
        #[cfg(feature = "mutate")]
        if std::thread::panicking() {
            return;
        }
        debug_assert!(
            self.pages.get_mut().chunks.is_empty(),
            "a page cache was dropped, not released"
        );
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache")
            .field("id", &self.id)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
