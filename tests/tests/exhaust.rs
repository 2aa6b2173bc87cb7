//! A program that uses up the kernel's own memory gets errors; the machine lives, and has all of
//! its memory back afterwards.

use tests::{Board, Boot, Run, TraceLevel};

/// The most frames by which page tables of the kernel's own windows (heap and stacks) may grow for
/// good: 2 MiB are mapped by each, in 256 MiB.
const TABLES: u64 = 128;

fn exhaust(mebibytes: u64, steps: u32) -> Run {
    let boot = Boot::on(Board::Virt).memory(mebibytes).lossless().seed(1);
    let run = boot
        .trace(TraceLevel::Life)
        .run(&["exhaust", &steps.to_string()]);
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
    // The heap only shrinks from its end, where something that stays may have been put while it was
    // large. That is no loss, but should be rare.
    let mut kept = Vec::new();
    // Sizes and steps are such that the edge is met at different moments.
    for (mebibytes, steps) in [(128, 8), (128, 40), (128, 100), (137, 40), (200, 100)] {
        let (all, heap) = frames(&exhaust(mebibytes, 0));
        let run = exhaust(mebibytes, steps);
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
                "{mebibytes} MiB, {steps} steps: a heap of {heap} frames before, {heap_after} after"
            ));
        }
    }
    assert!(kept.len() <= 1, "{kept:#?}");
}
