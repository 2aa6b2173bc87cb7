//! The Raspberry Pis: what each needs on its card, and how its firmware is told.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use crate::exit::unreadable;
use crate::machine::Board;
use crate::setup::firmware::{FIRMWARE_LICENCE, TREES_LICENCE};

/// A family of boards that one card boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Model {
    /// Raspberry Pi 3 A+, B, B+, Compute Module 3
    Pi3,
    /// Raspberry Pi 4 B, 400, Compute Module 4
    Pi4,
    /// Raspberry Pi 5
    Pi5,
    /// Raspberry Pi Zero 2 W
    Zero2w,
}

/// A device tree: Linux's name of it, which Debian has, and Raspberry Pi's own.
type Tree = (&'static str, &'static str);

/// Where the initramfs goes: behind any kernel, and below the end of the smallest board's RAM.
pub const INITRAMFS_AT: u64 = 0x0800_0000;
/// The most that it can have there: a Zero 2 W has 512 MiB, of which the GPU takes 64, and the
/// device tree lies at the end.
const INITRAMFS_MOST: u64 = 256 << 20;

/// The files' names on the card.
pub const KERNEL: &str = "kernel8.img";
/// The root file system.
pub const INITRAMFS: &str = "initramfs.cpio";
/// The kernel's boot arguments.
pub const CMDLINE: &str = "cmdline.txt";
/// What the firmware is told.
pub const CONFIG: &str = "config.txt";

impl Model {
    /// All of them.
    pub const ALL: [Model; 4] = [Model::Pi3, Model::Pi4, Model::Pi5, Model::Zero2w];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Model::Pi3 => "pi3",
            Model::Pi4 => "pi4",
            Model::Pi5 => "pi5",
            Model::Zero2w => "zero2w",
        }
    }

    /// QEMU's machine of the same kind, as far as there is one: what its limits are.
    pub fn machine(self) -> Board {
        match self {
            Model::Pi3 | Model::Zero2w => Board::Raspi3b,
            Model::Pi4 | Model::Pi5 => Board::Raspi4b,
        }
    }

    /// The device trees; one of them, at least, has to be there.
    fn trees(self) -> &'static [Tree] {
        match self {
            Model::Pi3 => &[
                ("bcm2837-rpi-3-b.dtb", "bcm2710-rpi-3-b.dtb"),
                ("bcm2837-rpi-3-b-plus.dtb", "bcm2710-rpi-3-b-plus.dtb"),
                ("bcm2837-rpi-3-a-plus.dtb", "bcm2710-rpi-3-b-plus.dtb"),
                ("bcm2837-rpi-cm3-io3.dtb", "bcm2710-rpi-cm3.dtb"),
            ],
            Model::Pi4 => &[
                ("bcm2711-rpi-4-b.dtb", "bcm2711-rpi-4-b.dtb"),
                ("bcm2711-rpi-400.dtb", "bcm2711-rpi-400.dtb"),
                ("bcm2711-rpi-cm4-io.dtb", "bcm2711-rpi-cm4.dtb"),
            ],
            Model::Pi5 => &[
                ("bcm2712-rpi-5-b.dtb", "bcm2712-rpi-5-b.dtb"),
                // Of the later stepping of the chip.
                ("bcm2712d0-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb"),
            ],
            Model::Zero2w => &[("bcm2837-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2-w.dtb")],
        }
    }

    /// The firmware, all of which has to be there. A Pi 5 has it in its flash memory.
    fn firmware(self) -> &'static [&'static str] {
        match self {
            Model::Pi3 | Model::Zero2w => &["bootcode.bin", "start.elf", "fixup.dat"],
            Model::Pi4 => &["start4.elf", "fixup4.dat"],
            Model::Pi5 => &[],
        }
    }

    /// Reads firmware, device trees and licences from a folder.
    pub fn collect(self, dir: &Path) -> Result<Collected> {
        let missing = |name: &str| {
            unreadable(format!(
                "{} has no {name}, which a {} needs on its card",
                dir.display(),
                self.name()
            ))
        };
        let read = |name: &str| -> Result<Option<Vec<u8>>> {
            let file = dir.join(name);
            match fs::read(&file) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(unreadable(format!(
                    "cannot read {}: {error}",
                    file.display()
                ))),
            }
        };
        let mut files = BTreeMap::new();
        for name in self.firmware() {
            let bytes = read(name)?.ok_or_else(|| missing(name))?;
            files.insert((*name).to_owned(), bytes);
        }
        let (main, theirs) = self.trees()[0];
        // All trees are of one kind: the firmware is told which.
        let upstream = dir.join(main).is_file();
        if !upstream && !dir.join(theirs).is_file() {
            return Err(missing(main));
        }
        for &(linux, own) in self.trees() {
            let name = if upstream { linux } else { own };
            if let Some(bytes) = read(name)? {
                files.insert(name.to_owned(), bytes);
            }
        }
        for name in [
            FIRMWARE_LICENCE,
            TREES_LICENCE,
            "LICENCE.broadcom",
            "COPYING.linux",
        ] {
            // That of the firmware goes where firmware goes.
            let is_firmwares = name == FIRMWARE_LICENCE || name == "LICENCE.broadcom";
            if is_firmwares && self.firmware().is_empty() {
                continue;
            }
            if let Some(bytes) = read(name)? {
                files.insert(name.to_owned(), bytes);
            }
        }
        Ok(Collected { files, upstream })
    }

    /// `config.txt` (Raspberry Pi's documentation, "config.txt").
    pub fn config(self, upstream: bool, has_initramfs: bool) -> String {
        let mut lines = vec![
            format!("# Made by cowscope for {}.", self.name()),
            "arm_64bit=1".to_owned(),
            format!("kernel={KERNEL}"),
        ];
        if has_initramfs {
            lines.push(format!("initramfs {INITRAMFS} {INITRAMFS_AT:#x}"));
        }
        lines.extend(
            [
                // Fixes the core clock, by which the mini UART's rate goes, and sets the rate.
                "enable_uart=1",
                // The PL011's: 3,000,000 baud are a sixteenth.
                "init_uart_clock=48000000",
                "disable_splash=1",
                "disable_overscan=1",
            ]
            .map(str::to_owned),
        );
        if upstream {
            lines.push("upstream_kernel=1".to_owned());
        }
        if self == Model::Pi5 {
            // A kernel that is not Linux, and the header's UART behind RP1 left as it is.
            lines.push("os_check=0".to_owned());
            lines.push("pciex4_reset=0".to_owned());
            lines.push("enable_rp1_uart=1".to_owned());
        } else {
            lines.push("gpu_mem=64".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

/// Why an initramfs is too large for a card, if it is.
pub fn check_initramfs(bytes: usize) -> Result<()> {
    if bytes as u64 <= INITRAMFS_MOST {
        return Ok(());
    }
    Err(crate::exit::usage(format!(
        "the root file system has {} MiB, and {} MiB is the most for a card: leave files out",
        bytes >> 20,
        INITRAMFS_MOST >> 20
    )))
}

/// What a card needs besides ours.
#[derive(Debug)]
pub struct Collected {
    /// By name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The device trees are Linux's, not Raspberry Pi's own.
    pub upstream: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = folder(&["bootcode.bin", "start.elf"]);
        let why = |model: Model| model.collect(dir.path()).unwrap_err().to_string();
        assert!(why(Model::Pi3).contains("fixup.dat"));
        assert!(why(Model::Pi4).contains("start4.elf"));
        assert!(why(Model::Pi5).contains("bcm2712-rpi-5-b.dtb"));
    }

    #[test]
    fn trees_of_either_kind_but_not_of_both() {
        let all = ["bootcode.bin", "start.elf", "fixup.dat", "LICENCE.broadcom"];
        let theirs = ["bcm2710-rpi-3-b.dtb", "bcm2710-rpi-3-b-plus.dtb"];
        let dir = folder(&[&all[..], &theirs[..]].concat());
        let found = Model::Pi3.collect(dir.path()).unwrap();
        assert!(!found.upstream);
        assert_eq!(found.files.len(), 6, "{:?}", found.files.keys());
        assert!(!Model::Pi3.config(found.upstream, true).contains("upstream"));

        let dir = folder(&[&all[..], &theirs[..], &["bcm2837-rpi-3-b.dtb"]].concat());
        let found = Model::Pi3.collect(dir.path()).unwrap();
        assert!(found.upstream);
        assert!(!found.files.contains_key("bcm2710-rpi-3-b.dtb"));
        assert!(
            Model::Pi3
                .config(found.upstream, true)
                .contains("upstream_kernel=1")
        );
    }

    #[test]
    fn a_pi_5_has_its_firmware() {
        let dir = folder(&["bcm2712-rpi-5-b.dtb", FIRMWARE_LICENCE, TREES_LICENCE]);
        let found = Model::Pi5.collect(dir.path()).unwrap();
        let names: Vec<_> = found.files.keys().map(String::as_str).collect();
        assert_eq!(names, [TREES_LICENCE, "bcm2712-rpi-5-b.dtb"]);
        let config = Model::Pi5.config(true, false);
        assert!(config.contains("os_check=0") && !config.contains("initramfs"));
    }

    #[test]
    fn initramfs_of_a_sensible_size() {
        assert!(check_initramfs(1 << 20).is_ok());
        assert!(check_initramfs(257 << 20).is_err());
    }
}
