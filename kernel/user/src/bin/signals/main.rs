//! Signals, in the ways that programs meet them. Every line that it prints is Linux's.
//!
//! `signals` runs what `qemu-aarch64` does as Linux does; `signals kernel` what it does not.
#![no_std]
#![no_main]

use core::fmt::Display;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use user::file;
use user::linux::*;
use user::process::{self, Pid};
use user::signal::{self, Action, Context, Info, set};
use user::{Args, Errno, OrFail, check, println, syscall, time};

mod children;
mod handlers;
mod page;

user::program!(main, "usage: signals [kernel]");

const MILLISECOND: u64 = 1_000_000;
/// A real-time signal that no C library keeps for itself.
const REAL_TIME: u32 = 40;

/// What the last handler was told, and how often one ran.
static COUNT: AtomicU32 = AtomicU32::new(0);
static SIGNAL: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static FIRST: AtomicU64 = AtomicU64::new(0);
static SECOND: AtomicU64 = AtomicU64::new(0);
static PC: AtomicU64 = AtomicU64::new(0);
static MASK: AtomicU64 = AtomicU64::new(0);
static FRAME: AtomicUsize = AtomicUsize::new(0);

fn main(args: Args) {
    // Statuses without the core dump that a system may be set up for.
    let none = [0u64; 2];
    // SAFETY: the kernel reads a limit.
    unsafe {
        syscall(
            __NR_prlimit64,
            [0, RLIMIT_CORE as usize, none.as_ptr() as usize, 0],
        )
    }
    .or_fail("prlimit64");
    match *args.words() {
        [] => {
            sends_to_itself();
            blocks_while_a_handler_runs();
            once_and_again();
            queues();
            handlers::faults();
            handlers::keeps_registers();
            handlers::alternate_stack();
            restarts();
            suspends();
            waits_for_signals();
            sleeps();
            children::default_actions();
            children::stops_and_continues();
            children::tells_of_children();
            handlers::forced();
            errors();
        }
        ["kernel"] => {
            handlers::bad_frames();
            page::exec_keeps_and_resets(&args);
            page::function_page(&args);
        }
        ["after-exec"] => page::after_exec(),
        _ => args.usage(),
    }
    println!("signals: done");
}

extern "C" fn note(signal: u32, info: &mut Info, context: &mut Context) {
    COUNT.fetch_add(1, Relaxed);
    SIGNAL.store(signal, Relaxed);
    CODE.store(info.code, Relaxed);
    FIRST.store(info.first, Relaxed);
    SECOND.store(info.second, Relaxed);
    PC.store(context.pc, Relaxed);
    MASK.store(signal::block(0).or_fail("the mask"), Relaxed);
    FRAME.store((&raw const *info) as usize, Relaxed);
}

fn install(signal: u32, flags: u32) {
    signal::set_action(signal, &Action::call(note, flags | SA_SIGINFO)).or_fail("rt_sigaction");
}

fn restore(signal: u32) {
    signal::set_action(signal, &Action::DEFAULT).or_fail("rt_sigaction");
}

fn me() -> Pid {
    process::getpid()
}

fn raise(signal: u32) {
    signal::kill(me(), signal).or_fail("kill");
}

/// Runs `child` in a process of its own; its status.
fn status(child: impl FnOnce()) -> u32 {
    let pid = process::fork_child(|| {
        child();
        0
    })
    .or_fail("fork");
    process::wait_raw(pid, 0).or_fail("wait4").1
}

fn show(what: impl Display) {
    println!(
        "{what}: {} time(s), the last signal {}, code {}",
        COUNT.swap(0, Relaxed),
        SIGNAL.load(Relaxed),
        CODE.load(Relaxed)
    );
}

fn sends_to_itself() {
    install(SIGUSR1, 0);
    raise(SIGUSR1);
    let mine = FIRST.load(Relaxed) as Pid == me();
    show("kill");
    println!("from myself: {mine}, user {}", FIRST.load(Relaxed) >> 32);
    // SAFETY: touches no memory.
    let tid = unsafe { syscall(__NR_gettid, []) }.or_fail("gettid");
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_tkill, [tid, SIGUSR1 as usize]) }.or_fail("tkill");
    show("tkill");
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_tgkill, [me() as usize, tid, SIGUSR1 as usize]) }.or_fail("tgkill");
    show("tgkill");
    signal::queue(me(), SIGUSR1, 0x1234_5678_9abc).or_fail("rt_sigqueueinfo");
    println!("value {:#x}", SECOND.load(Relaxed));
    show("sigqueue");
    signal::set_action(SIGUSR1, &Action::IGNORE).or_fail("rt_sigaction");
    raise(SIGUSR1);
    show("ignored");
    let before = signal::set_action(SIGUSR1, &Action::DEFAULT).or_fail("rt_sigaction");
    println!("the action was {}", before.handler);
}

fn blocks_while_a_handler_runs() {
    let action = Action {
        mask: set(SIGUSR2) | set(SIGKILL),
        ..Action::call(note, SA_SIGINFO)
    };
    signal::set_action(SIGUSR1, &action).or_fail("rt_sigaction");
    raise(SIGUSR1);
    println!("mask in the handler {:#x}", MASK.load(Relaxed));
    println!("mask after it {:#x}", signal::block(0).or_fail("mask"));
    install(SIGUSR1, SA_NODEFER);
    raise(SIGUSR1);
    println!("mask with SA_NODEFER {:#x}", MASK.load(Relaxed));
    signal::block(set(SIGUSR1) | set(SIGKILL) | set(SIGSTOP)).or_fail("mask");
    println!(
        "what can be blocked {:#x}",
        signal::block(0).or_fail("mask")
    );
    COUNT.store(0, Relaxed);
    raise(SIGUSR1);
    raise(SIGUSR1);
    show("blocked");
    println!("pending {:#x}", signal::pending().or_fail("rt_sigpending"));
    signal::unblock(set(SIGUSR1)).or_fail("mask");
    show("unblocked");
    restore(SIGUSR1);
}

fn once_and_again() {
    install(SIGUSR1, SA_RESETHAND);
    raise(SIGUSR1);
    show("SA_RESETHAND");
    let now = signal::set_action(SIGUSR1, &Action::DEFAULT).or_fail("rt_sigaction");
    println!("the action is {}", now.handler);
    println!("then: {:#x}", status(|| raise(SIGUSR1)));
}

/// The values in the order of the handlers, as decimal digits.
static ORDER: AtomicU64 = AtomicU64::new(0);

extern "C" fn enlist(_: u32, info: &mut Info, _: &mut Context) {
    ORDER.store(ORDER.load(Relaxed) * 10 + info.second, Relaxed);
}

fn queues() {
    let all = set(REAL_TIME) | set(REAL_TIME + 1) | set(SIGUSR1);
    signal::block(all).or_fail("mask");
    let action = Action {
        mask: all,
        ..Action::call(enlist, SA_SIGINFO)
    };
    for signal in [REAL_TIME, REAL_TIME + 1, SIGUSR1] {
        signal::set_action(signal, &action).or_fail("rt_sigaction");
    }
    for (signal, value) in [
        (REAL_TIME + 1, 1),
        (REAL_TIME, 2),
        (SIGUSR1, 3),
        (REAL_TIME, 4),
        (SIGUSR1, 5),
        (REAL_TIME, 6),
    ] {
        signal::queue(me(), signal, value).or_fail("rt_sigqueueinfo");
    }
    println!("pending {:#x}", signal::pending().or_fail("rt_sigpending"));
    // One at a time, as the handlers block all three.
    signal::unblock(all).or_fail("mask");
    println!("in the order {}", ORDER.load(Relaxed));
    for signal in [REAL_TIME, REAL_TIME + 1, SIGUSR1] {
        restore(signal);
    }
}

/// A child that sends `signal` to this process until it is killed.
fn pester(signal: u32) -> Pid {
    let parent = me();
    process::fork_child(|| {
        loop {
            // The parent may be gone if a check failed.
            if signal::kill(parent, signal).is_err() {
                return 1;
            }
            let _ = time::sleep(5 * MILLISECOND);
        }
    })
    .or_fail("fork")
}

fn end(child: Pid) {
    signal::kill(child, SIGKILL).or_fail("kill");
    let (_, status) = loop {
        match process::wait_raw(child, 0) {
            Err(Errno::EINTR) => {}
            result => break result.or_fail("wait4"),
        }
    };
    check!(status == SIGKILL, "the child's status is {status:#x}");
}

fn restarts() {
    let pipe = file::pipe2(0).or_fail("pipe2");
    let mut byte = [0];
    install(SIGUSR1, 0);
    let child = pester(SIGUSR1);
    println!("read: {:?}", file::read(pipe.reader, &mut byte));
    println!("wait: {:?}", process::wait_raw(-1, 0));
    end(child);

    install(SIGUSR1, SA_RESTART);
    COUNT.store(0, Relaxed);
    let parent = me();
    let child = process::fork_child(|| {
        for _ in 0..3 {
            let _ = time::sleep(10 * MILLISECOND);
            let _ = signal::kill(parent, SIGUSR1);
        }
        let _ = time::sleep(10 * MILLISECOND);
        let _ = file::write(pipe.writer, b"x");
        let _ = time::sleep(10 * MILLISECOND);
        let _ = signal::kill(parent, SIGUSR1);
        let _ = time::sleep(10 * MILLISECOND);
        5
    })
    .or_fail("fork");
    println!(
        "read with SA_RESTART: {:?}",
        file::read(pipe.reader, &mut byte)
    );
    println!(
        "wait with SA_RESTART: {:?}",
        process::wait_raw(child, 0).map(|(_, status)| status)
    );
    println!("handlers ran: {}", COUNT.swap(0, Relaxed) > 0);
    // A sleep is never started over.
    let child = pester(SIGUSR1);
    let slept = time::sleep(3_600_000 * MILLISECOND);
    let left = slept.map_err(|(errno, left)| (errno, left < 3_600_000 * MILLISECOND && left > 0));
    println!("sleep with SA_RESTART: {left:?}");
    end(child);
    restore(SIGUSR1);
    file::close(pipe.reader).or_fail("close");

    // A pipe that nobody reads.
    println!(
        "no reader: {:#x}",
        status(|| {
            let _ = file::write(pipe.writer, b"x");
        })
    );
    install(SIGPIPE, 0);
    COUNT.store(0, Relaxed);
    println!("no reader, a handler: {:?}", file::write(pipe.writer, b"x"));
    show("SIGPIPE");
    restore(SIGPIPE);
    file::close(pipe.writer).or_fail("close");
}

fn suspends() {
    install(SIGUSR1, SA_RESTART);
    install(SIGUSR2, SA_RESTART);
    signal::block(set(SIGUSR1) | set(SIGUSR2)).or_fail("mask");
    COUNT.store(0, Relaxed);
    let child = pester(SIGUSR1);
    println!("sigsuspend: {:?}", signal::suspend(set(SIGUSR2)));
    println!("ran: {}", COUNT.swap(0, Relaxed) > 0);
    println!("mask in the handler {:#x}", MASK.load(Relaxed));
    println!("mask after it {:#x}", signal::block(0).or_fail("mask"));
    end(child);
    // What was sent twice waits still.
    signal::set_action(SIGUSR1, &Action::IGNORE).or_fail("sigaction");
    println!("pending {:#x}", signal::pending().or_fail("rt_sigpending"));
    signal::set_mask(0).or_fail("mask");
    restore(SIGUSR1);
    restore(SIGUSR2);
    COUNT.store(0, Relaxed);
}

fn waits_for_signals() {
    let wanted = set(REAL_TIME) | set(SIGUSR1) | set(SIGCHLD);
    signal::block(wanted).or_fail("mask");
    println!(
        "nothing there: {:?}",
        signal::wait(wanted, 0).map(|info| info.signal)
    );
    println!(
        "for a while: {:?}",
        signal::wait(wanted, MILLISECOND).map(|info| info.signal)
    );
    for value in [7, 8] {
        signal::queue(me(), REAL_TIME, value).or_fail("rt_sigqueueinfo");
    }
    for _ in 0..2 {
        let info = signal::wait(wanted, 0).or_fail("rt_sigtimedwait");
        println!(
            "signal {}, code {}, value {}",
            info.signal, info.code, info.second
        );
    }
    // SIGCHLD does nothing by default, and yet one can wait for it.
    let child = process::fork_child(|| {
        let _ = time::sleep(10 * MILLISECOND);
        3
    })
    .or_fail("fork");
    let info = signal::wait(wanted, 60_000 * MILLISECOND).or_fail("rt_sigtimedwait");
    let status = info.second as u32;
    println!(
        "signal {}, code {}, the child: {}, status {status}",
        info.signal,
        info.code,
        info.pid() == child
    );
    process::wait_raw(child, 0).or_fail("wait4");
    install(SIGUSR2, SA_RESTART);
    let child = pester(SIGUSR2);
    println!(
        "another signal: {:?}",
        signal::wait(set(REAL_TIME), 60_000 * MILLISECOND).err()
    );
    end(child);
    // The end of the last child is still to be told of.
    let _ = signal::wait(set(SIGCHLD), 60_000 * MILLISECOND).or_fail("rt_sigtimedwait");
    signal::set_mask(0).or_fail("mask");
    restore(SIGUSR2);
    COUNT.store(0, Relaxed);
}

fn sleeps() {
    let start = time::now().or_fail("clock_gettime");
    println!("sleep: {:?}", time::sleep(2 * MILLISECOND));
    let slept = time::now().or_fail("clock_gettime") - start;
    println!("long enough: {}", slept >= 2 * MILLISECOND);
    // Stopped and continued, a sleep goes on until the time it was to end.
    let child = process::fork_child(|| {
        let start = time::now().or_fail("clock_gettime");
        let slept = time::sleep(100 * MILLISECOND);
        let time = time::now().or_fail("clock_gettime") - start;
        i32::from(slept.is_err() || time < 100 * MILLISECOND)
    })
    .or_fail("fork");
    let _ = time::sleep(10 * MILLISECOND);
    signal::kill(child, SIGSTOP).or_fail("kill");
    println!(
        "stopped: {:#x}",
        process::wait_raw(child, WUNTRACED).or_fail("wait4").1
    );
    signal::kill(child, SIGCONT).or_fail("kill");
    println!(
        "slept: {:#x}",
        process::wait_raw(child, 0).or_fail("wait4").1
    );
}

fn errors() {
    let me = me();
    for (what, pid, signal) in [
        ("no such signal", me, 65),
        ("a large signal", me, u32::MAX),
        ("no such process", 0x3f_fff0, SIGTERM),
        ("no such group", -0x3f_fff0, SIGTERM),
        ("asking for itself", me, 0),
        ("asking for its group", 0, 0),
        ("asking for nobody", i32::MIN, 0),
    ] {
        println!("kill, {what}: {:?}", signal::kill(pid, signal));
    }
    for signal in [0, SIGKILL, SIGSTOP, 65] {
        let result = signal::set_action(signal, &Action::IGNORE);
        println!("sigaction of {signal}: {:?}", result.map(drop));
    }
    println!("sigwait of nothing: {:?}", signal::wait(0, 0).err());
    println!("wait without a child: {:?}", process::wait_raw(-1, 0));
    println!("wait for a stranger: {:?}", process::wait_raw(1, 0));
    println!(
        "wait with wrong options: {:?}",
        process::wait_raw(-1, 0x100)
    );
    let mut info = Info::default();
    let parent = process::getppid() as usize;
    for code in [SI_USER as i32, SI_TKILL] {
        info.code = code;
        // SAFETY: the kernel reads the structure.
        let result = unsafe {
            syscall(
                __NR_rt_sigqueueinfo,
                [parent, 0, (&raw const info) as usize],
            )
        };
        println!("a forged sender: {result:?}");
    }
}
