//! The root file system: a cpio archive in the `newc` format, as Linux takes it. Equal contents give
//! equal bytes: no times, no owners, names in order.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// A root file system in the making.
#[derive(Debug, Default)]
pub struct Initramfs {
    /// By path without the leading slash. None is a directory.
    entries: BTreeMap<String, Option<Vec<u8>>>,
}

impl Initramfs {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, and those above it.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let parts = parts(path)?;
        self.directories(&parts)
    }

    /// Adds an executable file, and the directories above it. A file of that name is replaced.
    pub fn file(&mut self, path: &str, contents: Vec<u8>) -> Result<()> {
        let parts = parts(path)?;
        let (name, above) = match parts.split_last() {
            Some((name, above)) if !path.ends_with('/') => (name, above),
            _ => anyhow::bail!("`{path}` names no file"),
        };
        // The size is written with eight hexadecimal digits.
        ensure!(
            u32::try_from(contents.len()).is_ok(),
            "`{path}` is larger than 4 GiB"
        );
        self.directories(above)?;
        let path = [above, &[name]].concat().join("/");
        ensure!(
            self.entries.get(&path) != Some(&None),
            "`/{path}` is a directory"
        );
        self.entries.insert(path, Some(contents));
        Ok(())
    }

    /// Whether there is such a file.
    pub fn has_file(&self, path: &str) -> bool {
        matches!(
            self.entries.get(path.trim_start_matches('/')),
            Some(Some(_))
        )
    }

    fn directories(&mut self, parts: &[&str]) -> Result<()> {
        for depth in 1..=parts.len() {
            let path = parts[..depth].join("/");
            let entry = self.entries.entry(path.clone()).or_default();
            ensure!(
                entry.is_none(),
                "`/{path}` is a file, and cannot be a directory as well"
            );
        }
        Ok(())
    }

    /// The archive.
    pub fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut inode = 0;
        // A directory is before what is in it, as the reader needs it: `BTreeMap` sorts `a` before `a/b`.
        for (path, contents) in &self.entries {
            inode += 1;
            match contents {
                Some(contents) => entry(&mut out, inode, PROGRAM, path, contents),
                None => entry(&mut out, inode, DIRECTORY, path, &[]),
            }
        }
        entry(&mut out, 0, 0, "TRAILER!!!", &[]);
        // Archives come in blocks of 512 bytes.
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn parts(path: &str) -> Result<Vec<&str>> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    ensure!(
        parts.iter().all(|part| *part != "." && *part != "..") && !path.contains('\0'),
        "`{path}` is no path in the guest: write it from the root, such as /etc/motd"
    );
    ensure!(!parts.is_empty(), "the path in the guest is empty");
    Ok(parts)
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, name: &str, contents: &[u8]) {
    let links = if mode == DIRECTORY { 2 } else { 1 };
    // Inode, mode, user, group, links, time, size, device (2), device number (2), length of the
    // name with its zero, checksum (unused).
    let fields = [
        inode,
        mode,
        0,
        0,
        links,
        0,
        contents.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(contents);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Initramfs {
        let mut fs = Initramfs::new();
        fs.file("/bin/story", b"story!".to_vec()).unwrap();
        fs.directory("/dev").unwrap();
        fs.file("init", b"init".to_vec()).unwrap();
        fs.file("/a/deep//path", vec![]).unwrap();
        fs
    }

    #[test]
    fn same_contents_same_bytes() {
        let mut other = Initramfs::new();
        other.file("a/deep/path", vec![]).unwrap();
        other.file("/init", b"init".to_vec()).unwrap();
        other.directory("dev/").unwrap();
        other.file("/bin/story", b"story!".to_vec()).unwrap();
        assert_eq!(sample().archive(), other.archive());
        assert_eq!(sample().archive().len() % 512, 0);
    }

    #[test]
    fn cpio_reads_it() {
        // GNU cpio is the judge where there is one; the next test needs no help.
        let Some(cpio) = crate::paths::program("cpio") else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        std::fs::write(&archive, sample().archive()).unwrap();
        let status = std::process::Command::new(cpio)
            .args(["-i", "--quiet", "--no-absolute-filenames", "-F"])
            .arg(&archive)
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(
            std::fs::read(dir.path().join("bin/story")).unwrap(),
            b"story!"
        );
        assert!(dir.path().join("dev").is_dir());
    }

    #[test]
    fn entries_are_where_the_format_says() {
        let archive = sample().archive();
        let hex = |at: usize| {
            let text = std::str::from_utf8(&archive[at..at + 8]).unwrap();
            u32::from_str_radix(text, 16).unwrap() as usize
        };
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let (mode, size, namesize) = (hex(at + 14), hex(at + 54), hex(at + 94));
            let name = std::str::from_utf8(&archive[at + 110..at + 110 + namesize - 1]).unwrap();
            assert_eq!(archive[at + 110 + namesize - 1], 0);
            let data = (at + 110 + namesize).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
            found.push((name.to_owned(), mode, archive[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
        let expected = [
            ("a", DIRECTORY, ""),
            ("a/deep", DIRECTORY, ""),
            ("a/deep/path", PROGRAM, ""),
            ("bin", DIRECTORY, ""),
            ("bin/story", PROGRAM, "story!"),
            ("dev", DIRECTORY, ""),
            ("init", PROGRAM, "init"),
        ];
        let expected = expected.map(|(n, m, c)| (n.to_owned(), m as usize, c.as_bytes().to_vec()));
        assert_eq!(found, expected);
    }

    #[test]
    fn impossible_trees() {
        let mut fs = sample();
        assert!(
            fs.file("/init/x", vec![]).is_err(),
            "a file is no directory"
        );
        assert!(fs.file("/bin", vec![]).is_err(), "a directory is no file");
        assert!(fs.file("/bin/", vec![]).is_err());
        assert!(fs.file("/../x", vec![]).is_err());
        assert!(fs.file("", vec![]).is_err());
        assert!(fs.has_file("/bin/story") && !fs.has_file("/bin"));
    }
}
