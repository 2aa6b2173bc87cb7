//! One CPU's ring of events. Only that CPU touches it, with interrupts masked.

use super::meta::Meta;
use crate::arch::{self, park::MAX_CPUS};
use alloc::{collections::VecDeque, vec::Vec};
use core::cell::{RefCell, RefMut};
use core::mem::MaybeUninit;
use wire::event::{Event, KINDS, Record};

/// How many `Meta`s may wait for their place in the stream.
const MAX_METAS: usize = 64;

/// A ring that holds fewer events is left to the tick and the idle loop: emptying it inline would
/// interrupt the program every few events, which is what dropping is meant to avoid.
const INLINE: usize = 1024;

/// The events of one CPU that are not yet on the wire.
pub struct Ring {
    slots: Vec<MaybeUninit<Record>>,
    /// Index of the oldest event.
    head: usize,
    len: usize,
    /// With so many events in it, it is time to drain.
    half: usize,
    /// Events taken out so far.
    taken: u64,
    metas: VecDeque<(u64, Meta)>,
    /// The running thread.
    pub tid: u32,
    /// Events put on the wire so far.
    pub emitted: [u64; KINDS],
    /// Events lost so far, because the ring was full.
    pub dropped: [u64; KINDS],
    /// The most events it ever held.
    pub high_water: usize,
}

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

impl Ring {
    const fn new() -> Ring {
        Ring {
            slots: Vec::new(),
            head: 0,
            len: 0,
            half: 0,
            taken: 0,
            metas: VecDeque::new(),
            tid: 0,
            emitted: [0; KINDS],
            dropped: [0; KINDS],
            high_water: 0,
        }
    }

    /// Gives the ring room for `events`, or for as many as memory allows. `lossless`: half of it is
    /// time to drain, however small it is.
    pub fn allocate(&mut self, events: usize, lossless: bool) {
        let mut events = events.max(2);
        while self.slots.try_reserve_exact(events).is_err() && events > 2 {
            events /= 2;
        }
        self.slots.resize_with(events, MaybeUninit::uninit);
        self.metas.reserve(MAX_METAS);
        self.half = if lossless || events >= INLINE {
            events / 2
        } else {
            usize::MAX
        };
    }

    /// How many events fit.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Puts an event in, if there is room. Counts nothing.
    #[inline]
    pub fn push(&mut self, time: u64, event: Event) -> Room {
        if self.len == self.slots.len() {
            return Room::None;
        }
        let mut at = self.head + self.len;
        if at >= self.slots.len() {
            at -= self.slots.len();
        }
        self.slots[at].write(Record {
            time,
            tid: self.tid,
            event,
        });
        self.len += 1;
        if self.len > self.high_water {
            self.high_water = self.len;
        }
        if self.len == self.half {
            Room::Half
        } else {
            Room::Ample
        }
    }

    /// The oldest event, if it comes before the next `Meta`.
    pub fn front(&self) -> Option<&Record> {
        if self.len == 0
            || self
                .metas
                .front()
                .is_some_and(|(position, _)| *position <= self.taken)
        {
            return None;
        }
        // SAFETY: the `len` slots from `head` on were written by `push` and not yet taken.
        Some(unsafe { self.slots[self.head].assume_init_ref() })
    }

    /// Drops the oldest event.
    pub fn pop(&mut self) {
        self.head += 1;
        if self.head == self.slots.len() {
            self.head = 0;
        }
        self.len -= 1;
        self.taken += 1;
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.metas.is_empty()
    }

    /// Whether another `Meta` may wait.
    pub fn meta_room(&self) -> bool {
        self.metas.len() < self.metas.capacity()
    }

    /// Queues a `Meta` behind the events so far, if there is room.
    pub fn push_meta(&mut self, meta: Meta) {
        if self.meta_room() {
            self.metas.push_back((self.taken + self.len as u64, meta));
        }
    }

    /// The next `Meta`, if all events before it have been taken.
    pub fn pop_meta(&mut self) -> Option<Meta> {
        let (position, _) = self.metas.front()?;
        if *position > self.taken {
            return None;
        }
        self.metas.pop_front().map(|(_, meta)| meta)
    }
}

struct Rings([RefCell<Ring>; MAX_CPUS]);

// SAFETY: `ring` hands out this CPU's ring only, and the kernel runs with interrupts masked, so a
// CPU's ring is never used by two flows at once; nested use on one CPU is caught by the RefCell.
unsafe impl Sync for Rings {}

static RINGS: Rings = Rings([const { RefCell::new(Ring::new()) }; MAX_CPUS]);

/// This CPU's ring.
#[inline]
pub fn ring() -> RefMut<'static, Ring> {
    RINGS.0[arch::cpu::id()].borrow_mut()
}
