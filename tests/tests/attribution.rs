//! Faults and the source lines that made them, to the line, with what was inlined.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tests::{Board, Boot, cowscope, system};

/// What `lines` says of itself: for each chain of `function:line`, innermost first, its copies.
fn told(stdout: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (count, frames) = line.split_once(' ').expect("a count and frames");
        (frames.to_owned(), count.parse().expect("a count"))
    };
    let told: BTreeMap<_, _> = stdout.lines().map(line).collect();
    assert_eq!(told.len(), 6, "{stdout}");
    told
}

/// The same from the lines of a report: the frames of `lines.rs`, up to the function that was not inlined.
fn found(report: &Value) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in report["lines"].as_array().expect("lines") {
        let source = &line["place"]["source"];
        // Without symbols there is no stack.
        let Some(frames) = line["place"]["stack"].as_array() else {
            continue;
        };
        let mut own = Vec::new();
        let end = frames.iter().position(|frame| frame == source);
        for frame in &frames[..=end.expect("the source is in the stack")] {
            let file = frame["file"].as_str().unwrap_or_default();
            if file.ends_with("bin/lines.rs") {
                let function = frame["function"].as_str().expect("a function");
                let name = function.rsplit("::").next().unwrap_or(function);
                own.push(format!("{name}:{}", frame["line"]));
            }
        }
        let copies = line["copies"]["count"].as_u64().expect("a count");
        // The program's stack is written, too: by `main`, and by what is not in this file.
        let main = own
            .iter()
            .any(|frame| frame.starts_with("main:") || frame.starts_with('{'));
        if copies > 0 && !own.is_empty() && !main {
            *found.entry(own.join(" ")).or_default() += copies;
        }
    }
    found
}

#[test]
fn each_write_is_at_its_line() {
    // Pages one by one, so that no line pays for a table.
    let boot = Boot::on(Board::Virt).append("fork=classic").lossless();
    let run = boot.run(&["lines"]);
    run.expect_status(0).expect_sound();
    assert_eq!(found(&run.report()), told(run.stdout()));
}

/// A program that no build of ours has seen: another name, another build id.
fn foreign(folder: &Path) {
    let ours = system().program("lines");
    let mut bytes = std::fs::read(ours).expect("our program");
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = bytes.windows(note.len()).position(|window| window == note);
    let id = at.expect("a build id") + note.len();
    bytes[id..id + 20].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(folder.join("mine"), bytes).expect("written");
}

/// Started in a folder that has nothing to do with ours, with the program's own source lines.
#[test]
fn a_program_from_elsewhere_has_its_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    foreign(folder.path());
    let output = |args: &[&str]| {
        let mut command = cowscope();
        let output = command.current_dir(folder.path()).args(args).output();
        output.expect("cowscope runs")
    };
    let run = output(&[
        "run",
        "--quiet",
        "--lossless",
        "--fork",
        "classic",
        "-o",
        "mine.cow",
        "--",
        "./mine",
    ]);
    let (out, err) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{out}{err}");
    let told = told(&out);
    assert!(err.contains("looped (bin/lines.rs:"), "{err}");
    // Later, too, when it is said where the program is; without that, nobody knows its lines.
    let json = ["report", "mine.cow", "--format", "json"];
    let report = output(&[&json[..], &["--elf", "mine"]].concat());
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(found(&report), told);
    let without = output(&json);
    let without: Value = serde_json::from_slice(&without.stdout).expect("JSON");
    assert!(found(&without).is_empty());
}
