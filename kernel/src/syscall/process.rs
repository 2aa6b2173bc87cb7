//! System calls on processes.

use super::errno::Errno;
use super::info::to_rusage;
use super::{Result, user};
use crate::arch::{self, trap::TrapFrame, uaccess};
use crate::fs::access::Caller;
use crate::fs::tree::{self, Start};
use crate::process::image::{Arguments, Strings};
use crate::process::signal::{self, Info};
use crate::process::table::{self, Select};
use crate::process::thread::{Current, Thread, current};
use crate::process::threads;
use crate::process::usage::{self, Totals};
use crate::process::{Process, exec, fork, group, limits, membarrier, scheduler, wait};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    __WALL, __WCLONE, __WNOTHREAD, CLONE_THREAD, P_ALL, P_PGID, P_PID, RLIMIT_NICE, SIGCHLD,
    WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED, WUNTRACED,
};
use linux_raw_sys::prctl::{
    PR_CAPBSET_READ, PR_GET_CHILD_SUBREAPER, PR_GET_DUMPABLE, PR_GET_NAME, PR_GET_NO_NEW_PRIVS,
    PR_GET_PDEATHSIG, PR_GET_THP_DISABLE, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, PR_SET_THP_DISABLE, PR_SET_VMA,
};
use memory::PAGE_SIZE;
use wire::event::ForkMode;

/// The highest capability (CAP_CHECKPOINT_RESTORE).
const CAP_LAST: u64 = 40;
/// What getpriority and setpriority mean.
const PRIO_PROCESS: u32 = 0;
const PRIO_PGRP: u32 = 1;
const PRIO_USER: u32 = 2;

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

/// `struct clone_args`, the part that every version has.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// clone3(arguments, size).
pub fn clone3(frame: &mut TrapFrame) -> Result {
    /// CLONE_ARGS_SIZE_VER0.
    const LEAST: u64 = 64;
    let [addr, size, ..] = frame.x;
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < LEAST {
        return Err(Errno::EINVAL);
    }
    let arguments: CloneArguments = user::read(addr)?;
    // What later versions have: chosen pids, a control group. Without them it is all zeros.
    for at in (LEAST..size).step_by(8) {
        let mut word = [0; 8];
        let len = (size - at).min(8) as usize;
        uaccess::read(&mut word[..len], addr.wrapping_add(at))?;
        if word != [0; 8] {
            return Err(if at < 88 { Errno::EINVAL } else { Errno::E2BIG });
        }
    }
    let signal = arguments.exit_signal;
    if arguments.flags & u64::from(CLONE_THREAD) != 0 && signal != 0 {
        return Err(Errno::EINVAL);
    }
    if signal > signal::MAX.into()
        || arguments.flags & 0xff != 0
        || (arguments.stack == 0) != (arguments.stack_size == 0)
    {
        return Err(Errno::EINVAL);
    }
    let clone = fork::Clone {
        flags: arguments.flags | signal,
        stack: arguments.stack.wrapping_add(arguments.stack_size),
        parent_tid: arguments.parent_tid,
        tls: arguments.tls,
        child_tid: arguments.child_tid,
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
        rights: Default::default(),
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
    const OPTIONS: u32 = WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL;
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
    let Some((child, ended)) = wait::wait(select, options | WEXITED)? else {
        return Ok(0);
    };
    if usage != 0 {
        user::write(usage, &to_rusage(&whole_usage(&child)))?;
    }
    if status != 0 {
        uaccess::write_u32(status, ended)?;
    }
    Ok(child.pid.into())
}

/// What a child and those that it has waited for have used.
fn whole_usage(child: &Process) -> Totals {
    let mut used = usage::of_process(child);
    used.add(&usage::of_children(child));
    used
}

/// waitid(idtype, id, info, options, rusage).
pub fn waitid(id_type: u32, id: u32, addr: u64, options: u32, usage: u64) -> Result {
    const WHAT: u32 = WEXITED | WSTOPPED | WCONTINUED;
    const OPTIONS: u32 = WHAT | WNOHANG | WNOWAIT | __WNOTHREAD | __WCLONE | __WALL;
    if options & !OPTIONS != 0 || options & WHAT == 0 {
        return Err(Errno::EINVAL);
    }
    let select = match id_type {
        P_ALL => Select::Any,
        P_PID if id as i32 <= 0 => return Err(Errno::EINVAL),
        P_PID => Select::Pid(id),
        P_PGID if (id as i32) < 0 => return Err(Errno::EINVAL),
        P_PGID if id == 0 => Select::Group(current().process.group.load(Ordering::Relaxed)),
        P_PGID => Select::Group(id),
        _ => return Err(Errno::EINVAL),
    };
    let news = wait::wait(select, options)?;
    if usage != 0
        && let Some((child, _)) = &news
    {
        user::write(usage, &to_rusage(&whole_usage(child)))?;
    }
    if addr != 0 {
        let info = news.map_or(Info::default(), |(child, status)| {
            let (code, status) = wait::describe(status);
            Info::child(SIGCHLD, &child, code, status)
        });
        // As on Linux, only what waitid has to tell: number, error, code; process, user, status.
        let bytes = info.bytes();
        uaccess::write(addr, &bytes[..12])?;
        uaccess::write(addr.wrapping_add(16), &bytes[16..28])?;
    }
    Ok(0)
}

/// getppid().
#[inline]
pub fn getppid(thread: &Current) -> Result {
    Ok(thread.process.parent.load(Ordering::Relaxed).into())
}

/// The process `pid`, or that of the thread with this number, or the caller for 0.
fn process(pid: u32) -> core::result::Result<Arc<Process>, Errno> {
    if pid == 0 {
        Ok(current().process.clone())
    } else {
        table::get_any(pid).ok_or(Errno::ESRCH)
    }
}

/// The thread `tid`, or the caller for 0.
pub fn thread(tid: u32) -> core::result::Result<Arc<Thread>, Errno> {
    if tid == 0 {
        Ok(current().share())
    } else {
        table::thread(tid).ok_or(Errno::ESRCH)
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
    let caller = &caller.process;
    let target = if pid == 0 { caller.pid } else { pid };
    let group = if group == 0 { target } else { group };
    if (group as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let process = table::get(target).ok_or(Errno::ESRCH)?;
    let session = process.session.load(Ordering::Relaxed);
    let own = caller.session.load(Ordering::Relaxed);
    if process.parent.load(Ordering::Relaxed) == caller.pid {
        if session != own {
            return Err(Errno::EPERM);
        }
        // A shell may move a child only until it runs another program.
        if process.executed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if process.pid != caller.pid {
        return Err(Errno::ESRCH);
    }
    if session == process.pid || (group != process.pid && !group::exists(group, own)) {
        return Err(Errno::EPERM);
    }
    process.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// setsid().
pub fn setsid() -> Result {
    let process = &current().process;
    if group::is_used(process.pid) {
        return Err(Errno::EPERM);
    }
    process.group.store(process.pid, Ordering::Relaxed);
    process.session.store(process.pid, Ordering::Relaxed);
    process.terminal.store(false, Ordering::Relaxed);
    Ok(process.pid.into())
}

/// set_tid_address(address).
pub fn set_tid_address(addr: u64) -> Result {
    let thread = current();
    thread.clear_child_tid.store(addr, Ordering::Relaxed);
    Ok(thread.tid().into())
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
pub fn sched_getaffinity(tid: u32, len: u64, mask: u64) -> Result {
    let thread = thread(tid)?;
    if len < 8 || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    uaccess::write_u64(mask, (thread.affinity() & online()) as u64)?;
    Ok(8)
}

/// sched_setaffinity(pid, len, mask).
pub fn sched_setaffinity(tid: u32, len: u64, mask: u64) -> Result {
    let thread = thread(tid)?;
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
    // As on Linux it has left when the call is over.
    scheduler::wait_for_move(&thread);
    Ok(0)
}

/// membarrier(command, flags).
pub fn membarrier(command: u32, flags: u32) -> Result {
    // Linux, linux/membarrier.h.
    const QUERY: u32 = 0;
    const GLOBAL: u32 = 1 << 0;
    const PRIVATE_EXPEDITED: u32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: u32 = 1 << 4;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let thread = current();
    let space = thread.space().ok_or(Errno::ESRCH)?;
    match command {
        QUERY => {
            let commands = GLOBAL | PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED;
            return Ok(commands.into());
        }
        GLOBAL => membarrier::everywhere(),
        REGISTER_PRIVATE_EXPEDITED => space.wants_barriers.store(true, Ordering::Relaxed),
        PRIVATE_EXPEDITED if space.wants_barriers.load(Ordering::Relaxed) => {
            membarrier::everywhere();
        }
        PRIVATE_EXPEDITED => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
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

/// prctl(option, arguments).
pub fn prctl(option: u32, arguments: [u64; 4]) -> Result {
    let thread = current();
    let process = &thread.process;
    let [argument, rest @ ..] = arguments;
    let no_more = rest == [0; 3];
    match option {
        PR_SET_NAME => {
            let mut name = [0; 15];
            let len = uaccess::read_cstr(argument, &mut name)?;
            threads::set_name(&thread, &name[..len]);
            Ok(0)
        }
        PR_GET_NAME => {
            uaccess::write(argument, &threads::name(process, thread.tid()))?;
            Ok(0)
        }
        PR_SET_PDEATHSIG => {
            if argument > signal::MAX.into() {
                return Err(Errno::EINVAL);
            }
            process
                .death_signal
                .store(argument as u32, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_PDEATHSIG => {
            uaccess::write_u32(argument, process.death_signal.load(Ordering::Relaxed))?;
            Ok(0)
        }
        PR_GET_DUMPABLE => Ok(process.dumpable.load(Ordering::Relaxed).into()),
        PR_SET_DUMPABLE if argument <= 1 => {
            process.dumpable.store(argument as u32, Ordering::Relaxed);
            Ok(0)
        }
        PR_SET_CHILD_SUBREAPER => {
            process.subreaper.store(argument != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            let subreaper = process.subreaper.load(Ordering::Relaxed);
            uaccess::write_u32(argument, subreaper.into())?;
            Ok(0)
        }
        PR_SET_NO_NEW_PRIVS if argument == 1 && no_more => {
            process.no_new_rights.store(true, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_NO_NEW_PRIVS if argument == 0 && no_more => {
            Ok(process.no_new_rights.load(Ordering::Relaxed).into())
        }
        // Nothing was ever taken out of the bounding set.
        PR_CAPBSET_READ if argument <= CAP_LAST => Ok(1),
        // There are no huge pages.
        PR_GET_THP_DISABLE if arguments == [0; 4] => Ok(0),
        PR_SET_THP_DISABLE if no_more => Ok(0),
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

/// Runs `f` for the processes that getpriority and setpriority mean.
fn for_each_of(
    which: u32,
    who: u32,
    mut f: impl FnMut(&Process) -> core::result::Result<(), Errno>,
) -> core::result::Result<(), Errno> {
    let caller = current();
    let mut found = Err(Errno::ESRCH);
    match which {
        PRIO_PROCESS => found = f(&*process(who)?),
        PRIO_PGRP | PRIO_USER => {
            let who = match (which, who) {
                (PRIO_PGRP, 0) => caller.process.group.load(Ordering::Relaxed),
                (PRIO_USER, 0) => caller.process.real_uid(),
                (_, who) => who,
            };
            let mut pid = 0;
            while let Some(process) = table::next(pid) {
                pid = process.pid;
                let one = match which {
                    PRIO_PGRP => process.group.load(Ordering::Relaxed),
                    _ => process.real_uid(),
                };
                if one == who {
                    found = f(&process);
                }
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    found
}

/// getpriority(which, who): 20 less the nice value, 1 to 40.
pub fn getpriority(which: u32, who: u32) -> Result {
    let mut best = 0;
    for_each_of(which, who, |process| {
        best = best.max(20 - process.nice.load(Ordering::Relaxed));
        Ok(())
    })?;
    Ok(best as u64)
}

/// setpriority(which, who, nice): kept, but all processes have the same share of the CPUs.
pub fn setpriority(which: u32, who: u32, nice: i32) -> Result {
    let nice = nice.clamp(-20, 19);
    let (root, user) = {
        let caller = current();
        let credentials = caller.process.credentials.lock();
        (credentials.is_root(), credentials.uid.effective)
    };
    for_each_of(which, who, |process| {
        let ids = process.credentials.lock().uid;
        if !root && user != ids.real && user != ids.effective {
            return Err(Errno::EPERM);
        }
        let least = 20 - limits::soft(process, RLIMIT_NICE).min(40) as i32;
        if nice < process.nice.load(Ordering::Relaxed) && nice < least && !root {
            return Err(Errno::EACCES);
        }
        process.nice.store(nice, Ordering::Relaxed);
        Ok(())
    })?;
    Ok(0)
}
