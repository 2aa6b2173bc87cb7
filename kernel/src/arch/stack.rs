//! Kernel stacks: 16 KiB each, above a guard that nothing maps.
//!
//! A slot is 32 KiB, its upper half the stack: bit 14 of a valid SP is set, which is how the
//! exception vectors tell an overflow.

use super::{layout, mmu, table};
use memory::Frame;
use spin::Mutex;

/// Bytes in a kernel stack.
pub const SIZE: u64 = 16 * 1024;
const SLOT: u64 = 2 * SIZE;
const PAGE: u64 = 4096;
const SLOTS: usize = ((layout::STACKS.end - layout::STACKS.start) / SLOT) as usize;

/// A bit per slot in use.
static USED: Mutex<[u64; SLOTS / 64]> = Mutex::new([0; SLOTS / 64]);

/// The stack that was dropped last, still mapped: fork after exit is the common order, and mapping
/// four pages and taking them out of the TLB again costs as much as the rest of a small fork's pages.
static SPARE: Mutex<Option<usize>> = Mutex::new(None);

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
            let mut used = USED.lock();
            let word = used.iter().position(|&word| word != u64::MAX)?;
            let bit = used[word].trailing_ones() as usize;
            used[word] |= 1 << bit;
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
        USED.lock()[self.slot / 64] &= !(1 << (self.slot % 64));
    }

    fn bottom(&self) -> u64 {
        layout::STACKS.start + self.slot as u64 * SLOT + SIZE
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
