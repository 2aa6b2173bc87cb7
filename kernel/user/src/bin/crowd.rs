//! Forks N processes that are all alive at once, each of which has run, has written to its stack and
//! sleeps; then lets them go and collects them. ROUNDS times: nothing may be missing afterwards.
#![no_std]
#![no_main]

use core::hint::black_box;
use user::file::{self, Fd, Pipe};
use user::process::{self, Status};
use user::{Args, OrFail, check, memory, println};

user::program!(main, "usage: crowd N [ROUNDS]   (default: 1 round)");

fn main(args: Args) {
    let words = args.words();
    let (count, rounds) = match *words {
        [count] => (args.number(count), 1),
        [count, rounds] => (args.number(count), args.number(rounds)),
        _ => args.usage(),
    };
    let before = memory::free().or_fail("asking for the free memory");
    for round in 1..=rounds {
        let each = gather(count, before);
        let after = memory::free().or_fail("asking for the free memory");
        println!(
            "crowd: round {round}: {count} processes alive at once, {each} bytes each, all ended \
             well; {} bytes less are free than at the start",
            before.saturating_sub(after)
        );
    }
}

/// One round. The bytes of memory per process while all were asleep.
fn gather(count: usize, before: u64) -> u64 {
    let ready = file::pipe2(0).or_fail("making a pipe");
    let hold = file::pipe2(0).or_fail("making a pipe");
    // What the children will run is mapped before they are forked: those that have to fault code
    // in have tables of their own.
    file::write_all(hold.writer, &[0]).or_fail("writing to the pipe");
    stand(ready.writer, hold.reader);
    file::read(ready.reader, &mut [0]).or_fail("reading the pipe");

    for number in 0..count {
        let child = process::fork_child(|| member(ready, hold));
        check!(child.is_ok(), "fork number {number}: {child:?}");
        // One by one: each has run and is asleep, or about to be, before the next is made.
        file::read(ready.reader, &mut [0]).or_fail("reading the pipe");
    }
    let during = memory::free().or_fail("asking for the free memory");
    file::close(hold.writer).or_fail("closing the pipe");
    for _ in 0..count {
        let (pid, status) = process::wait_any().or_fail("waiting for a child");
        check!(status == Status::Exited(0), "child {pid} {status}");
    }
    for fd in [hold.reader, ready.reader, ready.writer] {
        file::close(fd).or_fail("closing the pipe");
    }
    before.saturating_sub(during) / count.max(1) as u64
}

fn member(ready: Pipe, hold: Pipe) -> i32 {
    file::close(hold.writer).or_fail("closing the pipe");
    stand(ready.writer, hold.reader)
}

/// Writes to the stack, says so, and sleeps until the pipe ends.
#[inline(never)]
fn stand(ready: Fd, hold: Fd) -> i32 {
    let mut mark = [0u8; 64];
    black_box(&mut mark).fill(process::getpid() as u8);
    file::write_all(ready, &mark[..1]).or_fail("writing to the pipe");
    let end = file::read(hold, &mut [0]).or_fail("reading the pipe");
    let untouched = mark.iter().all(|&byte| byte == process::getpid() as u8);
    check!(untouched, "somebody wrote to this process's stack");
    end as i32
}
