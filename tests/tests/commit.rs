//! Strict commit accounting, and what becomes of a machine without it.

use tests::{Board, Boot, Run};
use wire::event::{Event, Outcome};

fn run(overcommit: &str, words: &[&str]) -> Run {
    Boot::on(Board::Virt)
        .memory(64)
        .lossless()
        .seed(1)
        .append(&format!("overcommit={overcommit}"))
        .run(words)
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
    let log = run.logs();
    assert!(
        log.iter().any(|line| line.contains("were given back")),
        "nothing was short: {log:?}"
    );
}
