//! A directory of the user's as the guest's root file system.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use super::{Entry, Initramfs};
use crate::exit::{unreadable, usage};
use crate::progress::Progress;

/// Adds everything below `dir`: files, directories (empty ones too) and symbolic links, with their
/// permissions. Links stay as they are, so that an absolute one leads to a place in the guest.
pub fn add(root: &mut Initramfs, dir: &Path, progress: &Progress) -> Result<()> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(usage(format!(
                "{} is no directory: --root wants the one that becomes / in the guest",
                dir.display()
            )));
        }
        Err(error) => return Err(cannot_read(dir, &error)),
    }
    let mut skipped = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).map_err(|error| cannot_read(&directory, &error))?;
        for entry in entries {
            let path = entry
                .map_err(|error| cannot_read(&directory, &error))?
                .path();
            match read(&path)? {
                Some(found) => {
                    if matches!(found, Entry::Directory(_)) {
                        open.push(path.clone());
                    }
                    let inside = path.strip_prefix(dir).unwrap_or(&path);
                    let added = root.insert(inside.as_os_str().as_bytes(), found);
                    added.map_err(|error| usage(format!("{}: {error}", path.display())))?;
                }
                None => skipped.push(path),
            }
        }
    }
    if let Some(first) = skipped.first() {
        progress.warn(&format!(
            "{} of {} are no files, directories or links, and stay out of the guest: {}",
            skipped.len(),
            dir.display(),
            first.display()
        ));
    }
    Ok(())
}

/// What is at a path; none if the guest has no use for it.
fn read(path: &Path) -> Result<Option<Entry>> {
    let why = |error| cannot_read(path, &error);
    let found = fs::symlink_metadata(path).map_err(why)?;
    let mode = found.permissions().mode();
    Ok(if found.is_dir() {
        Some(Entry::Directory(mode))
    } else if found.is_file() {
        Some(Entry::File(mode, fs::read(path).map_err(why)?))
    } else if found.is_symlink() {
        let target = fs::read_link(path).map_err(why)?;
        Some(Entry::Link(target.as_os_str().as_bytes().to_vec()))
    } else {
        None
    })
}

fn cannot_read(path: &Path, error: &std::io::Error) -> anyhow::Error {
    unreadable(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, status};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("etc/empty")).unwrap();
        fs::write(at("etc/secret"), "s").unwrap();
        fs::set_permissions(at("etc/secret"), PermissionsExt::from_mode(0o4600)).unwrap();
        symlink("/etc/secret", at("absolute")).unwrap();
        symlink("etc/../nowhere", at("relative")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        let mut root = Initramfs::new();
        add(&mut root, dir.path(), &Progress::new(true)).unwrap();
        let Some(Entry::File(mode, contents)) = root.get(b"/absolute") else {
            panic!("{root:?}")
        };
        assert_eq!((mode & 0o7777, contents.as_slice()), (0o4600, &b"s"[..]));
        assert!(matches!(root.get(b"/etc/empty"), Some(Entry::Directory(_))));
        assert_eq!(root.get(b"/relative"), None);
        assert_eq!(root.get(b"/socket"), None);
    }

    #[test]
    fn what_is_no_tree() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let progress = Progress::new(true);
        let why = |path: &Path| add(&mut Initramfs::new(), path, &progress).unwrap_err();
        assert_eq!(status(&why(&file)), Some(Exit::Usage));
        assert_eq!(
            status(&why(&dir.path().join("absent"))),
            Some(Exit::Unreadable)
        );
    }
}
