//! What names lead to: files with their attributes, whatever they are.

use super::proc;
use super::regular::Regular;
use super::tree::Directory;
use super::{FIRST_DEVICE, pipe, socket};
use crate::arch::heap;
use crate::process::clock;
use crate::syscall::errno::Errno;
use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{
    S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_ISGID, S_ISUID,
    S_IXGRP,
};
use memory::{Lock, Rank};

/// A moment: seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// And nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

impl Time {
    /// The time of CLOCK_REALTIME.
    pub fn now() -> Time {
        let now = clock::realtime();
        Time {
            seconds: (now / 1_000_000_000) as i64,
            nanoseconds: (now % 1_000_000_000) as u32,
        }
    }
}

/// What `stat` tells and `chmod` and its like change.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to it; of a directory, "." and ".." of its directories as well.
    pub links: u32,
    /// When it was last read.
    pub accessed: Time,
    /// When its contents were last changed.
    pub modified: Time,
    /// When its attributes were last changed.
    pub changed: Time,
}

/// A file (Linux's inode).
pub struct Node {
    /// Number of the file, from 1, never used again; also its id in the trace.
    pub id: u32,
    /// The file system it is in (st_dev).
    pub device: u32,
    /// What it holds.
    pub content: Content,
    attributes: Lock<Attributes>,
}

/// What a node holds.
pub enum Content {
    /// A directory.
    Directory(Lock<Directory>),
    /// A regular file.
    Regular(Regular),
    /// A symbolic link: its target.
    Link(Vec<u8>),
    /// A character device: major and minor number.
    Device(u32, u32),
    /// A block device, of which there is none to open.
    Block(u32, u32),
    /// A FIFO or a pipe.
    Fifo(Arc<pipe::Pipe>),
    /// One of the tool's own streams, seen as a pipe.
    Stream(u8),
    /// What has no name, and is of no type.
    Anonymous,
    /// A socket's name, or a socket.
    Socket(socket::Place),
    /// A file of /proc.
    Proc(proc::Item),
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A number for a file.
pub fn next_id() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Node {
    /// A new file without a name; `mode` is its permissions.
    pub fn new(content: Content, mode: u32, uid: u32, gid: u32) -> Result<Arc<Node>, Errno> {
        let id = match &content {
            Content::Regular(file) => file.cache().id(),
            _ => next_id(),
        };
        Node::with_id(id, FIRST_DEVICE, content, mode, uid, gid)
    }

    /// The same in another file system, with a number of the caller's.
    pub fn with_id(
        id: u32,
        device: u32,
        content: Content,
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> Result<Arc<Node>, Errno> {
        let kind = match &content {
            Content::Directory(_) => S_IFDIR,
            Content::Regular(_) => S_IFREG,
            Content::Link(_) => S_IFLNK,
            Content::Device(..) => S_IFCHR,
            Content::Block(..) => S_IFBLK,
            Content::Fifo(_) | Content::Stream(_) => S_IFIFO,
            Content::Anonymous => 0,
            Content::Socket(_) => S_IFSOCK,
            Content::Proc(item) => item.file_type(),
        };
        let now = Time::now();
        heap::try_arc(Node {
            id,
            device,
            content,
            attributes: Lock::new(
                Rank::Attributes,
                Attributes {
                    mode: kind | mode & !S_IFMT,
                    uid,
                    gid,
                    links: 0,
                    accessed: now,
                    modified: now,
                    changed: now,
                },
            ),
        })
        .ok_or(Errno::ENOMEM)
    }

    /// Its attributes as they are now.
    pub fn attributes(&self) -> Attributes {
        *self.attributes.lock()
    }

    /// Changes its attributes.
    pub fn change<T>(&self, f: impl FnOnce(&mut Attributes) -> T) -> T {
        f(&mut self.attributes.lock())
    }

    /// The contents were read: the time of that, at most once a second and only if the contents
    /// are newer, as with Linux's relatime.
    pub fn touch_accessed(&self) {
        let now = Time::now();
        let mut attributes = self.attributes.lock();
        let before = attributes.accessed;
        let newer =
            |time: Time| (time.seconds, time.nanoseconds) >= (before.seconds, before.nanoseconds);
        if newer(attributes.modified)
            || newer(attributes.changed)
            || now.seconds - before.seconds > 24 * 3600
        {
            attributes.accessed = now;
        }
    }

    /// The contents were changed. A program that somebody else writes loses its set-id bits.
    pub fn touch_modified(&self) {
        let now = Time::now();
        let mut attributes = self.attributes.lock();
        attributes.modified = now;
        attributes.changed = now;
    }

    /// Takes away the set-user-id and set-group-id bits, as a write by others than root does.
    pub fn drop_set_id(&self) {
        let mut attributes = self.attributes.lock();
        attributes.mode &= !S_ISUID;
        if attributes.mode & S_IXGRP != 0 {
            attributes.mode &= !S_ISGID;
        }
    }

    /// Length in bytes, as `stat` reports it.
    pub fn len(&self) -> u64 {
        match &self.content {
            Content::Regular(file) => file.cache().len(),
            Content::Link(target) => target.len() as u64,
            Content::Directory(directory) => directory.lock().size(),
            _ => 0,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        match &self.content {
            Content::Directory(_) => true,
            Content::Proc(item) => item.file_type() == S_IFDIR,
            _ => false,
        }
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        match &self.content {
            Content::Link(_) => true,
            Content::Proc(item) => item.file_type() == S_IFLNK,
            _ => false,
        }
    }

    /// Device number of a device node, as `stat` encodes it; 0: it is none.
    pub fn device_number(&self) -> u64 {
        match self.content {
            Content::Device(major, minor) | Content::Block(major, minor) => {
                encode_device(major, minor)
            }
            _ => 0,
        }
    }
}

/// Linux's encoding of a device number (`new_encode_dev`).
pub fn encode_device(major: u32, minor: u32) -> u64 {
    u64::from(minor & 0xff) | u64::from(major & 0xfff) << 8 | u64::from(minor & !0xff) << 12
}

/// And back.
pub fn decode_device(device: u64) -> (u32, u32) {
    let major = (device >> 8 & 0xfff) as u32;
    let minor = (device & 0xff) as u32 | (device >> 12) as u32 & !0xff;
    (major, minor)
}
