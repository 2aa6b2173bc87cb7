//! TLB and cache maintenance, and the switch between address spaces.

use super::{heap, layout};
use aarch64_cpu::registers::{TTBR0_EL1, Writeable};
use core::alloc::Layout;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering};
use memory::{Barrier, Frame, Memory, Mmu, Tlbi};
use spin::Once;
use wire::event;

global_asm!(include_str!("copy.s"));

/// Repeat TLBI and DSB: Cortex-A76 erratum 1286807.
const REPEAT_TLBI: u32 = 1;
/// ISB after the DSB that publishes a descriptor: Cortex-A72 erratum 1387635.
const ISB_AFTER_PUBLISH: u32 = 1 << 1;
/// CTR_EL0.IDC: data need not be cleaned for instruction fetch.
const IDC: u32 = 1 << 2;
/// CTR_EL0.DIC: instruction caches need not be invalidated.
const DIC: u32 = 1 << 3;
/// VIPT instruction cache: IC IVAU at one alias does not reach the others.
const VIPT: u32 = 1 << 4;
/// Descriptor writes, barriers and TLBIs are recorded.
const TRACED: u32 = 1 << 5;
/// Copied pages are compared when they go (`amplification`).
const COMPARED: u32 = 1 << 6;

static FLAGS: AtomicU32 = AtomicU32::new(0);
static MEMORY: Once<Memory<Arch>> = Once::new();

/// The machine, as `memory` sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arch;

/// Decides by the core's identification what maintenance it needs: each core at its start, and all
/// do what any of them needs.
pub fn init() {
    let midr = super::cpu::midr();
    let (implementer, part) = (midr >> 24, (midr >> 4) & 0xfff);
    // Variant and revision, rNpM as 0xNM.
    let revision = ((midr >> 20) & 0xf) << 4 | (midr & 0xf);
    let mut flags = 0;
    if implementer == 0x41 {
        if part == 0xd0b && revision <= 0x30 {
            flags |= REPEAT_TLBI;
        }
        if part == 0xd08 && (revision <= 0x03 || revision == 0x10) {
            flags |= ISB_AFTER_PUBLISH;
        }
    }
    let ctr = super::cpu::ctr();
    if ctr & 1 << 28 != 0 {
        flags |= IDC;
    }
    if ctr & 1 << 29 != 0 {
        flags |= DIC;
    }
    if (ctr >> 14) & 3 == 2 {
        flags |= VIPT;
    }
    // Less maintenance only where no core needs it.
    const ABLE: u32 = IDC | DIC;
    let mut all = FLAGS.load(Ordering::Relaxed);
    if super::cpu::id() == 0 {
        all = flags;
    }
    let able = all & flags & ABLE;
    FLAGS.store((all | flags) & !ABLE | able, Ordering::Relaxed);
}

/// Installs the machine's memory. Once, at boot.
pub fn set_memory(memory: Memory<Arch>) -> &'static Memory<Arch> {
    MEMORY.call_once(|| memory)
}

/// The machine's memory. Whoever may come before boot has installed it asks [`try_memory`].
#[inline]
pub fn memory() -> &'static Memory<Arch> {
    debug_assert!(MEMORY.is_completed());
    // SAFETY: boot installs it before there is a process, another core or a heap that grows: see
    // `main`. Asking each time would cost every system call several times over.
    unsafe { MEMORY.get_unchecked() }
}

/// The machine's memory, once there is one.
pub fn try_memory() -> Option<&'static Memory<Arch>> {
    MEMORY.get()
}

/// Whether descriptor writes, barriers and TLBIs are recorded (`trace=mmu`).
pub fn set_traced(on: bool) {
    match on {
        true => FLAGS.fetch_or(TRACED, Ordering::Relaxed),
        false => FLAGS.fetch_and(!TRACED, Ordering::Relaxed),
    };
}

/// From now on pages that are copied are compared when they go.
pub fn set_compared() {
    FLAGS.fetch_or(COMPARED, Ordering::Relaxed);
}

/// Copies a page, off the record.
///
/// # Safety
///
/// The caller owns `to`, and nobody writes `from`.
pub unsafe fn keep_page(from: Frame, to: Frame) {
    // SAFETY: two frames of RAM in the linear map; the caller's condition.
    unsafe { copy_page(page(to), page(from)) }
}

/// How many bytes of two pages differ, and in how many lines of 64 bytes.
///
/// # Safety
///
/// Nobody writes either of them.
pub unsafe fn differences(one: Frame, other: Frame) -> (u16, u8) {
    // SAFETY: frames of RAM in the linear map, which is as aligned as any number; the caller's
    // condition.
    let [one, other] = [one, other].map(|frame| unsafe { &*page(frame).cast::<[[u64; 8]; 64]>() });
    let (mut bytes, mut lines) = (0, 0);
    for (one, other) in one.iter().zip(other) {
        let words = one.iter().zip(other).map(|(one, other)| one ^ other);
        let changed = words.flat_map(u64::to_ne_bytes).filter(|byte| *byte != 0);
        let changed = changed.count() as u16;
        bytes += changed;
        lines += u8::from(changed > 0);
    }
    (bytes, lines)
}

/// TLBI instructions this CPU has issued since boot.
#[inline]
pub fn tlbi_count() -> u64 {
    // SAFETY: this CPU's own, which nobody else touches.
    unsafe { (*super::cpu::local()).tlbis.get() }
}

/// Switches to the address space of `ttbr0` (ASID << 48 | root): no TLB flush.
#[inline]
pub fn activate(ttbr0: u64) {
    // The DSB completes TLBIs that the leaving thread issued: it may go on elsewhere, where
    // another DSB would wait for nothing. The root and its ASID change in one write (TCR.A1=0).
    // SAFETY: user translations only; the kernel runs from TTBR1.
    unsafe {
        asm!(
            "dsb ish",
            "msr ttbr0_el1, {0}",
            "isb",
            in(reg) ttbr0,
            options(nostack, preserves_flags)
        );
    }
    if traced() {
        record_activation(ttbr0);
    }
}

/// Leaves any address space: an empty root, ASID 0. No lazy TLB.
pub fn deactivate() {
    activate(reserved_ttbr0());
}

/// On a secondary core, once it runs at the linked address: forgets the identity map.
pub(super) fn leave_identity_map() {
    TTBR0_EL1.set(reserved_ttbr0());
    Arch.barrier(Barrier::Isb);
    // The identity map is global: it would hit in every address space.
    Arch.tlbi(Tlbi::Vmalle1);
    Arch.barrier(Barrier::DsbNsh);
    Arch.barrier(Barrier::Isb);
}

/// The TTBR0 value of no address space: the head's identity root, emptied, and ASID 0.
pub fn reserved_ttbr0() -> u64 {
    super::table::image_physical(layout::boot_tables())
}

/// Drops the head's identity map: from here on TTBR0 translates nothing until a process runs.
pub fn drop_identity_map() {
    let root = layout::boot_tables() as *mut u64;
    for index in 0..512 {
        // SAFETY: the head's level 1 table, in the image's data; nothing executes through it.
        unsafe { root.add(index).write_volatile(0) };
    }
    Arch.barrier(Barrier::DsbIshst);
    Arch.tlbi(Tlbi::Vmalle1Is);
    Arch.barrier(Barrier::DsbIsh);
    Arch.barrier(Barrier::Isb);
    TTBR0_EL1.set(reserved_ttbr0());
    Arch.barrier(Barrier::Isb);
}

/// A kernel page's entry changes: for the record.
pub(super) fn kernel_page(va: u64, old: u64, new: u64) {
    record(|| event::Event::KernelPage { va, old, new });
}

/// Makes new entries of the kernel visible to this CPU's walker and instructions. Nothing to
/// invalidate: invalid entries are not cached.
pub(super) fn publish_kernel_pages() {
    Arch.barrier(Barrier::DsbIshst);
    Arch.barrier(Barrier::Isb);
}

/// After a kernel page's entry was cleared: no CPU translates it any more.
pub(super) fn forget_kernel_page(va: u64) {
    Arch.barrier(Barrier::DsbIshst);
    Arch.tlbi(Tlbi::Vaae1Is { va });
    Arch.barrier(Barrier::DsbIsh);
    Arch.barrier(Barrier::Isb);
}

#[inline(always)]
fn has(flag: u32) -> bool {
    FLAGS.load(Ordering::Relaxed) & flag != 0
}

#[inline(always)]
fn traced() -> bool {
    has(TRACED)
}

#[inline(always)]
fn record(event: impl FnOnce() -> event::Event) {
    if traced() {
        crate::trace::mmu_event(event());
    }
}

#[inline(always)]
fn contents(frame: Frame, what: event::Contents) {
    if traced() {
        record_contents(frame, what);
    }
}

#[inline(always)]
fn entry(table: Frame, index: usize) -> *mut u64 {
    debug_assert!(index < 512);
    (layout::linear(table.addr()) as *mut u64).wrapping_add(index & 511)
}

#[inline(always)]
fn page(frame: Frame) -> *mut [u8; 4096] {
    layout::linear(frame.addr()) as *mut [u8; 4096]
}

unsafe extern "C" {
    fn copy_page(to: *mut [u8; 4096], from: *const [u8; 4096]);
    fn zero_page(page: *mut [u8; 4096]);
}

macro_rules! instruction {
    ($text:literal) => {
        // SAFETY: a barrier or a TLB invalidation changes no memory and no register.
        unsafe { asm!($text, options(nostack, preserves_flags)) }
    };
    ($text:literal, $operand:expr) => {
        // SAFETY: as above.
        unsafe { asm!($text, in(reg) $operand, options(nostack, preserves_flags)) }
    };
}

/// Inlined into each primitive of `memory`, whatever the compiler thinks of its length: what is left
/// is an instruction or two, and a look at whether somebody wants to know.
impl Mmu for Arch {
    #[inline(always)]
    fn read_descriptor(&self, table: Frame, index: usize) -> u64 {
        // SAFETY: a frame of RAM, in the linear map; the index is masked to the table.
        unsafe { entry(table, index).read_volatile() }
    }

    #[inline(always)]
    fn write_descriptor(&self, table: Frame, index: usize, level: u8, value: u64) {
        if traced() {
            record_descriptor(table, index, level, value);
        }
        // SAFETY: as in `read_descriptor`; `memory` owns the table and orders its changes.
        unsafe { entry(table, index).write_volatile(value) }
    }

    #[inline(always)]
    fn barrier(&self, barrier: Barrier) {
        #[cfg(feature = "checks")]
        if crate::check::inject::omits_barrier(barrier) {
            return;
        }
        // At once for both questions.
        let flags = FLAGS.load(Ordering::Relaxed);
        match barrier {
            Barrier::DmbIshst => instruction!("dmb ishst"),
            Barrier::DsbIshst => {
                instruction!("dsb ishst");
                if flags & ISB_AFTER_PUBLISH != 0 {
                    instruction!("isb");
                }
            }
            Barrier::DsbNshst => {
                instruction!("dsb nshst");
                if flags & ISB_AFTER_PUBLISH != 0 {
                    instruction!("isb");
                }
            }
            Barrier::DsbIsh => instruction!("dsb ish"),
            Barrier::DsbNsh => instruction!("dsb nsh"),
            Barrier::Isb => instruction!("isb"),
        }
        if flags & TRACED != 0 {
            record_barrier(barrier);
        }
    }

    #[inline(always)]
    fn tlbi(&self, op: Tlbi) {
        #[cfg(feature = "checks")]
        if crate::check::inject::omits_tlbi(op) {
            return;
        }
        issue(op);
        let flags = FLAGS.load(Ordering::Relaxed);
        let mut issued = 1;
        if flags & REPEAT_TLBI != 0 {
            // The DSB between the two has to reach as far as the invalidation does.
            instruction!("dsb ish");
            issue(op);
            issued = 2;
        }
        count_tlbis(issued);
        if flags & TRACED != 0 {
            record_tlbi(name(op), op.operand());
        }
    }

    /// As the default, but what it depends on is looked at once.
    #[inline]
    fn tlbi_leaves(&self, low: u64, high: u64, asid: u16) {
        if has(REPEAT_TLBI) || traced() {
            let pages = (low..high).step_by(4096);
            return pages.for_each(|va| self.tlbi(Tlbi::Vale1Is { va, asid }));
        }
        let mut operand = Tlbi::Vale1Is { va: low, asid }.operand();
        let last = Tlbi::Vale1Is { va: high, asid }.operand();
        let pages = last - operand;
        count_tlbis(pages);
        for _ in 0..pages / 8 {
            // SAFETY: as of `instruction`.
            unsafe {
                asm!(
                    ".rept 8",
                    "tlbi vale1is, {0}",
                    "add {0}, {0}, #1",
                    ".endr",
                    inout(reg) operand,
                    options(nostack, preserves_flags)
                );
            }
        }
        while operand < last {
            instruction!("tlbi vale1is, {}", operand);
            operand += 1;
        }
    }

    #[inline(always)]
    fn zero_frame(&self, frame: Frame) {
        // SAFETY: a frame of RAM that the caller owns, in the linear map.
        unsafe { zero_page(page(frame)) }
        contents(frame, event::Contents::Stored);
    }

    #[inline(always)]
    fn copy_frame(&self, from: Frame, to: Frame) {
        // SAFETY: two frames of RAM in the linear map; the caller owns `to`.
        unsafe { copy_page(page(to), page(from)) }
        if has(TRACED | COMPARED) {
            record_copy(to);
        }
    }

    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; 4096])) {
        // SAFETY: a frame of RAM that the caller owns while `f` runs, in the linear map.
        f(unsafe { &mut *page(frame) });
        contents(frame, event::Contents::Lent);
    }

    fn sync_icache(&self, frame: Frame) {
        let start = layout::linear(frame.addr());
        let ctr = super::cpu::ctr();
        let lines = |log2_words: u64| (start..start + 4096).step_by(4 << (log2_words & 0xf));
        if has(IDC) {
            instruction!("dsb ishst");
        } else {
            for line in lines(ctr >> 16) {
                instruction!("dc cvau, {}", line);
            }
            instruction!("dsb ish");
        }
        if !has(DIC) {
            if has(VIPT) {
                instruction!("ic ialluis");
            } else {
                for line in lines(ctr) {
                    instruction!("ic ivau, {}", line);
                }
            }
            instruction!("dsb ish");
        }
        instruction!("isb");
        contents(frame, event::Contents::Fetchable);
    }

    fn tables_shared(&self, parent: u32, child: u32, start: u64, end: u64) {
        crate::trace::emit(event::Event::TablesShared {
            parent_space: parent,
            child_space: child,
            start,
            end,
        });
    }

    fn table_owned(&self, space: u32, va: u64, copied: bool) {
        crate::trace::emit(event::Event::TableOwned {
            space,
            start: va & !((1 << 21) - 1),
            copied,
        });
    }

    fn make_ready(&self, layout: Layout) -> bool {
        heap::make_ready(layout)
    }

    #[inline(always)]
    fn cpu(&self) -> usize {
        super::cpu::id()
    }

    #[inline(always)]
    fn frame_event(&self, frame: Frame, freed: bool) {
        if has(TRACED | COMPARED) {
            record_frame(frame, freed);
        }
    }
}

#[inline(always)]
fn count_tlbis(issued: u64) {
    // SAFETY: this CPU's own, which nobody else touches; the kernel is not preempted.
    let count = unsafe { &(*super::cpu::local()).tlbis };
    count.set(count.get() + issued);
}

// Out of the way of what they record, which then needs no stack.

#[cold]
#[inline(never)]
fn record_contents(frame: Frame, what: event::Contents) {
    crate::trace::mmu_event(event::Event::Contents {
        frame: frame.number(),
        what,
    });
}

/// Before it is written.
#[cold]
#[inline(never)]
fn record_descriptor(table: Frame, index: usize, level: u8, new: u64) {
    crate::trace::mmu_event(event::Event::Descriptor {
        table: table.number(),
        index: index as u16,
        level,
        old: Arch.read_descriptor(table, index),
        new,
    });
}

#[cold]
#[inline(never)]
fn record_barrier(barrier: Barrier) {
    crate::trace::mmu_event(event::Event::Barrier(match barrier {
        Barrier::DmbIshst => event::Barrier::DmbIshst,
        Barrier::DsbIshst => event::Barrier::DsbIshst,
        Barrier::DsbNshst => event::Barrier::DsbNshst,
        Barrier::DsbIsh => event::Barrier::DsbIsh,
        Barrier::DsbNsh => event::Barrier::DsbNsh,
        Barrier::Isb => event::Barrier::Isb,
    }));
}

#[cold]
#[inline(never)]
fn record_activation(ttbr0: u64) {
    record(|| event::Event::Barrier(event::Barrier::DsbIsh));
    record(|| event::Event::Ttbr0 { value: ttbr0 });
    record(|| event::Event::Barrier(event::Barrier::Isb));
}

#[cold]
#[inline(never)]
fn record_tlbi(op: event::TlbiOp, operand: u64) {
    crate::trace::mmu_event(event::Event::Tlbi { op, operand });
}

#[inline(always)]
fn name(op: Tlbi) -> event::TlbiOp {
    match op {
        Tlbi::Vale1 { .. } => event::TlbiOp::Vale1,
        Tlbi::Vae1 { .. } => event::TlbiOp::Vae1,
        Tlbi::Vale1Is { .. } => event::TlbiOp::Vale1Is,
        Tlbi::Vae1Is { .. } => event::TlbiOp::Vae1Is,
        Tlbi::Vaale1Is { .. } => event::TlbiOp::Vaale1Is,
        Tlbi::Vaae1Is { .. } => event::TlbiOp::Vaae1Is,
        Tlbi::Aside1Is { .. } => event::TlbiOp::Aside1Is,
        Tlbi::Vmalle1 => event::TlbiOp::Vmalle1,
        Tlbi::Vmalle1Is => event::TlbiOp::Vmalle1Is,
    }
}

#[cold]
#[inline(never)]
fn record_frame(frame: Frame, freed: bool) {
    if freed && has(COMPARED) {
        crate::trace::amplification::compare(frame);
    }
    record(|| event::Event::Frame {
        frame: frame.number(),
        freed,
    });
}

#[cold]
#[inline(never)]
fn record_copy(to: Frame) {
    if has(COMPARED) {
        crate::trace::amplification::keep(to);
    }
    contents(to, event::Contents::Stored);
}

#[inline(always)]
fn issue(op: Tlbi) {
    let operand = op.operand();
    match op {
        Tlbi::Vale1 { .. } => instruction!("tlbi vale1, {}", operand),
        Tlbi::Vae1 { .. } => instruction!("tlbi vae1, {}", operand),
        Tlbi::Vale1Is { .. } => instruction!("tlbi vale1is, {}", operand),
        Tlbi::Vae1Is { .. } => instruction!("tlbi vae1is, {}", operand),
        Tlbi::Vaale1Is { .. } => instruction!("tlbi vaale1is, {}", operand),
        Tlbi::Vaae1Is { .. } => instruction!("tlbi vaae1is, {}", operand),
        Tlbi::Aside1Is { .. } => instruction!("tlbi aside1is, {}", operand),
        Tlbi::Vmalle1 => instruction!("tlbi vmalle1"),
        Tlbi::Vmalle1Is => instruction!("tlbi vmalle1is"),
    }
}
