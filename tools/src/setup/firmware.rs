//! What a Raspberry Pi needs on its card besides ours: the firmware and the device trees, from
//! Debian's packages `raspi-firmware` and `linux-image-arm64`. They are kept below `target/`, with
//! their licences, and are never part of the source.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{self, Apt};
use super::debian::Private;
use super::{qemu, sources};
use crate::paths;
use crate::progress::Progress;

const FIRMWARE: &str = "raspi-firmware";
const KERNEL: &str = "linux-image-arm64";
const APT: &str = "/etc/apt";
/// The first release whose kernel has the Raspberry Pi 5's device tree.
const RELEASE: &str = "trixie";
/// Releases before it.
const TOO_OLD: [&str; 3] = ["buster", "bullseye", "bookworm"];
/// The firmware's licence lets it be used on these boards alone, so that it is no part of Debian.
const COMPONENTS: [&str; 2] = ["main", "non-free-firmware"];

/// The file with the firmware's licence.
pub const FIRMWARE_LICENCE: &str = "LICENCE.raspi-firmware.txt";
/// The file with the device trees' licence.
pub const TREES_LICENCE: &str = "LICENCE.device-trees.txt";

/// The folder with all of it: from the cache, or fetched (100 MB, most of it a kernel that is
/// thrown away).
pub fn folder(progress: &Progress) -> Result<PathBuf> {
    let cache = paths::own()?.join("packages");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let place = cache.join("raspberry-pi");
    if place.is_dir() {
        return Ok(place);
    }
    let lock = cache.join("raspberry-pi.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    if lock.try_lock().is_err() {
        progress.step("waiting for another cowscope that fetches the firmware");
        lock.lock().context("cannot wait for the other one")?;
    }
    if !place.is_dir() {
        fetch(&cache, &place, progress).context(
            "cannot get the Raspberry Pi's firmware and device trees (--firmware DIR takes them \
             from a folder, such as the first partition of a card with Raspberry Pi OS)",
        )?;
    }
    Ok(place)
}

fn fetch(cache: &Path, place: &Path, progress: &Progress) -> Result<()> {
    let (apt, dir) = newer(cache, "apt-raspberry-pi", progress)?;
    let kernel = dependency(&apt, KERNEL)?;
    let debs = dir.join("debs");
    download(&apt, &[FIRMWARE, &kernel], "100 MB", &debs, progress)?;

    progress.step("unpacking the firmware and the device trees");
    let staging = cache.join("raspberry-pi.new");
    remove(&staging)?;
    let unpacked = staging.join("unpacked");
    let kept = staging.join("kept");
    for dir in [&unpacked, &kept] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let mut names = Vec::new();
    for deb in entries(&debs)? {
        unpack(&deb, &unpacked, &["./usr/lib/modules", "./boot", "./etc"])
            .with_context(|| format!("cannot unpack {}", deb.display()))?;
        names.extend(
            deb.file_name()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    let libraries = unpacked.join("usr/lib");
    for (folder, ending) in [
        (libraries.join(FIRMWARE), &["bin", "elf", "dat"][..]),
        (libraries.join(&kernel).join("broadcom"), &["dtb"]),
    ] {
        for file in entries(&folder)? {
            let is_wanted = |e: &std::ffi::OsStr| ending.iter().any(|wanted| e == *wanted);
            if let (true, Some(name)) = (file.extension().is_some_and(is_wanted), file.file_name())
            {
                copy(&file, &kept.join(name))?;
            }
        }
    }
    let documents = unpacked.join("usr/share/doc");
    copy(
        &documents.join(FIRMWARE).join("copyright"),
        &kept.join(FIRMWARE_LICENCE),
    )?;
    copy(
        &documents.join(&kernel).join("copyright"),
        &kept.join(TREES_LICENCE),
    )?;
    names.sort();
    fs::write(kept.join("packages"), names.join("\n") + "\n")
        .context("cannot write the list of packages")?;
    fs::rename(&kept, place).with_context(|| format!("cannot write {}", place.display()))?;
    remove(&staging)?;
    remove(&debs)?;
    progress.note(&format!(
        "unpacked {} into {}",
        names.join(" and "),
        place.display()
    ));
    Ok(())
}

/// apt with lists of its own in this folder of the cache, for a release with a kernel that is new
/// enough; and that folder.
pub(super) fn newer(cache: &Path, name: &str, progress: &Progress) -> Result<(Private, PathBuf)> {
    let Some(host) = Apt::find() else {
        bail!("there is no apt here");
    };
    for program in ["dpkg-deb", "tar"] {
        ensure!(
            paths::program(program).is_some(),
            "there is no {program} to unpack packages with: install it"
        );
    }
    let sources = sources(&sources::read(Path::new(APT))?, qemu::release().as_deref())?;
    let dir = cache.join(name);
    let apt = Private::in_folder(dir.clone(), host.rights, Some(&sources))?;
    apt.update(progress);
    Ok((apt, dir))
}

/// The kernel's package, whose name has its version, that a package without files depends on.
pub(super) fn dependency(apt: &Private, package: &str) -> Result<String> {
    let depends = show(apt, package)?;
    let mut dependencies = apt::dependencies(&depends).into_iter();
    let kernel = dependencies.find(|dependency| dependency.name.starts_with("linux-image-"));
    Ok(kernel
        .with_context(|| format!("{package} depends on no kernel"))?
        .name)
}

/// Downloads packages, so large in all, into a folder that has nothing else afterwards.
pub(super) fn download(
    apt: &Private,
    packages: &[&str],
    size: &str,
    debs: &Path,
    progress: &Progress,
) -> Result<()> {
    remove(debs)?;
    fs::create_dir_all(debs).with_context(|| format!("cannot create {}", debs.display()))?;
    progress.step(&format!("downloading {} ({size})", packages.join(" and ")));
    let mut download = apt.program("apt-get");
    apt::run(download.arg("download").args(packages).current_dir(debs))
}

/// The control fields of a package.
fn show(apt: &Private, package: &str) -> Result<String> {
    let output = apt
        .program("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output()
        .context("cannot run apt-cache")?;
    ensure!(
        output.status.success(),
        "the package sources have no {package}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The sources to fetch from: the machine's own for Debian, with a release that has what we need.
fn sources(known: &[sources::Source], codename: Option<&str>) -> Result<String> {
    let codename = codename.unwrap_or(RELEASE);
    let names = [codename, "stable", "oldstable"];
    let debian = known.iter().find(|source| {
        let has = |component: &String| component == COMPONENTS[0];
        source
            .suites
            .iter()
            .any(|suite| names.contains(&suite.as_str()))
            && source.components.iter().any(has)
    });
    let Some(debian) = debian else {
        bail!("apt's sources name no Debian release ({APT})");
    };
    let release = match TOO_OLD.contains(&codename) {
        true => RELEASE,
        false => codename,
    };
    let mut source = debian.clone();
    source.components = COMPONENTS.map(str::to_owned).to_vec();
    // What the machine's own lists are restricted to is not what is wanted here.
    source.options.retain(|(name, _)| name != "Architectures");
    Ok(source.with_suite(release))
}

/// Unpacks a package, but not what has these names.
pub(super) fn unpack(deb: &Path, root: &Path, left_out: &[&str]) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let pipe = archive.stdout.take().context("dpkg-deb has no output")?;
    // What one of the packages has nothing for is no error: what is missing is noticed when it is
    // copied.
    let left_out = left_out.iter().map(|name| format!("--exclude={name}"));
    let tar = Command::new("tar")
        .args(["-x", "--no-same-owner", "--wildcards"])
        .args(left_out)
        .arg("-C")
        .arg(root)
        .stdin(pipe)
        .output()
        .context("cannot run tar")?;
    let unpacked = archive.wait().context("cannot wait for dpkg-deb")?;
    ensure!(
        tar.status.success() && unpacked.success(),
        "{}",
        String::from_utf8_lossy(&tar.stderr).trim()
    );
    Ok(())
}

pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let why = || format!("cannot read {}", dir.display());
    let mut files = Vec::new();
    for entry in dir.read_dir().with_context(why)? {
        files.push(entry.with_context(why)?.path());
    }
    files.sort();
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(suites: &[&str], components: &[&str]) -> sources::Source {
        let all = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        sources::Source {
            uris: vec!["mirror:/debian".to_owned()],
            suites: all(suites),
            components: all(components),
            options: vec![
                ("Architectures".to_owned(), "amd64".to_owned()),
                ("Signed-By".to_owned(), "/keys.gpg".to_owned()),
            ],
        }
    }

    #[test]
    fn sources_of_the_release_that_has_it() {
        let known = [
            source(&["nodistro"], &["main"]),
            source(&["bookworm", "bookworm-updates"], &["main"]),
        ];
        let text = sources(&known, Some("bookworm")).unwrap();
        assert!(text.contains("Suites: trixie\n"), "{text}");
        assert!(
            text.contains("Components: main non-free-firmware\n"),
            "{text}"
        );
        assert!(text.contains("Signed-By: /keys.gpg\n"), "{text}");
        assert!(!text.contains("amd64"), "{text}");
        // A release that is newer has its own.
        let known = [source(&["forky"], &["main", "contrib"])];
        let text = sources(&known, Some("forky")).unwrap();
        assert!(text.contains("Suites: forky\n"), "{text}");
        assert!(sources(&[source(&["noble"], &["main"])], Some("bookworm")).is_err());
        assert!(sources(&[], None).is_err());
    }
}
