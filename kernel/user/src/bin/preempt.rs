//! Two processes that never make a system call both get on: the timer preempts them.
//!
//! Each counts in a page that they share until it has seen the other's counter move many times.
//! Without preemption, on one CPU, where they stay, the first to run would wait for ever: after a minute of the
//! counter-timer it gives up.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use user::memory::Pages;
use user::process::{self, Pid};
use user::{Args, OrFail, check, println, time};

user::program!(main, "usage: preempt");

/// How often each must find that the other's counter has moved.
const SIGHTINGS: u32 = 10;
const SECONDS: u64 = 60;

fn main(args: Args) {
    if !args.words().is_empty() {
        args.usage();
    }
    process::stay_on_one_cpu().or_fail("sched_setaffinity");
    let page = Pages::map_shared(1).or_fail("mapping a shared page");
    let (a, b) = (page.atomic(0, 0), page.atomic(0, 1));
    let done = page.atomic(0, 2);
    let children: [Pid; 2] = [
        process::fork_child(|| run("A", a, b, done)).or_fail("fork"),
        process::fork_child(|| run("B", b, a, done)).or_fail("fork"),
    ];
    for child in children {
        process::expect_success(child);
    }
    println!(
        "preempt: two processes saw each other make progress {SIGHTINGS} times without a system call"
    );
}

fn run(name: &str, mine: &AtomicU64, other: &AtomicU64, done: &AtomicU64) -> i32 {
    let (start, frequency) = time::counter();
    let mut sightings = 0;
    let mut last = 0;
    // Whoever has seen enough goes on until the other has too.
    while done.load(Relaxed) < 2 {
        let count = mine.fetch_add(1, Relaxed) + 1;
        let seen = other.load(Relaxed);
        if seen != last && sightings < SIGHTINGS {
            last = seen;
            sightings += 1;
            if sightings == SIGHTINGS {
                done.fetch_add(1, Relaxed);
            }
        }
        if count.is_multiple_of(4096) {
            let waited = time::counter().0.wrapping_sub(start);
            check!(
                waited < SECONDS * frequency,
                "{name} saw the other move {sightings} times in {SECONDS} s"
            );
        }
    }
    0
}
