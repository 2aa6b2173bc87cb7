//! Cards for Raspberry Pis: looked at by the programs that everybody uses, and booted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tools::machine::{self, Board, Ending, Hardware, Limits, Setup};
use tools::paths;
use tools::setup::apt::{self, Apt, Rights};

use crate::run::{self, Run};
use crate::system::{kernel, system};
use crate::trace::Trace;
use tools::image::Variant;

/// A program of this machine, its Debian package installed if need be.
#[track_caller]
pub fn program(name: &str, package: &str) -> PathBuf {
    match find(name).map_or_else(|| install(name, package), Ok) {
        Ok(path) => path,
        Err(error) => panic!("this test needs {name} ({package}): {error:#}"),
    }
}

/// Programs for file systems are not in everybody's `PATH`.
fn find(name: &str) -> Option<PathBuf> {
    let sbin = || {
        ["/usr/sbin", "/sbin"]
            .iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| path.is_file())
    };
    paths::program(name).or_else(sbin)
}

fn install(name: &str, package: &str) -> Result<PathBuf> {
    let _lock = crate::system::lock()?;
    if let Some(path) = find(name) {
        return Ok(path);
    }
    let apt = Apt::find().context("it is not installed, and there is no apt")?;
    ensure!(
        apt.rights != Rights::None,
        "it is not installed, and installing it takes root"
    );
    let install = || {
        let words = [
            "apt-get",
            "install",
            "--yes",
            "--no-install-recommends",
            package,
        ];
        apt::run(&mut apt::privileged(apt.rights, &words)?)
    };
    if install().is_err() {
        apt.update()?;
        install()?;
    }
    find(name).context("it is installed, and not to be found")
}

/// A disk image with one partition, at the first megabyte.
#[derive(Debug)]
pub struct Card {
    image: PathBuf,
}

impl Card {
    /// Of a file.
    pub fn open(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
        }
    }

    /// The partition, as mtools names it.
    fn partition(&self) -> String {
        format!("{}@@1M", self.image.display())
    }

    /// The names of the files on it.
    pub fn list(&self) -> Vec<String> {
        let mdir = program("mdir", "mtools");
        let said = output(Command::new(mdir).args(["-b", "-i", &self.partition(), "::"]));
        let names = said.lines().filter_map(|line| line.strip_prefix("::/"));
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Copies a file out of it.
    pub fn extract(&self, name: &str, dir: &Path) -> PathBuf {
        let mcopy = program("mcopy", "mtools");
        let to = dir.join(name);
        output(
            Command::new(mcopy)
                .args(["-n", "-i", &self.partition(), &format!("::/{name}")])
                .arg(&to),
        );
        to
    }

    /// `fsck.fat -n` finds nothing wrong; what it says.
    pub fn check(&self) -> String {
        let fsck = program("fsck.fat", "dosfstools");
        let image = std::fs::read(&self.image).expect("the image can be read");
        let partition = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(partition.path(), &image[1 << 20..]).expect("room for the partition");
        output(Command::new(fsck).arg("-n").arg(partition.path()))
    }
}

/// What a command says; it has to end well.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{error}");
    said
}

/// What the firmware of a Raspberry Pi reads from a card.
#[derive(Debug)]
pub struct Files {
    /// The kernel.
    pub kernel: PathBuf,
    /// The root file system.
    pub initramfs: PathBuf,
    /// The device tree.
    pub tree: PathBuf,
    /// The kernel's boot arguments.
    pub cmdline: String,
}

/// Boots QEMU's Raspberry Pi with these files as they are, until it powers itself off.
///
/// Panics, with all that is known of why, if the kernel does not end the machine itself.
#[track_caller]
pub fn boot(board: Board, files: &Files) -> Run {
    match try_boot(board, files) {
        Ok(run) => run,
        Err(error) => panic!("{board}: {error:#}"),
    }
}

fn try_boot(board: Board, files: &Files) -> Result<Run> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let setup = Setup {
        qemu: system().qemu.clone(),
        bootargs: files.cmdline.clone(),
        hardware: Hardware::of(board),
        kernel: files.kernel.clone(),
        initrd: files.initramfs.clone(),
        tree: Some(files.tree.clone()),
        wire: folder.path().join("trace.cow"),
        input: None,
        deterministic: None,
    };
    let limits = Limits {
        total: Some(crate::boot::TIME),
        silence: None,
    };
    let mut bytes = Vec::new();
    let ended = machine::run(&setup, limits, |more| {
        bytes.extend_from_slice(more);
        Ok(())
    })?;
    let trace = Trace::decode(&bytes);
    let elf = kernel(Variant::Plain).elf;
    // The watchdog ends it, which carries no code.
    match (ended.ending, &trace.end) {
        (Ending::Exited(0), Some(_)) => Ok(Run::new(bytes, trace, elf)),
        (ending, _) => bail!(
            "{ending:?}\nQEMU says: {}\n{}",
            ended.stderr,
            run::describe(&bytes, &trace, &elf)
        ),
    }
}
