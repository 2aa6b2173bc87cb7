//! Ending the machine.

use crate::arch::{cpu, table};
use crate::board::try_board;
use core::arch::asm;

// Raspberry Pi power manager.
const RSTC: u64 = 0x1c;
const RSTS: u64 = 0x20;
const WDOG: u64 = 0x24;
const PASSWORD: u32 = 0x5a00_0000;
const FULL_RESET: u32 = 0x20;
const HALT_PARTITION: u32 = 0x555;

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
            psci.system_off();
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
    let Ok(base) = table::map_device(watchdog, 0x28) else {
        return;
    };
    let at = |register: u64| (base + register) as *mut u32;
    // SAFETY: the power manager's registers, mapped just now.
    unsafe {
        let status = at(RSTS).read_volatile() & 0xffff;
        at(RSTS).write_volatile(PASSWORD | status | HALT_PARTITION);
        at(WDOG).write_volatile(PASSWORD | 10);
        at(RSTC).write_volatile(PASSWORD | FULL_RESET);
    }
    crate::arch::time::delay(1_000_000);
}
