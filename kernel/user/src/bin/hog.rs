//! Touches pages until it has them all, or is killed for want of memory.
//!
//! With fewer pages than the machine has free, it succeeds. With more, a kernel kills it (SIGKILL
//! on Linux) or refuses the mapping (exit code 1), and must be as well as before afterwards.
#![no_std]
#![no_main]

use user::memory::Pages;
use user::{Args, OrFail, check, println};

user::program!(main, "usage: hog PAGES");

fn main(args: Args) {
    let words = args.words();
    let [count] = *words else { args.usage() };
    let pages = Pages::map(args.number(count)).or_fail("mapping the pages");
    touch(pages);
    for page in 0..pages.count() {
        let seen = pages.read(page);
        check!(
            seen == value(page),
            "page {page} has {seen:#x}, not {:#x}",
            value(page)
        );
    }
    println!("hog: touched {} pages", pages.count());
}

#[inline(never)]
fn touch(pages: Pages) {
    for page in 0..pages.count() {
        pages.write(page, value(page));
    }
}

fn value(page: usize) -> u64 {
    page as u64 ^ 0x5555_5555_5555_5555
}
