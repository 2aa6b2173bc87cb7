//! Pipes: turns between two processes, more data than a pipe holds, end of file, and writing to
//! nobody.
#![no_std]
#![no_main]

use user::file::{self, Pipe};
use user::linux::SIGPIPE;
use user::process::{self, Status};
use user::sync::Conversation;
use user::{Args, Errno, OrFail, Rng, check, println};

user::program!(main, "usage: pipes");

const TURNS: usize = 1000;
/// Far more than the 64 KiB that a pipe holds on Linux.
const BULK: usize = 1 << 20;

fn main(args: Args) {
    if !args.words().is_empty() {
        args.usage();
    }
    ping_pong();
    bulk();
    write_to_nobody_kills();
    write_to_nobody_fails_when_the_signal_is_ignored();
}

fn ping_pong() {
    let conversation = Conversation::new();
    match process::fork().or_fail("fork") {
        process::Fork::Child => {
            let parent = conversation.child_side();
            for _ in 0..TURNS {
                parent.wait();
                parent.tell();
            }
            process::exit(0)
        }
        process::Fork::Parent(pid) => {
            let child = conversation.parent_side();
            for _ in 0..TURNS {
                child.tell();
                child.wait();
            }
            child.close();
            process::expect_success(pid);
        }
    }
    println!("pipes: {TURNS} turns");
}

/// A child writes pieces of random size; the parent reads pieces of other sizes, and must get every
/// byte in order.
fn bulk() {
    let pipe = new_pipe();
    let writer = process::fork_child(|| {
        file::close(pipe.reader).or_fail("closing the reading end");
        let mut rng = Rng::with_seed(1);
        let mut sent = 0;
        while sent < BULK {
            let len = rng.usize(1..=700).min(BULK - sent);
            let piece: [u8; 700] = core::array::from_fn(|n| byte(sent + n));
            file::write_all(pipe.writer, &piece[..len]).or_fail("writing to the pipe");
            sent += len;
        }
        0
    });
    let writer = writer.or_fail("fork");
    file::close(pipe.writer).or_fail("closing the writing end");
    let mut rng = Rng::with_seed(2);
    let mut piece = [0; 900];
    let mut received = 0;
    loop {
        let len = rng.usize(1..=piece.len());
        let got = file::read(pipe.reader, &mut piece[..len]).or_fail("reading from the pipe");
        if got == 0 {
            break;
        }
        for &seen in &piece[..got] {
            check!(
                seen == byte(received),
                "byte {received} of the pipe is {seen}, not {}",
                byte(received)
            );
            received += 1;
        }
    }
    check!(
        received == BULK,
        "{received} bytes came through, not {BULK}"
    );
    file::close(pipe.reader).or_fail("closing the reading end");
    process::expect_success(writer);
    println!("pipes: {BULK} bytes in order, then the end of the file");
}

fn byte(position: usize) -> u8 {
    (position ^ (position >> 8) ^ (position >> 16)) as u8
}

fn write_to_nobody_kills() {
    let child = process::fork_child(|| {
        let pipe = new_pipe();
        file::close(pipe.reader).or_fail("closing the reading end");
        let result = file::write(pipe.writer, b"x");
        user::fail!("survived a write to nobody, with {result:?}")
    });
    process::expect(child.or_fail("fork"), Status::Killed(SIGPIPE));
    println!("pipes: writing to nobody ends in SIGPIPE");
}

fn write_to_nobody_fails_when_the_signal_is_ignored() {
    let child = process::fork_child(|| {
        process::ignore_signal(SIGPIPE).or_fail("ignoring SIGPIPE");
        let pipe = new_pipe();
        file::close(pipe.reader).or_fail("closing the reading end");
        let result = file::write(pipe.writer, b"x");
        check!(
            result == Err(Errno::EPIPE),
            "writing to nobody gave {result:?}, not EPIPE"
        );
        0
    });
    process::expect_success(child.or_fail("fork"));
    println!("pipes: or in EPIPE, if SIGPIPE is ignored");
}

fn new_pipe() -> Pipe {
    file::pipe2(0).or_fail("making a pipe")
}
