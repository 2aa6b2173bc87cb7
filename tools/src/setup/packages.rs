//! Debian's packages of Rust, unpacked below `target/` and used from there: for machines that have
//! them in reach, but no rustup server. Nothing of the system is changed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::apt::{self, Apt, Rights};
use super::{rust, version::Version};
use crate::paths;
use crate::progress::Progress;

/// Compiler, its source (of the libraries), clippy. The first set is the one that stable releases
/// bring up to date, for their web browsers.
const SETS: [[&str; 3]; 2] = [
    ["rustc-web", "rust-web-src", "rust-web-clippy"],
    ["rustc", "rust-src", "rust-clippy"],
];

/// An unpacked compiler.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// `rustc --version`
    pub version: String,
    /// A script that runs the compiler with its own libraries.
    pub rustc: PathBuf,
    /// The same for clippy.
    pub clippy_driver: PathBuf,
}

fn place() -> Result<PathBuf> {
    Ok(paths::own()?.join("toolchain"))
}

/// The compiler that was unpacked before, if it still runs. The folder gets its name when it is
/// complete, so that a half-finished one is never taken for one.
pub fn find() -> Result<Option<Unpacked>> {
    let dir = place()?;
    Ok(if dir.is_dir() { open(&dir).ok() } else { None })
}

fn open(dir: &Path) -> Result<Unpacked> {
    let unpacked = Unpacked {
        version: String::new(),
        rustc: dir.join("rustc"),
        clippy_driver: dir.join("clippy-driver"),
    };
    let version = says_version(&unpacked.rustc)?;
    says_version(&unpacked.clippy_driver)?;
    ensure!(
        Version::of_output(&version).is_some_and(|v| v >= rust::least()),
        "{version} is too old"
    );
    ensure!(
        dir.join("root/usr/lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file(),
        "no source"
    );
    Ok(Unpacked {
        version,
        ..unpacked
    })
}

fn says_version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} does not run: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Downloads and unpacks the compiler.
pub fn install(progress: &Progress) -> Result<Unpacked> {
    let Some(apt) = Apt::find() else {
        bail!("there is no apt to get Debian's Rust from")
    };
    ensure!(
        paths::program("dpkg-deb").is_some(),
        "there is no dpkg-deb to unpack Debian's Rust with"
    );

    let own = paths::own()?;
    let lock = own.join("toolchain.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    if lock.try_lock().is_err() {
        progress.step("waiting for another cowscope that installs the compiler");
        lock.lock().context("cannot wait for the other one")?;
    }
    if let Some(unpacked) = find()? {
        return Ok(unpacked);
    }

    // Whatever is left of a run that was cut off, ours since we hold the lock.
    let staging = own.join("toolchain.new");
    remove(&staging)?;
    remove(&place()?)?;
    let debs = staging.join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("cannot create {}", debs.display()))?;

    let (apt, packages) = resolve(apt, &own, progress)?;
    progress.step(&format!(
        "downloading {} (140 MB, into target/)",
        packages.join(" ")
    ));
    apt.download(&packages, &debs)?;
    progress.step("unpacking the compiler");
    unpack(&debs, &staging.join("root"))?;
    remove(&debs)?;
    for program in ["rustc", "clippy-driver"] {
        write_script(&staging, program)?;
    }
    open(&staging).context("the unpacked compiler is of no use")?;
    fs::rename(&staging, place()?).context("cannot move the compiler to its place")?;
    let unpacked = open(&place()?)?;
    progress.note(&format!(
        "unpacked {} from Debian's packages into {}",
        unpacked.version,
        place()?.display()
    ));
    Ok(unpacked)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The packages to download, as `name=version`, and the apt to do it with. Lists that do not know a
/// good version are updated: the machine's if we may, else a copy of our own.
fn resolve(apt: Apt, own: &Path, progress: &Progress) -> Result<(Apt, Vec<String>)> {
    if let Some(packages) = known(&apt)? {
        return Ok((apt, packages));
    }
    let apt = match apt.rights {
        Rights::Root | Rights::Sudo => apt,
        Rights::None => apt.with_private_lists(&own.join("apt"))?,
    };
    progress.step("apt-get update");
    if let Err(error) = apt.update() {
        progress.warn(&format!("{error:#}"));
    }
    match known(&apt)? {
        Some(packages) => Ok((apt, packages)),
        None => bail!(
            "the package sources have no Rust {} or newer",
            rust::least()
        ),
    }
}

fn known(apt: &Apt) -> Result<Option<Vec<String>>> {
    for set in SETS {
        let policy = apt.policy(set[0])?;
        if let Some(version) = policy.at_least(rust::least()) {
            return closure(apt, &set, version).map(Some);
        }
    }
    Ok(None)
}

/// The packages, and of their dependencies those that belong to the compiler (which want exactly
/// its version) and the libraries that the machine does not have, such as its LLVM.
fn closure(apt: &Apt, set: &[&str], version: &str) -> Result<Vec<String>> {
    let mut wanted = BTreeSet::new();
    let mut open: Vec<(String, Option<String>)> = set
        .iter()
        .map(|name| ((*name).to_owned(), Some(version.to_owned())))
        .collect();
    while let Some((name, exactly)) = open.pop() {
        let control = apt.show(&name, exactly.as_deref())?;
        let Some(found) = control
            .lines()
            .find_map(|line| line.strip_prefix("Version: "))
        else {
            // No real package, such as `libc-dev`: any compiler of the host brings one.
            ensure!(
                exactly.is_none(),
                "the package sources have no {name} {version}"
            );
            continue;
        };
        if !wanted.insert(format!("{name}={found}")) {
            continue;
        }
        for dependency in apt::dependencies(&control) {
            let sibling = dependency.exactly.as_deref() == Some(version);
            let library = dependency.name.starts_with("lib") && dependency.exactly.is_none();
            if sibling || library && !apt::is_installed(&dependency.name) {
                open.push((dependency.name, dependency.exactly));
            }
        }
    }
    Ok(wanted.into_iter().collect())
}

/// Unpacks what is needed: of the compiler's source, half a gigabyte, only the libraries.
fn unpack(debs: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
    let entries = debs
        .read_dir()
        .with_context(|| format!("cannot read {}", debs.display()))?;
    for entry in entries {
        let deb = entry.context("cannot read the downloaded packages")?.path();
        let is_source = deb.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            SETS.iter()
                .any(|set| name.starts_with(&format!("{}_", set[1])))
        });
        if is_source {
            let mut archive = Command::new("dpkg-deb")
                .arg("--fsys-tarfile")
                .arg(&deb)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .context("cannot run dpkg-deb")?;
            let pipe = archive.stdout.take().context("dpkg-deb has no output")?;
            let status = Command::new("tar")
                .args(["-x", "--wildcards", "-C"])
                .arg(root)
                .args(["./usr/src/rustc-*/library", "./usr/lib/rustlib/src*"])
                .stdin(pipe)
                .status()
                .context("cannot run tar")?;
            let unpacked = archive.wait().context("cannot wait for dpkg-deb")?;
            ensure!(
                status.success() && unpacked.success(),
                "cannot unpack {}",
                deb.display()
            );
        } else {
            apt::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root))?;
        }
    }
    Ok(())
}

/// Writes a script beside `root/` that runs a program of `root/` with the libraries there. It finds
/// them by its own place, so that the folder can be moved.
fn write_script(dir: &Path, program: &str) -> Result<()> {
    let mut libraries = vec!["$d/root/usr/lib".to_owned()];
    for lib in ["usr/lib", "lib"] {
        let Ok(entries) = dir.join("root").join(lib).read_dir() else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Those of the processor, such as `x86_64-linux-gnu`.
            if name.contains("-linux-") {
                libraries.push(format!("$d/root/{lib}/{name}"));
            }
        }
    }
    let script = format!(
        "#!/bin/sh\nd=${{0%/*}}\nLD_LIBRARY_PATH=\"{}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\" \
         exec \"$d/root/usr/bin/{program}\" \"$@\"\n",
        libraries.join(":")
    );
    let file = dir.join(program);
    fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
    #[cfg(unix)]
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", file.display()))?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_script_finds_its_libraries_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("a place");
        let bin = old.join("root/usr/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(old.join("root/usr/lib/any-linux-gnu")).unwrap();
        fs::create_dir_all(old.join("root/usr/lib/rustlib")).unwrap();
        let program = bin.join("rustc");
        fs::write(&program, "#!/bin/sh\necho \"$LD_LIBRARY_PATH|$*\"\n").unwrap();
        fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        write_script(&old, "rustc").unwrap();
        let new = dir.path().join("another place");
        fs::rename(&old, &new).unwrap();
        let output = Command::new(new.join("rustc"))
            .env_remove("LD_LIBRARY_PATH")
            .args(["-C", "x y"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.ends_with("|-C x y\n"), "{said}");
        assert!(
            said.contains("another place/root/usr/lib/any-linux-gnu"),
            "{said}"
        );
        assert!(!said.contains("rustlib"), "{said}");
    }

    #[test]
    fn an_incomplete_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).is_err());
    }
}
