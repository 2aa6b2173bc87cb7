//! What machines boot: built once, whatever test asks first.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use tools::image::{self, Built, Variant};
use tools::paths;
use tools::progress::Progress;
use tools::setup::{qemu, rust};

/// QEMU, the kernel and the programs.
pub struct System {
    /// `qemu-system-aarch64`
    pub qemu: PathBuf,
    /// `kernel8.img`
    pub image: PathBuf,
    /// The ELF files.
    pub built: Built,
}

impl System {
    /// The ELF file of a program of ours.
    pub fn program(&self, name: &str) -> &Path {
        match self.built.programs.get(name) {
            Some(file) => file,
            None => panic!("{name} is no program of ours"),
        }
    }
}

/// The system under test.
pub fn system() -> &'static System {
    static SYSTEM: OnceLock<System> = OnceLock::new();
    SYSTEM.get_or_init(|| match build() {
        Ok(system) => system,
        Err(error) => panic!("there is nothing to boot: {error:#}"),
    })
}

/// Installing, and replacing an image that others boot, is for one at a time.
pub(crate) fn lock() -> Result<File> {
    let path = paths::own()?.join("tests.lock");
    let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    lock.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}

fn build() -> Result<System> {
    let _lock = lock()?;
    let progress = Progress::new(false);
    let qemu = qemu::prepare(None, &progress)?;
    let toolchain = rust::prepare(&progress)?;
    let built = image::build(&toolchain, Variant::Plain, &progress)?;
    Ok(System {
        qemu: qemu.path,
        image: image::kernel_image(&built.kernel, Variant::Plain)?,
        built,
    })
}

/// A kernel: its ELF file, and the image that boots.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The ELF file.
    pub elf: PathBuf,
    /// The image.
    pub image: PathBuf,
}

/// The kernel under test.
pub(crate) fn kernel(variant: Variant) -> Kernel {
    static CHECKS: OnceLock<Kernel> = OnceLock::new();
    match variant {
        Variant::Plain => Kernel {
            elf: system().built.kernel.clone(),
            image: system().image.clone(),
        },
        Variant::Checks => CHECKS
            .get_or_init(|| match build_checks() {
                Ok(kernel) => kernel,
                Err(error) => panic!("there is no kernel with checks: {error:#}"),
            })
            .clone(),
    }
}

fn build_checks() -> Result<Kernel> {
    let _lock = lock()?;
    let progress = Progress::new(false);
    let toolchain = rust::prepare(&progress)?;
    let elf = image::build_kernel(&toolchain, Variant::Checks, &progress)?;
    let image = image::kernel_image(&elf, Variant::Checks)?;
    Ok(Kernel { elf, image })
}

/// The command `cowscope`, as it is in the source now.
pub fn cowscope() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let binary = BINARY.get_or_init(|| match build_tool() {
        Ok(binary) => binary,
        Err(error) => panic!("there is no cowscope to test: {error:#}"),
    });
    Command::new(binary)
}

/// `cargo test` has built it already, unless it was for this package alone.
fn build_tool() -> Result<PathBuf> {
    let mut cargo = rust::cargo()?;
    cargo.args(["build", "--quiet", "--bin", "cowscope"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "it does not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back()
        .context("cargo built no cowscope")
}
