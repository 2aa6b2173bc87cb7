//! The kernel heap: `talc`, in a window of its own that grows by single frames.

use super::{cpu, layout, mmu, table};
use alloc::{boxed::Box, sync::Arc};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::mem::MaybeUninit;
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
/// Free space at the end that is kept, and by how much it must be exceeded before frames go back:
/// not to unmap now what is wanted again soon.
const SPARE: usize = 32 * PAGE;

/// Bytes of RAM the heap occupies. Changed under the heap's lock, but read without: the trace wants it.
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Grows the heap by mapping frames at its end, and shrinks it again.
#[derive(Debug)]
struct Grow {
    /// Where the frames begin that are the allocator's: the start is not.
    floor: u64,
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
        let attempt = || RawMutex::try_lock(&self.lock).then_some(());
        self.order.wait(attempt, || RawMutex::lock(&self.lock));
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

static HEAP: TalcLock<Ranked, Grow> = TalcLock::new(Grow {
    floor: layout::HEAP.start,
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
        if (heap_end as usize - chunk_base as usize) < 2 * SPARE {
            return heap_end;
        }
        let end = (chunk_base as u64 + SPARE as u64)
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

/// What all of the kernel allocates from: the heap, but each core has [`Blocks`] of its own, which
/// cost a tenth.
pub(crate) struct Allocator;

// With `checks` it is one of two.
#[cfg_attr(not(feature = "checks"), global_allocator)]
pub(crate) static ALLOCATOR: Allocator = Allocator;

/// A block of the heap that is not in use, and the layout it was allocated with.
type Block = (NonNull<u8>, Layout);
/// Those of a core, by size. Whoever wants one of the same layout gets it: what a process takes is
/// what the one before has left.
pub(super) type Blocks = [Cell<Option<Block>>; BLOCKS];
#[allow(
    clippy::declare_interior_mutable_const,
    reason = "each core's own begin as a copy of it"
)]
pub(super) const NO_BLOCKS: Blocks = [const { Cell::new(None) }; BLOCKS];
const BLOCKS: usize = 32;
/// Larger ones are not kept when they are freed.
const KEPT: usize = 2048;

/// Where this core has a block of a layout, if it has one.
#[inline]
fn kept(layout: Layout) -> &'static Cell<Option<Block>> {
    // SAFETY: this core's own, and the kernel is not preempted: the reference is used before the
    // thread may move to another core.
    unsafe { &(*cpu::local()).blocks[layout.size() / 32 % BLOCKS] }
}

// SAFETY: all are the heap's functions, or keep a block between two of them: it is given to one, who
// wants the layout that it was allocated with.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let kept = kept(layout);
        if let Some((block, of)) = kept.get()
            && of == layout
        {
            kept.set(None);
            return block.as_ptr();
        }
        // SAFETY: the caller's promise.
        unsafe { HEAP.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let kept = kept(layout);
        if let Some(block) = NonNull::new(block)
            && layout.size() <= KEPT
            && !is_far(block.as_ptr())
            && kept.get().is_none()
        {
            kept.set(Some((block, layout)));
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { HEAP.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { HEAP.realloc(block, layout, size) }
    }
}

/// Puts a block aside for the next allocation of this layout by this core, which then cannot fail,
/// whatever others allocate meanwhile: for what only exists without errors, such as `Arc::new`. It
/// has to come at once. False: there is no memory.
#[inline]
pub fn make_ready(layout: Layout) -> bool {
    let kept = kept(layout);
    if kept.get().is_some_and(|(_, of)| of == layout) {
        return true;
    }
    // SAFETY: whoever allocates so has something to put there.
    let Some(block) = NonNull::new(unsafe { HEAP.alloc(layout) }) else {
        return false;
    };
    if let Some((other, layout)) = kept.replace(Some((block, layout))) {
        // SAFETY: it was allocated with this layout, and is nobody's.
        unsafe { HEAP.dealloc(other.as_ptr(), layout) };
    }
    true
}

/// What an `Arc` allocates.
#[repr(C)]
struct Counted<T> {
    counts: [usize; 2],
    value: T,
}

/// Memory for an `Arc`: what is to be in it may be made later, when nothing can fail any more.
pub struct Place<T>(Arc<MaybeUninit<T>>);

impl<T> Place<T> {
    /// Memory, unless the heap is exhausted.
    #[inline]
    pub fn new() -> Option<Place<T>> {
        make_ready(Layout::new::<Counted<T>>()).then(|| Place(Arc::new_uninit()))
    }

    /// Puts there what `make` makes, in its place: what is large need not be copied.
    #[inline]
    pub fn fill(self, make: impl FnOnce() -> T) -> Arc<T> {
        // SAFETY: the value's place, which nobody else knows of; it is initialized then.
        unsafe {
            Arc::as_ptr(&self.0).cast::<T>().cast_mut().write(make());
            self.0.assume_init()
        }
    }
}

/// `Arc::new`, but an exhausted heap is no panic. For everything that a user program can ask for.
pub fn try_arc<T>(value: T) -> Option<Arc<T>> {
    Some(Place::new()?.fill(|| value))
}

/// `Box::new`, but an exhausted heap is no panic.
pub fn try_box<T>(value: T) -> Option<Box<T>> {
    if size_of::<T>() == 0 || make_ready(Layout::new::<T>()) {
        Some(Box::new(value))
    } else {
        None
    }
}

/// Whether `address` lies so far up that the heap, which shrinks from its end only, is large as
/// long as there is something.
pub fn is_far<T>(address: *const T) -> bool {
    /// More than it has on a machine that does nothing special.
    const FAR: u64 = 16 << 20;
    address.addr() as u64 >= layout::HEAP.start + FAR
}

/// Bytes of RAM the heap occupies.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}
