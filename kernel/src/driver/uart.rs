//! Serial ports: the PL011 (the wire) and the Raspberry Pi's mini UART.

use crate::arch::table;
use crate::board::{Serial, Soc};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

// PL011 (Arm DDI 0183).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
/// The FIFO is half full, or less is in it and nothing follows.
const IMSC_RECEIVED: u32 = 1 << 4 | 1 << 6;
const FR_BUSY: u32 = 1 << 3;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
/// In DR: bytes were lost before this one.
const DR_OVERRUN: u32 = 1 << 11;
// Mini UART (BCM2835 ARM peripherals, section 2).
const MU_IO: u64 = 0x00;
const MU_LSR: u64 = 0x14;
const MU_LSR_DATA: u32 = 1 << 0;
const MU_LSR_OVERRUN: u32 = 1 << 1;
const MU_LSR_SPACE: u32 = 1 << 5;
const MU_LSR_IDLE: u32 = 1 << 6;

/// A serial port. Before it is opened it swallows what is sent.
#[derive(Debug)]
pub struct Uart {
    base: AtomicU64,
    kind: AtomicU8,
}

const CLOSED: u8 = 0;
const PL011: u8 = 1;
const MINI: u8 = 2;

/// The boot loader left a PL011 running, at a rate of its own.
static WAS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Whether the boot loader left a PL011 running, at a rate of its own: to be asked between the first
/// [`Uart::open`] and the second.
pub fn was_running() -> bool {
    WAS_RUNNING.load(Ordering::Relaxed)
}

static WIRE: Uart = Uart::closed();
static CONSOLE: Uart = Uart::closed();

/// The UART that carries the wire.
pub fn wire_uart() -> &'static Uart {
    &WIRE
}

/// The second UART, to be opened by the boot.
pub fn console_uart_slot() -> &'static Uart {
    &CONSOLE
}

/// The second UART, where there is one.
pub fn console_uart() -> Option<&'static Uart> {
    (CONSOLE.kind.load(Ordering::Relaxed) != CLOSED).then_some(&CONSOLE)
}

impl Uart {
    const fn closed() -> Self {
        Self {
            base: AtomicU64::new(0),
            kind: AtomicU8::new(CLOSED),
        }
    }

    /// Starts to use the port at a physical address. False if it cannot be mapped.
    pub fn open(&self, serial: Serial, soc: Soc) -> bool {
        let (physical, kind) = match serial {
            Serial::Pl011(at) => (at, PL011),
            Serial::Mini(at) => (at, MINI),
        };
        let Ok(base) = table::map_device(physical, 0x40) else {
            return false;
        };
        self.kind.store(CLOSED, Ordering::Relaxed);
        self.base.store(base, Ordering::Relaxed);
        self.kind.store(kind, Ordering::Release);
        if kind == PL011 {
            self.enable_pl011(soc);
        }
        true
    }

    /// Transmitter, receiver and FIFOs on, no interrupts. A port the firmware set up keeps its rate;
    /// a Raspberry Pi's that it left alone gets 115200 baud from the 48 MHz clock of `config.txt`.
    fn enable_pl011(&self, soc: Soc) {
        let running = self.read(CR) & 1 != 0;
        WAS_RUNNING.fetch_or(running, Ordering::Relaxed);
        self.write(IMSC, 0);
        if !running {
            if matches!(soc, Soc::Bcm2837 | Soc::Bcm2711) {
                self.write(IBRD, 26);
                self.write(FBRD, 3);
            }
            self.write(LCR_H, 0x70); // 8 bits, FIFOs
        }
        self.write(CR, 0x301);
    }

    fn read(&self, register: u64) -> u32 {
        // SAFETY: an open port's registers are mapped for good, as device memory.
        unsafe { ((self.base.load(Ordering::Relaxed) + register) as *const u32).read_volatile() }
    }

    fn write(&self, register: u64, value: u32) {
        // SAFETY: as in `read`; UART registers touch no memory.
        unsafe {
            ((self.base.load(Ordering::Relaxed) + register) as *mut u32).write_volatile(value);
        }
    }

    /// Sends a byte if there is room for it.
    #[inline]
    pub fn try_put(&self, byte: u8) -> bool {
        crate::panic::be_silent();
        match self.kind.load(Ordering::Acquire) {
            PL011 => {
                if self.read(FR) & FR_TXFF != 0 {
                    return false;
                }
                self.write(DR, byte.into());
            }
            MINI => {
                if self.read(MU_LSR) & MU_LSR_SPACE == 0 {
                    return false;
                }
                self.write(MU_IO, byte.into());
            }
            _ => {}
        }
        true
    }

    /// Sends a byte, waiting for room.
    pub fn put(&self, byte: u8) {
        while !self.try_put(byte) {
            core::hint::spin_loop();
        }
    }

    /// Whether the port's interrupt is asked for while it holds something received (PL011 only).
    pub fn listen(&self, on: bool) {
        if self.kind.load(Ordering::Acquire) == PL011 {
            self.write(IMSC, if on { IMSC_RECEIVED } else { 0 });
        }
    }

    /// Takes a byte that has been received, if there is one.
    pub fn try_get(&self) -> Option<u8> {
        let (data, overrun) = match self.kind.load(Ordering::Acquire) {
            PL011 if self.read(FR) & FR_RXFE == 0 => {
                let data = self.read(DR);
                (data, data & DR_OVERRUN != 0)
            }
            MINI => {
                let status = self.read(MU_LSR);
                if status & MU_LSR_DATA == 0 {
                    return None;
                }
                (self.read(MU_IO), status & MU_LSR_OVERRUN != 0)
            }
            _ => return None,
        };
        if overrun {
            defmt::warn!("console input was lost: it came faster than it was taken");
        }
        Some(data as u8)
    }

    /// Waits until everything sent has left the machine.
    pub fn flush(&self) {
        loop {
            let busy = match self.kind.load(Ordering::Acquire) {
                PL011 => self.read(FR) & FR_BUSY != 0,
                MINI => self.read(MU_LSR) & MU_LSR_IDLE == 0,
                _ => false,
            };
            if !busy {
                return;
            }
            core::hint::spin_loop();
        }
    }
}

/// Text on a port, for panics.
pub struct Text<'a>(pub &'a Uart);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.put(b'\r');
            }
            self.0.put(byte);
        }
        Ok(())
    }
}
