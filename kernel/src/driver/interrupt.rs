//! The boards' interrupt controllers. In use are the virtual timer's interrupt, that of the UART that
//! carries the wire, and those by which the cores call each other.

use super::gicv2::GicV2;
use crate::arch::cpu::MAX_CPUS;
use crate::arch::time::TIMER_INTID;
use crate::arch::{cpu, table};
use crate::board::{Board, InterruptController};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::{Mutex, Once};

/// Why one core interrupts another. TLBs are never a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// There is a thread to run.
    Reschedule = 0,
    /// The machine ends.
    Stop = 1,
}

enum Controller {
    V2(GicV2),
    /// Locked at each core's start; after that only system registers are needed.
    V3(Mutex<GicV3<'static>>),
    /// The mapped base of the BCM2836's.
    Bcm2836(u64),
}

static CONTROLLER: Once<Controller> = Once::new();
/// The UART's interrupt; none, if the controller has no number for it.
static UART_INTID: Once<u32> = Once::new();

/// How each core is named to the controller: GICv2's mask, GICv3's affinity, or the BCM2836's number.
static TARGETS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

// BCM2836 local controller (QA7 document, revision 3.4): per core, 4 bytes, or 16 for mailboxes.
const TIMER_CONTROL: u64 = 0x40;
const MAILBOX_CONTROL: u64 = 0x50;
const IRQ_SOURCE: u64 = 0x60;
const MAILBOX_SET: u64 = 0x80;
const MAILBOX_CLEAR: u64 = 0xc0;
const VIRTUAL_TIMER: u32 = 1 << 3;
const MAILBOX: u32 = 1 << 4;

// GICv3 distributor (Arm IHI 0069, 12.9): 8 bytes per interrupt, the core that gets it.
const GICD_IROUTER: u64 = 0x6000;

/// Sets the controller up, and lets the boot core's interrupts through.
pub fn init(board: &Board) -> Result<(), &'static str> {
    let mut routes = 0;
    let controller = match board.interrupts.clone() {
        Some(InterruptController::GicV2 { distributor, cpu }) => {
            Controller::V2(GicV2::new(distributor, cpu).map_err(|_| "the GIC cannot be mapped")?)
        }
        Some(InterruptController::GicV3 {
            distributor,
            redistributors,
        }) => {
            let (gic, distributor) = new_v3(distributor, redistributors)?;
            routes = distributor + GICD_IROUTER;
            Controller::V3(Mutex::new(gic))
        }
        Some(InterruptController::Bcm2836(at)) => Controller::Bcm2836(
            table::map_device(at, 0x100).map_err(|_| "no room to map the controller")?,
        ),
        None => return Err("no interrupt controller that we know"),
    };
    let controller = CONTROLLER.call_once(|| controller);
    let timer = match controller {
        Controller::Bcm2836(_) => VIRTUAL_TIMER.trailing_zeros(),
        _ => TIMER_INTID,
    };
    if board.timer_interrupt.is_some_and(|number| number != timer) {
        return Err("the virtual timer has another interrupt than on every machine that we know");
    }
    if let Controller::V3(gic) = controller {
        // Redistributors included. Every core's interrupts are disabled until it comes.
        gic.lock().setup(0);
    }
    open(controller)?;
    if let Some(intid) = board.wire_interrupt {
        open_uart(controller, intid, routes)?;
    }
    Ok(())
}

/// Lets the UART's interrupt through, to this core.
fn open_uart(controller: &Controller, intid: u32, routes: u64) -> Result<(), &'static str> {
    match controller {
        Controller::V2(gic) => {
            let target = TARGETS[cpu::id()].load(Ordering::Relaxed);
            gic.enable_shared(intid, target as u8);
        }
        Controller::V3(gic) => {
            let interrupt = IntId::spi(intid - 32);
            let route = routes + 8 * u64::from(intid);
            // SAFETY: the mapped distributor's 64-bit register for this interrupt.
            unsafe { (route as *mut u64).write_volatile(cpu::affinity()) };
            let mut gic = gic.lock();
            gic.set_interrupt_priority(interrupt, None, 0x80)
                .and_then(|()| gic.enable_interrupt(interrupt, None, true))
                .map_err(|_| "the UART's interrupt cannot be enabled")?;
        }
        // It knows the cores' own interrupts alone.
        Controller::Bcm2836(_) => return Ok(()),
    }
    UART_INTID.call_once(|| intid);
    Ok(())
}

/// Whether the UART's interrupt comes when it has received something and is told to say so.
pub fn has_uart() -> bool {
    UART_INTID.get().is_some()
}

/// Lets the interrupts of this core, which is not the boot core, through. It goes without if it
/// cannot be: then nothing will wake it.
pub fn init_secondary() {
    if let Some(controller) = CONTROLLER.get()
        && open(controller).is_err()
    {
        cpu::halt();
    }
}

fn open(controller: &Controller) -> Result<(), &'static str> {
    let target = match controller {
        Controller::V2(gic) => {
            let target = gic.open();
            gic.enable(Call::Reschedule as u32);
            gic.enable(Call::Stop as u32);
            gic.enable(TIMER_INTID);
            target.into()
        }
        Controller::V3(gic) => {
            open_v3(&mut gic.lock()).ok_or("the core's part of the GIC cannot be found")?;
            cpu::affinity()
        }
        &Controller::Bcm2836(base) => {
            let core = cpu::affinity() & 3;
            write(base + TIMER_CONTROL + 4 * core, VIRTUAL_TIMER);
            write(base + MAILBOX_CONTROL + 4 * core, 1);
            core
        }
    };
    TARGETS[cpu::id()].store(target, Ordering::Release);
    Ok(())
}

/// The controller, with its redistributors, and the mapped distributor.
fn new_v3(
    distributor: u64,
    redistributors: Range<u64>,
) -> Result<(GicV3<'static>, u64), &'static str> {
    if !cpu::has_gic_registers() {
        return Err("a GICv3 without system registers");
    }
    const UNMAPPED: &str = "the GIC cannot be mapped";
    let gicd = table::map_device(distributor, 0x1_0000).map_err(|_| UNMAPPED)?;
    // A redistributor is two frames of 64 KiB, or four with GICv4.
    const LEAST: u64 = 0x2_0000;
    let len = (redistributors.end - redistributors.start).min(MAX_CPUS as u64 * 2 * LEAST);
    let count = (len / LEAST).min(MAX_CPUS as u64);
    let gicr = table::map_device(redistributors.start, len).map_err(|_| UNMAPPED)?;
    let distributor = gicd;
    let gicd = NonNull::new(gicd as *mut Gicd).ok_or(UNMAPPED)?;
    let gicr = NonNull::new(gicr as *mut GicrSgi).ok_or(UNMAPPED)?;
    let new = |count| {
        // SAFETY: mapped as device memory just now, for good, and nobody else has the addresses.
        unsafe { GicV3::new(UniqueMmioPointer::new(gicd), gicr, count) }
            .map_err(|_| "a GICv3 without redistributors")
    };
    // The region may have room for more redistributors than there are: the last one says so.
    let mut gic = new(count as usize)?;
    let mut found = 0;
    while found < count as usize {
        let Ok(typer) = gic.gicr_typer(found) else {
            break;
        };
        found += 1;
        if typer.last_redistributor() {
            break;
        }
    }
    Ok((new(found)?, distributor))
}

/// What `setup` does for the boot core.
fn open_v3(gic: &mut GicV3<'static>) -> Option<()> {
    let me = cpu::affinity();
    let index = (0..MAX_CPUS).find(|&index| {
        gic.gicr_typer(index)
            .is_ok_and(|typer| typer.core_mpidr() == me)
    })?;
    gic.init_cpu(index);
    let calls = [Call::Reschedule, Call::Stop].map(|call| IntId::sgi(call as u32));
    for interrupt in calls.into_iter().chain([IntId::ppi(TIMER_INTID - 16)]) {
        gic.set_interrupt_priority(interrupt, Some(index), 0x80)
            .ok()?;
        gic.enable_interrupt(interrupt, Some(index), true).ok()?;
    }
    GicCpuInterface::set_priority_mask(0xff);
    GicCpuInterface::enable_group1(true);
    Some(())
}

/// Interrupts another core, which may be asleep.
pub fn call(number: usize, call: Call) {
    let target = TARGETS[number].load(Ordering::Acquire);
    // What the other core is to find is stored before it is interrupted.
    cpu::publish();
    match CONTROLLER.get() {
        Some(Controller::V2(gic)) => gic.send(call as u32, target as u32),
        Some(Controller::V3(_)) => {
            let [aff0, affinity1, affinity2, _, affinity3, ..] = target.to_le_bytes();
            let target = SgiTarget::List {
                affinity3,
                affinity2,
                affinity1,
                target_list: 1 << (aff0 & 15),
            };
            // It cannot fail: the number is one of software's interrupts.
            let _ = GicCpuInterface::send_sgi(
                IntId::sgi(call as u32),
                target,
                SgiTargetGroup::CurrentGroup1,
            );
        }
        Some(&Controller::Bcm2836(base)) => {
            write(base + MAILBOX_SET + 16 * target, 1 << call as u32);
        }
        None => {}
    }
}

/// Handles every pending interrupt: the timer's, the UART's, and `stop` for another core's
/// [`Call::Stop`]; to have been woken is all that [`Call::Reschedule`] is for.
pub fn handle(mut timer: impl FnMut(), mut uart: impl FnMut(), mut stop: impl FnMut()) {
    let is_uart = |intid| UART_INTID.get() == Some(&intid);
    const STOP: u32 = Call::Stop as u32;
    match CONTROLLER.get() {
        Some(Controller::V2(gic)) => {
            while let Some(iar) = gic.acknowledge() {
                match iar & 0x3ff {
                    TIMER_INTID => timer(),
                    STOP => {
                        gic.end(iar);
                        stop();
                        continue;
                    }
                    intid if is_uart(intid) => uart(),
                    _ => {}
                }
                gic.end(iar);
            }
        }
        Some(Controller::V3(_)) => {
            let group = InterruptGroup::Group1;
            while let Some(intid) = GicCpuInterface::get_and_acknowledge_interrupt(group) {
                match u32::from(intid) {
                    TIMER_INTID => timer(),
                    intid if is_uart(intid) => uart(),
                    _ => {}
                }
                GicCpuInterface::end_interrupt(intid, group);
                if u32::from(intid) == STOP {
                    stop();
                }
            }
        }
        Some(&Controller::Bcm2836(base)) => {
            let core = TARGETS[cpu::id()].load(Ordering::Relaxed);
            let source = read(base + IRQ_SOURCE + 4 * core);
            if source & VIRTUAL_TIMER != 0 {
                timer();
            }
            if source & MAILBOX != 0 {
                let calls = read(base + MAILBOX_CLEAR + 16 * core);
                write(base + MAILBOX_CLEAR + 16 * core, calls);
                if calls & 1 << STOP != 0 {
                    stop();
                }
            }
        }
        None => {}
    }
}

fn read(at: u64) -> u32 {
    // SAFETY: a mapped controller's register, the reading of which changes nothing.
    unsafe { (at as *const u32).read_volatile() }
}

fn write(at: u64, value: u32) {
    // SAFETY: a mapped controller's register; it touches no memory.
    unsafe { (at as *mut u32).write_volatile(value) }
}
