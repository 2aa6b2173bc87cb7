//! Traces that are empty, cut, damaged, of two boots, or of another version, in all views: what is
//! said, and the exit status.

#[allow(dead_code)]
mod support;

use std::path::Path;
use std::process::Command;

use support::{Kernel, PAGE};
use wire::event::{ForkMode, Outcome};

const V: u64 = 0x7000_0000;

/// Pages that the child copies, of eight.
fn trace(nonce: u64, minor: u8, copies: u64) -> Kernel {
    let mut kernel = Kernel::boot_as(nonce, minor);
    kernel.map(1, V, 8);
    for page in 0..8 {
        kernel.access(1, V + page * PAGE, true);
    }
    let child = kernel.fork(1, ForkMode::Classic);
    kernel.switch(1, child);
    for page in 0..copies {
        let outcome = kernel.access(child, V + page * PAGE, true);
        assert_eq!(outcome, Some(Outcome::CowCopy));
        kernel.flush();
    }
    kernel.switch(child, 1);
    kernel.exit(child, 1, 0);
    kernel.snapshot();
    kernel.end();
    kernel
}

/// All views, but `check`, whose statuses are others. `OUT` becomes a file.
const VIEWS: [&[&str]; 17] = [
    &["report"],
    &["report", "--story"],
    &["report", "--format", "json"],
    &["report", "--follow"],
    &["faults"],
    &["explain", "1:0x70000000"],
    &["memory"],
    &["flame"],
    &["flame", "--format", "folded"],
    &["html"],
    &["timeline"],
    &["export", "--format", "jsonl"],
    &["export", "--format", "csv"],
    &["export", "--format", "parquet", "-o", "OUT", "--force"],
    &["export", "--format", "perfetto"],
    &["dump"],
    &["top"],
];

/// Status, and all that was said.
fn view(args: &[&str], folder: &Path, name: &str, strict: bool) -> (i32, String) {
    let out = folder.join("out");
    let [command, rest @ ..] = args else {
        panic!("no view")
    };
    let mut line = Command::new(env!("CARGO_BIN_EXE_cowscope"));
    line.arg(command).arg(folder.join(name));
    for word in rest {
        match *word {
            "OUT" => line.arg(&out),
            word => line.arg(word),
        };
    }
    if strict {
        line.arg("--strict");
    }
    let output = line.output().expect("cowscope runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code().expect("no signal"), said)
}

/// Each view of a trace ends with `code`, and with `strict` if nothing may be missing, and says
/// `word`.
#[track_caller]
fn all_views(bytes: &[u8], code: i32, strict: i32, word: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.cow"), bytes).expect("written");
    for args in VIEWS {
        let (found, said) = view(args, folder.path(), "a.cow", false);
        assert_eq!(found, code, "{args:?}: {said}");
        // For programs it is a field.
        let fields = code == 0 && args.contains(&"json");
        assert!(
            fields || said.contains(word),
            "{args:?}: {word:?} is not in {said}"
        );
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        if args[0] != "top" {
            let (found, said) = view(args, folder.path(), "a.cow", true);
            assert_eq!(found, strict, "{args:?} --strict: {said}");
        }
    }
    let both = ["diff", "a.cow", "a.cow"].map(|name| folder.path().join(name));
    let mut diff = Command::new(env!("CARGO_BIN_EXE_cowscope"));
    let output = diff.arg("diff").args(&both[1..]).output();
    let output = output.expect("cowscope runs");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "diff: {said}");
    assert!(said.contains(word), "diff: {word:?} is not in {said}");
}

#[test]
fn whole() {
    all_views(&trace(7, wire::MINOR, 3).bytes, 0, 0, "");
}

#[test]
fn empty() {
    all_views(b"", 3, 3, "the input is empty");
}

#[test]
fn something_else() {
    let text = "It was a dark and stormy night.\n".repeat(100);
    all_views(text.as_bytes(), 3, 3, "this is not a trace");
}

#[test]
fn of_another_major_version() {
    let mut frame = [0; wire::frame::MAX_FRAME];
    let body = wire::Body::Console {
        fd: 1,
        bytes: b"hi",
    };
    let mut envelope = wire::Envelope::new(0, 0, body);
    envelope.version = wire::MAJOR + 1;
    let len = wire::frame::encode(&envelope, &mut frame).expect("it fits");
    all_views(
        &frame[..len],
        3,
        3,
        "use the tool that was built with the kernel",
    );
}

/// It is read as far as it is understood.
#[test]
fn of_a_later_minor_version() {
    let bytes = trace(7, wire::MINOR + 1, 3).bytes;
    all_views(&bytes, 0, 0, "");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.cow"), &bytes).expect("written");
    let (_, said) = view(&["report"], folder.path(), "a.cow", false);
    assert!(said.contains("is of the newer wire version"), "{said}");
}

#[test]
fn cut_off() {
    let kernel = trace(7, wire::MINOR, 3);
    // In the middle of the last frame but one.
    let frames = &kernel.frames;
    let at = frames[frames.len() - 2] + 5;
    all_views(&kernel.bytes[..at], 0, 4, "stops before the machine's end");
}

#[test]
fn damaged() {
    let kernel = trace(7, wire::MINOR, 3);
    let mut bytes = kernel.bytes.clone();
    // A batch with a fault.
    let frames = &kernel.frames;
    bytes[frames[frames.len() - 5] + 8] ^= 0x55;
    all_views(&bytes, 0, 4, "damaged");
}

/// The last machine is what counts, and that there was another is said.
#[test]
fn of_two_boots() {
    let one = trace(7, wire::MINOR, 5).bytes;
    let two = trace(8, wire::MINOR, 2).bytes;
    let bytes = [&one[..], &two].concat();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("two.cow"), &bytes).expect("written");
    let (code, said) = view(
        &["report", "--format", "json"],
        folder.path(),
        "two.cow",
        false,
    );
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["losses"]["reboots"], 1);
    assert_eq!(
        report["lines"][0]["copies"]["count"], 2,
        "{}",
        report["lines"]
    );
    for args in VIEWS {
        // These stop at the first end.
        if args[0] == "top" || args.contains(&"--follow") {
            continue;
        }
        let (code, said) = view(args, folder.path(), "two.cow", false);
        assert_eq!(code, 0, "{args:?}: {said}");
        let told = said.contains("1 reboot") || said.contains("\"reboots\": 1");
        assert!(told, "{args:?}: {said}");
    }
}

/// `check` compares, so that what is missing is always told by its status.
#[test]
fn checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = trace(7, wire::MINOR, 3);
    let cut = &kernel.bytes[..kernel.frames[kernel.frames.len() - 2] + 5];
    for (name, bytes, code, word) in [
        ("whole", &kernel.bytes[..], 0, ""),
        ("cut", cut, 4, "stops before"),
        ("empty", b"", 3, "empty"),
    ] {
        std::fs::write(folder.path().join(name), bytes).expect("written");
        let (found, said) = view(&["check"], folder.path(), name, false);
        assert_eq!(found, code, "{name}: {said}");
        assert!(said.contains(word), "{name}: {said}");
    }
}
