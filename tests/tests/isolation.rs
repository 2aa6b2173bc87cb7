//! Thousands of forks in which every process sees only its own writes, and after which every frame
//! is free again.

use tests::{Board, Boot, ForkMode, Run, TraceLevel};
use wire::event::Event;

fn run(boot: Boot, forks: u32, pages: u32, seed: u64) -> Run {
    let words = [forks.to_string(), pages.to_string(), seed.to_string()];
    let run = boot.run(&["isolation", &words[0], &words[1], &words[2]]);
    run.expect_status(0).expect_whole();
    let said = format!("isolation: {forks} forks, ");
    assert!(run.stdout().starts_with(&said), "{}", run.stdout());
    run
}

fn forks(run: &Run) -> u32 {
    let forks = run.trace.events();
    // Of init, by vfork, is one more.
    forks.filter(|e| matches!(e, Event::Fork(_))).count() as u32 - 1
}

/// Frames that are free at the end, when only init is left, and those of the kernel's heap.
fn frames(run: &Run) -> (u64, u64) {
    let free = run.trace.end.as_ref().expect("an end").free_frames;
    let last = run.trace.snapshots.last().expect("a snapshot");
    assert_eq!(last.processes, 1);
    (free, last.kernel_heap_bytes / 4096)
}

/// The most frames by which forks may leave the heap larger: it keeps some for the next.
const HEAP: u64 = 64;

/// Thousands of forks leave as many frames free as none at all.
#[track_caller]
fn none_leaks(boot: impl Fn() -> Boot, many: u32, seeds: &[u64]) {
    let (free, heap) = frames(&run(boot(), 0, 64, seeds[0]));
    for &seed in seeds {
        let run = run(boot(), many, 64, seed);
        assert_eq!(forks(&run), many);
        let (free_after, heap_after) = frames(&run);
        assert_eq!(
            free_after + heap_after,
            free + heap,
            "seed {seed}: frames leaked"
        );
        assert!(
            heap_after <= heap + HEAP,
            "seed {seed}: the heap grew from {heap} to {heap_after} frames"
        );
    }
}

#[test]
fn virt() {
    let boot = || {
        Boot::on(Board::Virt)
            .lossless()
            .trace(TraceLevel::Life)
            .seed(1)
    };
    none_leaks(boot, 3000, &[1, 2, 3]);
}

#[test]
fn virt_with_shared_tables_and_few_asids() {
    let boot = || {
        Boot::on(Board::Virt)
            .lossless()
            .trace(TraceLevel::Life)
            .fork(ForkMode::Shared)
            .append("asid_bits=2")
    };
    none_leaks(boot, 2000, &[4, 5]);
}

#[test]
fn raspberry_pis() {
    for board in [Board::Raspi3b, Board::Raspi4b] {
        let boot = || Boot::on(board).lossless().trace(TraceLevel::Life);
        none_leaks(boot, 300, &[6]);
    }
}

/// With every fault in the trace, the tool follows thousands of frames through hundreds of
/// processes, and never disagrees with the kernel.
#[test]
fn the_trace_adds_up() {
    for mode in [ForkMode::Classic, ForkMode::Shared] {
        let run = run(
            Boot::on(Board::Virt).lossless().fork(mode).cpus(1),
            200,
            // More than the 64 pages from which fork=shared shares a table.
            100,
            7,
        );
        let checks = &run.state().machine.checks;
        let total = checks.total();
        assert_eq!(total.differed, 0, "{mode:?}: {:#?}", checks.findings());
        assert!(total.agreed > 10_000, "{mode:?}: {total:?}");
    }
}
