//! The core: its registers, its clock, its memory.

use chain::Checksum;
use core::arch::asm;

/// Reads a system register.
#[macro_export]
macro_rules! register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register of the level we are at, or of one below.
        unsafe {
            core::arch::asm!(
                concat!("mrs {}, ", $name),
                out(reg) value,
                options(nomem, nostack, preserves_flags)
            )
        };
        value
    }};
}

/// MIDR_EL1.
pub fn midr() -> u64 {
    register!("midr_el1")
}

/// The exception level.
pub fn level() -> u8 {
    (register!("CurrentEL") >> 2) as u8 & 3
}

/// The counter's ticks.
pub fn now() -> u64 {
    // SAFETY: a barrier: the counter is not read early.
    unsafe { asm!("isb", options(nostack)) };
    register!("cntpct_el0")
}

/// Microseconds from one time to another.
pub fn passed(from: u64, to: u64) -> u64 {
    let hz = register!("cntfrq_el0").max(1);
    to.wrapping_sub(from).saturating_mul(1_000_000) / hz
}

/// Lets so many microseconds pass.
pub fn wait(microseconds: u64) {
    let start = now();
    while passed(start, now()) < microseconds {
        core::hint::spin_loop();
    }
}

/// Stores bytes in memory that `chain::may_write` allows.
pub fn store(address: u64, bytes: &[u8]) {
    for (index, &byte) in bytes.iter().enumerate() {
        // SAFETY: RAM that is neither ours nor the firmware's, as the caller checked.
        unsafe { ((address as usize + index) as *mut u8).write_volatile(byte) };
    }
}

/// The CRC of such memory.
pub fn checksum(address: u64, len: u64) -> u32 {
    let mut checksum = Checksum::new();
    for at in address..address + len {
        // SAFETY: as in `store`.
        checksum.take(&[unsafe { (at as *const u8).read_volatile() }]);
    }
    checksum.finish()
}

/// Sleeps for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: a hint; interrupts are masked.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}
