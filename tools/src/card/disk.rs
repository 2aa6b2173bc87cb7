//! A disk image: a partition table with one FAT file system in it. Equal files make equal images, to
//! the byte: there is no clock and nothing random in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, ensure};
use fatfs::{
    Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider,
};
use mbrman::{BOOT_ACTIVE, CHS, MBR, MBRPartitionEntry};

const SECTOR: u32 = 512;
/// Where the partition starts: on the megabyte, as all partitioning programs have it.
const START: u64 = 1 << 20;
/// FAT32, addressed by sectors.
const FAT32_LBA: u8 = 0x0c;
/// Sizes are multiples of this. With clusters of one sector it makes a FAT32, which has at least
/// 65,525 of them.
const STEP: u64 = 64 << 20;
/// Larger ones need larger clusters, which we have no use for.
const MOST: u64 = 1 << 30;
/// Who looks at it sees where it comes from.
const LABEL: [u8; 11] = *b"COWSCOPE   ";
const SERIAL: u32 = 0x434f_5753;

/// Bytes that an image with these files has.
pub fn size(files: &BTreeMap<String, Vec<u8>>) -> Result<u64> {
    let contents: u64 = files
        .values()
        .map(|bytes| (bytes.len() as u64).next_multiple_of(SECTOR.into()))
        .sum();
    // The tables take a 64th, directories less; some room is left for changes by hand.
    let partition = (contents + contents / 8 + (8 << 20)).next_multiple_of(STEP);
    ensure!(
        partition <= MOST,
        "the files have {} MiB, more than the {} MiB that a card is made for",
        contents >> 20,
        MOST >> 20
    );
    Ok(START + partition)
}

/// Writes an image of these files, all of them in the root directory, into an empty file.
pub fn write(files: &BTreeMap<String, Vec<u8>>, image: &mut File) -> Result<()> {
    let size = size(files)?;
    image
        .set_len(size)
        .context("cannot make the image larger")?;
    table(image, size).context("cannot write the partition table")?;
    let partition = || Partition {
        file: &*image,
        at: 0,
        len: size - START,
    };
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR)
        .volume_id(SERIAL)
        .volume_label(LABEL);
    fatfs::format_volume(partition(), options).context("cannot make the file system")?;
    let file_system = FileSystem::new(partition(), FsOptions::new().time_provider(&NO_CLOCK))
        .context("cannot open the file system")?;
    for (name, contents) in files {
        let why = || format!("cannot write {name} into the image");
        let mut file = file_system.root_dir().create_file(name).with_context(why)?;
        file.write_all(contents).with_context(why)?;
        file.flush().with_context(why)?;
    }
    // Counts what is free, so that it is written down.
    file_system
        .stats()
        .context("cannot count what is free in the file system")?;
    file_system
        .unmount()
        .context("cannot finish the file system")
}

fn table(image: &mut File, size: u64) -> Result<()> {
    let mut table = MBR::new_from(image, SECTOR, SERIAL.to_le_bytes())?;
    table[1] = MBRPartitionEntry {
        boot: BOOT_ACTIVE,
        first_chs: CHS::empty(),
        sys: FAT32_LBA,
        last_chs: CHS::empty(),
        starting_lba: (START / u64::from(SECTOR)) as u32,
        sectors: ((size - START) / u64::from(SECTOR)) as u32,
    };
    table.write_into(image)?;
    Ok(())
}

/// All files are of the first day that FAT knows.
#[derive(Debug)]
struct NoClock;

static NO_CLOCK: NoClock = NoClock;

impl TimeProvider for NoClock {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// The partition's part of the image.
struct Partition<'a> {
    file: &'a File,
    at: u64,
    len: u64,
}

impl Partition<'_> {
    /// To the place in the file; how much of `wanted` there is from there on.
    fn go(&mut self, wanted: usize) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(START + self.at))?;
        Ok(wanted.min((self.len - self.at) as usize))
    }
}

impl Read for Partition<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.go(buffer.len())?;
        let n = self.file.read(&mut buffer[..most])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for Partition<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.go(bytes.len())?;
        let n = self.file.write(&bytes[..most])?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Partition<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(offset) => (self.at, offset),
            SeekFrom::End(offset) => (self.len, offset),
        };
        match base.checked_add_signed(offset) {
            Some(at) if at <= self.len => {
                self.at = at;
                Ok(at)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back() {
        let big: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let files = BTreeMap::from([
            ("config.txt".to_owned(), b"arm_64bit=1\n".to_vec()),
            ("a name that is long.bin".to_owned(), big),
            ("empty".to_owned(), Vec::new()),
        ]);
        let make = || {
            let mut image = tempfile::tempfile().unwrap();
            write(&files, &mut image).unwrap();
            image
        };
        let (one, two) = (make(), make());
        let len = one.metadata().unwrap().len();
        assert_eq!(len, size(&files).unwrap());
        let partition = Partition {
            file: &one,
            at: 0,
            len: len - START,
        };
        let system = FileSystem::new(partition, FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        for (name, contents) in &files {
            let mut found = Vec::new();
            let mut file = system.root_dir().open_file(name).unwrap();
            file.read_to_end(&mut found).unwrap();
            assert!(found == *contents, "{name}");
        }
        let bytes = |mut file: &File| {
            let mut all = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut all).unwrap();
            all
        };
        assert!(bytes(&one) == bytes(&two), "equal files, different images");
        assert_eq!(bytes(&one)[510..512], [0x55, 0xaa]);
    }

    #[test]
    fn too_much() {
        let files = BTreeMap::from([("x".to_owned(), vec![0; 950 << 20])]);
        assert!(size(&files).is_err());
    }
}
