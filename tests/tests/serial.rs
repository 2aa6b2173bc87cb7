//! Recording a serial port that is unplugged and comes back.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tests::line::Pty;
use tests::{Board, Boot, Trace, cowscope};

#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn length(file: &Path) -> usize {
    fs::metadata(file).map_or(0, |m| m.len() as usize)
}

#[test]
fn a_port_that_comes_back() {
    let run = Boot::on(Board::Virt).lossless().run(&["hello"]);
    let bytes = &run.bytes;
    let half = bytes.len() / 2;
    let dir = tempfile::tempdir().unwrap();
    let (port, trace) = (dir.path().join("port"), dir.path().join("trace.cow"));
    let mut command = cowscope();
    // It is waited for, from before it is plugged in.
    command.args(["record", "--wait", "--no-report", "-o"]);
    command.arg(&trace);
    command.arg(format!("serial:{}@3000000", port.display()));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();

    let first = Pty::new();
    symlink(&first.path, &port).unwrap();
    (&first.master).write_all(&bytes[..half]).unwrap();
    wait_for("the first half is recorded", || length(&trace) == half);
    fs::remove_file(&port).unwrap();
    drop(first);
    while !line.contains("is gone") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
    }

    let second = Pty::new();
    symlink(&second.path, &port).unwrap();
    while !line.contains("is back") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
    }
    // Some of it is lost while nobody listens, in the middle of a frame.
    (&second.master).write_all(&bytes[half + 40..]).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("lost"), "{rest}");
    let recorded = fs::read(&trace).unwrap();
    assert!(recorded[..half] == bytes[..half] && recorded[half..] == bytes[half + 40..]);
    assert!(Trace::decode(&recorded).end.is_some());
}
