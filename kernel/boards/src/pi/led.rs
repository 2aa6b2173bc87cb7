//! The activity LED, and how it tells of a kernel that panicked where no serial line is connected.

use super::gpio::{self, Function};
use super::{Registers, mailbox};
use crate::Led;

/// Pins from here on are the firmware's.
const FIRMWARE: u32 = 128;

/// Microseconds of a short flash, which is also the pause after a flash.
const SHORT: u64 = 150_000;
/// Of a long one.
const LONG: u64 = 600_000;
/// Of the pause after the code.
const PAUSE: u64 = 1_500_000;

/// The panic code: three short, three long. `(on, microseconds)`, to be repeated.
pub fn panic_code() -> impl Iterator<Item = (bool, u64)> {
    [SHORT, SHORT, SHORT, LONG, LONG, LONG]
        .into_iter()
        .flat_map(|long| [(true, long), (false, SHORT)])
        .chain([(false, PAUSE)])
}

/// Makes the LED's pin an output. The firmware's are.
pub fn prepare(led: Led, gpio: &impl Registers) {
    if led.pin < FIRMWARE {
        gpio::select(gpio, led.pin, Function::Output);
    }
}

/// Switches it, where it is on a pin of the chip.
pub fn switch(led: Led, gpio: &impl Registers, on: bool) {
    if led.pin < FIRMWARE {
        gpio::drive(gpio, led.pin, on != led.active_low);
    }
}

/// The request by which the firmware switches it, where it is on one of the firmware's pins.
pub fn request(led: Led, on: bool) -> Option<mailbox::Message> {
    (led.pin >= FIRMWARE).then(|| mailbox::Message::set_pin(led.pin, on != led.active_low))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;
    extern crate std;

    #[test]
    fn a_pin_of_the_chip() {
        let led = Led {
            pin: 29,
            active_low: true,
        };
        let pins = Fake::default();
        prepare(led, &pins);
        switch(led, &pins, true);
        switch(led, &pins, false);
        assert_eq!(
            *pins.writes.borrow(),
            [(8, 1 << 27), (0x28, 1 << 29), (0x1c, 1 << 29)]
        );
        assert!(request(led, true).is_none());
    }

    #[test]
    fn a_pin_of_the_firmware() {
        let led = Led {
            pin: 130,
            active_low: false,
        };
        let pins = Fake::default();
        prepare(led, &pins);
        switch(led, &pins, true);
        assert!(pins.writes.borrow().is_empty());
        let request = request(led, true).unwrap();
        assert_eq!(request.words()[2], 0x0003_8041);
        assert_eq!(request.words()[5..7], [130, 1]);
    }

    #[test]
    fn six_flashes() {
        let code: std::vec::Vec<_> = panic_code().collect();
        assert_eq!(code.iter().filter(|(on, _)| *on).count(), 6);
        assert_eq!(code.last(), Some(&(false, PAUSE)));
        assert!(
            code.windows(2)
                .all(|pair| pair[0].0 != pair[1].0 || !pair[0].0)
        );
    }
}
