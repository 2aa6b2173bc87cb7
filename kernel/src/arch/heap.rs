//! The kernel heap: `talc`, in a window of its own that grows by single frames.

use super::{layout, mmu, table};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use memory::{Frame, Rank, lock::Order};
use talc::TalcLock;
use talc::base::{Talc, binning::Binning};
use talc::lock_api::RawMutex;
use talc::source::Source;

const PAGE: usize = 4096;
/// Grown by at least this much.
const STEP: usize = 4 * PAGE;
/// Free space at the end beyond what was reserved that is kept, and by how much it must be
/// exceeded before frames go back: not to unmap now what is wanted again soon.
const SPARE: usize = 32 * PAGE;

/// Bytes of RAM the heap occupies. Changed under the heap's lock, but read without: the trace wants it.
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Grows the heap by mapping frames at its end, and shrinks it again.
#[derive(Debug)]
pub(crate) struct Grow {
    /// Where the frames begin that are the allocator's: the start is not.
    floor: u64,
    /// What was last asked of [`reserve`].
    reserved: usize,
    /// End of the claimed heap, once there is one.
    heap_end: Option<NonNull<u8>>,
    /// End of what is mapped.
    mapped: u64,
}

// SAFETY: the pointer is to the heap, which belongs to the allocator that owns this source.
unsafe impl Send for Grow {}

/// A spin lock with the heap's place in the order of locks.
pub(crate) struct Ranked {
    order: Order,
    lock: spin::Mutex<()>,
}

// SAFETY: `lock` alone decides who holds it.
unsafe impl RawMutex for Ranked {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait's way to make one"
    )]
    const INIT: Ranked = Ranked {
        order: Order::new(Rank::Heap),
        lock: spin::Mutex::new(()),
    };

    type GuardMarker = <spin::Mutex<()> as RawMutex>::GuardMarker;

    fn lock(&self) {
        self.order.check();
        RawMutex::lock(&self.lock);
        self.order.taken();
    }

    fn try_lock(&self) -> bool {
        let taken = RawMutex::try_lock(&self.lock);
        if taken {
            self.order.taken();
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.order.left();
        // SAFETY: the caller holds it.
        unsafe { RawMutex::unlock(&self.lock) }
    }
}

// With `checks` it is one of two.
#[cfg_attr(not(feature = "checks"), global_allocator)]
pub(crate) static HEAP: TalcLock<Ranked, Grow> = TalcLock::new(Grow {
    floor: layout::HEAP.start,
    reserved: 0,
    heap_end: None,
    mapped: layout::HEAP.start,
});

// SAFETY: `acquire` touches no allocator but the one it is given.
unsafe impl Source for Grow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // The gap at the end may be smaller than the request by any amount: grow by all of it,
        // and by what alignment and the allocator's own tags may take.
        let need = layout
            .size()
            .checked_add(layout.align())
            .and_then(|n| n.checked_add(64))
            .ok_or(())?;
        grow(talc, need.max(STEP))
    }

    const TRACK_HEAP_END: bool = true;

    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, _: bool) -> *mut u8 {
        let keep = self.reserved + SPARE;
        if (heap_end as usize - chunk_base as usize) < keep + SPARE {
            return heap_end;
        }
        let end = (chunk_base as u64 + keep as u64)
            .next_multiple_of(PAGE as u64)
            .max(self.floor);
        while self.mapped > end {
            self.mapped -= PAGE as u64;
            if let Some(physical) = table::unmap_page(self.mapped) {
                mmu::memory().free(Frame::containing(physical));
            }
        }
        BYTES.store(self.mapped - layout::HEAP.start, Ordering::Relaxed);
        self.heap_end = NonNull::new(self.mapped as *mut u8);
        self.mapped as *mut u8
    }
}

/// Gives the heap its first memory, before there is an allocator of frames.
pub fn init(physical: u64, len: u64) -> Result<(), table::Error> {
    let mut talc = HEAP.lock();
    table::map_pages(talc.source.mapped, physical, len, table::KERNEL_RW)?;
    talc.source.mapped += len;
    talc.source.floor = talc.source.mapped;
    claim(&mut talc);
    Ok(())
}

/// Gives what is mapped to the allocator.
fn claim<B: Binning>(talc: &mut Talc<Grow, B>) {
    BYTES.store(talc.source.mapped - layout::HEAP.start, Ordering::Relaxed);
    let end = talc.source.mapped as *mut u8;
    // SAFETY: everything from the window's start to `end` is mapped and nobody else's; `heap_end`
    // is what the allocator returned last.
    unsafe {
        talc.source.heap_end = match talc.source.heap_end {
            Some(heap_end) => Some(talc.extend(heap_end, end)),
            None => {
                let start = layout::HEAP.start as *mut u8;
                talc.claim(start, end as usize - start as usize)
            }
        };
    }
}

/// Maps at least `bytes` more at the end of the heap, and gives them to the allocator.
fn grow<B: Binning>(talc: &mut Talc<Grow, B>, bytes: usize) -> Result<(), ()> {
    let room = layout::HEAP.end - talc.source.mapped;
    if bytes as u64 > room {
        return Err(());
    }
    let wanted = talc.source.mapped + bytes.next_multiple_of(PAGE) as u64;
    let memory = mmu::try_memory().ok_or(())?;
    // Nothing is taken for a request that cannot be met.
    if bytes.div_ceil(PAGE) as u64 > memory.frames.available() {
        return Err(());
    }
    let mut result = Ok(());
    while talc.source.mapped < wanted {
        let at = talc.source.mapped;
        let Some(frame) = memory.alloc() else {
            result = Err(());
            break;
        };
        if table::map_pages(at, frame.addr(), PAGE as u64, table::KERNEL_RW).is_err() {
            memory.free(frame);
            result = Err(());
            break;
        }
        talc.source.mapped = at + PAGE as u64;
    }
    claim(talc);
    result
}

/// Makes sure that the next allocations succeed up to `bytes` in total; count 64 bytes for each
/// besides its size. It holds until the next call. For system calls that could not undo what they did: they ask first, and
/// fail with ENOMEM while nothing has happened yet.
pub fn reserve(bytes: usize) -> bool {
    let Ok(layout) = Layout::from_size_align(bytes, 16) else {
        return false;
    };
    let mut talc = HEAP.lock();
    // In one piece, wherever it is: insisting on the end would grow a heap that has large holes,
    // since the allocator prefers the smallest piece that fits, and that is the end.
    // SAFETY: the size is not zero.
    let Some(block) = (unsafe { talc.allocate(layout) }) else {
        return false;
    };
    talc.source.reserved = bytes;
    // SAFETY: it was allocated above, with this layout.
    unsafe { talc.deallocate(block.as_ptr(), layout) };
    true
}

/// `Arc::new`, but an exhausted heap is no panic. For everything that a user program can ask for.
pub fn try_arc<T>(value: T) -> Option<Arc<T>> {
    /// The allocator's tag and alignment, and the two counts.
    const EXTRA: usize = 64 + 16;
    reserve(size_of::<T>() + EXTRA).then(|| Arc::new(value))
}

/// Bytes of RAM the heap occupies.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}
