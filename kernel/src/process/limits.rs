//! Resource limits (getrlimit(2)).

use super::signal::{self, Info};
use super::thread::{Current, current};
use super::{Process, space::Space, table, timers};
use crate::fs::proc::memory;
use crate::syscall::errno::Errno;
use linux_raw_sys::general::{
    RLIM_NLIMITS, RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_MEMLOCK,
    RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_RTPRIO, RLIMIT_SIGPENDING,
    RLIMIT_STACK, SIGXFSZ, rlimit64,
};

use ::memory::{PAGE_SIZE, Prot};

/// RLIM64_INFINITY.
pub const INFINITY: u64 = u64::MAX;
/// The most that RLIMIT_NOFILE may be raised to (`/proc/sys/fs/nr_open`).
const OPEN_MAX: u64 = 1 << 20;

/// The limits of a process, by RLIMIT_*.
#[derive(Clone, Copy)]
pub struct Limits([(u64, u64); RLIM_NLIMITS as usize]);

impl Limits {
    /// Linux's, of the first process.
    pub const fn initial() -> Limits {
        let mut limits = [(INFINITY, INFINITY); RLIM_NLIMITS as usize];
        limits[RLIMIT_STACK as usize] = (8 << 20, INFINITY);
        limits[RLIMIT_CORE as usize] = (0, INFINITY);
        limits[RLIMIT_NPROC as usize] = (1 << 17, 1 << 17);
        limits[RLIMIT_NOFILE as usize] = (1024, 4096);
        limits[RLIMIT_MEMLOCK as usize] = (8 << 20, 8 << 20);
        limits[RLIMIT_SIGPENDING as usize] = (1 << 17, 1 << 17);
        limits[RLIMIT_MSGQUEUE as usize] = (819_200, 819_200);
        limits[RLIMIT_NICE as usize] = (0, 0);
        limits[RLIMIT_RTPRIO as usize] = (0, 0);
        Limits(limits)
    }

    /// One second more of RLIMIT_CPU, unless somebody has changed the soft limit meanwhile.
    pub fn allow_second(&mut self, soft: u64) {
        let (limit, _) = &mut self.0[RLIMIT_CPU as usize];
        if *limit == soft {
            *limit += 1;
        }
    }

    /// RLIMIT_DATA for all but the break. As on Linux: some programs set it to 0, so that the break
    /// stays, and use mmap.
    fn data(&self) -> u64 {
        match self.get(RLIMIT_DATA) {
            (0, hard) => hard,
            (soft, _) => soft,
        }
    }

    /// Soft and hard.
    pub fn get(&self, resource: u32) -> (u64, u64) {
        self.0[resource as usize]
    }
}

/// The soft limit of a process.
pub fn soft(process: &Process, resource: u32) -> u64 {
    process.limits.lock().get(resource).0
}

/// RLIMIT_FSIZE of the current process: how much may be in a file behind `start`. EFBIG and SIGXFSZ if
/// that is nothing.
pub fn file_room(start: u64) -> Result<u64, Errno> {
    let thread = current();
    let limit = soft(&thread.process, RLIMIT_FSIZE);
    if limit == INFINITY || start < limit {
        return Ok(limit.saturating_sub(start));
    }
    signal::send_to_thread(&thread.share(), Info::by_current(SIGXFSZ));
    Err(Errno::EFBIG)
}

/// RLIMIT_NOFILE of the current process: descriptors are below this.
pub fn descriptors() -> usize {
    let limit = soft(&current().process, RLIMIT_NOFILE).min(OPEN_MAX);
    limit as usize
}

/// Whether the current process may map `more` bytes (RLIMIT_AS), which count as data if `data`
/// (RLIMIT_DATA), in place of `replaced` bytes that are mapped.
#[inline]
pub fn may_map(space: &Space, more: u64, replaced: u64, data: bool) -> bool {
    let (all, some) = {
        let thread = current();
        let limits = thread.process.limits.lock();
        (limits.get(RLIMIT_AS).0, limits.data())
    };
    if all == INFINITY && (some == INFINITY || !data) {
        return true;
    }
    may_map_within(space, more, replaced, data, (all, some))
}

#[cold]
fn may_map_within(
    space: &Space,
    more: u64,
    replaced: u64,
    data: bool,
    (all, some): (u64, u64),
) -> bool {
    let sizes = memory::sizes(space);
    // What is replaced counts only where there is not enough without it, as on Linux.
    let fits = |pages: u64, limit| {
        let bytes = (pages * PAGE_SIZE).saturating_add(more);
        bytes <= limit || bytes.saturating_sub(replaced) <= limit
    };
    fits(sizes.size, all) && (!data || fits(sizes.data - sizes.stack, some))
}

/// Whether the current process may make a range writable: what is private there becomes data
/// (RLIMIT_DATA).
pub fn may_write(space: &Space, start: u64, end: u64) -> bool {
    let limit = current().process.limits.lock().data();
    if limit == INFINITY {
        return true;
    }
    let more: u64 = {
        let inner = space.lock();
        let mappings = inner.map.mappings_in(start, end);
        mappings
            .filter(|mapping| !mapping.shared && !mapping.prot.contains(Prot::WRITE))
            .map(|mapping| mapping.end.min(end) - mapping.start.max(start))
            .sum()
    };
    let sizes = memory::sizes(space);
    more == 0 || (sizes.data - sizes.stack) * PAGE_SIZE + more <= limit
}

/// prlimit: sets a limit of `process` if one is given, and returns the one before.
pub fn change(
    caller: &Current,
    process: &Process,
    resource: u32,
    new: Option<rlimit64>,
) -> Result<rlimit64, Errno> {
    let privileged = caller.process.credentials.lock().is_root();
    let before = {
        let mut limits = process.limits.lock();
        let before = limits.get(resource);
        if let Some(new) = new {
            if new.rlim_cur > new.rlim_max {
                return Err(Errno::EINVAL);
            }
            if resource == RLIMIT_NOFILE && new.rlim_max > OPEN_MAX {
                return Err(Errno::EPERM);
            }
            if new.rlim_max > before.1 && !privileged {
                return Err(Errno::EPERM);
            }
            limits.0[resource as usize] = (new.rlim_cur, new.rlim_max);
        }
        before
    };
    if new.is_some() && resource == RLIMIT_CPU {
        timers::watch(process);
    }
    if let Some(new) = new
        && resource == RLIMIT_STACK
        && process.pid == caller.process.pid
        && let Some(space) = caller.space()
    {
        space.lock().map.set_stack_limit(new.rlim_cur);
    }
    Ok(rlimit64 {
        rlim_cur: before.0,
        rlim_max: before.1,
    })
}

/// Whether the user of `process` may have one more thread (RLIMIT_NPROC, which counts threads, and
/// processes that nobody has waited for yet). Root may have any number.
pub fn may_fork(process: &Process) -> bool {
    let limit = soft(process, RLIMIT_NPROC);
    let (user, privileged) = {
        let credentials = process.credentials.lock();
        (credentials.uid.real, credentials.is_root())
    };
    if limit == INFINITY || privileged || user == 0 {
        return true;
    }
    let mut count = 0;
    let mut pid = 0;
    while let Some(other) = table::next(pid) {
        pid = other.pid;
        if other.real_uid() == user {
            count += other.signals.lock().threads.count().max(1) as u64;
        }
    }
    count < limit
}
