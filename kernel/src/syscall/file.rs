//! System calls on files.

use super::errno::Errno;
use super::{Result, user};
use crate::arch::uaccess;
use crate::fs::tree::{self, Content, Node};
use crate::fs::{Descriptor, File, Object, pipe};
use crate::process::thread::current;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, DT_CHR, DT_DIR, DT_LNK, DT_REG,
    DT_UNKNOWN, F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_GETPIPE_SZ, F_SETFD, F_SETFL,
    FD_CLOEXEC, O_ACCMODE, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_EXCL, O_NOATIME,
    O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_TRUNC, O_WRONLY, S_IFCHR, S_IFIFO, SIGPIPE, W_OK,
    X_OK, stat,
};
use linux_raw_sys::ioctl::{FIONREAD, TCGETS, TIOCGWINSZ};

type Fallible<T> = core::result::Result<T, Errno>;

fn file(fd: u64) -> Fallible<Arc<File>> {
    current().process.files.lock().get(fd)
}

/// `len` as Linux limits a single transfer.
fn transfer(len: u64) -> Fallible<usize> {
    const MAX: u64 = 0x7fff_f000;
    if len as i64 >= 0 {
        Ok(len.min(MAX) as usize)
    } else {
        Err(Errno::EINVAL)
    }
}

/// read(fd, buffer, length).
pub fn read(fd: u64, addr: u64, len: u64) -> Result {
    Ok(file(fd)?.read(addr, transfer(len)?)? as u64)
}

/// pread64(fd, buffer, length, offset).
pub fn pread64(fd: u64, addr: u64, len: u64, offset: u64) -> Result {
    if (offset as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(file(fd)?.read_at(addr, transfer(len)?, offset)? as u64)
}

/// write(fd, buffer, length).
pub fn write(fd: u64, addr: u64, len: u64) -> Result {
    write_to(&*file(fd)?, fd, addr, transfer(len)?).map(|count| count as u64)
}

fn write_to(file: &File, fd: u64, addr: u64, len: usize) -> Fallible<usize> {
    let result = file.write(fd as usize, addr, len);
    if result == Err(Errno::EPIPE) {
        crate::process::signal::send(&current().process, SIGPIPE);
    }
    result
}

/// `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Iovec {
    base: u64,
    len: u64,
}

/// Runs `transfer` for each buffer of an array, until one is not done in full.
fn for_each(vector: u64, count: u64, mut one: impl FnMut(u64, usize) -> Fallible<usize>) -> Result {
    const MAX_BUFFERS: u64 = 1024;
    if count > MAX_BUFFERS {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    for index in 0..count {
        let step = user::read::<Iovec>(vector.wrapping_add(16 * index)).and_then(|buffer| {
            let len = transfer(buffer.len)?;
            // An empty buffer touches nothing, not even a bad address.
            let count = if len == 0 { 0 } else { one(buffer.base, len)? };
            Ok((count, count == len))
        });
        match step {
            Ok((count, whole)) => {
                done += count as u64;
                if !whole {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// readv(fd, buffers, count).
pub fn readv(fd: u64, vector: u64, count: u64) -> Result {
    let file = file(fd)?;
    for_each(vector, count, |addr, len| file.read(addr, len))
}

/// writev(fd, buffers, count).
pub fn writev(fd: u64, vector: u64, count: u64) -> Result {
    let file = file(fd)?;
    for_each(vector, count, |addr, len| write_to(&file, fd, addr, len))
}

/// The directory that a relative path starts from.
fn directory(fd: u64) -> Fallible<&'static Node> {
    if fd as i32 == AT_FDCWD {
        return Ok(current().process.state.lock().directory);
    }
    match &file(fd)?.object {
        Object::Node(node) => Ok(node),
        _ => Err(Errno::ENOTDIR),
    }
}

/// The node of a path relative to `fd`, which is not looked at if the path is absolute.
fn lookup(fd: u64, path: &[u8], follow: bool) -> Fallible<&'static Node> {
    let start = if path.starts_with(b"/") {
        tree::root()
    } else {
        directory(fd)?
    };
    tree::lookup(start, path, follow)
}

/// openat(fd, path, flags).
pub fn openat(fd: u64, path: u64, flags: u32) -> Result {
    const KNOWN: u32 = O_ACCMODE
        | O_CREAT
        | O_EXCL
        | O_TRUNC
        | O_APPEND
        | O_NONBLOCK
        | O_DIRECTORY
        | O_NOFOLLOW
        | O_CLOEXEC
        | O_NOATIME
        | O_PATH
        | O_DIRECT;
    let path = user::path(path)?;
    let node = match lookup(fd, &path, flags & O_NOFOLLOW == 0) {
        Ok(_) if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL => return Err(Errno::EEXIST),
        // The file system is the initramfs, and read-only.
        Err(Errno::ENOENT) if flags & O_CREAT != 0 => return Err(Errno::EROFS),
        result => result?,
    };
    if flags & O_DIRECTORY != 0 && !node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let file = File::open(
        node,
        flags & KNOWN & !(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC),
    )?;
    install(file, flags & O_CLOEXEC != 0, 0)
}

fn install(file: Arc<File>, close_on_exec: bool, min: usize) -> Result {
    let fd = current().process.files.lock().insert(
        Descriptor {
            file,
            close_on_exec,
        },
        min,
    )?;
    Ok(fd as u64)
}

/// close(fd).
pub fn close(fd: u64) -> Result {
    // Dropped without the table's lock: the end of a pipe wakes others.
    let closed = current().process.files.lock().remove(fd)?;
    drop(closed);
    Ok(0)
}

/// dup(fd).
pub fn dup(fd: u64) -> Result {
    install(file(fd)?, false, 0)
}

/// dup3(old, new, flags).
pub fn dup3(old: u64, new: u64, flags: u32) -> Result {
    if old == new || flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(old)?;
    let number = usize::try_from(new).map_err(|_| Errno::EBADF)?;
    let descriptor = Descriptor {
        file,
        close_on_exec: flags & O_CLOEXEC != 0,
    };
    let replaced = current()
        .process
        .files
        .lock()
        .replace(number, descriptor)
        .map_err(|error| match error {
            Errno::EMFILE => Errno::EBADF,
            error => error,
        })?;
    drop(replaced);
    Ok(new)
}

/// lseek(fd, offset, whence).
pub fn lseek(fd: u64, offset: i64, whence: u32) -> Result {
    file(fd)?.seek(offset, whence)
}

fn node_status(node: &Node) -> stat {
    // SAFETY: a structure of integers.
    let mut status: stat = unsafe { core::mem::zeroed() };
    status.st_ino = node.id.into();
    status.st_mode = node.mode;
    status.st_nlink = node.links();
    status.st_uid = node.uid;
    status.st_gid = node.gid;
    status.st_size = node.len() as i64;
    status.st_blksize = 4096;
    status.st_blocks = node.len().div_ceil(512) as i64;
    status.st_atime = node.mtime.into();
    status.st_mtime = node.mtime.into();
    status.st_ctime = node.mtime.into();
    if let Content::Device(major, minor) = node.content {
        status.st_rdev =
            u64::from(minor & 0xff) | u64::from(major) << 8 | u64::from(minor & !0xff) << 12;
    }
    status
}

fn file_status(file: &File) -> stat {
    if let Object::Node(node) = &file.object {
        return node_status(node);
    }
    if let Some(node) = file.node {
        return node_status(node);
    }
    // SAFETY: a structure of integers.
    let mut status: stat = unsafe { core::mem::zeroed() };
    status.st_nlink = 1;
    status.st_blksize = 4096;
    status.st_mode = S_IFCHR | 0o600;
    if let Object::Pipe(end) = &file.object {
        status.st_mode = S_IFIFO | 0o600;
        status.st_ino = end.identity();
    }
    status
}

/// fstat(fd, status).
pub fn fstat(fd: u64, addr: u64) -> Result {
    user::write(addr, &file_status(&*file(fd)?))?;
    Ok(0)
}

/// newfstatat(fd, path, status, flags).
pub fn newfstatat(fd: u64, path: u64, addr: u64, flags: u32) -> Result {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = if path == 0 && flags & AT_EMPTY_PATH != 0 {
        Default::default()
    } else {
        user::path(path)?
    };
    let status = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        if fd as i32 == AT_FDCWD {
            node_status(directory(fd)?)
        } else {
            file_status(&*file(fd)?)
        }
    } else {
        node_status(lookup(fd, &path, flags & AT_SYMLINK_NOFOLLOW == 0)?)
    };
    user::write(addr, &status)?;
    Ok(0)
}

/// faccessat(fd, path, mode): the only user is root.
pub fn faccessat(fd: u64, path: u64, mode: u32) -> Result {
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let node = lookup(fd, &user::path(path)?, true)?;
    if mode & W_OK != 0 && !matches!(node.content, Content::Device(..)) {
        return Err(Errno::EROFS);
    }
    if mode & X_OK != 0 && !node.is_executable() {
        return Err(Errno::EACCES);
    }
    Ok(0)
}

/// pipe2(descriptors, flags).
pub fn pipe2(addr: u64, flags: u32) -> Result {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & O_DIRECT != 0 {
        // Packet mode.
        return Err(Errno::EINVAL);
    }
    let close_on_exec = flags & O_CLOEXEC != 0;
    let (read, write) = pipe::new()?;
    let process = &current().process;
    let mut fds = [0; 2];
    let ends = [(read, O_RDONLY), (write, O_WRONLY)];
    for (index, (end, access)) in ends.into_iter().enumerate() {
        let file = File::new(Object::Pipe(end), None, access | flags & O_NONBLOCK);
        match file.and_then(|file| install(file, close_on_exec, 0)) {
            Ok(fd) => fds[index] = fd,
            Err(error) => {
                let undone = (index == 1).then(|| process.files.lock().remove(fds[0]));
                drop(undone);
                return Err(error);
            }
        }
    }
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(fds[0] as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(fds[1] as u32).to_le_bytes());
    if let Err(fault) = uaccess::write(addr, &bytes) {
        for fd in fds {
            let undone = process.files.lock().remove(fd);
            drop(undone);
        }
        return Err(fault.into());
    }
    Ok(0)
}

/// fcntl(fd, command, argument).
pub fn fcntl(fd: u64, command: u32, argument: u64) -> Result {
    const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK;
    let process = &current().process;
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let min = usize::try_from(argument)
                .ok()
                .filter(|&min| min < crate::fs::MAX_FILES);
            install(
                file(fd)?,
                command == F_DUPFD_CLOEXEC,
                min.ok_or(Errno::EINVAL)?,
            )
        }
        F_GETFD => Ok(process.files.lock().descriptor(fd)?.close_on_exec.into()),
        F_SETFD => {
            process.files.lock().descriptor_mut(fd)?.close_on_exec =
                argument as u32 & FD_CLOEXEC != 0;
            Ok(0)
        }
        F_GETFL => Ok(file(fd)?.flags.load(Ordering::Relaxed).into()),
        F_SETFL => {
            let file = file(fd)?;
            let kept = file.flags.load(Ordering::Relaxed) & !CHANGEABLE;
            file.flags
                .store(kept | argument as u32 & CHANGEABLE, Ordering::Relaxed);
            Ok(0)
        }
        F_GETPIPE_SZ => match &file(fd)?.object {
            Object::Pipe(_) => Ok(pipe::CAPACITY as u64),
            _ => Err(Errno::EBADF),
        },
        _ => {
            file(fd)?;
            Err(Errno::EINVAL)
        }
    }
}

/// `struct winsize`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Winsize {
    rows: u16,
    columns: u16,
    pixels: [u16; 2],
}

/// ioctl(fd, request, argument): the console is a terminal as far as asking goes.
pub fn ioctl(fd: u64, request: u32, argument: u64) -> Result {
    let file = file(fd)?;
    if !matches!(file.object, Object::Console) {
        return Err(Errno::ENOTTY);
    }
    match request {
        TCGETS => {
            /// `struct termios` of the system call: four words of flags, the line, 19 characters.
            const TERMIOS: usize = 36;
            let mut bytes = [0; TERMIOS];
            // Input: ICRNL. Output: OPOST, ONLCR. Control: B38400, CS8, CREAD. Local: ISIG, ICANON, ECHO.
            for (field, flags) in bytes.chunks_exact_mut(4).zip([0o400_u32, 0o5, 0o277, 0o13]) {
                field.copy_from_slice(&flags.to_le_bytes());
            }
            uaccess::write(argument, &bytes)?;
            Ok(0)
        }
        TIOCGWINSZ => {
            user::write(
                argument,
                &Winsize {
                    rows: 24,
                    columns: 80,
                    pixels: [0; 2],
                },
            )?;
            Ok(0)
        }
        FIONREAD => {
            uaccess::write_u32(argument, 0)?;
            Ok(0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// getcwd(buffer, length): returns the length with its NUL.
pub fn getcwd(addr: u64, len: u64) -> Result {
    let node = current().process.state.lock().directory;
    let mut buf = [0; 1024];
    let path = node.path(&mut buf[..1023]);
    if path.len() as u64 + 1 > len {
        return Err(Errno::ERANGE);
    }
    uaccess::write(addr, path)?;
    uaccess::write(addr + path.len() as u64, &[0])?;
    Ok(path.len() as u64 + 1)
}

/// chdir(path).
pub fn chdir(path: u64) -> Result {
    let node = lookup(AT_FDCWD as u64, &user::path(path)?, true)?;
    if !node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    current().process.state.lock().directory = node;
    Ok(0)
}

/// readlinkat(fd, path, buffer, length).
pub fn readlinkat(fd: u64, path: u64, addr: u64, len: u64) -> Result {
    if len as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::path(path)?;
    let mut buf = [0; 1024];
    let target = if path == b"/proc/self/exe" {
        let program = current().process.state.lock().program;
        program.ok_or(Errno::ENOENT)?.path(&mut buf)
    } else {
        match lookup(fd, &path, false)?.content {
            Content::Link(target) => target,
            _ => return Err(Errno::EINVAL),
        }
    };
    let count = target.len().min(len as usize);
    uaccess::write(addr, &target[..count])?;
    Ok(count as u64)
}

/// getdents64(fd, buffer, length).
pub fn getdents64(fd: u64, addr: u64, len: u64) -> Result {
    /// Bytes before the name.
    const HEADER: usize = 19;
    let file = file(fd)?;
    let Object::Node(directory) = &file.object else {
        return Err(Errno::ENOTDIR);
    };
    if !directory.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let mut position = file.position();
    let mut done = 0;
    while let Some((name, node)) = tree::entry(directory, *position) {
        let size = (HEADER + name.len() + 1).next_multiple_of(8);
        if done + size as u64 > len {
            if done == 0 {
                return Err(Errno::EINVAL);
            }
            break;
        }
        let mut record = [0; (HEADER + 256 + 8) & !7];
        record[..8].copy_from_slice(&u64::from(node.id).to_le_bytes());
        record[8..16].copy_from_slice(&(*position + 1).to_le_bytes());
        record[16..18].copy_from_slice(&(size as u16).to_le_bytes());
        record[18] = match node.content {
            Content::Directory(_) => DT_DIR,
            Content::Regular(_) => DT_REG,
            Content::Link(_) => DT_LNK,
            Content::Device(..) => DT_CHR,
            Content::Other => DT_UNKNOWN,
        } as u8;
        record[HEADER..HEADER + name.len()].copy_from_slice(name);
        uaccess::write(addr + done, &record[..size])?;
        done += size as u64;
        *position += 1;
    }
    Ok(done)
}

/// umask(mask): returns the one before.
pub fn umask(mask: u32) -> Result {
    Ok(core::mem::replace(&mut current().process.state.lock().umask, mask & 0o777).into())
}
