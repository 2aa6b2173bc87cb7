//! The binary as its users meet it: statuses, messages, and files that are not lost. No machine
//! is booted here.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use wire::frame::{Body, End, Envelope, MAX_FRAME, encode};

fn cowscope(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cowscope"));
    command.args(args).env_remove("COWSCOPE_QEMU");
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    text(cowscope(args).output().expect("cowscope runs"))
}

fn text(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let code = output.status.code().expect("no signal");
    (code, text(output.stdout), text(output.stderr))
}

/// A machine that prints a line and ends.
fn stream() -> Vec<u8> {
    let none = [0; wire::event::KINDS];
    let end = End {
        code: 0,
        time: 0,
        free_frames: 0,
        emitted: none,
        dropped: none,
        frames_sent: 2,
    };
    let console = Body::Console {
        fd: 1,
        bytes: b"hello from the guest\n",
    };
    let mut stream = b"firmware\n".to_vec();
    for (seq, body) in [console, Body::End(end)].into_iter().enumerate() {
        let mut frame = [0; MAX_FRAME];
        let n = encode(&Envelope::new(0, seq as u32, body), &mut frame).expect("it fits");
        stream.extend_from_slice(&frame[..n]);
    }
    stream
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn wrong_command_lines_end_with_2_and_say_what_is_right() {
    for (args, word) in [
        (&["run", "--board", "raspi5"][..], "raspi4b"),
        (&["run", "--board", "raspi3b", "--memory", "2G"], "1 GiB"),
        (&["run", "--board", "raspi4b", "--cpus", "1"], "4 CPUs"),
        (&["run", "--memory", "lots"], "512M"),
        (&["run", "--cpus", "9"], "1 to 8"),
        (&["run", "-o", "-"], "-o FILE"),
        (&["run", "--ring", "0"], "at least one"),
        (&["record", "serial:x@fast"], "921600"),
        (&["record"], "SOURCE"),
    ] {
        let (code, out, err) = output(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(word), "{args:?}: {err}");
        assert_eq!(out, "", "{args:?}");
    }
}

#[test]
fn a_stream_is_recorded_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, trace) = (path(dir.path(), "source"), path(dir.path(), "a.cow"));
    std::fs::write(&source, stream()).expect("written");

    let (code, out, err) = output(&["record", &source, "-o", &trace, "--no-report"]);
    assert_eq!((code, out.as_str()), (0, "hello from the guest\n"), "{err}");
    assert!(err.contains("firmware"), "{err}");
    assert_eq!(std::fs::read(&trace).expect("a trace"), stream());

    // Not again, unless it is wanted.
    let (code, _, err) = output(&["record", &source, "-o", &trace]);
    assert_eq!(code, 2);
    assert!(err.contains("--force"), "{err}");
    // And not into itself, wanted or not.
    assert_eq!(output(&["record", &trace, "-o", &trace, "--force"]).0, 2);
    assert_eq!(std::fs::read(&trace).expect("a trace"), stream());
}

#[test]
fn a_live_source_ends_with_the_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = path(dir.path(), "a.cow");
    let mut child = cowscope(&["record", "-", "-o", &trace, "--no-report"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cowscope runs");
    // Kept open: it must end by the machine's last frame, not by the end of the pipe.
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(&stream()).expect("it listens");
    pipe.flush().expect("it listens");
    let start = std::time::Instant::now();
    while child.try_wait().expect("a child").is_none() {
        assert!(start.elapsed().as_secs() < 30, "it waits for more");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(pipe);
    let (code, out, _) = text(child.wait_with_output().expect("a child"));
    assert_eq!((code, out.as_str()), (0, "hello from the guest\n"));
    assert_eq!(std::fs::read(&trace).expect("a trace"), stream());
}

#[test]
fn what_cannot_be_read_ends_with_3() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = path(dir.path(), "a.cow");
    let noise = path(dir.path(), "noise");
    std::fs::write(&noise, [0xfe; 5000]).expect("written");
    for source in [
        path(dir.path(), "absent"),
        "unix:/nonexistent/s".to_owned(),
        noise,
    ] {
        let (code, _, err) = output(&["record", &source, "-o", &trace, "--force"]);
        assert_eq!(code, 3, "{source}: {err}");
    }
}

#[test]
fn doctor_speaks_json() {
    let (code, out, err) = output(&["doctor", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["schema_version"], 1);
    assert_eq!(code, if report["ok"] == true { 0 } else { 1 }, "{err}");
    let checks = report["checks"].as_array().expect("checks");
    assert!(checks.iter().any(|check| check["name"] == "QEMU"));
}
