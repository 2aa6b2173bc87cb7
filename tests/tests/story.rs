//! The demonstration: every step is shown by the trace, on every board, from the same image; and
//! another program has another story.

use serde_json::Value;
use tests::{Board, Boot, ForkMode};

/// Boots the story, and checks what the trace says of it; the evidence.
fn story(board: Board, first: &str) -> Value {
    let run = Boot::on(board).lossless().run(&["story", first]);
    run.expect_status(0).expect_sound();
    let steps = run.stdout().lines();
    let numbers: Vec<_> = steps.filter_map(|line| line.split_once(". ")).collect();
    assert_eq!(numbers.len(), 8, "{}", run.stdout());

    let report = run.report();
    assert_eq!(report["machine"]["lossless"], true);
    let steps = report["story"].as_array().expect("steps");
    assert_eq!(steps.len(), 8);
    for step in steps {
        assert_eq!(step["holds"], true, "{step}");
    }
    for subject in report["checks"].as_array().expect("checks") {
        assert_eq!(subject[1]["differed"], 0, "{subject}");
        assert_eq!(subject[1]["unknown"], 0, "{subject}");
    }
    let evidence = &report["evidence"];
    chain(&evidence["chain"], first == "child");
    exec(&evidence["exec"]);
    vfork(&evidence["vfork"]);
    large_fork(&evidence["largest_fork"]);
    evidence.clone()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn function(place: &Value) -> &str {
    place["source"]["function"].as_str().unwrap_or("unknown")
}

const AP_READ_ONLY: u64 = 1 << 7;
const FRAME: u64 = 0x0000_ffff_ffff_f000;

/// Steps 1 to 5: one page, from its first write to its last owner.
fn chain(chain: &Value, child_first: bool) {
    let (parent, child) = (
        number(&chain["parent"]["ttbr0"]),
        number(&chain["child"]["ttbr0"]),
    );
    assert_ne!(parent & FRAME, child & FRAME, "two root tables");
    assert_ne!(parent >> 48, child >> 48, "two ASIDs");

    let (page, frame) = (number(&chain["page"]), number(&chain["frame"]));
    assert!(function(&chain["origins"]["place"]).contains("parent_writes_a_new_page"));
    assert_eq!(chain["origins"]["outcome"], "zero-fill");
    for forked in chain["forked"].as_array().expect("two descriptors") {
        assert_eq!((number(forked) & FRAME) >> 12, frame);
        assert_ne!(number(forked) & AP_READ_ONLY, 0, "nobody may write");
    }

    assert_eq!(chain["child_first"], child_first);
    let (copier, owner) = match child_first {
        true => (
            "child_writes_the_shared_page",
            "parent_writes_the_shared_page",
        ),
        false => (
            "parent_writes_the_shared_page",
            "child_writes_the_shared_page",
        ),
    };
    let (copy, reuse) = (&chain["copy"], &chain["reuse"]);
    assert!(function(&copy["place"]).contains(copier), "{copy}");
    assert_eq!(copy["outcome"], "cow-copy");
    assert_eq!(number(&copy["address"]) & !0xfff, page);
    assert_eq!(number(&copy["frames"][0]), frame);
    assert_ne!(number(&copy["frames"][1]), frame);
    assert_eq!(number(&copy["descriptors"][1]) & AP_READ_ONLY, 0);
    assert_eq!(copy["references"], serde_json::json!([2, 1]));
    // Data abort from EL0, a write, permission fault at level 3.
    let esr = number(&copy["esr"]);
    assert_eq!((esr >> 26, esr >> 6 & 1, esr & 0x3f), (0x24, 1, 0x0f));
    let other = usize::from(!child_first);
    assert_eq!(chain["other_after"], chain["forked"][other], "untouched");

    assert!(function(&reuse["place"]).contains(owner), "{reuse}");
    assert_eq!(reuse["outcome"], "cow-reuse");
    assert_eq!(reuse["frames"], serde_json::json!([frame, frame]));
    assert_eq!(number(&reuse["descriptors"][1]) & AP_READ_ONLY, 0);
    assert_eq!(number(&reuse["references"][0]), 1);

    let switches = &chain["switches"];
    assert_eq!(switches["ttbr0"][0], switches["ttbr0"][2]);
    assert_ne!(switches["ttbr0"][0], switches["ttbr0"][1]);
    assert_eq!(switches["tlbis"][0], switches["tlbis"][2], "no TLBI");
}

/// Step 6: eight pages, and no copy after the child's exec.
fn exec(fork: &Value) {
    assert_eq!(fork["child_gone_by"], "exec");
    let after = &fork["by_parent_after"];
    assert!(number(&after["reuses"]["count"]) >= 8, "{after}");
    assert_eq!(after["copies"]["count"], 0);
}

/// Step 7.
fn vfork(fork: &Value) {
    assert_eq!(fork["mode"], "vfork");
    for nothing in ["shared", "protected", "copied", "tables", "debt_cycles"] {
        assert_eq!(fork[nothing], 0, "{nothing}");
    }
}

/// Step 8: 1,024 pages; the child copies all, the parent then none.
fn large_fork(fork: &Value) {
    assert!(number(&fork["shared"]) >= 1024);
    // The first write below a shared table copies the table, and then the page.
    let count = |writes: &Value, what: &str| number(&writes[what]["count"]);
    let (child, parent) = (&fork["by_child"], &fork["by_parent_after"]);
    let copies = count(child, "copies") + count(child, "table_copies");
    assert!((1024..1040).contains(&copies), "{child}");
    assert!(count(child, "table_copies") >= 2, "{child}");
    let reuses = count(parent, "reuses") + count(parent, "table_reuses");
    assert!(reuses >= 1024, "{parent}");
    assert_eq!(fork["by_parent_after"]["copies"]["count"], 0);
    assert!(number(&fork["cost"]) > 0);
    assert!(number(&fork["debt_cycles"]) > 0);
}

#[test]
fn child_first_on_virt() {
    story(Board::Virt, "child");
}

#[test]
fn parent_first_on_virt() {
    story(Board::Virt, "parent");
}

#[test]
fn child_first_on_raspi3b() {
    story(Board::Raspi3b, "child");
}

#[test]
fn parent_first_on_raspi3b() {
    story(Board::Raspi3b, "parent");
}

#[test]
fn child_first_on_raspi4b() {
    story(Board::Raspi4b, "child");
}

#[test]
fn parent_first_on_raspi4b() {
    story(Board::Raspi4b, "parent");
}

/// The program behaves the same whatever fork does, and the trace says what it did.
#[test]
fn other_ways_to_fork() {
    for mode in [ForkMode::Classic, ForkMode::Eager] {
        let run = Boot::on(Board::Virt)
            .lossless()
            .fork(mode)
            .run(&["story", "child"]);
        run.expect_status(0).expect_whole();
        let checks = &run.state().machine.checks;
        assert_eq!(checks.total().differed, 0, "{:#?}", checks.findings());
        assert!(checks.total().agreed > 1000, "{:?}", checks.total());
        let report = run.report();
        assert_eq!(report["machine"]["fork"], mode.as_str());
        let forks = report["forks"].as_array().expect("forks");
        let modes: Vec<_> = forks.iter().filter_map(|f| f["mode"].as_str()).collect();
        assert!(modes.contains(&mode.as_str()), "{modes:?}");
    }
}

/// The largest fork of a program, and what the trace says of a line's function.
fn sweep(pages: u64, what: &str, function: &str) -> (Value, u64, u64) {
    // Classic: what a shared table gives back at once, no line pays for.
    let run = Boot::on(Board::Virt)
        .lossless()
        .fork(ForkMode::Classic)
        .run(&["sweep", &pages.to_string(), what]);
    run.expect_status(0).expect_sound();
    let report = run.report();
    assert_eq!(report["evidence"]["exec"], Value::Null, "it has no exec");
    let lines = report["lines"].as_array().expect("lines");
    let count = |what: &str| {
        let ours = lines
            .iter()
            .filter(|line| self::function(&line["place"]).contains(function));
        ours.map(|line| number(&line[what]["count"])).sum()
    };
    let (copies, reuses) = (count("copies"), count("reuses"));
    (report["evidence"]["largest_fork"].clone(), copies, reuses)
}

/// The numbers of a story are those of the program: one page more, one copy more.
#[test]
fn another_program_another_story() {
    for pages in [64, 65] {
        let (fork, copies, reuses) = sweep(pages, "copy", "child_writes_every_page");
        assert_eq!((copies, reuses), (pages, 0));
        // Besides the sweep's pages there are a few of stack, data and code.
        assert!(
            (pages..pages + 32).contains(&number(&fork["shared"])),
            "{fork}"
        );
    }
    let (fork, copies, reuses) = sweep(64, "reuse", "parent_writes_every_page");
    assert_eq!((copies, reuses), (0, 64));
    assert!(number(&fork["by_parent_after"]["reuses"]["count"]) >= 64);
    let (_, copies, reuses) = sweep(64, "zero", "first_writes_to_every_page");
    assert_eq!((copies, reuses), (0, 0));
}
