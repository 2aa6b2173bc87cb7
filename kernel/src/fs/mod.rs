//! Files: the initramfs, pipes, the console and the memory devices, behind open file descriptions
//! and per-process tables of descriptors.

pub mod cpio;
pub mod pipe;
pub mod tree;

use crate::arch::{heap, uaccess};
use crate::process::random;
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{
    O_ACCMODE, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, SEEK_CUR, SEEK_END, SEEK_SET,
};
use memory::{Guard, Lock, Rank};
use tree::{Content, Node};

/// The most descriptors a process may have.
pub const MAX_FILES: usize = 1024;
/// How much of a user's buffer is copied at once where a copy in kernel memory is needed.
const CHUNK: usize = 256;

/// What an open file refers to.
pub enum Object {
    /// A file or directory of the initramfs.
    Node(&'static Node),
    /// The console: writes go into the trace; reads see the end of the input.
    Console,
    /// /dev/null.
    Null,
    /// /dev/zero.
    Zero,
    /// /dev/random and /dev/urandom.
    Random,
    /// One end of a pipe.
    Pipe(pipe::End),
}

/// An open file description: what `open`, `dup` and `fork` share.
pub struct File {
    /// What it refers to.
    pub object: Object,
    /// O_RDONLY, O_NONBLOCK and so on.
    pub flags: AtomicU32,
    /// Of a device: the node it was opened by.
    pub node: Option<&'static Node>,
    position: Lock<u64>,
}

impl File {
    /// A new description.
    pub fn new(
        object: Object,
        node: Option<&'static Node>,
        flags: u32,
    ) -> Result<Arc<File>, Errno> {
        heap::try_arc(File {
            object,
            flags: AtomicU32::new(flags),
            node,
            position: Lock::new(Rank::FilePosition, 0),
        })
        .ok_or(Errno::ENOMEM)
    }

    /// Opens a node of the tree.
    pub fn open(node: &'static Node, flags: u32) -> Result<Arc<File>, Errno> {
        let writes = flags & O_ACCMODE != O_RDONLY;
        let object = match &node.content {
            Content::Directory(_) if writes => return Err(Errno::EISDIR),
            Content::Regular(_) if writes => return Err(Errno::EROFS),
            Content::Directory(_) | Content::Regular(_) => Object::Node(node),
            Content::Device(1, 3) => Object::Null,
            Content::Device(1, 5) => Object::Zero,
            Content::Device(1, 8 | 9) => Object::Random,
            Content::Device(5, 0 | 1) => Object::Console,
            Content::Link(_) => return Err(Errno::ELOOP),
            Content::Device(..) | Content::Other => return Err(Errno::ENXIO),
        };
        File::new(object, Some(node), flags)
    }

    fn nonblocking(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & O_NONBLOCK != 0
    }

    fn readable(&self) -> bool {
        matches!(
            self.flags.load(Ordering::Relaxed) & O_ACCMODE,
            O_RDONLY | O_RDWR
        )
    }

    fn writable(&self) -> bool {
        matches!(
            self.flags.load(Ordering::Relaxed) & O_ACCMODE,
            O_WRONLY | O_RDWR
        )
    }

    /// `read(2)` into the user's memory at `addr`.
    pub fn read(&self, addr: u64, len: usize) -> Result<usize, Errno> {
        if !self.readable() {
            return Err(Errno::EBADF);
        }
        match &self.object {
            Object::Node(node) => {
                let mut position = self.position.lock();
                let count = read_node(node, *position, addr, len)?;
                *position += count as u64;
                Ok(count)
            }
            Object::Pipe(end) => end.read(addr, len, self.nonblocking()),
            Object::Console | Object::Null => Ok(0),
            Object::Zero => {
                uaccess::zero(addr, len)?;
                Ok(len)
            }
            Object::Random => {
                let mut done = 0;
                while done < len {
                    let mut bytes = [0; CHUNK];
                    let count = CHUNK.min(len - done);
                    random::fill(&mut bytes[..count]);
                    uaccess::write(addr + done as u64, &bytes[..count])?;
                    done += count;
                }
                Ok(len)
            }
        }
    }

    /// `pread64(2)`.
    pub fn read_at(&self, addr: u64, len: usize, offset: u64) -> Result<usize, Errno> {
        if !self.readable() {
            return Err(Errno::EBADF);
        }
        match &self.object {
            Object::Node(node) => read_node(node, offset, addr, len),
            Object::Pipe(_) | Object::Console => Err(Errno::ESPIPE),
            _ => self.read(addr, len),
        }
    }

    /// `write(2)` from the user's memory at `addr`, through descriptor `fd`.
    pub fn write(&self, fd: usize, addr: u64, len: usize) -> Result<usize, Errno> {
        if !self.writable() {
            return Err(Errno::EBADF);
        }
        match &self.object {
            Object::Node(_) => Err(Errno::EBADF),
            Object::Pipe(end) => end.write(addr, len, self.nonblocking()),
            Object::Console => {
                let stream = if fd == 2 { 2 } else { 1 };
                let mut done = 0;
                while done < len {
                    let mut bytes = [0; CHUNK];
                    let count = CHUNK.min(len - done);
                    match uaccess::read(&mut bytes[..count], addr + done as u64) {
                        Ok(()) => trace::console(stream, &bytes[..count]),
                        Err(_) if done > 0 => break,
                        Err(fault) => return Err(fault.into()),
                    }
                    done += count;
                }
                Ok(done)
            }
            Object::Null | Object::Zero | Object::Random => Ok(len),
        }
    }

    /// `lseek(2)`.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let Object::Node(node) = &self.object else {
            return match self.object {
                Object::Pipe(_) | Object::Console => Err(Errno::ESPIPE),
                _ => Ok(0),
            };
        };
        let mut position = self.position.lock();
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => *position as i64,
            SEEK_END => node.len() as i64,
            _ => return Err(Errno::EINVAL),
        };
        let target = base
            .checked_add(offset)
            .filter(|&target| target >= 0)
            .ok_or(Errno::EINVAL)?;
        *position = target as u64;
        Ok(target as u64)
    }

    /// The position, for directories: the index of the next entry.
    pub fn position(&self) -> Guard<'_, u64> {
        self.position.lock()
    }
}

fn read_node(node: &Node, offset: u64, addr: u64, len: usize) -> Result<usize, Errno> {
    let Content::Regular(file) = &node.content else {
        return Err(Errno::EISDIR);
    };
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| file.bytes.get(offset..))
        .unwrap_or(&[]);
    let count = len.min(rest.len());
    uaccess::write(addr, &rest[..count])?;
    Ok(count)
}

/// A descriptor: a file and whether exec closes it.
#[derive(Clone)]
pub struct Descriptor {
    /// The file.
    pub file: Arc<File>,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// A process's descriptors.
#[derive(Default)]
pub struct FileTable {
    slots: Vec<Option<Descriptor>>,
}

impl FileTable {
    /// The file behind `fd`.
    pub fn get(&self, fd: u64) -> Result<Arc<File>, Errno> {
        self.descriptor(fd)
            .map(|descriptor| descriptor.file.clone())
    }

    /// The descriptor `fd`.
    pub fn descriptor(&self, fd: u64) -> Result<&Descriptor, Errno> {
        self.slots
            .get(fd as usize)
            .and_then(Option::as_ref)
            .ok_or(Errno::EBADF)
    }

    /// The descriptor `fd`, to change.
    pub fn descriptor_mut(&mut self, fd: u64) -> Result<&mut Descriptor, Errno> {
        self.slots
            .get_mut(fd as usize)
            .and_then(Option::as_mut)
            .ok_or(Errno::EBADF)
    }

    /// Gives `descriptor` the lowest free number that is at least `min`.
    pub fn insert(&mut self, descriptor: Descriptor, min: usize) -> Result<usize, Errno> {
        let fd = (min..self.slots.len()).find(|&fd| self.slots[fd].is_none());
        let fd = fd.unwrap_or(self.slots.len().max(min));
        self.replace(fd, descriptor)?;
        Ok(fd)
    }

    /// Puts `descriptor` at `fd`; returns what was there, to be dropped without the table's lock.
    pub fn replace(
        &mut self,
        fd: usize,
        descriptor: Descriptor,
    ) -> Result<Option<Descriptor>, Errno> {
        if fd >= MAX_FILES {
            return Err(Errno::EMFILE);
        }
        if fd >= self.slots.len() {
            self.slots
                .try_reserve(fd + 1 - self.slots.len())
                .map_err(|_| Errno::ENOMEM)?;
            self.slots.resize(fd + 1, None);
        }
        Ok(self.slots[fd].replace(descriptor))
    }

    /// Takes `fd` out.
    pub fn remove(&mut self, fd: u64) -> Result<Descriptor, Errno> {
        self.slots
            .get_mut(fd as usize)
            .and_then(Option::take)
            .ok_or(Errno::EBADF)
    }

    /// A copy for a forked child.
    pub fn try_clone(&self) -> Result<FileTable, Errno> {
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(self.slots.len())
            .map_err(|_| Errno::ENOMEM)?;
        slots.extend_from_slice(&self.slots);
        Ok(FileTable { slots })
    }

    /// Takes out one descriptor that exec closes.
    pub fn take_close_on_exec(&mut self) -> Option<Descriptor> {
        let closes = |slot: &&mut Option<Descriptor>| {
            slot.as_ref()
                .is_some_and(|descriptor| descriptor.close_on_exec)
        };
        self.slots.iter_mut().find(closes)?.take()
    }
}
