//! splice, tee and vmsplice. All of them copy: no page of a pipe's is ever one of a file's or of a
//! process's, so SPLICE_F_MOVE and SPLICE_F_GIFT, which are hints, change nothing.
//!
//! A call sleeps until its pipe has data, or room; from then on it takes what it gets without
//! sleeping again, and returns how much that was.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::io::{buffers, transfer};
use super::{Fallible, file};
use crate::fs::buffer::Buffer;
use crate::fs::pipe::End;
use crate::fs::socket::Socket;
use crate::fs::{File, Object};
use crate::process::{signal, thread};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    O_APPEND, SIGPIPE, SPLICE_F_GIFT, SPLICE_F_MORE, SPLICE_F_MOVE, SPLICE_F_NONBLOCK,
};

/// How much is copied at once: what a pipe keeps together.
const STEP: usize = memory::PAGE_BYTES;
const FLAGS: u32 = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;

fn pipe(file: &File) -> Option<&End> {
    match &file.object {
        Object::Pipe(end) => Some(end),
        _ => None,
    }
}

/// Whether Linux has a way to splice it at all.
fn has_stream(file: &File) -> bool {
    match &file.object {
        Object::Special(_) => Socket::of(file).is_ok(),
        Object::Path => false,
        _ => !file.node().is_directory(),
    }
}

/// Who writes to a pipe that nobody reads gets a signal as well.
fn with_signal<T>(result: Fallible<T>) -> Fallible<T> {
    if matches!(result, Err(Errno::EPIPE)) {
        let info = signal::Info::by_current(SIGPIPE);
        signal::send_to_thread(&thread::current().share(), info);
    }
    result
}

/// Memory for a step: of at most a page.
fn step_buffer(len: usize) -> Fallible<Vec<u8>> {
    let len = len.min(STEP);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// What a call returns that has done so much when `result` stops it.
fn partial(done: usize, result: Fallible<()>) -> Result {
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done as u64),
    }
}

/// Moves bytes out of a pipe, page by page: `to` is told how much came before, and whether it is a
/// packet. What it does not take stays where it is, and nobody else reads it meanwhile.
fn from_pipe(
    from: &End,
    len: usize,
    nonblocking: bool,
    mut to: impl FnMut(&mut Buffer<'_>, u64, bool) -> Fallible<usize>,
) -> Result {
    let mut done = 0;
    while done < len {
        let Some(held) = from.hold() else {
            if done > 0 || !from.wait_data(nonblocking)? {
                break;
            }
            continue;
        };
        let mut bytes = match step_buffer(len - done) {
            Ok(bytes) => bytes,
            Err(error) => return partial(done, Err(error)),
        };
        let got = held.first(&mut bytes);
        let mut written = 0;
        let mut result = Ok(());
        while written < got {
            let mut rest = Buffer::kernel(&mut bytes[written..got]);
            match to(&mut rest, done as u64, held.packet) {
                Ok(0) => break,
                Ok(count) => {
                    written += count;
                    done += count;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        held.take(written);
        if written < got {
            return partial(done, result);
        }
    }
    Ok(done as u64)
}

/// Moves bytes of a file, a device or a socket into a pipe.
fn into_pipe(
    from: &File,
    at: Option<u64>,
    to: &End,
    len: usize,
    flag: bool,
    nonblocking: bool,
) -> Result {
    with_signal(to.wait_room(nonblocking))?;
    // A file is read at an offset, so that nothing of it is lost if the pipe is full.
    let start = at.or_else(|| from.regular().map(|_| *from.position()));
    let mut done = 0;
    let mut result = Ok(());
    while done < len {
        // Before anything is taken for it.
        let room = match to.room() {
            Ok(room) => room,
            // Somebody else was there first.
            Err(Errno::EAGAIN) if done == 0 => {
                with_signal(to.wait_room(nonblocking))?;
                continue;
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        let mut bytes = match step_buffer(len - done) {
            Ok(bytes) => bytes,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        let mut buffer = Buffer::kernel(&mut bytes);
        let place = start.map(|start| start + done as u64);
        // As from a file's pages, each of which goes to a page of the pipe's.
        buffer.limit(STEP - place.unwrap_or(0) as usize % STEP);
        let read = match &from.object {
            Object::Special(special) => special.read(&mut buffer, flag || from.nonblocking()),
            _ => from.read(&mut buffer, place),
        };
        let got = match read {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        match with_signal(room.put(bytes, got)) {
            Ok(()) => done += got,
            Err(error) => {
                result = Err(error);
                break;
            }
        }
        // More of it might have to be waited for.
        if start.is_none() && !from.seekable() {
            break;
        }
    }
    if at.is_none()
        && let Some(start) = start
    {
        *from.position() = start + done as u64;
    }
    partial(done, result)
}

/// splice(in, in offset, out, out offset, length, flags).
pub fn splice(input: u64, in_at: u64, output: u64, out_at: u64, len: u64, flags: u32) -> Result {
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let (from, to) = (file(input)?, file(output)?);
    let offset = |file: &File, addr: u64| match addr {
        0 => Ok(None),
        _ if pipe(file).is_some() => Err(Errno::ESPIPE),
        addr => Ok(Some(addr)),
    };
    let (in_at, out_at) = (offset(&from, in_at)?, offset(&to, out_at)?);
    let to_at: Option<u64> = out_at.map(user::read).transpose()?;
    let from_at: Option<u64> = in_at.map(user::read).transpose()?;
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF);
    }
    let flag = flags & SPLICE_F_NONBLOCK != 0;
    let (source, target) = (pipe(&from), pipe(&to));
    if let (Some(source), Some(target)) = (source, target) {
        if Arc::ptr_eq(source.pipe(), target.pipe()) {
            return Err(Errno::EINVAL);
        }
        let nonblocking = flag || from.nonblocking() || to.nonblocking();
        loop {
            both_ready(source, target, nonblocking)?;
            let done = from_pipe(source, transfer(len), true, |bytes, _, packet| {
                with_signal(target.write_as(bytes, true, packet))
            });
            match done {
                // Somebody else was there first.
                Err(Errno::EAGAIN) if !nonblocking => {}
                done => return done,
            }
        }
    }
    // The one that is no pipe, and where in it.
    let (other, at) = if source.is_some() {
        (&to, to_at)
    } else {
        (&from, from_at)
    };
    let nowhere = at.is_some() && !other.seekable();
    let appends = source.is_some() && to.flags.load(Ordering::Relaxed) & O_APPEND != 0;
    let negative = at.is_some_and(|at| (at as i64) < 0) || (len as i64) < 0;
    if nowhere || appends || negative || !has_stream(other) {
        return Err(Errno::EINVAL);
    }
    if at.is_some_and(|at| (at as i64).checked_add(len as i64).is_none()) {
        return Err(Errno::EINVAL);
    }
    let len = transfer(len);
    let done = match (source, target) {
        (Some(source), _) => {
            from_pipe(source, len, flag || from.nonblocking(), |bytes, done, _| {
                to.write(bytes, at.map(|at| at + done))
            })?
        }
        (_, Some(target)) => into_pipe(&from, at, target, len, flag, flag || to.nonblocking())?,
        _ => return Err(Errno::EINVAL),
    };
    if let (Some(addr), Some(at)) = (in_at.or(out_at), at) {
        user::write(addr, &(at + done))?;
    }
    Ok(done)
}

/// Waits until one pipe has data and the other one room. That nobody reads the other one comes before
/// the end of the first.
fn both_ready(source: &End, target: &End, nonblocking: bool) -> Fallible<()> {
    source.wait_data(nonblocking)?;
    with_signal(target.wait_room(nonblocking))
}

/// Copies what is in a pipe to another one, as far as there is room; 0 if nobody will write any more.
fn copy_pipe(source: &End, target: &End, len: usize) -> Result {
    let Some(held) = source.hold() else {
        // EAGAIN, unless this is the end.
        source.wait_data(true)?;
        return Ok(0);
    };
    let mut done = 0;
    while done < len {
        let mut bytes = match step_buffer(len - done) {
            Ok(bytes) => bytes,
            Err(error) => return partial(done, Err(error)),
        };
        let got = held.peek(done, &mut bytes);
        if got == 0 {
            break;
        }
        let mut copy = Buffer::kernel(&mut bytes[..got]);
        match with_signal(target.write_as(&mut copy, true, false)) {
            Ok(count) => done += count,
            Err(error) => return partial(done, Err(error)),
        }
    }
    Ok(done as u64)
}

/// tee(in, out, length, flags): what is in a pipe goes to another one, and stays.
pub fn tee(input: u64, output: u64, len: u64, flags: u32) -> Result {
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let (from, to) = (file(input)?, file(output)?);
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF);
    }
    let (Some(source), Some(target)) = (pipe(&from), pipe(&to)) else {
        return Err(Errno::EINVAL);
    };
    if Arc::ptr_eq(source.pipe(), target.pipe()) {
        return Err(Errno::EINVAL);
    }
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0 || from.nonblocking() || to.nonblocking();
    loop {
        both_ready(source, target, nonblocking)?;
        match copy_pipe(source, target, transfer(len)) {
            // Somebody else was there first.
            Err(Errno::EAGAIN) if !nonblocking => {}
            done => return done,
        }
    }
}

/// vmsplice(fd, buffers, count, flags): into a pipe, or, of its read end, out of it. As on Linux
/// only the flag says whether it may sleep.
pub fn vmsplice(fd: u64, vector: u64, count: u64, flags: u32) -> Result {
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(fd)?;
    if !file.readable() && !file.writable() {
        return Err(Errno::EBADF);
    }
    let mut buffer = buffers(vector, count)?;
    if buffer.left() == 0 {
        return Ok(0);
    }
    let end = pipe(&file).ok_or(Errno::EBADF)?;
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0;
    if !file.writable() {
        return Ok(end.read(&mut buffer, nonblocking)? as u64);
    }
    with_signal(end.wait_room(nonblocking))?;
    Ok(with_signal(end.write_as(&mut buffer, true, false))? as u64)
}
