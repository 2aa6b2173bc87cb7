//! The serial port.

use crate::machine;
use boards::pi::pl011::Divisor;
use boards::pi::{Registers, gpio, mailbox, mailbox::Message, mini, pl011};
use boards::{Board, Serial, Soc};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

// PL011 (Arm DDI 0183).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const FR_BUSY: u32 = 1 << 3;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
// Mini UART (BCM2835 ARM Peripherals, section 2.2).
const MU_IO: u64 = 0x00;
const MU_LSR: u64 = 0x14;
const MU_LSR_DATA: u32 = 1 << 0;
const MU_LSR_SPACE: u32 = 1 << 5;
const MU_LSR_IDLE: u32 = 1 << 6;

/// The clock by which all usual rates up to 3,000,000 baud can be had.
const UART_CLOCK: u32 = 48_000_000;

/// Registers at their physical address.
pub struct Physical(pub u64);

impl Registers for Physical {
    fn read(&self, offset: u64) -> u32 {
        // SAFETY: a device's register, by the device tree or as the boards have it; the MMU is off.
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }

    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as in `read`; of these devices only the mailbox reaches memory, a buffer of ours.
        unsafe { ((self.0 + offset) as *mut u32).write_volatile(value) }
    }

    fn wait(&self, microseconds: u64) {
        machine::wait(microseconds);
    }
}

/// The port in use, for the last words of a loader that fails: its address, and in bit 0 whether it
/// is a mini UART.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The serial port.
pub struct Port {
    registers: Physical,
    mini: bool,
    /// The clock and the divisor of the first rate; none: the rate stays as it is.
    rates: Option<(u32, Divisor)>,
    raised: bool,
}

impl Port {
    /// Sets up the board's port at [`chain::FIRST_BAUD`].
    pub fn open(board: &Board) -> Self {
        let is_pi = matches!(board.soc, Soc::Bcm2837 | Soc::Bcm2711);
        let (at, mini) = match board.wire {
            Serial::Pl011(at) => (at, false),
            Serial::Mini(at) => (at, true),
        };
        LAST.store(at | u64::from(mini), Ordering::Relaxed);
        let mut port = Self {
            registers: Physical(at),
            mini,
            rates: None,
            raised: false,
        };
        if mini {
            mini::enable(&Physical(at - mini::ENABLES_BEFORE));
            let (pi3, pi4) = mini::CORE_CLOCK;
            let clock = if board.soc == Soc::Bcm2711 { pi4 } else { pi3 };
            mini::start(&port.registers, clock, chain::FIRST_BAUD);
        } else if is_pi {
            if let Some(at) = board.gpio {
                gpio::serial_pins(&Physical(at), board.soc);
            }
            let clock = ask(board, Message::set_uart_clock(UART_CLOCK))
                .and_then(|answer| answer.answer::<2>())
                .map_or(UART_CLOCK, |[_, hz]| if hz == 0 { UART_CLOCK } else { hz });
            let first = Divisor::new(clock, chain::FIRST_BAUD);
            pl011::start(&port.registers, first);
            port.rates = first.map(|first| (clock, first));
        } else if board.soc == Soc::Bcm2712 && pl011::is_on(&port.registers) {
            // The firmware's rate is the first one, and tells what the clock is: nobody else does.
            let first = Divisor::current(&port.registers);
            port.rates = Some((first.clock(chain::FIRST_BAUD), first));
        } else {
            pl011::start(&port.registers, None);
        }
        port
    }

    /// The port that was opened, from nothing: for last words.
    pub fn again() -> Self {
        let at = LAST.load(Ordering::Relaxed);
        Self {
            registers: Physical(at & !1),
            mini: at & 1 != 0,
            rates: None,
            raised: false,
        }
    }

    /// Whether the rate can be changed.
    pub fn has_rates(&self) -> bool {
        self.rates.is_some()
    }

    /// How a rate would be had, and what it would be exactly.
    pub fn rate(&self, baud: u32) -> Option<(Divisor, u32)> {
        let (clock, _) = self.rates?;
        let divisor = Divisor::new(clock, baud)?;
        Some((divisor, divisor.baud(clock)))
    }

    /// Changes the rate, when all is said at the old one.
    pub fn raise(&mut self, divisor: Divisor) {
        self.flush();
        pl011::start(&self.registers, Some(divisor));
        self.raised = true;
    }

    /// Whether the rate is another than the first.
    pub fn is_raised(&self) -> bool {
        self.raised
    }

    /// Goes back to the first rate.
    pub fn back(&mut self) {
        if let Some((_, first)) = self.rates {
            pl011::start(&self.registers, Some(first));
        }
        self.raised = false;
    }

    /// Takes a byte that has been received, if there is one.
    pub fn try_get(&self) -> Option<u8> {
        if self.mini {
            let has = self.registers.read(MU_LSR) & MU_LSR_DATA != 0;
            return has.then(|| self.registers.read(MU_IO) as u8);
        }
        let has = self.registers.read(FR) & FR_RXFE == 0;
        has.then(|| self.registers.read(DR) as u8)
    }

    /// Sends a byte.
    pub fn put(&self, byte: u8) {
        let (status, mask, room, data) = match self.mini {
            true => (MU_LSR, MU_LSR_SPACE, MU_LSR_SPACE, MU_IO),
            false => (FR, FR_TXFF, 0, DR),
        };
        while self.registers.read(status) & mask != room {
            core::hint::spin_loop();
        }
        self.registers.write(data, byte.into());
    }

    /// Waits until everything has left.
    pub fn flush(&self) {
        let (status, mask, idle) = match self.mini {
            true => (MU_LSR, MU_LSR_IDLE, MU_LSR_IDLE),
            false => (FR, FR_BUSY, 0),
        };
        while self.registers.read(status) & mask != idle {
            core::hint::spin_loop();
        }
    }
}

impl fmt::Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// Asks the firmware; its answer, if there is one. The message is in RAM, as the data cache is off.
pub fn ask(board: &Board, message: Message) -> Option<Message> {
    if !matches!(board.soc, Soc::Bcm2837 | Soc::Bcm2711) {
        return None;
    }
    let mut message = message;
    let at = &raw mut message;
    let bus = mailbox::bus_address(at as u64)?;
    // SAFETY: a barrier: the message is stored before the mailbox is.
    unsafe { core::arch::asm!("dsb sy", options(nostack)) };
    let answered = mailbox::exchange(&Physical(board.mailbox?), bus);
    // SAFETY: a barrier, which also tells the compiler that memory has changed; then a message of
    // ours that the firmware has written to.
    let message = unsafe {
        core::arch::asm!("dsb sy", "/* {} */", in(reg) at, options(nostack));
        at.read_volatile()
    };
    answered.then_some(message)
}
