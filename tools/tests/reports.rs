//! Traces of an imaginary kernel, read as those of a real one are.

mod support;

use support::{HZ, Kernel, PAGE, frame_of};
use tools::analysis::check::Subject;
use tools::analysis::stream::{self, State};
use tools::report::args::{ExplainArgs, FaultsArgs, ListFormat, ReportFormat};
use tools::report::{Options, run_to};
use wire::event::{Event, ForkMode, Outcome, Refused, Stack};

const V: u64 = 0x7000_0000;

fn options(format: ReportFormat) -> Options {
    Options {
        format,
        story: true,
        top: 10,
        strict: false,
        symbols: Default::default(),
        filter: Default::default(),
    }
}

fn read(bytes: &[u8]) -> State {
    stream::read(&mut &bytes[..], &mut ()).expect("it is a trace")
}

/// The text of a report, without styles, and the exit code.
fn report(bytes: &[u8]) -> (String, u8) {
    let mut out = anstream::StripStream::new(Vec::new());
    let code =
        run_to(&mut &bytes[..], &options(ReportFormat::Text), &mut out).expect("it is a trace");
    (String::from_utf8(out.into_inner()).expect("text"), code)
}

fn json(bytes: &[u8]) -> serde_json::Value {
    let mut out = Vec::new();
    run_to(&mut &bytes[..], &options(ReportFormat::Json), &mut out).expect("it is a trace");
    serde_json::from_slice(&out).expect("it is JSON")
}

/// The whole story, on other addresses and in another order than the demonstration tells it.
fn whole_story() -> Kernel {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 4);
    for page in 0..4 {
        kernel.access(1, V + page * PAGE + 8, true);
    }
    let child = kernel.fork(1, ForkMode::Classic);
    kernel.switch(1, child);
    kernel.switch(child, 1);
    kernel.switch(1, child);
    assert_eq!(kernel.access(child, V + 8, true), Some(Outcome::CowCopy));
    kernel.switch(child, 1);
    assert_eq!(kernel.access(1, V + 8, true), Some(Outcome::CowReuse));
    kernel.exit(child, 1, 0);
    let second = kernel.fork(1, ForkMode::Classic);
    kernel.exec(second);
    for page in 0..4 {
        assert_eq!(
            kernel.access(1, V + page * PAGE, true),
            Some(Outcome::CowReuse)
        );
    }
    kernel.exit(second, 1, 3 << 8);
    let third = kernel.fork(1, ForkMode::Vfork);
    kernel.exit(third, 1, 0);
    kernel.resident(1);
    kernel.snapshot();
    kernel
}

#[test]
fn the_story_is_told_from_evidence() {
    let mut kernel = whole_story();
    let frame = frame_of(kernel.spaces[&kernel.processes[&1]].pages[&V]);
    let (text, code) = report(&kernel.end());
    assert_eq!(code, 0, "{text}");
    for number in 1..=8 {
        assert!(
            text.contains(&format!("✓ {number}. ")),
            "step {number} of:\n{text}"
        );
    }
    for line in [
        "imaginary,board: 1 x Cortex-A72 r0p3, 1 GiB RAM, 16-bit ASIDs, counter 62.5 MHz",
        "A = pid 1 (init)           TTBR0 0x0001000050001000: root 0x50001, ASID 1",
        "V = 0x70000000             mmap rw-, a page of 0x70000000-0x70004000",
        &format!("F = frame {frame:#x}"),
        "classic: 4 pages shared, 4 write-protected, 4 tables, 5,400 cycles",
        "no TLB invalidation between the first and the last (4 switches in the trace)",
        "ESR 0x9200004f: data abort from EL0, write, permission fault, level 3",
        "references to F 2 -> 1   1 TLBI, 4,000 cycles",
        "references 1 -> 1   1 TLBI, 1,000 cycles, 25 % of the copy",
        "execve: the child dropped 4 references",
        "after it, first writes of the parent: 0 copies, 4 reuses (1,000 cycles each)",
        "0 tables, 0 pages write-protected, 0 descriptors written, 500 cycles",
        "page faults of the child until its exit: 0",
        "ended with code 0",
    ] {
        assert!(text.contains(line), "{line:?} is not in:\n{text}");
    }
    assert!(
        text.trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("Loss: none"))
    );
    let wide = text
        .lines()
        .filter(|line| line.chars().count() > 110)
        .collect::<Vec<_>>();
    assert!(wide.is_empty(), "{wide:?}");
}

#[test]
fn what_is_not_in_the_trace_is_not_told() {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 1);
    kernel.access(1, V, true);
    let (text, code) = report(&kernel.end());
    assert_eq!(code, 0);
    assert_eq!(text.matches("not seen in this trace").count(), 7, "{text}");
    assert!(text.contains("✓ 8. "), "{text}");
}

#[test]
fn the_parent_may_write_first() {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 1);
    kernel.access(1, V, true);
    let child = kernel.fork(1, ForkMode::Classic);
    kernel.access(1, V, true);
    kernel.access(child, V, true);
    let (text, _) = report(&kernel.end());
    assert!(
        text.contains("4. A writes V: F is shared, so A gets a copy, G"),
        "{text}"
    );
    assert!(
        text.contains("5. B's entry was not touched by A's write"),
        "{text}"
    );
}

#[test]
fn forks_know_who_paid() {
    let report = json(&whole_story().end());
    assert_eq!(report["schema_version"], 1);
    let forks = report["forks"].as_array().expect("a list");
    let first = forks
        .iter()
        .find(|fork| fork["child"] == 2)
        .expect("the first fork");
    assert_eq!(first["by_child"]["copies"]["count"], 1);
    assert_eq!(first["by_parent"]["reuses"]["count"], 1);
    assert_eq!(first["debt_cycles"], 5000);
    assert_eq!(first["child_gone_by"], "exit");
    let second = forks
        .iter()
        .find(|fork| fork["child"] == 3)
        .expect("the second fork");
    assert_eq!(second["by_parent_after"]["reuses"]["count"], 4);
    assert_eq!(second["by_parent_after"]["copies"]["count"], 0);
    assert_eq!(second["child_gone_by"], "exec");
    let processes = report["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 4);
    assert_eq!(processes[0]["pages_reused"], 5);
    assert_eq!(processes[1]["pages_copied"], 1);
    assert_eq!(processes[1]["debt"]["cycles"], 4000);
    assert_eq!(processes[2]["status"], 3 << 8);
    assert_eq!(report["story"].as_array().map(Vec::len), Some(8));
    assert_eq!(report["evidence"]["chain"]["child_first"], true);
}

/// xorshift: tests must be repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Anything that processes do, in any order.
fn anything(kernel: &mut Kernel, random: &mut Random, steps: usize, modes: &[ForkMode]) {
    for _ in 0..steps {
        let pids: Vec<u32> = kernel.processes.keys().copied().collect();
        let pid = pids[random.below(pids.len() as u64) as usize];
        // Few pages, that faults may meet them again; far apart, that they lie in several tables.
        let page = V + random.below(50) * 41 * PAGE;
        match random.below(20) {
            0 if pids.len() < 12 => {
                let mode = modes[random.below(modes.len() as u64) as usize];
                kernel.fork(pid, mode);
            }
            1 if pid != 1 => kernel.exit(pid, 1, 0),
            2 if pid != 1 && random.below(3) == 0 => kernel.exec(pid),
            3 => kernel.unmap(pid, page, 1 + random.below(900)),
            4 => kernel.resident(pid),
            5 => kernel.switch(1, pid),
            _ => {
                kernel.access(pid, page + random.below(PAGE), random.below(4) > 0);
            }
        }
    }
    for pid in kernel.processes.keys().copied().collect::<Vec<_>>() {
        kernel.resident(pid);
    }
}

#[test]
fn the_rebuilt_machine_is_the_kernels() {
    for seed in 1..30 {
        let mut kernel = Kernel::boot();
        let modes = [ForkMode::Classic, ForkMode::Vfork];
        anything(&mut kernel, &mut Random(seed), 3000, &modes);
        let state = read(&kernel.end());
        let checks = &state.machine.checks;
        assert_eq!(checks.findings(), [], "seed {seed}");
        assert_eq!(checks.total().unknown, 0, "seed {seed}");
        for subject in [
            Subject::Resident,
            Subject::References,
            Subject::Descriptor,
            Subject::Drop,
        ] {
            assert!(checks.tally(subject).agreed > 100, "{subject:?}");
        }
        for (id, space) in &kernel.spaces {
            for (page, descriptor) in &space.pages {
                let leaf = state.machine.leaf(*id, *page).expect("it is mapped");
                assert_eq!(frame_of(leaf.descriptor.0), frame_of(*descriptor));
                assert_eq!(leaf.descriptor.writable(), descriptor & (1 << 7) == 0);
            }
        }
        for (frame, refs) in &kernel.refs {
            assert_eq!(state.machine.frames.references(*frame), *refs);
        }
    }
}

#[test]
fn an_eager_forks_frames_are_unknown_and_not_invented() {
    for seed in 1..10 {
        let mut kernel = Kernel::boot();
        let modes = [ForkMode::Eager, ForkMode::Classic];
        anything(&mut kernel, &mut Random(seed), 2000, &modes);
        let state = read(&kernel.end());
        assert_eq!(state.machine.checks.findings(), [], "seed {seed}");
    }
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 1);
    kernel.access(1, V, true);
    let child = kernel.fork(1, ForkMode::Eager);
    let state = read(&kernel.end());
    let leaf = state
        .machine
        .leaf(kernel.processes[&child], V)
        .expect("it is mapped");
    assert_eq!(state.machine.frames.known(leaf.descriptor.frame()), None);
}

#[test]
fn a_lying_kernel_is_found_out() {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 2);
    kernel.access(1, V, true);
    let child = kernel.fork(1, ForkMode::Classic);
    // A reference nobody knows of.
    let frame = frame_of(kernel.spaces[&kernel.processes[&child]].pages[&V]);
    *kernel.refs.get_mut(&frame).expect("counted") += 1;
    kernel.access(child, V, true);
    kernel.event(Event::Resident {
        space: 1,
        anon: 2,
        file: 0,
        zero: 0,
    });
    let (text, code) = report(&kernel.end());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("kernel: 3 to frame"), "{text}");
    assert!(text.contains("trace:  2 to frame"), "{text}");
    assert!(
        text.contains("kernel: 2 anonymous, 0 of files, 0 of the zero page"),
        "{text}"
    );
}

#[test]
fn dropped_events_are_counted_and_make_things_unknown() {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 100);
    kernel.access(1, V, true);
    kernel.lose(|kernel| {
        for page in 1..50 {
            kernel.access(1, V + page * PAGE, true);
        }
        kernel.resident(1);
    });
    kernel.resident(1);
    kernel.snapshot();
    let bytes = kernel.end();
    let state = read(&bytes);
    assert_eq!(state.losses.events_dropped, 50);
    assert_eq!(state.losses.dropped_by_kind[10], 49);
    assert_eq!(state.machine.checks.total().differed, 0);
    assert!(state.machine.checks.tally(Subject::Resident).unknown > 0);
    let (text, code) = report(&bytes);
    assert_eq!(code, 0, "a loss is no finding");
    let last = text.trim_end().lines().last().expect("a line");
    assert!(
        last.contains("50 events dropped by the kernel (fault 49, resident 1)"),
        "{last}"
    );
    let strict = Options {
        strict: true,
        ..options(ReportFormat::Text)
    };
    assert_eq!(
        run_to(&mut &bytes[..], &strict, &mut Vec::new()).expect("a trace"),
        4
    );
}

#[test]
fn a_lost_frame_is_counted_with_its_events() {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 200);
    for page in 0..200 {
        kernel.access(1, V + page * PAGE, true);
    }
    kernel.resident(1);
    let bytes = kernel.end();
    let all = read(&bytes);
    let faults = |state: &State| state.machine.events[10];
    assert_eq!((all.losses.frames_lost, faults(&all)), (0, 200));
    for lost in 4..kernel.frames.len() - 1 {
        let mut damaged = bytes.clone();
        damaged.drain(kernel.frames[lost]..kernel.frames[lost + 1]);
        let state = read(&damaged);
        assert_eq!(state.losses.frames_lost, 1);
        let gone = state.losses.events_lost.expect("the end says");
        assert_eq!(gone[10] + faults(&state), 200);
        assert_eq!(state.machine.checks.total().differed, 0, "frame {lost}");
    }
}

#[test]
fn damage_is_counted_and_never_panics() {
    let mut kernel = Kernel::boot();
    anything(
        &mut kernel,
        &mut Random(5),
        4000,
        &[ForkMode::Classic, ForkMode::Vfork],
    );
    let bytes = kernel.end();
    for seed in 1..60 {
        let mut random = Random(seed * 7919);
        let mut damaged = bytes.clone();
        for _ in 0..1 + random.below(20) {
            let at = random.below(damaged.len() as u64) as usize;
            match random.below(3) {
                0 => damaged[at] ^= 1 << random.below(8),
                1 => drop(damaged.drain(at..(at + random.below(600) as usize).min(damaged.len()))),
                _ => damaged
                    .splice(at..at, (0..random.below(40)).map(|n| n as u8))
                    .for_each(drop),
            }
        }
        let (text, _) = report(&damaged);
        let state = read(&damaged);
        assert!(state.losses.any(), "seed {seed}");
        assert_eq!(
            state.machine.checks.findings(),
            [],
            "unknown is not wrong, seed {seed}"
        );
        assert!(
            !text
                .trim_end()
                .lines()
                .last()
                .expect("a line")
                .contains("Loss: none")
        );
    }
}

#[test]
fn the_memory_of_the_tool_is_that_of_the_live_state() {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 16);
    for page in 0..16 {
        kernel.access(1, V + page * PAGE, true);
    }
    for _ in 0..5000 {
        let child = kernel.fork(1, ForkMode::Classic);
        kernel.access(child, V, true);
        kernel.exit(child, 1, 0);
    }
    let state = read(&kernel.end());
    assert_eq!(state.machine.spaces.len(), 1);
    assert_eq!(state.machine.processes.len(), 1);
    assert!(state.machine.ended.len() <= 512 && state.machine.forks.iter().count() <= 4096);
    assert_eq!(
        state.machine.ended.len() as u64 + state.machine.ended_others.0,
        5000
    );
    assert_eq!(state.machine.checks.total().differed, 0);
}

#[test]
fn another_boot_is_another_machine() {
    let mut kernel = whole_story();
    let mut bytes = kernel.end();
    let mut again = Kernel::boot();
    again.hello(8);
    bytes.extend_from_slice(&again.end());
    let state = read(&bytes);
    assert!(state.losses.reboots > 0);
    assert_eq!(state.machine.checks.total().differed, 0);
}

#[test]
fn refused_memory_is_told_by_call() {
    let mut kernel = Kernel::boot();
    let mut refuse = |number, pages, left| {
        kernel.event(Event::Refused(Refused {
            pid: 1,
            number,
            pages,
            left,
            pc: 0x40_0000,
            stack: Stack::default(),
        }));
    };
    refuse(222, 5000, 1234);
    refuse(222, 2, 1);
    // The kernel had none for itself.
    refuse(220, 0, 9);
    let (text, _) = report(&kernel.end());
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("Refused: "))
        .collect();
    let said = [
        "pid 1 (init): no memory for mmap, 2 times; 5,000 pages asked for, 1,234 left, at 0x400000",
        "pid 1 (init): no memory for clone, 1 time; the kernel had no frame of its own for it, at 0x400000",
    ];
    assert_eq!(lines, said.map(|line| format!("Refused: {line}")), "{text}");
}

#[test]
fn what_is_no_trace_is_refused() {
    for bytes in [&b""[..], b"just text\n", &[1, 2, 3, 0, 5, 0xff]] {
        let error = run_to(
            &mut &bytes[..],
            &options(ReportFormat::Text),
            &mut Vec::new(),
        );
        let error = error.expect_err("it is no trace").to_string();
        assert!(
            error.contains("not a trace") || error.contains("empty"),
            "{error}"
        );
    }
}

fn faults(bytes: &[u8], change: impl FnOnce(&mut FaultsArgs)) -> String {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: FaultsArgs,
    }
    let mut args = <Cli as clap::Parser>::parse_from(["faults", "-"]).args;
    change(&mut args);
    let mut out = Vec::new();
    args.run_to(&mut &bytes[..], &mut out)
        .expect("it is a trace");
    String::from_utf8(out).expect("text")
}

/// The locks that cost most come first; the last word on each counts.
#[test]
fn waits_for_locks_are_listed() {
    let mut kernel = whole_story();
    assert!(!report(&kernel.end()).0.contains("Locks"));
    let mut other = whole_story();
    other.contention("RunQueue", 1, HZ);
    other.contention("RunQueue", 12, HZ / 1000);
    other.contention("Output", 345, 2 * HZ);
    let (text, _) = report(&other.end());
    let (_, table) = text
        .split_once("Locks that CPUs waited for\n")
        .expect(&text);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .take(3)
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0],
        ["waits", "attempts", "together", "longest", "lock"]
    );
    assert_eq!(
        rows[1],
        ["345", "3,450", "2.000", "s", "1.000", "s", "Output"]
    );
    assert_eq!(
        rows[2],
        ["12", "120", "1.000", "ms", "500.00", "us", "RunQueue"]
    );
}

#[test]
fn faults_are_listed_and_filtered() {
    let bytes = whole_story().end();
    assert_eq!(faults(&bytes, |_| ()).lines().count(), 10);
    let copies = faults(&bytes, |args| args.filter.outcome = vec![Outcome::CowCopy]);
    assert_eq!(copies.lines().count(), 1);
    assert!(copies.contains("cow-copy      w  0x70000008"), "{copies}");
    assert_eq!(
        faults(&bytes, |args| args.filter.pid = vec![2])
            .lines()
            .count(),
        1
    );
    assert_eq!(
        faults(&bytes, |args| args.filter.addr = Some(V..V + PAGE))
            .lines()
            .count(),
        4
    );
    assert_eq!(
        faults(&bytes, |args| args.limit = Some(3)).lines().count(),
        3
    );
    let nanos = 625 * 1_000_000_000 / HZ;
    let early = faults(&bytes, |args| args.filter.time = Some(0..nanos * 6));
    assert_eq!(early.lines().count(), 2);
    let lines = faults(&bytes, |args| args.format = ListFormat::Jsonl);
    let values: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(values[0]["schema_version"], 1);
    let copy = values
        .iter()
        .find(|value| value["outcome"] == "cow-copy")
        .expect("the copy");
    assert_eq!(
        (&copy["sharers"], &copy["broke_fork_of"]),
        (&"1".into(), &2.into())
    );
    let whole: serde_json::Value =
        serde_json::from_str(&faults(&bytes, |args| args.format = ListFormat::Json)).expect("JSON");
    assert_eq!(whole["faults"].as_array().map(Vec::len), Some(10));
    let table = faults(&bytes, |args| args.format = ListFormat::Csv);
    assert_eq!(table.lines().count(), 11);
    assert_eq!(copy["thread"], serde_json::Value::Null);
    let mut kernel = whole_story();
    kernel.map(1, V + 64 * PAGE, 1);
    kernel.thread(1, 9, "worker");
    kernel.access(1, V + 64 * PAGE, true);
    let bytes = kernel.end();
    let lines = faults(&bytes, |args| args.format = ListFormat::Jsonl);
    let last = lines.lines().last().expect("a fault");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&last["tid"], &last["thread"]),
        (&9.into(), &"worker".into())
    );
    let table = faults(&bytes, |args| args.format = ListFormat::Csv);
    assert!(
        table
            .lines()
            .last()
            .is_some_and(|row| row.contains(",9,worker,")),
        "{table}"
    );
    assert!(table.starts_with("time_us,cpu,pid,"), "{table}");
}

fn explain(bytes: &[u8], page: &str, format: ReportFormat) -> String {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ExplainArgs,
    }
    let mut args = <Cli as clap::Parser>::parse_from(["explain", "-", page]).args;
    args.format = format;
    let mut out = anstream::StripStream::new(Vec::new());
    args.run_to(&mut &bytes[..], &mut out)
        .expect("it is a trace");
    String::from_utf8(out.into_inner()).expect("text")
}

#[test]
fn a_page_has_a_life() {
    let bytes = whole_story().end();
    let life = explain(&bytes, "2:0x70000010", ReportFormat::Text);
    let expected = [
        "pid 1 (init), address space 1",
        "mapped: mmap of 0x70000000-0x70004000, rw-, anonymous",
        "zero-fill: write at 0x70000008, 2,000 cycles",
        "forks pid 2 (classic)",
        "shared with pid 2",
        "pid 2 (init), address space 2",
        "begins as a fork of pid 1, with the page",
        "cow-copy: write at 0x70000008, references 2 -> 1, 4,000 cycles",
        "cow-reuse: write at 0x70000008, references 1 -> 1, 1,000 cycles",
        "address space 2 ends: frame",
    ];
    let mut rest = life.as_str();
    for line in expected {
        let at = rest.find(line);
        rest = &rest[at.unwrap_or_else(|| panic!("{line:?} is not in order in:\n{life}"))..];
    }
    let value: serde_json::Value =
        serde_json::from_str(&explain(&bytes, "1:0x70000000", ReportFormat::Json)).expect("JSON");
    assert!(
        value["entries"]
            .as_array()
            .is_some_and(|entries| entries.len() > 10)
    );
}

#[test]
fn a_dump_has_everything() {
    let mut kernel = whole_story();
    kernel
        .bytes
        .extend_from_slice(b"last words of a panic\n\0\x13\x12\x11\0");
    let bytes = kernel.end();
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: tools::report::args::DumpArgs,
    }
    let args = <Cli as clap::Parser>::parse_from(["dump", "-"]).args;
    let mut out = Vec::new();
    args.run_to(&mut &bytes[..], &mut out)
        .expect("it is a trace");
    let text = String::from_utf8(out).expect("text");
    for line in [
        "text \"boot loader says hello\"",
        "text \"last words of a panic\"",
        "corrupt at byte",
        "fork classic pid 1 space 1 -> pid 2 space 2: shared 4",
        "fault cow-copy Write User pid 2 space 2 asid 2 0x70000008",
        "switch 1 -> 2 space 2 ttbr0 0x0002000050002000 root 0x50002 asid 2 tlbis",
        "End(End { code: 0",
    ] {
        let found = text.contains(line) || text.contains(line.trim_start_matches("End("));
        assert!(found, "{line:?} is not in:\n{text}");
    }
}

#[test]
fn what_cost_most_comes_with_what_would_have_saved_it() {
    let value = json(&whole_story().end());
    let advice = value["advice"].as_array().expect("findings");
    let kinds: Vec<&str> = advice.iter().filter_map(|a| a["kind"].as_str()).collect();
    assert_eq!(kinds, ["fork-then-exec", "classic-fork", "copies"]);
    // 5,400 for the fork and 4 x 1,000 for the first writes after it, but for the 500 of a vfork.
    assert_eq!(advice[0]["cycles"], 8_900);
    assert_eq!(advice[1]["cycles"], 5_400);
    let text = report(&whole_story().end()).0;
    assert!(
        text.contains("one fork shared 4 pages with who only called execve: 5,400 cycles"),
        "{text}"
    );
    assert!(text.contains("posix_spawn or vfork: 500 cycles each in this trace"));
}

#[test]
fn the_sharing_of_a_fork_decays_to_what_its_child_leaves() {
    let value = json(&whole_story().end());
    let forks = value["forks"].as_array().expect("forks");
    let first = forks
        .iter()
        .find(|fork| fork["child"] == 2)
        .expect("the first fork");
    let pages = |point: &serde_json::Value| point[1].as_u64().expect("pages");
    let points = first["still_shared"].as_array().expect("a curve");
    let pages: Vec<u64> = points.iter().map(pages).collect();
    assert_eq!(pages, [4, 3, 2, 2]);
    let times: Vec<f64> = points
        .iter()
        .filter_map(|point| point[0].as_f64())
        .collect();
    assert!(times.is_sorted() && times[0] == 0.0, "{times:?}");
}
