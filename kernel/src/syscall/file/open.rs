//! Opening and closing.

use super::super::{Result, user};
use super::{Fallible, install, start};
use crate::fs::access::{self, Caller};
use crate::fs::name::MadeUp;
use crate::fs::node::{Content, Node};
use crate::fs::regular::Regular;
use crate::fs::tree::{self, Entry, Last, Start};
use crate::fs::{File, change};
use crate::process::limits;
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use linux_raw_sys::general::{
    __O_TMPFILE, O_ACCMODE, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_EXCL,
    O_LARGEFILE, O_NOATIME, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_SYNC, O_TRUNC,
    R_OK, W_OK, X_OK,
};

/// What an open file's flags keep.
const KEPT: u32 = O_ACCMODE
    | O_APPEND
    | O_NONBLOCK
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_PATH
    | O_DIRECT
    | O_DSYNC
    | O_SYNC
    | O_LARGEFILE
    | __O_TMPFILE;
const KNOWN: u32 = KEPT | O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC | O_NOCTTY;

/// openat(fd, path, flags, mode).
pub fn openat(fd: u64, path: u64, flags: u32, mode: u32) -> Result {
    let mut flags = flags & KNOWN;
    if flags & O_PATH != 0 {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    }
    let unnamed = flags & __O_TMPFILE != 0;
    if unnamed && (flags & O_DIRECTORY == 0 || flags & O_CREAT != 0 || !writes(flags)) {
        return Err(Errno::EINVAL);
    }
    if flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY {
        return Err(Errno::EINVAL);
    }
    let path = user::path(path)?;
    // Nothing shall be made or cut off if there is no descriptor for it.
    if current().process.files.lock().lowest_free() >= limits::descriptors() {
        return Err(Errno::EMFILE);
    }
    let start = start(fd, &path)?;
    let mode = mode & 0o7777 & !current().process.state.lock().umask;
    let file = if unnamed {
        open_unnamed(&start, &path, flags, mode)?
    } else {
        open(&start, &path, flags, mode)?
    };
    install(file, flags & O_CLOEXEC != 0, 0)
}

fn writes(flags: u32) -> bool {
    flags & O_ACCMODE != O_RDONLY
}

fn open(start: &Start, path: &[u8], flags: u32, mode: u32) -> Fallible<Arc<File>> {
    let exclusive = flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL;
    let follow = flags & O_NOFOLLOW == 0 && !exclusive;
    loop {
        let at = tree::walk(start, path, follow)?;
        if flags & O_CREAT != 0 && (at.slash || at.last != Last::Name) {
            return Err(if exclusive && at.last != Last::Name {
                Errno::EEXIST
            } else {
                Errno::EISDIR
            });
        }
        match &at.entry {
            Some(_) if exclusive => return Err(Errno::EEXIST),
            Some(entry) => {
                if at.slash && !entry.node.is_directory() {
                    return Err(Errno::ENOTDIR);
                }
                return open_entry(start, entry, flags);
            }
            None if flags & O_CREAT == 0 => return Err(Errno::ENOENT),
            None => {}
        }
        let caller = &start.caller;
        let node = Node::new(
            Content::Regular(Regular::empty()?),
            mode,
            caller.uid,
            caller.gid,
        )?;
        match change::create(&at, caller, node) {
            Ok(entry) => return File::open(entry, flags & KEPT),
            // Somebody was faster.
            Err(Errno::EEXIST) if !exclusive => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens what exists.
fn open_entry(start: &Start, entry: &Arc<Entry>, flags: u32) -> Fallible<Arc<File>> {
    let node = &entry.node;
    if flags & O_CREAT != 0 && node.is_directory() {
        return Err(Errno::EISDIR);
    }
    if flags & O_DIRECTORY != 0 && !node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    if flags & O_PATH != 0 {
        return File::open(entry.clone(), flags & KEPT);
    }
    if node.is_link() {
        return Err(Errno::ELOOP);
    }
    if node.is_directory() && (writes(flags) || flags & O_TRUNC != 0) {
        return Err(Errno::EISDIR);
    }
    let mut mask = match flags & O_ACCMODE {
        O_RDONLY => R_OK,
        linux_raw_sys::general::O_WRONLY => W_OK,
        _ => R_OK | W_OK,
    };
    if flags & O_TRUNC != 0 {
        mask |= W_OK;
    }
    access::check(node, &start.caller, mask)?;
    if flags & O_NOATIME != 0 && !start.caller.owns(&node.attributes()) {
        return Err(Errno::EPERM);
    }
    let file = File::open(entry.clone(), flags & KEPT)?;
    if flags & O_TRUNC != 0
        && let Content::Regular(regular) = &node.content
    {
        truncate(node, regular, &start.caller, 0)?;
    }
    Ok(file)
}

/// Sets the length of a file that the caller may write.
pub fn truncate(node: &Node, file: &Regular, caller: &Caller, len: u64) -> Fallible<()> {
    if len > node.len() {
        limits::file_room(len - 1)?;
    }
    file.open_for_writing()?;
    let result = file.set_len(len);
    file.close_for_writing();
    result?;
    node.touch_modified();
    if !caller.is_root() {
        node.drop_set_id();
    }
    Ok(())
}

/// A file without a name (O_TMPFILE), in the file system of a directory.
fn open_unnamed(start: &Start, path: &[u8], flags: u32, mode: u32) -> Fallible<Arc<File>> {
    let directory = tree::lookup(start, path, true)?;
    if !directory.node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let Content::Directory(_) = &directory.node.content else {
        return Err(Errno::EOPNOTSUPP);
    };
    let caller = &start.caller;
    access::check(&directory.node, caller, W_OK | X_OK)?;
    let node = Node::new(
        Content::Regular(Regular::empty()?),
        mode,
        caller.uid,
        caller.gid,
    )?;
    let name = MadeUp::new(format_args!("#{}", node.id));
    let entry = Entry::new(node, Some(directory), &name)?;
    File::open(entry, flags & KEPT)
}

/// close(fd).
pub fn close(fd: u64) -> Result {
    // Dropped without the table's lock: the end of a pipe wakes others.
    let closed = current().process.files.lock().remove(fd)?;
    closed.close();
    Ok(0)
}

/// close_range(first, last, flags).
pub fn close_range(first: u32, last: u32, flags: u32) -> Result {
    /// `linux/close_range.h`.
    const CLOSE_RANGE_UNSHARE: u32 = 1 << 1;
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    if flags & !(CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let process = &current().process;
    let mut at = first as usize;
    loop {
        let mut files = process.files.lock();
        let next = files.next(at).map(|(fd, _)| fd);
        let Some(fd) = next.filter(|&fd| fd <= last as usize) else {
            return Ok(0);
        };
        at = fd + 1;
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            files.descriptor_mut(fd as u64)?.close_on_exec = true;
            continue;
        }
        let closed = files.remove(fd as u64)?;
        drop(files);
        closed.close();
    }
}
