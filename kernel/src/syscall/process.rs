//! System calls on processes.

use super::errno::Errno;
use super::{Result, user};
use crate::arch::{self, trap::TrapFrame, uaccess};
use crate::fs::access::Caller;
use crate::fs::tree::{self, Start};
use crate::process::image::{Arguments, Strings};
use crate::process::table::{self, Select};
use crate::process::thread::{Current, current};
use crate::process::{Process, exec, fork, scheduler, wait};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    __WALL, CLD_EXITED, CLD_KILLED, P_ALL, P_PGID, P_PID, SIGCHLD, WCONTINUED, WEXITED, WNOHANG,
    WNOWAIT, WSTOPPED, WUNTRACED, rusage,
};
use linux_raw_sys::prctl::{PR_GET_NAME, PR_SET_NAME, PR_SET_VMA};
use wire::event::ForkMode;

/// clone(flags, stack, parent_tid, tls, child_tid).
pub fn clone(frame: &mut TrapFrame) -> Result {
    let [flags, stack, parent_tid, tls, child_tid, ..] = frame.x;
    let clone = fork::Clone {
        flags,
        stack,
        parent_tid,
        tls,
        child_tid,
    };
    fork::clone(frame, &clone).map(u64::from)
}

/// execve(path, argv, envp).
pub fn execve(frame: &mut TrapFrame, path: u64, argv: u64, envp: u64) -> Result {
    let path = user::path(path)?;
    let start = {
        let process = &current().process;
        let state = process.state.lock();
        Start {
            root: state.root.clone(),
            directory: state.directory.clone(),
            caller: Caller::current(),
        }
    };
    let program = tree::lookup(&start, &path, true)?;
    let mut arguments = Arguments {
        path: Strings::default(),
        arguments: Strings::default(),
        environment: Strings::default(),
    };
    arguments.path.push(&path)?;
    arguments.arguments.push_user(argv)?;
    arguments.environment.push_user(envp)?;
    arguments.complete()?;
    arguments.check()?;
    exec::exec(frame, &start, program, arguments)?;
    Ok(0)
}

/// wait4(pid, status, options, rusage).
pub fn wait4(pid: u64, status: u64, options: u32, usage: u64) -> Result {
    const OPTIONS: u32 = WNOHANG | WUNTRACED | WCONTINUED | __WALL;
    if options & !OPTIONS != 0 {
        return Err(Errno::EINVAL);
    }
    let select = match pid as i32 {
        -1 => Select::Any,
        0 => Select::Group(current().process.group.load(Ordering::Relaxed)),
        i32::MIN => return Err(Errno::ESRCH),
        pid if pid < 0 => Select::Group(pid.unsigned_abs()),
        pid => Select::Pid(pid as u32),
    };
    let Some(child) = wait::wait(select, options & WNOHANG == 0, false)? else {
        return Ok(0);
    };
    if status != 0 {
        uaccess::write_u32(status, child.status.load(Ordering::Relaxed))?;
    }
    if usage != 0 {
        user::write(usage, &no_usage())?;
    }
    Ok(child.pid.into())
}

/// A `struct rusage` of zeros: times and faults are not counted per process yet.
pub fn no_usage() -> rusage {
    // SAFETY: a structure of integers.
    unsafe { core::mem::zeroed() }
}

/// The part of `siginfo_t` that SIGCHLD uses.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SigInfo {
    signal: u32,
    error: u32,
    code: u32,
    pad: u32,
    pid: u32,
    uid: u32,
    status: u32,
    rest: [u32; 25],
}

/// waitid(idtype, id, info, options, rusage).
pub fn waitid(id_type: u32, id: u32, info: u64, options: u32, usage: u64) -> Result {
    let supported = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED;
    if options & !supported != 0 || options & WEXITED == 0 {
        return Err(Errno::EINVAL);
    }
    let select = match id_type {
        P_ALL => Select::Any,
        P_PID => Select::Pid(id),
        P_PGID if id == 0 => Select::Group(current().process.group.load(Ordering::Relaxed)),
        P_PGID => Select::Group(id),
        _ => return Err(Errno::EINVAL),
    };
    let child = wait::wait(select, options & WNOHANG == 0, options & WNOWAIT != 0)?;
    let mut result = SigInfo {
        signal: 0,
        error: 0,
        code: 0,
        pad: 0,
        pid: 0,
        uid: 0,
        status: 0,
        rest: [0; 25],
    };
    if let Some(child) = child {
        let status = child.status.load(Ordering::Relaxed);
        let exited = status & 0x7f == 0;
        result.signal = SIGCHLD;
        result.code = if exited { CLD_EXITED } else { CLD_KILLED };
        result.status = if exited { status >> 8 } else { status & 0x7f };
        result.pid = child.pid;
    }
    if info != 0 {
        user::write(info, &result)?;
    }
    if usage != 0 {
        user::write(usage, &no_usage())?;
    }
    Ok(0)
}

/// getppid().
#[inline]
pub fn getppid(thread: &Current) -> Result {
    Ok(thread.process.parent.load(Ordering::Relaxed).into())
}

/// The process `pid`, or the caller for 0.
fn process(pid: u32) -> core::result::Result<Arc<Process>, Errno> {
    if pid == 0 {
        Ok(current().process.clone())
    } else {
        table::get(pid).ok_or(Errno::ESRCH)
    }
}

/// getpgid(pid).
pub fn getpgid(pid: u32) -> Result {
    Ok(process(pid)?.group.load(Ordering::Relaxed).into())
}

/// getsid(pid).
pub fn getsid(pid: u32) -> Result {
    Ok(process(pid)?.session.load(Ordering::Relaxed).into())
}

/// setpgid(pid, group).
pub fn setpgid(pid: u32, group: u32) -> Result {
    let caller = current();
    let process = process(pid)?;
    let own = process.pid == caller.process.pid;
    if !own && process.parent.load(Ordering::Relaxed) != caller.process.pid {
        return Err(Errno::ESRCH);
    }
    let session = process.session.load(Ordering::Relaxed);
    if session == process.pid || session != caller.process.session.load(Ordering::Relaxed) {
        return Err(Errno::EPERM);
    }
    let group = if group == 0 { process.pid } else { group };
    if group as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    process.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// setsid().
pub fn setsid() -> Result {
    let process = &current().process;
    if process.group.load(Ordering::Relaxed) == process.pid {
        return Err(Errno::EPERM);
    }
    process.group.store(process.pid, Ordering::Relaxed);
    process.session.store(process.pid, Ordering::Relaxed);
    Ok(process.pid.into())
}

/// set_tid_address(address).
pub fn set_tid_address(addr: u64) -> Result {
    let thread = current();
    thread.clear_child_tid.store(addr, Ordering::Relaxed);
    Ok(thread.tid.into())
}

/// set_robust_list(head, len): without threads there is nobody to wake.
pub fn set_robust_list(len: u64) -> Result {
    const HEAD: u64 = 24;
    if len == HEAD {
        Ok(0)
    } else {
        Err(Errno::EINVAL)
    }
}

/// sched_yield().
pub fn sched_yield() -> Result {
    scheduler::yield_now();
    Ok(0)
}

/// The CPUs that run, a bit each.
fn online() -> usize {
    (1 << arch::secondary::online()) - 1
}

/// sched_getaffinity(pid, len, mask).
pub fn sched_getaffinity(pid: u32, len: u64, mask: u64) -> Result {
    let thread = process(pid)?.thread().ok_or(Errno::ESRCH)?;
    if len < 8 || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    uaccess::write_u64(mask, (thread.affinity() & online()) as u64)?;
    Ok(8)
}

/// sched_setaffinity(pid, len, mask).
pub fn sched_setaffinity(pid: u32, len: u64, mask: u64) -> Result {
    let thread = process(pid)?.thread().ok_or(Errno::ESRCH)?;
    // As on Linux: bits that are not given are 0.
    let mut bytes = [0; 8];
    let len = len.min(8) as usize;
    uaccess::read(&mut bytes[..len], mask)?;
    let allowed = u64::from_le_bytes(bytes) as usize & online();
    if allowed == 0 {
        return Err(Errno::EINVAL);
    }
    thread.set_affinity(allowed);
    if !current().may_run_on(arch::cpu::id()) {
        scheduler::give_way();
    }
    Ok(0)
}

/// getcpu(cpu, node).
pub fn getcpu(cpu: u64, node: u64) -> Result {
    if cpu != 0 {
        uaccess::write_u32(cpu, arch::cpu::id() as u32)?;
    }
    if node != 0 {
        uaccess::write_u32(node, 0)?;
    }
    Ok(0)
}

/// prctl(PR_SET_FORK_MODE, mode): how the forks of this process copy it from now on, and those of
/// the children that it then makes; exec keeps it. `mode` is 0 (classic), 1 (shared tables) or 2
/// (eager): `wire::event::ForkMode` as a number; else EINVAL, and nothing changes. Ours alone:
/// "CowS" in ASCII, out of the way of Linux's numbers, and EINVAL there.
const PR_SET_FORK_MODE: u32 = 0x436f_7753;

/// prctl(PR_GET_FORK_MODE) returns that mode ("CowG").
const PR_GET_FORK_MODE: u32 = 0x436f_7747;

/// prctl(option, argument, ...).
pub fn prctl(option: u32, argument: u64, _second: u64) -> Result {
    let process = &current().process;
    match option {
        PR_SET_NAME => {
            let mut name = [0; 16];
            let len = uaccess::read_cstr(argument, &mut name[..15])?;
            name[len..].fill(0);
            process.state.lock().name = name;
            process.announce();
            Ok(0)
        }
        PR_GET_NAME => {
            let name = process.state.lock().name;
            uaccess::write(argument, &name)?;
            Ok(0)
        }
        // Names of anonymous mappings: accepted, as Linux without CONFIG_ANON_VMA_NAME refuses them
        // and programs cannot tell what came of it.
        PR_SET_VMA => Ok(0),
        PR_SET_FORK_MODE => {
            process.state.lock().fork_mode = match argument {
                0 => ForkMode::Classic,
                1 => ForkMode::SharedTables,
                2 => ForkMode::Eager,
                _ => return Err(Errno::EINVAL),
            };
            Ok(0)
        }
        PR_GET_FORK_MODE => Ok(process.state.lock().fork_mode as u64),
        _ => Err(Errno::EINVAL),
    }
}
