//! Threads: what programs see of them is what Linux shows, on one core and on four, in all ways to
//! fork; and the trace tells which thread did what.

use std::collections::{BTreeMap, BTreeSet};

use tests::{Board, Boot, ForkMode, Frame, Run, TraceLevel, system, user_mode};
use tools::check::{Verdict, check};
use wire::event::Event;

fn boot(cpus: u32) -> Boot {
    Boot::on(Board::Virt).cpus(cpus).lossless()
}

/// What `threads` prints is what it prints on this machine's Linux.
#[test]
fn as_on_linux() {
    let theirs = user_mode::run(system().program("threads"), &["threads"], &[]);
    let theirs = String::from_utf8(theirs.stdout).expect("text");
    assert!(theirs.ends_with("threads: done\n"), "{theirs}");
    for (cpus, mode) in [
        (1, ForkMode::Shared),
        (4, ForkMode::Classic),
        (4, ForkMode::Shared),
        (4, ForkMode::Eager),
    ] {
        let run = boot(cpus).fork(mode).run(&["threads"]);
        run.expect_status(0).expect_sound();
        assert_eq!(run.stdout(), theirs, "{cpus} CPUs, {mode:?}");
        assert_eq!(run.stderr(), "");
    }
}

/// What the emulator does otherwise, with the results that Linux has.
const KERNEL: &str = "\
names: 2 true
affinity: true true
the others' is as it was: true
membarrier: 0x18, Err(EPERM) Err(EINVAL) Err(EINVAL)
barriers: 1200
limited to 3: 2 more, then EAGAIN; Err(EAGAIN)
robust: 0xc0000000, another's 12345, woken true
none here: 0 24, too short: Err(EINVAL)
priority inheritance: Err(ENOSYS) Err(ENOSYS)
rseq: Err(ENOSYS)
threads: 2
in the child: one is true
the one that wants it: true
by another number: true
all block it: 2 0x200
taken: 10 2
awaited: 10
unblocked: true 3
stopped while waiting: 1
stop 0: 0x137f, still true, 0xffff
stop 1: 0x137f, still true, 0xffff
stop 2: 0x137f, still true, 0xffff
stop 3: 0x137f, still true, 0xffff
killed: 0x9
the first before the last: 0x700
not yet: (0, 0) Ok(()) Ok(()), then 0x500
a thread that has ended: Err(ESRCH) Err(ECHILD)
made and gone: true
exit_group: 0x900
an illegal instruction: 0x4
SIGTERM: 0xf
decided: 20
executed: the process's number, and alone: 1
by the first: 0x0
executed: the process's number, and alone: 1
by another: 0x0
executed: the process's number, and alone: 1
after the first has ended: 0x0
executed: the process's number, and alone: 1
executed: the process's number, and alone: 1
executed: the process's number, and alone: 1
executed: the process's number, and alone: 1
executed: the process's number, and alone: 1
no handlers: Err(EINVAL)
no memory: Err(EINVAL)
a namespace: Err(EINVAL)
a signal at the end: Err(EINVAL)
threads: done
";

#[test]
fn as_only_a_kernel_has_them() {
    for cpus in [1, 4] {
        let run = boot(cpus).run(&["threads", "kernel"]);
        run.expect_status(0).expect_sound();
        assert_eq!(run.stdout(), KERNEL, "{cpus} CPUs");
        assert_eq!(run.stderr(), "");
        told(&run);
    }
}

/// Every thread that was made is in the trace, with its process and its name, and what it did is
/// its own; each ended, alone or with its process.
#[track_caller]
fn told(run: &Run) {
    let mut threads = BTreeMap::new();
    let mut ended = BTreeSet::new();
    let mut faults = 0;
    for (_, record) in &run.trace.records {
        match record.event {
            Event::ThreadStart { pid, tid, by } => {
                assert_eq!(record.tid, by);
                threads.insert(tid, pid);
            }
            Event::ThreadExit { pid, tid } => {
                assert_ne!(threads.contains_key(&tid), tid == pid, "{tid}");
                ended.insert(tid);
                threads.remove(&tid);
            }
            Event::Exit { pid, .. } => threads.retain(|_, process| *process != pid),
            Event::Fault(ref fault) if record.tid != fault.pid => {
                assert_eq!(threads.get(&record.tid), Some(&fault.pid));
                faults += 1;
            }
            _ => {}
        }
    }
    assert!(threads.is_empty(), "{threads:?} never ended");
    assert!(ended.len() > 200 && faults > 200, "{ended:?} {faults}");
    let named = |frame: &Frame| {
        frame.content.contains("Thread { pid: 2") && frame.content.contains(r#"name: "worker""#)
    };
    assert!(run.trace.frames.iter().any(named), "no name");
    let report = run.report();
    let processes = report["processes"].as_array().expect("processes");
    let first = processes.iter().find(|process| process["pid"] == 2);
    let made = &first.expect("the process")["threads"];
    assert!(made.as_u64().expect("a number") > 200, "{made}");
}

/// Arm's rules and the kernel's counts, in all fork modes.
#[test]
fn threads_are_clean() {
    for mode in [ForkMode::Classic, ForkMode::Shared, ForkMode::Eager] {
        let boot = boot(4).trace(TraceLevel::Mmu).fork(mode);
        let run = boot.run(&["threads"]);
        run.expect_status(0).expect_whole();
        let report = check(&mut &run.bytes[..], 8).expect("a trace");
        let translation = report.translation.as_ref().expect("MMU events");
        assert_eq!(
            report.verdict,
            Verdict::Clean,
            "{mode:?}: {:#?} {:#?}",
            translation.violations.first(),
            report.findings
        );
    }
}
