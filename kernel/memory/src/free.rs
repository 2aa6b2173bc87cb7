//! The free frames: a list per CPU, and a depot for all.
//!
//! A CPU takes from its own list and gives back to it, and meets the others only when that is empty
//! or too long: then a whole *magazine* of frames moves between it and the depot, in one step
//! (Bonwick and Adams, "Magazines and Vmem", 2001). All lists are linked through the frames' own
//! metadata, so that free frames cost no memory.
//!
//! Whoever finds neither a frame of his own nor a magazine looks at all lists before he gives up,
//! and keeps them all while he does: a frame that is free is found, wherever it is. Commit
//! accounting relies on that.

use core::ops::Range;
use core::sync::atomic::Ordering;

use crate::frame::FrameMeta;
use crate::lock::{Lock, Rank};
use crate::sync::{AtomicU64, spin_loop};

/// The most frames of a magazine, and the part of all frames that two magazines of each CPU, which
/// are the most it has to itself, do not exceed. (But one frame always makes a magazine.)
const MAGAZINE_MAX: u32 = 32;
const OWN_PART: u32 = 32;

/// Lists of their own. CPUs of higher numbers share them: each is locked while it is used.
const LISTS: usize = 16;

/// Ranges of RAM that have never been used are kept as ranges: adding a gigabyte is one step, not
/// a walk over 262,144 links.
const UNTOUCHED: usize = 8;

/// The metadata of all frames.
type Meta = &'static [FrameMeta];

/// Free frames, linked through their metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct List {
    /// Index plus one of the first; 0: none.
    head: u32,
    count: u32,
}

impl List {
    #[inline]
    fn push(&mut self, meta: &FrameMeta, index: u32) {
        meta.set_link(u64::from(self.head));
        self.head = index + 1;
        self.count += 1;
    }

    #[inline(always)]
    fn pop(&mut self, meta: Meta) -> Option<(u32, &'static FrameMeta)> {
        let index = self.head.checked_sub(1)?;
        let meta = &meta[index as usize];
        self.head = meta.link() as u32;
        self.count -= 1;
        Some((index, meta))
    }

    /// Cuts the first frames off.
    fn cut(&mut self, meta: Meta, count: u32) -> List {
        let first = List {
            head: self.head,
            count,
        };
        let mut last = self.head - 1;
        for _ in 1..count {
            last = meta[last as usize].link() as u32 - 1;
        }
        self.head = meta[last as usize].link() as u32;
        self.count -= count;
        meta[last as usize].set_link(0);
        first
    }
}

/// A CPU's own list: one word, which is also its lock.
#[repr(align(64))]
struct Own(AtomicU64);

/// Somebody has the list.
const TAKEN: u64 = u64::MAX;

impl Own {
    /// Takes the list away, until `put`.
    #[inline]
    fn take(&self) -> List {
        loop {
            let word = self.0.swap(TAKEN, Ordering::Acquire);
            if word != TAKEN {
                return List {
                    head: word as u32,
                    count: (word >> 32) as u32,
                };
            }
            spin_loop();
        }
    }

    #[inline]
    fn put(&self, list: List) {
        let word = u64::from(list.count) << 32 | u64::from(list.head);
        self.0.store(word, Ordering::Release);
    }
}

/// What no CPU has to itself.
struct Depot {
    /// Full magazines: the first frame of one, as in [`List`]; where the next one begins is in the
    /// upper half of its link.
    full: u32,
    magazines: u32,
    /// Frames that are in no magazine.
    loose: List,
    untouched: [Range<u32>; UNTOUCHED],
}

impl Depot {
    fn push(&mut self, meta: Meta, magazine: List) {
        let first = &meta[magazine.head as usize - 1];
        first.set_link(first.link() | u64::from(self.full) << 32);
        self.full = magazine.head;
        self.magazines += 1;
    }

    /// A magazine of so many frames, or of fewer; empty if there is none.
    fn pop(&mut self, meta: Meta, count: u32) -> List {
        if self.full != 0 {
            let head = self.full;
            let first = &meta[head as usize - 1];
            let link = first.link();
            first.set_link(u64::from(link as u32));
            self.full = (link >> 32) as u32;
            self.magazines -= 1;
            return List { head, count };
        }
        if self.loose.count > 0 {
            let count = count.min(self.loose.count);
            return self.loose.cut(meta, count);
        }
        let mut list = List::default();
        let mut unused = self.untouched.iter_mut();
        if let Some(range) = unused.find(|range| range.start < range.end) {
            let end = range.end.min(range.start + count);
            // So that they are handed out in order.
            for index in (range.start..end).rev() {
                list.push(&meta[index as usize], index);
            }
            range.start = end;
        }
        list
    }

    fn count(&self, magazine: u32) -> u32 {
        let untouched: u32 = self.untouched.iter().map(|range| range.len() as u32).sum();
        self.magazines * magazine + self.loose.count + untouched
    }
}

/// All free frames, by their indices in the metadata.
pub(crate) struct Free {
    own: [Own; LISTS],
    /// Those that are used.
    lists: usize,
    /// Frames of a magazine.
    magazine: u32,
    depot: Lock<Depot>,
}

impl Free {
    pub const fn new() -> Free {
        Free {
            own: [const { Own(AtomicU64::new(0)) }; LISTS],
            lists: LISTS,
            magazine: 1,
            depot: Lock::new(
                Rank::Frames,
                Depot {
                    full: 0,
                    magazines: 0,
                    loose: List { head: 0, count: 0 },
                    untouched: [const { 0..0 }; UNTOUCHED],
                },
            ),
        }
    }

    /// Says how many CPUs there are, and how many frames, before any is taken.
    pub fn share_among(&mut self, cpus: usize, total: u32) {
        self.lists = cpus.clamp(1, LISTS);
        let own = total / OWN_PART / self.lists as u32;
        self.magazine = (own / 2).clamp(1, MAGAZINE_MAX);
    }

    /// The lists in use, taken away from all CPUs, until `put_all`. In the order of CPUs: who has a
    /// list may wait for the depot, but for no other list.
    fn take_all(&self) -> [List; LISTS] {
        let mut lists = [List::default(); LISTS];
        for (own, list) in self.own[..self.lists].iter().zip(&mut lists) {
            *list = own.take();
        }
        lists
    }

    fn put_all(&self, lists: &[List; LISTS]) {
        for (own, list) in self.own[..self.lists].iter().zip(lists) {
            own.put(*list);
        }
    }

    #[inline]
    fn own(&self, cpu: usize) -> &Own {
        debug_assert!(cpu < self.lists || self.lists == LISTS);
        &self.own[cpu % LISTS]
    }

    /// Frames that were never used.
    pub fn add(&self, meta: Meta, range: Range<u32>) {
        let mut depot = self.depot.lock();
        if let Some(empty) = depot
            .untouched
            .iter_mut()
            .find(|range| range.start >= range.end)
        {
            *empty = range;
            return;
        }
        for index in range.rev() {
            depot.loose.push(&meta[index as usize], index);
        }
    }

    /// Takes a frame, on a CPU.
    #[inline(always)]
    pub fn take(&self, meta: Meta, cpu: usize) -> Option<(u32, &'static FrameMeta)> {
        let own = self.own(cpu);
        let mut list = own.take();
        match list.pop(meta) {
            Some(frame) => {
                own.put(list);
                Some(frame)
            }
            None => self.take_elsewhere(meta, own),
        }
    }

    /// With the CPU's own list, which is empty.
    #[cold]
    fn take_elsewhere(&self, meta: Meta, own: &Own) -> Option<(u32, &'static FrameMeta)> {
        let mut list = self.depot.lock().pop(meta, self.magazine);
        let frame = list.pop(meta);
        own.put(list);
        frame.or_else(|| self.take_anywhere(meta))
    }

    /// From wherever there is one.
    fn take_anywhere(&self, meta: Meta) -> Option<(u32, &'static FrameMeta)> {
        let mut lists = self.take_all();
        let mut depot = self.depot.lock();
        let frame = lists.iter_mut().find_map(|list| list.pop(meta));
        let frame = frame.or_else(|| {
            // Somebody has given it back meanwhile.
            let mut list = depot.pop(meta, self.magazine);
            let frame = list.pop(meta);
            lists[0] = list;
            frame
        });
        drop(depot);
        self.put_all(&lists);
        frame
    }

    /// Gives a frame back, on a CPU.
    #[inline]
    pub fn give(&self, meta: Meta, cpu: usize, index: u32) {
        let own = self.own(cpu);
        let mut list = own.take();
        if list.count >= 2 * self.magazine {
            self.stow(meta, &mut list);
        }
        list.push(&meta[index as usize], index);
        own.put(list);
    }

    #[cold]
    fn stow(&self, meta: Meta, list: &mut List) {
        let magazine = list.cut(meta, self.magazine);
        self.depot.lock().push(meta, magazine);
    }

    /// Whether a frame can be taken, on a CPU.
    pub fn any(&self, cpu: usize) -> bool {
        let word = self.own(cpu).0.load(Ordering::Relaxed);
        (word != TAKEN && word != 0) || self.count() > 0
    }

    /// Frames that can be taken now.
    pub fn count(&self) -> u32 {
        // Only what is seen at the same time adds up.
        let lists = self.take_all();
        let depot = self.depot.lock().count(self.magazine);
        self.put_all(&lists);
        depot + lists.iter().map(|list| list.count).sum::<u32>()
    }
}

/// Frames that are being given back together: nobody else sees them before they are all there.
#[derive(Default)]
pub(crate) struct Batch {
    list: List,
    /// The first that was pushed, which is the last of the list.
    last: u32,
}

impl Batch {
    #[inline]
    pub fn push(&mut self, free: &Free, all: Meta, index: u32, meta: &FrameMeta) {
        if self.list.count == 0 {
            self.last = index;
        }
        self.list.push(meta, index);
        if self.list.count == free.magazine {
            free.depot.lock().push(all, core::mem::take(&mut self.list));
        }
    }

    /// Gives back what is left.
    pub fn end(&mut self, free: &Free, meta: Meta, cpu: usize) {
        let batch = core::mem::take(&mut self.list);
        if batch.count == 0 {
            return;
        }
        let own = free.own(cpu);
        let mut list = own.take();
        meta[self.last as usize].set_link(u64::from(list.head));
        list.head = batch.head;
        list.count += batch.count;
        if list.count > 2 * free.magazine {
            free.stow(meta, &mut list);
        }
        own.put(list);
    }
}
