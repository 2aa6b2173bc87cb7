//! What a machine boots: the kernel's image and the root file system, built from source.

mod cargo;
mod flat;
mod fresh;
mod guest;
mod initramfs;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::exit::unreadable;
use crate::paths;
use crate::progress::Progress;
use crate::setup::{Toolchain, rust};

pub use guest::{Guest, GuestFile, Wanted};
pub use initramfs::{Entry, Initramfs};

/// The ELF files of kernel and programs, with all their debug information.
#[derive(Clone, Debug)]
pub struct Built {
    /// The kernel.
    pub kernel: PathBuf,
    /// The user programs, by name.
    pub programs: BTreeMap<String, PathBuf>,
}

/// The program that the kernel starts first.
const INIT: &str = "init";

/// Where the programs are in the guest.
const BIN: &str = "/bin";

/// Directories that programs expect, and that the kernel may mount something on.
const DIRECTORIES: [&str; 5] = [BIN, "/dev", "/etc", "/proc", "/tmp"];

/// Which kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// The one that everybody runs.
    #[default]
    Plain,
    /// The one that checks itself as it runs: the order of locks, and every translation rule.
    Checks,
}

const fn kernel(variant: Variant) -> cargo::Wanted {
    cargo::Wanted {
        package: "kernel",
        target: rust::KERNEL_TARGET,
        checks: matches!(variant, Variant::Checks),
    }
}

const USER: cargo::Wanted = cargo::Wanted {
    package: "user",
    target: rust::USER_TARGET,
    checks: false,
};

const LOADER: cargo::Wanted = cargo::Wanted {
    package: "loader",
    target: rust::KERNEL_TARGET,
    checks: false,
};

/// Builds the chain loader; its image.
pub fn build_loader(progress: &Progress) -> Result<Vec<u8>> {
    let toolchain = rust::prepare(progress)?;
    progress.step("building the loader");
    let mut built = cargo::build(&toolchain, LOADER, progress)?;
    let elf = built.remove("loader").context("cargo built no loader")?;
    convert(&elf, &read(&elf)?)
}

/// Builds the kernel and the programs. Cargo knows what there is to do.
pub fn build(toolchain: &Toolchain, variant: Variant, progress: &Progress) -> Result<Built> {
    Ok(Built {
        kernel: build_kernel(toolchain, variant, progress)?,
        programs: build_programs(toolchain, progress)?,
    })
}

/// The same, but nobody is asked where nothing has changed since the last time.
pub fn build_if_changed(variant: Variant, progress: &Progress) -> Result<Built> {
    let sources = fresh::Sources::now()?;
    if let Some(built) = sources.built(variant) {
        return Ok(built);
    }
    let built = build(&rust::prepare(progress)?, variant, progress)?;
    // What changes meanwhile is not what was looked at: it will be built again.
    sources.remember(variant, &built)?;
    Ok(built)
}

/// Builds the kernel alone.
pub fn build_kernel(
    toolchain: &Toolchain,
    variant: Variant,
    progress: &Progress,
) -> Result<PathBuf> {
    progress.step("building the kernel");
    let mut built = cargo::build(toolchain, kernel(variant), progress)?;
    built.remove("kernel").context("cargo built no kernel")
}

/// Builds the programs alone.
pub fn build_programs(
    toolchain: &Toolchain,
    progress: &Progress,
) -> Result<BTreeMap<String, PathBuf>> {
    progress.step("building the programs");
    cargo::build(toolchain, USER, progress)
}

/// Runs clippy on kernel and programs, warnings being errors.
pub fn lint(quiet: bool) -> Result<ExitCode> {
    let progress = Progress::new(quiet);
    let toolchain = rust::prepare(&progress)?;
    let mut clean = true;
    for wanted in [
        kernel(Variant::Plain),
        kernel(Variant::Checks),
        LOADER,
        USER,
    ] {
        let (package, name) = (wanted.package, &toolchain.name);
        let with = if wanted.checks { " with checks" } else { "" };
        progress.note(&format!("clippy: {package}{with} ({name})"));
        clean &= progress.suspend(|| cargo::clippy(&toolchain, wanted))?;
    }
    Ok(if clean {
        crate::exit::Exit::Ok
    } else {
        crate::exit::Exit::Finding
    }
    .into())
}

/// The image of a kernel that was built, in its place below `target/`.
pub fn kernel_image(elf: &Path, variant: Variant) -> Result<PathBuf> {
    let image = convert(elf, &read(elf)?)?;
    let name = match variant {
        Variant::Plain => "kernel8.img",
        Variant::Checks => "kernel8-checks.img",
    };
    let file = paths::own()?.join(name);
    write_if_changed(&file, &image)?;
    Ok(file)
}

/// The image of a kernel that the user has: as it is, or converted, if it is an ELF file, into `dir`.
pub fn foreign_kernel(file: &Path, dir: &Path) -> Result<PathBuf> {
    let bytes = read(file)?;
    if flat::is_elf(&bytes) {
        let image = dir.join("kernel8.img");
        let converted = convert(file, &bytes)?;
        fs::write(&image, converted)
            .with_context(|| format!("cannot write {}", image.display()))?;
        return Ok(image);
    }
    if !flat::is_arm64_image(&bytes) {
        let name = file.display();
        return Err(unreadable(format!(
            "{name} is neither an ELF file nor an arm64 Image"
        )));
    }
    Ok(file.to_owned())
}

fn convert(file: &Path, elf: &[u8]) -> Result<Vec<u8>> {
    let why = || format!("{} cannot be made an image", file.display());
    let image = flat::flatten(elf).with_context(why)?;
    ensure!(
        flat::is_arm64_image(&image),
        "{} does not begin with an arm64 Image header",
        file.display()
    );
    Ok(image)
}

/// The root file system with our programs: the first one as `/init`, the others in `/bin`.
pub fn root(programs: &BTreeMap<String, PathBuf>) -> Result<Initramfs> {
    let mut root = Initramfs::new();
    for directory in DIRECTORIES {
        root.directory(directory)?;
    }
    for (name, file) in programs {
        root.file(&guest_path(name), packed(file)?)?;
    }
    Ok(root)
}

/// A program of ours as it goes into the guest.
fn packed(file: &Path) -> Result<Vec<u8>> {
    let why = || format!("{} cannot be packed", file.display());
    flat::without_sections(&read(file)?).with_context(why)
}

/// Where a program of ours is in the guest.
pub fn guest_path(program: &str) -> String {
    match program {
        INIT => format!("/{INIT}"),
        name => format!("{BIN}/{name}"),
    }
}

/// A file's contents, or an error that names it.
pub fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| unreadable(format!("cannot read {}: {error}", file.display())))
}

/// Writes a file that others may be reading: they see the old or the new one, never a part.
fn write_if_changed(file: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    let why = || format!("cannot write {}", file.display());
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(dir).with_context(why)?;
    new.write_all(contents).with_context(why)?;
    new.persist(file).with_context(why)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::flat::tests::elf;
    use super::*;
    use crate::exit::{Exit, status};
    use object::elf::{EM_AARCH64, PT_LOAD};

    #[test]
    fn foreign_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("theirs");
        let mut header = vec![0; 64];
        header[56..60].copy_from_slice(b"ARM\x64");

        fs::write(&file, &header).unwrap();
        assert_eq!(foreign_kernel(&file, dir.path()).unwrap(), file);

        fs::write(&file, elf(EM_AARCH64, &[(PT_LOAD, 0, &header, 64)])).unwrap();
        let image = foreign_kernel(&file, dir.path()).unwrap();
        assert_eq!(fs::read(image).unwrap(), header);

        fs::write(&file, elf(EM_AARCH64, &[(PT_LOAD, 0, &[0; 64], 64)])).unwrap();
        assert!(foreign_kernel(&file, dir.path()).is_err(), "no header");

        fs::write(&file, "text").unwrap();
        let error = foreign_kernel(&file, dir.path()).unwrap_err();
        assert_eq!(status(&error), Some(Exit::Unreadable));
    }

    #[test]
    fn programs_have_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        fs::write(&file, elf(EM_AARCH64, &[(PT_LOAD, 0, b"code", 4)])).unwrap();
        let programs = ["init", "story"]
            .map(|name| (name.to_owned(), file.clone()))
            .into();
        let root = root(&programs).unwrap();
        assert!(root.has_file("/init") && root.has_file("/bin/story"));
        assert!(!root.has_file("/bin/init"));
    }

    #[test]
    fn an_equal_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        write_if_changed(&file, b"one").unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        write_if_changed(&file, b"one").unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), before);
        write_if_changed(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
    }
}
