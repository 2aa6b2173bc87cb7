//! Groups, sessions, credentials, limits, clocks and timers, in the ways that programs meet them.
//! Every line that it prints is Linux's.
//!
//! `jobs` runs what `qemu-aarch64` does as Linux does; `jobs kernel` what it does not.
#![no_std]
#![no_main]

use core::sync::atomic::AtomicU32;
use user::linux::*;
use user::process::{self, Pid};
use user::signal::{self, Info};
use user::{Args, Errno, OrFail, Result, check, println, syscall, time};

mod family;
mod timers;

user::program!(main, "usage: jobs [kernel]");

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// A system call with plain numbers.
fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the calls here touch no memory but what the arguments say, which is the caller's.
    unsafe { syscall(number, arguments) }
}

fn main(args: Args) {
    match *args.words() {
        [] => {
            groups();
            sessions();
            waits();
            credentials();
            limits();
            timers::interval_timers();
            timers::numbered_timers();
            timers::clocks();
            priorities();
        }
        ["kernel"] => {
            family::orphans();
            family::parents();
            family::usage();
            family::cpu_limits();
            family::clones();
        }
        _ => args.usage(),
    }
    println!("jobs: done");
}

/// Runs `child` in a process of its own; its status.
fn status(child: impl FnOnce() -> i32) -> u32 {
    let pid = process::fork_child(child).or_fail("fork");
    process::wait_raw(pid, 0).or_fail("wait4").1
}

fn pause() -> ! {
    loop {
        let _ = time::sleep(3600 * SECOND);
    }
}

fn pausing() -> Pid {
    process::fork_child(|| pause()).or_fail("fork")
}

fn end(child: Pid) {
    signal::kill(child, SIGKILL).or_fail("kill");
    process::wait_raw(child, 0).or_fail("wait4");
}

fn group_of(pid: Pid) -> Result<usize> {
    call(__NR_getpgid, [pid as usize])
}

fn groups() {
    let child = pausing();
    let own = group_of(0).or_fail("getpgid");
    println!(
        "a child is in its parent's group: {}",
        group_of(child) == Ok(own)
    );
    let set_group = |pid: Pid, group: Pid| call(__NR_setpgid, [pid as usize, group as usize]);
    println!(
        "to a group that is none: {:?}",
        set_group(child, child + 1000)
    );
    println!("to a negative one: {:?}", set_group(child, -1));
    println!("a stranger: {:?}", set_group(0x3f_fff0, 0));
    println!("its own: {:?}", set_group(child, 0));
    println!("it leads: {}", group_of(child) == Ok(child as usize));
    let other = pausing();
    println!("joins: {:?}", set_group(other, child));
    println!("is there: {}", group_of(other) == Ok(child as usize));
    signal::kill(-child, SIGTERM).or_fail("kill");
    let mut ended = [0; 2];
    for status in &mut ended {
        *status = process::wait_raw(-child, 0).or_fail("wait4").1;
    }
    println!("killed together: {ended:x?}");
    println!("nobody left: {:?}", process::wait_raw(-child, 0));
    println!("the parent's: {:?}", set_group(process::getppid(), 0));
}

fn sessions() {
    println!(
        "a leader: {:x}",
        status(|| {
            call(__NR_setpgid, [0, 0]).or_fail("setpgid");
            i32::from(call(__NR_setsid, []) != Err(Errno::EPERM))
        })
    );
    println!(
        "a new session: {:x}",
        status(|| {
            let me = process::getpid() as usize;
            check!(call(__NR_setsid, []) == Ok(me), "setsid");
            check!(call(__NR_getsid, [0]) == Ok(me), "getsid");
            check!(group_of(0) == Ok(me), "getpgid");
            check!(
                call(__NR_setpgid, [0, 0]) == Err(Errno::EPERM),
                "setpgid of a leader"
            );
            let inside = status(|| {
                // A group of the session, and one of the other.
                let parent = process::getppid() as usize;
                check!(call(__NR_setpgid, [0, 0]).is_ok(), "setpgid");
                check!(call(__NR_setpgid, [0, parent]).is_ok(), "back");
                check!(
                    call(__NR_setpgid, [0, 1]) == Err(Errno::EPERM),
                    "another session"
                );
                0
            });
            inside as i32
        })
    );
}

fn waits() {
    let waitid = |kind: u32, id: Pid, options: u32| {
        let mut info = Info::default();
        let arguments = [
            kind as usize,
            id as usize,
            (&raw mut info) as usize,
            options as usize,
            0,
        ];
        call(__NR_waitid, arguments).map(|_| (info.signal, info.code, info.pid()))
    };
    let child = process::fork_child(|| 7).or_fail("fork");
    let mine = |result: Result<(u32, i32, Pid)>| result.map(|(s, c, pid)| (s, c, pid == child));
    println!("stays: {:?}", mine(waitid(P_PID, child, WEXITED | WNOWAIT)));
    println!("stays: {:?}", mine(waitid(P_ALL, 0, WEXITED | WNOWAIT)));
    println!("only stops: {:?}", waitid(P_PID, child, WSTOPPED | WNOHANG));
    println!("nothing: {:?}", waitid(P_PID, child, WNOHANG));
    println!("no kind: {:?}", waitid(9, child, WEXITED));
    println!("goes: {:?}", mine(waitid(P_PID, child, WEXITED)));
    println!("is gone: {:?}", waitid(P_PID, child, WEXITED));
    let child = pausing();
    println!("runs: {:?}", waitid(P_PID, child, WEXITED | WNOHANG));
    end(child);
}

fn credentials() {
    let ids = |number| {
        let mut ids = [0u32; 3];
        let at = ids.as_mut_ptr() as usize;
        let arguments = [at, at + 4, at + 8];
        call(number, arguments).or_fail("getresuid");
        ids
    };
    let child = status(|| {
        let groups = [30u32, 10, 20];
        println!(
            "setgroups: {:?}",
            call(__NR_setgroups, [3, groups.as_ptr() as usize])
        );
        let mut found = [0u32; 3];
        println!(
            "too few: {:?}",
            call(__NR_getgroups, [2, found.as_mut_ptr() as usize])
        );
        println!("how many: {:?}", call(__NR_getgroups, [0, 0]));
        call(__NR_getgroups, [3, found.as_mut_ptr() as usize]).or_fail("getgroups");
        println!("groups: {found:?}");
        println!("setresgid: {:?}", call(__NR_setresgid, [5, 6, 7]));
        println!("groups: {:?}", ids(__NR_getresgid));
        println!("setresuid: {:?}", call(__NR_setresuid, [1000, 1001, 1002]));
        println!("users: {:?}", ids(__NR_getresuid));
        println!(
            "real, effective: {:?} {:?}",
            call(__NR_getuid, []),
            call(__NR_geteuid, [])
        );
        println!("root again: {:?}", call(__NR_setuid, [0]));
        println!(
            "saved: {:?} {:?}",
            call(__NR_setuid, [1002]),
            ids(__NR_getresuid)
        );
        println!("swap: {:?}", call(__NR_setreuid, [1002, 1000]));
        println!("users: {:?}", ids(__NR_getresuid));
        println!("setgroups: {:?}", call(__NR_setgroups, [0, 0]));
        println!("kill the parent: {:?}", signal::kill(process::getppid(), 0));
        println!("kill init: {:?}", signal::kill(1, SIGTERM));
        println!("setuid(-1): {:?}", call(__NR_setuid, [u32::MAX as usize]));
        let limit = |max: u64| [0, max];
        let set = |limit: &[u64; 2]| {
            call(
                __NR_prlimit64,
                [0, RLIMIT_CORE as usize, limit.as_ptr() as usize, 0],
            )
        };
        println!("less: {:?}", set(&limit(5)));
        println!("more: {:?}", set(&limit(6)));
        0
    });
    println!("status {child:x}");
}

fn limits() {
    let get = |resource: u32| {
        let mut limit = [0u64; 2];
        call(
            __NR_prlimit64,
            [0, resource as usize, 0, limit.as_mut_ptr() as usize],
        )
        .map(|_| limit)
    };
    let set = |resource: u32, limit: [u64; 2]| {
        call(
            __NR_prlimit64,
            [0, resource as usize, limit.as_ptr() as usize, 0],
        )
    };
    println!("core: {:?}", set(RLIMIT_CORE, [7, 9]));
    println!("core: {:?}", get(RLIMIT_CORE));
    println!("soft above hard: {:?}", set(RLIMIT_CORE, [10, 9]));
    println!("no such limit: {:?} {:?}", get(16), set(16, [1, 1]));
    println!(
        "inherited: {:x}",
        status(|| i32::from(get(RLIMIT_CORE) != Ok([7, 9])))
    );
    println!("too many files: {:?}", set(RLIMIT_NOFILE, [1, 1 << 40]));
}

/// How often a handler ran.
static COUNT: AtomicU32 = AtomicU32::new(0);

fn priorities() {
    let get = || call(__NR_getpriority, [0, 0]);
    let set = |nice: i32| call(__NR_setpriority, [0, 0, nice as usize]);
    println!("nice: {:?} {:?}", set(0), get());
    println!("nicer: {:?} {:?}", set(5), get());
    println!("too nice: {:?} {:?}", set(100), get());
    println!("back: {:?} {:?}", set(0), get());
    println!("no kind: {:?}", call(__NR_getpriority, [3, 0]));
    println!("nobody: {:?}", call(__NR_getpriority, [0, 0x3f_fff0]));
}
