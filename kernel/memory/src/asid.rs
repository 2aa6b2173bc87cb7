//! Address space identifiers: one per live address space, handed out again only after the TLBs
//! have forgotten it.

use alloc::vec::Vec;

use spin::Mutex;

use crate::OutOfMemory;
use crate::change::Flushed;

/// An ASID that belongs to one address space. Not `Copy`: it is given back once.
#[derive(Debug)]
pub(crate) struct Asid(u16);

impl Asid {
    #[inline]
    pub fn number(&self) -> u16 {
        self.0
    }
}

struct Used {
    /// A bit per ASID.
    words: Vec<u64>,
    /// Where the next search starts: numbers are reused as late as possible.
    next: usize,
    free: u32,
}

/// The ASIDs of the machine. Number 0 belongs to the reserved, empty root.
pub struct AsidPool {
    bits: u8,
    used: Mutex<Used>,
}

impl AsidPool {
    pub(crate) fn new(bits: u8) -> Result<AsidPool, OutOfMemory> {
        let bits = bits.clamp(1, 16);
        let count = 1usize << bits;
        let mut words = Vec::new();
        words
            .try_reserve_exact(count.div_ceil(64))
            .map_err(|_| OutOfMemory)?;
        words.resize(count.div_ceil(64), 0u64);
        if count < 64 {
            words[0] = u64::MAX << count;
        }
        words[0] |= 1;
        Ok(AsidPool {
            bits,
            used: Mutex::new(Used {
                words,
                next: 0,
                free: count as u32 - 1,
            }),
        })
    }

    /// Bits of an ASID.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// ASIDs that can be handed out now.
    pub fn free_count(&self) -> u32 {
        self.used.lock().free
    }

    pub(crate) fn allocate(&self) -> Option<Asid> {
        let mut used = self.used.lock();
        if used.free == 0 {
            return None;
        }
        let count = 1usize << self.bits;
        let (mut at, mut mask) = (used.next / 64, u64::MAX << (used.next % 64));
        loop {
            let free = !used.words[at] & mask;
            if free != 0 {
                let bit = free.trailing_zeros();
                let number = at * 64 + bit as usize;
                used.words[at] |= 1 << bit;
                used.next = (number + 1) % count;
                used.free -= 1;
                return Some(Asid(number as u16));
            }
            (at, mask) = ((at + 1) % used.words.len(), u64::MAX);
        }
    }

    pub(crate) fn release(&self, asid: Asid, _: &Flushed) {
        let mut used = self.used.lock();
        let (word, bit) = (usize::from(asid.0) / 64, asid.0 % 64);
        debug_assert_ne!(
            used.words[word] & 1 << bit,
            0,
            "an ASID is given back twice"
        );
        used.words[word] &= !(1 << bit);
        used.free += 1;
    }
}
