//! Strict commit accounting, and what becomes of a machine without it.

use tests::{Board, Boot, Run};
use wire::event::{Event, Outcome};

const BRK: u32 = 214;
const CLONE: u32 = 220;
const MMAP: u32 = 222;

fn run(overcommit: &str, words: &[&str]) -> Run {
    Boot::on(Board::Virt)
        .memory(64)
        .lossless()
        .seed(1)
        .append(&format!("overcommit={overcommit}"))
        .run(words)
}

/// What was refused: who, which system call, pages asked for and pages left.
fn refusals(run: &Run) -> Vec<(u32, u32, u64, u64)> {
    let refused = run.trace.events().filter_map(|event| match event {
        Event::Refused(refused) => Some(refused),
        _ => None,
    });
    refused
        .map(|refused| (refused.pid, refused.number, refused.pages, refused.left))
        .collect()
}

/// The only refusal of a run is in its report, as that of a function.
fn expect_reported(run: &Run, call: &str, function: &str) {
    let [(pid, number, pages, left)] = refusals(run)[..] else {
        panic!("{:?}", refusals(run));
    };
    let report = run.report();
    let processes = report["processes"].as_array().expect("processes");
    let ours = processes.iter().find(|process| process["pid"] == pid);
    let refusals = ours.expect("the process")["refusals"].as_array();
    let [refusal] = &refusals.expect("a list")[..] else {
        panic!("{refusals:?}");
    };
    let said = |key: &str| refusal[key].as_u64().expect("a number");
    assert_eq!(
        (said("number"), said("count"), said("pages"), said("left")),
        (number.into(), 1, pages, left)
    );
    assert_eq!(refusal["name"], call);
    let named = refusal["place"]["source"]["function"].as_str();
    assert!(named.unwrap_or("").contains(function), "{refusal}");
}

fn forks(run: &Run) -> usize {
    let events = run.trace.events();
    events
        .filter(|event| matches!(event, Event::Fork(_)))
        .count()
}

/// Two processes with more than half of the machine each: one too many.
#[test]
fn a_fork_is_refused_if_what_it_shares_could_not_be_written_twice() {
    let strict = run("2", &["overcommit", "8000"]);
    strict.expect_status(0).expect_sound();
    assert_eq!(strict.stdout(), "overcommit: fork: ENOMEM\n");
    let [(2, CLONE, pages, left)] = refusals(&strict)[..] else {
        panic!("{:?}", refusals(&strict));
    };
    assert!(pages > 8000 && left < pages, "{pages} of {left}");
    expect_reported(&strict, "clone", "overcommit::main");
    assert!(
        !strict
            .trace
            .faults()
            .any(|fault| fault.outcome == Outcome::OutOfMemory),
        "a fault failed although nothing was promised in vain"
    );

    // Nothing is refused: the child that writes what it was promised is killed, and nobody else.
    let loose = run("1", &["overcommit", "8000"]);
    loose.expect_status(0).expect_sound();
    assert_eq!(
        loose.stdout(),
        "overcommit: the child was killed by signal 9\n"
    );
    assert_eq!(forks(&loose), forks(&strict) + 1);
    assert_eq!(refusals(&loose), []);
    let failed = loose
        .trace
        .faults()
        .filter(|fault| fault.outcome == Outcome::OutOfMemory)
        .map(|fault| fault.pid);
    let killed = loose.trace.events().filter_map(|event| match event {
        Event::Killed { pid, signal: 9, .. } => Some(*pid),
        _ => None,
    });
    let (failed, killed): (Vec<_>, Vec<_>) = (failed.collect(), killed.collect());
    assert_eq!((failed.len(), &failed), (1, &killed));

    // With room for both there is no difference.
    let fits = run("2", &["overcommit", "4000"]);
    fits.expect_status(0).expect_sound();
    assert_eq!(fits.stdout(), "overcommit: the child exited with 0\n");
    assert_eq!(refusals(&fits), []);
}

/// Who maps more than there is, or has its heap grow so far, is told no; the trace tells of it.
#[test]
fn a_refused_mapping_is_on_record() {
    let run = run("2", &["hog", "1000000"]);
    run.expect_status(1).expect_sound();
    let [(2, MMAP, pages, left)] = refusals(&run)[..] else {
        panic!("{:?}", refusals(&run));
    };
    // The pages, and the tables for them: 4 of the machine's 64 MiB are the reserve's and more.
    assert!((1_000_000..1_003_000).contains(&pages), "{pages}");
    assert!((8_000..16_384).contains(&left), "{left}");
    expect_reported(&run, "mmap", "hog::main");
}

#[test]
fn a_break_that_is_not_moved_is_on_record() {
    let run = run("2", &["overcommit", "20000", "brk"]);
    run.expect_status(0).expect_sound();
    assert_eq!(run.stdout(), "overcommit: the break stays where it is\n");
    let [(2, BRK, pages, left)] = refusals(&run)[..] else {
        panic!("{:?}", refusals(&run));
    };
    assert!(pages >= 20_000 && left < pages, "{pages} of {left}");
    expect_reported(&run, "brk", "overcommit::main");
}

/// The pages of a file that nobody maps any more are given back before a promise is refused.
#[test]
fn files_give_up_what_nobody_maps() {
    let file = vec![1; 16 << 20];
    let boot = |words: &[&str]| {
        let boot = Boot::on(Board::Virt).memory(64).lossless();
        boot.file("/data", file.clone()).run(words)
    };
    // So many pages can be had without the file's.
    let run = boot(&["hog", "8000"]);
    run.expect_status(0).expect_sound();
    let run = boot(&["hog", "8000", "/data", "4096"]);
    run.expect_status(0).expect_sound();
    assert_eq!(run.stdout(), "hog: touched 8000 pages\n");
    // The call that got them the second time was not refused.
    assert_eq!(refusals(&run), []);
    let log = run.logs();
    assert!(
        log.iter().any(|line| line.contains("were given back")),
        "nothing was short: {log:?}"
    );
}
