//! Changing what files are.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::{any_file, file, lookup, lookup_or_self, open};
use crate::fs::access::{self, Caller};
use crate::fs::node::{Attributes, Content, Node, Time};
use crate::process::thread::current;
use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, S_IFDIR, S_IFMT, S_ISGID, S_ISUID, S_IXGRP,
    UTIME_NOW, UTIME_OMIT, W_OK, timespec,
};

type Fallible<T> = core::result::Result<T, Errno>;

fn change_mode(node: &Node, mode: u32) -> Result {
    if node.is_link() {
        return Err(Errno::EOPNOTSUPP);
    }
    let caller = Caller::current();
    node.change(|attributes| {
        if !caller.owns(attributes) {
            return Err(Errno::EPERM);
        }
        let mut mode = mode & 0o7777;
        if !caller.is_root() && !caller.is_in(attributes.gid) {
            mode &= !S_ISGID;
        }
        attributes.mode = attributes.mode & S_IFMT | mode;
        attributes.changed = Time::now();
        Ok(0)
    })
}

/// fchmod(fd, mode).
pub fn fchmod(fd: u64, mode: u32) -> Result {
    change_mode(file(fd)?.node(), mode)
}

/// fchmodat2(fd, path, mode, flags).
pub fn fchmodat2(fd: u64, path: u64, mode: u32, flags: u32) -> Result {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let entry = lookup_or_self(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    change_mode(&entry.node, mode)
}

fn change_owner(node: &Node, uid: u32, gid: u32) -> Result {
    const KEEP: u32 = u32::MAX;
    let caller = Caller::current();
    node.change(|attributes| {
        let allowed = caller.is_root()
            || caller.uid == attributes.uid
                && (uid == KEEP || uid == attributes.uid)
                && (gid == KEEP || caller.is_in(gid));
        if !allowed {
            return Err(Errno::EPERM);
        }
        if uid != KEEP {
            attributes.uid = uid;
        }
        if gid != KEEP {
            attributes.gid = gid;
        }
        // As on Linux, whoever the new owner is.
        if attributes.mode & S_IFMT != S_IFDIR {
            attributes.mode &= !S_ISUID;
            if attributes.mode & S_IXGRP != 0 {
                attributes.mode &= !S_ISGID;
            }
        }
        attributes.changed = Time::now();
        Ok(0)
    })
}

/// fchown(fd, user, group).
pub fn fchown(fd: u64, uid: u32, gid: u32) -> Result {
    change_owner(file(fd)?.node(), uid, gid)
}

/// fchownat(fd, path, user, group, flags).
pub fn fchownat(fd: u64, path: u64, uid: u32, gid: u32, flags: u32) -> Result {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let entry = lookup_or_self(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    change_owner(&entry.node, uid, gid)
}

/// What utimensat wants of one time.
enum Stamp {
    Now,
    Keep,
    At(Time),
}

fn stamp(addr: u64) -> Fallible<Stamp> {
    let time: timespec = user::read(addr)?;
    match time.tv_nsec as u64 {
        nanoseconds if nanoseconds == u64::from(UTIME_NOW) => Ok(Stamp::Now),
        nanoseconds if nanoseconds == u64::from(UTIME_OMIT) => Ok(Stamp::Keep),
        nanoseconds @ 0..1_000_000_000 => Ok(Stamp::At(Time {
            seconds: time.tv_sec,
            nanoseconds: nanoseconds as u32,
        })),
        _ => Err(Errno::EINVAL),
    }
}

fn set_times(node: &Node, accessed: Stamp, modified: Stamp) -> Result {
    let caller = Caller::current();
    let now = Time::now();
    let touches = matches!((&accessed, &modified), (Stamp::Now, Stamp::Now));
    if touches {
        // Whoever may write may touch.
        if !caller.owns(&node.attributes()) {
            access::check(node, &caller, W_OK)?;
        }
    } else if !caller.owns(&node.attributes()) {
        return Err(Errno::EPERM);
    }
    node.change(|attributes: &mut Attributes| {
        for (stamp, time) in [
            (accessed, &mut attributes.accessed),
            (modified, &mut attributes.modified),
        ] {
            match stamp {
                Stamp::Now => *time = now,
                Stamp::At(wanted) => *time = wanted,
                Stamp::Keep => {}
            }
        }
        attributes.changed = now;
    });
    Ok(0)
}

/// utimensat(fd, path, times, flags).
pub fn utimensat(fd: u64, path: u64, times: u64, flags: u32) -> Result {
    let (accessed, modified) = if times == 0 {
        (Stamp::Now, Stamp::Now)
    } else {
        (stamp(times)?, stamp(times.wrapping_add(16))?)
    };
    if matches!((&accessed, &modified), (Stamp::Keep, Stamp::Keep)) {
        return Ok(0);
    }
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    if path == 0 && fd as i32 != AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        return set_times(any_file(fd)?.node(), accessed, modified);
    }
    let entry = lookup_or_self(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    set_times(&entry.node, accessed, modified)
}

/// truncate(path, length).
pub fn truncate(path: u64, len: u64) -> Result {
    if (len as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    let entry = lookup(AT_FDCWD as u64, &user::path(path)?, true)?;
    let node = &entry.node;
    let Content::Regular(regular) = &node.content else {
        return Err(if node.is_directory() {
            Errno::EISDIR
        } else {
            Errno::EINVAL
        });
    };
    let caller = Caller::current();
    access::check(node, &caller, W_OK)?;
    open::truncate(node, regular, &caller, len)?;
    Ok(0)
}

/// ftruncate(fd, length).
pub fn ftruncate(fd: u64, len: u64) -> Result {
    if (len as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(fd)?;
    let regular = file.regular().ok_or(Errno::EINVAL)?;
    if !file.writable() {
        return Err(Errno::EINVAL);
    }
    open::truncate(file.node(), regular, &Caller::current(), len)?;
    Ok(0)
}

/// umask(mask): returns the one before.
pub fn umask(mask: u32) -> Result {
    Ok(core::mem::replace(&mut current().process.state.lock().umask, mask & 0o777).into())
}
