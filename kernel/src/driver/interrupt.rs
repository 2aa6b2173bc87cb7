//! The boards' interrupt controllers. One interrupt is in use: the virtual timer's.

use super::gicv2::GicV2;
use crate::arch::time::TIMER_INTID;
use crate::arch::{cpu, table};
use crate::board::{Board, InterruptController};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use core::ptr::NonNull;
use spin::Once;

enum Controller {
    V2(GicV2),
    /// After set-up only system registers are needed.
    V3,
    /// The mapped base of the BCM2836's.
    Bcm2836(u64),
}

static CONTROLLER: Once<Controller> = Once::new();

// BCM2836 local controller (QA7 document, revision 3.4): per core, 4 bytes.
const TIMER_CONTROL: u64 = 0x40;
const IRQ_SOURCE: u64 = 0x60;
const VIRTUAL_TIMER: u32 = 1 << 3;

/// Sets the controller up and lets the timer's interrupt through. CPUs: the boot core only.
pub fn init(board: &Board) -> Result<(), &'static str> {
    let controller = match board.interrupts.clone() {
        Some(InterruptController::GicV2 { distributor, cpu }) => {
            let gic = GicV2::new(distributor, cpu).map_err(|_| "the GIC cannot be mapped")?;
            gic.enable(TIMER_INTID);
            Controller::V2(gic)
        }
        Some(InterruptController::GicV3 {
            distributor,
            redistributors,
        }) => init_v3(distributor, redistributors).map(|()| Controller::V3)?,
        Some(InterruptController::Bcm2836(at)) => {
            let base = table::map_device(at, 0x100).map_err(|_| "no room to map the controller")?;
            write(base + TIMER_CONTROL, VIRTUAL_TIMER);
            Controller::Bcm2836(base)
        }
        None => return Err("no interrupt controller that we know"),
    };
    CONTROLLER.call_once(|| controller);
    Ok(())
}

fn init_v3(distributor: u64, redistributors: core::ops::Range<u64>) -> Result<(), &'static str> {
    if !cpu::has_gic_registers() {
        return Err("a GICv3 without system registers");
    }
    const UNMAPPED: &str = "the GIC cannot be mapped";
    let gicd = table::map_device(distributor, 0x1_0000).map_err(|_| UNMAPPED)?;
    // Enough for 16 cores: the boot core's is the first on the machines we know.
    let len = (redistributors.end - redistributors.start).min(16 * 0x2_0000);
    let gicr = table::map_device(redistributors.start, len).map_err(|_| UNMAPPED)?;
    let gicd = NonNull::new(gicd as *mut Gicd).ok_or(UNMAPPED)?;
    let gicr = NonNull::new(gicr as *mut GicrSgi).ok_or(UNMAPPED)?;
    // SAFETY: mapped as device memory just now, for good, and nobody else has the addresses.
    let mut gic = unsafe { GicV3::new(UniqueMmioPointer::new(gicd), gicr, 1) }
        .map_err(|_| "a GICv3 without redistributors")?;
    gic.setup(0);
    let timer = IntId::ppi(TIMER_INTID - 16);
    gic.set_interrupt_priority(timer, Some(0), 0x80)
        .and_then(|()| gic.enable_interrupt(timer, Some(0), true))
        .map_err(|_| "the timer's interrupt cannot be enabled")?;
    GicCpuInterface::set_priority_mask(0xff);
    Ok(())
}

/// Handles every pending interrupt.
pub fn handle(mut timer: impl FnMut()) {
    match CONTROLLER.get() {
        Some(Controller::V2(gic)) => {
            while let Some(iar) = gic.acknowledge() {
                if iar & 0x3ff == TIMER_INTID {
                    timer();
                }
                gic.end(iar);
            }
        }
        Some(Controller::V3) => {
            let group = InterruptGroup::Group1;
            while let Some(intid) = GicCpuInterface::get_and_acknowledge_interrupt(group) {
                if u32::from(intid) == TIMER_INTID {
                    timer();
                }
                GicCpuInterface::end_interrupt(intid, group);
            }
        }
        Some(&Controller::Bcm2836(base)) => {
            // SAFETY: the mapped controller.
            let source = unsafe { ((base + IRQ_SOURCE) as *const u32).read_volatile() };
            if source & VIRTUAL_TIMER != 0 {
                timer();
            }
        }
        None => {}
    }
}

fn write(at: u64, value: u32) {
    // SAFETY: a mapped controller's register; it touches no memory.
    unsafe { (at as *mut u32).write_volatile(value) }
}
