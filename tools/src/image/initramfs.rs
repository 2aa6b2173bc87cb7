//! The root file system: a cpio archive in the `newc` format, as Linux takes it. Equal contents give
//! equal bytes: no times, no owners, names in order.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// Permissions, with the set-user-id, set-group-id and sticky bits.
const PERMISSIONS: u32 = 0o7777;
/// The permissions of what is ours.
const OURS: u32 = 0o755;
/// How many symbolic links one lookup follows, as on Linux.
const MOST_LINKS: u32 = 40;
/// The longest path that Linux takes, with the zero at its end.
const LONGEST_PATH: usize = 4096;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory with these permissions.
    Directory(u32),
    /// A file with these permissions and contents.
    File(u32, Vec<u8>),
    /// A symbolic link to this path.
    Link(Vec<u8>),
}

/// A root file system in the making.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    /// By path without the leading slash. Paths are bytes, as they are on Linux.
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Initramfs {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, and those above it. One that is there stays as it is.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.make_directory(&parts(path.as_bytes())?).map(drop)
    }

    /// Adds an executable file, and the directories above it. A file of that name is replaced.
    pub fn file(&mut self, path: &str, contents: Vec<u8>) -> Result<()> {
        ensure!(!path.ends_with('/'), "`{path}` names no file");
        self.insert(path.as_bytes(), Entry::File(OURS, contents))
    }

    /// Adds anything, and the directories above it; symbolic links on the way are followed. What
    /// has that name is replaced, unless it or the new one is a directory.
    pub fn insert(&mut self, path: &[u8], entry: Entry) -> Result<()> {
        let parts = parts(path)?;
        let shown = String::from_utf8_lossy(path);
        let Some((name, above)) = parts.split_last() else {
            bail!("`{shown}` names no file");
        };
        if let Entry::File(_, contents) = &entry {
            // The size is written with eight hexadecimal digits.
            let fits = u32::try_from(contents.len()).is_ok();
            ensure!(fits, "`{shown}` is larger than 4 GiB");
        }
        let mut at = self.make_directory(above)?;
        push(&mut at, name);
        let old = self.entries.get(&at);
        let is_directory = |entry: &Entry| matches!(entry, Entry::Directory(_));
        ensure!(
            !old.is_some_and(|old| is_directory(old) != is_directory(&entry)
                && (is_directory(old) || !matches!(old, Entry::Link(_)))),
            "`/{}` cannot be both a directory and a file",
            String::from_utf8_lossy(&at)
        );
        self.entries.insert(at, entry);
        Ok(())
    }

    /// Whether there is such a file.
    pub fn has_file(&self, path: &str) -> bool {
        matches!(self.get(path.as_bytes()), Some(Entry::File(..)))
    }

    /// What is at a path, symbolic links followed.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.get(&self.resolve(path)?)
    }

    /// The path without symbolic links, of something that exists (the root directory aside).
    pub fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        // The parts still to go, the next one last.
        let mut ahead: Vec<Vec<u8>> = reversed(path);
        let mut at = Vec::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                pop(&mut at);
                continue;
            }
            let length = at.len();
            push(&mut at, &part);
            match self.entries.get(&at)? {
                Entry::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    at.truncate(if target.starts_with(b"/") { 0 } else { length });
                    ahead.extend(reversed(target));
                }
                Entry::File(..) if !ahead.is_empty() => return None,
                _ => {}
            }
        }
        Some(at)
    }

    /// Makes what is missing of these directories; returns the path without symbolic links.
    fn make_directory(&mut self, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let mut at = Vec::new();
        for part in parts {
            push(&mut at, part);
            let shown = String::from_utf8_lossy(&at).into_owned();
            match self.entries.get(&at) {
                None => {
                    self.entries.insert(at.clone(), Entry::Directory(OURS));
                }
                Some(Entry::Directory(_)) => {}
                Some(Entry::File(..)) => {
                    bail!("`/{shown}` is a file, and cannot be a directory as well")
                }
                Some(Entry::Link(target)) => {
                    let target = String::from_utf8_lossy(target).into_owned();
                    match self.resolve(&at) {
                        Some(to) if !matches!(self.entries.get(&to), Some(Entry::File(..))) => {
                            at = to;
                        }
                        _ => bail!("`/{shown}` is a link to {target}, which is no directory"),
                    }
                }
            }
        }
        Ok(at)
    }

    /// The archive.
    pub fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut inode = 0;
        // A directory is before what is in it, as the reader needs it: `BTreeMap` sorts `a` before `a/b`.
        for (path, entry) in &self.entries {
            inode += 1;
            match entry {
                Entry::Directory(mode) => {
                    put(&mut out, inode, DIRECTORY | mode & PERMISSIONS, path, &[])
                }
                Entry::File(mode, contents) => {
                    put(&mut out, inode, FILE | mode & PERMISSIONS, path, contents);
                }
                Entry::Link(target) => put(&mut out, inode, LINK | 0o777, path, target),
            }
        }
        put(&mut out, 0, 0, b"TRAILER!!!", &[]);
        // Archives come in blocks of 512 bytes.
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

/// Goes down one step.
fn push(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}

/// Goes up one step.
fn pop(path: &mut Vec<u8>) {
    let parent = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    path.truncate(parent);
}

/// The parts of a path, the first one last.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|&byte| byte == b'/');
    let real = parts.filter(|part| !matches!(*part, b"" | b"."));
    real.rev().map(<[u8]>::to_vec).collect()
}

fn parts(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<_> = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    let shown = String::from_utf8_lossy(path);
    ensure!(
        parts.iter().all(|part| *part != b"." && *part != b"..") && !path.contains(&0),
        "`{shown}` is no path in the guest: write it from the root, such as /etc/motd"
    );
    ensure!(!parts.is_empty(), "the path in the guest is empty");
    ensure!(
        path.len() < LONGEST_PATH,
        "`{shown}` is too long for a path in the guest"
    );
    Ok(parts)
}

fn put(out: &mut Vec<u8>, inode: u32, mode: u32, name: &[u8], contents: &[u8]) {
    let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
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
    out.extend_from_slice(name);
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
            ("a", 0o040_755, ""),
            ("a/deep", 0o040_755, ""),
            ("a/deep/path", 0o100_755, ""),
            ("bin", 0o040_755, ""),
            ("bin/story", 0o100_755, "story!"),
            ("dev", 0o040_755, ""),
            ("init", 0o100_755, "init"),
        ];
        let expected = expected.map(|(n, m, c)| (n.to_owned(), m, c.as_bytes().to_vec()));
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

    /// As merged `/usr` has it.
    fn linked() -> Initramfs {
        let mut fs = Initramfs::new();
        let link = |to: &str| Entry::Link(to.as_bytes().to_vec());
        fs.file("/usr/bin/busybox", b"box".to_vec()).unwrap();
        fs.insert(b"/bin", link("usr/bin")).unwrap();
        fs.insert(b"/usr/bin/sh", link("/bin/busybox")).unwrap();
        fs.insert(b"/usr/bin/up", link("../../bin/./sh")).unwrap();
        fs.insert(b"/usr/bin/lost", link("nowhere")).unwrap();
        fs.insert(b"/usr/bin/ring", link("ring")).unwrap();
        fs
    }

    #[test]
    fn links_are_followed() {
        let fs = linked();
        for path in [
            "/bin/sh",
            "bin/up",
            "/usr/bin/../bin//busybox",
            "/../bin/sh",
        ] {
            let found = fs.resolve(path.as_bytes());
            assert_eq!(found.as_deref(), Some(&b"usr/bin/busybox"[..]), "{path}");
        }
        for path in ["/bin/lost", "/bin/ring", "/bin/absent", "/bin/sh/x"] {
            assert_eq!(fs.resolve(path.as_bytes()), None, "{path}");
        }
        assert_eq!(fs.resolve(b"/").as_deref(), Some(&b""[..]));
        assert!(fs.has_file("/bin/sh") && !fs.has_file("/bin"));
    }

    #[test]
    fn what_is_added_goes_where_links_lead() {
        let mut fs = linked();
        fs.file("/bin/new", b"new".to_vec()).unwrap();
        assert!(fs.entries.contains_key(&b"usr/bin/new"[..]));
        fs.directory("/bin").unwrap();
        assert_eq!(fs.entries[&b"bin"[..]], Entry::Link(b"usr/bin".to_vec()));
        assert!(fs.file("/bin/lost/x", vec![]).is_err());
        assert!(fs.file("/bin/sh/x", vec![]).is_err());
        // A link is replaced, not followed: what it points to is somebody else's.
        fs.file("/bin/sh", b"mine".to_vec()).unwrap();
        assert_eq!(
            fs.get(b"/bin/busybox"),
            Some(&Entry::File(OURS, b"box".to_vec()))
        );
    }
}
