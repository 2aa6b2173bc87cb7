//! The same ELF files on our kernel and under QEMU's user mode, on this machine's Linux: what they
//! print and how they end must be the same.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use tests::{Board, Boot, Run, system, system_calls, user_mode};

/// One variable: the emulator turns the order around.
const ENVIRONMENT: [(&str, &str); 1] = [("HOME", "/root")];

/// Runs it on both. `faithful` keeps the lines in which they must agree. Returns our run.
#[track_caller]
fn compare(words: &[&str], faithful: fn(&str) -> bool) -> Run {
    let file = system().program(words[0]);
    let theirs = user_mode::run(file, words, &ENVIRONMENT);
    let boot = ENVIRONMENT
        .iter()
        .fold(Boot::on(Board::Virt).lossless(), |boot, (name, value)| {
            boot.append(&format!("user={name}={value}"))
        });
    let ours = boot.run(words);
    ours.expect_sound();

    let status = match (theirs.status.code(), theirs.status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.expect("a code or a signal"),
    };
    assert_eq!(ours.status(), status, "{words:?}: the exit status");
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| faithful(line));
        lines.map(str::to_owned).collect()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("programs print text");
    assert_eq!(
        lines(ours.stdout()),
        lines(&text(&theirs.stdout)),
        "{words:?}"
    );
    // The emulator has a word of its own to say of a signal.
    let stderr = text(&theirs.stderr);
    let stderr = stderr.lines().filter(|line| !line.starts_with("qemu: "));
    assert_eq!(
        lines(ours.stderr()),
        stderr.map(str::to_owned).collect::<Vec<_>>(),
        "{words:?}"
    );
    ours
}

fn all(_: &str) -> bool {
    true
}

#[test]
fn output_and_status() {
    compare(&["true"], all);
    compare(&["false"], all);
    compare(&["hello"], all);
    compare(&["hello", "too", "many"], all);
    compare(&["hello", "--help"], all);
    compare(&["pipes"], all);
    compare(&["remap", "--user-mode"], all);
    compare(&["fp"], all);
    compare(&["isolation", "50", "16", "3"], all);
    compare(&["forkbomb", "20"], all);
    compare(&["hog", "200"], all);
    // The times differ.
    compare(&["sweep", "100", "copy"], |line| !line.contains(" ns"));
}

/// The emulator knows no preadv2.
#[test]
fn files() {
    compare(&["files"], |line| !line.starts_with("preadv2"));
    compare(&["polls"], all);
    compare(&["events"], all);
    compare(&["splices"], all);
}

/// The emulator wants all that mincore is asked about to be accessible, and a place for no bytes.
#[test]
fn mappings_of_files() {
    const UNFAITHFUL: [&str; 4] = [
        "mincore of memory that is inaccessible in part: 0110------------: 0",
        "mincore of memory of a child, likewise: 0110------------: 0",
        "mincore of what a hole follows: 11--------------: ENOMEM",
        "of nothing, to nowhere: 0",
    ];
    let ours = compare(&["filemaps"], |line| {
        let case = |line: &'static str| line.split(": ").next().unwrap_or_default();
        !UNFAITHFUL.iter().any(|known| line.starts_with(case(known)))
    });
    for line in UNFAITHFUL {
        assert!(ours.stdout().lines().any(|ours| ours == line), "{line}");
    }
}

/// The emulator drops flags of a type that it does not know, and has room for more files than it was
/// told of.
#[test]
fn sockets() {
    compare(&["sockets"], |line| {
        !line.starts_with("bad flags: ") && !line.starts_with("room for one: ")
    });
}

/// The path differs, as the kernel started one from its own file system.
#[test]
fn arguments_environment_and_auxiliary_vector() {
    compare(&["args", "two words", "", "x"], |line| {
        !line.starts_with("AT_EXECFN")
    });
}

/// Where the emulator has its own idea of a signal: it lets a handler's mask block SIGKILL, names
/// another reason for an undefined instruction, loses the status in SIGCHLD, and lets nobody disown
/// children.
#[test]
fn handlers_masks_and_job_control() {
    const UNFAITHFUL: [&str; 6] = [
        "mask in the handler 0x",
        "undefined: ",
        "exit: ",
        "stop, continue, kill: ",
        "with SA_NOCLDSTOP: ",
        "with SA_NOCLDWAIT: ",
    ];
    compare(&["signals"], |line| {
        !UNFAITHFUL.iter().any(|start| line.starts_with(start))
    });
    compare(&["jobs"], all);
}

#[test]
fn signals() {
    for how in ["read", "write", "exec", "null", "undefined", "stack"] {
        compare(&["crash", how], all);
    }
}

/// What the emulator does otherwise with bad pointers: calls that it does not know, ranges that it
/// checks as a whole, and errors that it ignores. The program knows what Linux does there.
const OWN_POINTERS: [&str; 24] = [
    "clone3 ",
    "execve arguments ",
    "execve environment ",
    "set_robust_list ",
    "get_robust_list ",
    "prctl reaper ",
    "preadv2 ",
    "pwritev2 ",
    "epoll_pwait2 ",
    "fchmodat2 ",
    "read device 2nd Straddle",
    "read 2nd Straddle",
    "write 2nd Straddle",
    "getrandom 1st Straddle",
    "write device 2nd ",
    "ppoll 3rd ReadOnly",
    "pselect6 5th ReadOnly",
    "timerfd_gettime 2nd Null",
    "clock_getres 2nd ",
    "nanosleep 1st ",
    "getitimer 2nd Null",
    "sysinfo 1st Null",
    // This user need not be root.
    "setgroups ",
    "chroot ",
];

/// Bad pointers in every pointer argument of every call.
#[test]
fn bad_pointers() {
    let ours = Boot::on(Board::Virt).lossless().run(&["pointers"]);
    ours.expect_sound();
    assert!(!ours.stdout().contains("on Linux:"), "{}", ours.stdout());
    ours.expect_status(0);

    // A call that is new in the kernel wants a line in the program's list.
    let known = system_calls();
    let lines = ours.stdout().lines();
    let tried: BTreeSet<_> = lines
        .filter_map(|line| line.strip_prefix("call "))
        .collect();
    assert_eq!(
        tried, known,
        "calls without bad pointers, or not of the kernel"
    );

    let theirs = user_mode::run(system().program("pointers"), &["pointers"], &[]);
    let theirs = String::from_utf8(theirs.stdout).expect("programs print text");
    let whole_ranges = |line: &str| {
        let mut vectors = [
            "readv", "writev", "preadv", "pwritev", "pread64", "pwrite64",
        ]
        .iter();
        line.contains(" Straddle: ") && vectors.any(|name| line.split(' ').next() == Some(name))
    };
    let attributes = |line: &str| line.contains("xattr ") && !line.contains(" 1st ");
    let comparable = |line: &&str| {
        let (name, result) = line.split_once(": ").unwrap_or_default();
        name.contains(' ')
            && !result.starts_with("Exited")
            && !whole_ranges(line)
            && !attributes(line)
            && !OWN_POINTERS.iter().any(|start| line.starts_with(start))
            && !line.starts_with("    on Linux")
    };
    let ours: Vec<_> = ours.stdout().lines().filter(comparable).collect();
    let theirs: Vec<_> = theirs.lines().filter(comparable).collect();
    assert!(ours.len() > 500, "{} cases", ours.len());
    assert_eq!(ours, theirs);
}
