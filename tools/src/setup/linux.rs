//! Debian's arm64 kernel, to compare ours with: the image alone, kept below `target/`. Nothing is
//! installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::firmware::{dependency, download, entries, newer, remove, unpack};
use crate::paths;
use crate::progress::Progress;

/// The kernel for virtual machines: a third of the size, without drivers for what QEMU does not have.
const KERNEL: &str = "linux-image-cloud-arm64";
const SIZE: &str = "28 MB";

/// The kernel's image, if it was fetched before.
pub fn find() -> Option<PathBuf> {
    let image = place().ok()?.join("vmlinuz");
    image.is_file().then_some(image)
}

fn place() -> Result<PathBuf> {
    Ok(paths::own()?.join("packages/linux"))
}

/// The kernel's image, as QEMU's `-kernel` takes it: from the cache, or fetched.
pub fn kernel(progress: &Progress) -> Result<PathBuf> {
    if let Some(image) = find() {
        return Ok(image);
    }
    let place = place()?;
    let cache = paths::own()?.join("packages");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = cache.join("linux.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    if lock.try_lock().is_err() {
        progress.step("waiting for another cowscope that fetches Debian's kernel");
        lock.lock().context("cannot wait for the other one")?;
    }
    if !place.is_dir() {
        fetch(&cache, &place, progress).context("cannot get Debian's arm64 kernel")?;
    }
    find().with_context(|| format!("{} has no kernel: remove it", place.display()))
}

fn fetch(cache: &Path, place: &Path, progress: &Progress) -> Result<()> {
    let (apt, dir) = newer(cache, "apt-linux", progress)?;
    let package = dependency(&apt, KERNEL)?;
    let debs = dir.join("debs");
    download(&apt, &[&package], SIZE, &debs, progress)?;
    let [deb] = &entries(&debs)?[..] else {
        bail!("apt-get did not download {package}");
    };

    let staging = cache.join("linux.new");
    remove(&staging)?;
    let (unpacked, kept) = (staging.join("unpacked"), staging.join("kept"));
    for dir in [&unpacked, &kept] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    unpack(deb, &unpacked, &["./usr/lib", "./etc"])?;
    let version = package.trim_start_matches("linux-image-");
    let image = unpacked.join(format!("boot/vmlinuz-{version}"));
    fs::rename(&image, kept.join("vmlinuz"))
        .with_context(|| format!("{package} has no {}", image.display()))?;
    fs::rename(
        unpacked
            .join("usr/share/doc")
            .join(&package)
            .join("copyright"),
        kept.join("copyright"),
    )
    .context("the kernel comes without its licence")?;
    fs::write(kept.join("version"), format!("{version}\n")).context("cannot write the version")?;
    fs::rename(&kept, place).with_context(|| format!("cannot write {}", place.display()))?;
    remove(&staging)?;
    remove(&debs)?;
    progress.note(&format!(
        "unpacked Linux {version} into {}",
        place.display()
    ));
    Ok(())
}
