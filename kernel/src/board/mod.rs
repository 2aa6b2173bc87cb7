//! What machine this is: found by the crate `boards`, in what the boot loader left.

mod pi;
pub mod psci;

use crate::arch::{cpu, table};
use boards::Handed;
pub use boards::{Board, InterruptController, Ranges, Serial, Soc, StartMethod};
use core::ops::Range;
pub use pi::{Mapped, prepare, signal_panic};
use spin::Once;

const _: () = assert!(boards::MAX_CPUS == cpu::MAX_CPUS);

static BOARD: Once<Board> = Once::new();

/// The machine.
///
/// # Panics
/// Before [`set`].
pub fn board() -> &'static Board {
    BOARD.get().expect("the board is known at boot")
}

/// The machine, if it is known yet.
pub fn try_board() -> Option<&'static Board> {
    BOARD.get()
}

/// The initial file system.
pub fn initrd(board: &'static Board) -> &'static [u8] {
    if board.initrd.is_empty() {
        return &[];
    }
    let len = (board.initrd.end - board.initrd.start) as usize;
    let start = crate::arch::layout::linear(board.initrd.start) as *const u8;
    // SAFETY: `Board::finish` checked that the range is RAM; it is never given to the allocator, and
    // RAM is mapped linearly before anybody has a `&'static Board`.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// A number that differs from boot to boot: the boot loader's random bytes, else the counters.
pub fn entropy() -> u64 {
    let mut mixed = crate::arch::time::now() ^ crate::arch::time::cycles().rotate_left(32);
    for &byte in try_board().map_or(&[][..], |board| board.rng_seed) {
        // FNV-1a: every byte of the seed reaches every bit.
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mixed
}

/// Installs what was discovered. Once, when RAM is mapped.
pub fn set(board: Board) -> &'static Board {
    BOARD.call_once(|| board)
}

/// The chip by what the core and the load address tell: before the tree is read, or without one.
pub fn guess(image_at: u64) -> (Soc, Serial) {
    boards::guess(image_at, cpu::midr())
}

/// Finds out what machine this is. `handed` is the boot loader's x0.
pub fn discover(handed: u64, image: &Range<u64>) -> Result<Board, &'static str> {
    let (soc, wire) = guess(image.start);
    let mut board = Board::new(soc, wire);
    match look(handed) {
        Handed::Tree(range) => read_tree(&mut board, range)?,
        Handed::Atags(at) => board.without_tree(firmware_bytes(&(at..4096))),
        // Booted as a plain file: QEMU leaves the tree of `virt` at the start of RAM.
        Handed::Nothing if soc == Soc::Virt => match look(0x4000_0000) {
            Handed::Tree(range) => read_tree(&mut board, range)?,
            _ => return Err("no device tree: boot the raw image, not the ELF file"),
        },
        Handed::Nothing => board.without_tree(None),
    }
    board.finish(image, cpu::affinity())?;
    Ok(board)
}

fn look(at: u64) -> Handed {
    if at == 0 || !at.is_multiple_of(8) || at >= crate::arch::layout::LINEAR_END {
        return Handed::Nothing;
    }
    let Ok(va) = table::map_firmware(at, 8) else {
        return Handed::Nothing;
    };
    // SAFETY: mapped just now; aligned.
    Handed::of(at, unsafe { (va as *const [u32; 2]).read_volatile() })
}

/// Something the firmware left in RAM, mapped for good.
fn firmware_bytes(range: &Range<u64>) -> Option<&'static [u8]> {
    let len = range.end.checked_sub(range.start)?;
    let va = table::map_firmware(range.start, len).ok()?;
    // SAFETY: mapped read-only just now, for good; `Board::finish` keeps the frames from the allocator.
    Some(unsafe { core::slice::from_raw_parts(va as *const u8, len as usize) })
}

fn read_tree(board: &mut Board, range: Range<u64>) -> Result<(), &'static str> {
    let bytes = firmware_bytes(&range).ok_or("the device tree cannot be mapped")?;
    board.read_tree(bytes, range)
}
