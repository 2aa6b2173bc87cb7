//! Resource limits that bite, a line per case. Run on Linux and here, by root, it must print the same.
#![no_std]
#![no_main]

use core::fmt::Display;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use user::file;
use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::net::{AF_UNIX, SOCK_STREAM};
use user::process::{self, Status};
use user::signal::{self, Action, Context, Info};
use user::{Args, OrFail, Result, println, syscall, text::Text};

user::program!(main, "usage: limits");

const RW: u32 = PROT_READ | PROT_WRITE;
const HERE: usize = AT_FDCWD as usize;

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    apart("files", descriptors);
    apart("file size", file_size);
    apart("address space", address_space);
    apart("data", data);
    apart("stack", stack);
    apart("processes", processes);
    cpu_time();
}

/// In a child, whose limits are its own.
fn apart(what: &str, cases: fn()) {
    println!("{what}:");
    let child = process::fork_child(|| {
        cases();
        0
    });
    process::expect_success(child.or_fail("fork"));
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or mappings where no Rust object lies.
    unsafe { syscall(number, arguments) }
}

fn show(case: impl Display, result: Result<usize>) {
    match result {
        Ok(value) => println!("{case}: {value}"),
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn set(resource: u32, soft: u64, hard: u64) {
    let limit = [soft, hard];
    let at = limit.as_ptr() as usize;
    call(__NR_prlimit64, [0, resource as usize, at, 0]).or_fail("prlimit64");
}

fn soft(resource: u32) -> u64 {
    let mut limit = [0u64; 2];
    let at = limit.as_mut_ptr() as usize;
    call(__NR_prlimit64, [0, resource as usize, 0, at]).or_fail("prlimit64");
    limit[0]
}

/// How a child ends.
fn end_of(case: impl Display, child: impl FnOnce() -> i32) {
    let child = process::fork_child(child).or_fail("fork");
    match process::wait(child).or_fail("wait") {
        Status::Exited(code) => println!("{case}: exit {code}"),
        status => println!("{case}: {status:?}"),
    }
}

/// Made something, whatever number it has.
fn made(result: Result<usize>) -> Result<usize> {
    result.map(|_| 0)
}

fn descriptors() {
    const LIMIT: usize = 8;
    let null = file::open(c"/dev/null", O_RDWR).or_fail("open") as usize;
    let cloned = |fd: usize| call(__NR_dup3, [null, fd, 0]);
    cloned(20).or_fail("dup3");
    set(RLIMIT_NOFILE, LIMIT as u64, LIMIT as u64);
    while call(__NR_dup, [null]).is_ok() {}
    show("dup", call(__NR_dup, [null]));
    show("dup3 below", cloned(LIMIT - 1));
    show("dup3 at the limit", cloned(LIMIT));
    show("dup3 above", cloned(20));
    show("what is above", call(__NR_fcntl, [20, F_GETFD as usize]));
    for from in [0, LIMIT - 1, LIMIT] {
        let duplicate = [null, F_DUPFD as usize, from];
        show(format_args!("F_DUPFD {from}"), call(__NR_fcntl, duplicate));
    }
    let name = c"/dev/null".as_ptr() as usize;
    show("open", call(__NR_openat, [HERE, name, 0, 0]));
    let mut two = [0u32; 2];
    let at = two.as_mut_ptr() as usize;
    show("pipe", call(__NR_pipe2, [at, 0]));
    let stream = [AF_UNIX as usize, SOCK_STREAM as usize, 0];
    show("socket", call(__NR_socket, stream));
    show(
        "socketpair",
        call(__NR_socketpair, [stream[0], stream[1], 0, at]),
    );
    show("epoll", call(__NR_epoll_create1, [0]));
    show("eventfd", call(__NR_eventfd2, [0, 0]));
    show("timerfd", call(__NR_timerfd_create, [0, 0]));
    call(__NR_close, [LIMIT - 1]).or_fail("close");
    show("one is free: pipe", call(__NR_pipe2, [at, 0]));
    show("dup", call(__NR_dup, [null]));
    let polled = [0u64; LIMIT + 1];
    let (at, time) = (polled.as_ptr() as usize, [0u64; 2]);
    let time = time.as_ptr() as usize;
    for count in [LIMIT, LIMIT + 1] {
        let result = call(__NR_ppoll, [at, count, time, 0, 0]);
        show(format_args!("poll {}", count - LIMIT), made(result));
    }
}

static COUNT: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: u32, _: &mut Info, _: &mut Context) {
    COUNT.fetch_add(1, Relaxed);
}

fn file_size() {
    let name = Text::new(format_args!("/tmp/limits-{}", process::getpid()));
    let path = name.as_c_str().as_ptr() as usize;
    let flags = (O_RDWR | O_CREAT | O_EXCL) as usize;
    let fd = call(__NR_openat, [HERE, path, flags, 0o600]).or_fail("open");
    let bytes = [b'l'; 2000];
    let from = bytes.as_ptr() as usize;
    signal::set_action(SIGXFSZ, &Action::call(count, 0)).or_fail("sigaction");
    // The limit is for the call alone: what is printed may go to a file as well.
    let told = |limit: u64, case: &str, number: u32, arguments: [usize; 4]| {
        set(RLIMIT_FSIZE, limit, u64::MAX);
        let result = call(number, arguments);
        set(RLIMIT_FSIZE, u64::MAX, u64::MAX);
        let signals = COUNT.swap(0, Relaxed);
        show(format_args!("{case}, {signals} signals"), result);
    };
    told(1000, "write", __NR_write, [fd, from, 2000, 0]);
    told(1000, "write at the limit", __NR_write, [fd, from, 1, 0]);
    told(1000, "write nothing", __NR_write, [fd, from, 0, 0]);
    told(1000, "across it", __NR_pwrite64, [fd, from, 10, 995]);
    told(1000, "above it", __NR_pwrite64, [fd, from, 10, 3000]);
    told(1000, "truncate above", __NR_ftruncate, [fd, 1001, 0, 0]);
    told(1000, "truncate to it", __NR_ftruncate, [fd, 1000, 0, 0]);
    told(1000, "truncate by name", __NR_truncate, [path, 5000, 0, 0]);
    told(1000, "allocate", __NR_fallocate, [fd, 0, 0, 1001]);
    told(1000, "allocate below", __NR_fallocate, [fd, 0, 0, 100]);
    let other = file::open(c"/proc/self/exe", O_RDONLY).or_fail("open") as usize;
    call(__NR_lseek, [fd, 900, SEEK_SET as usize]).or_fail("lseek");
    told(1000, "sendfile", __NR_sendfile, [fd, other, 0, 500]);
    told(1000, "sendfile at it", __NR_sendfile, [fd, other, 0, 500]);
    // What is there already does not matter.
    told(500, "inside", __NR_pwrite64, [fd, from, 10, 600]);
    told(500, "shorter", __NR_ftruncate, [fd, 800, 0, 0]);
    let pipe = file::pipe2(0).or_fail("pipe");
    told(
        500,
        "a pipe",
        __NR_write,
        [pipe.writer as usize, from, 2000, 0],
    );
    end_of("by default", || {
        signal::set_action(SIGXFSZ, &Action::DEFAULT).or_fail("sigaction");
        set(RLIMIT_CORE, 0, 0);
        set(RLIMIT_FSIZE, 500, u64::MAX);
        let _ = call(__NR_pwrite64, [fd, from, 10, 600]);
        0
    });
    call(__NR_unlinkat, [HERE, path, 0]).or_fail("unlink");
}

fn map_kind(pages: usize, prot: u32, flags: u32) -> Result<usize> {
    // SAFETY: no address is asked for.
    unsafe { memory::mmap(0, pages * PAGE_SIZE, prot, flags | MAP_ANONYMOUS, -1, 0) }
}

fn map(pages: usize, prot: u32) -> Result<usize> {
    map_kind(pages, prot, MAP_PRIVATE)
}

fn unmap(at: usize, pages: usize) {
    call(__NR_munmap, [at, pages * PAGE_SIZE]).or_fail("munmap");
}

/// Moves the break: whether it is there then.
fn grow_heap(bytes: usize) -> Result<usize> {
    let before = call(__NR_brk, [0])?;
    Ok(usize::from(call(__NR_brk, [before + bytes])? > before))
}

/// Pages that are mapped, by /proc/self/statm.
fn mapped() -> u64 {
    let fd = file::open(c"/proc/self/statm", O_RDONLY).or_fail("open");
    let mut text = [0u8; 64];
    let len = file::read(fd, &mut text).or_fail("read");
    file::close(fd).or_fail("close");
    let digits = text[..len].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0'))
}

fn address_space() {
    const ROOM: usize = 64;
    set(
        RLIMIT_AS,
        (mapped() + ROOM as u64) * PAGE_SIZE as u64,
        u64::MAX,
    );
    show("too much", made(map(ROOM + 1, RW)));
    show("inaccessible, too much", made(map(ROOM + 1, PROT_NONE)));
    let at = map(ROOM, PROT_NONE).or_fail("mmap");
    show("one more", made(map(1, PROT_READ)));
    show("shared", made(map_kind(1, RW, MAP_SHARED)));
    show("the heap", grow_heap(PAGE_SIZE));
    let grow = [
        at,
        ROOM * PAGE_SIZE,
        (ROOM + 1) * PAGE_SIZE,
        MREMAP_MAYMOVE as usize,
    ];
    show("mremap", made(call(__NR_mremap, grow)));
    show(
        "mprotect",
        call(__NR_mprotect, [at, ROOM * PAGE_SIZE, RW as usize]),
    );
    unmap(at, 1);
    show("instead of one", made(map(1, RW)));
    end_of("fork", || 0);
}

fn data() {
    let before = map(4, PROT_READ).or_fail("mmap");
    let shared = map_kind(4, RW, MAP_SHARED).or_fail("mmap");
    // With 0, mmap goes by the hard limit.
    for (soft, hard) in [(0, u64::MAX), (PAGE_SIZE as u64, u64::MAX), (0, 0)] {
        set(RLIMIT_DATA, soft, hard);
        println!("limits {soft} and {hard:#x}");
        show("memory", made(map(1, RW)));
        show("memory to read", made(map(1, PROT_READ)));
        show("shared memory", made(map_kind(1, RW, MAP_SHARED)));
        show("the heap", grow_heap(4 * PAGE_SIZE));
        let all = 4 * PAGE_SIZE;
        let same = [shared, all, all, MREMAP_MAYMOVE as usize];
        show("mremap of what is shared", made(call(__NR_mremap, same)));
        show(
            "mprotect of what is none",
            call(__NR_mprotect, [before, all, PROT_NONE as usize]),
        );
    }
}

fn stack() {
    set(RLIMIT_STACK, 1 << 20, u64::MAX);
    for kilobytes in [500, 900, 1100] {
        end_of(format_args!("{kilobytes} kB"), || {
            let local = 0u8;
            let below = (&raw const local as usize) - kilobytes * 1024;
            // SAFETY: the stack, where it has not been yet; that it may not grow is what is tried.
            unsafe { (below as *mut u8).write_volatile(1) };
            0
        });
    }
}

/// What a user has, in whatever session and whoever's child, counts; another user's does not.
fn processes() {
    const USER: usize = 3000;
    let pause = |user: usize| {
        let child = process::fork_child(|| {
            call(__NR_setresuid, [user, user, user]).or_fail("setresuid");
            loop {
                let _ = user::time::sleep(1_000_000_000);
            }
        });
        child.or_fail("fork")
    };
    let children = [pause(USER), pause(USER), pause(USER + 1)];
    // They are who they are to be.
    let _ = user::time::sleep(50_000_000);
    let forks = |user: usize, limit: u64| {
        end_of(format_args!("user {user}, limit {limit}"), || {
            set(RLIMIT_NPROC, limit, limit);
            call(__NR_setresuid, [user, user, user]).or_fail("setresuid");
            match process::fork_child(|| 0) {
                Ok(child) => {
                    process::expect_success(child);
                    0
                }
                Err(errno) => errno.0 as i32,
            }
        });
    };
    for (user, limit) in [
        (USER, 2),
        (USER, 3),
        (USER, 4),
        (USER + 1, 2),
        (USER + 1, 3),
        (0, 1),
    ] {
        forks(user, limit);
    }
    for child in children {
        signal::kill(child, SIGKILL).or_fail("kill");
        process::wait(child).or_fail("wait");
    }
}

/// SIGXCPU at the soft limit, and each second from then on; SIGKILL at the hard one.
fn cpu_time() {
    println!("CPU time:");
    let shared = Pages::map_shared(1).or_fail("mmap");
    let (signals, limit) = (shared.atomic(0, 0), shared.atomic(0, 1));
    end_of("two seconds", || {
        signal::set_action(SIGXCPU, &Action::call(count, 0)).or_fail("sigaction");
        set(RLIMIT_CPU, 1, 2);
        loop {
            signals.store(COUNT.load(Relaxed), Relaxed);
            limit.store(soft(RLIMIT_CPU), Relaxed);
        }
    });
    println!(
        "{} signals, the limit was {}",
        signals.load(Relaxed),
        limit.load(Relaxed)
    );
    end_of("by default", || {
        set(RLIMIT_CORE, 0, 0);
        set(RLIMIT_CPU, 1, u64::MAX);
        loop {
            core::hint::spin_loop();
        }
    });
    end_of("both the same", || {
        set(RLIMIT_CPU, 1, 1);
        loop {
            core::hint::spin_loop();
        }
    });
}
