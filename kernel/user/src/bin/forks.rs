//! What a fork, its child's end and the wait for it cost when several processes do nothing else.
//!
//! PROCESSES of them, which have nothing to do with each other, make COUNT children one after the
//! other. On QEMU with `-icount shift=0,sleep=off` and a counter of 1 GHz the time is the
//! instructions of all CPUs, the waiting for locks included.
#![no_std]
#![no_main]

use user::file;
use user::memory::Pages;
use user::process;
use user::{Args, OrFail, println, time};

user::program!(main, "usage: forks PROCESSES COUNT");

/// Pages that each process has written, and writes again after each fork.
const PAGES: usize = 16;

fn main(args: Args) {
    let [processes, count] = *args.words() else {
        args.usage()
    };
    let (processes, count): (u64, u64) = (args.number(processes), args.number(count));
    if processes == 0 || processes > 64 || count == 0 {
        args.usage();
    }
    let start = file::pipe2(0).or_fail("pipe2");
    let mut children = [0; 64];
    let children = &mut children[..processes as usize];
    for child in &mut *children {
        *child = process::fork_child(|| {
            file::close(start.writer).or_fail("close");
            let pages = Pages::map(PAGES).or_fail("mmap");
            // All begin when the pipe ends.
            file::read(start.reader, &mut [0]).or_fail("read");
            for round in 0..count {
                (0..PAGES).for_each(|page| pages.write(page, round));
                process::expect_success(process::fork_child(|| 0).or_fail("fork"));
            }
            0
        })
        .or_fail("fork");
    }
    let before = time::now().or_fail("clock_gettime");
    file::close(start.writer).or_fail("close");
    for child in children {
        process::expect_success(*child);
    }
    let took = time::now().or_fail("clock_gettime") - before;
    println!("forks: {} ns each", took / (processes * count));
}
