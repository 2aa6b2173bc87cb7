//! The chain loader on QEMU's Raspberry Pis: a kernel comes by a serial line that loses and damages
//! bytes, and its trace goes back by the same line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tests::card::Card;
use tests::line::{self, Noise, Pty};
use tests::{Board, Model, Trace, cowscope, system};

/// What a board with the loader has on its card, and what `cowscope boot -- hello` will send it.
struct Files {
    loader: PathBuf,
    tree: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Files {
    #[track_caller]
    fn make(model: Model, tree: &str, dir: &Path) -> Self {
        let make = |name: &str, words: &[&str]| {
            let image = dir.join(name);
            let mut command = cowscope();
            command.args(["image", "--quiet", "--board", model.name(), "-o"]);
            let output = command.arg(&image).args(words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            Card::open(&image)
        };
        let card = make("loader.img", &["--loader"]);
        let names = card.list();
        assert!(!names.iter().any(|n| n == "initramfs.cpio"), "{names:?}");
        let loader = dir.join("loader");
        fs::rename(card.extract("kernel8.img", dir), &loader).unwrap();
        let tree = card.extract(tree, dir);
        let card = make("whole.img", &["--", "hello"]);
        Self {
            loader,
            tree,
            kernel: card.extract("kernel8.img", dir),
            initramfs: card.extract("initramfs.cpio", dir),
        }
    }
}

/// Runs a command, which would wait for ever for a board that never answers.
#[track_caller]
fn within(command: &mut Command, limit: Duration) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().expect("cowscope runs");
    let id = child.id() as libc::pid_t;
    let (done, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            // SAFETY: a signal, to a child of ours that has not been waited for.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
    });
    let output = child.wait_with_output().expect("it ends");
    drop(done);
    watch.join().expect("nothing can go wrong");
    output
}

/// A machine that is switched off at the end.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Switches on a board with the loader, the first UART being a socket.
fn switch_on(board: Board, files: &Files, socket: &Path, more: &[String]) -> Machine {
    let mut command = Command::new(&system().qemu);
    command.args(["-no-user-config", "-nodefaults", "-display", "none"]);
    // The cores that wait in the spin table run in QEMU all the time: in one thread, they leave most
    // of it to the one that works.
    command.args(["-no-reboot", "-accel", "tcg,thread=single"]);
    command.args(["-M", board.name()]);
    command.arg("-kernel").arg(&files.loader);
    command.arg("-dtb").arg(&files.tree);
    command.arg("-initrd").arg(&files.initramfs);
    command.args(more);
    let device = format!(
        "socket,id=line,path={},server=on,wait=off",
        socket.display()
    );
    command.args(["-chardev", &device, "-serial", "chardev:line"]);
    command.stdin(Stdio::null());
    Machine(command.spawn().expect("QEMU runs"))
}

/// How much of the kernel a board gets that has the rest in its memory.
const HEAD: usize = 256 << 10;

/// Boots by a noisy line, and checks the trace that came by it. What QEMU has put into the board's
/// memory before, as a reset leaves it there, is found there and not sent.
#[track_caller]
fn boots(board: Board, model: Model, tree: &str, sends_all: bool) {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::make(model, tree, dir.path());
    let kernel = fs::metadata(&files.kernel).unwrap().len();
    let tree_len = fs::metadata(&files.tree).unwrap().len();
    let tail = dir.path().join("tail");
    let more = match sends_all {
        true => Vec::new(),
        false => {
            let bytes = fs::read(&files.kernel).unwrap();
            fs::write(&tail, &bytes[HEAD..]).unwrap();
            let (file, at) = (tail.display(), 0x20_0000 + HEAD);
            let device = format!("loader,file={file},addr={at:#x},force-raw=on");
            vec!["-device".to_owned(), device]
        }
    };
    let socket = dir.path().join("line.sock");
    let _machine = switch_on(board, &files, &socket, &more);
    let pty = Pty::new();
    let line = line::connect(&socket);
    // Until most of what has to be sent is, and its answers: the trace is to come whole.
    let sent = if sends_all { kernel } else { HEAD as u64 };
    let there = Noise {
        one_in: if sends_all { 24_000 } else { 12_000 },
        until: sent * 9 / 10,
    };
    let back = Noise {
        one_in: 900,
        until: tree_len,
    };
    let to_board = line::relay(
        pty.master.try_clone().unwrap(),
        line.try_clone().unwrap(),
        there,
        1,
    );
    let from_board = line::relay(line, pty.master.try_clone().unwrap(), back, 2);

    let trace = dir.path().join("trace.cow");
    let mut command = cowscope();
    command.args(["boot", &format!("serial:{}@1500000", pty.path.display())]);
    command.args(["--no-report", "--trace", "mmu", "--lossless", "-o"]);
    command.arg(&trace).args(["--", "hello"]);
    let output = within(&mut command, Duration::from_secs(400));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{board}: {said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hello, world\n",
        "{said}"
    );
    let damage = (to_board.count(), from_board.count());
    assert!(
        damage.0 > 5 && damage.1 > 5,
        "the line was too good: {damage:?}"
    );
    assert!(said.contains("had to be repeated"), "{said}");
    assert!(!said.contains("do not work"), "the rate was raised: {said}");

    let bytes = fs::read(&trace).unwrap();
    let end = Trace::decode(&bytes).end.expect("a whole trace");
    assert_eq!(end.code, 0);
    let output = cowscope().arg("check").arg(&trace).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_pi_3_takes_a_kernel_from_a_noisy_line() {
    boots(Board::Raspi3b, Model::Pi3, "bcm2837-rpi-3-b.dtb", true);
}

#[test]
fn a_pi_4_goes_on_where_it_was_before() {
    boots(Board::Raspi4b, Model::Pi4, "bcm2711-rpi-4-b.dtb", false);
}

#[test]
fn a_board_tells_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::make(Model::Pi4, "bcm2711-rpi-4-b.dtb", dir.path());
    let socket = dir.path().join("line.sock");
    let _machine = switch_on(Board::Raspi4b, &files, &socket, &[]);
    drop(line::connect(&socket));
    let mut command = cowscope();
    command.args(["doctor", "--format", "json", "--board"]);
    let output = command
        .arg(format!("unix:{}", socket.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // QEMU's counter is not a Pi's.
    assert_eq!(output.status.code(), Some(1), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["facts"]["MIDR_EL1"], "0x410fd083");
    assert_eq!(json["facts"]["board's revision"], "0xb03115");
    assert_eq!(json["facts"]["PL011 at"], "0xfe201000");
    let tree = json["device_tree_base64"].as_str().expect("a tree");
    assert!(tree.len() > 40_000, "all of it");
    for check in json["checks"].as_array().unwrap() {
        let what = check["what"].as_str().unwrap();
        let differs = ["counter", "SMPEN"].iter().any(|word| what.contains(word));
        assert_eq!(check["ok"], !differs, "{check}");
    }
}
