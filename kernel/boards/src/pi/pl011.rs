//! The PL011 (Arm DDI 0183): its rate.

use super::{Registers, wait_for};

const FR: u64 = 0x18;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;
const FR_BUSY: u32 = 1 << 3;
const CR_ENABLE: u32 = 1;
/// Transmitter, receiver, and the UART itself.
const CR_ON: u32 = 0x301;
/// 8 bits, no parity, one stop bit, FIFOs.
const LCR_H_8N1: u32 = 0x70;
/// Microseconds for the FIFO to run empty: 32 bytes at 9600 baud take 33 ms.
const PATIENCE: u64 = 50_000;

/// How far a rate may be off. A receiver samples the tenth bit in its middle: 5 % for both sides.
const MOST_PERMILLE: u64 = 20;

/// A rate divisor, in 64ths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divisor(u32);

impl Divisor {
    /// For a rate in baud from a clock in Hz, if it comes near enough (2 %).
    pub fn new(clock: u32, baud: u32) -> Option<Self> {
        if baud == 0 {
            return None;
        }
        // clock / (16 * baud) in 64ths, rounded.
        let divisor = (u64::from(clock) * 8 / u64::from(baud)).div_ceil(2);
        if !(64..=0xffff << 6).contains(&divisor) {
            return None;
        }
        let divisor = Self(divisor as u32);
        let off = u64::from(divisor.baud(clock)).abs_diff(baud.into());
        (off * 1000 <= u64::from(baud) * MOST_PERMILLE).then_some(divisor)
    }

    /// As it stands in the registers.
    pub fn current(uart: &impl Registers) -> Self {
        Self((uart.read(IBRD) & 0xffff) << 6 | uart.read(FBRD) & 0x3f)
    }

    /// The rate that it gives; 0 if it is 0.
    pub fn baud(self, clock: u32) -> u32 {
        (u64::from(clock) * 4)
            .checked_div(self.0.into())
            .unwrap_or(0) as u32
    }

    /// The clock by which it gives this rate.
    pub fn clock(self, baud: u32) -> u32 {
        (u64::from(self.0) * u64::from(baud) / 4) as u32
    }
}

/// Whether the UART is on.
pub fn is_on(uart: &impl Registers) -> bool {
    uart.read(CR) & CR_ENABLE != 0
}

/// Switches the UART on: 8N1 with FIFOs, no interrupts; at the rate of `divisor`, or at the one it has.
pub fn start(uart: &impl Registers, divisor: Option<Divisor>) {
    wait_for(uart, PATIENCE, |read| read(FR) & FR_BUSY == 0);
    uart.write(CR, 0);
    uart.write(IMSC, 0);
    uart.write(ICR, 0x7ff);
    if let Some(Divisor(divisor)) = divisor {
        uart.write(IBRD, divisor >> 6);
        uart.write(FBRD, divisor & 0x3f);
    }
    // It is the write of LCR_H that makes the divisor count.
    uart.write(LCR_H, LCR_H_8N1);
    uart.write(CR, CR_ON);
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn rates() {
        let registers = |clock, baud| Divisor::new(clock, baud).map(|d| (d.0 >> 6, d.0 & 63));
        assert_eq!(registers(48_000_000, 115_200), Some((26, 3)));
        assert_eq!(registers(48_000_000, 921_600), Some((3, 16)));
        assert_eq!(registers(48_000_000, 1_500_000), Some((2, 0)));
        assert_eq!(registers(48_000_000, 2_000_000), Some((1, 32)));
        assert_eq!(registers(48_000_000, 3_000_000), Some((1, 0)));
        assert_eq!(
            registers(48_000_000, 3_100_000),
            None,
            "a sixteenth is the most"
        );
        assert_eq!(
            registers(3_000_000, 921_600),
            None,
            "as QEMU's clock would have it"
        );
        assert_eq!(registers(48_000_000, 0), None);
        assert_eq!(registers(48_000_000, 10), None);
        for baud in [9600, 57_600, 230_400, 460_800, 1_000_000, 2_500_000] {
            let divisor = Divisor::new(48_000_000, baud).unwrap();
            let off = divisor.baud(48_000_000).abs_diff(baud);
            assert!(off * 100 <= baud * 2, "{baud}: off by {off}");
        }
    }

    #[test]
    fn a_clock_by_what_the_firmware_left() {
        // A Pi 5's debug UART: 44.2368 MHz are 24 * 16 * 115200.
        let uart = Fake::with(&[(IBRD, 24), (FBRD, 0)]);
        assert_eq!(Divisor::current(&uart).clock(115_200), 44_236_800);
        assert_eq!(Divisor::current(&Fake::default()).baud(48_000_000), 0);
    }

    #[test]
    fn the_order_of_the_manual() {
        let uart = Fake::default();
        start(&uart, Divisor::new(48_000_000, 921_600));
        let writes = uart.writes.borrow();
        let place = |at| writes.iter().position(|(offset, _)| *offset == at).unwrap();
        assert_eq!(writes[place(CR)], (CR, 0), "off while it is changed");
        assert!(place(IBRD) < place(LCR_H) && place(FBRD) < place(LCR_H));
        assert_eq!(writes.last(), Some(&(CR, CR_ON)));
        assert!(is_on(&uart));
        // Without a divisor the rate stays.
        let uart = Fake::with(&[(IBRD, 24)]);
        start(&uart, None);
        assert_eq!(uart.value(IBRD), 24);
        // One that is stuck does not stop the machine.
        let uart = Fake::with(&[(FR, FR_BUSY)]);
        start(&uart, None);
        assert!(is_on(&uart));
    }
}
