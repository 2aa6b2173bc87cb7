//! What fork, clone, vfork, exec, wait and exit leave to whom: a line per case. Linux must print the
//! same.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use user::file::{self, Fd, Pipe};
use user::linux::*;
use user::memory::Pages;
use user::process::{self, Pid};
use user::signal::{self, Action, Context, Info, Stack, set};
use user::text::Text;
use user::{Args, Errno, OrFail, Result, println, syscall, time};

user::program!(main, "usage: families");

const MILLISECOND: u64 = 1_000_000;

fn main(args: Args) {
    match *args.words() {
        [] => {}
        ["after-exec"] => return after_exec(),
        _ => args.usage(),
    }
    orders();
    options();
    told();
    zombies();
    orphans();
    inherited();
    pending();
    flags();
    thread_ids();
    vforked();
    statuses();
    groups();
    executed(&args);
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or none.
    unsafe { syscall(number, arguments) }
}

/// Sets an alternate stack, and a timer that is far away.
fn stack_and_timer() {
    let pages = Pages::map(4).or_fail("mmap");
    let stack = Stack {
        address: pages.address(0),
        flags: 0,
        pad: 0,
        size: 4 * 4096,
    };
    // SAFETY: the pages are for this.
    unsafe { signal::alternate_stack(Some(&stack)) }.or_fail("sigaltstack");
    let timer = [0u64, 0, 1000, 0];
    call(
        __NR_setitimer,
        [ITIMER_REAL as usize, timer.as_ptr() as usize, 0],
    )
    .or_fail("setitimer");
}

fn fork(child: impl FnOnce() -> i32) -> Pid {
    process::fork_child(child).or_fail("fork")
}

fn pause() -> i32 {
    loop {
        let _ = time::sleep(3_600_000 * MILLISECOND);
    }
}

fn status(child: Pid) -> u32 {
    process::wait_raw(child, 0).or_fail("wait4").1
}

fn waitid(kind: u32, id: Pid, options: u32) -> Result<Info> {
    let mut info = Info::default();
    let to = (&raw mut info) as usize;
    call(
        __NR_waitid,
        [kind as usize, id as usize, to, options as usize, 0],
    )?;
    Ok(info)
}

/// Waits until a child has ended, and leaves it.
fn ended(child: Pid) {
    waitid(P_PID, child, WEXITED | WNOWAIT).or_fail("waitid");
}

fn orders() {
    // Whoever ends first: they are found in the order of their birth.
    let pipes = [(); 3].map(|()| file::pipe2(0).or_fail("pipe"));
    let children = [0, 1, 2].map(|n| {
        fork(|| {
            let _ = file::read(pipes[n].reader, &mut [0]);
            10 + n as i32
        })
    });
    for n in [2, 0, 1] {
        file::write_all(pipes[n].writer, b"x").or_fail("write");
        ended(children[n]);
    }
    for _ in 0..3 {
        let (pid, status) = process::wait_raw(-1, 0).or_fail("wait4");
        let which = children.iter().position(|&child| child == pid);
        println!("found: {which:?} {status:#x}");
    }
    for pipe in pipes {
        file::close(pipe.reader).or_fail("close");
        file::close(pipe.writer).or_fail("close");
    }
    println!("nobody: {:?}", process::wait_raw(-1, 0));
    println!("nobody: {:?}", process::wait_raw(-1, WNOHANG));
}

fn options() {
    let child = fork(pause);
    let wait = |pid: Pid, options: u32| {
        process::wait_raw(pid, options).map(|(pid, status)| (pid == child, status))
    };
    println!("not yet: {:?}", wait(child, WNOHANG));
    println!("its group: {:?}", wait(0, WNOHANG));
    println!("another group: {:?}", wait(-child, WNOHANG));
    println!("a stranger: {:?}", wait(1, WNOHANG));
    println!("the least number: {:?}", wait(Pid::MIN, WNOHANG));
    for options in [
        0x10,
        __WNOTHREAD,
        __WALL,
        __WCLONE,
        WEXITED,
        WNOWAIT,
        WCONTINUED,
    ] {
        println!("option {options:#x}: {:?}", wait(child, options | WNOHANG));
    }
    for options in [
        0,
        WNOHANG,
        WSTOPPED | WNOHANG,
        WEXITED | WNOHANG | 0x10,
        WEXITED | WNOHANG | __WALL,
    ] {
        let found = waitid(P_PID, child, options).map(|info| (info.signal, info.pid()));
        println!("waitid with {options:#x}: {found:?}");
    }
    println!(
        "waitid of nobody: {:?}",
        waitid(P_PID, 0, WEXITED).map(|_| ())
    );
    println!("waitid of -1: {:?}", waitid(P_PID, -1, WEXITED).map(|_| ()));
    println!(
        "waitid of its group: {:?}",
        waitid(P_PGID, 0, WEXITED | WNOHANG).map(|info| info.signal)
    );
    println!(
        "no siginfo: {:?}",
        call(
            __NR_waitid,
            [P_ALL as usize, 0, 0, (WEXITED | WNOHANG) as usize, 0]
        )
    );
    signal::kill(child, SIGKILL).or_fail("kill");
    println!(
        "no status: {:?}",
        call(__NR_wait4, [child as usize, 0, 0, 0]).map(|pid| pid as Pid == child)
    );
}

/// SIGCHLD's facts, of the last two.
static TOLD: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn hear(signal: u32, info: &mut Info, _: &mut Context) {
    SIGNALS.fetch_add(1, Relaxed);
    TOLD[1].store(TOLD[0].load(Relaxed), Relaxed);
    TOLD[0].store(
        u64::from(signal) << 32 | (info.code as u64) << 16 | info.second & 0xffff,
        Relaxed,
    );
}

fn show_told(what: &str) {
    let told = [1, 0].map(|n| TOLD[n].swap(0, Relaxed));
    let count = SIGNALS.swap(0, Relaxed);
    println!("{what}: told {count} times");
    for told in told.into_iter().filter(|&told| told != 0) {
        println!(
            "  signal {}, code {}, status {}",
            told >> 32,
            told >> 16 & 0xffff,
            told & 0xffff
        );
    }
}

fn told() {
    signal::set_action(SIGCHLD, &Action::call(hear, SA_SIGINFO | SA_RESTART)).or_fail("sigaction");
    status(fork(|| 42));
    show_told("an exit");
    let child = fork(pause);
    signal::kill(child, SIGTERM).or_fail("kill");
    status(child);
    show_told("a kill");
    status(fork(|| {
        signal::kill(process::getpid(), SIGSEGV).or_fail("kill");
        0
    }));
    show_told("a fault");
    let child = fork(pause);
    let news = || {
        let _ = time::sleep(20 * MILLISECOND);
    };
    signal::kill(child, SIGSTOP).or_fail("kill");
    process::wait_raw(child, WUNTRACED).or_fail("wait4");
    show_told("a stop");
    signal::kill(child, SIGCONT).or_fail("kill");
    process::wait_raw(child, WCONTINUED).or_fail("wait4");
    news();
    show_told("going on");
    signal::kill(child, SIGKILL).or_fail("kill");
    status(child);
    show_told("the end");
    // What is reported by waitid.
    for end in ["exit", "kill"] {
        let child = fork(|| {
            if end == "kill" {
                signal::kill(process::getpid(), SIGUSR1).or_fail("kill");
            }
            3
        });
        let info = waitid(P_PID, child, WEXITED | WNOWAIT).or_fail("waitid");
        println!(
            "waitid after {end}: signo {}, errno {}, code {}, pid {}, uid {}, status {}",
            info.signal,
            info.error,
            info.code,
            info.pid() == child,
            info.first >> 32,
            info.second & 0xffff_ffff
        );
        status(child);
    }
    // Nobody listens: they leave no status.
    for action in [
        Action::IGNORE,
        Action::call(hear, SA_SIGINFO | SA_NOCLDWAIT | SA_RESTART),
    ] {
        signal::set_action(SIGCHLD, &action).or_fail("sigaction");
        SIGNALS.store(0, Relaxed);
        let child = fork(|| 1);
        println!("disowned: {:?}", process::wait_raw(child, 0));
        println!("and told: {}", SIGNALS.swap(0, Relaxed));
    }
    // Several at once are one signal.
    signal::set_action(SIGCHLD, &Action::call(hear, SA_SIGINFO | SA_RESTART)).or_fail("sigaction");
    signal::block(set(SIGCHLD)).or_fail("mask");
    let children = [1, 2, 3].map(|n| fork(|| n));
    children.into_iter().for_each(ended);
    TOLD[0].store(0, Relaxed);
    SIGNALS.store(0, Relaxed);
    signal::unblock(set(SIGCHLD)).or_fail("mask");
    println!("three at once: told {}", SIGNALS.load(Relaxed));
    children
        .into_iter()
        .map(status)
        .for_each(|status| println!("  {status:#x}"));
    signal::set_action(SIGCHLD, &Action::DEFAULT).or_fail("sigaction");
}

fn zombies() {
    let child = fork(|| 5);
    ended(child);
    println!("signalled: {:?}", signal::kill(child, SIGKILL));
    println!(
        "its group: {:?}",
        call(__NR_getpgid, [child as usize]).is_ok()
    );
    println!(
        "to another group: {:?}",
        call(__NR_setpgid, [child as usize, child as usize])
    );
    println!(
        "its limits: {:?}",
        call(__NR_prlimit64, [child as usize, RLIMIT_CORE as usize, 0, 0])
    );
    println!(
        "its priority: {:?}",
        call(__NR_getpriority, [0, child as usize])
    );
    let path = Text::new(format_args!("/proc/{child}/stat"));
    let mut bytes = [0; 64];
    let fd = file::open(path.as_c_str(), O_RDONLY).or_fail("open");
    let count = file::read(fd, &mut bytes).or_fail("read");
    file::close(fd).or_fail("close");
    let text = core::str::from_utf8(&bytes[..count]).unwrap_or("?");
    println!(
        "it is: {:?}",
        text.split_whitespace()
            .nth(1)
            .zip(text.split_whitespace().nth(2))
    );
    for name in ["maps", "cmdline", "exe", "fd/0", "cwd"] {
        let path = Text::new(format_args!("/proc/{child}/{name}"));
        let opened = file::open(path.as_c_str(), O_RDONLY);
        let read = opened.and_then(|fd| {
            let read = file::read(fd, &mut bytes);
            file::close(fd)?;
            read
        });
        println!("its {name}: {read:?}");
    }
    println!("status: {:#x}", status(child));
    println!("gone: {:?}", signal::kill(child, 0));
}

fn orphans() {
    let Pipe { reader, writer } = file::pipe2(0).or_fail("pipe");
    let child = fork(|| {
        let parent = process::getpid();
        fork(|| {
            while process::getppid() == parent {
                process::sched_yield();
            }
            file::write_all(writer, &[process::getppid() as u8]).or_fail("write");
            0
        });
        0
    });
    status(child);
    let mut byte = [0];
    file::read(reader, &mut byte).or_fail("read");
    println!("an orphan's parent: {}", byte[0]);
    println!("not mine: {:?}", process::wait_raw(-1, 0));
    file::close(reader).or_fail("close");
    file::close(writer).or_fail("close");
}

fn inherited() {
    call(__NR_prctl, [15, c"parent".as_ptr() as usize, 0, 0, 0]).or_fail("PR_SET_NAME");
    call(__NR_prctl, [1, SIGUSR1 as usize, 0, 0, 0]).or_fail("PR_SET_PDEATHSIG");
    call(__NR_umask, [0o27]).or_fail("umask");
    call(__NR_chdir, [c"/tmp".as_ptr() as usize]).or_fail("chdir");
    call(__NR_setpriority, [0, 0, 3]).or_fail("setpriority");
    signal::block(set(SIGUSR2)).or_fail("mask");
    stack_and_timer();
    let flags = (O_RDWR | O_CREAT | O_TRUNC) as usize;
    let name = c"/tmp/families".as_ptr() as usize;
    let file = call(__NR_openat, [AT_FDCWD as usize, name, flags, 0o666]).or_fail("open");
    let lock = [u64::from(F_WRLCK), 0, 10, 0];
    call(__NR_fcntl, [file, F_SETLK as usize, lock.as_ptr() as usize]).or_fail("F_SETLK");
    let child = fork(|| {
        let mut name = [0u8; 16];
        let mut death = 99u32;
        call(__NR_prctl, [16, name.as_mut_ptr() as usize, 0, 0, 0]).or_fail("PR_GET_NAME");
        call(__NR_prctl, [2, (&raw mut death) as usize, 0, 0, 0]).or_fail("PR_GET_PDEATHSIG");
        println!(
            "name {:?}, signal of a parent's death {death}",
            core::str::from_utf8(&name[..6])
        );
        println!(
            "umask {:?}, nice {:?}",
            call(__NR_umask, [0]),
            call(__NR_getpriority, [0, 0])
        );
        let mut place = [0u8; 16];
        println!(
            "directory {:?}",
            call(__NR_getcwd, [place.as_mut_ptr() as usize, 16])
        );
        println!("mask {:#x}", signal::block(0).or_fail("mask"));
        // SAFETY: asks.
        let stack = unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
        println!("stack: flags {}, size {}", stack.flags, stack.size);
        let mut left = [9u64; 4];
        call(
            __NR_getitimer,
            [ITIMER_REAL as usize, left.as_mut_ptr() as usize],
        )
        .or_fail("getitimer");
        println!("timer {left:?}");
        let mut other = lock;
        call(
            __NR_fcntl,
            [file, F_GETLK as usize, other.as_mut_ptr() as usize],
        )
        .or_fail("F_GETLK");
        println!(
            "the lock is another's: {}",
            other[0] as u16 != F_UNLCK as u16
        );
        call(__NR_write, [file, c"12345".as_ptr() as usize, 5]).or_fail("write");
        call(__NR_fcntl, [file, F_SETFL as usize, O_APPEND as usize]).or_fail("F_SETFL");
        call(__NR_fcntl, [file, F_SETFD as usize, FD_CLOEXEC as usize]).or_fail("F_SETFD");
        call(__NR_umask, [0o77]).or_fail("umask");
        call(__NR_chdir, [c"/".as_ptr() as usize]).or_fail("chdir");
        0
    });
    println!("status {:#x}", status(child));
    println!(
        "position {:?}",
        call(__NR_lseek, [file, 0, SEEK_CUR as usize])
    );
    println!(
        "flags {:#x}",
        call(__NR_fcntl, [file, F_GETFL as usize, 0]).or_fail("F_GETFL") & O_APPEND as usize
    );
    println!(
        "close on exec {:?}",
        call(__NR_fcntl, [file, F_GETFD as usize, 0])
    );
    println!("umask {:?}", call(__NR_umask, [0o22]));
    let mut place = [0u8; 16];
    println!(
        "directory {:?}",
        call(__NR_getcwd, [place.as_mut_ptr() as usize, 16])
    );
    let none = [0u64; 4];
    call(
        __NR_setitimer,
        [ITIMER_REAL as usize, none.as_ptr() as usize, 0],
    )
    .or_fail("setitimer");
    call(__NR_unlinkat, [AT_FDCWD as usize, name, 0]).or_fail("unlink");
    file::close(file as Fd).or_fail("close");
    let none = Stack {
        flags: SS_DISABLE,
        ..Stack::default()
    };
    // SAFETY: it is given back.
    unsafe { signal::alternate_stack(Some(&none)) }.or_fail("sigaltstack");
    signal::set_mask(0).or_fail("mask");
}

fn pending() {
    signal::block(set(SIGUSR1) | set(40)).or_fail("mask");
    for _ in 0..2 {
        signal::kill(process::getpid(), SIGUSR1).or_fail("kill");
        signal::kill(process::getpid(), 40).or_fail("kill");
    }
    let child = fork(|| {
        println!(
            "pending in the child: {:#x}",
            signal::pending().or_fail("pending")
        );
        0
    });
    status(child);
    println!(
        "pending in the parent: {:#x}",
        signal::pending().or_fail("pending")
    );
    let mut count = 0;
    while signal::wait(set(SIGUSR1) | set(40), 0).is_ok() {
        count += 1;
    }
    println!("there were {count}");
    signal::set_mask(0).or_fail("mask");
}

fn clone(flags: u32, child: impl FnOnce() -> i32) -> Result<Pid> {
    match call(__NR_clone, [flags as usize, 0, 0, 0, 0])? {
        0 => process::exit(child()),
        pid => Ok(pid as Pid),
    }
}

fn flags() {
    for (what, flags) in [
        ("signals without memory", CLONE_SIGHAND),
        ("a thread without signals", CLONE_THREAD | CLONE_VM),
        ("a new file system and an old one", CLONE_NEWNS | CLONE_FS),
        ("cleared and shared signals", CLONE_THREAD),
    ] {
        println!("{what}: {:?}", clone(flags | SIGCHLD, || 0).map(|_| ()));
    }
    // The same descriptors, the same directory and umask.
    let spare = call(__NR_dup, [1]).or_fail("dup");
    let child = clone(CLONE_FILES | CLONE_FS | SIGCHLD, || {
        file::close(spare as Fd).or_fail("close");
        call(__NR_umask, [0o11]).or_fail("umask");
        call(__NR_chdir, [c"/bin".as_ptr() as usize]).or_fail("chdir");
        0
    });
    println!("shared: {:?}", child.map(status));
    println!(
        "shared, closed by another: {:?}",
        call(__NR_fcntl, [spare, F_GETFD as usize, 0])
    );
    println!("shared, umask {:?}", call(__NR_umask, [0o22]));
    let mut place = [0u8; 16];
    println!(
        "shared, directory {:?}",
        call(__NR_getcwd, [place.as_mut_ptr() as usize, 16])
    );
    call(__NR_chdir, [c"/".as_ptr() as usize]).or_fail("chdir");
    // A sister.
    let me = process::getpid();
    let child = fork(|| {
        let sister = clone(CLONE_PARENT | SIGCHLD, || {
            i32::from(process::getppid() == me)
        });
        let sister = sister.map(|sister| process::wait_raw(sister, 0));
        println!("sister: {sister:?}");
        0
    });
    println!("status {:#x}", status(child));
    println!(
        "sister: {:?}",
        process::wait_raw(-1, __WALL).map(|(_, status)| status)
    );
}

fn thread_ids() {
    let words = Pages::map(1).or_fail("mmap");
    let shared = Pages::map_shared(1).or_fail("mmap");
    let flags = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD;
    let (parent, child) = (words.address(0), words.address(0) + 8);
    let pid = match call(__NR_clone, [flags as usize, 0, parent, 0, child]).or_fail("clone") {
        0 => {
            let me = process::getpid() as u64;
            println!(
                "in the child: {} {}",
                words.read_word(0, 0) == me,
                words.read_word(0, 1) == me
            );
            process::exit(0)
        }
        pid => pid as Pid,
    };
    status(pid);
    println!(
        "in the parent: {} {}",
        words.read_word(0, 0) == pid as u64,
        words.read_word(0, 1)
    );
    // Cleared at the end only where somebody else has the memory.
    shared.write(0, 77);
    let flags = (CLONE_CHILD_CLEARTID | SIGCHLD) as usize;
    match call(__NR_clone, [flags, 0, 0, 0, shared.address(0)]).or_fail("clone") {
        0 => process::exit(0),
        pid => status(pid as Pid),
    };
    println!("cleared: {}", shared.read(0));
}

fn vforked() {
    let pages = Pages::map(1).or_fail("mmap");
    let child = process::vfork(|| {
        pages.write(0, 11);
        let _ = time::sleep(20 * MILLISECOND);
        pages.write(0, 12);
        4
    });
    println!("it waited, and sees: {}", pages.read(0));
    println!("status {:#x}", status(child.or_fail("vfork")));
    // A signal for the parent waits as it does, and one for the child ends both waits.
    let me = process::getpid();
    signal::set_action(SIGUSR1, &Action::call(hear, SA_SIGINFO)).or_fail("sigaction");
    SIGNALS.store(0, Relaxed);
    let child = process::vfork(|| {
        signal::kill(me, SIGUSR1).or_fail("kill");
        let _ = time::sleep(10 * MILLISECOND);
        SIGNALS.load(Relaxed) as i32
    });
    println!(
        "told while it waits: {:#x}, and after: {}",
        status(child.or_fail("vfork")),
        SIGNALS.load(Relaxed)
    );
    let child = process::vfork(|| {
        let _ = signal::kill(process::getpid(), SIGKILL);
        0
    });
    println!("killed: {:#x}", status(child.or_fail("vfork")));
    signal::set_action(SIGUSR1, &Action::DEFAULT).or_fail("sigaction");
}

fn statuses() {
    for code in [0, 1, 127, 128, 255, 256, 257, -1, 1 << 20] {
        println!("exit {code}: {:#x}", status(fork(|| code)));
    }
    for signal in [SIGHUP, SIGKILL, SIGSEGV, SIGABRT, 34, 64] {
        let child = fork(|| {
            let _ = signal::kill(process::getpid(), signal);
            0
        });
        println!("signal {signal}: {:#x}", status(child));
    }
    for signal in [SIGCHLD, SIGURG, SIGWINCH, SIGCONT] {
        let child = fork(|| {
            let _ = signal::kill(process::getpid(), signal);
            0
        });
        println!("signal {signal}: {:#x}", status(child));
    }
    println!("no signal: {:?}", signal::kill(process::getpid(), 65));
    println!("no process: {:?}", signal::kill(0x3f_fff0, 0));
    println!("no group: {:?}", signal::kill(-0x3f_fff0, 0));
    println!("the least number: {:?}", signal::kill(Pid::MIN, 0));
}

fn groups() {
    let child = fork(|| {
        call(__NR_setpgid, [0, 0]).or_fail("setpgid");
        let own = process::getpid();
        let children = [fork(pause), fork(pause)];
        signal::set_action(SIGUSR1, &Action::IGNORE).or_fail("sigaction");
        println!("to the group: {:?}", signal::kill(0, SIGUSR1));
        println!("by number: {:?}", signal::kill(-own, SIGUSR1));
        for child in children {
            println!("status {:#x}", status(child));
        }
        println!("only the leader: {:?}", signal::kill(-own, 0));
        0
    });
    println!("status {:#x}", status(child));
    println!("the group is gone: {:?}", signal::kill(-child, 0));
    // One that has a member still, but no leader.
    let Pipe { reader, writer } = file::pipe2(0).or_fail("pipe");
    let leader = fork(|| {
        call(__NR_setpgid, [0, 0]).or_fail("setpgid");
        let member = fork(|| {
            file::write_all(writer, b"x").or_fail("write");
            pause()
        });
        let _ = member;
        0
    });
    file::read(reader, &mut [0]).or_fail("read");
    status(leader);
    println!("without a leader: {:?}", signal::kill(-leader, 0));
    println!("joined: {:?}", call(__NR_setpgid, [0, leader as usize]));
    println!("killed: {:?}", signal::kill(-leader, SIGKILL));
    file::close(reader).or_fail("close");
    file::close(writer).or_fail("close");
}

fn executed(args: &Args) {
    let child = fork(|| {
        signal::set_action(SIGUSR1, &Action::call(hear, SA_SIGINFO)).or_fail("sigaction");
        signal::set_action(SIGUSR2, &Action::IGNORE).or_fail("sigaction");
        signal::set_action(SIGCHLD, &Action::IGNORE).or_fail("sigaction");
        signal::block(set(SIGTERM) | set(41)).or_fail("mask");
        signal::kill(process::getpid(), 41).or_fail("kill");
        stack_and_timer();
        let mut id = 0u32;
        call(
            __NR_timer_create,
            [CLOCK_MONOTONIC as usize, 0, (&raw mut id) as usize],
        )
        .or_fail("timer_create");
        call(__NR_prctl, [15, c"before".as_ptr() as usize, 0, 0, 0]).or_fail("PR_SET_NAME");
        call(__NR_prctl, [1, SIGUSR1 as usize, 0, 0, 0]).or_fail("PR_SET_PDEATHSIG");
        call(__NR_umask, [0o37]).or_fail("umask");
        call(__NR_dup3, [1, 20, O_CLOEXEC as usize]).or_fail("dup3");
        call(__NR_dup3, [1, 21, 0]).or_fail("dup3");
        let errno = process::exec_self(args, &[c"after-exec"]);
        println!("exec: {errno}");
        1
    });
    println!("status {:#x}", status(child));
    println!(
        "exec of nothing: {}",
        process::exec(c"/no/such", &[c"x"], args.envp)
    );
    println!(
        "exec of a directory: {}",
        process::exec(c"/tmp", &[c"x"], args.envp)
    );
    println!(
        "exec of no program: {}",
        process::exec(c"/.cowscope/batch", &[c"x"], args.envp)
    );
}

fn after_exec() {
    for signal in [SIGUSR1, SIGUSR2, SIGCHLD] {
        let action = signal::set_action(signal, &Action::DEFAULT).or_fail("sigaction");
        println!(
            "signal {signal}: handler {}, flags {:#x}",
            action.handler, action.flags
        );
    }
    println!("mask {:#x}", signal::block(0).or_fail("mask"));
    println!("pending {:#x}", signal::pending().or_fail("pending"));
    // SAFETY: asks.
    let stack = unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
    println!("stack: flags {}, size {}", stack.flags, stack.size);
    let mut left = [0u64; 4];
    call(
        __NR_getitimer,
        [ITIMER_REAL as usize, left.as_mut_ptr() as usize],
    )
    .or_fail("getitimer");
    println!("the timer runs: {}", left[2] > 900);
    println!("the other is gone: {:?}", call(__NR_timer_delete, [0]));
    let mut name = [0u8; 16];
    let mut death = 99u32;
    call(__NR_prctl, [16, name.as_mut_ptr() as usize, 0, 0, 0]).or_fail("PR_GET_NAME");
    call(__NR_prctl, [2, (&raw mut death) as usize, 0, 0, 0]).or_fail("PR_GET_PDEATHSIG");
    println!(
        "name {:?}, signal of a parent's death {death}",
        core::str::from_utf8(&name[..8])
    );
    println!("umask {:?}", call(__NR_umask, [0]));
    for fd in [20, 21] {
        println!(
            "descriptor {fd}: {:?}",
            call(__NR_fcntl, [fd, F_GETFD as usize, 0])
        );
    }
    let child = process::wait_raw(-1, WNOHANG);
    println!("children: {:?}", child.err() == Some(Errno::ECHILD));
}
