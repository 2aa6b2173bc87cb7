//! Descriptors: duplicates, pipes, and fcntl.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::{Fallible, any_file, file, install};
use crate::arch::uaccess;
use crate::fs::access::Caller;
use crate::fs::lock::{Owner, Record};
use crate::fs::name::MadeUp;
use crate::fs::node::{Content, Node};
use crate::fs::socket::Socket;
use crate::fs::{Descriptor, File, Object, PIPE_DEVICE, console, pipe, tty};
use crate::process::limits;
use crate::process::thread::current;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_GETLK, F_GETOWN, F_GETPIPE_SZ, F_OFD_GETLK,
    F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_SETFD, F_SETFL, F_SETLK, F_SETLKW, F_SETOWN,
    F_SETPIPE_SZ, F_UNLCK, F_WRLCK, FASYNC, FD_CLOEXEC, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN,
    O_APPEND, O_CLOEXEC, O_DIRECT, O_NOATIME, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY, SEEK_CUR,
    SEEK_END, SEEK_SET,
};
use linux_raw_sys::ioctl::{FIOCLEX, FIONBIO, FIONCLEX, FIONREAD};

/// dup(fd).
pub fn dup(fd: u64) -> Result {
    install(any_file(fd)?, false, 0)
}

/// dup3(old, new, flags).
pub fn dup3(old: u64, new: u64, flags: u32) -> Result {
    if flags & !O_CLOEXEC != 0 || old as u32 == new as u32 {
        return Err(Errno::EINVAL);
    }
    let number = usize::try_from(new as u32 as i32).map_err(|_| Errno::EBADF)?;
    if number >= limits::descriptors() {
        return Err(Errno::EBADF);
    }
    let descriptor = Descriptor {
        file: any_file(old)?,
        close_on_exec: flags & O_CLOEXEC != 0,
    };
    let replaced = current().process.files.lock().replace(number, descriptor)?;
    if let Some(replaced) = replaced {
        replaced.close();
    }
    Ok(number as u64)
}

/// A description of one end of a pipe.
fn pipe_file(end: pipe::End, flags: u32) -> Fallible<Arc<File>> {
    let caller = Caller::current();
    let content = Content::Fifo(end.pipe().clone());
    let id = crate::fs::node::next_id();
    let node = Node::with_id(id, PIPE_DEVICE, content, 0o600, caller.uid, caller.gid)?;
    node.change(|attributes| attributes.links = 1);
    let name = MadeUp::new(format_args!("pipe:[{id}]"));
    File::unnamed(Object::Pipe(end), node, &name, flags)
}

/// Gives two files the lowest descriptors, and writes these to the user's memory; or does nothing.
pub fn install_pair(addr: u64, files: [Arc<File>; 2], close_on_exec: bool) -> Result {
    let process = &current().process;
    let undo = |fd: u64| {
        let undone = process.files.lock().remove(fd);
        drop(undone);
    };
    let [first, second] = files;
    let first = install(first, close_on_exec, 0)?;
    let second = install(second, close_on_exec, 0).inspect_err(|_| undo(first))?;
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(first as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(second as u32).to_le_bytes());
    if let Err(fault) = uaccess::write(addr, &bytes) {
        undo(first);
        undo(second);
        return Err(fault.into());
    }
    Ok(0)
}

/// pipe2(descriptors, flags).
pub fn pipe2(addr: u64, flags: u32) -> Result {
    if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (read, write) = pipe::pair(flags & O_DIRECT != 0)?;
    let kept = flags & (O_NONBLOCK | O_DIRECT);
    let read = pipe_file(read, O_RDONLY | kept)?;
    // Both ends are one file.
    let entry = read.entry.clone();
    let write = File::new(Object::Pipe(write), entry, O_WRONLY | kept)?;
    install_pair(addr, [read, write], flags & O_CLOEXEC != 0)
}

/// fcntl(fd, command, argument).
pub fn fcntl(fd: u64, command: u32, argument: u64) -> Result {
    const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK | FASYNC | O_DIRECT | O_NOATIME;
    let process = &current().process;
    let file = any_file(fd)?;
    let path_only = file.flags.load(Ordering::Relaxed) & O_PATH != 0;
    if path_only
        && !matches!(
            command,
            F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL
        )
    {
        return Err(Errno::EBADF);
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let min = argument as u32 as usize;
            if min >= limits::descriptors() {
                return Err(Errno::EINVAL);
            }
            install(file, command == F_DUPFD_CLOEXEC, min)
        }
        F_GETFD => Ok(process.files.lock().descriptor(fd)?.close_on_exec.into()),
        F_SETFD => {
            let on = argument as u32 & FD_CLOEXEC != 0;
            process.files.lock().descriptor_mut(fd)?.close_on_exec = on;
            Ok(0)
        }
        F_GETFL => Ok(file.flags.load(Ordering::Relaxed).into()),
        F_SETFL => {
            let wanted = argument as u32;
            if wanted & O_NOATIME != 0 && !Caller::current().owns(&file.node().attributes()) {
                return Err(Errno::EPERM);
            }
            let kept = file.flags.load(Ordering::Relaxed) & !CHANGEABLE;
            file.flags
                .store(kept | wanted & CHANGEABLE, Ordering::Relaxed);
            Ok(0)
        }
        F_GETLK | F_OFD_GETLK => get_lock(&file, command == F_OFD_GETLK, argument),
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => {
            let own = matches!(command, F_OFD_SETLK | F_OFD_SETLKW);
            let wait = matches!(command, F_SETLKW | F_OFD_SETLKW);
            set_lock(&file, own, wait, argument)
        }
        // Nobody is sent SIGIO.
        F_GETOWN | F_SETOWN => Ok(0),
        F_GETPIPE_SZ => match &file.object {
            Object::Pipe(end) => Ok(end.size()),
            _ => Err(Errno::EBADF),
        },
        F_SETPIPE_SZ => match &file.object {
            Object::Pipe(end) => {
                end.set_size(u64::from(argument as u32), Caller::is_current_root())
            }
            _ => Err(Errno::EBADF),
        },
        _ => Err(Errno::EINVAL),
    }
}

/// `struct flock`, padding spelled out.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Flock {
    kind: u16,
    whence: u16,
    pad: u32,
    start: i64,
    len: i64,
    pid: u32,
    pad2: u32,
}

/// The range that a `struct flock` means: the first byte, and one past the last.
fn range(file: &File, lock: &Flock) -> Fallible<(u64, u64)> {
    let base = match lock.whence as u32 {
        SEEK_SET => 0,
        SEEK_CUR => *file.position() as i64,
        SEEK_END => file.node().len() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = match lock.len {
        0 => (start, None),
        len if len > 0 => {
            let last = start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?;
            (start, Some(last))
        }
        len => {
            let first = start.checked_add(len).filter(|&first| first >= 0);
            (first.ok_or(Errno::EINVAL)?, Some(start - 1))
        }
    };
    // A range that ends at the largest offset is one to the end.
    let end = end
        .filter(|&last| last < i64::MAX)
        .map_or(u64::MAX, |last| last as u64 + 1);
    Ok((start as u64, end))
}

fn owner(file: &File, own: bool) -> Owner {
    if own {
        Owner::Description(file.address())
    } else {
        Owner::Process(current().process.pid)
    }
}

fn read_lock(file: &File, own: bool, addr: u64) -> Fallible<(Flock, Record)> {
    let lock: Flock = user::read(addr)?;
    if own && lock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = range(file, &lock)?;
    let exclusive = match u32::from(lock.kind) {
        F_RDLCK | F_UNLCK => false,
        F_WRLCK => true,
        _ => return Err(Errno::EINVAL),
    };
    let record = Record {
        owner: owner(file, own),
        exclusive,
        start,
        end,
    };
    Ok((lock, record))
}

fn get_lock(file: &File, own: bool, addr: u64) -> Result {
    let (mut lock, wanted) = read_lock(file, own, addr)?;
    if u32::from(lock.kind) == F_UNLCK {
        return Err(Errno::EINVAL);
    }
    let conflict = file
        .regular()
        .and_then(|regular| regular.locks.conflict(&wanted));
    match conflict {
        None => lock.kind = F_UNLCK as u16,
        Some(record) => {
            lock.kind = if record.exclusive { F_WRLCK } else { F_RDLCK } as u16;
            lock.whence = SEEK_SET as u16;
            lock.start = record.start as i64;
            lock.len = match record.end {
                u64::MAX => 0,
                end => (end - record.start) as i64,
            };
            lock.pid = match record.owner {
                Owner::Process(pid) => pid,
                // It is nobody's.
                _ => u32::MAX,
            };
        }
    }
    user::write(addr, &lock)?;
    Ok(0)
}

fn set_lock(file: &File, own: bool, wait: bool, addr: u64) -> Result {
    let (lock, wanted) = read_lock(file, own, addr)?;
    match u32::from(lock.kind) {
        F_RDLCK if !file.readable() => return Err(Errno::EBADF),
        F_WRLCK if !file.writable() => return Err(Errno::EBADF),
        _ => {}
    }
    let Some(regular) = file.regular() else {
        // Nothing else is shared in a way that locks would matter for.
        return Ok(0);
    };
    if u32::from(lock.kind) == F_UNLCK {
        regular
            .locks
            .clear(wanted.owner, wanted.start, wanted.end)?;
    } else {
        regular.locks.set(wanted, wait)?;
    }
    Ok(0)
}

/// flock(fd, operation).
pub fn flock(fd: u64, operation: u32) -> Result {
    let file = file(fd)?;
    let owner = Owner::Flock(file.address());
    let exclusive = match operation & !LOCK_NB {
        LOCK_SH => false,
        LOCK_EX => true,
        LOCK_UN => {
            if let Some(regular) = file.regular() {
                regular.locks.clear_all(owner);
            }
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL),
    };
    let Some(regular) = file.regular() else {
        return Ok(0);
    };
    let record = Record {
        owner,
        exclusive,
        start: 0,
        end: u64::MAX,
    };
    regular.locks.set(record, operation & LOCK_NB == 0)?;
    Ok(0)
}

/// ioctl(fd, request, argument).
pub fn ioctl(fd: u64, request: u32, argument: u64) -> Result {
    let file = file(fd)?;
    match request {
        FIOCLEX | FIONCLEX => {
            let process = &current().process;
            process.files.lock().descriptor_mut(fd)?.close_on_exec = request == FIOCLEX;
            Ok(0)
        }
        FIONBIO => {
            let on: u32 = user::read(argument)?;
            if on != 0 {
                file.flags.fetch_or(O_NONBLOCK, Ordering::Relaxed);
            } else {
                file.flags.fetch_and(!O_NONBLOCK, Ordering::Relaxed);
            }
            Ok(0)
        }
        FIONREAD if file.regular().is_some() => {
            let rest = file.node().len() as i64 - *file.position() as i64;
            uaccess::write_u32(argument, rest as u32)?;
            Ok(0)
        }
        _ => match &file.object {
            Object::Tty(_) => tty::ioctl(request, argument),
            Object::Stream(0) if request == FIONREAD => {
                uaccess::write_u32(argument, console::available().unwrap_or(0) as u32)?;
                Ok(0)
            }
            Object::Pipe(end) if request == FIONREAD => {
                uaccess::write_u32(argument, end.waiting() as u32)?;
                Ok(0)
            }
            _ => match Socket::of(&file) {
                Ok(socket) if request == FIONREAD => {
                    if socket.listens() {
                        return Err(Errno::EINVAL);
                    }
                    uaccess::write_u32(argument, socket.waiting() as u32)?;
                    Ok(0)
                }
                _ => Err(Errno::ENOTTY),
            },
        },
    }
}
