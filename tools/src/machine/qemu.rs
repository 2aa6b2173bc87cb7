//! QEMU's command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::input::bulk_path;
use super::{Board, Hardware};

/// All that a machine is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `qemu-system-aarch64`
    pub qemu: PathBuf,
    /// The machine.
    pub hardware: Hardware,
    /// `kernel8.img`
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The device tree, if QEMU is not to make one itself (virt) or do without (Raspberry Pis).
    pub tree: Option<PathBuf>,
    /// The kernel's command line.
    pub bootargs: String,
    /// Where the bytes of the first UART go.
    pub wire: PathBuf,
    /// Where bytes for the first UART come from: a named pipe.
    pub input: Option<PathBuf>,
    /// Count instructions instead of time, with this seed.
    pub deterministic: Option<u64>,
}

impl Setup {
    /// The command.
    pub fn command(&self) -> Command {
        let hardware = &self.hardware;
        let mut command = Command::new(&self.qemu);
        // Nothing from the user's configuration, no devices nobody asked for, and an end instead
        // of a reboot.
        command.args([
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ]);
        let mut semihosting = OsString::from("enable=on,target=native");
        if let Some(input) = &self.input {
            // The kernel asks for its command line there, and opens that.
            semihosting.push(",arg=");
            semihosting.push(escaped(&bulk_path(input)));
        }
        command.arg("-semihosting-config").arg(semihosting);
        command.arg("-M").arg(self.machine());
        if hardware.board == Board::Virt {
            command.args(["-cpu", &hardware.cpu, "-nic", "none"]);
        }
        command.args(["-smp", &hardware.cpus.to_string()]);
        command.args(["-m", &format!("{}M", hardware.memory.in_mebibytes())]);
        if let Some(seed) = self.deterministic {
            // One instruction is one nanosecond, idle time is skipped, and the clock of day starts
            // at a fixed time and runs on the same virtual time.
            command.args(["-icount", "shift=0,sleep=off", "-seed", &seed.to_string()]);
            command.args(["-rtc", "base=2020-01-01T00:00:00,clock=vm"]);
        }
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd);
        command.arg("-append").arg(&self.bootargs);
        if let Some(tree) = &self.tree {
            command.arg("-dtb").arg(tree);
        }
        // A file is the fastest sink for the first UART: QEMU makes a system call per byte, and a
        // pipe or socket makes it wait for its reader as well.
        let Some(input) = &self.input else {
            let mut serial = OsString::from("file:");
            serial.push(&self.wire);
            command.arg("-serial").arg(serial);
            return command;
        };
        let mut device = OsString::from("file,id=wire,path=");
        device.push(escaped(&self.wire));
        device.push(",input-path=");
        device.push(escaped(input));
        command.arg("-chardev").arg(device);
        command.args(["-serial", "chardev:wire"]);
        command
    }

    fn machine(&self) -> String {
        let hardware = &self.hardware;
        match hardware.board {
            Board::Virt => {
                let random = if self.deterministic.is_some() {
                    "off"
                } else {
                    "on"
                };
                let el2 = if hardware.el2 {
                    ",virtualization=on"
                } else {
                    ""
                };
                format!(
                    "virt,gic-version={},dtb-randomness={random}{el2}",
                    hardware.gic
                )
            }
            board => board.name().to_owned(),
        }
    }
}

/// A path in a list of options, in which commas are written twice.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(board: Board, deterministic: Option<u64>) -> Vec<String> {
        let setup = Setup {
            qemu: "qemu".into(),
            hardware: Hardware::of(board),
            kernel: "kernel8.img".into(),
            initrd: "initramfs.cpio".into(),
            tree: None,
            bootargs: "init=/bin/a semihosting".into(),
            wire: "a, b.cow".into(),
            input: None,
            deterministic,
        };
        setup
            .command()
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect()
    }

    fn after<'a>(words: &'a [String], option: &str) -> Option<&'a str> {
        words
            .iter()
            .position(|w| w == option)
            .map(|i| words[i + 1].as_str())
    }

    #[test]
    fn virt() {
        let words = words(Board::Virt, None);
        assert_eq!(
            after(&words, "-M"),
            Some("virt,gic-version=2,dtb-randomness=on")
        );
        assert_eq!(after(&words, "-cpu"), Some("cortex-a72"));
        assert_eq!(after(&words, "-m"), Some("1024M"));
        assert_eq!(after(&words, "-append"), Some("init=/bin/a semihosting"));
        assert_eq!(after(&words, "-serial"), Some("file:a, b.cow"));
        assert_eq!(after(&words, "-icount"), None);
    }

    #[test]
    fn input_comes_by_the_same_uart() {
        let setup = Setup {
            qemu: "qemu".into(),
            hardware: Hardware::of(Board::Virt),
            kernel: "kernel8.img".into(),
            initrd: "initramfs.cpio".into(),
            tree: None,
            bootargs: String::new(),
            wire: "a, b.cow".into(),
            input: Some("c".into()),
            deterministic: None,
        };
        let command = setup.command();
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let expected = ["-chardev", "file,id=wire,path=a,, b.cow,input-path=c"];
        assert!(words.windows(2).any(|pair| pair == expected), "{words:?}");
        let expected = ["-semihosting-config", "enable=on,target=native,arg=c.bulk"];
        assert!(words.windows(2).any(|pair| pair == expected), "{words:?}");
    }

    #[test]
    fn a_pi_has_its_own_cpu() {
        let words = words(Board::Raspi4b, Some(3));
        assert_eq!(after(&words, "-M"), Some("raspi4b"));
        assert_eq!(after(&words, "-cpu"), None);
        assert_eq!(after(&words, "-m"), Some("2048M"));
        assert_eq!(after(&words, "-icount"), Some("shift=0,sleep=off"));
        assert_eq!(after(&words, "-seed"), Some("3"));
    }

    #[test]
    fn determinism_reaches_the_device_tree() {
        assert_eq!(
            after(&words(Board::Virt, Some(1)), "-M"),
            Some("virt,gic-version=2,dtb-randomness=off")
        );
    }
}
