//! Files: a tree in memory that starts as the initramfs, /proc, pipes, devices and the rest that
//! has descriptors; open file descriptions, and tables of descriptors.

pub mod access;
pub mod buffer;
pub mod change;
pub mod console;
pub mod cpio;
pub mod initramfs;
pub mod label;
pub mod lock;
pub mod name;
pub mod node;
pub mod pipe;
pub mod proc;
pub mod regular;
pub mod running;
pub mod socket;
pub mod special;
pub mod table;
pub mod tree;
pub mod tty;
pub mod watch;

use crate::arch::heap;
use crate::process::{limits, options::options, random, signal, thread};
use crate::syscall::errno::Errno;
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use buffer::Buffer;
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{
    O_ACCMODE, O_APPEND, O_NOATIME, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, POLLIN,
    POLLOUT, POLLRDNORM, POLLWRNORM, RLIMIT_FSIZE, SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE,
    SEEK_SET, SIGPIPE,
};
use lock::Owner;
use memory::{Backing, Guard, Lock, PAGE_SIZE, Rank};
use node::{Content, Node};
use special::{Special, epoll::Item};
pub use table::{Descriptor, FileTable};
use tree::Entry;
use watch::{Events, Watchers};

/// st_dev of the tree.
pub const FIRST_DEVICE: u32 = 1;
/// st_dev of /proc.
pub const PROC_DEVICE: u32 = 2;
/// st_dev of pipes.
pub const PIPE_DEVICE: u32 = 3;
/// st_dev of what has no name and no file system.
pub const ANONYMOUS_DEVICE: u32 = 4;

/// st_dev of sockets.
pub const SOCKET_DEVICE: u32 = 5;

/// How much is copied at once where a copy in kernel memory is needed.
const CHUNK: usize = 256;

/// What reading and writing an open file means.
pub enum Object {
    /// What the node says: a directory, a regular file, a file of /proc.
    Node,
    /// Nothing: it was opened with O_PATH.
    Path,
    /// /dev/null.
    Null,
    /// /dev/zero.
    Zero,
    /// /dev/full.
    Full,
    /// /dev/random and /dev/urandom.
    Random,
    /// The terminal, and as which stream writes are told to the tool.
    Tty(u8),
    /// One of the tool's own streams that is no terminal.
    Stream(u8),
    /// One end of a pipe.
    Pipe(pipe::End),
    /// Something else that is no file.
    Special(Box<dyn Special>),
}

/// An open file description: what `open`, `dup` and `fork` share.
pub struct File {
    /// What it refers to.
    pub object: Object,
    /// O_RDONLY, O_NONBLOCK and so on.
    pub flags: AtomicU32,
    /// What was opened.
    pub entry: Arc<Entry>,
    position: Lock<u64>,
    /// The items of epolls that watch it.
    items: Lock<Vec<Arc<Item>>>,
}

impl File {
    /// A new description.
    pub fn new(object: Object, entry: Arc<Entry>, flags: u32) -> Result<Arc<File>, Errno> {
        heap::try_arc(File {
            object,
            flags: AtomicU32::new(flags),
            entry,
            position: Lock::new(Rank::FilePosition, 0),
            items: Lock::new(Rank::Ready, Vec::new()),
        })
        .ok_or(Errno::ENOMEM)
    }

    /// A description of something without a name, as `name` shows it in /proc.
    pub fn unnamed(
        object: Object,
        node: Arc<Node>,
        name: &[u8],
        flags: u32,
    ) -> Result<Arc<File>, Errno> {
        File::new(object, Entry::new(node, None, name)?, flags)
    }

    /// Opens what is at an entry. Permissions are the caller's business.
    pub fn open(entry: Arc<Entry>, flags: u32) -> Result<Arc<File>, Errno> {
        let access = flags & O_ACCMODE;
        if flags & O_PATH != 0 {
            return File::new(Object::Path, entry, flags);
        }
        let object = match &entry.node.content {
            Content::Directory(_) if access != O_RDONLY => return Err(Errno::EISDIR),
            Content::Directory(_) => Object::Node,
            Content::Proc(item) => {
                item.open(access != O_RDONLY)?;
                Object::Node
            }
            Content::Regular(file) => {
                if access != O_RDONLY {
                    file.open_for_writing()?;
                }
                // From here on dropping it closes it for writing.
                let opened = File::new(Object::Node, entry.clone(), flags);
                if opened.is_err() && access != O_RDONLY {
                    file.close_for_writing();
                }
                return opened;
            }
            Content::Device(1, 3) => Object::Null,
            Content::Device(1, 5) => Object::Zero,
            Content::Device(1, 7) => Object::Full,
            Content::Device(1, 8 | 9) => Object::Random,
            Content::Device(5, 0) if !tty::job::is_controlled() => return Err(Errno::ENXIO),
            Content::Device(5, 0 | 1) if options().terminals.contains(&true) => {
                Object::Tty(tty::output_stream())
            }
            Content::Device(5, 1) => Object::Stream(1),
            &Content::Stream(number) => Object::Stream(number),
            Content::Link(_) => return Err(Errno::ELOOP),
            Content::Fifo(pipe) => {
                let ends = pipe::Ends {
                    read: access != O_WRONLY,
                    write: access != O_RDONLY,
                };
                Object::Pipe(pipe.open(ends, flags & O_NONBLOCK != 0)?)
            }
            Content::Device(..) | Content::Block(..) | Content::Socket(_) | Content::Anonymous => {
                return Err(Errno::ENXIO);
            }
        };
        File::new(object, entry, flags)
    }

    /// The file itself.
    pub fn node(&self) -> &Arc<Node> {
        &self.entry.node
    }

    /// The regular file it refers to.
    pub fn regular(&self) -> Option<&regular::Regular> {
        match (&self.object, &self.node().content) {
            (Object::Node, Content::Regular(file)) => Some(file),
            _ => None,
        }
    }

    fn flag(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Reads and writes do not sleep.
    pub fn nonblocking(&self) -> bool {
        self.flag(O_NONBLOCK)
    }

    /// It was opened for reading.
    pub fn readable(&self) -> bool {
        let flags = self.flags.load(Ordering::Relaxed);
        flags & O_PATH == 0 && matches!(flags & O_ACCMODE, O_RDONLY | O_RDWR)
    }

    /// It was opened for writing.
    pub fn writable(&self) -> bool {
        let flags = self.flags.load(Ordering::Relaxed);
        flags & O_PATH == 0 && matches!(flags & O_ACCMODE, O_WRONLY | O_RDWR)
    }

    /// Whether it has a position, and can be read and written elsewhere.
    pub fn seekable(&self) -> bool {
        !matches!(
            self.object,
            Object::Pipe(_) | Object::Tty(_) | Object::Stream(_) | Object::Special(_)
        )
    }

    /// `read(2)`, or, with an offset, `pread(2)`.
    pub fn read(&self, to: &mut Buffer<'_>, offset: Option<u64>) -> Result<usize, Errno> {
        if !self.readable() {
            return Err(Errno::EBADF);
        }
        if offset.is_some() && !self.seekable() {
            return Err(Errno::ESPIPE);
        }
        match &self.object {
            Object::Node => {
                if let Some(offset) = offset {
                    return self.read_node(to, offset);
                }
                let mut position = self.position.lock();
                let count = self.read_node(to, *position)?;
                *position += count as u64;
                Ok(count)
            }
            Object::Pipe(end) => end.read(to, self.nonblocking()),
            Object::Special(special) => special.read(to, self.nonblocking()),
            Object::Tty(_) => tty::read(to, self.nonblocking()),
            Object::Stream(_) => console::read(to, self.nonblocking()),
            Object::Null => Ok(0),
            Object::Zero | Object::Full => to.put_zeros(to.left()),
            Object::Random => {
                let mut done = 0;
                while to.left() > 0 {
                    let mut bytes = [0; CHUNK];
                    let bytes = &mut bytes[..CHUNK.min(to.left())];
                    random::fill(bytes);
                    match to.put(bytes) {
                        Ok(count) => done += count,
                        Err(_) if done > 0 => break,
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
            Object::Path => Err(Errno::EBADF),
        }
    }

    /// The end of a pipe that it is.
    #[inline]
    pub fn pipe(&self) -> Option<&pipe::End> {
        match &self.object {
            Object::Pipe(end) => Some(end),
            _ => None,
        }
    }

    fn read_node(&self, to: &mut Buffer<'_>, offset: u64) -> Result<usize, Errno> {
        check_end(offset, to)?;
        let count = match &self.node().content {
            Content::Regular(file) => file.read(offset, to)?,
            Content::Proc(item) => item.read(offset, to)?,
            _ => return Err(Errno::EISDIR),
        };
        if !self.flag(O_NOATIME) {
            self.node().touch_accessed();
        }
        Ok(count)
    }

    /// `write(2)`, or, with an offset, `pwrite(2)`; a writer for whom nobody reads gets SIGPIPE.
    pub fn write(&self, from: &mut Buffer<'_>, offset: Option<u64>) -> Result<usize, Errno> {
        self.write_as(from, offset, false)
    }

    /// The same, at the end if `append` (RWF_APPEND).
    pub fn write_as(
        &self,
        from: &mut Buffer<'_>,
        offset: Option<u64>,
        append: bool,
    ) -> Result<usize, Errno> {
        if !self.writable() {
            return Err(Errno::EBADF);
        }
        if offset.is_some() && !self.seekable() {
            return Err(Errno::ESPIPE);
        }
        match &self.object {
            Object::Node => match &self.node().content {
                Content::Regular(file) => self.write_regular(file, from, offset, append),
                Content::Proc(item) => item.write(from),
                _ => Err(Errno::EBADF),
            },
            Object::Pipe(end) => {
                let result = end.write(from, self.nonblocking());
                if result == Err(Errno::EPIPE) {
                    let info = signal::Info::by_current(SIGPIPE);
                    signal::send_to_thread(&thread::current().share(), info);
                }
                result
            }
            Object::Special(special) => special.write(from, self.nonblocking()),
            Object::Tty(stream) => tty::write(*stream, from, self.nonblocking()),
            Object::Stream(stream) => console::write(*stream, from),
            Object::Full if from.left() > 0 => Err(Errno::ENOSPC),
            Object::Null | Object::Zero | Object::Random | Object::Full => Ok(from.left()),
            Object::Path => Err(Errno::EBADF),
        }
    }

    fn write_regular(
        &self,
        file: &regular::Regular,
        from: &mut Buffer<'_>,
        offset: Option<u64>,
        append: bool,
    ) -> Result<usize, Errno> {
        let append = append || self.flag(O_APPEND);
        self.limit_size(from, offset, append)?;
        let count = match offset {
            // As on Linux, O_APPEND wins over pwrite's offset.
            Some(offset) => {
                check_end(offset, from)?;
                file.write((!append).then_some(offset), from)?.0
            }
            None => {
                let mut position = self.position.lock();
                check_end(*position, from)?;
                let (count, end) = file.write((!append).then_some(*position), from)?;
                *position = end;
                count
            }
        };
        if count > 0 {
            self.node().touch_modified();
            if !access::Caller::is_current_root() {
                self.node().drop_set_id();
            }
        }
        Ok(count)
    }

    /// RLIMIT_FSIZE: nothing is written beyond it.
    fn limit_size(
        &self,
        from: &mut Buffer<'_>,
        offset: Option<u64>,
        append: bool,
    ) -> Result<(), Errno> {
        let process = &thread::current().process;
        let limit = limits::soft(process, RLIMIT_FSIZE);
        if limit == limits::INFINITY || from.left() == 0 {
            return Ok(());
        }
        let start = match offset {
            _ if append => self.node().len(),
            Some(offset) => offset,
            None => *self.position.lock(),
        };
        let room = limits::file_room(start)?;
        from.limit(usize::try_from(room).unwrap_or(usize::MAX));
        Ok(())
    }

    /// `lseek(2)`.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        match &self.object {
            Object::Path => return Err(Errno::EBADF),
            _ if !self.seekable() => return Err(Errno::ESPIPE),
            Object::Node => {}
            // Devices without a position.
            _ => return Ok(0),
        }
        let mut position = self.position.lock();
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => *position as i64,
            SEEK_END if self.node().is_directory() => return Err(Errno::EINVAL),
            SEEK_END => self.node().len() as i64,
            SEEK_DATA | SEEK_HOLE => {
                let file = self.regular().ok_or(Errno::EINVAL)?;
                let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                let found = file.cache().seek(offset, whence == SEEK_DATA);
                *position = found.ok_or(Errno::ENXIO)?;
                return Ok(*position);
            }
            _ => return Err(Errno::EINVAL),
        };
        let target = base
            .checked_add(offset)
            .filter(|&target| target >= 0)
            .ok_or(Errno::EINVAL)?;
        *position = target as u64;
        Ok(target as u64)
    }

    /// The position, for directories: where the listing goes on.
    pub fn position(&self) -> Guard<'_, u64> {
        self.position.lock()
    }

    /// What a mapping of it shows from `offset` on. EACCES if the way it was opened forbids that.
    pub fn backing(
        &self,
        offset: u64,
        shared: bool,
        writes: bool,
    ) -> Result<(Backing, bool), Errno> {
        if self.flag(O_PATH) {
            return Err(Errno::EBADF);
        }
        if !self.readable() || shared && writes && !self.writable() {
            return Err(Errno::EACCES);
        }
        let may_write = !shared || self.writable();
        if let Object::Zero = self.object {
            return Ok((Backing::Anonymous, may_write));
        }
        let file = self.regular().ok_or(Errno::ENODEV)?;
        label::announce(&self.entry)?;
        let cache = file.cache().clone();
        Ok((Backing::File { cache, offset }, may_write))
    }

    /// What poll says: the events it is ready for.
    pub fn ready(&self) -> Events {
        match &self.object {
            Object::Pipe(end) => end.ready(),
            Object::Special(special) => special.ready(),
            Object::Tty(_) => tty::ready(),
            Object::Stream(0) => console::ready(),
            Object::Stream(_) => POLLOUT | POLLWRNORM,
            _ => POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM,
        }
    }

    /// Those who wait for it to be ready; none: it always is.
    pub fn watchers(&self) -> Option<&Watchers> {
        match &self.object {
            Object::Pipe(end) => Some(end.watchers()),
            Object::Special(special) => Some(special.watchers()),
            Object::Tty(_) => Some(tty::watchers()),
            Object::Stream(_) => Some(console::watchers()),
            _ => None,
        }
    }

    /// An epoll watches it.
    pub fn add_item(&self, item: Arc<Item>) -> Result<(), Errno> {
        let mut items = self.items.lock();
        items.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        items.push(item);
        Ok(())
    }

    /// It does so no more.
    pub fn remove_item(&self, item: &Arc<Item>) {
        let mut items = self.items.lock();
        let place = items.iter().position(|other| Arc::ptr_eq(other, item));
        let gone = place.map(|place| items.swap_remove(place));
        drop(items);
        drop(gone);
    }

    /// Whether an epoll does.
    pub fn is_watched(&self) -> bool {
        !self.items.lock().is_empty()
    }

    /// The current process closes a descriptor of it.
    pub fn drop_process_locks(&self) {
        if let Some(file) = self.regular() {
            let pid = thread::current().process.pid;
            file.locks.clear_all(Owner::Process(pid));
        }
    }

    /// As an owner of locks.
    pub fn address(&self) -> usize {
        (&raw const *self).addr()
    }
}

/// Nothing reaches past the largest offset.
fn check_end(offset: u64, buffer: &Buffer<'_>) -> Result<(), Errno> {
    match (offset as i64).checked_add(buffer.left() as i64) {
        Some(_) => Ok(()),
        None => Err(Errno::EINVAL),
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let address = self.address();
        let writable = self.writable();
        for item in core::mem::take(self.items.get_mut()) {
            item.end(self.watchers());
        }
        if let Some(file) = self.regular() {
            file.locks.clear_all(Owner::Description(address));
            file.locks.clear_all(Owner::Flock(address));
            if writable {
                file.close_for_writing();
            }
        }
    }
}

/// How much the tree may hold: half of the memory, as with Linux's tmpfs.
pub fn limit_memory(frames: u64) {
    regular::QUOTA.set_limit(frames / 2);
}

/// Bytes per block as `statfs` counts.
pub const BLOCK: u64 = PAGE_SIZE;
