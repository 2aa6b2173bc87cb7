//! Several CPUs: what all of them do at once is right, the trace of it is in one order and whole,
//! and the tool finds nothing wrong with it.

use std::collections::BTreeSet;

use tests::{Board, Boot, ForkMode, Run, TraceLevel};
use tools::check::{Verdict, check};
use wire::event::Event;

/// Everything at once; ends by itself, or the time-out says that something waits for ever.
const STRESS: [&str; 4] = ["stress", "8", "12", "7"];

const MODES: [ForkMode; 3] = [ForkMode::Classic, ForkMode::Shared, ForkMode::Eager];

/// The CPUs on which programs ran.
fn used(run: &Run) -> BTreeSet<u8> {
    let records = run.trace.records.iter();
    let programs = records.filter(|(_, record)| match record.event {
        Event::Switch { to, .. } => to != 0,
        _ => false,
    });
    programs.map(|(cpu, _)| *cpu).collect()
}

/// The program was content, every event is there, and their times only ever grow.
#[track_caller]
fn right(run: &Run, cpus: u8) {
    run.expect_status(0).expect_sound();
    assert_eq!(used(run), (0..cpus).collect(), "the CPUs that ran programs");
    let times = run.trace.records.iter().map(|(_, record)| record.time);
    assert!(times.is_sorted_by(|a, b| a < b), "two events out of order");
}

#[test]
fn stress_on_one_two_and_four() {
    for cpus in [1, 2, 4] {
        let boot = Boot::on(Board::Virt).cpus(cpus).lossless();
        right(&boot.run(&STRESS), cpus as u8);
    }
}

/// Who waited for whom is in the report of what ran on several CPUs.
#[test]
fn waits_for_locks_are_reported() {
    let run = Boot::on(Board::Virt).cpus(4).lossless().run(&STRESS);
    right(&run, 4);
    let report = run.report();
    let locks = report["locks"].as_array().expect("locks");
    assert!(!locks.is_empty(), "nobody ever waited");
    for lock in locks {
        let number = |name: &str| lock[name].as_u64().expect("a number");
        assert!(
            number("waits") > 0 && number("attempts") >= number("waits"),
            "{lock}"
        );
        assert!(number("longest") <= number("ticks"), "{lock}");
    }
    let one = Boot::on(Board::Virt)
        .lossless()
        .run(&["stress", "2", "2", "7"]);
    assert_eq!(one.report()["locks"], serde_json::json!([]), "for whom?");
}

/// Processes that have nothing to do with each other do not cost each other anything: a fork, an end
/// and a wait take no more instructions, all CPUs' waiting included, where there are more CPUs.
#[test]
fn forks_cost_the_same_on_four_cpus() {
    let cost = |cpus| {
        let boot = Boot::on(Board::Virt).cpu("cortex-a72,cntfrq=1000000000");
        let boot = boot.cpus(cpus).deterministic(1).trace(TraceLevel::Off);
        let run = boot.run(&["forks", "4", "200"]);
        run.expect_status(0);
        let said = run.stdout();
        let number = said
            .strip_prefix("forks: ")
            .and_then(|rest| rest.split_once(' '));
        number
            .and_then(|(number, _)| number.parse::<u64>().ok())
            .expect("a number")
    };
    let costs = [1, 2, 4].map(cost);
    assert!(
        costs[1] * 4 <= costs[0] * 5 && costs[2] * 4 <= costs[0] * 5,
        "{costs:?}"
    );
}

#[test]
fn stress_on_every_kind_of_core_and_controller() {
    for (cpu, gic) in [("cortex-a53", 2), ("cortex-a76", 3), ("max", 3)] {
        let boot = Boot::on(Board::Virt).cpus(4).cpu(cpu).gic(gic).lossless();
        right(&boot.run(&STRESS), 4);
    }
}

#[test]
fn stress_on_raspberry_pis() {
    for board in [Board::Raspi3b, Board::Raspi4b] {
        right(&Boot::on(board).lossless().run(&STRESS), 4);
    }
}

/// Arm's rules and the kernel's counts, in all fork modes.
#[test]
fn four_cpus_are_clean() {
    for mode in MODES {
        let programs: [&[&str]; 7] = [
            &["story"],
            &["stress", "4", "3", "3"],
            &["isolation", "20", "100", "7"],
            &["mapping"],
            &["pipes"],
            &["vforks"],
            &["execs"],
        ];
        for program in programs {
            let boot = Boot::on(Board::Virt).cpus(4).lossless();
            let run = boot.trace(TraceLevel::Mmu).fork(mode).run(program);
            run.expect_status(0).expect_whole();
            let report = check(&mut &run.bytes[..], 8).expect("a trace");
            let translation = report.translation.as_ref().expect("MMU events");
            assert_eq!(
                report.verdict,
                Verdict::Clean,
                "{mode:?} {program:?}: {:#?} {:#?}",
                translation.violations.first(),
                report.findings
            );
            assert_eq!(translation.late, 0);
        }
    }
}

/// ASIDs roll over while all CPUs run.
#[test]
fn few_asids_on_four_cpus() {
    let boot = Boot::on(Board::Virt).cpus(4).lossless();
    right(&boot.append("asid_bits=4").run(&STRESS), 4);
}

/// With small rings and a slow line much is lost: counted per CPU, and nothing but lost.
#[test]
fn loss_on_four_cpus_is_exact() {
    let run = Boot::on(Board::Virt).cpus(4).ring(64).run(&STRESS);
    run.expect_status(0);
    let end = run.trace.end.as_ref().expect("an end");
    let mut emitted = end.emitted;
    for event in run.trace.events() {
        emitted[event.kind()] -= 1;
    }
    assert_eq!(emitted, [0; wire::event::KINDS], "sent and received");
    assert!(end.dropped.iter().sum::<u64>() > 0, "nothing was lost");
    // The last snapshot of each CPU, right before the end, adds up to it.
    let last = &run.trace.snapshots[run.trace.snapshots.len() - 4..];
    let sum = |kind: usize| {
        last.iter()
            .map(|snapshot| snapshot.dropped[kind])
            .sum::<u64>()
    };
    for kind in 0..wire::event::KINDS {
        assert_eq!(sum(kind), end.dropped[kind], "kind {kind}");
    }
}

#[test]
fn fewer_cpus_than_the_board_has() {
    let run = Boot::on(Board::Raspi3b)
        .append("maxcpus=2")
        .lossless()
        .run(&STRESS);
    right(&run, 2);
}

#[test]
fn four_cpus_by_counted_instructions_are_the_same_twice() {
    let bytes = || {
        let boot = Boot::on(Board::Virt).cpus(4).lossless().deterministic(5);
        let run = boot.run(&["stress", "6", "4", "5"]);
        right(&run, 4);
        run.bytes.clone()
    };
    let (one, two) = (bytes(), bytes());
    let differ = one.iter().zip(&two).position(|(a, b)| a != b);
    assert_eq!((differ, one.len()), (None, two.len()));
}
