//! System calls that tell of the machine and of limits.

use super::errno::Errno;
use super::process::no_usage;
use super::{Result, user};
use crate::arch::{self, uaccess};
use crate::fs::MAX_FILES;
use crate::process::image::STACK_LIMIT;
use crate::process::{random, table, timer};
use linux_raw_sys::general::{
    GRND_INSECURE, GRND_NONBLOCK, GRND_RANDOM, RLIM_NLIMITS, RLIMIT_NOFILE, RLIMIT_STACK,
    RUSAGE_CHILDREN, RUSAGE_SELF, rlimit64,
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
    let len = len.min(i32::MAX as u64) as usize;
    let mut done = 0;
    while done < len {
        let mut bytes = [0; STEP];
        let bytes = &mut bytes[..STEP.min(len - done)];
        random::fill(bytes);
        uaccess::write(addr + done as u64, bytes)?;
        done += bytes.len();
    }
    Ok(len as u64)
}

/// prlimit64(pid, resource, new, old): limits can be read; setting one changes nothing.
pub fn prlimit64(pid: u32, resource: u32, new: u64, old: u64) -> Result {
    if resource >= RLIM_NLIMITS {
        return Err(Errno::EINVAL);
    }
    if pid != 0 && table::get(pid).is_none() {
        return Err(Errno::ESRCH);
    }
    if new != 0 {
        let limit: rlimit64 = user::read(new)?;
        if limit.rlim_cur > limit.rlim_max {
            return Err(Errno::EINVAL);
        }
    }
    if old != 0 {
        let limit = match resource {
            RLIMIT_STACK => STACK_LIMIT,
            RLIMIT_NOFILE => MAX_FILES as u64,
            _ => u64::MAX,
        };
        user::write(
            old,
            &rlimit64 {
                rlim_cur: limit,
                rlim_max: limit,
            },
        )?;
    }
    Ok(0)
}

/// getrusage(who, usage).
pub fn getrusage(who: i32, addr: u64) -> Result {
    const RUSAGE_THREAD: i32 = 1;
    if !matches!(who, RUSAGE_THREAD) && who != RUSAGE_SELF as i32 && who != RUSAGE_CHILDREN {
        return Err(Errno::EINVAL);
    }
    user::write(addr, &no_usage())?;
    Ok(0)
}

/// sysinfo(info).
pub fn sysinfo(addr: u64) -> Result {
    let memory = arch::mmu::memory();
    let info = SysInfo {
        uptime: timer::nanoseconds() / 1_000_000_000,
        total_ram: memory.frames.total() * PAGE_SIZE,
        free_ram: memory.frames.free_count() * PAGE_SIZE,
        processes: table::count().min(u16::MAX.into()) as u16,
        unit: 1,
        ..SysInfo::default()
    };
    user::write(addr, &info)?;
    Ok(0)
}
