//! What files are.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::{any_file, lookup, lookup_or_self};
use crate::arch::mmu;
use crate::fs::access::{self, Caller};
use crate::fs::node::{Content, Node, Time, decode_device};
use crate::fs::{BLOCK, PROC_DEVICE, regular};
use linux_raw_sys::general::{
    AT_EACCESS, AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_STATX_SYNC_TYPE, AT_SYMLINK_NOFOLLOW,
    PROC_SUPER_MAGIC, STATX_BASIC_STATS, STATX_MNT_ID, TMPFS_MAGIC, stat, statx, statx_timestamp,
};

/// 512-byte blocks that the contents take.
fn blocks(node: &Node) -> u64 {
    match &node.content {
        Content::Regular(file) => file.cache().allocated() * (BLOCK / 512),
        _ => 0,
    }
}

fn status(node: &Node) -> stat {
    let attributes = node.attributes();
    // SAFETY: a structure of integers.
    let mut status: stat = unsafe { core::mem::zeroed() };
    status.st_dev = node.device.into();
    status.st_ino = node.id.into();
    status.st_mode = attributes.mode;
    status.st_nlink = attributes.links;
    status.st_uid = attributes.uid;
    status.st_gid = attributes.gid;
    status.st_rdev = node.device_number();
    status.st_size = node.len() as i64;
    status.st_blksize = BLOCK as i32;
    status.st_blocks = blocks(node) as i64;
    status.st_atime = attributes.accessed.seconds;
    status.st_atime_nsec = attributes.accessed.nanoseconds.into();
    status.st_mtime = attributes.modified.seconds;
    status.st_mtime_nsec = attributes.modified.nanoseconds.into();
    status.st_ctime = attributes.changed.seconds;
    status.st_ctime_nsec = attributes.changed.nanoseconds.into();
    status
}

/// fstat(fd, status).
pub fn fstat(fd: u64, addr: u64) -> Result {
    user::write(addr, &status(any_file(fd)?.node()))?;
    Ok(0)
}

/// newfstatat(fd, path, status, flags).
pub fn newfstatat(fd: u64, path: u64, addr: u64, flags: u32) -> Result {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL);
    }
    let entry = lookup_or_self(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    user::write(addr, &status(&entry.node))?;
    Ok(0)
}

fn stamp(time: Time) -> statx_timestamp {
    statx_timestamp {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds,
        __reserved: 0,
    }
}

/// statx(fd, path, flags, mask, status).
pub fn statx(fd: u64, path: u64, flags: u32, mask: u32, addr: u64) -> Result {
    const RESERVED: u32 = 1 << 31;
    const KNOWN: u32 = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE;
    if mask & RESERVED != 0
        || flags & !KNOWN != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
    {
        return Err(Errno::EINVAL);
    }
    let entry = lookup_or_self(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    let node = &entry.node;
    let attributes = node.attributes();
    // SAFETY: a structure of integers.
    let mut status: statx = unsafe { core::mem::zeroed() };
    status.stx_mask = STATX_BASIC_STATS | STATX_MNT_ID;
    status.stx_blksize = BLOCK as u32;
    status.stx_nlink = attributes.links;
    status.stx_uid = attributes.uid;
    status.stx_gid = attributes.gid;
    status.stx_mode = attributes.mode as u16;
    status.stx_ino = node.id.into();
    status.stx_size = node.len();
    status.stx_blocks = blocks(node);
    status.stx_atime = stamp(attributes.accessed);
    status.stx_mtime = stamp(attributes.modified);
    status.stx_ctime = stamp(attributes.changed);
    (status.stx_rdev_major, status.stx_rdev_minor) = decode_device(node.device_number());
    (status.stx_dev_major, status.stx_dev_minor) = (0, node.device);
    status.stx_mnt_id = node.device.into();
    user::write(addr, &status)?;
    Ok(0)
}

/// faccessat2(fd, path, mode, flags).
pub fn faccessat2(fd: u64, path: u64, mode: u32, flags: u32) -> Result {
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let entry = lookup_or_self(fd, path, flags, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    let caller = if flags & AT_EACCESS != 0 {
        Caller::current()
    } else {
        Caller::real()
    };
    access::check(&entry.node, &caller, mask(mode))?;
    Ok(0)
}

fn mask(mode: u32) -> u32 {
    mode & 7
}

/// `struct statfs`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Statfs {
    kind: u64,
    block: u64,
    blocks: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
    id: [u32; 2],
    name_max: u64,
    fragment: u64,
    flags: u64,
    spare: [u64; 4],
}

fn file_system(node: &Node) -> Statfs {
    const ST_VALID: u64 = 0x20;
    let mut status = Statfs {
        kind: TMPFS_MAGIC.into(),
        block: BLOCK,
        name_max: crate::fs::tree::NAME_MAX as u64,
        fragment: BLOCK,
        flags: ST_VALID,
        id: [node.device, 0],
        ..Statfs::default()
    };
    if node.device == PROC_DEVICE {
        status.kind = PROC_SUPER_MAGIC.into();
        return status;
    }
    let (used, limit) = regular::QUOTA.state();
    // What is not there cannot be used, whatever the limit.
    let free = (limit - used.min(limit)).min(mmu::memory().frames.free_count());
    status.blocks = limit;
    (status.free, status.available) = (free, free);
    // As many files as pages, as tmpfs has it.
    (status.files, status.files_free) = (limit, free);
    status
}

/// statfs(path, status).
pub fn statfs(path: u64, addr: u64) -> Result {
    let entry = lookup(
        linux_raw_sys::general::AT_FDCWD as u64,
        &user::path(path)?,
        true,
    )?;
    user::write(addr, &file_system(&entry.node))?;
    Ok(0)
}

/// fstatfs(fd, status).
pub fn fstatfs(fd: u64, addr: u64) -> Result {
    user::write(addr, &file_system(any_file(fd)?.node()))?;
    Ok(0)
}

/// getxattr(path, name, value, size) and its like: no file has any.
pub fn getxattr(path: u64, name: u64, follow: bool) -> Result {
    lookup(
        linux_raw_sys::general::AT_FDCWD as u64,
        &user::path(path)?,
        follow,
    )?;
    attribute_name(name)?;
    Err(Errno::ENODATA)
}

/// fgetxattr(fd, name, value, size).
pub fn fgetxattr(fd: u64, name: u64) -> Result {
    super::file(fd)?;
    attribute_name(name)?;
    Err(Errno::ENODATA)
}

/// listxattr(path, list, size).
pub fn listxattr(path: u64, follow: bool) -> Result {
    lookup(
        linux_raw_sys::general::AT_FDCWD as u64,
        &user::path(path)?,
        follow,
    )?;
    Ok(0)
}

/// Reads the name of an extended attribute: 1 to 255 bytes.
fn attribute_name(addr: u64) -> Result {
    let mut name = [0; 256];
    match crate::arch::uaccess::read_cstr(addr, &mut name)? {
        0 | 256 => Err(Errno::ERANGE),
        len => Ok(len as u64),
    }
}
