//! Writing an image onto a card, with the checks that a careful person makes: a mistake here costs
//! somebody's disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::exit::{unreadable, usage};
use crate::progress::Progress;

/// The largest that still looks like a card.
const MOST: u64 = 512 << 30;
const BLOCK: usize = 1 << 20;

/// What this machine knows of its disks: Linux's /sys and /proc, or a test's copy of them.
#[derive(Debug)]
pub struct Host {
    /// `/sys/class/block`
    pub blocks: PathBuf,
    /// `/proc/self/mountinfo`
    pub mounts: PathBuf,
    /// `/proc/swaps`
    pub swaps: PathBuf,
    /// Only what the file system says is a block device is one.
    pub devices: bool,
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        Self {
            blocks: "/sys/class/block".into(),
            mounts: "/proc/self/mountinfo".into(),
            swaps: "/proc/swaps".into(),
            devices: true,
        }
    }
}

/// A card that may be written.
#[derive(Debug)]
pub struct Card {
    device: PathBuf,
    exclusive: bool,
    /// Bytes.
    pub size: u64,
    /// Maker and model, as far as it says.
    pub model: String,
    /// Its partitions' names.
    pub partitions: Vec<String>,
}

impl Card {
    /// Looks at a device: is it a card that nobody uses, large enough for `bytes`?
    pub fn find(host: &Host, device: &Path, bytes: u64) -> Result<Self> {
        let shown = device.display();
        let refuse = |why: String| usage(format!("{shown} is not written: {why}"));
        // A link, such as those in /dev/disk/by-id, is as good as what it leads to.
        let real = fs::canonicalize(device)
            .map_err(|error| unreadable(format!("cannot find {shown}: {error}")))?;
        if host.devices && !is_block_device(&real)? {
            return Err(refuse(format!(
                "it is no block device. For an image in a file: -o {shown}"
            )));
        }
        let name = real
            .file_name()
            .and_then(|name| name.to_str())
            .context("a device without a name")?;
        let folder = host.blocks.join(name);
        ensure!(
            folder.is_dir(),
            refuse(format!("the kernel has no block device {name}"))
        );
        let says = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        if folder.join("partition").exists() {
            let whole = fs::canonicalize(&folder).ok();
            let whole = whole
                .as_deref()
                .and_then(Path::parent)
                .and_then(Path::file_name);
            let whole = whole.map(|name| format!("/dev/{}", name.to_string_lossy()));
            return Err(refuse(format!(
                "it is a partition: name the whole card, {}",
                whole.as_deref().unwrap_or("without the number")
            )));
        }
        // A card in a reader by USB is removable; one in a slot of its own is of type SD.
        if says("removable") != "1" && says("device/type") != "SD" {
            return Err(refuse(
                "it is a disk that belongs to this machine, not a removable card".into(),
            ));
        }
        if says("ro") == "1" {
            return Err(refuse(
                "it is write-protected (the switch at its side?)".into(),
            ));
        }
        // In units of 512 bytes, whatever the device's own sectors are.
        let size = says("size").parse::<u64>().unwrap_or(0).saturating_mul(512);
        if size == 0 {
            return Err(refuse("there is no card in it".into()));
        }
        if size > MOST {
            return Err(refuse(format!(
                "it has {} GB, more than any card: it looks like a disk",
                size / 1_000_000_000
            )));
        }
        if size < bytes {
            return Err(refuse(format!(
                "it has {} MB, and the image {} MB",
                size / 1_000_000,
                bytes / 1_000_000
            )));
        }
        let partitions = partitions(&folder, name)?;
        for part in [&[name.to_owned()], &partitions[..]].concat() {
            if let Some(place) = mounted(host, &host.blocks.join(&part), &part)? {
                return Err(refuse(format!(
                    "/dev/{part} is in use ({place}): unmount it first"
                )));
            }
        }
        let model = format!("{} {}", says("device/vendor"), says("device/model"));
        let model = match model.trim() {
            "" => says("device/name"),
            model => model.to_owned(),
        };
        Ok(Self {
            device: real,
            exclusive: host.devices,
            size,
            model,
            partitions,
        })
    }

    /// What is about to be overwritten.
    pub fn describe(&self) -> String {
        let partitions = match self.partitions.len() {
            0 => "no partitions".to_owned(),
            1 => format!("1 partition, {}", self.partitions[0]),
            n => format!("{n} partitions, {}", self.partitions.join(", ")),
        };
        let model = match self.model.as_str() {
            "" => "no name",
            model => model,
        };
        format!(
            "{} ({model}, {:.1} GB, {partitions})",
            self.device.display(),
            self.size as f64 / 1e9
        )
    }

    /// Writes the image, and reads it back.
    pub fn write(&self, image: &mut File, progress: &Progress) -> Result<()> {
        let shown = self.device.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        #[cfg(unix)]
        if self.exclusive {
            use std::os::unix::fs::OpenOptionsExt;
            // The kernel refuses what somebody has mounted in the meantime.
            options.custom_flags(libc::O_EXCL);
        }
        let mut device = options.open(&self.device).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    " (make the image with -o, and copy it as root: dd if=sd.img of=… bs=1M)"
                }
                io::ErrorKind::ResourceBusy => " (is it mounted?)",
                _ => "",
            };
            unreadable(format!("cannot open {shown}: {error}{hint}"))
        })?;
        let total = image.metadata().context("cannot read the image")?.len();
        let percent = |done: u64, what: &str| {
            progress.step(&format!("{what} {shown}: {} %", done * 100 / total.max(1)));
        };
        each_block(image, |at, block| {
            percent(at, "writing");
            device.write_all(block)?;
            // Not all at the end, in the kernel's own time.
            device.sync_data()
        })
        .with_context(|| format!("cannot write {shown}"))?;
        device
            .sync_all()
            .with_context(|| format!("cannot write {shown}"))?;
        forget(&device);
        device
            .seek(SeekFrom::Start(0))
            .with_context(|| format!("cannot read {shown}"))?;
        let mut back = vec![0; BLOCK];
        let mut differs = None;
        each_block(image, |at, block| {
            percent(at, "reading back");
            let back = &mut back[..block.len()];
            device.read_exact(back)?;
            if back != block {
                differs = differs.or(Some(at));
            }
            Ok(())
        })
        .with_context(|| format!("cannot read {shown} back"))?;
        if let Some(at) = differs {
            bail!(
                "{shown} does not hold what was written (from byte {at} on): is the card worn out?"
            );
        }
        Ok(())
    }
}

fn each_block(image: &mut File, mut f: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    image.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let n = image.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        f(at, &buffer[..n])?;
        at += n as u64;
    }
}

/// Asks that what was written be read from the card itself.
fn forget(device: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: a valid descriptor; the call changes no memory of ours. Where it fails, what is
        // compared may be the cache.
        unsafe { libc::posix_fadvise(device.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = device;
}

#[cfg(unix)]
fn is_block_device(path: &Path) -> Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    let kind = fs::metadata(path)
        .map_err(|error| unreadable(format!("cannot find {}: {error}", path.display())))?;
    Ok(kind.file_type().is_block_device())
}

#[cfg(not(unix))]
fn is_block_device(_: &Path) -> Result<bool> {
    Ok(false)
}

/// The names of a disk's partitions: folders in its own.
fn partitions(folder: &Path, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let why = || format!("cannot read {}", folder.display());
    for entry in folder.read_dir().with_context(why)? {
        let entry = entry.with_context(why)?;
        let part = entry.file_name().to_string_lossy().into_owned();
        if part.starts_with(name) && entry.path().join("partition").exists() {
            found.push(part);
        }
    }
    found.sort();
    Ok(found)
}

/// What a device is used for, if it is.
fn mounted(host: &Host, folder: &Path, name: &str) -> Result<Option<String>> {
    // Others (RAID, LVM, encryption) that are made of it.
    let holders = folder.join("holders");
    if let Some(holder) = holders.read_dir().ok().and_then(|mut all| all.next()) {
        let holder = holder.with_context(|| format!("cannot read {}", holders.display()))?;
        return Ok(Some(format!(
            "part of {}",
            holder.file_name().to_string_lossy()
        )));
    }
    let device = format!("/dev/{name}");
    let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
    let read = |file: &Path| {
        fs::read_to_string(file)
            .with_context(|| format!("cannot read {}, to see what is mounted", file.display()))
    };
    // proc(5): id, parent, major:minor, root, mount point, options ... - type, source, options.
    for line in read(&host.mounts)?.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let source = words.iter().position(|&word| word == "-");
        let source = source.and_then(|dash| words.get(dash + 2)).copied();
        if source == Some(&device) || words.get(2) == Some(&number.trim()) && !number.is_empty() {
            return Ok(Some(format!("mounted at {}", words.get(4).unwrap_or(&"?"))));
        }
    }
    for line in read(&host.swaps)?.lines().skip(1) {
        if line.split_whitespace().next() == Some(&device) {
            return Ok(Some("swap".to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a 64 MB card in a USB reader, the card being a file.
    struct Fake {
        dir: tempfile::TempDir,
        host: Host,
    }

    const SIZE: u64 = 64 << 20;

    impl Fake {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            let fake = Self {
                host: Host {
                    blocks: path("sys"),
                    mounts: path("mountinfo"),
                    swaps: path("swaps"),
                    devices: false,
                },
                dir,
            };
            fake.says("removable", "1\n");
            fake.says("ro", "0\n");
            fake.says("size", &format!("{}\n", SIZE / 512));
            fake.says("dev", "8:16\n");
            fake.says("device/vendor", "Generic \n");
            fake.says("device/model", "Card Reader\n");
            fake.says("sdx1/partition", "1\n");
            fs::create_dir_all(fake.host.blocks.join("sdx1")).unwrap();
            fs::write(fake.host.blocks.join("sdx1/dev"), "8:17\n").unwrap();
            fs::write(
                &fake.host.mounts,
                "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
            )
            .unwrap();
            fs::write(&fake.host.swaps, "Filename Type Size Used Priority\n").unwrap();
            let card = File::create(fake.card()).unwrap();
            card.set_len(SIZE).unwrap();
            fake
        }

        fn card(&self) -> PathBuf {
            self.dir.path().join("sdx")
        }

        fn says(&self, file: &str, text: &str) {
            let file = self.host.blocks.join("sdx").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }

        fn find(&self, bytes: u64) -> Result<Card> {
            Card::find(&self.host, &self.card(), bytes)
        }

        #[track_caller]
        fn refused(&self, word: &str) {
            let error = self.find(SIZE).unwrap_err();
            assert_eq!(crate::exit::status(&error), Some(crate::exit::Exit::Usage));
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_card_is_written_and_read_back() {
        let fake = Fake::new();
        let card = fake.find(3 << 20).unwrap();
        assert!(
            card.describe().contains("Generic Card Reader"),
            "{}",
            card.describe()
        );
        assert!(
            card.describe().contains("1 partition, sdx1"),
            "{}",
            card.describe()
        );
        let mut image = tempfile::tempfile().unwrap();
        let contents: Vec<u8> = (0..(3 << 20) + 17u32).map(|n| (n * 7) as u8).collect();
        image.write_all(&contents).unwrap();
        card.write(&mut image, &Progress::new(true)).unwrap();
        let written = fs::read(fake.card()).unwrap();
        assert!(written[..contents.len()] == contents);
        assert_eq!(written.len() as u64, SIZE, "the rest is left alone");
    }

    #[test]
    fn what_is_no_card_is_not_written() {
        let fake = Fake::new();
        assert!(fake.find(SIZE).is_ok());
        fake.says("removable", "0\n");
        fake.refused("belongs to this machine");
        // In a slot of its own.
        fake.says("device/type", "SD\n");
        assert!(fake.find(SIZE).is_ok());
        fake.says("ro", "1\n");
        fake.refused("write-protected");
        fake.says("ro", "0\n");
        fake.says("size", "0\n");
        fake.refused("no card");
        fake.says("size", &format!("{}\n", (2u64 << 40) / 512));
        fake.refused("looks like a disk");
        fake.says("size", &format!("{}\n", SIZE / 512 - 1));
        fake.refused("the image");
        fake.says("size", &format!("{}\n", SIZE / 512));
        fake.says("partition", "1\n");
        fake.refused("partition");
    }

    #[test]
    fn what_is_in_use_is_not_written() {
        let fake = Fake::new();
        let line = "30 21 8:17 / /media/card rw - vfat /dev/sdx1 rw\n";
        fs::write(&fake.host.mounts, line).unwrap();
        fake.refused("/media/card");
        // By another name of the same device.
        let line = "30 21 8:17 / /media/card rw - vfat /dev/disk/by-label/X rw\n";
        fs::write(&fake.host.mounts, line).unwrap();
        fs::create_dir_all(fake.host.blocks.join("sdx1")).unwrap();
        fake.refused("/media/card");
        fs::write(&fake.host.mounts, "").unwrap();
        fs::write(
            &fake.host.swaps,
            "Filename Type\n/dev/sdx1 partition 1 0 -2\n",
        )
        .unwrap();
        fake.refused("swap");
        fs::write(&fake.host.swaps, "").unwrap();
        fs::create_dir_all(fake.host.blocks.join("sdx1/holders/dm-0")).unwrap();
        fake.refused("dm-0");
        // Nobody knows what is mounted: better not.
        fs::remove_dir_all(fake.host.blocks.join("sdx1/holders")).unwrap();
        fs::remove_file(&fake.host.mounts).unwrap();
        assert!(fake.find(SIZE).is_err());
    }

    #[test]
    fn files_are_no_devices() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sd.img");
        fs::write(&file, "x").unwrap();
        let error = Card::find(&Host::this(), &file, 1).unwrap_err();
        assert!(error.to_string().contains("no block device"), "{error}");
        let error = Card::find(&Host::this(), &dir.path().join("none"), 1).unwrap_err();
        assert!(error.to_string().contains("cannot find"), "{error}");
    }

    #[test]
    fn a_worn_out_card_is_noticed() {
        // What was written does not come back from here.
        let fake = Fake::new();
        let mut card = fake.find(10).unwrap();
        card.device = "/dev/zero".into();
        let mut image = tempfile::tempfile().unwrap();
        image.write_all(b"not zeros").unwrap();
        let error = card.write(&mut image, &Progress::new(true)).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("worn out") || error.contains("cannot write"),
            "{error}"
        );
    }
}
