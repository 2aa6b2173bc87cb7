//! The kernel that checks itself (`run --checks`): Arm's translation rules and the order of locks,
//! as it runs. It finds nothing, and whatever is left out it names, and stops.

use tests::{Board, Boot, Run, cowscope};
use wire::event::Outcome;

fn boot(cpus: u32) -> Boot {
    Boot::on(Board::Virt).checks().cpus(cpus)
}

/// How many events the kernel says that it has checked.
#[track_caller]
fn checked(run: &Run) -> u64 {
    run.expect_status(0);
    let logs = run.logs();
    let said = logs.iter().find_map(|line| {
        let (_, rest) = line.split_once("checked ")?;
        let (events, rest) = rest.split_once(" events, no rule is broken")?;
        assert!(rest.ends_with("its memory was full 0 times"), "{line}");
        events.parse().ok()
    });
    said.unwrap_or_else(|| panic!("nothing was checked: {logs:#?}"))
}

#[test]
fn the_demonstration_and_stress_break_no_rule() {
    for cpus in [1, 4] {
        assert!(checked(&boot(cpus).run(&["story"])) > 20_000);
        assert!(checked(&boot(cpus).run(&["stress", "4", "3", "3"])) > 50_000);
    }
}

/// The checker's memory is bounded: when it is full, it begins anew.
#[test]
fn little_memory() {
    let run = boot(1).append("inject=room:256").run(&["story"]);
    run.expect_status(0);
    let logs = run.logs();
    let full = logs.iter().find_map(|line| {
        let (_, rest) = line.split_once("its memory was full ")?;
        rest.strip_suffix(" times")?.parse::<u64>().ok()
    });
    assert!(full.is_some_and(|full| full > 0), "{logs:#?}");
}

/// One barrier or TLBI is not executed: the kernel stops, and says which rule that breaks.
#[test]
fn what_is_left_out_stops_the_kernel() {
    for (omitted, rule, missing) in [
        ("vale1is", "E2", "TLBI VALE1IS for VA 0x"),
        ("aside1is", "E5", "TLBI ASIDE1IS for ASID "),
        ("dsb-ish", "E10", "DSB ISH expected between the TLBI at #"),
        ("dsb-nsh", "E10", "DSB NSH expected between the TLBI at #"),
        ("dmb-ishst", "E11", "DMB ISHST expected between that and #"),
        ("vale1", "E6", "TLBI VALE1 for VA 0x"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = cowscope()
            .args(["run", "--checks", "--no-report", "--append"])
            .arg(format!("inject=omit:{omitted}"))
            .arg("-o")
            .arg(folder.path().join("trace.cow"))
            .args(["--", "story"])
            .output()
            .expect("cowscope runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("translation rule {rule} (")));
        let line = line.unwrap_or_else(|| panic!("{omitted}: no {rule} in {said}"));
        assert!(line.contains(missing), "{omitted}: {line}");
        assert!(line.ends_with("; CPU 0"), "{line}");
        assert!(line.contains("; page 0x"), "{line}");
    }
}

/// What the machine says when it hangs: the words after `kernel hang: `, a part for each CPU, and
/// what cowscope makes of it.
fn hangs(inject: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let output = cowscope()
        .args(["run", "--checks", "--no-report", "--cpus", "4", "--append"])
        .arg(format!("watchdog=1 inject=hang:{inject}:50"))
        .arg("-o")
        .arg(folder.path().join("trace.cow"))
        .args(["--", "stress", "4", "3", "3"])
        .output()
        .expect("cowscope runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    let (_, hang) = said.split_once("kernel hang: ").expect(&said);
    hang.split("\nCPU ").map(str::to_owned).collect()
}

/// The part that has all these words.
#[track_caller]
fn with<'a>(parts: &'a [String], words: &[&str]) -> &'a str {
    let has = |part: &&String| words.iter().all(|word| part.contains(word));
    let found = parts.iter().find(has);
    found.unwrap_or_else(|| panic!("no part with {words:?}: {parts:#?}"))
}

/// A CPU that goes round in the kernel for ever: the next one notices, and tells where all of them are.
#[test]
fn an_endless_loop_is_told() {
    let parts = hangs("loop");
    assert_eq!(parts.len(), 5, "{parts:#?}");
    let (cpu, _) = parts[0]
        .split_once(" has taken no timer interrupt")
        .expect(&parts[0]);
    // Another may be sending the trace.
    let stuck = with(&parts, &["does not answer", "inject::circle"]);
    assert_eq!(Some(stuck.as_bytes()[0]), cpu.bytes().last(), "{parts:#?}");
    for word in [
        "inject::circle",
        "inject::hang",
        "entry::user_abort",
        "any_exception",
        "; thread ",
    ] {
        assert!(
            stuck.replace("\n  thread", "; thread").contains(word),
            "{word}: {stuck}"
        );
    }
    with(
        &parts,
        // It may have been in a program, or idle.
        &["tells this", "watchdog::tick", "trap::interrupt"],
    );
    // The other two go on with their work: in a program, at a lock that a third one has, or at the wire.
    let at_work = ["it answers", "waits for the lock ", "holds the lock Output"];
    let well = parts
        .iter()
        .filter(|part| !part.contains("inject::circle"))
        .filter(|part| at_work.iter().any(|words| part.contains(words)));
    assert_eq!(well.count(), 2, "{parts:#?}");
}

/// Two CPUs that wait for each other: who holds what, since where, and who waits for it.
#[test]
fn a_deadlock_is_told() {
    let parts = hangs("lock");
    assert_eq!(parts.len(), 5, "{parts:#?}");
    assert!(
        parts[0].contains(" has waited for the lock Rotation for "),
        "{parts:#?}"
    );
    let held = "holds the lock Rotation, taken at kernel/src/check/inject.rs:";
    with(
        &parts,
        &["does not answer", held, "inject::hold", "user_abort"],
    );
    let waits = with(
        &parts,
        &["waits for the lock Rotation", "inject::want", "user_abort"],
    );
    assert!(!waits.contains("holds"), "{waits}");
}

fn met(run: &Run, outcome: Outcome) -> usize {
    let faults = run.trace.faults();
    faults.filter(|fault| fault.outcome == outcome).count()
}

/// Faults that a stale entry of the TLB would cause, which QEMU's TLB never has: each finds nothing
/// to do, forgets what the CPU has cached, and is counted as what it is.
#[test]
fn spurious_faults() {
    for cpus in [1, 4] {
        let plain = boot(cpus).lossless().run(&["isolation", "10", "100", "7"]);
        let run = boot(cpus).lossless().append("inject=spurious:3");
        let run = run.run(&["isolation", "10", "100", "7"]);
        checked(&run);
        run.expect_sound();
        assert_eq!(run.stdout(), plain.stdout());
        if cpus == 1 {
            assert_eq!(met(&plain, Outcome::Spurious), 0);
        }
        let faults = run.trace.faults().count();
        assert!(met(&run, Outcome::Spurious) > faults / 5, "of {faults}");
    }
}

/// A fault that changes nothing, again and again at one place, ends: it is not retried for ever.
#[test]
fn a_loop_of_faults_is_fatal() {
    const SIGBUS: u32 = 7;
    let run = boot(1).lossless().append("inject=spurious:40:20");
    let run = run.run(&["isolation", "10", "100", "7"]);
    assert_ne!(run.status(), 0);
    run.expect_whole();
    assert_eq!(met(&run, Outcome::Spurious) % 16, 0);
    let fatal: Vec<_> = run
        .trace
        .faults()
        .filter(|fault| fault.outcome == Outcome::Fatal)
        .collect();
    let first = fatal.first().expect("a fatal fault");
    assert_eq!(first.old, first.new, "nothing was changed");
    let same = run.trace.faults().filter(|fault| {
        (fault.outcome, fault.pid, fault.pc, fault.addr)
            == (Outcome::Spurious, first.pid, first.pc, first.addr)
    });
    assert_eq!(same.count(), 16, "it was tried again so often");
    let ended = run.trace.events().any(|event| match event {
        wire::event::Event::Exit { pid, status, .. } => {
            *pid == first.pid && status & 0x7f == SIGBUS
        }
        _ => false,
    });
    assert!(ended, "the process was not ended by SIGBUS");
}
