//! The example workloads, and what each of them teaches: the finding that the report makes of it, by
//! counts and places, not by times.

use serde_json::Value;
use tests::{Board, Boot, ForkMode, Run};

fn run(words: &[&str]) -> Run {
    run_on(Boot::on(Board::Virt), words)
}

fn run_on(boot: Boot, words: &[&str]) -> Run {
    // Findings are ranked by cost: instructions, which are the same every time.
    let run = boot.lossless().deterministic(1).run(words);
    run.expect_status(0).expect_sound();
    assert_eq!(run.stderr(), "");
    run
}

/// Copies and reuses of the functions of this name.
#[track_caller]
fn of(report: &Value, function: &str) -> [u64; 2] {
    let lines = report["lines"].as_array().expect("lines");
    let ours = lines.iter().filter(|line| is(&line["place"], function));
    ours.fold([0; 2], |[copies, reuses], line| {
        [
            copies + number(&line["copies"]["count"]),
            reuses + number(&line["reuses"]["count"]),
        ]
    })
}

fn is(place: &Value, function: &str) -> bool {
    let name = place["source"]["function"].as_str().unwrap_or_default();
    name.ends_with(&format!("::{function}"))
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The findings of a kind, and what they say.
fn findings<'a>(report: &'a Value, kind: &str, function: &str) -> Vec<&'a Value> {
    let all = report["advice"].as_array().expect("findings").iter();
    all.filter(|advice| advice["kind"] == kind && is(&advice["place"], function))
        .collect()
}

#[track_caller]
fn finding<'a>(report: &'a Value, kind: &str, function: &str) -> &'a Value {
    let found = findings(report, kind, function);
    assert_eq!(
        found.len(),
        1,
        "{kind} at {function}: {:#}",
        report["advice"]
    );
    found[0]
}

#[track_caller]
fn says(value: &Value, text: &str) {
    let said = value.as_str().unwrap_or_default();
    assert!(said.contains(text), "{text:?} is not in {said:?}");
}

/// While the child saves, each page that the parent writes to is copied: by the parent. Packed, the
/// same writes copy a page for 64 values.
#[test]
fn a_store_that_saves_itself() {
    let report = run(&["store", "128"]).report();
    let [copies, _] = of(&report, "set");
    assert_eq!(copies, 128);
    // 128 pages, the stacks, and not two blocks of 2 MiB for each of the two.
    let [small, large] = ["copied_bytes", "copied_bytes_with_2mib_pages"];
    assert!(
        (128..140).contains(&(number(&report[small]) >> 12)),
        "{}",
        report[small]
    );
    assert!(
        (1..=4).contains(&(number(&report[large]) >> 21)),
        "{}",
        report[large]
    );
    let finding = finding(&report, "copies", "set");
    says(&finding["what"], "copied 128 pages (512 KiB)");
    says(
        &finding["instead"],
        "fork before Store::load (bin/store.rs:",
    );
    let forks = report["forks"].as_array().expect("forks");
    let by_parent = &forks[0]["by_parent"];
    let paid = number(&by_parent["copies"]["count"]) + number(&by_parent["table_copies"]["count"]);
    assert!(paid >= 128, "{by_parent}");
    assert_eq!(of(&report, "save"), [0, 0], "reading copies nothing");

    let report = run(&["store", "128", "packed"]).report();
    assert_eq!(of(&report, "set")[0], 2);
}

/// A worker that only reads copies all that it reads; of each page one count has changed. Apart, the
/// counts are few pages; frozen, nothing is copied.
#[test]
fn a_runtime_that_counts_references() {
    let compared = || Boot::on(Board::Virt).append("amplification");
    let report = run_on(compared(), &["refcount", "64"]).report();
    assert_eq!(of(&report, "reference")[0], 64);
    let finding = finding(&report, "amplification", "reference");
    // A count of 1 that became 2: one byte.
    says(
        &finding["what"],
        "of 64 pages copied (256 KiB), 64 bytes in 64 lines of 64 bytes had changed",
    );
    says(&finding["instead"], "it fits on 1 page");
    let lines = report["lines"].as_array().expect("lines");
    let line = lines.iter().find(|line| is(&line["place"], "reference"));
    let changed = &line.expect("the line")["changed"];
    assert_eq!(
        changed,
        &serde_json::json!({"pages": 64, "unchanged": 0, "bytes": 64, "lines": 64, "unknown": 0})
    );

    let report = run_on(compared(), &["refcount", "64", "apart"]).report();
    assert_eq!(of(&report, "reference")[0], 2);
    let report = run_on(compared(), &["refcount", "64", "frozen"]).report();
    assert_eq!(of(&report, "reference"), [0, 0]);
}

/// What each worker does at its first request, each pays for.
#[test]
fn a_server_that_forks_beforehand() {
    let report = run(&["prefork", "3"]).report();
    assert_eq!(of(&report, "fill_table")[0], 3 * 64);
    let finding = finding(&report, "same-in-each-child", "fill_table");
    says(
        &finding["what"],
        "3 processes copied the same 64 pages: 192 copies",
    );
    says(&finding["instead"], "once before the fork");

    let report = run(&["prefork", "3", "warm"]).report();
    assert_eq!(of(&report, "fill_table"), [0, 0]);
    assert_eq!(of(&report, "answer")[0], 3, "a page to work on each");
}

/// Sorted, what apps write takes two pages instead of 64 from each of them.
#[test]
fn a_zygote() {
    let report = run(&["zygote", "2"]).report();
    assert_eq!(of(&report, "touch")[0], 2 * 64);
    let report = run(&["zygote", "2", "sorted"]).report();
    assert_eq!(of(&report, "touch")[0], 2 * 2);
}

/// What a shell forks only to exec, it pays for at once and at its next writes; by vfork, never.
#[test]
fn a_pipeline() {
    let report = run(&["pipeline", "2"]).report();
    // A line for each program of the pipeline.
    let findings = findings(&report, "fork-then-exec", "run_by_fork");
    assert_eq!(findings.len(), 2, "{:#}", report["advice"]);
    for finding in findings {
        says(&finding["what"], "2 forks shared 1,04");
        says(&finding["instead"], "posix_spawn or vfork: ");
    }
    let forks = report["forks"].as_array().expect("forks");
    let vforks: Vec<_> = forks
        .iter()
        .filter(|fork| fork["mode"] == "vfork")
        .collect();
    assert_eq!(vforks.len(), 4 + 1, "and that of init");
    for fork in vforks {
        assert_eq!([&fork["shared"], &fork["debt_cycles"]], [0, 0], "{fork}");
    }
    let [copies, reuses] = of(&report, "remember");
    assert!(
        reuses > 0 && copies == 0,
        "its programs had gone: {copies}, {reuses}"
    );
}

/// All are alive at once, all pages are shared, and hardly any is copied.
#[test]
fn a_fork_bomb() {
    let run = run(&["forkbomb", "64"]);
    assert!(run.stdout().contains("64 processes alive at once"));
    let report = run.report();
    // And the program itself, by vfork.
    assert_eq!(report["fork_count"], 64 + 1);
}

/// What an eager fork copies and nobody writes was copied for nothing: the kernel says of how many
/// pages that is so.
#[test]
fn what_an_eager_fork_copies() {
    let boot = Boot::on(Board::Virt)
        .fork(ForkMode::Eager)
        .append("amplification");
    let report = run_on_unchecked(boot, &["refcount", "64", "frozen"]).report();
    let all = &report["amplification"];
    assert_eq!(all["writes"]["pages"], 0);
    let eager = &all["others"];
    assert!(number(&eager["pages"]) >= 64, "{eager}");
    assert!(number(&eager["unchanged"]) >= 64, "{eager}");
    let fork = report["forks"][0]["copied"].clone();
    assert_eq!(eager["pages"], fork, "each copy is compared once");
    let says = report["advice"].to_string();
    assert!(says.contains("\"eager-fork\""), "{says}");
}

/// An eager fork's frames are unknown to the trace.
fn run_on_unchecked(boot: Boot, words: &[&str]) -> Run {
    let run = boot.lossless().deterministic(1).run(words);
    run.expect_status(0).expect_whole();
    run
}

/// Without memory to keep copies, the pages are told as not compared, and the program goes on.
#[test]
fn no_memory_to_compare() {
    let boot = Boot::on(Board::Virt)
        .memory(128)
        .append("amplification overcommit=1");
    let report = run_on(boot, &["sweep", "10000"]).report();
    let writes = &report["amplification"]["writes"];
    let (pages, unknown) = (number(&writes["pages"]), number(&writes["unknown"]));
    assert!(pages > 0 && unknown > 0, "{writes}");
    assert!(pages + unknown >= 10_000, "{writes}");
    // The child writes 2 where there was 1.
    assert!(number(&writes["bytes"]) >= pages, "{writes}");
}
