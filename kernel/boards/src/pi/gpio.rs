//! Pins (BCM2835 ARM Peripherals, chapter 6; BCM2711 ARM Peripherals, chapter 5).

use super::Registers;
use crate::Soc;

const FUNCTION_SELECT: u64 = 0x00;
const SET: u64 = 0x1c;
const CLEAR: u64 = 0x28;
/// BCM2835 to BCM2837: what a clock on GPPUDCLKn takes over.
const PULL: u64 = 0x94;
const PULL_CLOCK: u64 = 0x98;
/// BCM2711: two bits for each pin.
const PULLS: u64 = 0xe4;

/// What a pin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Function {
    /// Input.
    Input = 0,
    /// Output.
    Output = 1,
    /// Alternative 0.
    Alt0 = 4,
    /// Alternative 5.
    Alt5 = 2,
}

/// Which way a pin is pulled while nobody drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Neither.
    Off,
    /// Up.
    Up,
}

/// The header's pins 8 and 10.
pub const TRANSMIT: u32 = 14;
/// See [`TRANSMIT`].
pub const RECEIVE: u32 = 15;
/// Where the firmware connects the PL011 to the Bluetooth chip.
const BLUETOOTH: [u32; 2] = [32, 33];

/// Selects a pin's function.
pub fn select(gpio: &impl Registers, pin: u32, function: Function) {
    let register = FUNCTION_SELECT + 4 * u64::from(pin / 10);
    let shift = 3 * (pin % 10);
    let others = gpio.read(register) & !(7 << shift);
    gpio.write(register, others | (function as u32) << shift);
}

/// Drives an output.
pub fn drive(gpio: &impl Registers, pin: u32, high: bool) {
    let register = if high { SET } else { CLEAR };
    gpio.write(register + 4 * u64::from(pin / 32), 1 << (pin % 32));
}

/// Sets a pin's pull.
pub fn pull(gpio: &impl Registers, soc: Soc, pin: u32, pull: Pull) {
    if soc == Soc::Bcm2711 {
        let register = PULLS + 4 * u64::from(pin / 16);
        let shift = 2 * (pin % 16);
        let up = u32::from(pull == Pull::Up);
        gpio.write(register, gpio.read(register) & !(3 << shift) | up << shift);
        return;
    }
    // The control needs 150 cycles of the chip's clock to be set up, and the clock as many to take it.
    let clock = PULL_CLOCK + 4 * u64::from(pin / 32);
    gpio.write(PULL, if pull == Pull::Up { 2 } else { 0 });
    gpio.wait(2);
    gpio.write(clock, 1 << (pin % 32));
    gpio.wait(2);
    gpio.write(PULL, 0);
    gpio.write(clock, 0);
}

/// Gives the header's serial pins to the PL011, and takes it from the Bluetooth chip, whose output
/// would reach the same receiver.
pub fn serial_pins(gpio: &impl Registers, soc: Soc) {
    for pin in BLUETOOTH {
        select(gpio, pin, Function::Input);
    }
    pull(gpio, soc, TRANSMIT, Pull::Off);
    // Nobody connected is silence, not noise.
    pull(gpio, soc, RECEIVE, Pull::Up);
    for pin in [TRANSMIT, RECEIVE] {
        select(gpio, pin, Function::Alt0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn the_header_is_the_pl011s() {
        // As the firmware leaves it: the mini UART on 14 and 15 (ALT5), the PL011 on 32 and 33 (ALT3).
        let before = [(4, 0o22_1111), (12, 0o7700)];
        let gpio = Fake::with(&[(4, 2 << 12 | 2 << 15 | 1 << 3), (12, 7 << 6 | 7 << 9 | 1)]);
        serial_pins(&gpio, Soc::Bcm2837);
        assert_eq!(gpio.value(4), 4 << 12 | 4 << 15 | 1 << 3, "{before:?}");
        assert_eq!(
            gpio.value(12),
            1,
            "pins 32 and 33 are inputs, 30 is as it was"
        );
        let writes = gpio.writes.borrow();
        let clocked: std::vec::Vec<_> = writes.iter().filter(|(at, _)| *at == 0x98).collect();
        assert_eq!(clocked[0], &(0x98, 1 << 14));
        assert_eq!(gpio.value(0x94), 0);
        assert_eq!(gpio.value(0x98), 0);
        assert!(*gpio.waited.borrow() >= 4);
    }

    #[test]
    fn a_pi_4_has_other_pulls() {
        let gpio = Fake::with(&[(0xe4, 0xffff_ffff)]);
        serial_pins(&gpio, Soc::Bcm2711);
        // Pin 14: off; pin 15: up (1).
        assert_eq!(gpio.value(0xe4), 0x4fff_ffff);
        assert!(gpio.writes.borrow().iter().all(|(at, _)| *at != 0x94));
    }

    #[test]
    fn outputs() {
        let gpio = Fake::default();
        select(&gpio, 42, Function::Output);
        assert_eq!(gpio.value(16), 1 << 6);
        drive(&gpio, 42, true);
        drive(&gpio, 42, false);
        assert_eq!(
            *gpio.writes.borrow(),
            [(16, 1 << 6), (0x20, 1 << 10), (0x2c, 1 << 10)]
        );
    }

    extern crate std;
}
