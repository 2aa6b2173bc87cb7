//! A program that uses up the kernel's own memory gets errors; the machine lives, and has all of
//! its memory back afterwards.

use tests::{Board, Boot, Run, TraceLevel};

/// The most frames by which page tables of the kernel's own windows (heap and stacks) may grow for
/// good: 2 MiB are mapped by each, in 256 MiB.
const TABLES: u64 = 128;

/// On several CPUs, each of the others has a process that wants memory at the edge, too.
fn exhaust(mebibytes: u64, cpus: u32, steps: u32) -> Run {
    let boot = Boot::on(Board::Virt).memory(mebibytes).cpus(cpus);
    let run = boot.lossless().seed(1).trace(TraceLevel::Life).run(&[
        "exhaust",
        &steps.to_string(),
        &(cpus - 1).to_string(),
    ]);
    run.expect_status(0).expect_whole();
    run
}

/// The numbers in what the program says.
fn numbers(run: &Run) -> Vec<u64> {
    let words = run.stdout().split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Frames that are free at the end or belong to the kernel's heap, and those of the heap.
fn frames(run: &Run) -> (u64, u64) {
    let free = run.trace.end.as_ref().expect("an end").free_frames;
    let last = run.trace.snapshots.last().expect("a snapshot");
    let heap = last.kernel_heap_bytes / 4096;
    (free + heap, heap)
}

#[test]
fn the_kernel_survives_and_forgets() {
    // The heap only shrinks from its end: nothing that stays may have been put there while it was
    // large.
    let mut kept = Vec::new();
    // Sizes and steps are such that the edge is met at different moments.
    for (mebibytes, cpus, steps) in [
        (128, 1, 8),
        (128, 1, 40),
        (128, 1, 100),
        (137, 1, 40),
        (200, 1, 100),
        (200, 4, 20),
    ] {
        let (all, heap) = frames(&exhaust(mebibytes, cpus, 0));
        let run = exhaust(mebibytes, cpus, steps);
        let [full, _, worked, refused, _] = numbers(&run)[..] else {
            panic!("{}", run.stdout());
        };
        // Each full pipe is 64 KiB of the kernel's heap.
        assert!((full * 64) << 10 > mebibytes << 19, "{}", run.stdout());
        assert!(worked > 0 && refused > 0, "{}", run.stdout());
        let (all_after, heap_after) = frames(&run);
        assert!(
            all_after <= all && all - all_after <= TABLES,
            "{mebibytes} MiB, {steps} steps: {all} frames before, {all_after} after"
        );
        if heap_after > heap + 128 {
            kept.push(format!(
                "{mebibytes} MiB, {cpus} CPUs, {steps} steps: a heap of {heap} frames before, {heap_after} after"
            ));
        }
    }
    assert!(kept.is_empty(), "{kept:#?}");
}
