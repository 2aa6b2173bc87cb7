//! Waiting for files to be ready: poll and select.

use super::super::errno::Errno;
use super::super::time::{read_timespec, to_timespec};
use super::super::{Result, user};
use super::file;
use crate::arch::{time, uaccess};
use crate::fs::File;
use crate::fs::watch::{ALWAYS, Events, Poller, Ticket};
use crate::process::limits;
use crate::process::signal;
use crate::process::thread::current;
use crate::process::timer;
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDBAND, POLLRDNORM, POLLWRBAND,
    POLLWRNORM,
};

type Fallible<T> = core::result::Result<T, Errno>;

/// What is asked of one file (poll always asks for errors as well), and the answer.
struct Question {
    file: Option<Arc<File>>,
    asked: Events,
    answer: Events,
}

/// What was watched; to be watched no more when it is dropped.
struct Watched(Vec<(Arc<File>, Ticket)>);

impl Drop for Watched {
    fn drop(&mut self) {
        for (file, ticket) in &self.0 {
            if let Some(watchers) = file.watchers() {
                watchers.remove(*ticket);
            }
        }
    }
}

/// How long to wait: `None` for ever, else until a value of the counter.
pub type Deadline = Option<u64>;

/// Asks until there is an answer, the deadline is over (0 answers), or a signal comes.
fn ask(questions: &mut [Question], deadline: Deadline) -> Fallible<usize> {
    let look = |questions: &mut [Question]| {
        for question in &mut *questions {
            if let Some(file) = &question.file {
                question.answer = file.ready() & question.asked;
            }
        }
        questions.iter().filter(|one| one.answer != 0).count()
    };
    let answers = look(questions);
    if answers > 0 || deadline.is_some_and(|deadline| time::now() >= deadline) {
        return Ok(answers);
    }
    let poller = Poller::new()?;
    let mut watched = Watched(Vec::new());
    watched
        .0
        .try_reserve_exact(questions.len())
        .map_err(|_| Errno::ENOMEM)?;
    for file in questions.iter().filter_map(|one| one.file.as_ref()) {
        if let Some(watchers) = file.watchers() {
            let ticket = watchers.add(poller.clone())?;
            watched.0.push((file.clone(), ticket));
        }
    }
    loop {
        // After entering the lists: what happens from here on is told.
        let answers = look(questions);
        if answers > 0 {
            return Ok(answers);
        }
        if !poller.wait(deadline)? {
            return Ok(look(questions));
        }
    }
}

/// Reads a timeout: none means for ever.
pub fn deadline(timeout: u64) -> Fallible<Deadline> {
    if timeout == 0 {
        return Ok(None);
    }
    let ticks = timer::ticks(read_timespec(timeout)?);
    Ok(Some(time::now().saturating_add(ticks)))
}

/// Writes back what is left of a timeout. As on Linux, a bad address does not matter any more.
fn write_rest(timeout: u64, deadline: Deadline) {
    if let Some(deadline) = deadline {
        let left = deadline.saturating_sub(time::now());
        let left = u128::from(left) * 1_000_000_000 / u128::from(time::hz());
        let _ = user::write(timeout, &to_timespec(left as u64));
    }
}

/// Blocks other signals while `wait` runs. If a signal ends it, its handler runs before the mask is
/// back.
pub fn with_mask<T>(mask: u64, size: u64, wait: impl FnOnce() -> Fallible<T>) -> Fallible<T> {
    if mask == 0 {
        return wait();
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = user::read(mask)?;
    let thread = current();
    signal::set_temporary_mask(&thread, mask);
    let result = wait();
    if !matches!(result, Err(Errno::EINTR)) {
        signal::end_temporary_mask(&thread);
    }
    result
}

/// ppoll(files, count, timeout, mask, mask size).
pub fn ppoll(addr: u64, count: u64, timeout: u64, mask: u64, size: u64) -> Result {
    const ENTRY: u64 = 8;
    let deadline = deadline(timeout)?;
    if count > limits::descriptors() as u64 {
        return Err(Errno::EINVAL);
    }
    let mut questions = Vec::new();
    questions
        .try_reserve_exact(count as usize)
        .map_err(|_| Errno::ENOMEM)?;
    for index in 0..count {
        let entry: u64 = user::read(addr.wrapping_add(index * ENTRY))?;
        let (fd, asked) = (entry as u32 as i32, (entry >> 32) as u16);
        let found = (fd >= 0).then(|| file(fd as u64).ok());
        questions.push(Question {
            asked: u32::from(asked) | ALWAYS,
            answer: if matches!(found, Some(None)) {
                POLLNVAL
            } else {
                0
            },
            file: found.flatten(),
        });
    }
    let answers = with_mask(mask, size, || ask(&mut questions, deadline));
    write_rest(timeout, deadline);
    let answers = answers?;
    for (index, question) in questions.iter().enumerate() {
        let at = addr.wrapping_add(index as u64 * ENTRY + 6);
        uaccess::write(at, &(question.answer as u16).to_le_bytes())?;
    }
    Ok(answers as u64)
}

/// Descriptors in a set (FD_SETSIZE).
const SET_MAX: usize = 1024;

/// What each of select's sets stands for.
const SETS: [Events; 3] = [
    POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
    POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR,
    POLLPRI,
];

/// pselect6(count, read, write, exceptional, timeout, mask): `mask` leads to address and size.
pub fn pselect6(count: u64, sets: [u64; 3], timeout: u64, mask: u64) -> Result {
    /// Words of the largest sets.
    const WORDS: usize = SET_MAX / 64;
    let (mask, size) = if mask == 0 {
        (0, 0)
    } else {
        (user::read(mask)?, user::read(mask.wrapping_add(8))?)
    };
    let deadline = deadline(timeout)?;
    if (count as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let count = (count as u32 as usize).min(SET_MAX);
    let words = count.div_ceil(64);
    let mut asked = [[0_u64; WORDS]; 3];
    for (set, &addr) in asked.iter_mut().zip(&sets) {
        if addr == 0 {
            continue;
        }
        for (index, word) in set.iter_mut().take(words).enumerate() {
            *word = user::read(addr.wrapping_add(8 * index as u64))?;
        }
    }
    let mut questions = Vec::new();
    let mut descriptors = Vec::new();
    for fd in 0..count {
        let bit = |set: &[u64; WORDS]| set[fd / 64] >> (fd % 64) & 1 != 0;
        let wanted = asked
            .iter()
            .zip(SETS)
            .filter(|(set, _)| bit(set))
            .fold(0, |wanted, (_, events)| wanted | events);
        if wanted == 0 {
            continue;
        }
        let file = file(fd as u64)?;
        questions.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        descriptors.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        descriptors.push(fd);
        questions.push(Question {
            file: Some(file),
            asked: wanted,
            answer: 0,
        });
    }
    let result = with_mask(mask, size, || ask(&mut questions, deadline));
    write_rest(timeout, deadline);
    result?;
    let mut answers = 0;
    for ((wanted, events), addr) in asked.iter().zip(SETS).zip(sets) {
        let mut ready = [0_u64; WORDS];
        for (question, &fd) in questions.iter().zip(&descriptors) {
            let bit = 1 << (fd % 64);
            if wanted[fd / 64] & bit != 0 && question.answer & events != 0 {
                ready[fd / 64] |= bit;
                answers += 1;
            }
        }
        for (index, word) in ready.iter().take(words).enumerate() {
            if addr != 0 {
                user::write(addr.wrapping_add(8 * index as u64), word)?;
            }
        }
    }
    Ok(answers)
}
