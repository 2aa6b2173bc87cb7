//! What `qemu-aarch64` does not do as Linux does: orphans, usage, limits, kinds of clone.

use super::timers::{clock, install};
use super::{COUNT, MILLISECOND, call, end, pause, pausing, status};
use core::sync::atomic::Ordering::Relaxed;
use user::linux::*;
use user::memory::Pages;
use user::process::{self, Pid};
use user::signal::{self, Action, Context, Info};
use user::{Errno, OrFail, file, println};

/// Waits until `pid` has another parent.
fn orphan_of(parent: Pid) -> Pid {
    while process::getppid() == parent {
        process::sched_yield();
    }
    process::getppid()
}

pub fn orphans() {
    // A group that is stopped loses the last process that could continue it: it hangs up.
    let pipe = file::pipe2(0).or_fail("pipe2");
    let child = process::fork_child(|| {
        call(__NR_setsid, []).or_fail("setsid");
        let job = process::fork_child(|| {
            call(__NR_setpgid, [0, 0]).or_fail("setpgid");
            extern "C" fn hang_up(_: u32, _: &mut Info, _: &mut Context) {
                COUNT.fetch_add(1, Relaxed);
            }
            signal::set_action(SIGHUP, &Action::call(hang_up, SA_SIGINFO)).or_fail("sigaction");
            signal::kill(process::getpid(), SIGTSTP).or_fail("kill");
            while COUNT.load(Relaxed) == 0 {
                process::sched_yield();
            }
            // Nobody looks after the group: the terminal cannot stop it any more.
            signal::kill(process::getpid(), SIGTSTP).or_fail("kill");
            file::write(pipe.writer, b"h").or_fail("write");
            0
        })
        .or_fail("fork");
        let (_, status) = process::wait_raw(job, WUNTRACED).or_fail("wait4");
        i32::from(status != 0x147f)
    })
    .or_fail("fork");
    println!(
        "its shell: {:x?}",
        process::wait_raw(child, 0).map(|(_, status)| status)
    );
    let mut byte = [0];
    println!("the job: {:?} {byte:?}", file::read(pipe.reader, &mut byte));
}

pub fn parents() {
    const PR_SET_PDEATHSIG: usize = 1;
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    call(__NR_prctl, [PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0]).or_fail("prctl");
    let me = process::getpid();
    let child = process::fork_child(|| {
        let parent = process::getpid();
        process::fork_child(|| i32::from(orphan_of(parent) != me)).or_fail("fork");
        0
    })
    .or_fail("fork");
    process::wait_raw(child, 0).or_fail("wait4");
    println!(
        "a grandchild: {:x?}",
        process::wait_raw(-1, 0).map(|(_, status)| status)
    );
    let child = process::fork_child(|| {
        process::fork_child(|| {
            call(__NR_prctl, [PR_SET_PDEATHSIG, SIGUSR2 as usize, 0, 0, 0]).or_fail("prctl");
            signal::kill(process::getppid(), SIGTERM).or_fail("kill");
            pause()
        })
        .or_fail("fork");
        pause()
    })
    .or_fail("fork");
    println!(
        "a parent: {:x?}",
        process::wait_raw(child, 0).map(|(_, status)| status)
    );
    println!(
        "its child: {:x?}",
        process::wait_raw(-1, 0).map(|(_, status)| status)
    );
    call(__NR_prctl, [PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0]).or_fail("prctl");
    // The first process is not killed by what it does not catch.
    println!("init: {:?}", signal::kill(1, SIGKILL));
    println!("init: {:?}", signal::kill(1, SIGTERM));
}

pub fn usage() {
    let usage = |who: i32| {
        let mut usage = [0u64; 18];
        call(__NR_getrusage, [who as usize, usage.as_mut_ptr() as usize]).or_fail("getrusage");
        usage
    };
    let time = |usage: &[u64; 18]| (usage[0] + usage[2]) * 1_000_000 + usage[1] + usage[3];
    let before = usage(0);
    let pages = Pages::map(100).or_fail("mmap");
    for page in 0..100 {
        pages.write(page, 1);
    }
    let after = usage(0);
    println!("faults: {}", (100..120).contains(&(after[8] - before[8])));
    println!("no disk: {}", after[9]);
    println!("resident: {} kB more", (after[4] - before[4]) & !31);
    pages.unmap().or_fail("munmap");
    println!("at the most: {}", usage(0)[4] >= after[4]);
    let children = usage(-1);
    let child = process::fork_child(|| {
        while clock(CLOCK_PROCESS_CPUTIME_ID).or_fail("clock_gettime") < 30 * MILLISECOND {}
        0
    })
    .or_fail("fork");
    let mut own = [0u64; 18];
    let arguments = [child as usize, 0, 0, own.as_mut_ptr() as usize];
    call(__NR_wait4, arguments).or_fail("wait4");
    println!("the child's time: {}", time(&own) >= 30_000);
    println!(
        "the children's: {}",
        time(&usage(-1)) - time(&children) >= 30_000
    );
    println!(
        "nobody: {:?}",
        call(__NR_getrusage, [5, own.as_mut_ptr() as usize])
    );
}

pub fn cpu_limits() {
    let limited = |soft: u64, hard: u64| {
        status(move || {
            let limit = [soft, hard];
            call(
                __NR_prlimit64,
                [0, RLIMIT_CPU as usize, limit.as_ptr() as usize, 0],
            )
            .or_fail("prlimit64");
            loop {
                core::hint::spin_loop();
            }
        })
    };
    println!("the soft limit: {:x}", limited(0, u64::MAX));
    println!("the hard limit: {:x}", limited(0, 0));
    // Root may have any number of processes.
    let few = [1u64, 1];
    println!(
        "one process: {:x}",
        status(|| {
            call(
                __NR_prlimit64,
                [0, RLIMIT_NPROC as usize, few.as_ptr() as usize, 0],
            )
            .or_fail("prlimit64");
            end(pausing());
            call(__NR_setresuid, [1000, 1000, 1000]).or_fail("setresuid");
            i32::from(process::fork_child(|| 0) != Err(Errno::EAGAIN))
        })
    );
}

pub fn clones() {
    // Another signal at the end, and none: such children have to be asked for.
    install(SIGUSR1);
    for at_end in [SIGUSR1, 0] {
        let child = match call(__NR_clone, [at_end as usize, 0, 0, 0, 0]).or_fail("clone") {
            0 => process::exit(3),
            child => child as Pid,
        };
        println!("plain: {:?}", process::wait_raw(child, 0).err());
        let found = loop {
            match process::wait_raw(child, __WALL) {
                Err(Errno::EINTR) => {}
                found => break found,
            }
        };
        println!(
            "all: {:x?}, signals {}",
            found.map(|(_, status)| status),
            COUNT.swap(0, Relaxed)
        );
    }
    signal::set_action(SIGUSR1, &Action::DEFAULT).or_fail("rt_sigaction");
    let mut arguments = [0u64; 8];
    arguments[4] = SIGCHLD.into();
    let clone3 =
        |arguments: &[u64; 8], size: usize| call(__NR_clone3, [arguments.as_ptr() as usize, size]);
    let child = match clone3(&arguments, 64).or_fail("clone3") {
        0 => process::exit(9),
        child => child as Pid,
    };
    println!(
        "clone3: {:x?}",
        process::wait_raw(child, 0).map(|(_, status)| status)
    );
    println!("too short: {:?}", clone3(&arguments, 56));
    println!("too long: {:?}", clone3(&arguments, 5000));
    arguments[4] = 65;
    println!("no signal: {:?}", clone3(&arguments, 64));
}
