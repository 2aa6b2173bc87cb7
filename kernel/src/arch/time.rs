//! The generic timer's virtual counter, and the cycle counter.
//!
//! Virtual, not physical: it works at EL1 under every firmware and hypervisor without asking.

use aarch64_cpu::registers::*;
use core::arch::asm;

/// The GIC's number for the virtual timer: PPI 11.
pub const TIMER_INTID: u32 = 27;

/// Ticks since some moment before boot.
#[inline]
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter. The ISB keeps it from being read early; no memory clobber.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nostack, nomem)) };
    ticks
}

/// The same, when a few instructions more or less do not matter.
#[inline]
pub fn rough() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter; no memory clobber.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nostack, nomem)) };
    ticks
}

/// Ticks per second.
pub fn hz() -> u64 {
    CNTFRQ_EL0.get()
}

/// Cycles of this core since boot (guest instructions under QEMU's `-icount`).
#[inline]
pub fn cycles() -> u64 {
    let cycles: u64;
    // SAFETY: reads a counter; enabled by `cpu::init`.
    unsafe { asm!("mrs {}, pmccntr_el0", out(reg) cycles, options(nostack, nomem)) };
    cycles
}

/// Asks for a timer interrupt after so many ticks, in place of any asked for before.
pub fn set_timer(after_ticks: u64) {
    CNTV_CVAL_EL0.set(now().saturating_add(after_ticks));
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

/// Withdraws the interrupt asked for.
pub fn stop_timer() {
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}

/// Waits until `done` says so, but no longer than so many microseconds; what it said last.
pub fn wait_for(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = now() + hz() * microseconds / 1_000_000;
    loop {
        if done() {
            return true;
        }
        if now() > end {
            return false;
        }
        super::cpu::relax();
    }
}

/// Waits, busy.
pub fn delay(microseconds: u64) {
    let end = now() + hz() * microseconds / 1_000_000;
    while now() < end {
        core::hint::spin_loop();
    }
}
