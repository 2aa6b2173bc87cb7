//! Random system calls, until so many were made: arguments that make sense, arguments that almost do,
//! and noise, by processes of root and of a user without rights, several at a time.
//!
//! Nothing that they do is wrong. The kernel is to live, each process to end when it is told to, and all
//! memory to come back: who runs this looks at that. The seed decides what each process does, as far as
//! no other one interferes.
#![no_std]
#![no_main]

mod arguments;
mod calls;
mod clean;
mod member;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use member::Member;
use user::linux::*;
use user::memory::Pages;
use user::process::{self, Pid};
use user::{Args, Errno, OrFail, Result, Rng, check, eprintln, println, signal, syscall, time};

user::program!(
    main,
    "usage: fuzz CALLS SEED\n\nMakes at least CALLS random system calls. It empties /tmp, kills all other processes, and wants to\nbe root."
);

/// Processes at a time.
const CREW: usize = 3;
/// Calls of each, if it lives long enough.
const CALLS: u64 = 300;
/// Time in which a crew makes a call, nanoseconds: if it does not, all that is left of it sleeps for
/// ever, and is killed.
const PATIENCE: u64 = 15_000_000;
/// Time for killed processes to go.
const END: u64 = 20_000_000_000;
/// Crews after which /tmp is emptied.
const CLEAN: u64 = 16;

/// A system call with numbers, or memory of the caller's.
fn invoke<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: all memory is that of the callers. (The random calls are made in `member`.)
    unsafe { syscall(number, arguments) }
}

fn main(args: Args) {
    let [calls, seed] = *args.words() else {
        args.usage()
    };
    let calls: u64 = args.number(calls);
    let seed: u64 = args.number(seed);
    let mut rng = Rng::with_seed(seed);
    // SIGKILL and SIGSTOP come from nobody: others have no right to send them.
    signal::block(u64::MAX).or_fail("rt_sigprocmask");
    // PR_SET_CHILD_SUBREAPER: who is left behind comes here.
    invoke(__NR_prctl, [36, 1]).or_fail("prctl");
    let made = Pages::map_shared(1).or_fail("mapping a page");
    let made = made.atomic(0, 0);
    let (mut processes, mut killed) = (0, 0);
    let mut crews = 0;
    clean::make_folder();
    while made.load(Relaxed) < calls {
        let mut crew = [0; CREW];
        for pid in &mut crew {
            let seed = rng.u64(..);
            *pid = process::fork_child(|| Member::new(seed, made).run(CALLS)).or_fail("fork");
            processes += 1;
        }
        if !wait_for(&mut crew, made).or_fail("wait4") {
            killed += 1;
        }
        end_all(&mut crew);
        crews += 1;
        if crews % CLEAN == 0 {
            clean::remove_folder();
            clean::make_folder();
        }
    }
    clean::remove_folder();
    let made = made.load(Relaxed);
    eprintln!("{made} calls by {processes} processes, {killed} crews had to be killed");
    println!("fuzz: at least {calls} calls with seed {seed}");
}

/// Reaps until all of `crew` have ended, or make no calls any more: false.
fn wait_for(crew: &mut [Pid], made: &AtomicU64) -> Result<bool> {
    let mut seen = (0, time::now()? + PATIENCE);
    while crew.iter().any(|&pid| pid != 0) {
        match process::wait_raw(-1, WNOHANG) {
            Ok((0, _)) => {
                let (count, now) = (made.load(Relaxed), time::now()?);
                if count != seen.0 {
                    seen = (count, now + PATIENCE);
                } else if now > seen.1 {
                    return Ok(false);
                }
                let _ = time::sleep(500_000);
            }
            Ok((ended, _)) => {
                for pid in crew.iter_mut().filter(|pid| **pid == ended) {
                    *pid = 0;
                }
            }
            Err(Errno::ECHILD) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

/// Kills what is left, and waits for that to be gone.
fn end_all(crew: &mut [Pid]) {
    let end = time::now().or_fail("clock_gettime") + END;
    loop {
        let sent = signal::kill(-1, SIGKILL);
        match process::wait_raw(-1, WNOHANG) {
            Err(Errno::ECHILD) if sent == Err(Errno::ESRCH) => return,
            Ok((0, _)) | Err(_) => {
                let _ = time::sleep(200_000);
            }
            Ok(_) => {}
        }
        let late = time::now().or_fail("clock_gettime") > end;
        check!(!late, "{crew:?}: killed, and not gone");
    }
}
