//! Threads as programs meet them: what they share, how they wait for each other, get signals, fork,
//! execute and end. Every line that it prints is Linux's.
//!
//! `threads` runs what `qemu-aarch64` does as Linux does; `threads kernel` what it does not.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use user::linux::*;
use user::memory::Pages;
use user::process::{self, Pid};
use user::thread::{self, Thread};
use user::{Args, OrFail, Result, check, file, println, syscall, time};

mod ends;
mod futexes;
mod memory;
mod signals;

user::program!(main, "usage: threads [kernel]");

const MILLISECOND: u64 = 1_000_000;

/// A system call with plain numbers.
fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the calls here touch no memory but what the arguments say, which is the caller's.
    unsafe { syscall(number, arguments) }
}

fn main(args: Args) {
    match *args.words() {
        [] => {
            identity();
            futexes::errors();
            futexes::locks();
            futexes::wakes();
            futexes::across_fork();
            memory::faults();
            memory::snapshots();
            memory::dirty_cow();
            signals::directed();
            signals::stacks();
        }
        ["kernel"] => {
            names();
            affinity();
            barriers();
            limits();
            futexes::robust();
            futexes::unsupported();
            memory::child_is_alone();
            signals::shared();
            signals::stops();
            ends::of_threads();
            ends::of_all();
            ends::by_exec(&args);
            ends::clones();
        }
        ["executed", pid] => {
            let pid: Pid = args.number(pid);
            check!(
                process::getpid() == pid && thread::gettid() == pid,
                "pid {} tid {}, not {pid}",
                process::getpid(),
                thread::gettid()
            );
            println!("executed: the process's number, and alone: {}", count());
            return;
        }
        _ => args.usage(),
    }
    println!("threads: done");
}

/// Words that all threads see, and processes that are forked from here.
fn words() -> Pages {
    Pages::map_shared(1).or_fail("mapping a shared page")
}

/// Words that processes do not share.
fn own_words() -> Pages {
    Pages::map(1).or_fail("mapping a page")
}

/// A word of a page, by its number of 8 bytes.
fn word(page: Pages, index: usize) -> &'static AtomicU32 {
    let long = page.atomic(0, index);
    // SAFETY: the first half of it, which the programs here never use whole at the same time.
    unsafe { AtomicU32::from_ptr(long.as_ptr().cast()) }
}

fn long(page: Pages, index: usize) -> &'static AtomicU64 {
    page.atomic(0, index)
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Thread {
    Thread::spawn(run).or_fail("clone")
}

/// Waits until something that other threads do has come true.
fn until(done: impl Fn() -> bool) {
    while !done() {
        nap();
    }
}

/// Lets others run.
fn nap() {
    // A signal may end it.
    let _ = time::sleep(MILLISECOND / 5);
}

/// Sleeps for good.
fn pause() -> ! {
    loop {
        let _ = time::sleep(1000 * MILLISECOND);
    }
}

/// The status of a process that runs `child`.
fn status(child: impl FnOnce() -> i32) -> u32 {
    let pid = process::fork_child(child).or_fail("fork");
    process::wait_raw(pid, 0).or_fail("wait4").1
}

/// Threads of this process, as /proc tells.
fn count() -> u32 {
    let fd = file::open(c"/proc/self/status", O_RDONLY).or_fail("open");
    let mut text = [0; 2048];
    let len = file::read(fd, &mut text).or_fail("read");
    file::close(fd).or_fail("close");
    let text = core::str::from_utf8(&text[..len]).unwrap_or("");
    let line = text.lines().find_map(|line| line.strip_prefix("Threads:"));
    line.and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// What threads share, and what is their own.
fn identity() {
    const THREADS: usize = 4;
    let page = words();
    let threads: [Thread; THREADS] = core::array::from_fn(|index| {
        spawn(move || {
            let here = 0;
            let near = (&raw const here as usize).abs_diff(thread::pointer()) < 8 * 4096;
            let own = process::getpid() != thread::gettid();
            long(page, 8 + index).store(u64::from(near && own), SeqCst);
            long(page, index).store(thread::gettid() as u64, SeqCst);
            long(page, 30).fetch_add(process::getpid() as u64, SeqCst);
        })
    });
    let tids = threads.each_ref().map(|thread| thread.tid() as u64);
    for thread in threads {
        thread.join().or_fail("munmap");
    }
    let right = (0..THREADS).all(|index| {
        let said = long(page, index).load(SeqCst);
        said == tids[index] && long(page, 8 + index).load(SeqCst) == 1
    });
    let pid = process::getpid() as u64;
    println!("numbers and stacks of their own: {right}");
    println!(
        "one process: {}",
        long(page, 30).load(SeqCst) == THREADS as u64 * pid
    );
    println!("first: {}", thread::gettid() == process::getpid());
}

/// What membarrier knows and refuses; and several threads that want barriers of each other.
fn barriers() {
    const ROUNDS: u32 = 300;
    let membarrier = |command: usize, flags| call(__NR_membarrier, [command, flags, 0]);
    let known = membarrier(0, 0).or_fail("membarrier");
    println!(
        "membarrier: {:#x}, {:?} {:?} {:?}",
        known & 0x18,
        membarrier(8, 0),
        membarrier(16, 1),
        membarrier(1 << 20, 0)
    );
    membarrier(16, 0).or_fail("membarrier");
    let page = words();
    let all_at_once = move || {
        for _ in 0..ROUNDS {
            membarrier(8, 0).or_fail("membarrier");
            word(page, 0).fetch_add(1, SeqCst);
        }
    };
    let threads = [(); 4].map(|()| spawn(all_at_once));
    for thread in threads {
        thread.join().or_fail("munmap");
    }
    println!("barriers: {}", word(page, 0).load(SeqCst));
}

/// RLIMIT_NPROC counts threads.
fn limits() {
    let few = [3u64, 3];
    let child = process::fork_child(|| {
        let limit = [0, RLIMIT_NPROC as usize, few.as_ptr().addr(), 0];
        call(__NR_prlimit64, limit).or_fail("prlimit64");
        call(__NR_setresuid, [1000, 1000, 1000]).or_fail("setresuid");
        let page = words();
        let wait = move || until(|| word(page, 0).load(SeqCst) != 0);
        let mut made = 0;
        let refused = loop {
            match Thread::spawn(wait) {
                Ok(_) => made += 1,
                Err(error) => break error,
            }
        };
        let fork = process::fork_child(|| 0);
        println!("limited to 3: {made} more, then {refused:?}; {fork:?}");
        word(page, 0).store(1, SeqCst);
        0
    });
    process::expect_success(child.or_fail("fork"));
}

/// Each thread has a name, and starts with its maker's.
fn names() {
    fn name() -> [u8; 16] {
        let mut name = [0; 16];
        call(__NR_prctl, [PR_GET_NAME, name.as_mut_ptr().addr()]).or_fail("prctl");
        name
    }
    fn rename(name: &core::ffi::CStr) {
        call(__NR_prctl, [PR_SET_NAME, name.as_ptr().addr()]).or_fail("prctl");
    }
    const PR_SET_NAME: usize = 15;
    const PR_GET_NAME: usize = 16;
    let page = words();
    rename(c"boss");
    let worker = spawn(move || {
        let inherited = name().starts_with(b"boss\0");
        rename(c"worker");
        let renamed = name().starts_with(b"worker\0");
        word(page, 0).store(u32::from(inherited) + u32::from(renamed), SeqCst);
        // Writes something under its name, for the trace.
        own_words().write(0, 1);
    });
    worker.join().or_fail("munmap");
    println!(
        "names: {} {}",
        word(page, 0).load(SeqCst),
        name().starts_with(b"boss\0")
    );
}

/// A thread runs where it may, and nowhere else.
fn affinity() {
    let page = words();
    let all = process::cpus().or_fail("sched_getaffinity");
    for cpu in (0..64).filter(|cpu| all & 1 << cpu != 0) {
        let thread = spawn(move || {
            process::run_on(1 << cpu).or_fail("sched_setaffinity");
            for _ in 0..20 {
                nap();
                let here = process::cpu().or_fail("getcpu");
                check!(here == cpu, "on CPU {here}, not {cpu}");
            }
            word(page, 0).fetch_add(1, SeqCst);
        });
        thread.join().or_fail("munmap");
    }
    let moved = spawn(move || {
        until(|| word(page, 1).load(SeqCst) != 0);
        word(page, 2).store(process::cpu().or_fail("getcpu") as u32 + 1, SeqCst);
    });
    let first = all & all.wrapping_neg();
    call(
        __NR_sched_setaffinity,
        [moved.tid() as usize, 8, (&raw const first).addr()],
    )
    .or_fail("sched_setaffinity");
    word(page, 1).store(1, SeqCst);
    moved.join().or_fail("munmap");
    println!(
        "affinity: {} {}",
        word(page, 0).load(SeqCst) == all.count_ones(),
        word(page, 2).load(SeqCst) == 1 + first.trailing_zeros()
    );
    let own = process::cpus().or_fail("sched_getaffinity");
    println!("the others' is as it was: {}", own == all);
}
