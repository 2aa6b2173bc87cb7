//! What execve makes of scripts, dynamic programs, and what is neither: Linux's results and errors
//! (execve(2), fs/exec.c, fs/binfmt_script.c, fs/binfmt_elf.c).

use tests::batch::{Case, Outcome, ours};
use tests::{Board, Boot, system};
use tools::image::Entry;

const OK: i32 = 0;
/// What `batch` says of a program that was not there, and of one that could not be started.
const NOT_FOUND: i32 = 127;
const REFUSED: i32 = 126;

/// `hello`, with its note turned into a PT_INTERP.
fn dynamic(linker: &str) -> Vec<u8> {
    const NOTE: [u8; 4] = [4, 0, 0, 0];
    let mut file = std::fs::read(system().program("hello")).expect("it was built");
    let header = (64..).step_by(56).find(|&at| file[at..at + 4] == NOTE);
    let header = header.expect("a build id");
    let offset = file.len() as u64;
    file.extend_from_slice(linker.as_bytes());
    file.push(0);
    let len = linker.len() as u64 + 1;
    file[header..header + 4].copy_from_slice(&3u32.to_le_bytes());
    file[header + 8..header + 16].copy_from_slice(&offset.to_le_bytes());
    file[header + 32..header + 40].copy_from_slice(&len.to_le_bytes());
    file
}

#[test]
fn programs_scripts_and_neither() {
    let text = |text: &str| text.as_bytes().to_vec();
    let long = "x".repeat(100);
    let files = [
        ("/s/plain", 0o755, text("#!/bin/args one  two \n")),
        ("/s/nest1", 0o755, text("#!/bin/args 1\n")),
        ("/s/nest2", 0o755, text("#!/s/nest1 2\n")),
        ("/s/nest3", 0o755, text("#!/s/nest2\n")),
        ("/s/nest4", 0o755, text("#!/s/nest3\n")),
        ("/s/nest5", 0o755, text("#!/s/nest4")),
        ("/s/nest6", 0o755, text("#!/s/nest5\n")),
        ("/s/itself", 0o755, text("#!/s/itself\n")),
        ("/s/lost", 0o755, text("#!/no/such/file\n")),
        ("/s/closed", 0o644, text("#!/bin/args\n")),
        ("/s/for-closed", 0o755, text("#!/s/closed\n")),
        ("/s/for-directory", 0o755, text("#!/s\n")),
        ("/s/text", 0o755, text("echo hello\n")),
        ("/s/empty", 0o755, Vec::new()),
        ("/s/long", 0o755, text(&long)),
        ("/s/dynamic-lost", 0o755, dynamic("/no/ld.so")),
        ("/s/dynamic-closed", 0o755, dynamic("/s/closed")),
        ("/s/dynamic-short", 0o755, dynamic("/s/text")),
        ("/s/dynamic-text", 0o755, dynamic("/s/long")),
    ];
    let boot = files.into_iter().fold(
        Boot::on(Board::Virt).lossless(),
        |boot, (path, mode, contents)| boot.entry(path, Entry::File(mode, contents)),
    );
    // One string may have 128 KiB, its NUL included (MAX_ARG_STRLEN).
    let (most, more) = ("x".repeat((128 << 10) - 1), "x".repeat(128 << 10));
    let expected: [(&'static str, &[&str], i32, &str); 19] = [
        ("/s/plain", &["called", "x", ""], OK, ""),
        ("/s/nest5", &["called", "x"], OK, ""),
        ("/s/nest6", &["called"], REFUSED, "ELOOP"),
        ("/s/itself", &["called"], REFUSED, "ELOOP"),
        ("/s/lost", &["called"], NOT_FOUND, ""),
        ("/s/closed", &["called"], REFUSED, "EACCES"),
        ("/s/for-closed", &["called"], REFUSED, "EACCES"),
        ("/s/for-directory", &["called"], REFUSED, "EACCES"),
        ("/s", &["called"], REFUSED, "EACCES"),
        ("/s/text", &["called"], REFUSED, "ENOEXEC"),
        ("/s/empty", &["called"], REFUSED, "ENOEXEC"),
        ("/s/text/x", &["called"], REFUSED, "ENOTDIR"),
        ("/s/dynamic-lost", &["called"], NOT_FOUND, ""),
        ("/s/dynamic-closed", &["called"], REFUSED, "EACCES"),
        ("/s/dynamic-short", &["called"], REFUSED, "EIO"),
        ("/s/dynamic-text", &["called"], REFUSED, "error 80"), // ELIBBAD
        ("/bin/true", &["true", &most], OK, ""),
        ("/bin/true", &["true", &more], REFUSED, "E2BIG"),
        // Linux gives a program a first argument in any case, since 5.18.
        ("/bin/args", &[], OK, ""),
    ];
    let cases: Vec<_> = expected
        .iter()
        .map(|(program, arguments, ..)| Case::new(program, arguments))
        .collect();
    let (run, outcomes) = ours(boot, &cases);
    run.expect_status(0).expect_sound();
    assert_eq!(outcomes.len(), expected.len());
    for ((program, _, status, error), outcome) in expected.into_iter().zip(&outcomes) {
        let said = match error {
            "" => String::new(),
            error => format!("{program:?}: {error}\n"),
        };
        assert_eq!(
            (outcome.status, &outcome.stderr),
            (status, &said),
            "{program}"
        );
    }

    let arguments = |outcome: &Outcome| -> Vec<String> {
        let lines = outcome.stdout.lines();
        let values = lines.filter_map(|line| {
            let (name, value) = line.split_once(" = ")?;
            (name.starts_with("argv") || name == "AT_EXECFN")
                .then(|| value.trim_matches('"').to_owned())
        });
        values.collect()
    };
    // The last one is AT_EXECFN: the script itself.
    assert_eq!(
        arguments(&outcomes[0]),
        ["/bin/args", "one  two", "/s/plain", "x", "", "/s/plain"]
    );
    let nested = [
        "/bin/args",
        "1",
        "/s/nest1",
        "2",
        "/s/nest2",
        "/s/nest3",
        "/s/nest4",
        "/s/nest5",
        "x",
        "/s/nest5",
    ];
    assert_eq!(arguments(&outcomes[1]), nested);
    assert_eq!(arguments(&outcomes[18]), ["", "/bin/args"]);
}
