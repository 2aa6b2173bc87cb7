//! What machine this is: from its device tree, or from what is known of a Raspberry Pi without one;
//! and how a Raspberry Pi's own devices are set up.
//!
//! No address is touched here: descriptions are read from bytes, and registers by way of a trait, so
//! that all of it runs on the host as well. The kernel and the chain loader use it.
#![no_std]
#![forbid(unsafe_code)]

mod atags;
pub mod pi;
mod ranges;
mod tree;

use core::ops::Range;
pub use ranges::Ranges;

/// The most cores that are told apart.
pub const MAX_CPUS: usize = 16;

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

/// The instruction that reaches the firmware (PSCI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
}

/// How a core is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMethod {
    /// PSCI CPU_ON.
    Psci(Conduit),
    /// By storing the entry at this physical address.
    SpinTable(u64),
    /// Unknown.
    None,
}

/// A core, as the tree describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its affinity fields of MPIDR_EL1.
    pub affinity: u64,
    /// How to start it.
    pub start: StartMethod,
}

/// The interrupt controller, by physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The activity LED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The pin: below 128 of the chip, from 128 on of the firmware's expander.
    pub pin: u32,
    /// It is on when the pin is low.
    pub active_low: bool,
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
    /// The virtual timer's interrupt: the GIC's number (INTID), or the BCM2836's.
    pub timer_interrupt: Option<u32>,
    /// PSCI, where the firmware has it.
    pub psci: Option<Conduit>,
    /// The Raspberry Pi's power manager and watchdog.
    pub watchdog: Option<u64>,
    /// Its mailbox to the firmware.
    pub mailbox: Option<u64>,
    /// Its pins.
    pub gpio: Option<u64>,
    /// Its activity LED.
    pub led: Option<Led>,
}

impl Board {
    /// Of a machine of which nothing is known but this.
    pub const fn new(soc: Soc, wire: Serial) -> Self {
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
            timer_interrupt: None,
            psci: None,
            watchdog: None,
            mailbox: None,
            gpio: None,
            led: None,
        }
    }

    /// Reads the device tree, which lies at `at`. Anything missing or malformed inside a valid tree
    /// is left out.
    pub fn read_tree(&mut self, bytes: &'static [u8], at: Range<u64>) -> Result<(), &'static str> {
        tree::read(self, bytes)?;
        self.free.remove(&page_cover(&at));
        Ok(())
    }

    /// A Raspberry Pi as QEMU starts it without `-dtb`: what is known of it, and the ATAGs.
    pub fn without_tree(&mut self, atags: Option<&'static [u8]>) {
        let (name, peripherals) = match self.soc {
            Soc::Bcm2711 => ("raspi4b", 0xfe00_0000),
            _ => ("raspi3b", 0x3f00_0000),
        };
        self.name = name;
        self.console = Some(Serial::Mini(peripherals + 0x21_5040));
        self.watchdog = Some(peripherals + 0x10_0000);
        self.mailbox = Some(peripherals + 0xb880);
        self.gpio = Some(peripherals + 0x20_0000);
        // All PL011s of the BCM2711 have this one.
        self.wire_interrupt = (self.soc == Soc::Bcm2711).then_some(32 + 121);
        self.interrupts = Some(match self.soc {
            Soc::Bcm2711 => InterruptController::GicV2 {
                distributor: 0xff84_1000,
                cpu: 0xff84_2000,
            },
            _ => InterruptController::Bcm2836(0x4000_0000),
        });
        for index in 0..4 {
            self.add_core(Core {
                affinity: index,
                start: StartMethod::SpinTable(0xd8 + 8 * index),
            });
        }
        if let Some(bytes) = atags {
            atags::read(self, bytes);
        }
        if self.ram.bytes() == 0 {
            // Nobody said: what the smallest of them leaves to the ARM cores.
            self.ram.add(0..448 << 20);
            self.free = self.ram.clone();
        }
    }

    /// What holds for every machine, however it was described: `image` is the kernel's own memory,
    /// `affinity` this core's.
    pub fn finish(&mut self, image: &Range<u64>, affinity: u64) -> Result<(), &'static str> {
        self.ram = self.ram.whole_pages();
        self.free = self.free.whole_pages();
        self.free.remove(image);
        // The spin table, the firmware's stub, and a null pointer.
        self.free.remove(&(0..4096));
        if self.initrd.is_empty() || !self.ram.contains(&self.initrd) {
            self.initrd = 0..0;
        }
        if self.initrd.start < image.end && image.start < self.initrd.end {
            return Err("the boot loader put the initial file system into the kernel's memory");
        }
        self.free.remove(&page_cover(&self.initrd));
        if self.cpus == 0 {
            self.add_core(Core {
                affinity,
                start: StartMethod::None,
            });
        }
        if self.console == Some(self.wire) {
            self.console = None;
        }
        Ok(())
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

    /// Whether a word stands alone among the boot arguments (before a lone `--`).
    pub fn has_argument(&self, word: &str) -> bool {
        self.bootargs
            .split_ascii_whitespace()
            .take_while(|&argument| argument != "--")
            .any(|argument| argument == word)
    }
}

/// The chip by what the core (MIDR_EL1) and the load address tell: right for the machines we know,
/// and all there is before the tree is read, or without one.
pub fn guess(image_at: u64, midr: u64) -> (Soc, Serial) {
    if (0x4000_0000..0x1_0000_0000).contains(&image_at) {
        return (Soc::Virt, Serial::Pl011(0x0900_0000));
    }
    match (midr >> 4) & 0xfff {
        0xd08 => (Soc::Bcm2711, Serial::Pl011(0xfe20_1000)),
        0xd0b => (Soc::Bcm2712, Serial::Pl011(0x10_7d00_1000)),
        _ => (Soc::Bcm2837, Serial::Pl011(0x3f20_1000)),
    }
}

/// What a boot loader's x0 points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handed {
    /// A device tree, there.
    Tree(Range<u64>),
    /// ATAGs, from there on.
    Atags(u64),
    /// Neither.
    Nothing,
}

impl Handed {
    /// The largest device tree. Raspberry Pi's own have some 80 KiB, with overlays.
    pub const TREE_LIMIT: u64 = 2 << 20;

    /// By the two words (as they lie there, little-endian) at `at`.
    pub fn of(at: u64, words: [u32; 2]) -> Self {
        let [magic, size] = words.map(u32::swap_bytes);
        if magic == 0xd00d_feed && (40..=Self::TREE_LIMIT).contains(&u64::from(size)) {
            Self::Tree(at..at + u64::from(size))
        } else if words[1] == atags::CORE {
            Self::Atags(at)
        } else {
            Self::Nothing
        }
    }
}

fn page_cover(range: &Range<u64>) -> Range<u64> {
    range.start & !4095
        ..range
            .end
            .checked_next_multiple_of(4096)
            .unwrap_or(range.end)
}
