//! Many programs of a root file system in one boot, compared with the same under `qemu-aarch64`.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

use tools::image::{Entry, Initramfs};

use crate::{Board, Boot, Run, user_mode};

/// A program with its arguments, of which the first is its name.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its path in the root file system.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Case {
    /// The words are its arguments.
    pub fn new(program: &'static str, arguments: &[&str]) -> Self {
        Self {
            program,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        }
    }
}

/// What came of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status, as a shell has it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// What `batch` puts behind each program's output.
pub(crate) const END: u8 = 0x1e;

/// What is no text can still be compared.
pub(crate) fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// Where the guest finds the cases.
pub(crate) const FILE: &str = "/.cowscope/batch";

/// The cases, as `batch` reads them.
pub(crate) fn file(cases: &[Case]) -> Entry {
    let mut file = Vec::new();
    for case in cases {
        let count = case.arguments.len().to_string();
        let strings = [case.program, &count].into_iter();
        for string in strings.chain(case.arguments.iter().map(String::as_str)) {
            file.extend_from_slice(string.as_bytes());
            file.push(0);
        }
    }
    Entry::File(0o644, file)
}

/// Runs the programs on our kernel.
pub fn ours(boot: Boot, cases: &[Case]) -> (Run, Vec<Outcome>) {
    let batch = boot.place_of("batch");
    let run = boot.entry(FILE, file(cases)).run(&[&batch, FILE]);
    let stdout = run.trace.stdout.split(|&byte| byte == END);
    let stderr = run.trace.stderr.split(|&byte| byte == END);
    // Behind each END there is a line of `batch`: of the program before it.
    let whole = |part: &[u8]| -> (String, String) {
        let end = part.iter().position(|&byte| byte == b'\n').unwrap_or(0);
        (text(&part[..end]), text(&part[(end + 1).min(part.len())..]))
    };
    let mut outcomes: Vec<Outcome> = Vec::new();
    let (mut out, mut err) = (String::new(), String::new());
    for (index, (stdout, stderr)) in stdout.zip(stderr).enumerate() {
        if index == 0 {
            (out, err) = (text(stdout), text(stderr));
            continue;
        }
        let (status, next_out) = whole(stdout);
        let (_, next_err) = whole(stderr);
        outcomes.push(Outcome {
            status: status.parse().expect("an exit status"),
            stdout: std::mem::replace(&mut out, next_out),
            stderr: std::mem::replace(&mut err, next_err),
        });
    }
    (run, outcomes)
}

/// Runs a program on this machine's Linux.
pub fn theirs(root: &Path, case: &Case) -> Outcome {
    let arguments: Vec<_> = case.arguments.iter().map(String::as_str).collect();
    let Output {
        status,
        stdout,
        stderr,
    } = user_mode::run_in(root, case.program, &arguments);
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.expect("a code or a signal"),
    };
    // The emulator has a word of its own to say of a signal.
    let stderr = text(&stderr);
    let stderr = stderr
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("qemu: "));
    Outcome {
        status,
        stdout: text(&stdout),
        stderr: stderr.collect(),
    }
}

/// Fails unless all programs do the same on both.
#[track_caller]
pub fn compare(root: &Path, cases: &[Case]) -> Run {
    compare_on(Boot::on(Board::Virt), root, cases)
}

/// The same, on another machine than the plainest.
#[track_caller]
pub fn compare_on(boot: Boot, root: &Path, cases: &[Case]) -> Run {
    let boot = boot.lossless().append("terminal=");
    let (run, outcomes) = ours(boot.root(root), cases);
    assert_eq!(outcomes.len(), cases.len(), "not all were run");
    let mut differences = String::new();
    for (case, ours) in cases.iter().zip(outcomes) {
        let theirs = theirs(root, case);
        if ours != theirs {
            differences += &format!("{case:?}\n  ours   {ours:?}\n  Linux  {theirs:?}\n");
        }
    }
    assert!(differences.is_empty(), "these differ:\n{differences}");
    run
}

/// A root file system for a machine: the directory, and what is ours.
pub(crate) fn image(dir: &Path, built: &tools::image::Built) -> anyhow::Result<Initramfs> {
    let wanted = tools::image::Wanted {
        root: Some(dir),
        program: &["/.cowscope/init".to_owned()],
        ..Default::default()
    };
    let progress = tools::progress::Progress::new(true);
    Ok(tools::image::Guest::new(wanted, built, &progress)?.root)
}
