//! Directories: the working directory, and listing.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::{any_file, file, lookup};
use crate::arch::uaccess;
use crate::fs::access::{self, Caller};
use crate::fs::node::Content;
use crate::fs::tree::{Entry, NAME_MAX};
use crate::process::thread::current;
use alloc::sync::Arc;
use linux_raw_sys::general::{
    AT_FDCWD, DT_BLK, DT_CHR, DT_DIR, DT_FIFO, DT_LNK, DT_REG, DT_SOCK, DT_UNKNOWN, PATH_MAX,
    S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, X_OK,
};

/// getcwd(buffer, length): returns the length with its NUL.
pub fn getcwd(addr: u64, len: u64) -> Result {
    let (root, directory) = {
        let process = &current().process;
        let state = process.state.lock();
        (state.root.clone(), state.directory.clone())
    };
    let (mut path, linked) = directory.path(&root)?;
    if !linked {
        return Err(Errno::ENOENT);
    }
    path.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    path.push(0);
    if path.len() > PATH_MAX as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    if path.len() as u64 > len {
        return Err(Errno::ERANGE);
    }
    uaccess::write(addr, &path)?;
    Ok(path.len() as u64)
}

fn change(entry: Arc<Entry>) -> Result {
    if !entry.node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    access::check(&entry.node, &Caller::current(), X_OK)?;
    let before = core::mem::replace(&mut current().process.state.lock().directory, entry);
    // Without the process's lock: it may be the last reference.
    drop(before);
    Ok(0)
}

/// chdir(path).
pub fn chdir(path: u64) -> Result {
    change(lookup(AT_FDCWD as u64, &user::path(path)?, true)?)
}

/// fchdir(fd).
pub fn fchdir(fd: u64) -> Result {
    change(any_file(fd)?.entry.clone())
}

/// chroot(path).
pub fn chroot(path: u64) -> Result {
    let entry = lookup(AT_FDCWD as u64, &user::path(path)?, true)?;
    if !entry.node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    access::check(&entry.node, &Caller::current(), X_OK)?;
    if !Caller::current().is_root() {
        return Err(Errno::EPERM);
    }
    let before = core::mem::replace(&mut current().process.state.lock().root, entry);
    drop(before);
    Ok(0)
}

/// Bytes of a `struct linux_dirent64` before the name.
const HEADER: usize = 19;
/// Bytes of the longest one.
const LONGEST: usize = (HEADER + NAME_MAX + 1).next_multiple_of(8);

/// What getdents64 tells of one entry.
struct Listed<'a> {
    id: u32,
    kind: u32,
    name: &'a [u8],
    /// Where the listing goes on after it.
    next: u64,
}

/// Writes an entry to the user; false if there is no room.
fn tell(addr: u64, room: u64, entry: &Listed<'_>) -> core::result::Result<Option<u64>, Errno> {
    let size = (HEADER + entry.name.len() + 1).next_multiple_of(8);
    if size as u64 > room {
        return Ok(None);
    }
    let mut record = [0; LONGEST];
    record[..8].copy_from_slice(&u64::from(entry.id).to_le_bytes());
    record[8..16].copy_from_slice(&entry.next.to_le_bytes());
    record[16..18].copy_from_slice(&(size as u16).to_le_bytes());
    record[18] = match entry.kind & S_IFMT {
        S_IFDIR => DT_DIR,
        S_IFREG => DT_REG,
        S_IFLNK => DT_LNK,
        S_IFCHR => DT_CHR,
        S_IFBLK => DT_BLK,
        S_IFIFO => DT_FIFO,
        S_IFSOCK => DT_SOCK,
        _ => DT_UNKNOWN,
    } as u8;
    record[HEADER..HEADER + entry.name.len()].copy_from_slice(entry.name);
    uaccess::write(addr, &record[..size])?;
    Ok(Some(size as u64))
}

/// getdents64(fd, buffer, length).
pub fn getdents64(fd: u64, addr: u64, len: u64) -> Result {
    let file = file(fd)?;
    let directory = &file.entry;
    if !directory.node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    if !directory.is_linked() {
        return Err(Errno::ENOENT);
    }
    let len = u64::from(len as u32);
    let mut position = file.position();
    let mut done = 0;
    loop {
        match one(directory, *position, addr.wrapping_add(done), len - done) {
            Ok(Some((_, 0))) if done == 0 => return Err(Errno::EINVAL),
            Ok(Some((_, 0)) | None) => break,
            Ok(Some((next, size))) => {
                *position = next;
                done += size;
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    file.node().touch_accessed();
    Ok(done)
}

/// Tells of the entry at a position: the position after it, and its size, 0 if there was no room.
fn one(
    directory: &Arc<Entry>,
    position: u64,
    addr: u64,
    room: u64,
) -> core::result::Result<Option<(u64, u64)>, Errno> {
    let listed = |id, kind, name: &[u8], next| {
        let size = tell(
            addr,
            room,
            &Listed {
                id,
                kind,
                name,
                next,
            },
        )?;
        Ok(Some((next, size.unwrap_or(0))))
    };
    match position {
        0 => return listed(directory.node.id, S_IFDIR, b".", 1),
        1 => return listed(directory.parent().node.id, S_IFDIR, b"..", 2),
        _ => {}
    }
    match &directory.node.content {
        Content::Directory(entries) => {
            let next = entries.lock().next(position - 2);
            let Some((after, entry)) = next else {
                return Ok(None);
            };
            let kind = entry.node.attributes().mode;
            listed(entry.node.id, kind, &entry.name()?, after + 2)
        }
        Content::Proc(item) => {
            let Some((after, name, item)) = item.next(position - 2)? else {
                return Ok(None);
            };
            listed(item.number(), item.file_type(), name.as_bytes(), after + 2)
        }
        _ => Err(Errno::ENOTDIR),
    }
}
