//! The three ways to fork, in one run: the same memory is shared classically, by whole tables, and
//! copied at once, and parent and child see only their own writes each time.
//!
//! 4 MiB and some pages, so that whole tables are shared and one in part. Between the forks a
//! child forks in the way that it inherited. On Linux, which has one way, all three are that one.
#![no_std]
#![no_main]

use user::memory::Pages;
use user::process::{self, Fork, ForkMode};
use user::sync::{Conversation, Side};
use user::{Args, Errno, OrFail, check, println};

user::program!(main, "usage: forkmodes [PAGES]   (default: 1100)");

/// Every this many pages both write.
const STRIDE: usize = 37;

fn main(args: Args) {
    let count = match *args.words() {
        [] => 1100,
        [count] => args.number::<usize>(count).max(2),
        _ => args.usage(),
    };
    let pages = Pages::map(count).or_fail("mapping the pages");
    for page in 0..count {
        pages.write(page, value(0, page));
    }
    for (round, mode) in [ForkMode::Classic, ForkMode::Shared, ForkMode::Eager]
        .into_iter()
        .enumerate()
    {
        choose(mode);
        fork_and_write(pages, round as u64, mode);
        println!("forkmodes: {mode:?}: parent and child see their own writes");
    }
}

/// What a page holds after so many rounds.
fn value(round: u64, page: usize) -> u64 {
    round << 32 | page as u64
}

fn choose(mode: ForkMode) {
    match process::set_fork_mode(mode) {
        Ok(()) => {
            let seen = process::fork_mode().or_fail("reading the mode");
            check!(seen == mode as usize, "the mode is {seen}, not {mode:?}");
        }
        Err(errno) => check!(errno == Errno::EINVAL, "setting the mode: {errno}"),
    }
}

fn fork_and_write(pages: Pages, round: u64, mode: ForkMode) {
    let conversation = Conversation::new();
    match process::fork().or_fail("fork") {
        Fork::Child => child(pages, round, mode, &conversation.child_side()),
        Fork::Parent(pid) => {
            let side = conversation.parent_side();
            side.wait(); // until the child has written
            check_all(pages, |page| value(round, page), "the parent, first");
            write(pages, |page| value(round + 1, page));
            side.tell();
            process::expect_success(pid);
            // What it shared is its own again.
            for page in 0..pages.count() {
                pages.write(page, value(round + 1, page));
            }
            side.close();
        }
    }
}

fn child(pages: Pages, round: u64, mode: ForkMode, parent: &Side) -> ! {
    if let Ok(seen) = process::fork_mode() {
        check!(
            seen == mode as usize,
            "the child's mode is {seen}, not {mode:?}"
        );
    }
    check_all(pages, |page| value(round, page), "the child, first");
    write(pages, |page| !value(round, page));
    parent.tell();
    parent.wait(); // until the parent has written
    let expected = |page: usize| match page % STRIDE {
        0 => !value(round, page),
        _ => value(round, page),
    };
    check_all(pages, expected, "the child, last");
    let grandchild = process::fork_child(|| {
        check_all(pages, expected, "the grandchild");
        0
    });
    process::expect_success(grandchild.or_fail("forking again"));
    process::exit(0)
}

#[inline(never)]
fn write(pages: Pages, value: impl Fn(usize) -> u64) {
    for page in (0..pages.count()).step_by(STRIDE) {
        pages.write(page, value(page));
    }
}

fn check_all(pages: Pages, expected: impl Fn(usize) -> u64, who: &str) {
    for page in 0..pages.count() {
        let (seen, expected) = (pages.read(page), expected(page));
        check!(
            seen == expected,
            "{who}: page {page} has {seen:#x}, not {expected:#x}"
        );
    }
}
