//! Measures page faults: one write to each of many pages, in a loop of a few instructions.
//!
//! `copy`: a child writes pages that its parent shares (copy-on-write). `reuse`: a parent writes
//! the pages after its child has ended (last owner). `zero`: first writes to fresh pages. The time
//! is the loop's alone; on an emulator it counts instructions rather than time, so compare only
//! within one run.
#![no_std]
#![no_main]

use user::memory::Pages;
use user::{Args, OrFail, check, distinct, println, process, time};

user::program!(
    main,
    "usage: sweep [PAGES [copy|reuse|zero]]   (default: 4096 copy)"
);

fn main(args: Args) {
    let words = args.words();
    let count = words.first().map_or(4096, |word| args.number(word));
    match *words {
        [] | [_] | [_, "copy"] => copy(touched(count)),
        [_, "reuse"] => reuse(touched(count)),
        [_, "zero"] => zero(Pages::map(count).or_fail("mapping the pages")),
        _ => args.usage(),
    }
}

fn touched(count: usize) -> Pages {
    let pages = Pages::map(count).or_fail("mapping the pages");
    parent_touches_every_page(pages);
    pages
}

fn copy(pages: Pages) {
    let child = process::fork_child(|| {
        report("copy", pages, measure(|| child_writes_every_page(pages)));
        0
    });
    process::expect_success(child.or_fail("fork"));
    check_all(pages, 1);
}

fn reuse(pages: Pages) {
    let child = process::fork_child(|| 0).or_fail("fork");
    process::expect_success(child);
    report("reuse", pages, measure(|| parent_writes_every_page(pages)));
    check_all(pages, 2);
}

fn zero(pages: Pages) {
    report("zero", pages, measure(|| first_writes_to_every_page(pages)));
    check_all(pages, 2);
}

/// Nanoseconds that `work` takes.
fn measure(work: impl FnOnce()) -> u64 {
    let start = time::now().or_fail("clock_gettime");
    work();
    time::now().or_fail("clock_gettime") - start
}

fn report(what: &str, pages: Pages, nanoseconds: u64) {
    let count = pages.count() as u64;
    println!(
        "{what}: {count} pages, {nanoseconds} ns, {} ns a page",
        nanoseconds / count.max(1)
    );
}

fn check_all(pages: Pages, expected: u64) {
    for page in 0..pages.count() {
        let seen = pages.read(page);
        check!(seen == expected, "page {page} has {seen}, not {expected}");
    }
}

#[inline(never)]
fn parent_touches_every_page(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, 1);
    }
}

#[inline(never)]
fn child_writes_every_page(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, 2);
    }
}

#[inline(never)]
fn parent_writes_every_page(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, 2);
    }
}

#[inline(never)]
fn first_writes_to_every_page(pages: Pages) {
    distinct!();
    for page in 0..pages.count() {
        pages.write(page, 2);
    }
}
