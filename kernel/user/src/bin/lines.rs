//! Writes shared pages at places that it names itself: a line of output for each, with the number of
//! copies and the source lines that made them, the innermost of what was inlined first. A test
//! compares them with what the tool makes of the trace.
#![no_std]
#![no_main]

use user::memory::Pages;
use user::{Args, OrFail, distinct, println, process};

user::program!(main, "usage: lines");

const PAGES: usize = 16;

fn main(args: Args) {
    if !args.words().is_empty() {
        args.usage();
    }
    let pages = Pages::map(PAGES).or_fail("mapping pages");
    for page in 0..PAGES {
        pages.write(page, 1);
    }
    let child = process::fork_child(|| {
        let mut next = 0;
        let mut take = |count: usize| {
            let part = pages.part(next, count);
            next += count;
            part
        };
        let line = straight(take(1));
        println!("1 straight:{line}");
        let [first, second] = two_on_neighbouring_lines(take(2));
        println!("1 two_on_neighbouring_lines:{first}");
        println!("1 two_on_neighbouring_lines:{second}");
        let line = looped(take(5));
        println!("5 looped:{line}");
        let [inner, outer] = outer(take(1));
        println!("1 inlined:{inner} outer:{outer}");
        let (lines, count) = (nested(take(3)), 3);
        let [innermost, middle, outermost] = lines;
        println!("{count} inlined:{innermost} twice_inlined:{middle} nested:{outermost}");
        0
    });
    process::expect_success(child.or_fail("fork"));
}

#[inline(never)]
fn straight(pages: Pages) -> u32 {
    distinct!();
    (pages.write(0, 2), line!()).1
}

#[inline(never)]
fn two_on_neighbouring_lines(pages: Pages) -> [u32; 2] {
    distinct!();
    let first = (pages.write(0, 2), line!()).1;
    let second = (pages.write(1, 2), line!()).1;
    [first, second]
}

#[inline(never)]
fn looped(pages: Pages) -> u32 {
    distinct!();
    let mut line = 0;
    for page in 0..pages.count() {
        line = (pages.write(page, 2), line!()).1;
    }
    line
}

#[inline(always)]
fn inlined(pages: Pages, page: usize) -> u32 {
    (pages.write(page, 2), line!()).1
}

#[inline(never)]
fn outer(pages: Pages) -> [u32; 2] {
    distinct!();
    [inlined(pages, 0), line!()]
}

#[inline(always)]
fn twice_inlined(pages: Pages, page: usize) -> [u32; 2] {
    [inlined(pages, page), line!()]
}

#[inline(never)]
fn nested(pages: Pages) -> [u32; 3] {
    distinct!();
    let mut lines = [0; 3];
    for page in 0..pages.count() {
        let [inner, middle] = twice_inlined(pages, page);
        lines = [inner, middle, line!() - 1];
    }
    lines
}
