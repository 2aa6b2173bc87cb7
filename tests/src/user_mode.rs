//! The oracle: the same ELF files under `qemu-aarch64`, on this machine's Linux.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use tools::paths;
use tools::setup::apt::{self, Apt, Rights};

use crate::system;

const PROGRAMS: [&str; 2] = ["qemu-aarch64", "qemu-aarch64-static"];
const PACKAGE: &str = "qemu-user";

/// Runs an ELF file with these arguments (the first is its name) and this environment alone.
pub fn run(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let (name, rest) = arguments.split_first().expect("a program has a name");
    Command::new(emulator())
        .args(["-0", name])
        .arg(program)
        .args(rest)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the emulator runs")
}

/// Runs a program of a root file system, in which it finds its libraries and files.
///
/// Programs that it executes are looked for on this machine, where there are none for arm64.
pub fn run_in(root: &Path, program: &str, arguments: &[&str]) -> Output {
    let (name, rest) = arguments.split_first().expect("a program has a name");
    Command::new(emulator())
        .arg("-L")
        .arg(root)
        .args(["-0", name])
        .arg(root.join(program.trim_start_matches('/')))
        .args(rest)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the emulator runs")
}

/// `qemu-aarch64`, installed when it is missing.
fn emulator() -> &'static Path {
    static EMULATOR: OnceLock<PathBuf> = OnceLock::new();
    EMULATOR.get_or_init(|| match prepare() {
        Ok(path) => path,
        Err(error) => panic!("there is no {} to compare with: {error:#}", PROGRAMS[0]),
    })
}

fn prepare() -> Result<PathBuf> {
    let _lock = system::lock()?;
    if let Some(path) = find() {
        return Ok(path);
    }
    let apt = Apt::find().with_context(|| format!("install QEMU's user mode, {PACKAGE}"))?;
    if apt.rights == Rights::None {
        bail!("installing it takes root: sudo apt-get install {PACKAGE}");
    }
    if apt.policy(PACKAGE)?.candidate.is_none() {
        // Lists that are old or missing; a source that fails need not be the one that has it.
        let _ = apt.update();
    }
    let words = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y"];
    let words = [&words[..], &["--no-install-recommends", PACKAGE]].concat();
    apt::run(&mut apt::privileged(apt.rights, &words)?)
        .with_context(|| format!("cannot install {PACKAGE}"))?;
    eprintln!("tests: installed {PACKAGE}");
    find().with_context(|| format!("{PACKAGE} was installed, but has no {}", PROGRAMS[0]))
}

fn find() -> Option<PathBuf> {
    PROGRAMS.iter().find_map(|name| paths::program(name))
}
