//! Secondary cores: started, counted, and put to sleep for good.
//!
//! They run a few instructions of the head with MMU and caches off, so what they share with the
//! boot core is cleaned to memory by the one and written past the caches by the others.

use super::{cpu, layout, table, time};
use crate::board::{Board, StartMethod};
use core::sync::atomic::{AtomicU64, Ordering};

/// Cores that can be told apart.
pub const MAX_CPUS: usize = 16;
/// Offset of [`Parking::reports`]: the two halves share no cache line (2 KiB is the largest
/// writeback granule there can be, 256 the largest one real).
pub const REPORTS_OFFSET: usize = 256;

#[repr(C, align(256))]
struct Parking {
    turn: AtomicU64,
    padding: [u64; REPORTS_OFFSET / 8 - 1],
    reports: [AtomicU64; MAX_CPUS],
    end: [u64; 32 - MAX_CPUS],
}

#[unsafe(no_mangle)]
static PARKING: Parking = Parking {
    turn: AtomicU64::new(0),
    padding: [0; _],
    reports: [const { AtomicU64::new(0) }; MAX_CPUS],
    end: [0; _],
};

unsafe extern "C" {
    fn secondary_entry();
}

/// Starts the board's other cores one by one; returns how many reported and sleep.
pub fn park_all(board: &Board) -> usize {
    let entry = table::image_physical(secondary_entry as *const () as u64);
    let parking = &raw const PARKING as u64;
    let me = cpu::affinity();
    let mut parked = 0;
    for (index, core) in board.cores().iter().enumerate().take(MAX_CPUS) {
        if core.affinity == me {
            continue;
        }
        PARKING.turn.store(index as u64, Ordering::Relaxed);
        cpu::clean_to_memory(parking, size_of::<Parking>() as u64);
        match core.start {
            StartMethod::Psci(conduit) => {
                if !conduit.cpu_on(core.affinity, entry) {
                    continue;
                }
            }
            StartMethod::SpinTable(release) => {
                if !board.is_ram(release) {
                    continue;
                }
                let at = layout::linear(release);
                // SAFETY: the firmware's spin table, in RAM that is never given away, in the
                // linear map; 8-byte aligned as `is_ram` callers guarantee by the tree's check.
                unsafe { (at as *mut u64).write_volatile(entry) };
                cpu::clean_to_memory(at, 8);
                aarch64_cpu::asm::sev();
            }
            StartMethod::None => continue,
        }
        // A core takes microseconds. QEMU's may wait for the host's scheduler.
        let give_up = time::now() + time::hz() / 5;
        loop {
            cpu::clean_to_memory(&raw const PARKING.reports as u64, (MAX_CPUS * 8) as u64);
            if PARKING.reports[index].load(Ordering::Relaxed) != 0 {
                parked += 1;
                break;
            }
            if time::now() > give_up {
                break;
            }
        }
    }
    parked
}
