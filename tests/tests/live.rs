//! Views of a machine while it runs: `top`, and `report --follow`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::terminal::Terminal;
use tests::{Board, Boot, cowscope, system};

/// What a run needs is built: a terminal waits for that no longer than for anything else.
fn ready() {
    system();
    let mut run = cowscope();
    run.args(["run", "--quiet", "--no-report", "-o"]);
    let folder = tempfile::tempdir().expect("a folder");
    let run = run.arg(folder.path().join("x.cow")).args(["--", "true"]);
    assert!(run.status().expect("it runs").success());
}

/// `top` boots the machine itself, shows who copies, and what the program says; `q` ends it.
#[test]
fn top_in_a_terminal() {
    ready();
    let mut command = cowscope();
    command.args(["top", "--interval", "0.1", "--", "refcount", "256"]);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let mut terminal = Terminal::new(command, (30, 140));
    let before = terminal.settings();
    terminal.expect("cowscope top  refcount 256");
    // What is blank already is not drawn: of several words, only those of one style are in one piece.
    terminal.expect("ended");
    assert_ne!(terminal.settings(), before, "keys are taken one by one");
    terminal.send("q");
    assert!(terminal.wait().success());
    assert_eq!(terminal.settings(), before, "the terminal is given back");
    let screen = terminal.screen();
    // Words are drawn one by one where they differ from what was there.
    for word in ["Heap::reference", "Pages::write_word", "refcount"] {
        assert!(screen.contains(word), "{word:?} is not in {screen:?}");
    }
    assert!(screen.contains("\x1b[?1049h"), "a screen of its own");
    let (_, left) = screen.rsplit_once("\x1b[?1049l").expect("and back");
    assert!(left.contains("a worker read 4096 objects"), "{left:?}");
}

/// Without a terminal it is text, and ends with the machine, and with the program's status.
#[test]
fn top_as_text() {
    system();
    let top = |words: &[&str]| {
        let mut command = cowscope();
        command.args(["top", "--interval", "60"]).args(words);
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (output.status.code(), text)
    };
    let (code, text) = top(&["--", "store", "64"]);
    assert_eq!(code, Some(0));
    assert!(!text.contains('\x1b'), "{text:?}");
    let line = text.lines().find(|line| line.contains("Store::set"));
    let line = line.unwrap_or_else(|| panic!("Store::set is not in {text}"));
    assert!(line.trim_start().starts_with("64 "), "{line}");
    assert_eq!(top(&["--", "false"]).0, Some(1));
    let (_, text) = top(&["--function", "no_such_function", "--", "store", "64"]);
    assert!(!text.contains("Store::set"), "{text}");
    // An eager fork leaves nothing to copy later.
    let (code, text) = top(&["--run", "--fork eager --cpus 2", "--", "store", "64"]);
    assert_eq!(code, Some(0));
    assert!(!text.contains("Store::set"), "{text}");
}

/// Follows a file that grows: what is written after it has begun counts, and the last frame ends it.
#[test]
fn report_of_a_trace_that_is_written() {
    let run = Boot::on(Board::Virt).lossless().run(&["store", "64"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.cow");
    let follow = |extra: &[&str]| {
        let mut command = cowscope();
        command.arg("report").arg(&path).arg("--follow").args(extra);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("cowscope runs")
    };
    let follower = follow(&["--strict"]);
    let mut file = std::fs::File::create(&path).expect("a trace");
    for piece in run.bytes.chunks(run.bytes.len() / 7) {
        std::thread::sleep(Duration::from_millis(100));
        file.write_all(piece).expect("written");
    }
    let output = follower.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("copied 64 pages") && text.contains("Loss: none"),
        "{text}"
    );

    // Ctrl-C ends it with what there was.
    std::fs::write(&path, &run.bytes[..run.bytes.len() / 2]).expect("written");
    let follower = follow(&[]);
    std::thread::sleep(Duration::from_millis(1500));
    let kill = Command::new("kill")
        .args(["-INT", &follower.id().to_string()])
        .status();
    assert!(kill.expect("kill").success());
    let output = follower.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("stops before the machine's end"), "{text}");
}
