//! Address space identifiers: handed out by generation, so that there may be more address spaces
//! than numbers.
//!
//! An address space has a number of the current *generation*, or of an old one. Only the former
//! may run. When the numbers are used up, a new generation begins (rollover): all numbers are free
//! again but those that some CPU runs with, since its TLB goes on being filled under them. Those
//! address spaces keep their numbers; every other one gets a number when it next runs. Before a CPU
//! first runs with a number of the new generation it empties its own TLB, so that no entry of a
//! number's former owner is left. No CPU has to be interrupted or waited for.
//!
//! The scheme is that of Linux (arch/arm64/mm/context.c), with one difference: the number of an
//! address space that has ended is free at once, since its end flushes it everywhere. Rollovers
//! thus need more *live* address spaces than numbers.
//!
//! A TLBI must read the number after the DSB that publishes the descriptors it is about: another
//! CPU may renumber the address space at any time, unless it runs here. Then either the TLBI has
//! the new number, or the other CPU's walks under the new number find the new descriptors.
//! (`change` does; it is handed [`Context`]s, not numbers.)

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::OutOfMemory;
use crate::change::{Flushed, forget_all_local};
use crate::frame::Frame;
use crate::lock::{Lock, Rank};
use crate::mmu::Mmu;
use crate::sync::AtomicU64;

/// An address space's number: generation << 16 | ASID. It lives in its root table's metadata, so
/// that a CPU can switch to the address space without its lock. 0: none.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Context(AtomicU64);

impl Context {
    pub const fn new() -> Context {
        Context(AtomicU64::new(0))
    }

    /// The ASID, as of now.
    #[inline]
    pub fn asid(&self) -> u16 {
        self.0.load(Ordering::Relaxed) as u16
    }

    /// The 64 bits, for a frame that is no root table.
    #[inline]
    pub fn raw(&self) -> &AtomicU64 {
        &self.0
    }
}

/// What a CPU needs to run an address space: its root table, and where its number is. Valid as
/// long as the address space lives.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    pub(crate) frame: Frame,
    pub(crate) context: &'static Context,
}

impl Root {
    /// The level 1 table.
    #[inline]
    pub fn frame(self) -> Frame {
        self.frame
    }

    /// The ASID that the address space ran with last, or will run with: it may change when it next
    /// runs, but not while it runs anywhere.
    #[inline]
    pub fn asid(self) -> u16 {
        self.context.asid()
    }

    /// The value of TTBR0_EL1: ASID and root in one write (TCR_EL1.A1 = 0).
    #[inline]
    pub fn ttbr0(self) -> u64 {
        u64::from(self.asid()) << 48 | self.frame.addr()
    }
}

/// A number that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The ASID.
    pub asid: u16,
    /// Its generation: rollovers since boot, plus one.
    pub generation: u64,
}

/// One CPU. On a cache line of its own: it is written at every switch.
#[repr(align(64))]
#[derive(Default)]
struct Cpu {
    /// The number it runs with, or ran with last; 0 from a rollover to the CPU's next switch.
    active: AtomicU64,
}

struct Numbers {
    /// A bit per ASID of this generation: taken.
    words: Vec<u64>,
    /// Where the next search starts: numbers are reused as late as possible.
    next: usize,
    free: u32,
    /// By CPU, the number it ran with at the last rollover.
    reserved: Vec<u64>,
    /// By CPU, whether it has to empty its TLB before it runs with a number of this generation.
    pending: Vec<bool>,
}

/// The ASIDs of the machine. Number 0 belongs to the reserved, empty root.
pub struct AsidPool {
    bits: u8,
    generation: AtomicU64,
    cpus: Vec<Cpu>,
    numbers: Lock<Numbers>,
}

impl AsidPool {
    /// A pool of `bits` bits, for so many CPUs. There must be more numbers than CPUs, or a rollover
    /// would free none: too few bits are too few.
    pub(crate) fn new(bits: u8, cpus: usize) -> Result<AsidPool, OutOfMemory> {
        let least = (cpus + 2).next_power_of_two().trailing_zeros() as u8;
        let bits = bits.clamp(least.clamp(1, 16), 16);
        let mut numbers = Numbers {
            words: filled((1usize << bits).div_ceil(64), || 0)?,
            next: 0,
            free: 0,
            reserved: filled(cpus, || 0)?,
            pending: filled(cpus, || false)?,
        };
        numbers.clear(bits);
        Ok(AsidPool {
            bits,
            generation: AtomicU64::new(1),
            cpus: filled(cpus, Cpu::default)?,
            numbers: Lock::new(Rank::Asids, numbers),
        })
    }

    /// Bits of an ASID.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// ASIDs that can be handed out before the next rollover.
    pub fn free_count(&self) -> u32 {
        self.numbers.lock().free
    }

    /// The current generation: rollovers since boot, plus one.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// A first number for an address space that nobody runs yet.
    pub(crate) fn assign(&self, context: &Context) {
        let mut numbers = self.numbers.lock();
        let id = self.allocate(&mut numbers);
        context.0.store(id, Ordering::Relaxed);
    }

    /// Makes an address space ready to run on a CPU, which is the one that executes this.
    #[inline]
    pub(crate) fn activate<M: Mmu>(
        &self,
        mmu: &M,
        context: &Context,
        cpu: usize,
    ) -> Option<Assigned> {
        let id = context.0.load(Ordering::Relaxed);
        let active = &self.cpus[cpu].active;
        let was = active.load(Ordering::Relaxed);
        // What is active here is of this generation: a rollover would have cleared it.
        if was == id && id != 0 {
            return None;
        }
        // A rollover on another CPU either finds the new value in `active`, and keeps it for this
        // address space, or has put a 0 there, and the exchange fails.
        if was != 0
            && id >> 16 == self.generation.load(Ordering::Acquire)
            && active
                .compare_exchange(was, id, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            return None;
        }
        self.activate_slowly(mmu, context, cpu)
    }

    #[cold]
    fn activate_slowly<M: Mmu>(&self, mmu: &M, context: &Context, cpu: usize) -> Option<Assigned> {
        let mut numbers = self.numbers.lock();
        let old = context.0.load(Ordering::Relaxed);
        let mut id = old;
        if old >> 16 != self.generation() {
            id = match self.keep(&mut numbers, old) {
                Some(kept) => kept,
                None => self.allocate(&mut numbers),
            };
            context.0.store(id, Ordering::Relaxed);
        }
        if core::mem::take(&mut numbers.pending[cpu]) {
            forget_all_local(mmu);
        }
        self.cpus[cpu].active.store(id, Ordering::Release);
        (id != old).then_some(Assigned {
            asid: id as u16,
            generation: id >> 16,
        })
    }

    /// The same number under the new generation, for an address space that ran somewhere at the
    /// rollover: that CPU's TLB holds its entries.
    fn keep(&self, numbers: &mut Numbers, old: u64) -> Option<u64> {
        let new = self.generation() << 16 | old & 0xffff;
        let mut found = false;
        // All CPUs that ran it: each copy must survive the next rollover.
        for reserved in numbers.reserved.iter_mut().filter(|id| **id == old) {
            *reserved = new;
            found = true;
        }
        found.then_some(new)
    }

    fn allocate(&self, numbers: &mut Numbers) -> u64 {
        let number = match numbers.take(self.bits) {
            Some(number) => number,
            None => {
                self.roll_over(numbers);
                // At most one number per CPU is taken now, and there are more.
                numbers.take(self.bits).expect("more ASIDs than CPUs")
            }
        };
        self.generation() << 16 | number
    }

    fn roll_over(&self, numbers: &mut Numbers) {
        self.generation.fetch_add(1, Ordering::Release);
        numbers.clear(self.bits);
        for cpu in 0..self.cpus.len() {
            let active = self.cpus[cpu].active.swap(0, Ordering::AcqRel);
            // 0: it has not switched since the last rollover, and still runs what it ran then.
            if active != 0 {
                numbers.reserved[cpu] = active;
            }
            let number = numbers.reserved[cpu] as u16;
            numbers.mark(number);
            numbers.pending[cpu] = true;
        }
    }

    /// The end of an address space that runs nowhere and is flushed everywhere.
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn release(&self, context: &Context, _: &Flushed) {
        leave_out!("ASID");
        let mut numbers = self.numbers.lock();
        let id = context.0.swap(0, Ordering::Relaxed);
        let mut ours = id >> 16 == self.generation();
        for reserved in numbers
            .reserved
            .iter_mut()
            .filter(|reserved| **reserved == id)
        {
            *reserved = 0;
            ours = true;
        }
        if ours {
            numbers.unmark(id as u16);
        }
    }
}

impl Numbers {
    /// All are free but number 0.
    fn clear(&mut self, bits: u8) {
        let count = 1usize << bits;
        self.words.fill(0);
        if count < 64 {
            self.words[0] = u64::MAX << count;
        }
        self.words[0] |= 1;
        self.free = count as u32 - 1;
    }

    fn mark(&mut self, number: u16) {
        let (word, bit) = (usize::from(number) / 64, 1 << (number % 64));
        self.free -= u32::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    fn unmark(&mut self, number: u16) {
        let (word, bit) = (usize::from(number) / 64, 1 << (number % 64));
        debug_assert_ne!(self.words[word] & bit, 0, "an ASID is given back twice");
        self.words[word] &= !bit;
        self.free += 1;
    }

    fn take(&mut self, bits: u8) -> Option<u64> {
        if self.free == 0 {
            return None;
        }
        let (mut at, mut mask) = (self.next / 64, u64::MAX << (self.next % 64));
        loop {
            let free = !self.words[at] & mask;
            if free != 0 {
                let number = at * 64 + free.trailing_zeros() as usize;
                self.mark(number as u16);
                self.next = (number + 1) % (1 << bits);
                return Some(number as u64);
            }
            (at, mask) = ((at + 1) % self.words.len(), u64::MAX);
        }
    }
}

fn filled<T>(count: usize, value: impl FnMut() -> T) -> Result<Vec<T>, OutOfMemory> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
    list.resize_with(count, value);
    Ok(list)
}
