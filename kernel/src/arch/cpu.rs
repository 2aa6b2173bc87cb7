//! The core itself: identification, features, waiting; and where it keeps what is its own.

use super::{heap, layout};
use aarch64_cpu::asm;
use aarch64_cpu::registers::*;
use core::arch::asm as instruction;
use core::cell::Cell;
use core::mem::offset_of;

/// Cores that are used at most.
pub const MAX_CPUS: usize = 16;

/// What a core has of its own at this level. TPIDR_EL1 holds its address, which is also that of
/// the scheduler's `Cpu`, whose first field it is.
#[repr(C)]
pub struct Local {
    number: usize,
    /// Where its first stack begins, and the one that reports the overflow of another.
    stack: Cell<*const u8>,
    emergency: Cell<*const u8>,
    /// TLBIs it has issued.
    pub(super) tlbis: Cell<u64>,
    /// Blocks of the heap for its next allocations.
    pub(super) blocks: heap::Blocks,
}

/// Offsets for assembly.
pub(super) const LOCAL_STACK: usize = offset_of!(Local, stack);
pub(super) const LOCAL_EMERGENCY: usize = offset_of!(Local, emergency);

impl Local {
    /// Of the core with this number, 0 being the boot core.
    pub const fn new(number: usize) -> Self {
        Self {
            number,
            stack: Cell::new(core::ptr::null()),
            emergency: Cell::new(super::trap::BOOT_EMERGENCY_TOP),
            tlbis: Cell::new(0),
            blocks: heap::NO_BLOCKS,
        }
    }

    /// Where the stack may be that it began with, on which its idle loop runs.
    pub fn first_stack(&self) -> core::ops::Range<u64> {
        let top = self.stack.get().addr() as u64;
        match top {
            // The boot core's.
            0 => layout::boot_stack()..layout::boot_stack() + 0x4000,
            _ => top - super::stack::SIZE..top,
        }
    }

    /// Gives it its stacks (their tops), before it starts.
    pub(super) fn set_stacks(&self, stack: u64, emergency: u64) {
        self.stack.set(stack as *const u8);
        self.emergency.set(emergency as *const u8);
    }
}

/// What this core has of its own. Meaningless as soon as the caller may have moved to another core:
/// that happens in `context::switch` only.
#[inline(always)]
pub fn local() -> *const Local {
    let local: *const Local;
    // SAFETY: reads a register. Not `pure`: another core's value after a switch is another value.
    unsafe {
        instruction!("mrs {}, tpidr_el1", out(reg) local, options(nomem, nostack, preserves_flags));
    }
    local
}

/// Runs `f` on this core's emergency stack: what may be needed at any depth of a thread's own, which
/// has no room for it, such as sending the trace. Nothing else is there but the report of a panic,
/// and then `f` runs where it is called.
pub fn with_room(f: extern "C" fn(&mut ())) {
    // SAFETY: this core's own, which stays: the kernel is not preempted.
    let top = unsafe { (*local()).emergency.get() }.addr();
    let sp: usize;
    // SAFETY: reads a register.
    unsafe { instruction!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    if (top - super::trap::EMERGENCY_SIZE..=top).contains(&sp) {
        return f(&mut ());
    }
    // SAFETY: the emergency stack is this core's own, is not in use (see above), and interrupts are
    // masked.
    unsafe { on_stack(top, &mut (), f) }
}

/// Runs `f` on another stack.
///
/// # Safety
/// `top` is the aligned end of a stack that nobody else uses until this returns; interrupts are
/// masked.
pub unsafe fn on_stack<T>(top: usize, data: &mut T, f: extern "C" fn(&mut T)) {
    // SAFETY: the caller's; `f` returns, and keeps x20 as every function does.
    unsafe {
        instruction!(
            "mov x20, sp",
            "mov sp, {top}",
            "blr {f}",
            "mov sp, x20",
            top = in(reg) top,
            f = in(reg) f,
            in("x0") data,
            out("x20") _,
            clobber_abi("C"),
        );
    }
}

/// Number of this core, counted from 0 (the boot core) in the order of starting.
#[inline(always)]
pub fn id() -> usize {
    // SAFETY: the head, or `secondary`, put the address of a static there; the number is constant.
    unsafe { (*local()).number }
}

/// MIDR_EL1.
pub fn midr() -> u64 {
    MIDR_EL1.get()
}

/// MPIDR_EL1 without the bits that are not affinity.
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// CTR_EL0: cache line sizes and what instruction fetches need.
#[inline]
pub fn ctr() -> u64 {
    let value: u64;
    // SAFETY: reads a constant register.
    unsafe { instruction!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, pure)) };
    value
}

/// Bits in an ASID: 16 where the core has them, else 8. The head set TCR_EL1.AS accordingly.
pub fn asid_bits() -> u8 {
    if TCR_EL1.is_set(TCR_EL1::AS) { 16 } else { 8 }
}

/// What programs may use, as Linux's AT_HWCAP says it. Not HWCAP_CPUID: reading ID registers at
/// EL0 traps, and is not emulated.
pub fn hwcap() -> u64 {
    // Field of ID_AA64ISAR0_EL1, its lowest value, bit of the HWCAP (Linux, asm/hwcap.h).
    const FEATURES: [(u32, u64, u32); 8] = [
        (4, 1, 3),   // AES
        (4, 2, 4),   // PMULL
        (8, 1, 5),   // SHA1
        (12, 1, 6),  // SHA2
        (16, 1, 7),  // CRC32
        (20, 2, 8),  // ATOMICS
        (28, 1, 12), // ASIMDRDM
        (44, 1, 20), // ASIMDDP
    ];
    const FP_ASIMD: u64 = 0b11;
    let features = ID_AA64ISAR0_EL1.get();
    FEATURES
        .iter()
        .filter(|(field, least, _)| features >> field & 0xf >= *least)
        .fold(FP_ASIMD, |all, (_, _, bit)| all | 1 << bit)
}

/// Whether PSTATE.PAN exists.
pub fn has_pan() -> bool {
    (ID_AA64MMFR1_EL1.get() >> 20) & 0xf != 0
}

/// Whether the interrupt controller has its CPU interface in system registers (GICv3).
pub fn has_gic_registers() -> bool {
    (ID_AA64PFR0_EL1.get() >> 24) & 0xf != 0
}

/// Sets up what every core needs beyond the head: FP for programs, the cycle counter, the counter
/// at EL0, PAN.
pub fn init() {
    CPACR_EL1.write(CPACR_EL1::FPEN::TrapNothing);
    // Programs read CNTVCT_EL0 and CNTFRQ_EL0, and nothing else of the timer.
    CNTKCTL_EL1.set(1 << 1);
    // SAFETY: the cycle counter counts, 64 bits wide, at EL0 and EL1; programs cannot reach the PMU.
    unsafe {
        instruction!(
            "msr pmuserenr_el0, xzr",
            "msr pmintenclr_el1, {all}",
            "msr pmccfiltr_el0, xzr",
            "msr pmcntenset_el0, {cycles}",
            "msr pmcr_el0, {control}",
            "msr mdscr_el1, xzr",
            "isb",
            all = in(reg) 0xffff_ffff_u64,
            cycles = in(reg) 1_u64 << 31,
            // E, C (reset), LC (overflow at 64 bits).
            control = in(reg) 1_u64 | 1 << 2 | 1 << 6,
            options(nostack)
        );
    }
    if has_pan() {
        // SAFETY: MSR PAN, #1 by its encoding, since the baseline does not know it. The kernel
        // reaches user memory by LDTR and STTR only, which PAN does not affect.
        unsafe { instruction!(".inst 0xd500419f", options(nostack)) };
    }
}

/// Runs `f`, which may touch user memory as the kernel touches its own.
pub fn with_user_access<R>(f: impl FnOnce() -> R) -> R {
    if !has_pan() {
        return f();
    }
    // SAFETY: MSR PAN, #0 and #1, as in `init`. In between interrupts are masked, and an abort comes
    // back here.
    unsafe { instruction!(".inst 0xd500409f", options(nostack)) };
    let result = f();
    // SAFETY: as above.
    unsafe { instruction!(".inst 0xd500419f", options(nostack)) };
    result
}

/// Sleeps until an interrupt is pending and lets it be taken: only for the idle loop, with the
/// interrupts masked (as they are everywhere else in the kernel).
pub fn wait_for_interrupt() {
    // WFI wakes for a masked interrupt too, so that none is lost between the caller's look at the
    // run queue and here.
    barrier();
    asm::wfi();
    // SAFETY: the handler saves everything; see `vectors.s`.
    unsafe {
        instruction!(
            "msr daifclr, #2",
            "isb",
            "msr daifset, #2",
            options(nostack)
        )
    };
}

fn barrier() {
    asm::barrier::dsb(asm::barrier::SY);
}

/// Completes stores, for a core that is started next.
pub fn publish() {
    barrier();
}

/// Makes what this core stored before visible to the others before what it reads next: for a store
/// and a load that another core makes the other way round.
#[inline]
pub fn fence() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// While another core does something that is over soon. YIELD, not ISB as in `spin_loop`: QEMU
/// goes on with another virtual CPU where it simulates them one at a time.
#[inline]
pub fn relax() {
    // SAFETY: a hint.
    unsafe { instruction!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Sleeps for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: masks interrupts; there is nothing left to handle them.
        unsafe { instruction!("msr daifset, #15", options(nostack)) };
        asm::wfi();
    }
}

/// Cleans and invalidates `[start, start + len)` to the point of coherency: for memory shared with
/// a core whose caches are off.
pub fn clean_to_memory(start: u64, len: u64) {
    let line = 4_u64 << ((ctr() >> 16) & 0xf);
    let mut at = start & !(line - 1);
    barrier();
    while at < start + len {
        // SAFETY: cleaning changes no contents; the address is mapped.
        unsafe { instruction!("dc civac, {}", in(reg) at, options(nostack)) };
        at += line;
    }
    barrier();
}
