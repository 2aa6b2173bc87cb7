//! Reference counts of physical frames, rebuilt from events.

use rustc_hash::FxHashMap;

use super::descriptor::Descriptor;

const CHUNK: u64 = 512;

/// Counts of neighbouring frames.
#[derive(Debug)]
struct Chunk {
    counts: [u32; CHUNK as usize],
    /// Those of them that are not 0. At 0 the chunk is dropped: what a trace has used in all is not kept.
    used: u32,
}

/// Frame numbers from here on stand for frames whose number the trace does not give (what an eager
/// fork copies to), until it does. No machine of ours has physical addresses that high.
const STAND_IN: u64 = 1 << 35;

/// How many distinct translation tables map each frame. The zero page is not counted.
#[derive(Debug, Default)]
pub struct Frames {
    // Chunks, because neighbouring frames are used together and a map entry per frame is slow.
    chunks: FxHashMap<u64, Box<Chunk>>,
    /// Real frames behind stand-ins that leaves still name.
    real: FxHashMap<u64, u64>,
    stand_ins: u64,
    /// Whether changes are kept.
    pub(super) keep_changes: bool,
    /// Frames whose references have changed, by their real numbers, since this was last emptied.
    pub(super) changed: Vec<u64>,
}

impl Frames {
    /// A stand-in for a frame whose number is not known.
    pub fn stand_in(&mut self) -> u64 {
        self.stand_ins += 1;
        STAND_IN + self.stand_ins
    }

    /// The frame's number, if it is known.
    pub fn known(&self, frame: u64) -> Option<u64> {
        if frame < STAND_IN {
            Some(frame)
        } else {
            self.real.get(&frame).copied()
        }
    }

    /// The descriptor with the frame's real number, if it is known.
    pub fn named(&self, descriptor: Descriptor) -> Descriptor {
        match self.known(descriptor.frame()) {
            Some(frame) => descriptor.at(frame),
            None => descriptor,
        }
    }

    /// The trace has named the frame that `stand_in` stands for.
    pub fn reveal(&mut self, stand_in: u64, frame: u64) {
        let count = self.references(stand_in);
        self.add(frame, count);
        self.real.insert(stand_in, frame);
    }

    /// Tables that map `frame` now.
    pub fn references(&self, frame: u64) -> u32 {
        let frame = self.known(frame).unwrap_or(frame);
        self.chunks
            .get(&(frame / CHUNK))
            .map_or(0, |chunk| chunk.counts[(frame % CHUNK) as usize])
    }

    /// One more; returns the new count.
    pub fn acquire(&mut self, frame: u64) -> u32 {
        let behind = self.behind(frame);
        self.changes(behind.unwrap_or(frame));
        let count = self.add(frame, 1);
        behind.map_or(count, |behind| self.add(behind, 1))
    }

    /// One less; returns the new count, or `None` if there was none to drop.
    pub fn release(&mut self, frame: u64) -> Option<u32> {
        let behind = self.behind(frame);
        self.changes(behind.unwrap_or(frame));
        let count = self.drop_one(frame)?;
        let Some(behind) = behind else {
            return Some(count);
        };
        if count == 0 {
            self.real.remove(&frame);
        }
        self.drop_one(behind)
    }

    fn changes(&mut self, frame: u64) {
        if self.keep_changes {
            self.changed.push(frame);
        }
    }

    /// The real frame behind a stand-in.
    fn behind(&self, frame: u64) -> Option<u64> {
        self.known(frame).filter(|known| *known != frame)
    }

    /// So many more; returns the new count.
    fn add(&mut self, frame: u64, more: u32) -> u32 {
        if more == 0 {
            return self.references(frame);
        }
        let chunk = self.chunks.entry(frame / CHUNK).or_insert_with(|| {
            Box::new(Chunk {
                counts: [0; CHUNK as usize],
                used: 0,
            })
        });
        let count = &mut chunk.counts[(frame % CHUNK) as usize];
        chunk.used += u32::from(*count == 0);
        *count = count.saturating_add(more);
        *count
    }

    /// One less; returns the new count, or `None` if there was none to drop.
    fn drop_one(&mut self, frame: u64) -> Option<u32> {
        let number = frame / CHUNK;
        let chunk = self.chunks.get_mut(&number)?;
        let slot = &mut chunk.counts[(frame % CHUNK) as usize];
        *slot = slot.checked_sub(1)?;
        let count = *slot;
        if count == 0 {
            chunk.used -= 1;
            if chunk.used == 0 {
                self.chunks.remove(&number);
            }
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_counted_as_what_it_stands_for() {
        let mut frames = Frames::default();
        let unknown = frames.stand_in();
        assert_eq!(frames.known(unknown), None);
        frames.acquire(unknown);
        frames.acquire(unknown);
        frames.reveal(unknown, 7);
        assert_eq!((frames.known(unknown), frames.references(7)), (Some(7), 2));
        // One of the two now names the frame itself.
        assert_eq!(frames.acquire(7), 3);
        assert_eq!(frames.release(unknown), Some(2));
        assert_eq!(frames.acquire(unknown), 3);
        assert_eq!(frames.release(unknown), Some(2));
        assert_eq!(frames.release(unknown), Some(1));
        assert_eq!(frames.known(unknown), None);
        assert_eq!(frames.release(7), Some(0));
        assert_eq!(frames.release(7), None);
        assert!(frames.chunks.is_empty());
    }
}
