//! Random system calls, by many processes on four CPUs: the kernel lives, all ends when it is told to, and
//! all memory comes back. `cowscope run --cpus 4 -- fuzz 1000000 SEED` does more of it.

use tests::{Board, Boot, Run};

fn fuzz(calls: u64, seed: u64) -> Run {
    let words = ["fuzz", &calls.to_string(), &seed.to_string()];
    let run = Boot::on(Board::Virt).cpus(4).lossless().run(&words);
    let said = format!("fuzz: at least {calls} calls with seed {seed}\n");
    assert_eq!(run.stdout(), said);
    run.expect_status(0).expect_sound();
    run
}

/// Frames free at the end, with those of the kernel's heap and of the tables that map it.
fn frames(run: &Run) -> u64 {
    let last = run.trace.snapshots.last().expect("a snapshot");
    let heap = last.kernel_heap_bytes;
    run.trace.end.as_ref().expect("an end").free_frames + heap / 4096 + heap.div_ceil(2 << 20)
}

#[test]
fn random_calls_lose_nothing() {
    let few = fuzz(500, 1);
    let many = fuzz(7_000, 2);
    // What the program has of its own file in memory in the end are at most its own pages.
    const PROGRAM: u64 = 16;
    let (before, after) = (frames(&few), frames(&many));
    assert!(after + PROGRAM >= before, "{before} frames, then {after}");
}
