//! Secondary cores: started one after the other, each with stacks of its own.
//!
//! They run a few instructions of the head with MMU and caches off, and touch no data there: the
//! tables that they turn the MMU on with are read by the walker, coherently.

use super::stack::KernelStack;
use super::{cpu, cpu::Local, layout, mmu, table, time};
use crate::board::{Board, StartMethod, psci};
use crate::{driver, process, watchdog};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// A core has this long, microseconds. It takes few; QEMU's wait for the host's scheduler, which may
/// have much else to do.
const PATIENCE: u64 = 3_000_000;

#[repr(C, align(4096))]
struct Root([AtomicU64; 512]);

/// The identity map of the head's page again, which no process's TTBR0 must have: for the moment
/// in which a core turns its MMU on.
#[unsafe(no_mangle)]
static IDENTITY_ROOT: Root = Root([const { AtomicU64::new(0) }; 512]);

/// What the core that is being started will have of its own. It takes it from there.
#[unsafe(no_mangle)]
static STARTING: AtomicPtr<Local> = AtomicPtr::new(ptr::null_mut());

/// Cores that run; their numbers are below it.
static ONLINE: AtomicUsize = AtomicUsize::new(1);

unsafe extern "C" {
    fn secondary_entry();
}

/// How many cores run.
#[inline]
pub fn online() -> usize {
    ONLINE.load(Ordering::Relaxed)
}

/// Starts the board's other cores one by one, up to `most` in all. The others are put to sleep: in
/// QEMU's spin table they would keep the host busy.
pub fn start_all(board: &Board, most: usize) {
    const TABLE: u64 = 3;
    let index = table::image_range().start >> 30 & 511;
    let level2 = table::image_physical(layout::boot_tables()) + 4096;
    IDENTITY_ROOT.0[index as usize].store(level2 | TABLE, Ordering::Relaxed);
    let entry = table::image_physical(secondary_entry as *const () as u64);
    let me = cpu::affinity();
    for core in board.cores().iter().filter(|core| core.affinity != me) {
        let number = online();
        let stacks = (number < most.min(cpu::MAX_CPUS))
            .then(|| KernelStack::new().zip(KernelStack::new()))
            .flatten();
        if let Some((stack, emergency)) = &stacks {
            let local = process::scheduler::local(number);
            local.set_stacks(stack.top(), emergency.top());
            STARTING.store(ptr::from_ref(local).cast_mut(), Ordering::Release);
        }
        cpu::publish();
        let asked = match core.start {
            StartMethod::Psci(conduit) => psci::cpu_on(conduit, core.affinity, entry),
            StartMethod::SpinTable(release) => release_core(board, release, entry),
            StartMethod::None => false,
        };
        let Some(stacks) = stacks else { continue };
        if asked {
            time::wait_for(PATIENCE, || online() > number);
        }
        // A core that comes later finds nothing, and sleeps for good.
        if STARTING.swap(ptr::null_mut(), Ordering::AcqRel).is_null() {
            // It is on its way, or here. The stacks are its.
            core::mem::forget(stacks);
            if !time::wait_for(PATIENCE, || online() > number) {
                defmt::warn!("a core got lost on its way: no more are started");
                return;
            }
        }
    }
}

/// Cores that have been stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// Stops this core for good, where it holds no lock.
pub fn stop() -> ! {
    STOPPED.fetch_add(1, Ordering::Release);
    cpu::halt()
}

/// Stops this core, which was in a program or idle when it was called.
pub fn answer() {
    watchdog::answer();
    stop()
}

/// Stops all other cores as soon as they leave the kernel, and waits for it, so many microseconds
/// at most.
pub fn stop_others(patience: u64) {
    let me = cpu::id();
    for other in (0..online()).filter(|&other| other != me) {
        driver::interrupt::call(other, driver::interrupt::Call::Stop);
    }
    time::wait_for(patience, || STOPPED.load(Ordering::Acquire) + 1 >= online());
}

/// Tells a core that waits in the firmware's spin table where to go.
fn release_core(board: &Board, release: u64, entry: u64) -> bool {
    if !board.is_ram(release) {
        return false;
    }
    let at = layout::linear(release);
    // SAFETY: the firmware's spin table, in RAM that is never given away, in the linear map;
    // aligned, as `is_ram` checked.
    unsafe { (at as *mut u64).write_volatile(entry) };
    cpu::clean_to_memory(at, 8);
    aarch64_cpu::asm::sev();
    true
}

/// Where a secondary core comes from the head to, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn secondary_main() -> ! {
    mmu::leave_identity_map();
    cpu::init();
    mmu::init();
    if cpu::asid_bits() < mmu::memory().asids.bits() {
        cpu::halt();
    }
    driver::interrupt::init_secondary();
    // The boot core waits for this, so one core at a time is here.
    ONLINE.store(cpu::id() + 1, Ordering::Release);
    process::scheduler::run_secondary()
}
