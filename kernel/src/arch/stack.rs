//! Kernel stacks: 8 KiB each, above a guard that nothing maps. The deepest that the test programs
//! get is 4.2 KiB.
//!
//! A slot is 32 KiB, and the stack begins in the middle: bit 14 of a valid SP is set, which is how
//! the exception vectors tell an overflow.

use super::{layout, mmu, table};
use memory::{Frame, Lock, Rank};

/// Bytes in a kernel stack.
pub const SIZE: u64 = 8 * 1024;
const GUARD: u64 = 16 * 1024;
const SLOT: u64 = 2 * GUARD;
const PAGE: u64 = 4096;
const SLOTS: usize = ((layout::STACKS.end - layout::STACKS.start) / SLOT) as usize;

struct Slots {
    /// A bit per slot in use.
    used: [u64; SLOTS / 64],
    /// All words before this one are full.
    first: usize,
}

static SLOTS_USED: Lock<Slots> = Lock::new(
    Rank::Stacks,
    Slots {
        used: [0; SLOTS / 64],
        first: 0,
    },
);

/// The stack that was dropped last, still mapped: fork after exit is the common order, and mapping
/// two pages and taking them out of the TLB again costs as much as the rest of a small fork's pages.
static SPARE: Lock<Option<usize>> = Lock::new(Rank::Stacks, None);

/// A kernel stack; its memory goes back when it is dropped.
#[derive(Debug)]
pub struct KernelStack {
    slot: usize,
}

impl KernelStack {
    /// A new stack, or `None` when memory or slots are exhausted.
    pub fn new() -> Option<Self> {
        if let Some(slot) = SPARE.lock().take() {
            return Some(Self { slot });
        }
        let slot = {
            let mut slots = SLOTS_USED.lock();
            let mut words = slots.used.iter().skip(slots.first);
            slots.first += words.position(|&word| word != u64::MAX)?;
            let word = slots.first;
            let bit = slots.used[word].trailing_ones() as usize;
            slots.used[word] |= 1 << bit;
            word * 64 + bit
        };
        let stack = Self { slot };
        if stack.map().is_none() {
            stack.unmap();
            core::mem::forget(stack);
            return None;
        }
        Some(stack)
    }

    fn map(&self) -> Option<()> {
        for offset in (0..SIZE).step_by(PAGE as usize) {
            let frame = mmu::memory().alloc()?;
            let mapped =
                table::map_pages(self.bottom() + offset, frame.addr(), PAGE, table::KERNEL_RW);
            if mapped.is_err() {
                mmu::memory().free(frame);
                return None;
            }
        }
        Some(())
    }

    /// Gives back what is mapped, and the slot.
    fn unmap(&self) {
        for offset in (0..SIZE).step_by(PAGE as usize) {
            if let Some(physical) = table::unmap_page(self.bottom() + offset) {
                mmu::memory().free(Frame::containing(physical));
            }
        }
        let mut slots = SLOTS_USED.lock();
        slots.used[self.slot / 64] &= !(1 << (self.slot % 64));
        slots.first = slots.first.min(self.slot / 64);
    }

    fn bottom(&self) -> u64 {
        layout::STACKS.start + self.slot as u64 * SLOT + GUARD
    }

    /// One past the highest byte.
    pub fn top(&self) -> u64 {
        self.bottom() + SIZE
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut spare = SPARE.lock();
        if spare.is_none() {
            *spare = Some(self.slot);
            return;
        }
        drop(spare);
        self.unmap();
    }
}
