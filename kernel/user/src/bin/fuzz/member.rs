//! A process that makes random calls.

use crate::arguments::{Arguments, mend};
use crate::calls::{CALLS, ENDS, NOT_FOR_ROOT};
use crate::invoke;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use user::file::{self, Fd};
use user::linux::*;
use user::net::{AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM};
use user::signal::{self, Action, Context, Info};
use user::{OrFail, Rng, process, syscall};

/// Nobody: a user without rights, and the group.
const NOBODY: usize = 65534;
/// Descriptors that a process may have.
const DESCRIPTORS: usize = 64;
/// Who sleeps is woken after so many microseconds.
const WAKE: u64 = 3_000;

extern "C" fn wake(_: u32, _: &mut Info, _: &mut Context) {}

/// A fault in the pages that the calls are given; any other one is the end.
extern "C" fn fault(_: u32, info: &mut Info, _: &mut Context) {
    if !mend(info.first as usize) {
        process::exit(1);
    }
}

/// Such a process.
pub struct Member {
    arguments: Arguments,
    made: &'static AtomicU64,
    root: bool,
}

impl Member {
    /// Gets everything that the calls may find.
    pub fn new(seed: u64, made: &'static AtomicU64) -> Member {
        let mut arguments = Arguments::new(Rng::with_seed(seed));
        let root = arguments.once_in(4);
        invoke(__NR_setsid, []).or_fail("setsid");
        open_all();
        // Root must not get out of the directory: there, it could spoil everything.
        if root {
            invoke(__NR_chroot, [c".".as_ptr() as usize]).or_fail("chroot");
        }
        for (resource, limit) in [
            (RLIMIT_AS, 256 << 20),
            (RLIMIT_FSIZE, 1 << 20),
            (RLIMIT_NOFILE, DESCRIPTORS as u64),
            (RLIMIT_NPROC, 20),
            (RLIMIT_CPU, 10),
        ] {
            let limits = [limit; 2];
            let to = limits.as_ptr() as usize;
            invoke(__NR_setrlimit, [resource as usize, to]).or_fail("setrlimit");
        }
        if !root {
            invoke(__NR_setgroups, [0, 0]).or_fail("setgroups");
            invoke(__NR_setresgid, [NOBODY; 3]).or_fail("setresgid");
            invoke(__NR_setresuid, [NOBODY; 3]).or_fail("setresuid");
        }
        signal::set_mask(0).or_fail("rt_sigprocmask");
        signal::set_action(SIGXFSZ, &Action::IGNORE).or_fail("rt_sigaction");
        signal::set_action(SIGPIPE, &Action::IGNORE).or_fail("rt_sigaction");
        signal::set_action(SIGALRM, &Action::call(wake, 0)).or_fail("rt_sigaction");
        for number in [SIGSEGV, SIGBUS] {
            signal::set_action(number, &Action::call(fault, SA_NODEFER)).or_fail("rt_sigaction");
        }
        let interval = [0, WAKE, 0, WAKE];
        let to = interval.as_ptr() as usize;
        invoke(__NR_setitimer, [ITIMER_REAL as usize, to, 0]).or_fail("setitimer");
        Member {
            arguments,
            made,
            root,
        }
    }

    /// Makes so many calls; a child of them makes some more.
    pub fn run(mut self, mut calls: u64) -> i32 {
        let mut pid = process::getpid();
        while calls > 0 {
            calls -= 1;
            let (number, kinds) = self.choose();
            if self.root && NOT_FOR_ROOT.contains(&number) {
                continue;
            }
            let mut arguments = [0; 6];
            for (argument, &kind) in arguments.iter_mut().zip(kinds.as_bytes()) {
                *argument = self.arguments.of(kind);
            }
            self.made.fetch_add(1, Relaxed);
            // SAFETY: nothing promises that this process survives its calls: that is what is tried
            // here. It has no memory that others rely on but the count.
            let _ = unsafe { syscall(number, arguments) };
            let now = process::getpid();
            if now != pid {
                pid = now;
                calls /= 4;
                self.arguments.reseed(now as u64);
            }
        }
        0
    }

    fn choose(&mut self) -> (u32, &'static str) {
        let known = |list: &[(u32, &'static str)], arguments: &mut Arguments| {
            list[arguments.below(list.len())]
        };
        match self.arguments.below(50) {
            0 => (self.arguments.below(512) as u32, "xxxxxx"),
            1 => (self.arguments.below(512) as u32, "bnbnbn"),
            2 if self.arguments.once_in(8) => (self.arguments.noise() as u32, "xxxxxx"),
            3 => known(ENDS, &mut self.arguments),
            _ => known(CALLS, &mut self.arguments),
        }
    }
}

/// Descriptors of all kinds, and none of the terminal's.
fn open_all() {
    let null = file::open(c"/dev/null", O_RDWR).or_fail("open");
    for fd in 0..3 {
        file::dup3(null, fd, 0).or_fail("dup3");
    }
    let quiet = O_RDWR | O_NONBLOCK;
    for (path, flags) in [
        (c"file", O_RDWR),
        (c"other", O_RDWR | O_APPEND),
        (c"folder", O_RDONLY),
        (c"fifo", quiet),
        (c"link", O_PATH | O_NOFOLLOW),
        (c"/dev/zero", O_RDWR),
        (c"/dev/full", O_RDWR),
        (c"/dev/urandom", O_RDWR),
        (c"/proc/self/maps", O_RDONLY),
        (c"/proc/self/smaps", O_RDONLY),
        (c"/proc/self/stat", O_RDONLY),
        (c"/proc/self/status", O_RDONLY),
        (c"/proc/meminfo", O_RDONLY),
    ] {
        file::open(path, flags).or_fail("open");
    }
    for flags in [0, O_NONBLOCK, O_DIRECT] {
        file::pipe2(flags).or_fail("pipe");
    }
    // AF_UNIX: a stream that sleeps, and packets that do not.
    let mut ends: [[Fd; 2]; 2] = [[0; 2]; 2];
    for (kind, ends) in [SOCK_STREAM, SOCK_SEQPACKET | O_NONBLOCK]
        .into_iter()
        .zip(&mut ends)
    {
        let to = ends.as_mut_ptr() as usize;
        invoke(__NR_socketpair, [AF_UNIX as usize, kind as usize, 0, to]).or_fail("socketpair");
    }
    let mask: u64 = 1 << (SIGUSR1 - 1);
    let mask = &raw const mask as usize;
    for made in [
        invoke(__NR_eventfd2, [3, 0]),
        invoke(__NR_eventfd2, [0, O_NONBLOCK as usize]),
        invoke(__NR_timerfd_create, [CLOCK_MONOTONIC as usize, 0]),
        invoke(__NR_signalfd4, [usize::MAX, mask, 8, 0]),
        invoke(__NR_epoll_create1, [0]),
        invoke(__NR_epoll_create1, [0]),
    ] {
        let _: Fd = made.or_fail("making a descriptor") as Fd;
    }
}
