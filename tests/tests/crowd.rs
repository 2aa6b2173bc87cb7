//! Tens of thousands of processes, all alive at once: each has run, has written to its stack and
//! sleeps. Linux fits 15,600 to 21,800 of them into 1 GiB.

use tests::{Board, Boot, ForkMode, Run, TraceLevel};
use wire::event::Event;

/// Frames that are free at the end, when only init is left, and those of the kernel's heap.
fn frames(run: &Run) -> u64 {
    let free = run.trace.end.as_ref().expect("an end").free_frames;
    let last = run.trace.snapshots.last().expect("a snapshot");
    assert_eq!(last.processes, 1);
    free + last.kernel_heap_bytes / 4096
}

fn crowd(mebibytes: u64, count: u32, trace: TraceLevel) -> Run {
    let boot = Boot::on(Board::Virt).memory(mebibytes).trace(trace).seed(1);
    let run = boot
        .fork(ForkMode::Shared)
        .lossless()
        .run(&["crowd", &count.to_string()]);
    run.expect_status(0).expect_whole();
    let said = format!("crowd: round 1: {count} processes alive at once, ");
    assert!(run.stdout().starts_with(&said), "{}", run.stdout());
    run
}

/// The most bytes of RAM per process, its page of stack included.
const EACH: u64 = 27_500;

fn each(run: &Run) -> u64 {
    let words = run.stdout().split(' ');
    let number = words.skip_while(|word| *word != "once,").nth(1);
    number.and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn thirty_six_thousand_in_a_gibibyte() {
    let few = frames(&crowd(1024, 1, TraceLevel::Life));
    let run = crowd(1024, 36_000, TraceLevel::Life);
    assert!(each(&run) <= EACH, "{}", run.stdout());
    let reaped = run.trace.events();
    let reaped = reaped.filter(|event| matches!(event, Event::Reap { .. }));
    assert_eq!(reaped.count(), 36_001, "init's child is one more");
    // The kernel keeps the tables of the windows that its stacks and its heap are in, which have
    // never been so large before: 64 stacks a table, and 512 pages of heap.
    let tables = 36_000 / 64 + 64;
    let left = frames(&run);
    assert!(
        left + tables >= few && left <= few,
        "{few} frames are free after one process, {left} after 36,000"
    );
}

/// More processes than a 16-bit ASID can tell apart, on a machine with 4 GiB.
#[test]
#[ignore = "takes minutes and 4 GiB"]
fn a_hundred_thousand_in_four_gibibytes() {
    let run = crowd(4096, 100_000, TraceLevel::Life);
    assert!(each(&run) <= EACH, "{}", run.stdout());
    let renumbered = run.trace.events();
    let renumbered = renumbered.filter(|event| matches!(event, Event::AsidNew { .. }));
    assert!(
        renumbered.count() > 65_535,
        "each sleeper wakes with a new ASID"
    );
}
