//! Reference counts of physical frames, rebuilt from events.

use rustc_hash::FxHashMap;

const CHUNK: u64 = 512;

/// How many distinct translation tables map each frame. The zero page is not counted.
#[derive(Debug, Default)]
pub struct Frames {
    // Chunks, because neighbouring frames are used together and a map entry per frame is slow.
    chunks: FxHashMap<u64, Box<[u32; CHUNK as usize]>>,
}

impl Frames {
    /// Tables that map `frame` now.
    pub fn references(&self, frame: u64) -> u32 {
        self.chunks
            .get(&(frame / CHUNK))
            .map_or(0, |chunk| chunk[(frame % CHUNK) as usize])
    }

    /// One more; returns the new count.
    pub fn acquire(&mut self, frame: u64) -> u32 {
        let chunk = self
            .chunks
            .entry(frame / CHUNK)
            .or_insert_with(|| Box::new([0; CHUNK as usize]));
        let count = &mut chunk[(frame % CHUNK) as usize];
        *count = count.saturating_add(1);
        *count
    }

    /// One less; returns the new count, or `None` if there was none to drop.
    pub fn release(&mut self, frame: u64) -> Option<u32> {
        let count = self
            .chunks
            .get_mut(&(frame / CHUNK))?
            .get_mut((frame % CHUNK) as usize)?;
        *count = count.checked_sub(1)?;
        Some(*count)
    }
}
