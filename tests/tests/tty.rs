//! `cowscope run` in a terminal: the shell's prompt, keys, job control, and the terminal afterwards.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use tempfile::TempDir;
use tests::cowscope;
use tests::terminal::Terminal;

const SIZE: (u16, u16) = (30, 100);

/// `cowscope run --package busybox-static -- WORDS` in a terminal. The folder is the trace's.
fn start(words: &[&str]) -> (Terminal, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = folder.path().join("trace.cow");
    let mut command = cowscope();
    command.args(["run", "--quiet", "--no-report", "--output"]);
    command.arg(trace);
    command.args(["--package", "busybox-static", "--"]);
    command.args(words).env("TERM", "vt100");
    // The package is there before anybody has to wait for it.
    tests::root(&["busybox-static"]);
    (Terminal::new(command, SIZE), folder)
}

#[test]
fn a_shell_at_its_prompt() {
    let (mut terminal, _folder) = start(&["sh"]);
    let before = terminal.settings();
    terminal.expect("/ # ");
    assert_ne!(terminal.settings(), before, "the terminal is raw");

    // The shell's own editing, in raw mode: what is run is what is left of the line.
    terminal.send("ecxx\x7f\x7fho hello-$((40 + 2))\r");
    terminal.expect("\r\nhello-42\r\n");
    terminal.expect("/ # ");
    terminal.send("echo $TERM; tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all of them\r");
    terminal.expect("\r\nvt100\r\n/dev/console\r\nall of them\r\n");

    // The kernel's: erase, a word and a line, a literal ^C, the end of the file in a line and alone.
    terminal.expect("/ # ");
    run(&mut terminal, "cat");
    terminal.send("abx\x7fc\r");
    terminal.expect("abx\x08 \x08c\r\nabc\r\n");
    terminal.send("one two\x17three\r");
    terminal.expect("one three\r\n");
    terminal.send("no\x15yes\x16\x03\r");
    terminal.expect("\r\nyes\x03\r\n");
    terminal.send("half\x04");
    terminal.expect("halfhalf");
    terminal.send("\x04\x04");
    terminal.expect("/ # ");

    // ^C ends what runs in the foreground, and not the shell.
    run(&mut terminal, "while :; do :; done");
    terminal.send("\x03");
    terminal.expect("^C");
    terminal.expect("/ # ");
    terminal.send("echo status $?\r");
    terminal.expect("\r\nstatus 130\r\n");
    terminal.expect("/ # ");
    run(&mut terminal, "sleep 1000");
    terminal.send("\x1c");
    terminal.expect("^\\");
    terminal.expect("/ # ");
    terminal.send("echo status $?\r");
    terminal.expect("\r\nstatus 131\r\n");
    terminal.expect("/ # ");

    job_control(&mut terminal);

    terminal.send("stty size\r");
    terminal.expect("\r\n30 100\r\n");
    terminal.expect("/ # ");
    run(
        &mut terminal,
        "sh -c 'trap \"stty size; exit\" WINCH; echo set; while :; do sleep 0.1; done'",
    );
    terminal.expect("set\r\n");
    terminal.resize((40, 120));
    terminal.expect("40 120\r\n");
    terminal.expect("/ # ");
    terminal.send("exit 7\r");
    assert_eq!(terminal.wait().code(), Some(7), "{:?}", terminal.screen());
    assert_eq!(terminal.settings(), before, "the terminal is as it was");
}

/// Has the shell run a command; returns when keys are the command's: until then they are the shell's,
/// which does without echo and lines.
fn run(terminal: &mut Terminal, command: &str) {
    terminal.send(&format!("echo here; {command}\r"));
    terminal.expect("\r\nhere\r\n");
}

fn job_control(terminal: &mut Terminal) {
    run(terminal, "sleep 1000");
    terminal.send("\x1a");
    terminal.expect("^Z");
    terminal.expect("Stopped");
    terminal.expect("/ # ");
    terminal.send("jobs\r");
    terminal.expect("Stopped");
    terminal.expect("/ # ");
    terminal.send("bg; jobs\r");
    terminal.expect("Running");
    terminal.expect("/ # ");
    terminal.send("fg\r");
    terminal.expect("sleep 1000\r\n");
    terminal.send("\x03");
    terminal.expect("/ # ");
    // Who reads in the background is stopped, and reads when it is in the foreground.
    terminal.send("cat > /tmp/read &\r");
    terminal.expect("/ # ");
    terminal.send("sleep 0.2; jobs\r");
    terminal.expect("Stopped (tty input)");
    terminal.expect("/ # ");
    terminal.send("fg\r");
    terminal.expect("cat 1>/tmp/read\r\n");
    terminal.send("typed\r\x04");
    terminal.expect("/ # ");
    terminal.send("cat /tmp/read\r");
    terminal.expect("\r\ntyped\r\n");
    terminal.expect("/ # ");
}

/// ^S holds what is written, ^Q lets it go; neither is a key of the program's unless it says so.
fn flow_control(terminal: &mut Terminal) {
    run(terminal, "sleep 1; echo $((40 + 2))-held");
    terminal.send("\x13");
    // The sleep is over by then, or the machine is slow and there is nothing to see yet.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!terminal.screen().contains("42-held"));
    terminal.send("\x11");
    terminal.expect("42-held\r\n");
    terminal.expect("/ # ");
    run(
        terminal,
        "stty -icanon -ixon min 2; dd bs=10 count=1 2>/dev/null | od -An -tx1; stty icanon ixon",
    );
    terminal.send("\x13\x11");
    terminal.expect(" 13 11\r\n");
    terminal.expect("/ # ");
}

#[test]
fn the_escape_leaves_the_machine() {
    let (mut terminal, _folder) = start(&["cat"]);
    let before = terminal.settings();
    terminal.send("hello\r");
    terminal.expect("hello\r\nhello\r\n");
    terminal.send("\x1dq");
    assert_eq!(terminal.wait().code(), Some(130), "{:?}", terminal.screen());
    assert_eq!(terminal.settings(), before);
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let (mut terminal, _folder) = start(&["cat"]);
    let before = terminal.settings();
    terminal.send("hello\r");
    terminal.expect("hello\r\nhello\r\n");
    assert_ne!(terminal.settings(), before);
    terminal.kill(libc::SIGQUIT);
    assert_eq!(terminal.wait().signal(), Some(libc::SIGQUIT));
    assert_eq!(terminal.settings(), before);
}

/// What programs set: how much is read at once and how long it takes, who may write, and where a terminal
/// is that no descriptor leads to.
#[test]
fn modes_of_the_terminal() {
    let (mut terminal, _folder) = start(&["sh"]);
    terminal.expect("/ # ");
    terminal.send("sh -c 'echo by-$((1 + 1))-way > /dev/tty' > /dev/null\r");
    terminal.expect("\r\nby-2-way\r\n");
    terminal.expect("/ # ");

    // Three bytes, or more, are a read; less are none yet.
    run(
        &mut terminal,
        "stty -icanon min 3; dd bs=10 count=1 2>/dev/null; stty icanon; echo; echo over",
    );
    terminal.send("a");
    terminal.expect("a");
    terminal.send("b");
    terminal.expect("b");
    terminal.send("c");
    terminal.expect("cabc\r\nover\r\n");
    terminal.expect("/ # ");
    // Nothing is a read as well, if nobody types for so long.
    run(
        &mut terminal,
        "stty -icanon min 0 time 1; dd bs=10 count=1 2>/dev/null | wc -c; stty icanon min 1",
    );
    terminal.expect("0\r\n");
    terminal.expect("/ # ");
    // With both, the time runs between two bytes.
    run(
        &mut terminal,
        "stty -icanon min 9 time 1; dd bs=10 count=1 2>/dev/null; stty icanon; echo; echo over",
    );
    terminal.send("x");
    terminal.expect("xx\r\nover\r\n");
    terminal.expect("/ # ");

    // Nothing at once, and what is there at once.
    run(
        &mut terminal,
        "stty -icanon min 0 time 0; dd bs=10 count=1 2>/dev/null | wc -c; stty icanon min 1",
    );
    terminal.expect("0\r\n");
    terminal.expect("/ # ");
    flow_control(&mut terminal);

    // Who writes in the background is stopped, if the terminal is set so.
    terminal.send("stty tostop; echo background &\r");
    terminal.expect("/ # ");
    terminal.send("sleep 0.2; jobs\r");
    terminal.expect("Stopped (tty output)");
    terminal.expect("/ # ");
    terminal.send("stty -tostop; fg\r");
    terminal.expect("\r\nbackground\r\n");
    terminal.expect("/ # ");

    // The group in the foreground, the session, and whether there is a terminal.
    terminal.send("awk '{ print \"stat\", $5 == $8, $6 != 0, $7 != 0 }' /proc/self/stat\r");
    terminal.expect("\r\nstat 1 1 1\r\n");
    terminal.expect("/ # ");
    // In a subshell it leads no group, and so need not fork: the prompt comes after it.
    terminal.send("(setsid awk '{ print \"stat\", $7, $8 }' /proc/self/stat; true)\r");
    terminal.expect("\r\nstat 0 -1\r\n");
    terminal.expect("/ # ");
    terminal.send("exit\r");
    assert_eq!(terminal.wait().code(), Some(0));
}
