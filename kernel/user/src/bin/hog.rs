//! Touches pages until it has them all, or is killed for want of memory.
//!
//! With fewer pages than the machine has free, it succeeds. With more, a kernel kills it (SIGKILL
//! on Linux) or refuses the mapping (exit code 1), and must be as well as before afterwards.
//! With a file, as many pages of that are mapped and read first, and let go again: what the kernel
//! keeps of them it must give back.
#![no_std]
#![no_main]

use core::ffi::CStr;
use user::memory::Pages;
use user::{Args, OrFail, check, file, println};

user::program!(main, "usage: hog PAGES [FILE FILE_PAGES]");

fn main(args: Args) {
    let words = args.words();
    let count = match *words {
        [count] => count,
        [count, _, pages] => {
            let Some(path) = args.argv.tail().tail().first() else {
                args.usage()
            };
            read_mapped(path, args.number(pages));
            count
        }
        _ => args.usage(),
    };
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

fn read_mapped(path: &CStr, count: usize) {
    let fd = file::open(path, file::O_RDONLY).or_fail("opening the file");
    let pages = Pages::map_file(fd, count).or_fail("mapping the file");
    for page in 0..count {
        core::hint::black_box(pages.read(page));
    }
    pages.unmap().or_fail("unmapping the file");
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
