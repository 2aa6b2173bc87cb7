//! System calls on files, a module per family.

pub mod attribute;
pub mod descriptor;
pub mod directory;
pub mod event;
pub mod io;
pub mod name;
pub mod open;
pub mod poll;
pub mod socket;
pub mod splice;
pub mod stat;

use super::errno::Errno;
use super::{Result, user};
use crate::fs::access::Caller;
use crate::fs::tree::{self, Entry, Start, Walk};
use crate::fs::{Descriptor, File};
use crate::process::limits;
use crate::process::thread::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{AT_EMPTY_PATH, AT_FDCWD, O_PATH};

type Fallible<T> = core::result::Result<T, Errno>;

/// The open file behind a descriptor.
pub fn any_file(fd: u64) -> Fallible<Arc<File>> {
    current().process.files.lock().get(fd)
}

/// The same, if it can be used for more than its name.
pub fn file(fd: u64) -> Fallible<Arc<File>> {
    let file = any_file(fd)?;
    if file.flags.load(core::sync::atomic::Ordering::Relaxed) & O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    Ok(file)
}

/// Gives a file the lowest free descriptor.
pub fn install(file: Arc<File>, close_on_exec: bool, min: usize) -> Result {
    let limit = limits::descriptors();
    let fd = current().process.files.lock().insert(
        Descriptor {
            file,
            close_on_exec,
        },
        min,
        limit,
    )?;
    Ok(fd as u64)
}

/// Where a path relative to `fd` starts. The descriptor is not looked at if the path is absolute.
fn start(fd: u64, path: &[u8]) -> Fallible<Start> {
    let (root, directory) = {
        let process = &current().process;
        let state = process.state.lock();
        (state.root.clone(), state.directory.clone())
    };
    let directory = if fd as i32 == AT_FDCWD || path.starts_with(b"/") {
        directory
    } else {
        any_file(fd)?.entry.clone()
    };
    Ok(Start {
        root,
        directory,
        caller: Caller::current(),
    })
}

/// What is at a path relative to `fd`.
fn lookup(fd: u64, path: &[u8], follow: bool) -> Fallible<Arc<Entry>> {
    tree::lookup(&start(fd, path)?, path, follow)
}

/// Where a path relative to `fd` leads, if only its last component may be missing.
fn walk(fd: u64, path: &[u8], follow: bool) -> Fallible<Walk> {
    tree::walk(&start(fd, path)?, path, follow)
}

/// What a path leads to; with AT_EMPTY_PATH and no path, what the descriptor does.
fn lookup_or_self(fd: u64, path: u64, flags: u32, follow: bool) -> Fallible<Arc<Entry>> {
    let empty = flags & AT_EMPTY_PATH != 0;
    let path = if path == 0 && empty {
        Vec::new()
    } else {
        user::path(path)?
    };
    if !path.is_empty() || !empty {
        return lookup(fd, &path, follow);
    }
    if fd as i32 == AT_FDCWD {
        return Ok(current().process.state.lock().directory.clone());
    }
    Ok(any_file(fd)?.entry.clone())
}
