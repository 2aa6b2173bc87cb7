//! Every program of ours, and files that are none: what they print, how they end, and what is left
//! behind.

use tests::{Board, Boot, Run, system};
use wire::event::{Event, ForkMode, Outcome};

fn virt() -> Boot {
    Boot::on(Board::Virt).lossless()
}

/// Runs a program that checks itself.
#[track_caller]
fn succeeds(words: &[&str]) -> Run {
    let run = virt().run(words);
    run.expect_status(0).expect_sound();
    assert_eq!(run.stderr(), "");
    run
}

#[test]
fn the_programs_that_check_themselves() {
    for words in [
        &["syscalls"][..],
        &["mapping"],
        &["remap"],
        &["pipes"],
        &["proc"],
        &["vforks", "50"],
        &["execs", "50"],
    ] {
        let run = succeeds(words);
        assert!(!run.stdout().is_empty(), "{words:?} says nothing");
    }
}

/// What a splice cannot move stays where it is, whoever reads beside it on another CPU.
#[test]
fn splices_keep_the_order() {
    let run = virt().cpus(4).run(&["splices"]);
    run.expect_status(0);
    assert!(run.stdout().contains("two readers, in order: true\n"));
}

/// A program forks in all three ways in one run, and its children as they inherited; the trace
/// says which, and follows each.
#[test]
fn ways_to_fork_chosen_by_the_program() {
    let run = virt().run(&["forkmodes"]);
    run.expect_status(0).expect_sound();
    let modes: Vec<_> = run
        .trace
        .events()
        .filter_map(|event| match event {
            Event::Fork(fork) => Some((fork.mode, fork.tables_shared > 0, fork.copied > 0)),
            _ => None,
        })
        .collect();
    let twice = |fork| [fork, fork];
    let expected = [
        &[(ForkMode::Vfork, false, false)][..],
        &twice((ForkMode::Classic, false, false)),
        &twice((ForkMode::SharedTables, true, false)),
        &twice((ForkMode::Eager, false, true)),
    ];
    assert_eq!(modes, expected.concat());
}

/// What system calls do to shared tables is in the trace, in each way to fork: the tool and the
/// kernel agree on every page.
#[test]
fn tables_that_system_calls_change_are_followed() {
    for mode in ["classic", "shared", "eager"] {
        for program in ["remap", "mapping"] {
            let run = virt().append(&format!("fork={mode}")).run(&[program]);
            run.expect_status(0).expect_sound();
            let checks = &run.state().machine.checks;
            assert_eq!(
                checks.total().differed,
                0,
                "{mode}: {:#?}",
                checks.findings()
            );
            let owned = |event: &&Event| matches!(event, Event::TableOwned { .. });
            let owned = run.trace.events().filter(owned).count();
            assert_eq!(owned > 0, mode == "shared" && program == "remap", "{owned}");
        }
    }
}

/// Frames that a handler has spoiled, exec, and the vDSO: what the emulator does otherwise, with the
/// results that Linux has.
#[test]
fn signals_as_only_a_kernel_has_them() {
    const SPOILED: &str = "\
frame 0: 0xb
frame 1: 0xb
frame 2: 0xb
frame 3: 0xb
frame 4: 0xb
frame 5: 0xb
frame 6: 0xb
frame 7: 0x0
a frame that is nowhere: 0xb
a frame that is the kernel's: 0xb
a frame that is odd: 0xb
after exec: 0 1
pending 0x4000
status 0xf
a clock that is none: -22
resolution: 0 [0, 1]
signals: done
";
    assert_eq!(succeeds(&["signals", "kernel"]).stdout(), SPOILED);
}

/// Orphaned groups, who inherits children, what is counted and limited, and kinds of clone.
#[test]
fn families_as_only_a_kernel_has_them() {
    const FAMILIES: &str = "\
its shell: Ok(0)
the job: Ok(1) [104]
a grandchild: Ok(0)
a parent: Ok(f)
its child: Ok(c)
init: Ok(())
init: Ok(())
faults: true
no disk: 0
resident: 384 kB more
at the most: true
the child's time: true
the children's: true
nobody: Err(EINVAL)
the soft limit: 18
the hard limit: 9
one process: 0
plain: Some(ECHILD)
all: Ok(300), signals 1
plain: Some(ECHILD)
all: Ok(300), signals 0
clone3: Ok(900)
too short: Err(EINVAL)
too long: Err(E2BIG)
no signal: Err(EINVAL)
jobs: done
";
    assert_eq!(succeeds(&["jobs", "kernel"]).stdout(), FAMILIES);
}

#[test]
fn preemption_on_every_board() {
    for board in Board::ALL {
        let run = Boot::on(board).lossless().run(&["preempt"]);
        run.expect_status(0).expect_sound();
    }
}

#[test]
fn statuses() {
    for (words, status, stdout) in [
        (&["true"][..], 0, ""),
        (&["false"], 1, ""),
        (&["hello"], 0, "hello, world\n"),
        (&["execs", "--exit-with", "77"], 77, ""),
        (&["/bin/hello"], 0, "hello, world\n"),
    ] {
        let run = virt().run(words);
        run.expect_status(status).expect_sound();
        assert_eq!((run.stdout(), run.stderr()), (stdout, ""), "{words:?}");
    }
    for (missing, status) in [("nothing", 127), ("/no/such/file", 127), ("/bin", 126)] {
        let run = virt().run(&[missing]);
        run.expect_status(status).expect_sound();
        let said = format!("init: cannot run {missing:?}: ");
        assert!(run.stderr().starts_with(&said), "{}", run.stderr());
    }
}

#[test]
fn arguments_and_environment() {
    let words = ["args", "two words", "", "it's", "--", "-x=1"];
    let run = virt()
        .append(r#"user=HOME=/root "user=GREETING=hello there" user=EMPTY="#)
        .run(&words);
    run.expect_status(0).expect_sound();
    for line in [
        r#"argv[0] = "args""#,
        r#"argv[1] = "two words""#,
        r#"argv[2] = """#,
        r#"argv[3] = "it\'s""#,
        r#"argv[4] = "--""#,
        r#"argv[5] = "-x=1""#,
        r#"envp[0] = "HOME=/root""#,
        r#"envp[1] = "GREETING=hello there""#,
        r#"envp[2] = "EMPTY=""#,
        r#"AT_EXECFN = "/bin/args""#,
        "AT_PAGESZ = 0x1000",
    ] {
        assert!(
            run.stdout().lines().any(|said| said == line),
            "{line:?} is not in\n{}",
            run.stdout()
        );
    }
    assert!(!run.stdout().contains("argv[6]"));
    assert!(!run.stdout().contains("envp[3]"));
}

/// How to crash, by which signal, and in which function; what the address must be.
type Crash = (&'static str, u8, &'static str, fn(u64, u64) -> bool);

const CRASHES: [Crash; 7] = [
    ("read", 11, "reads_an_unmapped_page", |_, addr| addr != 0),
    ("write", 11, "writes_a_read_only_page", |_, addr| addr != 0),
    // In no function: the instruction is the address.
    ("exec", 11, "", |pc, addr| pc == addr && pc % 4096 == 0),
    ("null", 11, "reads_address_zero", |_, addr| addr == 0),
    (
        "undefined",
        4,
        "executes_an_undefined_instruction",
        |_, _| true,
    ),
    ("stack", 11, "recurses_for_ever", |_, addr| {
        (0x3f70_0000..0x4000_0000).contains(&addr)
    }),
    ("align", 7, "loads_exclusive_across_16_bytes", |_, addr| {
        addr % 16 == 15
    }),
];

#[test]
fn crashes_are_signals_and_say_where() {
    for (how, signal, function, address) in CRASHES {
        let run = virt().run(&["crash", how]);
        run.expect_status(128 + i32::from(signal)).expect_sound();
        assert_eq!(run.stderr(), "", "{how}");
        let kills: Vec<_> = run
            .trace
            .events()
            .filter_map(|event| match *event {
                Event::Killed {
                    pid,
                    signal,
                    pc,
                    addr,
                } => Some((pid, signal, pc, addr)),
                _ => None,
            })
            .collect();
        let [(2, killer, pc, addr)] = kills[..] else {
            panic!("{how}: {kills:?}")
        };
        assert_eq!(killer, signal, "{how}");
        assert!(address(pc, addr), "{how}: pc {pc:#x}, address {addr:#x}");
        assert!(
            run.trace
                .events()
                .any(|event| matches!(*event, Event::Exit { pid: 2, status, .. } if status == u32::from(signal))),
            "{how}"
        );
        let report = run.report();
        let processes = report["processes"].as_array().expect("processes");
        let ours = processes.iter().find(|process| process["pid"] == 2);
        let killed = &ours.expect("the process")["killed"];
        assert_eq!(
            (&killed["signal"], &killed["address"]),
            (&signal.into(), &addr.into())
        );
        let named = killed["place"]["source"]["function"].as_str();
        assert!(named.unwrap_or("").contains(function), "{how}: {killed}");
    }
}

/// Frames free at the end, and those of the kernel's heap with the tables that map it, together.
fn frames(run: &Run) -> u64 {
    let last = run.trace.snapshots.last().expect("a snapshot");
    let heap = last.kernel_heap_bytes;
    run.trace.end.as_ref().expect("an end").free_frames + heap / 4096 + heap.div_ceil(2 << 20)
}

#[test]
fn out_of_memory_kills_the_process_and_nobody_else() {
    let small = || virt().memory(64);
    let refused = small().run(&["hog", "1000000"]);
    refused.expect_status(1).expect_sound();
    let why = refused.stderr();
    assert!(why.contains("mapping the pages: ENOMEM"), "{why}");

    let small = || virt().memory(64).append("overcommit=1");
    let fits = small().run(&["hog", "100"]);
    fits.expect_status(0).expect_sound();
    let run = small().run(&["hog", "1000000"]);
    run.expect_status(128 + 9).expect_sound();
    let last = run.trace.faults().filter(|fault| fault.pid == 2).last();
    assert_eq!(last.expect("faults").outcome, Outcome::OutOfMemory);
    assert!(run.trace.events().any(|event| matches!(
        event,
        Event::Killed {
            pid: 2,
            signal: 9,
            ..
        }
    )));
    assert!(run.trace.faults().count() > 5000);
    // The one that fits also has code for its last words in the page cache.
    assert!(frames(&run) >= frames(&fits), "frames leaked");
}

#[test]
fn a_fork_bomb_meets_a_limit_and_is_over() {
    let few = virt().run(&["forkbomb", "10"]);
    few.expect_status(0).expect_sound();
    assert_eq!(
        few.stdout(),
        "forkbomb: 10 processes alive at once, all ended well\n"
    );

    let small = || virt().memory(64).append("trace=life");
    let one = small().run(&["forkbomb", "1"]);
    one.expect_status(0).expect_whole();
    let run = small().run(&["forkbomb", "20000"]);
    run.expect_status(0).expect_whole();
    let said = run.stdout();
    assert!(
        said.contains(" of 20000 processes alive at once, then ENOMEM"),
        "{said}"
    );
    let forks = run.trace.events();
    let forks = forks
        .filter(|event| matches!(event, Event::Fork(_)))
        .count();
    assert!(forks > 100, "{forks}");
    // For what it has to say of its failure a page more of its code may be cached.
    assert!(frames(&run) + 1 >= frames(&one), "frames leaked");
}

fn word(file: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(file[offset..offset + 8].try_into().expect("eight bytes"))
}

/// Where in a 64-bit ELF file the headers of its PT_LOAD segments are.
fn loads(file: &[u8]) -> Vec<usize> {
    let first = word(file, 32) as usize;
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let headers = (0..count).map(|index| first + 56 * index);
    headers
        .filter(|&header| file[header..header + 4] == [1, 0, 0, 0])
        .collect()
}

/// Byte offsets in the header of the file, and of a segment.
const ENTRY: usize = 24;
const OFFSET: usize = 8;
const ADDRESS: usize = 16;
const IN_FILE: usize = 32;
const IN_MEMORY: usize = 40;

#[test]
fn files_that_are_no_programs() {
    let hello = std::fs::read(system().program("hello")).expect("a program");
    let loads = loads(&hello);
    // What is behind is only for debuggers.
    let end = loads
        .iter()
        .map(|load| word(&hello, load + OFFSET) + word(&hello, load + IN_FILE))
        .max()
        .expect("a segment") as usize;
    let with = |offset: usize, value: u64| {
        let mut file = hello.clone();
        file[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        file
    };
    let mut noise = b"\x7fELF\x02\x01\x01".to_vec();
    let mut rng = fastrand::Rng::with_seed(3);
    noise.extend((0..5000).map(|_| rng.u8(..)));
    let files = [
        ("empty", Vec::new()),
        ("text", b"/bin/true\n".to_vec()),
        ("noise", noise),
        ("magic", hello[..4].to_vec()),
        ("header", hello[..64].to_vec()),
        ("segments", hello[..100].to_vec()),
        ("cut", hello[..end - 1].to_vec()),
        ("past-the-end", with(loads[0] + OFFSET, 1 << 40)),
        ("overflow", with(loads[0] + OFFSET, u64::MAX - 0xfff)),
        ("kernel", with(loads[0] + ADDRESS, 0xffff_ffff_8000_0000)),
        ("huge", with(loads[0] + IN_MEMORY, u64::MAX)),
    ];
    let boot = files.iter().fold(virt(), |boot, (name, contents)| {
        boot.file(&format!("/bad/{name}"), contents.clone())
    });
    for (name, _) in &files {
        let path = format!("/bad/{name}");
        let run = boot.clone().run(&[&path]);
        let said = format!("init: cannot run {path:?}: ENOEXEC\n");
        assert_eq!((run.status(), run.stderr()), (126, &*said), "{name}");
        run.expect_sound();
    }
    // A program as far as anyone can see, that begins nowhere.
    let run = virt()
        .file("/bad/entry", with(ENTRY, 0x10_0000))
        .run(&["/bad/entry"]);
    run.expect_status(128 + 11).expect_sound();
}
