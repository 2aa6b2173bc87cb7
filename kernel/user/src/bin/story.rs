//! The demonstration: what fork, copy-on-write, exec and vfork do to pages, one step after the
//! other.
//!
//! `story child` lets the child write to the shared page first, `story parent` the parent. Every
//! step checks what it shows, each process its own values; the first mismatch ends the program with
//! exit code 1. It cannot see whether the kernel copies, reuses or faults: that is what the trace
//! is for, and the functions have telling names because the host's report names them as the place
//! of each fault.
//!
//! On Linux it prints eight steps and succeeds. Under `qemu-aarch64` it fails at step 6 unless the
//! host can execute arm64 files, and else at step 7, because there a vfork is a fork.
#![no_std]
#![no_main]

use user::file::{O_CLOEXEC, Pipe};
use user::memory::Pages;
use user::process::{self, Fork, Pid};
use user::sync::{Conversation, Side};
use user::{Args, OrFail, check, distinct, file, println};

user::program!(
    main,
    "usage: story [child|parent]\n\nShows copy-on-write; the argument says who writes first (default: child)."
);

/// What V holds before the fork, and what each process then writes to it.
const BEFORE: u64 = 0xa;
const FROM_PARENT: u64 = 0xaa;
const FROM_CHILD: u64 = 0xb;
/// What the vfork child adds to V.
const BORROWED: u64 = 0x100;

const EXEC_PAGES: usize = 8;
const LARGE_PAGES: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Child,
    Parent,
}

fn main(args: Args) {
    let first = match *args.words() {
        [] | ["child"] => First::Child,
        ["parent"] => First::Parent,
        // What step 6 execs.
        ["--wait-for-end-of-input"] => return wait_for_end_of_input(),
        _ => args.usage(),
    };
    // On one CPU, so that A and B take turns there.
    process::stay_on_one_cpu().or_fail("sched_setaffinity");
    let v = Pages::map(1).or_fail("mapping a page");
    parent_writes_a_new_page(v);
    println!(
        "1. A (pid {}) maps a page at V = {:#x} and writes {BEFORE:#x}.",
        process::getpid(),
        v.address(0)
    );
    share_yield_and_separate(v, first);
    exec_drops_shared_pages(&args);
    vfork_borrows(v);
    fork_of_a_large_process();
}

#[inline(never)]
fn parent_writes_a_new_page(v: Pages) {
    distinct!();
    v.write(0, BEFORE);
}

/// Steps 2 to 5.
fn share_yield_and_separate(v: Pages, first: First) {
    let conversation = Conversation::new();
    match process::fork().or_fail("fork") {
        Fork::Child => child(v, first, &conversation.child_side()),
        Fork::Parent(pid) => parent(v, first, &conversation.parent_side(), pid),
    }
}

fn parent(v: Pages, first: First, child: &Side, pid: Pid) {
    println!(
        "2. A forks B (pid {pid}). Both read {:#x} at V.",
        parent_reads_the_shared_page(v)
    );
    child.wait(); // until B has read

    child.tell();
    parent_yields();
    child.wait();
    println!("3. A and B yield to each other. Nobody touches V.");

    if first == First::Child {
        child.tell();
        child.wait(); // until B has written
        let seen = parent_reads_the_shared_page(v);
        check!(seen == BEFORE, "A sees {seen:#x} after B's write");
        println!("4. B writes {FROM_CHILD:#x} to V, which needs a copy. A still reads {seen:#x}.");
        parent_writes_the_shared_page(v);
        println!(
            "5. A, the last owner of the old page, writes {FROM_PARENT:#x} to V, which needs none."
        );
        child.tell();
    } else {
        parent_writes_the_shared_page(v);
        println!("4. A writes {FROM_PARENT:#x} to V, which needs a copy.");
        child.tell();
        child.wait(); // until B has read and written
        println!(
            "5. B still read {BEFORE:#x}, and as the last owner writes {FROM_CHILD:#x} to V, which needs none."
        );
        child.tell();
    }
    process::expect_success(pid);
    let seen = parent_reads_the_shared_page(v);
    check!(seen == FROM_PARENT, "A sees {seen:#x} at the end");
}

/// B only talks through the pipes: printing would add faults on its stack that tell nothing.
fn child(v: Pages, first: First, parent: &Side) -> ! {
    let seen = child_reads_the_shared_page(v);
    check!(seen == BEFORE, "B sees {seen:#x} after the fork");
    parent.tell();

    parent.wait();
    child_yields();
    parent.tell();

    parent.wait(); // the turn to write: first or second
    let seen = child_reads_the_shared_page(v);
    check!(
        seen == BEFORE,
        "B sees {seen:#x} before its own write, {}",
        match first {
            First::Child => "when nobody had written",
            First::Parent => "after A's write",
        }
    );
    child_writes_the_shared_page(v);
    parent.tell();

    parent.wait(); // until A is done too
    let seen = child_reads_the_shared_page(v);
    check!(seen == FROM_CHILD, "B sees {seen:#x} at the end");
    process::exit(0)
}

#[inline(never)]
fn parent_reads_the_shared_page(v: Pages) -> u64 {
    distinct!();
    v.read(0)
}

#[inline(never)]
fn child_reads_the_shared_page(v: Pages) -> u64 {
    distinct!();
    v.read(0)
}

#[inline(never)]
fn parent_writes_the_shared_page(v: Pages) {
    distinct!();
    v.write(0, FROM_PARENT);
}

#[inline(never)]
fn child_writes_the_shared_page(v: Pages) {
    distinct!();
    v.write(0, FROM_CHILD);
}

#[inline(never)]
fn parent_yields() {
    distinct!();
    for _ in 0..3 {
        process::sched_yield();
    }
}

#[inline(never)]
fn child_yields() {
    distinct!();
    for _ in 0..3 {
        process::sched_yield();
    }
}

/// Step 6. Two pipes say where the child is: `alive` closes by itself when the child execs, and the
/// new program ends when `hold` is closed.
fn exec_drops_shared_pages(args: &Args) {
    let pages = Pages::map(EXEC_PAGES).or_fail("mapping pages");
    parent_fills_pages(pages);
    let alive = file::pipe2(O_CLOEXEC).or_fail("making a pipe");
    let hold = file::pipe2(O_CLOEXEC).or_fail("making a pipe");
    let child = process::fork_child(|| child_execs(args, hold)).or_fail("fork");
    file::close(alive.writer).or_fail("closing a pipe");
    file::close(hold.reader).or_fail("closing a pipe");

    let end = file::read(alive.reader, &mut [0]).or_fail("waiting for the exec");
    check!(end == 0, "a pipe that nobody writes to had a byte");
    parent_writes_after_the_exec(pages);
    file::close(hold.writer).or_fail("closing a pipe");
    file::close(alive.reader).or_fail("closing a pipe");
    process::expect_success(child);
    pages.unmap().or_fail("unmapping pages");
    println!(
        "6. A forks B, which execs. A writes {EXEC_PAGES} pages that it had shared with B, which needs no copies."
    );
}

#[inline(never)]
fn parent_fills_pages(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, BEFORE);
    }
}

#[inline(never)]
fn child_execs(args: &Args, hold: Pipe) -> i32 {
    distinct!();
    file::dup3(hold.reader, 0, 0).or_fail("making the pipe the input");
    let errno = process::exec_self(args, &[c"--wait-for-end-of-input"]);
    user::fail!("exec of {:?}: {errno}", args.executable())
}

#[inline(never)]
fn parent_writes_after_the_exec(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, FROM_PARENT);
    }
}

fn wait_for_end_of_input() {
    let end = file::read(0, &mut [0]).or_fail("reading the input");
    check!(end == 0, "unexpected input");
}

/// Step 7. A makes the same write itself beforehand, so that page and code are there, and writable.
fn vfork_borrows(v: Pages) {
    let before = borrow_the_page(v);
    let child = process::vfork(|| {
        borrow_the_page(v);
        0
    })
    .or_fail("vfork");
    let after = parent_reads_the_shared_page(v);
    process::expect_success(child);
    check!(
        after == before + BORROWED,
        "A reads {after:#x} after the vfork child wrote {:#x}",
        before + BORROWED
    );
    println!(
        "7. A vforks B (pid {child}), which writes {after:#x} to V in A's memory. A reads {after:#x}."
    );
}

#[inline(never)]
fn borrow_the_page(v: Pages) -> u64 {
    distinct!();
    let value = v.read(0) + BORROWED;
    v.write(0, value);
    value
}

/// Step 8.
fn fork_of_a_large_process() {
    let pages = Pages::map(LARGE_PAGES).or_fail("mapping pages");
    parent_fills_pages(pages);
    let child = process::fork_child(|| {
        child_writes_every_page(pages);
        check_every_page(pages, FROM_CHILD);
        0
    })
    .or_fail("fork");
    process::expect_success(child);
    check_every_page(pages, BEFORE);
    parent_writes_every_page(pages);
    check_every_page(pages, FROM_PARENT);
    println!(
        "8. A, with {LARGE_PAGES} more pages, forks B. B writes all, which needs {LARGE_PAGES} copies. B exits. A writes all, which needs none."
    );
}

#[inline(never)]
fn child_writes_every_page(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, FROM_CHILD);
    }
}

#[inline(never)]
fn parent_writes_every_page(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, FROM_PARENT);
    }
}

fn check_every_page(pages: Pages, expected: u64) {
    for page in 0..pages.count() {
        let seen = pages.read(page);
        check!(
            seen == expected,
            "page {page} has {seen:#x}, not {expected:#x}"
        );
    }
}
