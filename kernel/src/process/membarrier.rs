//! membarrier(2): a barrier on every CPU, for programs whose other threads go without.
//!
//! A CPU that is asked executes it when it is interrupted next: whatever its program did before, and
//! does afterwards, is in order with what the caller did. One that is in the kernel does so on its way
//! out; who asks answers others in the meantime, since interrupts are masked.

use crate::arch::cpu::MAX_CPUS;
use crate::arch::{cpu, secondary};
use crate::driver::interrupt::{self, Call};
use core::sync::atomic::{AtomicU64, Ordering};

/// Barriers that a CPU was asked for, and those that it has executed.
static ASKED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static DONE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Returns when every CPU has executed a barrier. The caller holds no lock.
pub fn everywhere() {
    cpu::fence();
    let me = cpu::id();
    let mut wanted = [0; MAX_CPUS];
    let others = || (0..secondary::online()).filter(|&other| other != me);
    for other in others() {
        wanted[other] = ASKED[other].fetch_add(1, Ordering::AcqRel) + 1;
        interrupt::call(other, Call::Reschedule);
    }
    for other in others() {
        while DONE[other].load(Ordering::Acquire) < wanted[other] {
            answer();
            crate::panic::be_silent();
            cpu::relax();
        }
    }
    cpu::fence();
}

/// This CPU, which is in no program, executes what it was asked for.
#[inline]
pub fn answer() {
    let me = cpu::id();
    let asked = ASKED[me].load(Ordering::Acquire);
    if DONE[me].load(Ordering::Relaxed) != asked {
        cpu::fence();
        DONE[me].store(asked, Ordering::Release);
    }
}
