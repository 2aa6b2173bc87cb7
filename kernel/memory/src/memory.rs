//! The machine's memory as a whole: shared by all address spaces.

use core::sync::atomic::Ordering;

use crate::asid::{AsidPool, Assigned, Root};
use crate::change::{Flushed, Retired};
use crate::frame::{Frame, Frames, Fresh, Kind, Leaving};
use crate::mmu::Mmu;
use crate::sync::AtomicU32;
use crate::{OutOfMemory, Saturated};

/// The default of [`Memory::share_from`], pages. Measured in instructions of the fork and of all
/// first writes after it (`cowscope run --deterministic --fork MODE -- sweep PAGES copy|reuse`):
///
/// | pages | the child writes all: classic | shared | the parent, later: classic | shared |
/// |---|---|---|---|---|
/// | 64 | 55,500 | 60,400 | about 30,000 | 8,100 |
/// | 128 | 103,200 | 105,200 | 52,700 | 8,100 |
/// | 512 | 390,300 | 374,700 | 188,100 | 9,200 |
///
/// From 64 pages on, a table that is written after all costs less than a tenth more, and one that
/// the child leaves alone is several times cheaper; of fewer pages both are worth less.
const SHARE_FROM: u64 = 64;

/// Frames, ASIDs and the MMU: one per machine, shared by reference. All that changes is behind
/// atomics and short spin locks (frame allocator, ASID pool, page caches): their order is
/// [`Rank`](crate::Rank)'s.
pub struct Memory<M: Mmu> {
    /// The MMU.
    pub mmu: M,
    /// The frames.
    pub frames: Frames,
    /// The ASIDs.
    pub asids: AsidPool,
    /// Fork shares a level 3 table if at least so many pages of its 2 MiB are mapped: copying a
    /// few leaves costs less than copying their table at the first write.
    pub share_from: u64,
    zero: Frame,
    serial: AtomicU32,
}

impl<M: Mmu> Memory<M> {
    /// Memory with at least one free frame, which becomes the zero page. `asid_bits`: at most 16,
    /// and enough for more numbers than CPUs.
    pub fn new(
        mmu: M,
        mut frames: Frames,
        asid_bits: u8,
        cpus: usize,
    ) -> Result<Memory<M>, OutOfMemory> {
        let asids = AsidPool::new(asid_bits, cpus)?;
        frames.share_among(cpus);
        if !frames.commit.take() {
            return Err(OutOfMemory);
        }
        let zero = frames.allocate(mmu.cpu(), Kind::Zero, false);
        let zero = zero.ok_or(OutOfMemory)?.into_frame();
        mmu.frame_event(zero, false);
        mmu.zero_frame(zero);
        Ok(Memory {
            mmu,
            frames,
            asids,
            share_from: SHARE_FROM,
            zero,
            serial: AtomicU32::new(1),
        })
    }

    /// The zero page: mapped read-only wherever untouched memory is read, not counted, never written.
    pub fn zero_page(&self) -> Frame {
        self.zero
    }

    /// A frame for the kernel's own needs, with undefined contents.
    pub fn alloc(&self) -> Option<Frame> {
        Some(self.take(Kind::Kernel)?.into_frame())
    }

    /// Gives back a frame of [`alloc`](Self::alloc). The kernel must have unmapped and invalidated it, if it mapped it.
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn free(&self, frame: Frame) {
        debug_assert_eq!(
            self.frames.kind(frame),
            Kind::Kernel,
            "not a frame of the kernel's own"
        );
        self.drop_hold(frame);
    }

    /// Makes an address space ready to run on CPU number `cpu`, which executes this: `root.ttbr0()`
    /// is what it must write to TTBR0_EL1 next, between a DSB ISH and an ISB. The ASID that was
    /// handed out, if it has a new one. One load and a comparison if the CPU ran it last.
    #[inline]
    pub fn activate(&self, root: Root, cpu: usize) -> Option<Assigned> {
        self.asids.activate(&self.mmu, root.context, cpu)
    }

    /// A serial number for an address space.
    pub(crate) fn next_serial(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn take(&self, kind: Kind) -> Option<Fresh> {
        refuse!(None);
        // Private memory is charged already.
        let charged = kind == Kind::Anon;
        if !charged && !self.frames.commit.take() {
            return None;
        }
        self.take_promised(kind, charged)
    }

    /// A frame for what is charged.
    pub(crate) fn take_charged(&self, kind: Kind) -> Option<Fresh> {
        refuse!(None);
        self.take_promised(kind, true)
    }

    /// A frame that is paid for.
    #[inline(always)]
    fn take_promised(&self, kind: Kind, charged: bool) -> Option<Fresh> {
        let Some(fresh) = self.frames.allocate(self.mmu.cpu(), kind, charged) else {
            if !charged {
                self.frames.commit.give(1);
            }
            self.frames.commit.refuse();
            return None;
        };
        self.mmu.frame_event(fresh.frame(), false);
        Some(fresh)
    }

    /// A zeroed translation table, which may be one that is charged.
    pub(crate) fn take_table(&self, charged: bool) -> Option<Fresh> {
        let fresh = match charged {
            true => self.take_charged(Kind::Table)?,
            false => self.take(Kind::Table)?,
        };
        self.mmu.zero_frame(fresh.frame());
        Some(fresh)
    }

    /// Takes back a frame that was never mapped.
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn give_back(&self, fresh: Fresh) {
        self.drop_hold(fresh.into_frame());
    }

    /// One more reference, for a descriptor that is about to be written.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn share(&self, frame: Frame) -> Result<(), Saturated> {
        self.frames.share(frame)
    }

    /// Drops a reference that no descriptor stands for.
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn drop_hold(&self, frame: Frame) {
        if self.frames.drop_hold(frame) {
            self.free_last(frame);
        }
    }

    /// Drops the reference of a broken descriptor (the zero page has none). True if the frame is free now.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn release(&self, retired: Retired, flushed: &Flushed) -> bool {
        let frame = retired.into_frame(flushed);
        if frame == self.zero {
            return false;
        }
        let last = self.frames.drop_mapped(frame, flushed);
        if last {
            self.free_last(frame);
        }
        last
    }

    /// Frees a table without parents and leaves.
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn free_table(&self, table: Frame) {
        leave_out!("free");
        self.free_last(table);
    }

    /// Frees a frame whose last reference is gone. The record comes first: once the frame is free,
    /// another CPU may take it, and put that on record.
    #[inline]
    fn free_last(&self, frame: Frame) {
        self.mmu.frame_event(frame, true);
        self.frames.put_back(self.mmu.cpu(), frame);
    }

    /// Frames that are about to go together.
    #[inline]
    pub(crate) fn leaving(&self) -> Leaving<'_> {
        Leaving::new(&self.frames, self.mmu.cpu())
    }

    /// `release`, of one of many: if the frame is free now, it goes with the others.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn release_with(
        &self,
        leaving: &mut Leaving<'_>,
        retired: Retired,
        flushed: &Flushed,
    ) -> bool {
        let frame = retired.into_frame(flushed);
        if frame == self.zero {
            return false;
        }
        leaving.drop_mapped(frame, flushed, || self.mmu.frame_event(frame, true))
    }
}
