//! The command `cowscope` on real traces: its formats, its statuses, and where a trace may come
//! from.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tests::{Board, Boot, cowscope};

/// A file with a trace of the story, in a folder for this test's files.
struct Place {
    folder: tempfile::TempDir,
    trace: PathBuf,
}

fn story() -> &'static [u8] {
    static STORY: OnceLock<Vec<u8>> = OnceLock::new();
    STORY.get_or_init(|| {
        let run = Boot::on(Board::Virt).lossless().run(&["story", "child"]);
        run.expect_status(0).expect_sound();
        run.bytes.clone()
    })
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let trace = folder.path().join("story.cow");
        std::fs::write(&trace, story()).expect("written");
        Self { folder, trace }
    }

    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, contents).expect("written");
        path
    }

    fn trace(&self) -> &str {
        self.trace.to_str().expect("UTF-8")
    }
}

fn output(args: &[&str]) -> Output {
    cowscope().args(args).output().expect("cowscope runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// The JSON that a successful command prints.
#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = output(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["schema_version"], 1, "{args:?}");
    value
}

#[test]
fn json_of_everything() {
    let place = Place::new();
    let trace = place.trace();
    let report = json(&["report", trace, "--story", "--format", "json"]);
    let page = report["evidence"]["chain"]["page"].as_u64().expect("V");
    let parent = &report["evidence"]["chain"]["parent"]["pid"];
    let child = &report["evidence"]["chain"]["child"]["pid"];

    let all = json(&["faults", trace, "--format", "json"]);
    let all = all["faults"].as_array().expect("faults");
    let count = |value: &Value| -> u64 {
        let processes = value["processes"].as_array().expect("processes");
        let counts = processes
            .iter()
            .map(|p| p["faults_total"]["count"].as_u64());
        counts.map(|count| count.expect("a count")).sum()
    };
    assert_eq!(all.len() as u64, count(&report));

    let address = format!("{page:#x}");
    let copies = json(&[
        "faults",
        trace,
        "--format",
        "json",
        "--outcome",
        "cow-copy",
        "--addr",
        &address,
    ]);
    let copies = copies["faults"].as_array().expect("faults");
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(&copies[0]["pid"], child);

    // A line of JSON for each, after one with the version; and the same number in CSV.
    let lines = output(&["faults", trace, "--format", "jsonl"]);
    let lines = text(&lines.stdout).lines();
    assert_eq!(lines.clone().count(), all.len() + 1);
    for line in lines {
        serde_json::from_str::<Value>(line).expect("JSON");
    }
    let csv = output(&["faults", trace, "--format", "csv"]);
    assert_eq!(text(&csv.stdout).lines().count(), all.len() + 1);

    let life = json(&[
        "explain",
        trace,
        &format!("{parent}:{address}"),
        "--format",
        "json",
    ]);
    assert!(life["entries"].as_array().expect("entries").len() >= 4);
    assert_eq!(life["page"], page);
}

#[test]
fn inputs_that_are_no_traces() {
    let place = Place::new();
    let mut future = [0; wire::frame::MAX_FRAME];
    let mut envelope = wire::Envelope::new(
        0,
        0,
        wire::Body::Console {
            fd: 1,
            bytes: b"hi",
        },
    );
    envelope.version = wire::MAJOR + 1;
    let len = wire::frame::encode(&envelope, &mut future).expect("it fits");
    for (name, contents, word) in [
        ("empty", &b""[..], "empty"),
        ("text", b"It was a dark and stormy night.\n", "not a trace"),
        ("zeros", &[0; 5000], "not a trace"),
        ("future", &future[..len], "version 2"),
    ] {
        let path = place.file(name, contents);
        let path = path.to_str().expect("UTF-8");
        for command in [
            &["report", path][..],
            &["faults", path],
            &["dump", path],
            &["explain", path, "1:0x1000"],
        ] {
            let output = output(command);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
            assert!(
                said.contains(word) && said.contains(name),
                "{command:?}: {said}"
            );
        }
    }
    for (args, code, word) in [
        (&["report", "/no/such/trace"][..], 3, "/no/such/trace"),
        (&["report", "/"], 3, "directory"),
        (
            &["faults", place.trace(), "--outcome", "cow"],
            2,
            "cow-copy",
        ),
        (&["explain", place.trace(), "nonsense"], 2, "PID:ADDRESS"),
        (&["explain", place.trace(), "999:0x1000"], 2, "999"),
        (&["nonsense"], 2, "nonsense"),
    ] {
        let output = output(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
}

/// `| head -1` is no error, and deserves no message.
#[test]
fn a_reader_that_leaves() {
    let place = Place::new();
    let trace = place.trace();
    for args in [
        &["dump", trace][..],
        &["faults", trace],
        &["faults", trace, "--format", "json"],
        &["report", trace, "--story"],
        &["report", trace, "--format", "json"],
    ] {
        let mut child = cowscope()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cowscope runs");
        let mut out = BufReader::with_capacity(16, child.stdout.take().expect("a pipe"));
        out.read_line(&mut String::new()).expect("a line");
        drop(out);
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("text");
        let status = child.wait().expect("a child");
        assert!(status.success(), "{args:?}: {status}");
        assert_eq!(said, "", "{args:?}");
    }
}

#[track_caller]
fn recorded(output: &Output, trace: &Path) {
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(trace).expect("a trace"), story());
    assert!(text(&output.stdout).contains("1. A (pid 2) maps a page"));
    assert!(text(&output.stdout).contains("Loss: none"));
}

#[test]
fn recording_a_socket_and_standard_input() {
    let place = Place::new();
    let copy = place.folder.path().join("copy.cow");
    let to = copy.to_str().expect("UTF-8");

    let socket = place.folder.path().join("wire.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let sender = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a listener");
        // In pieces, as a machine sends it.
        for piece in story().chunks(777) {
            stream.write_all(piece).expect("it listens");
        }
    });
    let source = format!("unix:{}", socket.display());
    recorded(&output(&["record", &source, "-o", to]), &copy);
    sender.join().expect("all was sent");

    let mut child = cowscope()
        .args(["record", "-", "-o", to, "--force"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cowscope runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    let sender = std::thread::spawn(move || pipe.write_all(story()).expect("it listens"));
    recorded(&child.wait_with_output().expect("a child"), &copy);
    sender.join().expect("all was sent");
}

/// A static program for arm64 Linux that no toolchain of ours has seen: it prints its line and
/// exits with 42.
fn foreign_program() -> Vec<u8> {
    const LINE: &[u8] = b"a program of one's own\n";
    const BASE: u64 = 0x40_0000;
    const CODE: u64 = 64 + 56;
    let code = [
        0xd280_0020,                            // mov x0, #1
        0x1000_00e1,                            // adr x1, the line
        0xd280_0002 | (LINE.len() as u32) << 5, // mov x2, its length
        0xd280_0808,                            // mov x8, #64 (write)
        0xd400_0001,                            // svc #0
        0xd280_0540,                            // mov x0, #42
        0xd280_0ba8,                            // mov x8, #93 (exit)
        0xd400_0001,                            // svc #0
    ];
    let size = CODE + 32 + LINE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |value: u16, file: &mut Vec<u8>| file.extend(value.to_le_bytes());
    half(2, &mut file); // ET_EXEC
    half(183, &mut file); // EM_AARCH64
    file.extend(1_u32.to_le_bytes());
    for word in [BASE + CODE, 64, 0] {
        file.extend(u64::to_le_bytes(word)); // entry, program headers, sections
    }
    file.extend(0_u32.to_le_bytes());
    for value in [64, 56, 1, 0, 0, 0] {
        half(value, &mut file);
    }
    file.extend(1_u32.to_le_bytes()); // PT_LOAD
    file.extend(5_u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 4096] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(code.iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend_from_slice(LINE);
    file
}

#[test]
fn running_a_program_of_ones_own() {
    let place = Place::new();
    let program = place.file("mine", &foreign_program());
    let trace = place.folder.path().join("mine.cow");
    let run = output(&[
        "run",
        "--lossless",
        "--cpus",
        "1",
        "-o",
        trace.to_str().expect("UTF-8"),
        "--",
        program.to_str().expect("UTF-8"),
    ]);
    let (out, err) = (text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(42), "{out}{err}");
    // Standard output is the program's alone.
    assert_eq!(out, "a program of one's own\n");
    assert!(err.contains("Loss: none"), "{err}");
    let report = json(&["report", trace.to_str().expect("UTF-8"), "--format", "json"]);
    assert_eq!(report["ended"]["code"], 42);

    // What is none is refused before anything boots.
    let text_file = place.file("script", b"#!/bin/sh\n");
    let refused = output(&["run", "--", text_file.to_str().expect("UTF-8")]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("a script for /bin/sh"));
}
