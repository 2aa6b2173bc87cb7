//! Forks N processes that are all alive at once, then lets them go.
//!
//! If the kernel runs out of memory or of process ids on the way, fork must fail (ENOMEM, EAGAIN)
//! and the processes that exist must live: this is a success, and the message says how far it came.
#![no_std]
#![no_main]

use user::file::{self, Pipe};
use user::process::{self, Status};
use user::{Args, Errno, OrFail, check, fail, println};

user::program!(main, "usage: forkbomb N");

fn main(args: Args) {
    let words = args.words();
    let [count] = *words else { args.usage() };
    let count: usize = args.number(count);
    let hold = file::pipe2(0).or_fail("making a pipe");

    let mut alive = 0;
    let mut failure = None;
    while alive < count && failure.is_none() {
        match process::fork_child(|| stay_until_the_pipe_closes(hold)) {
            Ok(_) => alive += 1,
            Err(errno @ (Errno::ENOMEM | Errno::EAGAIN)) => failure = Some(errno),
            Err(errno) => fail!("fork number {alive}: {errno}"),
        }
    }
    file::close(hold.writer).or_fail("closing the pipe");

    for _ in 0..alive {
        let (pid, status) = process::wait_any().or_fail("waiting for a child");
        check!(status == Status::Exited(0), "child {pid} {status}");
    }
    let none = process::wait_any();
    check!(none == Err(Errno::ECHILD), "a child too many: {none:?}");
    match failure {
        None => println!("forkbomb: {alive} processes alive at once, all ended well"),
        Some(errno) => println!(
            "forkbomb: {alive} of {count} processes alive at once, then {errno}; all ended well"
        ),
    }
}

/// Reads the end of the pipe when the parent, its last writer, closes it.
fn stay_until_the_pipe_closes(hold: Pipe) -> i32 {
    file::close(hold.writer).or_fail("closing the pipe");
    file::read(hold.reader, &mut [0]).or_fail("reading the pipe") as i32
}
