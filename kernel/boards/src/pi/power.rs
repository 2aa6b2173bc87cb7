//! The power manager: its watchdog ends the machine (Linux, drivers/watchdog/bcm2835_wdt.c, has
//! the registers, which no manual has).

use super::Registers;

const RSTC: u64 = 0x1c;
const RSTS: u64 = 0x20;
const WDOG: u64 = 0x24;
const PASSWORD: u32 = 0x5a00_0000;
const RSTC_MODE: u32 = 0x30;
const FULL_RESET: u32 = 0x20;
/// The boot ROM halts where it finds this partition number.
const HALT: u32 = 0x555;
/// In 65,536ths of a second.
const TICKS: u32 = 10;

/// Resets the machine in a moment; with `halt` the boot ROM then goes to sleep.
pub fn reset(power: &impl Registers, halt: bool) {
    let status = power.read(RSTS) & 0xffff & !HALT;
    let wanted = if halt { HALT } else { 0 };
    power.write(RSTS, PASSWORD | status | wanted);
    power.write(WDOG, PASSWORD | TICKS);
    let control = power.read(RSTC) & 0xffff & !RSTC_MODE;
    power.write(RSTC, PASSWORD | control | FULL_RESET);
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn halt_and_reset() {
        let power = Fake::with(&[(RSTS, 0x1000), (RSTC, 0x112)]);
        reset(&power, true);
        assert_eq!(
            *power.writes.borrow(),
            [
                (RSTS, 0x5a00_1555),
                (WDOG, 0x5a00_000a),
                (RSTC, 0x5a00_0122)
            ]
        );
        let power = Fake::with(&[(RSTS, 0x1555)]);
        reset(&power, false);
        assert_eq!(power.writes.borrow()[0], (RSTS, 0x5a00_1000));
    }
}
