//! Ending the machine.

use crate::arch::cpu;
use crate::board::{Mapped, psci, try_board};
use core::arch::asm;

/// Ends the machine with an exit code: by semihosting if the boot arguments allow it (only that
/// way carries the code), else by what the board has.
pub fn exit(code: i32) -> ! {
    super::uart::wire_uart().flush();
    if let Some(console) = super::uart::console_uart() {
        console.flush();
    }
    if let Some(board) = try_board() {
        if board.has_argument("semihosting") {
            semihosting_exit(code);
        }
        if let Some(psci) = board.psci {
            psci::system_off(psci);
        }
        if let Some(watchdog) = board.watchdog {
            power_off(watchdog);
        }
    }
    cpu::halt()
}

/// SYS_EXIT_EXTENDED with ADP_Stopped_ApplicationExit. Returns only where nobody listens and the
/// HLT is skipped; without a listener it is an undefined instruction, hence the boot argument.
fn semihosting_exit(code: i32) {
    let block: [u64; 2] = [0x20026, u64::from(code as u32)];
    // SAFETY: semihosting reads the block; x0 is declared clobbered.
    unsafe {
        asm!(
            "hlt #0xf000",
            inout("x0") 0x20_u64 => _,
            in("x1") &raw const block,
            options(nostack)
        );
    }
}

/// The watchdog resets the machine, and the boot ROM then sees that it was told to halt.
fn power_off(watchdog: u64) {
    if let Some(registers) = Mapped::new(watchdog, 0x28) {
        boards::pi::power::reset(&registers, true);
        crate::arch::time::delay(1_000_000);
    }
}
