//! Random system calls, by many processes: the kernel lives, all ends when it is told to, and all memory
//! comes back.
//!
//! `COWSCOPE_FUZZ_SEED=100 cargo test -p tests --test fuzz` tries other seeds than always, from 100 on.
//! What fails says how it is run once more.

use std::collections::BTreeSet;
use std::env;

use tests::{Board, Boot, ForkMode, Run, TraceLevel, system_calls};

/// Tells a failure how to repeat it.
struct Repeat(String);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("once more: {}", self.0);
        }
    }
}

fn fuzz(boot: Boot, options: &str, calls: u64, seed: u64) -> Run {
    let words = ["fuzz", &calls.to_string(), &seed.to_string()];
    let words_line = words.join(" ");
    let _repeat = Repeat(format!("cowscope run {options} -- {words_line}"));
    let run = boot.run(&words);
    let said = format!("fuzz: at least {calls} calls with seed {seed}\n");
    assert_eq!(run.stdout(), said);
    run.expect_status(0).expect_whole();
    run
}

/// Frames free at the end, with those of the kernel's heap and of the tables that map it.
fn frames(run: &Run) -> u64 {
    let last = run.trace.snapshots.last().expect("a snapshot");
    let heap = last.kernel_heap_bytes;
    run.trace.end.as_ref().expect("an end").free_frames + heap / 4096 + heap.div_ceil(2 << 20)
}

/// As many frames in the end as after a few calls.
fn expect_frames(few: &Run, many: &Run) {
    // What the program has of its own file in memory in the end are at most its own pages.
    const PROGRAM: u64 = 16;
    let (before, after) = (frames(few), frames(many));
    assert!(after + PROGRAM >= before, "{before} frames, then {after}");
}

/// The first seed: other ones by hand.
fn first_seed() -> u64 {
    match env::var("COWSCOPE_FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("COWSCOPE_FUZZ_SEED is a number"),
        Err(_) => 1,
    }
}

#[test]
fn random_calls_lose_nothing() {
    let boot = || Boot::on(Board::Virt).cpus(4).lossless();
    let few = fuzz(boot(), "--cpus 4", 500, first_seed());
    let many = fuzz(boot(), "--cpus 4", 7_000, first_seed() + 1);
    many.expect_sound();
    expect_frames(&few, &many);
}

/// A part of a million calls: with another seed, on another machine.
fn part(number: u64, thousands: u64, cpus: u32, fork: ForkMode, checks: bool) {
    let boot = || {
        let boot = Boot::on(Board::Virt).cpus(cpus).fork(fork);
        let boot = boot.trace(TraceLevel::Off);
        if checks { boot.checks() } else { boot }
    };
    let checked = match checks {
        true => ", with the kernel that checks itself",
        false => "",
    };
    let fork = fork.as_str();
    let options = format!("--cpus {cpus} --fork {fork} --trace off{checked}");
    let few = fuzz(boot(), &options, 500, first_seed());
    let many = fuzz(boot(), &options, thousands * 1000, first_seed() + number);
    expect_frames(&few, &many);
}

macro_rules! million {
    ($($name:ident: $number:literal, $thousands:literal, $cpus:literal, $fork:ident, $checks:literal;)*) => {
        $(
            #[test]
            fn $name() {
                part($number, $thousands, $cpus, ForkMode::$fork, $checks);
            }
        )*
        const _: () = assert!(0 $(+ $thousands)* == 1000);
    };
}

million! {
    classic_forks_on_one_cpu: 1, 150, 1, Classic, false;
    shared_tables_on_one_cpu: 2, 150, 1, Shared, false;
    eager_forks_on_one_cpu: 3, 150, 1, Eager, false;
    classic_forks_on_four_cpus: 4, 150, 4, Classic, false;
    shared_tables_on_four_cpus: 5, 150, 4, Shared, false;
    eager_forks_on_four_cpus: 6, 150, 4, Eager, false;
    shared_tables_checked: 7, 50, 4, Shared, true;
    classic_forks_checked: 8, 50, 1, Classic, true;
}

/// A call that is new in the kernel wants a line in the program's list, or it is hardly ever made.
#[test]
fn every_call_is_known() {
    let listed = include_str!("../../kernel/user/src/bin/fuzz/calls.rs");
    let listed: BTreeSet<_> = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("(__NR_")?.split(',').next())
        .collect();
    let missing: Vec<_> = system_calls().difference(&listed).copied().collect();
    assert!(missing.is_empty(), "calls without a line: {missing:?}");
}
