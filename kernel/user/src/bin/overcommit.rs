//! Writes PAGES pages, forks, and lets the child write them too: what if there is no room for both?
//! With `brk` it asks for a heap of so many pages instead.
//!
//! A kernel that keeps what it promises refuses the fork (ENOMEM). One that promises more (Linux's
//! vm.overcommit_memory=1) forks, and kills who finds no page.
#![no_std]
#![no_main]

use user::memory::{self, PAGE_SIZE, Pages};
use user::process;
use user::{Args, Errno, OrFail, fail, println};

user::program!(main, "usage: overcommit PAGES [brk]");

fn main(args: Args) {
    let count = match *args.words() {
        [count] => count,
        [count, "brk"] => return grow(args.number(count)),
        _ => args.usage(),
    };
    let pages = Pages::map(args.number(count)).or_fail("mapping the pages");
    write(pages, 1);
    let child = process::fork_child(|| {
        write(pages, 2);
        0
    });
    match child {
        Err(Errno::ENOMEM) => println!("overcommit: fork: ENOMEM"),
        Err(errno) => fail!("fork: {errno}"),
        Ok(child) => {
            let status = process::wait(child).or_fail("waiting for the child");
            println!("overcommit: the child {status}");
        }
    }
}

fn write(pages: Pages, value: u64) {
    for page in 0..pages.count() {
        pages.write(page, value);
    }
}

fn grow(count: usize) {
    // SAFETY: the heap grows, or stays.
    let moved = unsafe {
        let end = memory::brk(0).or_fail("brk");
        let wanted = end + count * PAGE_SIZE;
        memory::brk(wanted).or_fail("brk") == wanted
    };
    match moved {
        true => println!("overcommit: the break has moved"),
        false => println!("overcommit: the break stays where it is"),
    }
}
