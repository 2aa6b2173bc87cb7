//! The same ELF files on our kernel and under QEMU's user mode, on this machine's Linux: what they
//! print and how they end must be the same.

use std::os::unix::process::ExitStatusExt;

use tests::{Board, Boot, system, user_mode};

/// One variable: the emulator turns the order around.
const ENVIRONMENT: [(&str, &str); 1] = [("HOME", "/root")];

/// Runs it on both. `faithful` keeps the lines in which they must agree.
#[track_caller]
fn compare(words: &[&str], faithful: fn(&str) -> bool) {
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
