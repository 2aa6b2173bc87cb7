//! Physical frames and their metadata: who uses a frame, how often, and which are free.

use core::ops::Range;
use core::sync::atomic::Ordering;

use crate::asid::Context;
use crate::change::Flushed;
use crate::commit::{Commit, Refusal};
use crate::free::{Batch, Free};
use crate::lock::{Order, Rank};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, spin_loop};

/// Bytes per page and frame.
pub const PAGE_SIZE: u64 = 4096;

/// [`PAGE_SIZE`] as a length of arrays.
pub const PAGE_BYTES: usize = PAGE_SIZE as usize;

/// A physical frame: its number, which is its physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(u32);

impl Frame {
    /// The frame of a number. Numbers have 32 bits: 16 TiB of physical addresses.
    #[inline]
    pub const fn new(number: u64) -> Frame {
        debug_assert!(number <= u32::MAX as u64);
        Frame(number as u32)
    }

    /// The frame that holds a physical address.
    #[inline]
    pub const fn containing(address: u64) -> Frame {
        Frame::new(address / PAGE_SIZE)
    }

    /// The frame's number.
    #[inline]
    pub const fn number(self) -> u64 {
        self.0 as u64
    }

    /// The physical address of the frame's first byte.
    #[inline]
    pub const fn addr(self) -> u64 {
        self.0 as u64 * PAGE_SIZE
    }
}

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Never given to the allocator, or never handed out by it.
    Unused = 0,
    /// Free.
    Free = 1,
    /// The kernel's own.
    Kernel = 2,
    /// Private memory of processes.
    Anon = 3,
    /// A page of a [`PageCache`](crate::PageCache), which itself holds one reference.
    Cache = 4,
    /// The zero page. Its references are not counted.
    Zero = 5,
    /// A translation table.
    Table = 6,
}

impl Kind {
    fn from_bits(bits: u8) -> Kind {
        match bits {
            1 => Kind::Free,
            2 => Kind::Kernel,
            3 => Kind::Anon,
            4 => Kind::Cache,
            5 => Kind::Zero,
            6 => Kind::Table,
            _ => Kind::Unused,
        }
    }
}

/// Somebody may have written the page of a cache.
const WRITTEN: u8 = 1 << 2;

/// Set once instruction fetches see what the frame holds; cleared when somebody may write it.
const ICACHE_CLEAN: u8 = 1 << 0;

/// It serves what is charged: see [`commit`](crate::commit).
const CHARGED: u8 = 1 << 1;

/// What the kernel knows of one frame. Zeroed memory is a valid value (an unused frame).
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameMeta {
    /// Distinct tables that map the frame, plus holds (a page cache's, a running operation's). For
    /// a translation table: its parents.
    refs: AtomicU32,
    kind: AtomicU8,
    flags: AtomicU8,
    /// Of a level 3 table: somebody changes its leaves, and nobody else may.
    busy: AtomicBool,
    _spare: u8,
    /// Of a free frame, the next one of its list: its index plus one, 0 at the end. Of a root table,
    /// its address space's ASID.
    link: Context,
}

impl FrameMeta {
    /// The metadata of an unused frame.
    pub const fn new() -> FrameMeta {
        FrameMeta {
            refs: AtomicU32::new(0),
            kind: AtomicU8::new(0),
            flags: AtomicU8::new(0),
            busy: AtomicBool::new(false),
            _spare: 0,
            link: Context::new(),
        }
    }

    /// What comes after it in a list of free frames: for `free` alone.
    #[inline]
    pub(crate) fn link(&self) -> u64 {
        self.link.raw().load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_link(&self, link: u64) {
        self.link.raw().store(link, Ordering::Relaxed);
    }
}

impl FrameMeta {
    #[inline]
    pub(crate) fn refs(&self) -> u32 {
        self.refs.load(Ordering::Acquire)
    }

    /// True if it was the last one.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    fn drop_reference(&self) -> bool {
        leave_out!("count -1", return false);
        // AcqRel: what the others did with the frame happens before its next use.
        let before = self.refs.fetch_sub(1, Ordering::AcqRel);
        debug_assert_ne!(before, 0, "a frame is freed twice");
        before == 1
    }

    /// Somebody may write the frame from now on.
    #[inline(always)]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn clear_icache_clean(&self) {
        let flags = &self.flags;
        let clean = flags.load(Ordering::Relaxed) & ICACHE_CLEAN != 0;
        leave_out!("no longer clean", when clean);
        if clean {
            flags.fetch_and(!ICACHE_CLEAN, Ordering::Relaxed);
        }
    }

    /// The contents are not the file's own any more, from now on.
    #[inline]
    pub(crate) fn set_written(&self) {
        if self.flags.load(Ordering::Relaxed) & WRITTEN == 0 {
            self.flags.fetch_or(WRITTEN, Ordering::Relaxed);
        }
    }

    /// A frame without references is nothing any more. Whether it served what is charged.
    #[inline]
    fn retire(&self) -> bool {
        let kind = self.kind.load(Ordering::Relaxed);
        debug_assert!(
            !matches!(
                Kind::from_bits(kind),
                Kind::Free | Kind::Unused | Kind::Zero
            ),
            "a frame of this kind cannot be freed"
        );
        debug_assert_eq!(
            self.refs.load(Ordering::Relaxed),
            0,
            "freed while referenced"
        );
        self.kind.store(Kind::Free as u8, Ordering::Relaxed);
        self.flags.load(Ordering::Relaxed) & CHARGED != 0
    }
}

/// References above this are refused, so that a counter can never wrap to zero and free a frame
/// that is in use (CVE-2016-0728, CVE-2019-11487). The distance to `u32::MAX` is room for CPUs that
/// pass the check at the same time.
pub const REFS_LIMIT: u32 = u32::MAX - 1024;

/// A frame has as many references as can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saturated;

/// A frame that was just allocated: its one reference belongs to whoever holds this, and no
/// descriptor leads to it yet. It ends in a descriptor (`into_frame`) or goes back
/// ([`Memory::give_back`](crate::Memory)).
#[must_use = "a frame that is neither mapped nor given back is lost"]
#[derive(Debug)]
pub(crate) struct Fresh(Frame);

impl Fresh {
    #[inline]
    pub(crate) fn frame(&self) -> Frame {
        self.0
    }

    /// Hands the reference over to the descriptor that is about to be written.
    #[inline]
    pub(crate) fn into_frame(self) -> Frame {
        self.0
    }
}

/// All frames: metadata by frame number, and the allocator. Allocation and release are O(1).
pub struct Frames {
    meta: &'static [FrameMeta],
    first: u32,
    total: AtomicU32,
    free: Free,
    pub(crate) commit: Commit,
}

impl Frames {
    /// Frames with metadata for `first` and the frames after it. None is free until [`add`](Self::add).
    pub const fn new(meta: &'static [FrameMeta], first: Frame) -> Frames {
        Frames {
            meta,
            first: first.0,
            total: AtomicU32::new(0),
            free: Free::new(),
            commit: Commit::new(),
        }
    }

    /// Gives a range of RAM to the allocator. What lies outside the metadata is ignored.
    pub fn add(&self, range: Range<Frame>) {
        let start = range.start.0.max(self.first) - self.first;
        let end = range
            .end
            .0
            .saturating_sub(self.first)
            .min(self.meta.len() as u32);
        if start >= end {
            return;
        }
        let count = end - start;
        self.total.fetch_add(count, Ordering::Relaxed);
        self.free.add(self.meta, start..end);
        self.commit.give(u64::from(count));
    }

    /// Says how many CPUs there are, before any frame is allocated.
    pub(crate) fn share_among(&mut self, cpus: usize) {
        let total = self.total.load(Ordering::Relaxed);
        self.free.share_among(cpus, total);
    }

    /// Frames that can be allocated now.
    pub fn free_count(&self) -> u64 {
        u64::from(self.free.count())
    }

    /// Whether one can be allocated now.
    pub(crate) fn any_free(&self, cpu: usize) -> bool {
        self.free.any(cpu)
    }

    /// The numbers of the frames that have metadata.
    pub fn numbers(&self) -> Range<u64> {
        let first = u64::from(self.first);
        first..first + self.meta.len() as u64
    }

    /// Frames ever given to the allocator.
    pub fn total(&self) -> u64 {
        u64::from(self.total.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn meta(&self, frame: Frame) -> &'static FrameMeta {
        self.entry(frame).1
    }

    /// A frame's index, and its metadata.
    #[inline]
    fn entry(&self, frame: Frame) -> (u32, &'static FrameMeta) {
        let index = frame.0.wrapping_sub(self.first);
        (index, &self.meta[index as usize])
    }

    /// Where the ASID of a root table's address space is.
    #[inline]
    pub(crate) fn context(&self, root: Frame) -> &'static Context {
        &self.meta[root.0.wrapping_sub(self.first) as usize].link
    }

    /// What a frame is used for.
    pub fn kind(&self, frame: Frame) -> Kind {
        match self.meta.get(frame.0.wrapping_sub(self.first) as usize) {
            Some(meta) => Kind::from_bits(meta.kind.load(Ordering::Relaxed)),
            None => Kind::Unused,
        }
    }

    /// References to a frame. Acquire: whoever reads 1 here sees all that the former owners did.
    #[inline]
    pub fn refs(&self, frame: Frame) -> u32 {
        self.meta(frame).refs()
    }

    /// Takes a free frame, on a CPU; `charged`: it serves what is charged.
    #[inline(always)]
    pub(crate) fn allocate(&self, cpu: usize, kind: Kind, charged: bool) -> Option<Fresh> {
        let (index, meta) = self.free.take(self.meta, cpu)?;
        debug_assert_eq!(
            meta.refs.load(Ordering::Relaxed),
            0,
            "a free frame is referenced"
        );
        meta.kind.store(kind as u8, Ordering::Relaxed);
        let flags = if charged { CHARGED } else { 0 };
        meta.flags.store(flags, Ordering::Relaxed);
        meta.refs.store(1, Ordering::Relaxed);
        Some(Fresh(Frame(self.first + index)))
    }

    /// One more reference.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn share(&self, frame: Frame) -> Result<(), Saturated> {
        leave_out!("count +1", return Ok(()));
        let meta = self.meta(frame);
        if meta.refs.load(Ordering::Relaxed) >= REFS_LIMIT {
            return Err(Saturated);
        }
        let before = meta.refs.fetch_add(1, Ordering::Relaxed);
        debug_assert_ne!(before, 0, "a reference to a free frame");
        Ok(())
    }

    /// One reference less, of a descriptor that is gone from every TLB: the token says so. True if
    /// it was the last one: the frame belongs to the caller, who frees it.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn drop_mapped(&self, frame: Frame, _: &Flushed) -> bool {
        self.meta(frame).drop_reference()
    }

    /// One reference less, of a holder that never had a descriptor. As `drop_mapped`.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn drop_hold(&self, frame: Frame) -> bool {
        self.meta(frame).drop_reference()
    }

    /// One parent less of a table whose entry is gone from every walk cache. True if it was the
    /// last one: the table belongs to the caller, who releases its leaves and then frees it.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn drop_parent(&self, table: Frame, _: &Flushed) -> bool {
        debug_assert_eq!(self.kind(table), Kind::Table);
        self.meta(table).drop_reference()
    }

    /// Gives a frame without references back, on a CPU.
    #[inline]
    pub(crate) fn put_back(&self, cpu: usize, frame: Frame) {
        let (index, meta) = self.entry(frame);
        let charged = meta.retire();
        self.free.give(self.meta, cpu, index);
        // After the frame itself: what is available can be had.
        if !charged {
            self.commit.give(1);
        }
    }

    /// The frame serves what is charged.
    #[doc(hidden)]
    #[inline]
    pub fn serves_charge(&self, frame: Frame) -> bool {
        self.meta(frame).flags.load(Ordering::Relaxed) & CHARGED != 0
    }

    /// Marks a frame as serving what is charged, or not. True if it did, and does no longer: its
    /// owner gives one page less back.
    pub(crate) fn mark(&self, frame: Frame, charged: bool) -> bool {
        let flags = &self.meta(frame).flags;
        if charged {
            if flags.fetch_or(CHARGED, Ordering::Relaxed) & CHARGED == 0 {
                self.commit.give(1);
            }
            return false;
        }
        flags.fetch_and(!CHARGED, Ordering::Relaxed) & CHARGED != 0
    }

    /// Charges pages, or says how many could have been charged.
    pub(crate) fn charge(&self, pages: u64) -> Result<(), Refusal> {
        self.commit.charge(pages, self.total())
    }

    /// Pages that are charged: what all processes may need in the worst case, tables included.
    pub fn committed(&self) -> u64 {
        self.commit.committed()
    }

    /// Frames that the kernel itself may have now: those that are free and not promised.
    pub fn available(&self) -> u64 {
        match self.commit.overcommits() {
            true => self.free_count(),
            false => self.commit.available(),
        }
    }

    /// How often somebody was refused a frame, or the promise of some. Who fails for want of memory
    /// and finds that it has grown may [reclaim](crate::PageCache::reclaim) some, and try again.
    pub fn refusals(&self) -> u64 {
        self.commit.refusals()
    }

    /// From now on nothing is refused before the last frame is gone, and faults may fail. At boot,
    /// before anything is charged.
    pub fn set_overcommit(&mut self) {
        self.commit.set_overcommit();
    }

    /// True once since the frame was last written: instruction fetches see its contents.
    #[inline]
    pub(crate) fn icache_clean(&self, frame: Frame) -> bool {
        self.meta(frame).flags.load(Ordering::Relaxed) & ICACHE_CLEAN != 0
    }

    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn set_icache_clean(&self, frame: Frame) {
        leave_out!("clean");
        self.meta(frame)
            .flags
            .fetch_or(ICACHE_CLEAN, Ordering::Relaxed);
    }

    /// Waits for one's turn at the leaves of a table, where several have its address space's lock.
    #[cfg_attr(any(debug_assertions, feature = "checks"), track_caller)]
    pub(crate) fn lock_table(&self, table: Frame) -> TableTurn {
        let busy = &self.meta(table).busy;
        TURNS.check();
        let take = || !busy.swap(true, Ordering::Acquire);
        TURNS.wait(
            || take().then_some(()),
            || {
                while !take() {
                    spin_loop();
                }
            },
        );
        TURNS.taken();
        TableTurn(busy)
    }

    /// Whether the contents of a cache's page may have been written.
    pub fn written(&self, frame: Frame) -> bool {
        self.meta(frame).flags.load(Ordering::Relaxed) & WRITTEN != 0
    }

    /// Presets a counter, for tests of its limit.
    #[doc(hidden)]
    pub fn set_refs(&self, frame: Frame, refs: u32) {
        self.meta(frame).refs.store(refs, Ordering::Relaxed);
    }
}

/// Where [`Frames::lock_table`] stands among the locks.
static TURNS: Order = Order::new(Rank::Table);

/// The leaves of a table are one's own to change, until it is dropped.
#[must_use = "a turn that is dropped at once keeps nobody out"]
pub(crate) struct TableTurn(&'static AtomicBool);

impl Drop for TableTurn {
    fn drop(&mut self) {
        TURNS.left();
        self.0.store(false, Ordering::Release);
    }
}

/// Frames that lose their last reference together, such as those of a range that is unmapped: they
/// are given back at the end, all at once. Before that nobody can have them, so it must end before
/// their charge does.
pub(crate) struct Leaving<'a> {
    frames: &'a Frames,
    cpu: usize,
    batch: Batch,
    /// Those that served nothing that is charged.
    uncharged: u64,
}

impl<'a> Leaving<'a> {
    #[inline]
    pub fn new(frames: &'a Frames, cpu: usize) -> Leaving<'a> {
        Leaving {
            frames,
            cpu,
            batch: Batch::default(),
            uncharged: 0,
        }
    }

    /// One reference less, as [`Frames::drop_mapped`]. If it was the last one, after `free` the frame
    /// goes with the others.
    #[inline(always)]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn drop_mapped(&mut self, frame: Frame, _: &Flushed, free: impl FnOnce()) -> bool {
        let (index, meta) = self.frames.entry(frame);
        let last = meta.drop_reference();
        if last {
            free();
            self.uncharged += u64::from(!meta.retire());
            self.batch
                .push(&self.frames.free, self.frames.meta, index, meta);
        }
        last
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Frames {
            free, meta, commit, ..
        } = self.frames;
        self.batch.end(free, meta, self.cpu);
        if self.uncharged > 0 {
            commit.give(self.uncharged);
        }
    }
}
