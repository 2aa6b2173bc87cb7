//! The machines of QEMU that the one image boots on, and what each of them is able to have.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use clap::ValueEnum;

use crate::exit::usage;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Board {
    /// QEMU's generic Arm machine
    Virt,
    /// Raspberry Pi 3 B
    Raspi3b,
    /// Raspberry Pi 4 B
    Raspi4b,
}

/// What QEMU fixes for a machine, and for virt the limits that make sense.
struct Limits {
    cpus: (u32, u32),
    mebibytes: (u64, u64),
    cpu: &'static str,
}

impl Board {
    /// All boards.
    pub const ALL: [Board; 3] = [Board::Virt, Board::Raspi3b, Board::Raspi4b];

    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Board::Virt => "virt",
            Board::Raspi3b => "raspi3b",
            Board::Raspi4b => "raspi4b",
        }
    }

    fn limits(self) -> Limits {
        match self {
            // Eight is what a GICv2 has. Below 64 MiB the kernel, its ramdisk and its tables leave
            // programs nothing worth tracing.
            Board::Virt => Limits {
                cpus: (1, 8),
                mebibytes: (64, 64 << 10),
                cpu: "cortex-a72",
            },
            Board::Raspi3b => Limits {
                cpus: (4, 4),
                mebibytes: (1024, 1024),
                cpu: "cortex-a53",
            },
            Board::Raspi4b => Limits {
                cpus: (4, 4),
                mebibytes: (2048, 2048),
                cpu: "cortex-a72",
            },
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    mebibytes: u64,
}

impl Size {
    /// So many MiB.
    pub const fn mebibytes(mebibytes: u64) -> Self {
        Self { mebibytes }
    }

    /// In MiB.
    pub const fn in_mebibytes(self) -> u64 {
        self.mebibytes
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mebibytes {
            m if m > 0 && m % 1024 == 0 => write!(f, "{} GiB", m / 1024),
            m => write!(f, "{m} MiB"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("`{text}` is no amount of memory: write it like 512M or 2G");
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: u64 = digits.parse().map_err(|_| help())?;
        let unit: u64 = match &lower[digits.len()..] {
            // As QEMU's own `-m` has it.
            "" | "m" | "mb" | "mib" => 1 << 20,
            "k" | "kb" | "kib" => 1 << 10,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err(help()),
        };
        let bytes = number.checked_mul(unit).ok_or_else(help)?;
        if bytes % (1 << 20) != 0 || bytes == 0 {
            return Err(format!(
                "`{text}` is not a whole number of MiB, which QEMU wants"
            ));
        }
        Ok(Self {
            mebibytes: bytes >> 20,
        })
    }
}

/// A machine with all its choices made, and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Which machine.
    pub board: Board,
    /// QEMU's CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// RAM.
    pub memory: Size,
    /// Version of the interrupt controller, on virt.
    pub gic: u8,
    /// Whether virt's CPUs start at EL2, as those of the other boards do, instead of EL1.
    pub el2: bool,
}

impl Hardware {
    /// The board as it comes.
    pub fn of(board: Board) -> Self {
        let limits = board.limits();
        let memory = match board {
            // As much as a Pi 3 has, so that the boards are comparable.
            Board::Virt => Size::mebibytes(1024),
            _ => Size::mebibytes(limits.mebibytes.0),
        };
        Self {
            board,
            cpu: limits.cpu.to_owned(),
            cpus: limits.cpus.0,
            memory,
            gic: 2,
            el2: false,
        }
    }

    /// The board with a user's wishes, or an error that says what is possible.
    pub fn with(
        board: Board,
        cpu: Option<&str>,
        cpus: Option<u32>,
        memory: Option<Size>,
        gic: Option<u8>,
    ) -> Result<Self> {
        let limits = board.limits();
        let mut hardware = Self::of(board);
        if let Some(cpu) = cpu {
            if board != Board::Virt && cpu != hardware.cpu {
                return Err(usage(format!(
                    "{board} has {}, always: leave out --cpu, or use --board virt",
                    hardware.cpu
                )));
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || "-_=,.".contains(c);
            if cpu.is_empty() || !cpu.chars().all(legal) {
                return Err(usage(format!(
                    "`{cpu}` is no CPU model: try cortex-a53, cortex-a72, cortex-a76 or max"
                )));
            }
            hardware.cpu = cpu.to_owned();
        }
        if let Some(cpus) = cpus {
            let (low, high) = limits.cpus;
            if low == high && cpus != low {
                return Err(usage(format!(
                    "{board} has {low} CPUs, always: leave out --cpus, or use --board virt"
                )));
            }
            if !(low..=high).contains(&cpus) {
                return Err(usage(format!(
                    "--cpus {cpus}: {board} can have {low} to {high}"
                )));
            }
            hardware.cpus = cpus;
        }
        if let Some(memory) = memory {
            let (low, high) = limits.mebibytes;
            let (low, high) = (Size::mebibytes(low), Size::mebibytes(high));
            if low == high && memory != low {
                return Err(usage(format!(
                    "{board} has {low} of RAM, always: leave out --memory, or use --board virt"
                )));
            }
            if memory < low || memory > high {
                return Err(usage(format!(
                    "--memory {memory}: {board} can have {low} to {high}"
                )));
            }
            hardware.memory = memory;
        }
        if let Some(gic) = gic {
            if board != Board::Virt {
                return Err(usage(format!(
                    "{board} has its own interrupt controller: leave out --gic, or use --board virt"
                )));
            }
            hardware.gic = gic;
        }
        Ok(hardware)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, status};

    #[test]
    fn sizes() {
        for (text, mebibytes) in [
            ("512M", 512),
            ("2G", 2048),
            ("64", 64),
            ("1gib", 1024),
            ("2048k", 2),
            ("1T", 1 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Size { mebibytes }), "{text}");
        }
        for text in [
            "",
            "G",
            "1.5G",
            "-1G",
            "0",
            "3k",
            "1X",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text} was accepted");
        }
        assert_eq!(Size::mebibytes(1024).to_string(), "1 GiB");
        assert_eq!(Size::mebibytes(1536).to_string(), "1536 MiB");
    }

    #[test]
    fn wishes_that_cannot_be_met() {
        let refused = |h: Result<Hardware>, word: &str| {
            let error = h.unwrap_err();
            assert_eq!(status(&error), Some(Exit::Usage));
            assert!(error.to_string().contains(word), "{error}");
        };
        let size = |m| Some(Size::mebibytes(m));
        refused(
            Hardware::with(Board::Raspi3b, None, Some(1), None, None),
            "4 CPUs",
        );
        refused(
            Hardware::with(Board::Raspi3b, None, None, size(512), None),
            "1 GiB",
        );
        refused(
            Hardware::with(Board::Raspi4b, None, None, size(1024), None),
            "2 GiB",
        );
        refused(
            Hardware::with(Board::Raspi4b, Some("max"), None, None, None),
            "cortex-a72",
        );
        refused(
            Hardware::with(Board::Raspi4b, None, None, None, Some(3)),
            "--gic",
        );
        refused(
            Hardware::with(Board::Virt, None, Some(0), None, None),
            "1 to 8",
        );
        refused(
            Hardware::with(Board::Virt, None, None, size(16), None),
            "64 MiB",
        );
        refused(
            Hardware::with(Board::Virt, Some("a72 -monitor x"), None, None, None),
            "CPU model",
        );
    }

    #[test]
    fn wishes_that_can() {
        let hardware = Hardware::with(
            Board::Virt,
            Some("max,sve=off"),
            Some(2),
            Some(Size::mebibytes(256)),
            Some(3),
        );
        let hardware = hardware.unwrap();
        assert_eq!(
            (hardware.cpus, hardware.gic, hardware.memory.in_mebibytes()),
            (2, 3, 256)
        );
        // What a board has anyway may be said.
        assert!(
            Hardware::with(
                Board::Raspi3b,
                Some("cortex-a53"),
                Some(4),
                Some(Size::mebibytes(1024)),
                None
            )
            .is_ok()
        );
    }
}
