//! The compiler for the kernel and the programs: rustup's, or one unpacked from Debian's packages.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages;
use super::version::Version;
use crate::paths;
use crate::progress::Progress;

/// The kernel's target: without floating point, so that user registers stay in place.
pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";
/// The user programs' target.
pub const USER_TARGET: &str = "aarch64-unknown-none";
const TARGETS: [&str; 2] = [KERNEL_TARGET, USER_TARGET];

/// Chooses where the compiler comes from: `rustup` or `packages`. Both are tried when it is not set.
pub const CHOICE: &str = "COWSCOPE_TOOLCHAIN";

/// The least version of the compiler: the workspace's `rust-version`.
pub fn least() -> Version {
    Version::parse(env!("CARGO_PKG_RUST_VERSION")).unwrap_or(Version(1, 95, 0))
}

/// How cargo is told to use a compiler.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// For people: what it is.
    pub name: String,
    /// Environment of cargo.
    pub env: Vec<(String, OsString)>,
    /// Arguments of cargo.
    pub args: Vec<String>,
    /// Clippy, when `cargo clippy` is not the one that belongs to the compiler.
    pub clippy_driver: Option<PathBuf>,
}

/// What there is, without installing anything.
pub fn find() -> Result<Toolchain> {
    let choice = choice()?;
    let mut why = Vec::new();
    if choice != Choice::Packages {
        match rustup() {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => why.push(format!("{error:#}")),
        }
    }
    if choice != Choice::Rustup {
        match packages::find()? {
            Some(unpacked) => return from_packages(&unpacked),
            None => why.push("none was unpacked from packages".to_owned()),
        }
    }
    bail!("{}", why.join("; "))
}

/// A compiler, installed if need be.
pub fn prepare(progress: &Progress) -> Result<Toolchain> {
    let missing = match find() {
        Ok(toolchain) => return Ok(toolchain),
        Err(missing) => missing,
    };
    progress.note(&format!("no compiler for the kernel yet: {missing:#}"));
    let mut why = Vec::new();
    let choice = choice()?;
    if choice != Choice::Packages {
        match rustup_add(progress) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => why.push(format!("{error:#}")),
        }
    }
    if choice != Choice::Rustup {
        match packages::install(progress) {
            Ok(unpacked) => return from_packages(&unpacked),
            Err(error) => why.push(format!("{error:#}")),
        }
    }
    bail!(
        "there is no compiler for {KERNEL_TARGET}, and none could be installed:\n- {}\nWith rustup \
         it is: rustup target add {}",
        why.join("\n- "),
        TARGETS.join(" ")
    )
}

/// `cargo`, in the workspace.
pub fn cargo() -> Result<Command> {
    // Set by cargo for what it runs, and then the one to use.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace()?);
    Ok(command)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Any,
    Rustup,
    Packages,
}

fn choice() -> Result<Choice> {
    match std::env::var(CHOICE).unwrap_or_default().as_str() {
        "" => Ok(Choice::Any),
        "rustup" => Ok(Choice::Rustup),
        "packages" => Ok(Choice::Packages),
        other => Err(crate::exit::usage(format!(
            "{CHOICE}={other}: it can be `rustup` or `packages`"
        ))),
    }
}

fn rustc(args: &[&str]) -> Result<String> {
    let output = Command::new("rustc")
        .args(args)
        .current_dir(paths::workspace()?)
        .output()
        .context("cannot run rustc")?;
    if !output.status.success() {
        bail!(
            "`rustc {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The installed compiler, if it has libraries for both targets.
fn rustup() -> Result<Toolchain> {
    let version = rustc(&["--version"])?;
    if Version::of_output(&version).is_none_or(|v| v < least()) {
        bail!("{version} is too old: {} is needed", least());
    }
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    for target in TARGETS {
        if !has_core(&sysroot, target) {
            bail!("{version} has no library for {target}");
        }
    }
    Ok(Toolchain {
        name: version,
        env: Vec::new(),
        args: Vec::new(),
        clippy_driver: None,
    })
}

fn has_core(sysroot: &Path, target: &str) -> bool {
    let Ok(dir) = sysroot
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .read_dir()
    else {
        return false;
    };
    dir.flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn rustup_add(progress: &Progress) -> Result<Toolchain> {
    let Some(rustup_program) = paths::program("rustup") else {
        bail!("there is no rustup");
    };
    // Whoever told rustup to fetch nothing by itself does not want it to do so for us.
    if forbidden(std::env::var_os("RUSTUP_AUTO_INSTALL").as_deref()) && choice()? == Choice::Any {
        bail!("RUSTUP_AUTO_INSTALL=0 keeps rustup from installing");
    }
    progress.step(&format!("rustup target add {}", TARGETS.join(" ")));
    let mut command = Command::new(rustup_program);
    command
        .args(["target", "add"])
        .args(TARGETS)
        .current_dir(paths::workspace()?);
    super::apt::run(&mut command)?;
    let toolchain = rustup()?;
    progress.note(&format!("installed {} with rustup", TARGETS.join(" and ")));
    Ok(toolchain)
}

fn forbidden(auto_install: Option<&OsStr>) -> bool {
    auto_install.is_some_and(|value| value == "0")
}

/// Tells cargo to use an unpacked compiler, which builds the targets' libraries from their source.
fn from_packages(unpacked: &packages::Unpacked) -> Result<Toolchain> {
    let linker = linker()?;
    let mut env = vec![
        ("RUSTC".to_owned(), unpacked.rustc.clone().into_os_string()),
        // Its libraries are not built yet, and building them is a feature under development.
        ("RUSTC_BOOTSTRAP".to_owned(), "1".into()),
    ];
    for target in TARGETS {
        let name = target.to_uppercase().replace('-', "_");
        env.push((
            format!("CARGO_TARGET_{name}_LINKER"),
            linker.clone().into_os_string(),
        ));
    }
    Ok(Toolchain {
        name: format!("{} (unpacked from packages)", unpacked.version),
        env,
        args: ["-Z", "build-std=core,alloc"].map(str::to_owned).to_vec(),
        clippy_driver: Some(unpacked.clippy_driver.clone()),
    })
}

/// The linker: rustup's copy of LLD, or one of the system.
fn linker() -> Result<PathBuf> {
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if let Ok(hosts) = sysroot.join("lib/rustlib").read_dir() {
        let found = hosts
            .flatten()
            .map(|host| host.path().join("bin/rust-lld"))
            .find(|f| f.is_file());
        if let Some(found) = found {
            return Ok(found);
        }
    }
    ["rust-lld", "ld.lld"].iter().find_map(|name| paths::program(name)).context(
        "there is no linker for AArch64: install LLD (package `lld`), or Rust by rustup, which has it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustup_fetches_nothing_where_it_is_told_not_to() {
        assert!(forbidden(Some(OsStr::new("0"))));
        assert!(!forbidden(Some(OsStr::new("1"))) && !forbidden(None));
    }

    #[test]
    fn a_target_is_there_when_its_core_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_core(dir.path(), USER_TARGET));
        let lib = dir.path().join("lib/rustlib").join(USER_TARGET).join("lib");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join("libcore-0123.rmeta"), "").unwrap();
        assert!(
            !has_core(dir.path(), USER_TARGET),
            "a half-installed target is none"
        );
        std::fs::write(lib.join("libcore-0123.rlib"), "").unwrap();
        assert!(has_core(dir.path(), USER_TARGET));
        assert!(!has_core(dir.path(), KERNEL_TARGET));
    }
}
