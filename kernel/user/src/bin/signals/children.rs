//! Children: default actions, stopping, and what their parent is told.

use super::{MILLISECOND, REAL_TIME, end, restore};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use user::linux::*;
use user::process::{self, Fork, Pid};
use user::signal::{self, Action, Context, Info};
use user::{OrFail, println, syscall, time};

pub fn default_actions() {
    for signal in (1..SIGSYS + 1).chain([REAL_TIME]) {
        let child = process::fork_child(|| {
            let _ = time::sleep(3_600_000 * MILLISECOND);
            0
        })
        .or_fail("fork");
        // In a group of its own, which this process keeps from being orphaned.
        // SAFETY: touches no memory.
        unsafe { syscall(__NR_setpgid, [child as usize, child as usize]) }.or_fail("setpgid");
        signal::kill(child, signal).or_fail("kill");
        if [SIGCHLD, SIGURG, SIGWINCH, SIGCONT].contains(&signal) {
            println!(
                "signal {signal}: {:?}",
                process::wait_raw(child, WNOHANG).or_fail("wait4")
            );
            end(child);
            continue;
        }
        let (_, status) = process::wait_raw(child, WUNTRACED).or_fail("wait4");
        println!("signal {signal}: {status:#x}");
        if status & 0xff == 0x7f {
            end(child);
        }
    }
}

pub fn stops_and_continues() {
    let child = process::fork_child(|| {
        loop {
            let _ = time::sleep(3_600_000 * MILLISECOND);
        }
    })
    .or_fail("fork");
    let wait =
        |options| process::wait_raw(child, options).map(|(pid, status)| (pid == child, status));
    println!("running: {:x?}", wait(WNOHANG | WUNTRACED | WCONTINUED));
    signal::kill(child, SIGSTOP).or_fail("kill");
    println!("stopped: {:x?}", wait(WUNTRACED));
    println!("told once: {:x?}", wait(WNOHANG | WUNTRACED));
    signal::kill(child, SIGTERM).or_fail("kill");
    println!("a signal while stopped: {:x?}", wait(WNOHANG | WUNTRACED));
    signal::kill(child, SIGSTOP).or_fail("kill");
    println!("stopped twice: {:x?}", wait(WNOHANG | WUNTRACED));
    signal::kill(child, SIGCONT).or_fail("kill");
    println!("then it takes the signal: {:x?}", wait(0));

    let child = process::fork_child(|| {
        loop {
            let _ = time::sleep(3_600_000 * MILLISECOND);
        }
    })
    .or_fail("fork");
    let wait =
        |options| process::wait_raw(child, options).map(|(pid, status)| (pid == child, status));
    signal::kill(child, SIGTTIN).or_fail("kill");
    // A group that is not orphaned only if whoever runs this has arranged so.
    signal::kill(child, SIGSTOP).or_fail("kill");
    println!("stopped: {}", wait(WUNTRACED).is_ok());
    signal::kill(child, SIGCONT).or_fail("kill");
    println!("continued: {:x?}", wait(WCONTINUED));
    println!("told once: {:x?}", wait(WNOHANG | WCONTINUED));
    signal::kill(child, SIGSTOP).or_fail("kill");
    println!("stopped: {:x?}", wait(WUNTRACED));
    signal::kill(child, SIGKILL).or_fail("kill");
    println!("killed while stopped: {:x?}", wait(0));
}

/// SIGCHLD's code and status, digit by digit: each child has its own.
static NEWS: AtomicU64 = AtomicU64::new(0);

extern "C" fn child_news(_: u32, info: &mut Info, _: &mut Context) {
    let news = NEWS.load(Relaxed) * 1000 + info.code as u64 * 100 + info.second % 100;
    NEWS.store(news, Relaxed);
}

fn child_that(then: impl FnOnce() -> i32) -> Pid {
    match process::fork().or_fail("fork") {
        Fork::Child => process::exit(then()),
        Fork::Parent(child) => child,
    }
}

pub fn tells_of_children() {
    signal::set_action(SIGCHLD, &Action::call(child_news, SA_SIGINFO | SA_RESTART))
        .or_fail("sigaction");
    let child = child_that(|| 42);
    process::wait_raw(child, 0).or_fail("wait4");
    println!("exit: {}", NEWS.swap(0, Relaxed));
    let pause = || {
        let _ = time::sleep(3_600_000 * MILLISECOND);
        0
    };
    let child = child_that(pause);
    signal::kill(child, SIGSTOP).or_fail("kill");
    process::wait_raw(child, WUNTRACED).or_fail("wait4");
    signal::kill(child, SIGCONT).or_fail("kill");
    process::wait_raw(child, WCONTINUED).or_fail("wait4");
    // It tells when it runs, if it is not killed before: the news ends the sleep.
    let _ = time::sleep(20 * MILLISECOND);
    signal::kill(child, SIGTERM).or_fail("kill");
    process::wait_raw(child, 0).or_fail("wait4");
    println!("stop, continue, kill: {}", NEWS.swap(0, Relaxed));

    let action = Action::call(child_news, SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP);
    signal::set_action(SIGCHLD, &action).or_fail("sigaction");
    let child = child_that(pause);
    signal::kill(child, SIGSTOP).or_fail("kill");
    process::wait_raw(child, WUNTRACED).or_fail("wait4");
    signal::kill(child, SIGKILL).or_fail("kill");
    process::wait_raw(child, 0).or_fail("wait4");
    println!("with SA_NOCLDSTOP: {}", NEWS.swap(0, Relaxed));

    let action = Action::call(child_news, SA_SIGINFO | SA_RESTART | SA_NOCLDWAIT);
    signal::set_action(SIGCHLD, &action).or_fail("sigaction");
    let child = child_that(|| 1);
    println!("with SA_NOCLDWAIT: {:?}", process::wait_raw(child, 0).err());
    signal::set_action(SIGCHLD, &Action::IGNORE).or_fail("sigaction");
    let child = child_that(|| 1);
    println!("ignored: {:?}", process::wait_raw(child, 0).err());
    restore(SIGCHLD);
    NEWS.store(0, Relaxed);
}
