//! The CPUs' rings of events. A CPU puts its own in, with interrupts masked; whoever has the output
//! locked takes them out, of all rings in the order of time.
//!
//! The order is decided by [`next_time`]: no two events have the same time. Before a CPU takes a
//! time for an event it says so (`claimed`), and afterwards that the event is there (`written`). So
//! whoever takes a time itself, and then waits for the events that are claimed by then, has seen all
//! events before that time.

use crate::arch::{self, cpu::MAX_CPUS, secondary, time};
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use spin::Once;
use wire::event::{Event, KINDS, Record};

const _: () = assert!(MAX_CPUS <= wire::event::MAX_CPUS);

/// A ring that holds fewer events is left to the tick and the idle loop: emptying it inline would
/// interrupt the program every few events, which is what dropping is meant to avoid.
const INLINE: usize = 1024;

/// The latest time that was given to an event.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// A time for an event: now, or as little later as makes it the only event of that time.
#[inline]
pub fn next_time() -> u64 {
    let now = time::now();
    let mut latest = LATEST.load(Ordering::Relaxed);
    loop {
        let next = now.max(latest + 1);
        // Release: what this CPU said before is seen by whoever takes a later time. Acquire: by us.
        match LATEST.compare_exchange_weak(latest, next, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return next,
            Err(other) => latest = other,
        }
    }
}

type Slots = Vec<UnsafeCell<MaybeUninit<Record>>>;

/// The events of one CPU that are not yet on the wire. The counts run on from boot.
#[repr(align(128))]
pub struct Ring {
    slots: Once<Shared>,
    /// Events whose time has been taken, or is about to be.
    claimed: AtomicUsize,
    /// Events that are in the ring, or were.
    written: AtomicUsize,
    /// Where the next one goes.
    tail: AtomicUsize,
    /// The running thread.
    tid: AtomicU32,
    dropped: [AtomicU64; KINDS],
    high_water: AtomicUsize,
    /// With so many events in it, it is time to drain.
    half: AtomicUsize,
    taken: Taken,
}

/// What the reader changes.
#[repr(align(128))]
struct Taken {
    /// Events taken out.
    count: AtomicUsize,
    /// Where the oldest is.
    head: AtomicUsize,
    emitted: [AtomicU64; KINDS],
}

struct Shared(Slots);

// SAFETY: a slot is written by the ring's CPU while it is not among the `written`, and read by the
// one reader while it is and not yet `taken`; both counts are stored with Release after the
// access and loaded with Acquire before it.
unsafe impl Sync for Shared {}
// SAFETY: records are plain data.
unsafe impl Send for Shared {}

/// Whether an event found room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Plenty left.
    Ample,
    /// Exactly half of the ring is used now: time to drain.
    Half,
    /// None: nothing was recorded.
    None,
}

/// A CPU's own counter: nobody else changes it, so it takes no read-modify-write.
#[inline]
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Ring {
    const fn new() -> Ring {
        Ring {
            slots: Once::new(),
            claimed: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            tid: AtomicU32::new(0),
            dropped: [const { AtomicU64::new(0) }; KINDS],
            high_water: AtomicUsize::new(0),
            half: AtomicUsize::new(usize::MAX),
            taken: Taken {
                count: AtomicUsize::new(0),
                head: AtomicUsize::new(0),
                emitted: [const { AtomicU64::new(0) }; KINDS],
            },
        }
    }

    /// Gives the ring room for `events`, or for as many as memory allows. `lossless`: half of it is
    /// time to drain, however small it is.
    fn allocate(&self, events: usize, lossless: bool) {
        self.slots.call_once(|| {
            let mut events = events.max(2);
            let mut slots = Vec::new();
            while slots.try_reserve_exact(events).is_err() && events > 2 {
                events /= 2;
            }
            slots.resize_with(events, || UnsafeCell::new(MaybeUninit::uninit()));
            if lossless || events >= INLINE {
                self.half.store(events / 2, Ordering::Relaxed);
            }
            Shared(slots)
        });
    }

    #[inline]
    fn slots(&self) -> &[UnsafeCell<MaybeUninit<Record>>] {
        self.slots.get().map_or(&[], |slots| &slots.0)
    }

    /// How many events fit.
    pub fn capacity(&self) -> usize {
        self.slots().len()
    }

    /// Puts an event of this CPU in, whose ring it is, if there is room. Counts nothing.
    #[inline]
    pub fn push(&self, cpu: usize, event: Event) -> Room {
        let slots = self.slots();
        let written = self.written.load(Ordering::Relaxed);
        let used = written - self.taken.count.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Relaxed);
        if used >= slots.len() {
            return Room::None;
        }
        self.claimed.store(written + 1, Ordering::Relaxed);
        let record = Record {
            time: next_time(),
            cpu: cpu as u8,
            tid: self.tid.load(Ordering::Relaxed),
            event,
        };
        // SAFETY: the slot is free, and ours until `written` says otherwise; see `Shared`.
        unsafe { (*slots[tail].get()).write(record) };
        self.written.store(written + 1, Ordering::Release);
        let next = if tail + 1 == slots.len() { 0 } else { tail + 1 };
        self.tail.store(next, Ordering::Relaxed);
        let used = used + 1;
        if used > self.high_water.load(Ordering::Relaxed) {
            self.high_water.store(used, Ordering::Relaxed);
        }
        if used == self.half.load(Ordering::Relaxed) {
            Room::Half
        } else {
            Room::Ample
        }
    }

    /// An event of this CPU is lost.
    pub fn drop_one(&self, kind: usize) {
        add(&self.dropped[kind]);
    }

    /// This CPU goes on with another thread.
    #[inline]
    pub fn set_tid(&self, tid: u32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// Waits until what is claimed is there. Another CPU is between the two for a few instructions.
    fn settle(&self) {
        let claimed = self.claimed.load(Ordering::Acquire);
        while self.written.load(Ordering::Acquire) < claimed {
            arch::cpu::relax();
        }
    }

    /// The oldest event.
    fn front(&self) -> Option<&Record> {
        if self.is_empty() {
            return None;
        }
        let slot = self.slots().get(self.taken.head.load(Ordering::Relaxed))?;
        // SAFETY: written, and not taken until `pop`, which the borrower calls later; see `Shared`.
        Some(unsafe { (*slot.get()).assume_init_ref() })
    }

    /// Drops the oldest event, which was put on the wire.
    fn pop(&self, kind: usize) {
        let head = self.taken.head.load(Ordering::Relaxed);
        let next = if head + 1 == self.capacity() {
            0
        } else {
            head + 1
        };
        self.taken.head.store(next, Ordering::Relaxed);
        let count = self.taken.count.load(Ordering::Relaxed);
        self.taken.count.store(count + 1, Ordering::Release);
        add(&self.taken.emitted[kind]);
    }

    fn is_empty(&self) -> bool {
        self.taken.count.load(Ordering::Relaxed) == self.written.load(Ordering::Acquire)
    }

    /// Events of each kind that were put on the wire since boot.
    pub fn emitted(&self) -> [u64; KINDS] {
        core::array::from_fn(|kind| self.taken.emitted[kind].load(Ordering::Relaxed))
    }

    /// Events of each kind that were lost since boot, because the ring was full.
    pub fn dropped(&self) -> [u64; KINDS] {
        core::array::from_fn(|kind| self.dropped[kind].load(Ordering::Relaxed))
    }

    /// The most events it ever held.
    pub fn high_water(&self) -> usize {
        self.high_water.load(Ordering::Relaxed)
    }
}

static RINGS: [Ring; MAX_CPUS] = [const { Ring::new() }; MAX_CPUS];

/// The rings of the CPUs that run.
pub fn rings() -> &'static [Ring] {
    &RINGS[..secondary::online()]
}

/// The ring of the CPU with this number.
#[inline]
pub fn ring(cpu: usize) -> &'static Ring {
    &RINGS[cpu]
}

/// Gives every ring its room.
pub fn allocate(events: usize, lossless: bool) {
    for ring in rings() {
        ring.allocate(events, lossless);
    }
}

/// All events up to some moment, in order, to be taken by whoever has the output locked.
pub struct Merge {
    /// What comes later is left to the next time.
    horizon: u64,
    rings: &'static [Ring],
    /// The ring with the oldest event, and up to when it has it.
    current: Option<(usize, u64)>,
}

impl Merge {
    /// Those up to now.
    pub fn new() -> Merge {
        let horizon = next_time();
        let rings = rings();
        for ring in rings {
            ring.settle();
        }
        Merge {
            horizon,
            rings,
            current: None,
        }
    }

    /// The end of what is taken: everything before it is in order.
    pub fn horizon(&self) -> u64 {
        self.horizon
    }

    /// The next event, if it is before `until`, too.
    pub fn front(&mut self, until: u64) -> Option<&'static Record> {
        let mut front = self.here(until);
        if front.is_none() {
            self.choose();
            front = self.here(until);
        }
        front
    }

    /// Drops it.
    pub fn pop(&mut self, kind: usize) {
        if let Some((index, _)) = self.current {
            self.rings[index].pop(kind);
        }
    }

    /// The oldest event of the current ring, as long as it is the oldest of all.
    fn here(&self, until: u64) -> Option<&'static Record> {
        let (index, limit) = self.current?;
        let limit = limit.min(until);
        self.rings[index]
            .front()
            .filter(|record| record.time < limit)
    }

    /// Finds the ring with the oldest event.
    fn choose(&mut self) {
        let mut oldest = (u64::MAX, 0);
        let mut second = self.horizon;
        for (index, ring) in self.rings.iter().enumerate() {
            let Some(record) = ring.front() else { continue };
            if record.time < oldest.0 {
                second = second.min(oldest.0);
                oldest = (record.time, index);
            } else {
                second = second.min(record.time);
            }
        }
        self.current = (oldest.0 < self.horizon).then_some((oldest.1, second));
    }
}
