//! What machine this is: from the device tree, or from what is known of a Raspberry Pi without one.

mod atags;
pub mod memory_map;
mod psci;
mod tree;

use crate::arch::{cpu, cpu::MAX_CPUS, table};
use core::ops::Range;
use memory_map::Ranges;
pub use psci::Conduit;
use spin::Once;

/// The chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soc {
    /// QEMU's `virt`.
    Virt,
    /// Raspberry Pi 3, Zero 2 W.
    Bcm2837,
    /// Raspberry Pi 4.
    Bcm2711,
    /// Raspberry Pi 5.
    Bcm2712,
    /// Some other machine with a device tree.
    Other,
}

/// How a core is started.
#[derive(Clone, Copy, Debug)]
pub enum StartMethod {
    /// PSCI CPU_ON.
    Psci(Conduit),
    /// By storing the entry at this physical address.
    SpinTable(u64),
    /// Unknown.
    None,
}

/// A core, as the tree describes it.
#[derive(Clone, Copy, Debug)]
pub struct Core {
    /// Its affinity fields of MPIDR_EL1.
    pub affinity: u64,
    /// How to start it.
    pub start: StartMethod,
}

/// The interrupt controller, by physical addresses.
#[derive(Clone, Debug)]
pub enum InterruptController {
    /// GICv2: distributor, CPU interface.
    GicV2 {
        /// Distributor.
        distributor: u64,
        /// CPU interface.
        cpu: u64,
    },
    /// GICv3: distributor, redistributors.
    GicV3 {
        /// Distributor.
        distributor: u64,
        /// All redistributors.
        redistributors: Range<u64>,
    },
    /// The local interrupt controller of BCM2836 and BCM2837.
    Bcm2836(u64),
}

/// A serial port, by physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serial {
    /// Arm PL011.
    Pl011(u64),
    /// The Raspberry Pi's mini UART.
    Mini(u64),
}

/// The machine.
#[derive(Debug)]
pub struct Board {
    /// Short name: `virt`, `raspi3b`, `raspi4b`, `raspi5b`, or `unknown`.
    pub name: &'static str,
    /// The tree's own name of the machine; empty without a tree.
    pub model: &'static str,
    /// The chip.
    pub soc: Soc,
    /// Cores the machine has.
    pub cpus: usize,
    cores: [Core; MAX_CPUS],
    /// RAM, all of it but what must not be mapped.
    pub ram: Ranges,
    /// RAM that is free once the kernel runs: not the image, not what the firmware left.
    pub free: Ranges,
    /// The initial file system; empty if there is none.
    pub initrd: Range<u64>,
    /// The kernel command line.
    pub bootargs: &'static str,
    /// Random bytes from the boot loader; may be empty.
    pub rng_seed: &'static [u8],
    /// The UART that carries the wire.
    pub wire: Serial,
    /// Its interrupt, by the GIC's number; none: it is looked at now and then.
    pub wire_interrupt: Option<u32>,
    /// A second UART.
    pub console: Option<Serial>,
    /// The interrupt controller.
    pub interrupts: Option<InterruptController>,
    /// PSCI, where the firmware has it.
    pub psci: Option<Conduit>,
    /// The Raspberry Pi's power manager and watchdog.
    pub watchdog: Option<u64>,
}

impl Board {
    const fn empty(soc: Soc, wire: Serial) -> Self {
        Self {
            name: "unknown",
            model: "",
            soc,
            cpus: 0,
            cores: [const {
                Core {
                    affinity: 0,
                    start: StartMethod::None,
                }
            }; MAX_CPUS],
            ram: Ranges::new(),
            free: Ranges::new(),
            initrd: 0..0,
            bootargs: "",
            rng_seed: &[],
            wire,
            wire_interrupt: None,
            console: None,
            interrupts: None,
            psci: None,
            watchdog: None,
        }
    }

    /// The cores.
    pub fn cores(&self) -> &[Core] {
        &self.cores[..self.cpus.min(MAX_CPUS)]
    }

    fn add_core(&mut self, core: Core) {
        if self.cpus < MAX_CPUS {
            self.cores[self.cpus] = core;
        }
        self.cpus += 1;
    }

    /// Whether there is RAM at a physical address (8 bytes, aligned).
    pub fn is_ram(&self, at: u64) -> bool {
        at.is_multiple_of(8) && self.ram.contains(&(at..at.saturating_add(8)))
    }

    /// The initial file system.
    pub fn initrd(&self) -> &'static [u8] {
        if self.initrd.is_empty() {
            return &[];
        }
        let len = (self.initrd.end - self.initrd.start) as usize;
        let start = crate::arch::layout::linear(self.initrd.start) as *const u8;
        // SAFETY: `finish` checked that the range is RAM; it is never given to the allocator, and
        // RAM is mapped linearly before anybody has a `&'static Board`.
        unsafe { core::slice::from_raw_parts(start, len) }
    }

    /// Whether a word stands alone among the boot arguments (before a lone `--`).
    pub fn has_argument(&self, word: &str) -> bool {
        self.bootargs
            .split_ascii_whitespace()
            .take_while(|&argument| argument != "--")
            .any(|argument| argument == word)
    }
}

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

/// The chip by what the core and the load address tell: right for the machines we know, and all
/// there is before the tree is read, or without one.
pub fn guess(image_at: u64) -> (Soc, Serial) {
    if image_at >= 0x4000_0000 {
        return (Soc::Virt, Serial::Pl011(0x0900_0000));
    }
    match (cpu::midr() >> 4) & 0xfff {
        0xd08 => (Soc::Bcm2711, Serial::Pl011(0xfe20_1000)),
        0xd0b => (Soc::Bcm2712, Serial::Pl011(0x10_7d00_1000)),
        _ => (Soc::Bcm2837, Serial::Pl011(0x3f20_1000)),
    }
}

/// Finds out what machine this is. `handed` is the boot loader's x0.
pub fn discover(handed: u64, image: &Range<u64>) -> Result<Board, &'static str> {
    let (soc, wire) = guess(image.start);
    let mut board = Board::empty(soc, wire);
    match Handed::look(handed) {
        Handed::Tree(range) => read_tree(&mut board, range)?,
        Handed::Atags(at) => no_tree(&mut board, Some(at)),
        // Booted as a plain file: QEMU leaves the tree of `virt` at the start of RAM.
        Handed::Nothing if soc == Soc::Virt => match Handed::look(0x4000_0000) {
            Handed::Tree(range) => read_tree(&mut board, range)?,
            _ => return Err("no device tree: boot the raw image, not the ELF file"),
        },
        Handed::Nothing => no_tree(&mut board, None),
    }
    finish(&mut board, image);
    Ok(board)
}

/// What x0 points to.
enum Handed {
    Tree(Range<u64>),
    Atags(u64),
    Nothing,
}

impl Handed {
    fn look(at: u64) -> Self {
        const TREE_LIMIT: u64 = 2 << 20;
        if at == 0 || !at.is_multiple_of(8) || at >= crate::arch::layout::LINEAR_END {
            return Self::Nothing;
        }
        let Ok(va) = table::map_firmware(at, 8) else {
            return Self::Nothing;
        };
        // SAFETY: mapped just now; aligned.
        let words = unsafe { (va as *const [u32; 2]).read_volatile() }.map(u32::from_be);
        let size = u64::from(words[1]);
        if words[0] == 0xd00d_feed && (40..=TREE_LIMIT).contains(&size) {
            Self::Tree(at..at + size)
        } else if words[1].swap_bytes() == atags::CORE {
            Self::Atags(at)
        } else {
            Self::Nothing
        }
    }
}

/// Something the firmware left in RAM, mapped for good.
fn firmware_bytes(range: &Range<u64>) -> Option<&'static [u8]> {
    let len = range.end - range.start;
    let va = table::map_firmware(range.start, len).ok()?;
    // SAFETY: mapped read-only just now, for good; `finish` keeps the frames from the allocator.
    Some(unsafe { core::slice::from_raw_parts(va as *const u8, len as usize) })
}

fn read_tree(board: &mut Board, range: Range<u64>) -> Result<(), &'static str> {
    let bytes = firmware_bytes(&range).ok_or("the device tree cannot be mapped")?;
    tree::read(board, bytes)?;
    board.free.remove(&page_cover(&range));
    Ok(())
}

/// A Raspberry Pi as QEMU starts it without `-dtb`.
fn no_tree(board: &mut Board, atags: Option<u64>) {
    let (name, peripherals) = match board.soc {
        Soc::Bcm2711 => ("raspi4b", 0xfe00_0000),
        _ => ("raspi3b", 0x3f00_0000),
    };
    board.name = name;
    board.console = Some(Serial::Mini(peripherals + 0x21_5040));
    board.watchdog = Some(peripherals + 0x10_0000);
    // All PL011s of the BCM2711 have this one.
    board.wire_interrupt = (board.soc == Soc::Bcm2711).then_some(32 + 121);
    board.interrupts = Some(match board.soc {
        Soc::Bcm2711 => InterruptController::GicV2 {
            distributor: 0xff84_1000,
            cpu: 0xff84_2000,
        },
        _ => InterruptController::Bcm2836(0x4000_0000),
    });
    for index in 0..4 {
        board.add_core(Core {
            affinity: index,
            start: StartMethod::SpinTable(0xd8 + 8 * index),
        });
    }
    if let Some(bytes) = atags.and_then(|at| firmware_bytes(&(at..4096))) {
        atags::read(board, bytes);
    }
    if board.ram.bytes() == 0 {
        // Nobody said: what the smallest of them leaves to the ARM cores.
        board.ram.add(0..448 << 20);
        board.free = board.ram.clone();
    }
}

fn page_cover(range: &Range<u64>) -> Range<u64> {
    range.start & !4095
        ..range
            .end
            .checked_next_multiple_of(4096)
            .unwrap_or(range.end)
}

/// What holds for every machine, however it was described.
fn finish(board: &mut Board, image: &Range<u64>) {
    board.ram = board.ram.whole_pages();
    board.free = board.free.whole_pages();
    board.free.remove(image);
    // The spin table, the firmware's stub, and a null pointer.
    board.free.remove(&(0..4096));
    if board.initrd.is_empty() || !board.ram.contains(&board.initrd) {
        board.initrd = 0..0;
    }
    board.free.remove(&page_cover(&board.initrd));
    if board.cpus == 0 {
        board.add_core(Core {
            affinity: cpu::affinity(),
            start: StartMethod::None,
        });
    }
    if board.console == Some(board.wire) {
        board.console = None;
    }
}
