//! Names: making, linking, removing and renaming.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::{lookup, lookup_or_self, walk};
use crate::arch::uaccess;
use crate::fs::access::Caller;
use crate::fs::node::{Content, Node, decode_device};
use crate::fs::regular::Regular;
use crate::fs::socket::Place;
use crate::fs::{change, pipe, tree};
use crate::process::thread::current;
use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, PATH_MAX, RENAME_EXCHANGE, RENAME_NOREPLACE,
    RENAME_WHITEOUT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK,
};
use memory::{Lock, Rank};

fn create(
    fd: u64,
    path: u64,
    mode: u32,
    content: impl FnOnce() -> core::result::Result<Content, Errno>,
) -> Result {
    let at = walk(fd, &user::path(path)?, false)?;
    if at.entry.is_some() {
        return Err(Errno::EEXIST);
    }
    let caller = Caller::current();
    let mode = mode & 0o7777 & !current().process.state.lock().umask;
    let node = Node::new(content()?, mode, caller.uid, caller.gid)?;
    change::create(&at, &caller, node)?;
    Ok(0)
}

/// mkdirat(fd, path, mode).
pub fn mkdirat(fd: u64, path: u64, mode: u32) -> Result {
    create(fd, path, mode & 0o1777, || {
        Ok(Content::Directory(Lock::new(
            Rank::Directory,
            tree::Directory::default(),
        )))
    })
}

/// mknodat(fd, path, mode, device).
pub fn mknodat(fd: u64, path: u64, mode: u32, device: u64) -> Result {
    let (major, minor) = decode_device(u64::from(device as u32));
    if matches!(mode & S_IFMT, S_IFCHR | S_IFBLK) && !Caller::is_current_root() {
        return Err(Errno::EPERM);
    }
    match mode & S_IFMT {
        S_IFDIR => return Err(Errno::EPERM),
        0 | S_IFREG | S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK => {}
        _ => return Err(Errno::EINVAL),
    }
    create(fd, path, mode, || {
        Ok(match mode & S_IFMT {
            S_IFCHR => Content::Device(major, minor),
            S_IFBLK => Content::Block(major, minor),
            S_IFIFO => Content::Fifo(pipe::Pipe::new()?),
            S_IFSOCK => Content::Socket(Place::none()),
            _ => Content::Regular(Regular::empty()?),
        })
    })
}

/// symlinkat(target, fd, path).
pub fn symlinkat(target: u64, fd: u64, path: u64) -> Result {
    let target = user::path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let at = walk(fd, &user::path(path)?, false)?;
    if at.entry.is_some() {
        return Err(Errno::EEXIST);
    }
    let caller = Caller::current();
    let node = Node::new(Content::Link(target), 0o777, caller.uid, caller.gid)?;
    change::create(&at, &caller, node)?;
    Ok(0)
}

/// linkat(old fd, old path, new fd, new path, flags).
pub fn linkat(old_fd: u64, old_path: u64, new_fd: u64, new_path: u64, flags: u32) -> Result {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let old = lookup_or_self(old_fd, old_path, flags, flags & AT_SYMLINK_FOLLOW != 0)?;
    let at = walk(new_fd, &user::path(new_path)?, false)?;
    // What O_TMPFILE made has no name yet; what was removed gets none again.
    let unnamed = old.name()?.starts_with(b"#") && old.node.attributes().links == 0;
    change::link(&old.node, &at, &Caller::current(), unnamed)?;
    Ok(0)
}

/// unlinkat(fd, path, flags).
pub fn unlinkat(fd: u64, path: u64, flags: u32) -> Result {
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let at = walk(fd, &user::path(path)?, false)?;
    change::unlink(&at, &Caller::current(), flags & AT_REMOVEDIR != 0)?;
    Ok(0)
}

/// renameat2(old fd, old path, new fd, new path, flags).
pub fn renameat2(old_fd: u64, old_path: u64, new_fd: u64, new_path: u64, flags: u32) -> Result {
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0
        || flags & RENAME_EXCHANGE != 0 && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0
    {
        return Err(Errno::EINVAL);
    }
    let (old, new) = (user::path(old_path)?, user::path(new_path)?);
    let from = walk(old_fd, &old, false)?;
    let to = walk(new_fd, &new, false)?;
    change::rename(&from, &to, &Caller::current(), flags)?;
    Ok(0)
}

/// readlinkat(fd, path, buffer, length).
pub fn readlinkat(fd: u64, path: u64, addr: u64, len: u64) -> Result {
    if len as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::path(path)?;
    let entry = if path.is_empty() {
        // The descriptor itself, if it is of a link.
        let entry = super::any_file(fd)?.entry.clone();
        if !entry.node.is_link() {
            return Err(Errno::ENOENT);
        }
        entry
    } else {
        lookup(fd, &path, false)?
    };
    let root = current().process.state.lock().root.clone();
    let target = tree::read_link(&entry, &root)?;
    let count = target.len().min(len as usize).min(PATH_MAX as usize);
    uaccess::write(addr, &target[..count])?;
    Ok(count as u64)
}
