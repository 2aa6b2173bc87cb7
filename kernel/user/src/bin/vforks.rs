//! vfork: the child runs in the parent's memory, and the parent stands still until the child exits
//! or execs.
//!
//! Fails under `qemu-aarch64`, where vfork is fork.
#![no_std]
#![no_main]

use user::memory::Pages;
use user::process::{self, Status};
use user::{Args, OrFail, check, println};

user::program!(main, "usage: vforks [N]   (default: 100)");

fn main(args: Args) -> i32 {
    let count = match *args.words() {
        [] => 100,
        ["--exit-with-7"] => return 7,
        [count] => args.number(count),
        _ => args.usage(),
    };
    let page = Pages::map(1).or_fail("mapping a page");
    for number in 1..=count {
        exits(page, number);
        execs(page, number, &args);
    }
    nested(page);
    println!(
        "vforks: {count} children that exit and {count} that exec, all in the parent's memory"
    );
    0
}

/// The child yields between its two writes: a parent that did not wait would see the first one.
fn exits(page: Pages, number: u64) {
    let child = process::vfork(|| {
        page.write(0, 0);
        process::sched_yield();
        page.write(0, number);
        (number % 100) as i32
    });
    let child = child.or_fail("vfork");
    let seen = page.read(0);
    check!(
        seen == number,
        "after a vfork child wrote {number}, its parent reads {seen}"
    );
    process::expect(child, Status::Exited((number % 100) as i32));
}

fn execs(page: Pages, number: u64, args: &Args) {
    let child = process::vfork(|| {
        page.write(0, number + 1);
        let errno = process::exec_self(args, &[c"--exit-with-7"]);
        user::fail!("exec of {:?}: {errno}", args.executable())
    });
    let child = child.or_fail("vfork");
    let seen = page.read(0);
    check!(
        seen == number + 1,
        "after a vfork child wrote {} and execed, its parent reads {seen}",
        number + 1
    );
    process::expect(child, Status::Exited(7));
}

/// A vfork child may vfork, and may fork: the grandchild by fork has its own copy.
fn nested(page: Pages) {
    page.write(0, 1);
    let child = process::vfork(|| {
        let grandchild = process::vfork(|| {
            page.write(0, page.read(0) + 1);
            0
        });
        process::expect_success(grandchild.or_fail("vfork in a vfork child"));
        let grandchild = process::fork_child(|| {
            page.write(0, page.read(0) + 100);
            0
        });
        process::expect_success(grandchild.or_fail("fork in a vfork child"));
        page.write(0, page.read(0) + 1);
        0
    });
    process::expect_success(child.or_fail("vfork"));
    let seen = page.read(0);
    check!(seen == 3, "after nested vforks the page has {seen}, not 3");
}
