//! Memory of every kind in two processes, and what /proc/self/smaps says of it in each: for a test that
//! compares it with the trace at that moment.
//!
//! Before smaps is read there is a system call that does not exist, number 1000, and behind it there is
//! 1001: the trace tells of both.
#![no_std]
#![no_main]

use user::file::{self, Pipe};
use user::linux::*;
use user::memory::{PAGE_SIZE, Pages};
use user::process;
use user::{Args, Errno, OrFail, Rng, check, print, println, syscall};

user::program!(
    main,
    "usage: smaps SEED\n\nWhich pages are touched, by whom, and how is a matter of the seed."
);

/// The first of the two numbers.
const MARK: u32 = 1000;
/// Pages for the text.
const ROOM: usize = 16;

/// What is in memory.
#[derive(Clone, Copy)]
struct All {
    private: Pages,
    shared: Pages,
    file: Pages,
    untouched: Pages,
    text: Pages,
}

fn main(args: Args) {
    let [seed] = *args.words() else { args.usage() };
    let seed: u64 = args.number(seed);
    let mut rng = Rng::with_seed(seed);
    let program = file::open(args.executable(), O_RDONLY).or_fail("open");
    let all = All {
        private: Pages::map(600).or_fail("mapping private pages"),
        shared: Pages::map_shared(40).or_fail("mapping shared pages"),
        file: Pages::map_file(program, 4).or_fail("mapping a file"),
        untouched: Pages::map(8).or_fail("mapping pages"),
        text: Pages::map(ROOM).or_fail("mapping pages"),
    };
    file::close(program).or_fail("close");
    touch(&mut rng, all, 200);
    let told = file::pipe2(0).or_fail("pipe");
    let answer = file::pipe2(0).or_fail("pipe");
    let child = process::fork_child(|| {
        let mut rng = Rng::with_seed(seed + 1);
        touch(&mut rng, all, 100);
        all.untouched.part(2, 3).unmap().or_fail("munmap");
        tell(answer);
        wait(told);
        show("the child", all);
        0
    });
    let child = child.or_fail("fork");
    wait(answer);
    touch(&mut rng, all, 50);
    show("the parent", all);
    tell(told);
    process::expect_success(child);
    show("the parent, alone", all);
}

/// Reads and writes some pages.
fn touch(rng: &mut Rng, all: All, times: usize) {
    for pages in [all.private, all.shared, all.file] {
        for _ in 0..times {
            let page = rng.usize(..pages.count());
            let writes = pages.count() != all.file.count() && rng.bool();
            if writes {
                pages.write(page, rng.u64(..));
            } else {
                pages.read(page);
            }
        }
    }
    for page in 0..ROOM {
        all.text.write(page, 1);
    }
}

fn tell(pipe: Pipe) {
    file::write_all(pipe.writer, b"x").or_fail("write");
}

fn wait(pipe: Pipe) {
    let mut byte = [0];
    let count = file::read(pipe.reader, &mut byte).or_fail("read");
    check!(count == 1, "the other one is gone");
}

fn mark(number: u32) {
    // SAFETY: there is no such call.
    let result = unsafe { syscall(number, []) };
    check!(result == Err(Errno::ENOSYS), "call {number}: {result:?}");
}

/// Prints smaps, as it was when nothing else was done.
fn show(who: &str, all: All) {
    let fd = file::open(c"/proc/self/smaps", O_RDONLY).or_fail("open");
    let start = all.text.address(0);
    let (mut used, size) = (0, ROOM * PAGE_SIZE);
    mark(MARK);
    loop {
        // SAFETY: no Rust object lies in these pages.
        let count = unsafe { file::read_at(fd, start + used, size - used) }.or_fail("read");
        if count == 0 {
            break;
        }
        used += count;
    }
    mark(MARK + 1);
    file::close(fd).or_fail("close");
    println!("smaps of {who}");
    // SAFETY: `used` bytes that were read, and that nobody writes until they have been printed.
    let text = unsafe { core::slice::from_raw_parts(start as *const u8, used) };
    print!("{}", core::str::from_utf8(text).unwrap_or("no text"));
}
