//! The Cowscope kernel: makes copy-on-write visible.
//!
//! This page is the boot story. `arch/head.s` comes before it: from the boot loader to here, at
//! the linked address, on the boot stack, with MMU and caches on.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod board;
#[cfg(feature = "checks")]
mod check;
mod driver;
mod fs;
mod log;
mod panic;
mod process;
mod syscall;
mod trace;
mod watchdog;

use driver::uart;

/// `image_at`: where the boot loader put the image. `handed`: its x0. `level`: the exception level
/// it started us at.
#[unsafe(no_mangle)]
extern "C" fn kernel_main(image_at: u64, handed: u64, level: u64) -> ! {
    // First a way to complain: the serial port that this machine most likely has.
    arch::table::init(image_at);
    let (soc, serial) = board::guess(image_at);
    uart::wire_uart().open(serial, soc);
    arch::cpu::init();
    memory::lock::number_cpus_by(arch::cpu::id);
    watchdog::init();

    // What machine is this, and what does it have?
    let mut board = board::discover(handed, &arch::table::image_range()).unwrap_or_else(stop);
    board::prepare(&board, argument(board.bootargs, "baud="));
    uart::wire_uart().open(board.wire, board.soc);
    if let Some(console) = board.console {
        uart::console_uart_slot().open(console, board.soc);
    }

    // Its RAM becomes the linear map and the frames; from here on there is a heap.
    arch::mmu::init();
    let asid_bits = asid_bits(board.bootargs);
    let overcommit = process::options::overcommits(board.bootargs);
    arch::setup::memory(&mut board, asid_bits, overcommit).unwrap_or_else(stop);
    let board = board::set(board);

    // The other cores.
    driver::interrupt::init(board).unwrap_or_else(stop);
    arch::secondary::start_all(board, most_cpus(board));
    let cpus = arch::secondary::online();
    if cpus < board.cpus.min(most_cpus(board)) {
        defmt::warn!("{=usize} of {=usize} cores run", cpus, board.cpus);
    }

    let memory = arch::mmu::memory();
    defmt::info!(
        "{=str} ({=str}), entered at EL{=u64}, image at {=u64:#x}, MIDR {=u64:#x}",
        board.name,
        board.model,
        level,
        image_at,
        arch::cpu::midr(),
    );
    defmt::info!(
        "{=usize} cores; {=u64} MiB of RAM, {=u64} frames free; {=u8}-bit ASIDs",
        cpus,
        board.ram.bytes() >> 20,
        memory.frames.free_count(),
        asid_bits,
    );

    // The rest is processes.
    process::start()
}

/// ASID width: what the core has, or less by `asid_bits=` (so that tests run out of them).
fn asid_bits(bootargs: &str) -> u8 {
    let most = arch::cpu::asid_bits();
    argument(bootargs, "asid_bits=").map_or(most, |bits: u8| bits.clamp(1, most))
}

/// How many cores are to run: `maxcpus=`, else all.
fn most_cpus(board: &board::Board) -> usize {
    argument(board.bootargs, "maxcpus=").map_or(usize::MAX, |most: usize| most.max(1))
}

/// The value of a boot argument that is needed before the others.
fn argument<T: core::str::FromStr>(bootargs: &str, name: &str) -> Option<T> {
    bootargs
        .split_ascii_whitespace()
        .take_while(|&argument| argument != "--")
        .find_map(|argument| argument.strip_prefix(name))
        .and_then(|value| value.parse().ok())
}

/// The boot cannot go on.
fn stop<T>(why: &'static str) -> T {
    panic!("cannot boot: {why}")
}
