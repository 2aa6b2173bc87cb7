//! System calls that tell of the machine and of limits.

use super::errno::Errno;
use super::file::io;
use super::{Result, user};
use crate::arch::{self, uaccess};
use crate::process::credentials::Ids;
use crate::process::thread::current;
use crate::process::usage::{self, Totals};
use crate::process::{Process, clock, limits, random, table};
use linux_raw_sys::general::{
    __kernel_old_timeval, GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM, RLIM_NLIMITS, RUSAGE_CHILDREN,
    RUSAGE_SELF, rlimit64, rusage,
};
use memory::PAGE_SIZE;

/// `struct sysinfo`, padding spelled out.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct SysInfo {
    uptime: u64,
    loads: [u64; 3],
    total_ram: u64,
    free_ram: u64,
    shared_ram: u64,
    buffer_ram: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    pad: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    pad2: u32,
}

/// uname(buffer).
pub fn uname(addr: u64) -> Result {
    const FIELD: usize = 65;
    let fields: [&[u8]; 6] = [
        b"Linux",
        b"cowscope",
        b"6.12.0-cowscope",
        b"#1 SMP Cowscope",
        b"aarch64",
        b"(none)",
    ];
    let mut names = [0; FIELD * 6];
    for (field, name) in names.chunks_exact_mut(FIELD).zip(fields) {
        field[..name.len()].copy_from_slice(name);
    }
    uaccess::write(addr, &names)?;
    Ok(0)
}

/// getrandom(buffer, length, flags).
pub fn getrandom(addr: u64, len: u64, flags: u32) -> Result {
    const STEP: usize = 256;
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut buffer = io::buffer(addr, len.min(i32::MAX as u64))?;
    let mut done = 0;
    while buffer.left() > 0 {
        let mut bytes = [0; STEP];
        let bytes = &mut bytes[..STEP.min(buffer.left())];
        random::fill(bytes);
        // What comes before a fault counts.
        match buffer.put(bytes) {
            Ok(count) if count == bytes.len() => done += count as u64,
            Ok(count) => return Ok(done + count as u64),
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// prlimit64(pid, resource, new, old).
pub fn prlimit64(pid: u32, resource: u32, new: u64, old: u64) -> Result {
    let wanted = if new != 0 {
        Some(user::read::<rlimit64>(new)?)
    } else {
        None
    };
    let caller = current();
    let process = match pid {
        0 => caller.process.clone(),
        pid => table::get(pid).ok_or(Errno::ESRCH)?,
    };
    if process.pid != caller.process.pid && !may_limit(&caller.process, &process) {
        return Err(Errno::EPERM);
    }
    if resource >= RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    let before = limits::change(&caller, &process, resource, wanted)?;
    if old != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// getrlimit(resource, limit).
pub fn getrlimit(resource: u32, addr: u64) -> Result {
    if resource >= RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    let caller = current();
    let limit = limits::change(&caller, &caller.process, resource, None)?;
    user::write(addr, &limit)?;
    Ok(0)
}

/// setrlimit(resource, limit).
pub fn setrlimit(resource: u32, addr: u64) -> Result {
    let wanted = user::read::<rlimit64>(addr)?;
    if resource >= RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    let caller = current();
    limits::change(&caller, &caller.process, resource, Some(wanted))?;
    Ok(0)
}

/// Whether `caller` may see and set the limits of `process`: all ids are its real ones, or it is
/// root.
fn may_limit(caller: &Process, process: &Process) -> bool {
    let (uid, gid, root) = {
        let own = caller.credentials.lock();
        (own.uid.real, own.gid.real, own.is_root())
    };
    let theirs = process.credentials.lock();
    let all = |ids: &Ids, id| ids.real == id && ids.effective == id && ids.saved == id;
    root || all(&theirs.uid, uid) && all(&theirs.gid, gid)
}

/// getrusage(who, usage).
pub fn getrusage(who: i32, addr: u64) -> Result {
    const RUSAGE_THREAD: i32 = 1;
    const SELF: i32 = RUSAGE_SELF as i32;
    let thread = current();
    let used = match who {
        SELF => usage::of_process(&thread.process),
        RUSAGE_THREAD => thread.usage.totals(),
        RUSAGE_CHILDREN => usage::of_children(&thread.process),
        _ => return Err(Errno::EINVAL),
    };
    user::write(addr, &to_rusage(&used))?;
    Ok(0)
}

/// `struct rusage`.
pub fn to_rusage(used: &Totals) -> rusage {
    let time = |ticks| {
        let microseconds = clock::from_ticks(ticks) / 1000;
        __kernel_old_timeval {
            tv_sec: (microseconds / 1_000_000) as i64,
            tv_usec: (microseconds % 1_000_000) as i64,
        }
    };
    // SAFETY: a structure of integers.
    let mut usage: rusage = unsafe { core::mem::zeroed() };
    usage.ru_utime = time(used.user);
    usage.ru_stime = time(used.system);
    usage.ru_maxrss = (used.resident * (PAGE_SIZE / 1024)) as i64;
    usage.ru_minflt = used.faults as i64;
    usage.ru_nvcsw = used.slept as i64;
    usage.ru_nivcsw = used.preempted as i64;
    usage
}

/// sysinfo(info).
pub fn sysinfo(addr: u64) -> Result {
    let memory = arch::mmu::memory();
    let info = SysInfo {
        uptime: clock::monotonic() / clock::SECOND,
        total_ram: memory.frames.total() * PAGE_SIZE,
        free_ram: memory.frames.free_count() * PAGE_SIZE,
        processes: table::count().min(u16::MAX.into()) as u16,
        unit: 1,
        ..SysInfo::default()
    };
    user::write(addr, &info)?;
    Ok(0)
}
