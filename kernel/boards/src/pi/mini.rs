//! The mini UART (BCM2835 ARM Peripherals, section 2.2). Its registers answer only while it is on.

use super::Registers;

/// Offsets from its data register, which is where the device tree says that it is.
const IER: u64 = 0x04;
const IIR: u64 = 0x08;
const LCR: u64 = 0x0c;
const MCR: u64 = 0x10;
const CNTL: u64 = 0x20;
const BAUD: u64 = 0x28;

/// Its switch, before it: AUX_ENABLES, of which bit 0 is the mini UART's.
pub const ENABLES_BEFORE: u64 = 0x3c;

/// What its rate is made of, where `enable_uart=1` fixes the core clock: a Pi 3, and a Pi 4.
pub const CORE_CLOCK: (u32, u32) = (250_000_000, 500_000_000);

/// Switches it on in AUX_ENABLES, which begins [`ENABLES_BEFORE`] it.
pub fn enable(aux_enables: &impl Registers) {
    aux_enables.write(0, aux_enables.read(0) | 1);
}

/// 8 bits, FIFOs empty, no interrupts; the rate is the firmware's, unless it set none.
pub fn start(uart: &impl Registers, core_clock: u32, baud: u32) {
    uart.write(CNTL, 0);
    uart.write(IER, 0);
    // The manual says 1; 8 bits take both.
    uart.write(LCR, 3);
    uart.write(MCR, 0);
    uart.write(IIR, 0xc6);
    if uart.read(BAUD) & 0xffff == 0
        && let Some(divisor) = (core_clock / 8).checked_div(baud)
    {
        uart.write(BAUD, divisor.saturating_sub(1).min(0xffff));
    }
    uart.write(CNTL, 3);
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn rates() {
        let uart = Fake::default();
        start(&uart, CORE_CLOCK.0, 115_200);
        assert_eq!(uart.value(BAUD), 270);
        assert_eq!(uart.writes.borrow().last(), Some(&(CNTL, 3)));
        // The firmware knows its clock better.
        let uart = Fake::with(&[(BAUD, 433)]);
        start(&uart, CORE_CLOCK.0, 115_200);
        assert_eq!(uart.value(BAUD), 433);
        let aux = Fake::with(&[(0, 6)]);
        enable(&aux);
        assert_eq!(aux.value(0), 7, "the others stay as they are");
    }
}
