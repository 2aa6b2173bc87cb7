//! Sets of physical address ranges.

use core::ops::Range;

const CAPACITY: usize = 48;

/// A sorted set of disjoint, non-adjacent ranges. Bounded: what does not fit is left out, which
/// for memory means that it is not used.
#[derive(Clone, Debug)]
pub struct Ranges {
    ranges: [Range<u64>; CAPACITY],
    len: usize,
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self {
            ranges: [const { 0..0 }; CAPACITY],
            len: 0,
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges[..self.len].iter().cloned()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether all of `range` is in the set.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        self.iter()
            .any(|has| has.start <= range.start && range.end <= has.end)
    }

    /// Adds a range, merging it with those it touches.
    pub fn add(&mut self, range: Range<u64>) {
        let mut range = range;
        if range.is_empty() {
            return;
        }
        let mut kept = Self::new();
        for has in self.iter() {
            if has.end < range.start || range.end < has.start {
                kept.push(has);
            } else {
                range = range.start.min(has.start)..range.end.max(has.end);
            }
        }
        kept.push(range);
        kept.ranges[..kept.len].sort_unstable_by_key(|range| range.start);
        *self = kept;
    }

    /// Takes a range away.
    pub fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut kept = Self::new();
        for has in self.iter() {
            kept.push(has.start..has.end.min(range.start));
            kept.push(has.start.max(range.end)..has.end);
        }
        *self = kept;
    }

    fn push(&mut self, range: Range<u64>) {
        // In both uses a range that is cut away entirely comes out empty or reversed.
        if range.start < range.end && self.len < CAPACITY {
            self.ranges[self.len] = range;
            self.len += 1;
        }
    }

    /// Shrinks every range to whole pages.
    pub fn whole_pages(&self) -> Self {
        let mut pages = Self::new();
        for range in self.iter() {
            pages.push(range.start.next_multiple_of(4096)..range.end & !4095);
        }
        pages
    }

    /// Cuts `bytes` (whole pages) off the first range that has them.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = bytes.next_multiple_of(4096);
        let start = self
            .iter()
            .find(|range| range.end - range.start >= bytes)?
            .start;
        self.remove(&(start..start + bytes));
        Some(start)
    }
}
