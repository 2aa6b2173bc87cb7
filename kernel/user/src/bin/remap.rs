//! mremap, madvise and what else changes mappings in part, alone and together with fork: one
//! function for each case.
//!
//! Sizes are beyond 2 MiB where a fork shares whole tables, and places are chosen so that tables
//! move whole, and page by page. `--user-mode` leaves out what `qemu-aarch64` does otherwise than
//! Linux: it forgets what MREMAP_DONTUNMAP leaves mapped, and stumbles over holes.
#![no_std]
#![no_main]

use user::file;
use user::linux::{
    __NR_madvise, __NR_mincore, __NR_mremap, MADV_DONTNEED, MADV_FREE, MADV_POPULATE_READ,
    MADV_POPULATE_WRITE, MAP_ANONYMOUS, MAP_FIXED, MAP_POPULATE, MAP_PRIVATE, MREMAP_DONTUNMAP,
    MREMAP_FIXED, MREMAP_MAYMOVE, PROT_NONE, PROT_READ, PROT_WRITE, SIGSEGV,
};
use user::memory::{self, PAGE_SIZE, Pages};
use user::process::{self, Fork, Status};
use user::sync::Conversation;
use user::{Args, Errno, OrFail, Result, check, println, syscall};

user::program!(main, "usage: remap [--user-mode]");

const RW: u32 = PROT_READ | PROT_WRITE;
/// Pages that a last-level table maps.
const TABLE: usize = 512;
/// More than one table, and not a whole number of them.
const MANY: usize = 2 * TABLE + 100;

/// What a case shows, and the function that shows it.
type Case = (&'static str, fn(Args));

fn main(args: Args) {
    if !matches!(*args.words(), [] | ["--user-mode"]) {
        args.usage();
    }
    let cases: [Case; 10] = [
        ("mremap shrinks and grows in place", shrinks_and_grows),
        ("mremap moves to where there is room", moves),
        ("mremap moves only in one process", moves_after_fork),
        ("MREMAP_FIXED replaces", fixed_replaces),
        (
            "MADV_DONTNEED drops pages in one process",
            discard_after_fork,
        ),
        ("MADV_DONTNEED and mprotect over a hole", over_a_hole),
        ("MADV_FREE leaves old contents or none", free),
        ("MADV_POPULATE_WRITE copies at once", populate_after_fork),
        ("MAP_POPULATE and MADV_POPULATE_READ read", populate),
        (
            "read(2) against MADV_DONTNEED never changes the file",
            dirty_cow,
        ),
    ];
    for (name, case) in cases {
        case(args);
        println!("remap: {name}");
    }
    if !user_mode(args) {
        keeps_the_old_range();
        println!("remap: MREMAP_DONTUNMAP leaves zeros");
    }
}

fn user_mode(args: Args) -> bool {
    !args.words().is_empty()
}

fn mremap(pages: Pages, count: usize, flags: u32, to: usize) -> Result<Pages> {
    let (start, len) = (pages.address(0), pages.count() * PAGE_SIZE);
    let arguments = [start, len, count * PAGE_SIZE, flags as usize, to];
    // SAFETY: no Rust object lies in the pages, nor where they go.
    unsafe {
        let start = syscall(__NR_mremap, arguments)?;
        Ok(Pages::at(start, count))
    }
}

fn madvise(pages: Pages, advice: u32) -> Result<()> {
    let arguments = [pages.address(0), pages.count() * PAGE_SIZE, advice as usize];
    // SAFETY: no Rust object lies in the pages.
    unsafe { syscall(__NR_madvise, arguments) }.map(drop)
}

/// `count` pages with room for as many behind them, at a multiple of 2 MiB.
fn written(count: usize) -> Pages {
    let room = Pages::map_with(2 * count + TABLE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS)
        .or_fail("mapping pages");
    let first = room.address(0).next_multiple_of(TABLE * PAGE_SIZE);
    room.unmap().or_fail("munmap");
    // SAFETY: replaces nothing: it was unmapped just now.
    let pages = unsafe {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        memory::mmap(first, count * PAGE_SIZE, RW, flags, -1, 0).or_fail("mapping pages");
        Pages::at(first, count)
    };
    for page in 0..count {
        pages.write(page, page as u64 + 1);
    }
    pages
}

/// Page `n` holds n + 1 + `first`.
#[track_caller]
fn expect_all(pages: Pages, first: usize) {
    for page in 0..pages.count() {
        expect(pages, page, (first + page) as u64 + 1);
    }
}

#[track_caller]
fn expect(pages: Pages, page: usize, expected: u64) {
    let seen = pages.read(page);
    check!(
        seen == expected,
        "page {page} has {seen:#x}, not {expected:#x}"
    );
}

/// `access`, in a child, must be killed by SIGSEGV.
#[track_caller]
fn must_fault(access: impl FnOnce()) {
    let child = process::fork_child(|| {
        access();
        0
    });
    process::expect(child.or_fail("fork"), Status::Killed(SIGSEGV));
}

/// Runs `child` while the parent waits, then `parent`, and then `check` in both.
fn in_both(child: impl FnOnce() -> Pages, parent: impl FnOnce() -> Pages, check: fn(Pages, &str)) {
    let conversation = Conversation::new();
    match process::fork().or_fail("fork") {
        Fork::Child => {
            let side = conversation.child_side();
            let pages = child();
            side.tell();
            side.wait();
            check(pages, "child");
            process::exit(0)
        }
        Fork::Parent(pid) => {
            let side = conversation.parent_side();
            side.wait();
            let pages = parent();
            side.tell();
            process::expect_success(pid);
            check(pages, "parent");
            side.close();
            pages.unmap().or_fail("munmap");
        }
    }
}

fn shrinks_and_grows(_: Args) {
    let pages = written(MANY);
    let fewer = mremap(pages, 3, 0, 0).or_fail("shrinking");
    check!(fewer.address(0) == pages.address(0), "it moved");
    must_fault(|| {
        pages.read(3);
    });
    let more = mremap(fewer, 6, 0, 0).or_fail("growing");
    check!(more.address(0) == pages.address(0), "it moved");
    expect_all(fewer, 0);
    for page in 3..6 {
        expect(more, page, 0);
        more.write(page, 9);
    }
    let part = mremap(more.part(1, 2), 4, 0, 0);
    check!(
        part.is_err_and(|errno| errno == Errno::ENOMEM),
        "grew into a mapping"
    );
    more.unmap().or_fail("munmap");
}

fn moves(_: Args) {
    let pages = written(MANY);
    // Something is behind it.
    let (front, rest) = (pages.part(0, TABLE + 1), pages.part(TABLE + 1, TABLE + 99));
    let moved = mremap(front, TABLE + 9, MREMAP_MAYMOVE, 0).or_fail("moving");
    check!(moved.address(0) != pages.address(0), "it stayed");
    expect_all(moved.part(0, TABLE + 1), 0);
    expect(moved, TABLE + 1, 0);
    expect_all(rest, TABLE + 1);
    must_fault(|| {
        front.read(TABLE);
    });
    moved.unmap().or_fail("munmap");
    rest.unmap().or_fail("munmap");
}

/// Whole tables, which move as they are, and with an offset, page by page.
fn moves_after_fork(_: Args) {
    for shift in [0, 7] {
        let pages = written(MANY);
        let move_all = move || {
            let room = written(MANY + TABLE);
            let to = room.address(shift);
            mremap(pages, MANY, MREMAP_MAYMOVE | MREMAP_FIXED, to).or_fail("moving")
        };
        let child = || {
            let moved = move_all();
            must_fault(|| {
                pages.read(TABLE);
            });
            expect_all(moved, 0);
            moved.write(TABLE, 0xc);
            moved
        };
        let parent = || {
            expect_all(pages, 0);
            pages.write(TABLE, 0xa);
            move_all()
        };
        in_both(child, parent, |moved, who| {
            expect_all(moved.part(0, TABLE), 0);
            expect(moved, TABLE, if who == "child" { 0xc } else { 0xa });
            expect_all(moved.part(TABLE + 1, MANY - TABLE - 1), TABLE + 1);
        });
    }
}

fn fixed_replaces(_: Args) {
    let (from, to) = (written(4), written(8));
    let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    let moved = mremap(from, 2, flags, to.address(3)).or_fail("moving");
    expect_all(to.part(0, 3), 0);
    expect_all(moved, 0);
    expect_all(to.part(5, 3), 5);
    for page in 0..4 {
        must_fault(|| {
            from.read(page);
        });
    }
    let onto_itself = mremap(to, 8, flags, to.address(1));
    check!(
        onto_itself.is_err_and(|errno| errno == Errno::EINVAL),
        "moved onto itself"
    );
    let hole = mremap(from, 4, flags, to.address(0));
    check!(
        hole.is_err_and(|errno| errno == Errno::EFAULT),
        "moved a hole"
    );
    let missing = mremap(to, 8, MREMAP_FIXED, from.address(0));
    check!(
        missing.is_err_and(|errno| errno == Errno::EINVAL),
        "MREMAP_FIXED without MREMAP_MAYMOVE"
    );
}

/// All of a table, and part of one.
fn discard_after_fork(_: Args) {
    let pages = written(MANY);
    let child = || {
        madvise(pages.part(0, TABLE + 5), MADV_DONTNEED).or_fail("madvise");
        for page in [0, TABLE - 1, TABLE + 4] {
            expect(pages, page, 0);
        }
        pages.write(1, 0xc);
        pages
    };
    let parent = || {
        expect_all(pages, 0);
        pages.write(1, 0xa);
        pages
    };
    in_both(child, parent, |pages, who| {
        expect(pages, 0, u64::from(who == "parent"));
        expect(pages, 1, if who == "child" { 0xc } else { 0xa });
        expect_all(pages.part(TABLE + 5, TABLE), TABLE + 5);
    });
}

fn over_a_hole(args: Args) {
    if user_mode(args) {
        return;
    }
    let pages = written(3);
    pages.part(1, 1).unmap().or_fail("munmap");
    let discarded = madvise(pages, MADV_DONTNEED);
    check!(
        discarded == Err(Errno::ENOMEM),
        "madvise over a hole: {discarded:?}"
    );
    for page in [0, 2] {
        expect(pages, page, 0);
        pages.write(page, 5);
    }
    let protected = pages.protect(PROT_READ);
    check!(
        protected == Err(Errno::ENOMEM),
        "mprotect over a hole: {protected:?}"
    );
    // It came as far as the hole.
    must_fault(|| pages.write(0, 6));
    pages.write(2, 6);
}

/// What is populated keeps its contents, and is each process's own. `qemu-aarch64` knows the advice
/// only where its host does, and does not see what its own pages lack.
fn populate_after_fork(args: Args) {
    if user_mode(args) {
        return;
    }
    let pages = written(MANY);
    let child = || {
        madvise(pages.part(1, TABLE + 5), MADV_POPULATE_WRITE).or_fail("MADV_POPULATE_WRITE");
        expect_all(pages, 0);
        pages.write(1, 0xc);
        pages
    };
    let parent = || {
        madvise(pages, MADV_POPULATE_READ).or_fail("MADV_POPULATE_READ");
        expect_all(pages, 0);
        pages.write(1, 0xa);
        pages
    };
    in_both(child, parent, |pages, who| {
        expect(pages, 1, if who == "child" { 0xc } else { 0xa });
        expect_all(pages.part(2, MANY - 2), 2);
    });
}

/// How many pages are there without being accessed (mincore).
fn there(pages: Pages) -> usize {
    let mut bytes = [0u8; TABLE + 3];
    check!(pages.count() <= bytes.len(), "too many pages");
    let (start, len) = (pages.address(0), pages.count() * PAGE_SIZE);
    // SAFETY: a byte per page.
    unsafe { syscall(__NR_mincore, [start, len, bytes.as_mut_ptr() as usize]) }.or_fail("mincore");
    bytes.iter().filter(|byte| **byte & 1 == 1).count()
}

fn populate(args: Args) {
    if user_mode(args) {
        return;
    }
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
    let pages = Pages::map_with(TABLE + 3, RW, flags).or_fail("mmap");
    let says = |pages, read, write| {
        let said = [MADV_POPULATE_READ, MADV_POPULATE_WRITE].map(|advice| madvise(pages, advice));
        check!(said == [read, write], "populate says {said:?}");
    };
    check!(there(pages) == TABLE + 3, "{} are there", there(pages));
    for page in [0, TABLE, TABLE + 2] {
        expect(pages, page, 0);
    }
    for advice in [MADV_POPULATE_READ, MADV_POPULATE_WRITE] {
        let fresh = Pages::map(8).or_fail("mmap");
        check!(there(fresh) == 0, "{} are there", there(fresh));
        madvise(fresh.part(1, 6), advice).or_fail("populating");
        check!(there(fresh) == 6, "{} are there", there(fresh));
        fresh.unmap().or_fail("munmap");
    }
    says(pages, Ok(()), Ok(()));
    pages.part(1, 1).protect(PROT_READ).or_fail("mprotect");
    says(pages, Ok(()), Err(Errno::EINVAL));
    pages.part(1, 1).protect(PROT_NONE).or_fail("mprotect");
    says(pages, Err(Errno::EINVAL), Err(Errno::EINVAL));
    pages.part(1, 1).unmap().or_fail("munmap");
    says(pages, Err(Errno::ENOMEM), Err(Errno::ENOMEM));
    says(pages.part(2, 0), Ok(()), Ok(()));
    says(pages.part(2, TABLE), Ok(()), Ok(()));
    let file = file::open(args.executable(), file::O_RDONLY).or_fail("opening this program's file");
    let longer = Pages::map_file(file, 8 * TABLE).or_fail("mapping more than it has");
    says(longer.part(0, 1), Ok(()), Err(Errno::EINVAL));
    says(longer, Err(Errno::EFAULT), Err(Errno::EINVAL));
}

fn free(_: Args) {
    let pages = written(4);
    madvise(pages, MADV_FREE).or_fail("madvise");
    for page in 0..4 {
        let seen = pages.read(page);
        check!(
            seen == 0 || seen == page as u64 + 1,
            "page {page} has {seen:#x}"
        );
        pages.write(page, 7);
        expect(pages, page, 7);
    }
}

/// CVE-2016-5195: the kernel writes a private page of a file that it cannot write, and the page is
/// dropped all the time.
fn dirty_cow(args: Args) {
    let fd = file::open(args.executable(), file::O_RDONLY).or_fail("opening this program's file");
    let map = || {
        // SAFETY: no address is asked for, and no Rust object lies there.
        unsafe {
            let start = memory::mmap(0, PAGE_SIZE, RW, MAP_PRIVATE, fd, 0);
            Pages::at(start.or_fail("mapping a file"), 1)
        }
    };
    let (page, other) = (map(), map());
    let original = other.read(0);
    let pipe = file::pipe2(0).or_fail("making a pipe");
    for round in 0..50u64 {
        file::write_all(pipe.writer, &(!round).to_ne_bytes()).or_fail("writing to the pipe");
        if round % 2 == 0 {
            madvise(page, MADV_DONTNEED).or_fail("madvise");
        }
        // SAFETY: the page is ours, and 8 bytes lie in it.
        let got = unsafe { file::read_at(pipe.reader, page.address(0), 8) };
        check!(got == Ok(8), "read(2) into the page: {got:?}");
        expect(page, 0, !round);
        madvise(page, MADV_DONTNEED).or_fail("madvise");
        expect(page, 0, original);
        expect(other, 0, original);
    }
}

fn keeps_the_old_range() {
    let (from, to) = (written(4), written(4));
    let flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    let moved = mremap(from, 4, flags, to.address(0)).or_fail("moving");
    expect_all(moved, 0);
    for page in 0..4 {
        expect(from, page, 0);
        from.write(page, 3);
    }
    expect_all(moved, 0);
}
