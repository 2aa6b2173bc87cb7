//! Calls that sleep, and what a signal makes of each: with a handler, with one that starts calls over
//! (SA_RESTART), and by stopping and continuing. A line per case; Linux must print the same.
//!
//! A child sleeps. Its parent waits until /proc says so, does something to it, waits until it sleeps
//! again or has ended, and ends what it sleeps for.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use user::file::{self, Fd, Pipe};
use user::linux::*;
use user::memory::Pages;
use user::net::*;
use user::process::{self, Pid};
use user::signal::{self, Action, Context, Info, set};
use user::text::Text;
use user::{Args, OrFail, Result, println, syscall, thread, time};

user::program!(main, "usage: sleeps");

const MILLISECOND: u64 = 1_000_000;

/// What is done to a sleeper.
#[derive(Clone, Copy, Debug)]
enum Way {
    Handler,
    Restart,
    Stop,
    Ignored,
}

static HANDLED: AtomicU32 = AtomicU32::new(0);
/// The child of the case, for its parent.
static SLEEPER: AtomicI32 = AtomicI32::new(0);

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    signal::set_action(SIGPIPE, &Action::IGNORE).or_fail("sigaction");
    for way in [Way::Handler, Way::Restart, Way::Stop, Way::Ignored] {
        println!("{way:?}");
        pipes(way);
        pumps(way);
        sockets(way);
        events(way);
        locks(way);
        times(way);
        signals(way);
        children(way);
    }
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or none.
    unsafe { syscall(number, arguments) }
}

/// The letter of a process's state.
fn state(pid: Pid) -> u8 {
    let path = Text::new(format_args!("/proc/{pid}/stat"));
    let fd = file::open(path.as_c_str(), O_RDONLY).or_fail("opening /proc/PID/stat");
    let mut bytes = [0; 512];
    let count = file::read(fd, &mut bytes).or_fail("reading /proc/PID/stat");
    file::close(fd).or_fail("close");
    let behind = bytes[..count].iter().position(|&byte| byte == b')');
    behind.map_or(0, |at| bytes[at + 2])
}

/// Waits until it sleeps (S), or has ended (Z).
fn settled(pid: Pid) -> u8 {
    loop {
        match state(pid) {
            state @ (b'S' | b'Z') => return state,
            _ => {
                let _ = time::sleep(MILLISECOND / 2);
            }
        }
    }
}

extern "C" fn handle(_: u32, _: &mut Info, _: &mut Context) {
    HANDLED.fetch_add(1, Relaxed);
}

/// One case. `finish` ends the sleep.
fn case(what: &str, way: Way, sleep: impl FnOnce() -> Result<usize>, finish: impl FnOnce()) {
    let child = process::fork_child(|| {
        let action = match way {
            Way::Handler | Way::Stop => Action::call(handle, SA_SIGINFO),
            Way::Restart => Action::call(handle, SA_SIGINFO | SA_RESTART),
            Way::Ignored => Action::IGNORE,
        };
        signal::set_action(SIGUSR1, &action).or_fail("sigaction");
        let result = sleep();
        println!("{what}: {result:?}, handlers {}", HANDLED.load(Relaxed));
        0
    })
    .or_fail("fork");
    SLEEPER.store(child, Relaxed);
    if settled(child) == b'Z' {
        println!("{what}: it did not sleep");
    }
    match way {
        Way::Stop => {
            signal::kill(child, SIGSTOP).or_fail("kill");
            process::wait_raw(child, WUNTRACED).or_fail("wait4");
            signal::kill(child, SIGCONT).or_fail("kill");
        }
        _ => signal::kill(child, SIGUSR1).or_fail("kill"),
    }
    if settled(child) == b'S' {
        finish();
    }
    let (_, status) = process::wait_raw(child, 0).or_fail("wait4");
    if status != 0 {
        println!("{what}: status {status:#x}");
    }
}

fn pipe() -> Pipe {
    file::pipe2(0).or_fail("pipe")
}

/// A pipe that is full.
fn full() -> Pipe {
    let pipe = file::pipe2(O_NONBLOCK).or_fail("pipe");
    while file::write(pipe.writer, &[0; 4096]).is_ok() {}
    for end in [pipe.reader, pipe.writer] {
        call(__NR_fcntl, [end as usize, F_SETFL as usize, 0]).or_fail("fcntl");
    }
    pipe
}

fn close(fds: &[Fd]) {
    for &fd in fds {
        file::close(fd).or_fail("close");
    }
}

fn put(fd: Fd) {
    file::write_all(fd, b"x").or_fail("write");
}

/// Takes what there is.
fn take(fd: Fd) {
    let mut bytes = [0; 70_000];
    file::read(fd, &mut bytes).or_fail("read");
}

/// Takes what there may be, without waiting.
fn empty(pipe: &Pipe) {
    put(pipe.writer);
    take(pipe.reader);
}

fn pipes(way: Way) {
    let Pipe { reader, writer } = pipe();
    case(
        "read",
        way,
        || file::read(reader, &mut [0; 4]),
        || put(writer),
    );
    let mut bytes = [0u8; 4];
    let vector = [bytes.as_mut_ptr() as usize, 4];
    let readv = || call(__NR_readv, [reader as usize, vector.as_ptr() as usize, 1]);
    case("readv", way, readv, || put(writer));
    case(
        "read of one that is closed",
        way,
        || {
            file::close(writer)?;
            file::read(reader, &mut [0; 4])
        },
        || {
            put(writer);
        },
    );
    close(&[reader, writer]);
    let Pipe { reader, writer } = full();
    case(
        "write",
        way,
        || file::write(writer, b"xyz"),
        || take(reader),
    );
    close(&[reader, writer]);
    let Pipe { reader, writer } = full();
    case(
        "write of much",
        way,
        || file::write(writer, &[1; 10_000]),
        || {
            take(reader);
            take(reader);
        },
    );
    close(&[reader, writer]);
    let Pipe { reader, writer } = pipe();
    case(
        "write of more than there is room",
        way,
        || file::write(writer, &[1; 70_000]),
        || {
            take(reader);
            take(reader);
        },
    );
    close(&[reader, writer]);

    let name = c"/tmp/sleeps-fifo";
    let at = AT_FDCWD as usize;
    call(
        __NR_mknodat,
        [at, name.as_ptr() as usize, (S_IFIFO | 0o600) as usize, 0],
    )
    .or_fail("mknod");
    let open = || file::open(name, O_RDONLY).map(|_| 0);
    case("open of a fifo", way, open, || {
        file::open(name, O_WRONLY)
            .and_then(file::close)
            .or_fail("open");
    });
    call(__NR_unlinkat, [at, name.as_ptr() as usize, 0]).or_fail("unlink");
}

fn pumps(way: Way) {
    let (from, to) = (pipe(), pipe());
    let splice = || {
        call(
            __NR_splice,
            [from.reader as usize, 0, to.writer as usize, 0, 10, 0],
        )
    };
    case("splice", way, splice, || put(from.writer));
    let tee = || call(__NR_tee, [from.reader as usize, to.writer as usize, 10, 0]);
    case("tee", way, tee, || put(from.writer));
    close(&[from.reader, from.writer, to.reader, to.writer]);
    let (from, to) = (pipe(), full());
    put(from.writer);
    let splice = || {
        call(
            __NR_splice,
            [from.reader as usize, 0, to.writer as usize, 0, 10, 0],
        )
    };
    case("splice to a full one", way, splice, || take(to.reader));
    close(&[to.reader, to.writer]);
    let to = full();
    let bytes = [1u8; 16];
    let vector = [bytes.as_ptr() as usize, 16];
    let vmsplice = || {
        call(
            __NR_vmsplice,
            [to.writer as usize, vector.as_ptr() as usize, 1, 0],
        )
    };
    case("vmsplice", way, vmsplice, || take(to.reader));
    close(&[to.reader, to.writer, from.reader, from.writer]);
    let to = full();
    let file = file::open(c"/bin/sleeps", O_RDONLY).or_fail("open");
    let sendfile = || call(__NR_sendfile, [to.writer as usize, file as usize, 0, 100]);
    case("sendfile", way, sendfile, || take(to.reader));
    close(&[to.reader, to.writer, file]);
}

fn pair(kind: u32) -> [Fd; 2] {
    let mut ends = [0; 2];
    let to = ends.as_mut_ptr() as usize;
    call(__NR_socketpair, [AF_UNIX as usize, kind as usize, 0, to]).or_fail("socketpair");
    ends
}

fn sockets(way: Way) {
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        let [one, two] = pair(kind);
        let mut bytes = [0u8; 8];
        let to = bytes.as_mut_ptr() as usize;
        let receive = || call(__NR_recvfrom, [one as usize, to, 8, 0, 0, 0]);
        case("recv", way, receive, || put(two));
        case(
            "read of a socket",
            way,
            || file::read(one, &mut [0; 4]),
            || put(two),
        );
        let wait_all = MSG_WAITALL as usize;
        let receive = || call(__NR_recvfrom, [one as usize, to, 2, wait_all, 0, 0]);
        case("recv of all", way, receive, || {
            put(two);
            put(two);
        });
        close(&[one, two]);
        let [one, two] = pair(kind);
        let wait = MSG_DONTWAIT as usize;
        let some = [0u8; 4096];
        let from = some.as_ptr() as usize;
        while call(__NR_sendto, [one as usize, from, 4096, wait, 0, 0]).is_ok() {}
        let no_signal = MSG_NOSIGNAL as usize;
        let send = || call(__NR_sendto, [one as usize, from, 4096, no_signal, 0, 0]);
        case("send", way, send, || {
            for _ in 0..200 {
                let mut bytes = [0; 4096];
                let to = bytes.as_mut_ptr() as usize;
                let _ = call(__NR_recvfrom, [two as usize, to, 4096, wait, 0, 0]);
            }
        });
        close(&[one, two]);
    }
    let socket =
        || call(__NR_socket, [AF_UNIX as usize, SOCK_STREAM as usize, 0]).or_fail("socket") as Fd;
    // An abstract name.
    let mut address = [0u8; 10];
    address[0] = AF_UNIX as u8;
    address[3..].copy_from_slice(b"sleeper");
    let (at, len) = (address.as_ptr() as usize, address.len());
    let (server, one, two) = (socket(), socket(), socket());
    call(__NR_bind, [server as usize, at, len]).or_fail("bind");
    call(__NR_listen, [server as usize, 0]).or_fail("listen");
    let accept = || call(__NR_accept, [server as usize, 0, 0]).map(|_| 0);
    case("accept", way, accept, || {
        call(__NR_connect, [one as usize, at, len]).or_fail("connect");
    });
    file::close(one).or_fail("close");
    let one = socket();
    call(__NR_connect, [one as usize, at, len]).or_fail("connect");
    let connect = || call(__NR_connect, [two as usize, at, len]);
    case("connect", way, connect, || {
        let end = call(__NR_accept, [server as usize, 0, 0]).or_fail("accept");
        close(&[end as Fd]);
    });
    close(&[server, one, two]);
}

fn events(way: Way) {
    let ends = pipe();
    let Pipe { reader, writer } = ends;
    let ask = [u64::from(reader as u32) | u64::from(POLLIN) << 32];
    let poll = || call(__NR_ppoll, [ask.as_ptr() as usize, 1, 0, 0, 0]);
    case("ppoll", way, poll, || put(writer));
    empty(&ends);
    let long = [3600u64, 0];
    let poll = || {
        let mut left = long;
        call(
            __NR_ppoll,
            [ask.as_ptr() as usize, 1, left.as_mut_ptr() as usize, 0, 0],
        )
    };
    case("ppoll with a time", way, poll, || put(writer));
    empty(&ends);
    let select = || {
        let mut files = [1u64 << reader; 16];
        let (to, count) = (files.as_mut_ptr() as usize, reader as usize + 1);
        call(__NR_pselect6, [count, to, 0, 0, 0, 0])
    };
    case("pselect6", way, select, || put(writer));
    empty(&ends);
    let epoll = call(__NR_epoll_create1, [0]).or_fail("epoll_create1");
    let event = [u64::from(EPOLLIN), 1];
    let add = [
        epoll,
        EPOLL_CTL_ADD as usize,
        reader as usize,
        event.as_ptr() as usize,
    ];
    call(__NR_epoll_ctl, add).or_fail("epoll_ctl");
    let wait = || {
        let mut events = [[0u64; 2]; 2];
        call(
            __NR_epoll_pwait,
            [epoll, events.as_mut_ptr() as usize, 2, usize::MAX, 0, 8],
        )
    };
    case("epoll_pwait", way, wait, || put(writer));
    close(&[reader, writer, epoll as Fd]);

    let event = call(__NR_eventfd2, [0, 0]).or_fail("eventfd2") as Fd;
    let write = |value: u64| file::write(event, &value.to_le_bytes());
    case(
        "eventfd",
        way,
        || file::read(event, &mut [0; 8]),
        || {
            write(1).or_fail("write");
        },
    );
    let _ = call(
        __NR_fcntl,
        [event as usize, F_SETFL as usize, O_NONBLOCK as usize],
    );
    let _ = file::read(event, &mut [0; 8]);
    let _ = call(__NR_fcntl, [event as usize, F_SETFL as usize, 0]);
    write(u64::MAX - 1).or_fail("write");
    case(
        "a full eventfd",
        way,
        || write(1),
        || {
            file::read(event, &mut [0; 8]).or_fail("read");
        },
    );
    let timer = call(__NR_timerfd_create, [CLOCK_MONOTONIC as usize, 0]).or_fail("timerfd") as Fd;
    case(
        "timerfd",
        way,
        || file::read(timer, &mut [0; 8]),
        || {
            let soon = [0u64, 0, 0, 1];
            call(
                __NR_timerfd_settime,
                [timer as usize, 0, soon.as_ptr() as usize, 0],
            )
            .or_fail("settime");
        },
    );
    close(&[event, timer]);

    let word = Pages::map_shared(1).or_fail("mmap");
    // SAFETY: a word that is there, and accessed only so.
    let word = unsafe { AtomicU32::from_ptr(word.address(0) as *mut u32) };
    let wake = || {
        thread::futex(word, FUTEX_WAKE, 1, 0, None, 0).or_fail("futex");
    };
    case(
        "futex",
        way,
        || thread::futex_wait(word, FUTEX_WAIT, 0, None),
        wake,
    );
    let hour = Some(3_600_000 * MILLISECOND);
    case(
        "futex with a time",
        way,
        || thread::futex_wait(word, FUTEX_WAIT, 0, hour),
        wake,
    );
}

fn locks(way: Way) {
    let name = c"/tmp/sleeps-lock";
    let arguments = [
        AT_FDCWD as usize,
        name.as_ptr() as usize,
        (O_RDWR | O_CREAT) as usize,
        0o600,
    ];
    let file = call(__NR_openat, arguments).or_fail("open") as Fd;
    let lock = |operation: u32| call(__NR_flock, [file as usize, operation as usize]);
    lock(LOCK_EX).or_fail("flock");
    let flock = || {
        let other = file::open(name, O_RDWR)?;
        call(__NR_flock, [other as usize, LOCK_EX as usize])
    };
    case("flock", way, flock, || {
        lock(LOCK_UN).or_fail("flock");
    });
    let _ = lock(LOCK_UN);
    let record = |kind: u32| {
        let record = [u64::from(kind), 0, 0, 0];
        call(
            __NR_fcntl,
            [file as usize, F_SETLKW as usize, record.as_ptr() as usize],
        )
    };
    record(F_WRLCK).or_fail("fcntl");
    case(
        "fcntl",
        way,
        || record(F_WRLCK),
        || {
            record(F_UNLCK).or_fail("fcntl");
        },
    );
    close(&[file]);
    call(
        __NR_unlinkat,
        [AT_FDCWD as usize, name.as_ptr() as usize, 0],
    )
    .or_fail("unlink");
}

fn times(way: Way) {
    let half = || {
        time::sleep(500 * MILLISECOND)
            .map(|()| 0)
            .map_err(|(errno, _)| errno)
    };
    case("nanosleep", way, half, || {});
    let now = time::now().or_fail("clock_gettime") + 500 * MILLISECOND;
    let until = [now / 1_000_000_000, now % 1_000_000_000];
    let sleep = || {
        let (clock, flags) = (CLOCK_MONOTONIC as usize, TIMER_ABSTIME as usize);
        call(
            __NR_clock_nanosleep,
            [clock, flags, until.as_ptr() as usize, 0],
        )
    };
    case("clock_nanosleep", way, sleep, || {});
}

fn signals(way: Way) {
    signal::block(set(SIGUSR2)).or_fail("mask");
    let suspend = || {
        signal::set_action(SIGUSR2, &Action::call(handle, SA_SIGINFO)).or_fail("sigaction");
        Err(signal::suspend(0))
    };
    let tell = || signal::kill(SLEEPER.load(Relaxed), SIGUSR2).or_fail("kill");
    case("sigsuspend", way, suspend, tell);
    let wait =
        || signal::wait(set(SIGUSR2), 3_600_000 * MILLISECOND).map(|info| info.signal as usize);
    case("sigtimedwait", way, wait, tell);
    let fd = {
        let mask = set(SIGUSR2);
        call(
            __NR_signalfd4,
            [usize::MAX, (&raw const mask) as usize, 8, 0],
        )
        .or_fail("signalfd4") as Fd
    };
    case("signalfd", way, || file::read(fd, &mut [0; 128]), tell);
    close(&[fd]);
    signal::set_mask(0).or_fail("mask");
}

fn children(way: Way) {
    let child_of = |pipe: Pipe| {
        process::fork_child(|| {
            let _ = file::read(pipe.reader, &mut [0; 1]);
            7
        })
    };
    let ends = pipe();
    let wait = || {
        let child = child_of(ends)?;
        process::wait_raw(child, 0).map(|(_, status)| status as usize)
    };
    case("wait4", way, wait, || put(ends.writer));
    // Where the wait was ended, that of the child's child was not.
    put(ends.writer);
    close(&[ends.reader, ends.writer]);
    let ends = pipe();
    let wait = || {
        let child = child_of(ends)?;
        let mut info = Info::default();
        let to = (&raw mut info) as usize;
        call(
            __NR_waitid,
            [P_PID as usize, child as usize, to, WEXITED as usize, 0],
        )
    };
    case("waitid", way, wait, || put(ends.writer));
    put(ends.writer);
    close(&[ends.reader, ends.writer]);
}
