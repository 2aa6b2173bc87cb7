//! AArch64: entry, exception vectors, system registers, translation, user copies, contexts.

pub mod context;
pub mod cpu;
pub mod fp;
pub mod heap;
pub mod layout;
pub mod mmu;
pub mod secondary;
pub mod setup;
pub mod stack;
pub mod table;
pub mod time;
pub mod trap;
pub mod uaccess;
pub mod unwind;
pub mod vdso;

pub use stack::KernelStack;

use core::arch::global_asm;

// SCTLR_EL1 with everything off: the bits that are RES1 on ARMv8.0.
const SCTLR_OFF: u64 = 0x30d0_0800;
// M, C, I; SA and SA0 (SP alignment); WXN (no page is writable and executable); DZE, UCT, nTWI and
// nTWE (EL0 may use DC ZVA, CTR_EL0, WFI, WFE); not UCI, not A. SPAN (bit 23) is the head's to set.
const SCTLR_ON: u64 = (SCTLR_OFF & !(1 << 23))
    | 1
    | 1 << 2
    | 1 << 12
    | 1 << 3
    | 1 << 4
    | 1 << 19
    | 1 << 14
    | 1 << 15
    | 1 << 16
    | 1 << 18;
// 39-bit halves (T0SZ = T1SZ = 25), 4 KiB granules, walks write-back inner shareable. A1, TBI, HA,
// HD, HPD are 0; the head adds IPS and AS.
const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 25 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30;

global_asm!(include_str!("string.s"));
global_asm!(
    include_str!("head.s"),
    SCTLR_OFF = const SCTLR_OFF,
    SCTLR_ON = const SCTLR_ON,
    TCR = const TCR,
    MAIR = const table::MAIR,
    RX = const table::KERNEL_RX,
    RO = const table::KERNEL_RO,
    RW = const table::KERNEL_RW,
    LOCAL_STACK = const cpu::LOCAL_STACK,
);
