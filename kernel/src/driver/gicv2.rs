//! GICv2, for the timer's private interrupt, software's and the UART's.
//!
//! Our own and not `arm-gic`'s: its set-up writes IGROUPR, and enables group 1 by the secure
//! view's bit. We run without security extension (QEMU) and in the non-secure view of one (a
//! real Raspberry Pi 4), where bit 0 enables whatever group our interrupts are in, untouched.

use crate::arch::table;

const GICD_CTLR: u64 = 0x000;
const GICD_ISENABLER: u64 = 0x100;
const GICD_IPRIORITYR: u64 = 0x400;
const GICD_ITARGETSR: u64 = 0x800;
const GICD_SGIR: u64 = 0xf00;
const GICC_CTLR: u64 = 0x00;
const GICC_PMR: u64 = 0x04;
const GICC_IAR: u64 = 0x0c;
const GICC_EOIR: u64 = 0x10;

/// Interrupt numbers from here on mean "none".
const SPECIAL: u32 = 1020;

/// A GICv2.
#[derive(Debug)]
pub struct GicV2 {
    distributor: u64,
    cpu: u64,
}

impl GicV2 {
    /// Maps and enables a controller, with every interrupt still disabled.
    pub fn new(distributor: u64, cpu: u64) -> Result<Self, table::Error> {
        let gic = Self {
            distributor: table::map_device(distributor, 0x1000)?,
            cpu: table::map_device(cpu, 0x1000)?,
        };
        gic.write(gic.distributor + GICD_CTLR, 1);
        Ok(gic)
    }

    /// Opens this core's interface. The mask by which `send` names it.
    pub fn open(&self) -> u32 {
        self.write(self.cpu + GICC_PMR, 0xff);
        self.write(self.cpu + GICC_CTLR, 1);
        // SAFETY: the mapped distributor. The registers of private interrupts say who reads them.
        let targets =
            unsafe { ((self.distributor + GICD_ITARGETSR) as *const u32).read_volatile() };
        // All four bytes are the same, but reserved for interrupts that do not exist.
        targets
            .to_le_bytes()
            .into_iter()
            .fold(0, |all, byte| all | u32::from(byte))
    }

    /// Raises software's interrupt `intid` (below 16) on the cores of a mask.
    pub fn send(&self, intid: u32, mask: u32) {
        self.write(self.distributor + GICD_SGIR, mask << 16 | intid);
    }

    /// Enables an interrupt; a private one on this core.
    pub fn enable(&self, intid: u32) {
        let priority = self.distributor + GICD_IPRIORITYR + u64::from(intid);
        // SAFETY: the mapped distributor; priorities are byte-accessible (IHI 0048, 4.3.11).
        unsafe { (priority as *mut u8).write_volatile(0x80) };
        let enable = self.distributor + GICD_ISENABLER + u64::from(intid / 32) * 4;
        self.write(enable, 1 << (intid % 32));
    }

    /// Enables an interrupt that all cores share, and sends it to the cores of a mask.
    pub fn enable_shared(&self, intid: u32, mask: u8) {
        let target = self.distributor + GICD_ITARGETSR + u64::from(intid);
        // SAFETY: the mapped distributor; targets are byte-accessible (IHI 0048, 4.3.12).
        unsafe { (target as *mut u8).write_volatile(mask) };
        self.enable(intid);
    }

    /// Takes the pending interrupt of the highest priority.
    pub fn acknowledge(&self) -> Option<u32> {
        // SAFETY: the mapped CPU interface.
        let iar = unsafe { ((self.cpu + GICC_IAR) as *const u32).read_volatile() };
        (iar & 0x3ff < SPECIAL).then_some(iar)
    }

    /// Says that it was handled; the value is the one that `acknowledge` returned.
    pub fn end(&self, iar: u32) {
        self.write(self.cpu + GICC_EOIR, iar);
    }

    fn write(&self, at: u64, value: u32) {
        // SAFETY: the mapped controller; it touches no memory.
        unsafe { (at as *mut u32).write_volatile(value) }
    }
}
