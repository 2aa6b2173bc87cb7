//! Reading and writing.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::{Fallible, file};
use crate::fs::buffer::{Buffer, Iovec};
use crate::fs::{File, Object, pipe};
use crate::process::{limits, thread::Current};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, O_APPEND, RWF_APPEND,
    RWF_DSYNC, RWF_HIPRI, RWF_NOWAIT, RWF_SYNC,
};
use memory::USER_END;

/// The most that one call transfers, as on Linux.
const MAX: u64 = 0x7fff_f000;
/// How much is copied at once from file to file.
const STEP: usize = 4096;

/// `len` as Linux limits a single transfer.
pub fn transfer(len: u64) -> usize {
    len.min(MAX) as usize
}

/// Whether a range lies in the user's half, as `access_ok` asks before anybody looks at the memory.
fn check_range(addr: u64, len: u64) -> Fallible<()> {
    match addr.checked_add(len) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// A buffer in the user's half: EFAULT otherwise.
pub fn buffer<'a>(addr: u64, len: u64) -> Fallible<Buffer<'a>> {
    if (len as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    check_range(addr, len)?;
    Ok(Buffer::user(addr, transfer(len)))
}

fn offset(offset: u64) -> Fallible<Option<u64>> {
    if (offset as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Some(offset))
}

/// read(fd, buffer, length).
pub fn read(fd: u64, addr: u64, len: u64) -> Result {
    Ok(file(fd)?.read(&mut buffer(addr, len)?, None)? as u64)
}

/// write(fd, buffer, length).
pub fn write(fd: u64, addr: u64, len: u64) -> Result {
    Ok(file(fd)?.write(&mut buffer(addr, len)?, None)? as u64)
}

/// read(fd, buffer, length), if it is a small one of a pipe and does not fail. `None`: nothing has
/// happened.
#[inline(always)]
pub fn read_at_once(thread: &Current, fd: u64, addr: u64, len: u64) -> Option<u64> {
    let small = pipe::small(addr, len)?;
    let count = {
        // The descriptors stay locked: the file need not be counted.
        let files = thread.process.files.lock();
        let end = files.descriptor(fd).ok()?.file.pipe()?;
        end.read_at_once(addr, small)
    };
    match count {
        Some(count) => Some(count as u64),
        None => read_later(thread, fd, addr, small),
    }
}

/// The same once there is something.
#[inline(never)]
fn read_later(thread: &Current, fd: u64, addr: u64, len: usize) -> Option<u64> {
    let file = file(fd).ok()?;
    let end = file.pipe()?;
    if file.nonblocking() {
        return None;
    }
    thread.usage.enter_kernel();
    end.wait_data(false).ok()?;
    Some(end.read_at_once(addr, len)? as u64)
}

/// write(fd, buffer, length), if it is a small one to a pipe that neither sleeps nor fails. `None`:
/// nothing has happened.
#[inline(always)]
pub fn write_at_once(thread: &Current, fd: u64, addr: u64, len: u64) -> Option<u64> {
    let small = pipe::small(addr, len)?;
    let files = thread.process.files.lock();
    let end = files.descriptor(fd).ok()?.file.pipe()?;
    Some(end.write_at_once(addr, small)? as u64)
}

/// pread64(fd, buffer, length, offset).
pub fn pread64(fd: u64, addr: u64, len: u64, at: u64) -> Result {
    let at = offset(at)?;
    Ok(file(fd)?.read(&mut buffer(addr, len)?, at)? as u64)
}

/// pwrite64(fd, buffer, length, offset).
pub fn pwrite64(fd: u64, addr: u64, len: u64, at: u64) -> Result {
    let at = offset(at)?;
    Ok(file(fd)?.write(&mut buffer(addr, len)?, at)? as u64)
}

/// The buffers of readv and its like.
pub fn buffers<'a>(vector: u64, count: u64) -> Fallible<Buffer<'a>> {
    const MAX_BUFFERS: u64 = 1024;
    if count > MAX_BUFFERS {
        return Err(Errno::EINVAL);
    }
    let mut list = Vec::new();
    list.try_reserve_exact(count as usize)
        .map_err(|_| Errno::ENOMEM)?;
    let mut left = 0;
    for index in 0..count {
        let mut one: Iovec = user::read(vector.wrapping_add(16 * index))?;
        if (one.len as i64) < 0 {
            return Err(Errno::EINVAL);
        }
        check_range(one.base, one.len)?;
        one.len = one.len.min(MAX - left);
        left += one.len;
        list.push(one);
    }
    Ok(Buffer::users(list, left as usize))
}

/// readv(fd, buffers, count).
pub fn readv(fd: u64, vector: u64, count: u64) -> Result {
    let file = file(fd)?;
    Ok(file.read(&mut buffers(vector, count)?, None)? as u64)
}

/// writev(fd, buffers, count).
pub fn writev(fd: u64, vector: u64, count: u64) -> Result {
    let file = file(fd)?;
    Ok(file.write(&mut buffers(vector, count)?, None)? as u64)
}

/// preadv(fd, buffers, count, offset).
pub fn preadv(fd: u64, vector: u64, count: u64, at: u64) -> Result {
    let at = offset(at)?;
    let file = file(fd)?;
    Ok(file.read(&mut buffers(vector, count)?, at)? as u64)
}

/// pwritev(fd, buffers, count, offset).
pub fn pwritev(fd: u64, vector: u64, count: u64, at: u64) -> Result {
    let at = offset(at)?;
    let file = file(fd)?;
    Ok(file.write(&mut buffers(vector, count)?, at)? as u64)
}

/// The offset of preadv2 and pwritev2, where -1 means the position.
fn offset_or_position(at: u64) -> Fallible<Option<u64>> {
    if at == u64::MAX { Ok(None) } else { offset(at) }
}

fn check_flags(flags: u32, known: u32) -> Fallible<()> {
    // Whether the data wait is not known before they are asked for.
    if flags & (known | RWF_NOWAIT) != flags || flags & RWF_NOWAIT != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(())
}

/// preadv2(fd, buffers, count, offset, flags).
pub fn preadv2(fd: u64, vector: u64, count: u64, at: u64, flags: u32) -> Result {
    let at = offset_or_position(at)?;
    let file = file(fd)?;
    check_flags(flags, RWF_HIPRI)?;
    Ok(file.read(&mut buffers(vector, count)?, at)? as u64)
}

/// pwritev2(fd, buffers, count, offset, flags).
pub fn pwritev2(fd: u64, vector: u64, count: u64, at: u64, flags: u32) -> Result {
    let at = offset_or_position(at)?;
    let file = file(fd)?;
    check_flags(flags, RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND)?;
    let append = flags & RWF_APPEND != 0;
    Ok(file.write_as(&mut buffers(vector, count)?, at, append)? as u64)
}

/// lseek(fd, offset, whence).
pub fn lseek(fd: u64, offset: i64, whence: u32) -> Result {
    file(fd)?.seek(offset, whence)
}

/// fsync(fd), fdatasync(fd): there is no disk.
pub fn fsync(fd: u64) -> Result {
    match file(fd)?.object {
        Object::Node => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// fadvise64(fd, offset, length, advice): all of it is in memory.
pub fn fadvise64(fd: u64, len: u64, advice: u32) -> Result {
    let file = file(fd)?;
    if matches!(file.object, Object::Pipe(_)) {
        return Err(Errno::ESPIPE);
    }
    if (len as i64) < 0 || advice > 5 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// fallocate(fd, mode, offset, length).
pub fn fallocate(fd: u64, mode: u32, at: u64, len: u64) -> Result {
    let file = file(fd)?;
    if (at as i64) < 0 || len as i64 <= 0 {
        return Err(Errno::EINVAL);
    }
    let keep = mode & FALLOC_FL_KEEP_SIZE != 0;
    match mode & !FALLOC_FL_KEEP_SIZE {
        0 | FALLOC_FL_ZERO_RANGE => {}
        FALLOC_FL_PUNCH_HOLE if keep => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    if !file.writable() {
        return Err(Errno::EBADF);
    }
    let Some(regular) = file.regular() else {
        return Err(match file.object {
            Object::Pipe(_) => Errno::ESPIPE,
            _ => Errno::ENODEV,
        });
    };
    let end = at
        .checked_add(len)
        .filter(|&end| end <= crate::fs::regular::MAX_LEN)
        .ok_or(Errno::EFBIG)?;
    if mode & !FALLOC_FL_KEEP_SIZE == 0 && !keep && end > file.node().len() {
        limits::file_room(end - 1)?;
    }
    match mode & !FALLOC_FL_KEEP_SIZE {
        FALLOC_FL_PUNCH_HOLE => regular.punch(at, end)?,
        FALLOC_FL_ZERO_RANGE => return Err(Errno::EOPNOTSUPP),
        _ => regular.allocate(at, end, !keep)?,
    }
    file.node().touch_modified();
    Ok(0)
}

/// Copies up to `len` bytes from one file to another, until the one ends or the other is full.
fn copy(
    from: &File,
    mut from_at: Option<u64>,
    to: &File,
    mut to_at: Option<u64>,
    len: u64,
) -> Result {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(STEP).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(STEP, 0);
    let mut done = 0;
    let len = len.min(MAX);
    while done < len {
        let step = STEP.min((len - done) as usize);
        let read = match from.read(&mut Buffer::kernel(&mut bytes[..step]), from_at) {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        };
        let mut written = 0;
        let mut result = Ok(0);
        while written < read {
            result = to.write(&mut Buffer::kernel(&mut bytes[written..read]), to_at);
            let Ok(count) = result else { break };
            written += count;
            to_at = to_at.map(|at| at + count as u64);
        }
        done += written as u64;
        from_at = from_at.map(|at| at + written as u64);
        if written < read {
            // What was read and not written is not lost.
            if from_at.is_none() && from.seekable() {
                from.seek(
                    written as i64 - read as i64,
                    linux_raw_sys::general::SEEK_CUR,
                )?;
            }
            if done == 0 {
                result?;
            }
            break;
        }
    }
    Ok(done)
}

/// sendfile(out, in, offset, count).
pub fn sendfile(out: u64, input: u64, offset: u64, count: u64) -> Result {
    let at = if offset == 0 {
        None
    } else {
        let at: u64 = user::read(offset)?;
        Some(at)
    };
    let from = file(input)?;
    if !from.readable() {
        return Err(Errno::EBADF);
    }
    let to = file(out)?;
    if !to.writable() {
        return Err(Errno::EBADF);
    }
    if at.is_some_and(|at| (at as i64) < 0) || (count as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    if at.is_some() && !from.seekable() {
        return Err(Errno::ESPIPE);
    }
    // Linux reads through the page cache: from files.
    if from.regular().is_none() && !matches!(from.object, Object::Zero) {
        return Err(Errno::EINVAL);
    }
    if to.flags.load(Ordering::Relaxed) & O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let done = copy(&from, at, &to, None, count)?;
    if let Some(at) = at {
        user::write(offset, &(at + done))?;
    }
    Ok(done)
}

/// copy_file_range(in, in offset, out, out offset, length, flags).
pub fn copy_file_range(
    input: u64,
    in_offset: u64,
    output: u64,
    out_offset: u64,
    len: u64,
    flags: u32,
) -> Result {
    let (from, to) = (file(input)?, file(output)?);
    let read = |addr: u64| {
        if addr == 0 {
            return Ok(None);
        }
        user::read::<u64>(addr).map(Some)
    };
    let (from_at, to_at) = (read(in_offset)?, read(out_offset)?);
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let directory = |file: &File| file.node().is_directory();
    if directory(&from) || directory(&to) {
        return Err(Errno::EISDIR);
    }
    if from.regular().is_none() || to.regular().is_none() {
        return Err(Errno::EINVAL);
    }
    let appends = to.flags.load(Ordering::Relaxed) & O_APPEND != 0;
    if !from.readable() || !to.writable() || appends {
        return Err(Errno::EBADF);
    }
    let (start, end) = (
        from_at.unwrap_or_else(|| *from.position()),
        to_at.unwrap_or_else(|| *to.position()),
    );
    if (start as i64) < 0 || (end as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    let len = len.min(from.node().len().saturating_sub(start));
    // The ranges must not overlap in one file.
    if alloc::sync::Arc::ptr_eq(from.node(), to.node())
        && start < end.saturating_add(len)
        && end < start.saturating_add(len)
    {
        return Err(Errno::EINVAL);
    }
    let done = copy(&from, from_at, &to, to_at, len)?;
    for (addr, at) in [(in_offset, from_at), (out_offset, to_at)] {
        if let Some(at) = at {
            user::write(addr, &(at + done))?;
        }
    }
    Ok(done)
}
