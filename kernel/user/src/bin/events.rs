//! epoll, eventfd, timerfd and signalfd, and the limit of descriptors: a line per case. Run on Linux and
//! here, it must print the same.
#![no_std]
#![no_main]

use core::fmt::Display;
use user::file::{self, Fd, Pipe};
use user::linux::*;
use user::process;
use user::{Args, OrFail, Result, println, syscall};

user::program!(main, "usage: events");

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    counters();
    timers();
    signals();
    level_and_edge();
    errors();
    limits();
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or none.
    unsafe { syscall(number, arguments) }
}

fn show(case: impl Display, result: Result<usize>) {
    match result {
        Ok(value) => println!("{case}: {value}"),
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn read_u64(fd: Fd) -> Result<usize> {
    let mut bytes = [0; 8];
    file::read(fd, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes) as usize)
}

fn write_u64(fd: Fd, value: u64) -> Result<usize> {
    file::write(fd, &value.to_le_bytes())
}

fn make<const N: usize>(number: u32, arguments: [usize; N]) -> Fd {
    call(number, arguments).or_fail("a descriptor") as Fd
}

fn counters() {
    let plain = make(__NR_eventfd2, [3, EFD_NONBLOCK as usize]);
    show("a count", read_u64(plain));
    show("no count", read_u64(plain));
    show("a write", write_u64(plain, u64::MAX - 1));
    show("one more", write_u64(plain, 1));
    show("the largest", write_u64(plain, u64::MAX));
    show("too short", file::write(plain, b"1234"));
    show("all of it", read_u64(plain));
    let few = make(__NR_eventfd2, [2, (EFD_NONBLOCK | EFD_SEMAPHORE) as usize]);
    for _ in 0..3 {
        show("a semaphore", read_u64(few));
    }
    show("flags", call(__NR_eventfd2, [0, 4]));
    // A reader that waits.
    let event = make(__NR_eventfd2, [0, 0]);
    let child = process::fork_child(|| {
        show("the other's", read_u64(event));
        0
    });
    let child = child.or_fail("fork");
    write_u64(event, 7).or_fail("writing");
    process::wait(child).or_fail("waiting");
}

/// A `struct itimerspec`, in milliseconds.
fn setting(interval: u64, value: u64) -> [u64; 4] {
    let time = |ms: u64| [ms / 1000, ms % 1000 * 1_000_000];
    let ([a, b], [c, d]) = (time(interval), time(value));
    [a, b, c, d]
}

fn settime(fd: Fd, setting: &[u64; 4]) -> Result<usize> {
    call(
        __NR_timerfd_settime,
        [fd as usize, 0, setting.as_ptr() as usize, 0],
    )
}

fn timers() {
    let timer = make(
        __NR_timerfd_create,
        [CLOCK_MONOTONIC as usize, TFD_NONBLOCK as usize],
    );
    show("not set", read_u64(timer));
    show("once", settime(timer, &setting(0, 20)));
    show("too early", read_u64(timer));
    let waits = make(__NR_timerfd_create, [CLOCK_REALTIME as usize, 0]);
    settime(waits, &setting(0, 30)).or_fail("setting");
    show("it ends", read_u64(waits));
    show("so has the other", read_u64(timer));
    show("only once", read_u64(timer));
    settime(waits, &setting(1000, 1)).or_fail("setting");
    show("the first time", read_u64(waits));
    let mut left = [0_u64; 4];
    show(
        "what is left",
        call(
            __NR_timerfd_gettime,
            [waits as usize, left.as_mut_ptr() as usize],
        ),
    );
    println!("a second in between: {}, {}", left[0], left[2] == 0);
    settime(waits, &setting(0, 0)).or_fail("setting");
    show("a bad time", settime(waits, &[0, 2_000_000_000, 0, 0]));
    show("a bad clock", call(__NR_timerfd_create, [99, 0]));
    show("no timer", settime(1, &setting(0, 0)));
}

fn signals() {
    let mask: u64 = 1 << (SIGUSR1 - 1) | 1 << (SIGCHLD - 1);
    let address = &raw const mask as usize;
    call(__NR_rt_sigprocmask, [SIG_BLOCK as usize, address, 0, 8]).or_fail("blocking");
    let fd = make(
        __NR_signalfd4,
        [usize::MAX, address, 8, EFD_NONBLOCK as usize],
    );
    let mut info = [0_u8; 256];
    show("no signal", file::read(fd, &mut info));
    let me = call(__NR_getpid, []).or_fail("getpid");
    call(__NR_kill, [me, SIGUSR1 as usize]).or_fail("kill");
    let word = |info: &[u8], at: usize| {
        u32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]])
    };
    show("a signal", file::read(fd, &mut info));
    println!(
        "its number {}, code {}, from here {}",
        word(&info, 0),
        word(&info, 8) as i32,
        word(&info, 12) as usize == me
    );
    let child = process::fork_child(|| 5).or_fail("fork");
    let epoll = make(__NR_epoll_create1, [0]);
    show("watched", control(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, 1));
    show("told of", wait(epoll, 2000));
    show("of a child", file::read(fd, &mut info));
    println!(
        "number {}, code {}, status {}",
        word(&info, 0),
        word(&info, 8) as i32,
        word(&info, 40)
    );
    process::wait(child).or_fail("waiting");
    show("too short", file::read(fd, &mut info[..100]));
    show("not a signalfd", call(__NR_signalfd4, [1, address, 8, 0]));
    close(epoll);
    close(fd);
}

fn close(fd: Fd) {
    file::close(fd).or_fail("closing");
}

fn control(epoll: Fd, operation: u32, fd: Fd, events: u32, data: u64) -> Result<usize> {
    let event = [u64::from(events), data];
    call(
        __NR_epoll_ctl,
        [
            epoll as usize,
            operation as usize,
            fd as usize,
            event.as_ptr() as usize,
        ],
    )
}

/// Waits; prints what is told, by the data.
fn wait(epoll: Fd, milliseconds: usize) -> Result<usize> {
    let mut events = [[0_u64; 2]; 8];
    let count = call(
        __NR_epoll_pwait,
        [
            epoll as usize,
            events.as_mut_ptr() as usize,
            events.len(),
            milliseconds,
            0,
            8,
        ],
    )?;
    events[..count].sort_unstable_by_key(|event| event[1]);
    for [what, data] in &events[..count] {
        println!("  {data}: {:#x}", *what as u32);
    }
    Ok(count)
}

fn level_and_edge() {
    let epoll = make(__NR_epoll_create1, [0]);
    let Pipe { reader, writer } = file::pipe2(0).or_fail("pipe");
    let mut byte = [0];
    let write = || file::write_all(writer, b"x").or_fail("writing");
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN, 1).or_fail("adding");
    show("nothing", wait(epoll, 0));
    show("nothing for a while", wait(epoll, 10));
    write();
    show("level", wait(epoll, 0));
    show("again", wait(epoll, 0));
    control(epoll, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLET, 2).or_fail("changing");
    show("edge", wait(epoll, 0));
    show("no edge", wait(epoll, 0));
    write();
    show("another edge", wait(epoll, 0));
    control(epoll, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLONESHOT, 3).or_fail("changing");
    show("one shot", wait(epoll, 0));
    show("shot", wait(epoll, 0));
    control(epoll, EPOLL_CTL_MOD, reader, EPOLLIN, 4).or_fail("changing");
    control(epoll, EPOLL_CTL_ADD, writer, EPOLLOUT, 5).or_fail("adding");
    show("both", wait(epoll, 0));
    for _ in 0..2 {
        file::read(reader, &mut byte).or_fail("reading");
    }
    show("one of them", wait(epoll, 0));
    control(epoll, EPOLL_CTL_DEL, writer, 0, 0).or_fail("removing");
    show("none", wait(epoll, 0));
    let child = process::fork_child(|| {
        file::write_all(writer, b"y").or_fail("writing");
        0
    });
    show("another process's", wait(epoll, 5000));
    process::wait(child.or_fail("fork")).or_fail("waiting");
    // An epoll in an epoll.
    let outer = make(__NR_epoll_create1, [0]);
    control(outer, EPOLL_CTL_ADD, epoll, EPOLLIN, 6).or_fail("adding");
    show("nested", wait(outer, 0));
    show("a circle", control(epoll, EPOLL_CTL_ADD, outer, EPOLLIN, 7));
    file::read(reader, &mut byte).or_fail("reading");
    show("nested, nothing", wait(outer, 0));
    close(writer);
    show("hung up", wait(epoll, 0));
    // What is closed is watched no more.
    close(reader);
    show("closed", wait(epoll, 0));
    close(outer);
    close(epoll);
}

fn errors() {
    let epoll = make(__NR_epoll_create1, [0]);
    let Pipe { reader, writer } = file::pipe2(0).or_fail("pipe");
    control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN, 1).or_fail("adding");
    show("twice", control(epoll, EPOLL_CTL_ADD, reader, EPOLLIN, 1));
    show("absent", control(epoll, EPOLL_CTL_MOD, writer, EPOLLIN, 1));
    show("absent", control(epoll, EPOLL_CTL_DEL, writer, 0, 1));
    show("itself", control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN, 1));
    show("bad", control(epoll, EPOLL_CTL_ADD, 99, EPOLLIN, 1));
    show(
        "no epoll",
        control(reader, EPOLL_CTL_ADD, writer, EPOLLIN, 1),
    );
    show("operation", control(epoll, 9, reader, EPOLLIN, 1));
    let events = |count: usize| call(__NR_epoll_pwait, [epoll as usize, 0, count, 0, 0, 8]);
    show("no room", events(0));
    show("flags", call(__NR_epoll_create1, [1]));
    close(epoll);
    close(reader);
    close(writer);
}

fn limit(resource: u32, soft: u64) {
    let mut old = [0_u64; 2];
    call(
        __NR_prlimit64,
        [0, resource as usize, 0, old.as_mut_ptr() as usize],
    )
    .or_fail("the limit");
    let new = [soft, old[1]];
    call(
        __NR_prlimit64,
        [0, resource as usize, new.as_ptr() as usize, 0],
    )
    .or_fail("limiting");
}

fn limits() {
    let child = process::fork_child(|| {
        limit(RLIMIT_NOFILE, 10);
        let mut last = Ok(0);
        for _ in 0..20 {
            last = call(__NR_dup, [1]);
            if last.is_err() {
                break;
            }
        }
        show("too many", last);
        show("too high", call(__NR_dup3, [1, 10, 0]));
        show("higher", call(__NR_fcntl, [1, F_DUPFD as usize, 10]));
        0
    });
    process::wait(child.or_fail("fork")).or_fail("waiting");
}
