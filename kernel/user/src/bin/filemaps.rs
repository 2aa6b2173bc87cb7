//! What mprotect and mincore answer, above all of mappings of files, a line per case. Run on Linux and
//! here, it must print the same.
#![no_std]
#![no_main]

use core::ffi::CStr;
use core::fmt::Display;
use user::file::{self, Fd};
use user::linux::*;
use user::memory::{self, PAGE_SIZE};
use user::process::{self, Status};
use user::{Args, OrFail, Result, println, syscall, text::Text};

user::program!(main, "usage: filemaps");

/// Pages of the file.
const PAGES: usize = 4;
const LEN: usize = PAGES * PAGE_SIZE;
const RW: u32 = PROT_READ | PROT_WRITE;

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    let name = Text::new(format_args!("/tmp/filemaps-{}", process::getpid()));
    let name = name.as_c_str();
    let writer = open(name, O_RDWR | O_CREAT | O_EXCL);
    for _ in 0..PAGES {
        file::write_all(writer, &[b'f'; PAGE_SIZE]).or_fail("write");
    }
    let reader = open(name, O_RDONLY);
    rights(reader, writer);
    devices();
    whole_ranges(reader, writer);
    changed_mappings(reader);
    residence(reader);
    residence_errors(reader);
    let at = name.as_ptr() as usize;
    call(__NR_unlinkat, [AT_FDCWD as usize, at, 0]).or_fail("unlink");
}

fn open(path: &CStr, flags: u32) -> Fd {
    let at = path.as_ptr() as usize;
    let opened = call(__NR_openat, [AT_FDCWD as usize, at, flags as usize, 0o600]);
    opened.or_fail("open") as Fd
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or mappings where no Rust object lies.
    unsafe { syscall(number, arguments) }
}

fn show(case: impl Display, result: Result<usize>) {
    match result {
        Ok(value) => println!("{case}: {value}"),
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn map_at(address: usize, prot: u32, flags: u32, fd: Fd) -> Result<usize> {
    // SAFETY: with MAP_FIXED it goes over mappings that the callers have made.
    unsafe { memory::mmap(address, LEN, prot, flags, fd, 0) }
}

#[track_caller]
fn map(prot: u32, flags: u32, fd: Fd) -> usize {
    map_at(0, prot, flags, fd).or_fail("mmap")
}

fn protect(start: usize, len: usize, prot: u32) -> Result<usize> {
    call(__NR_mprotect, [start, len, prot as usize])
}

fn unmap(start: usize, len: usize) {
    call(__NR_munmap, [start, len]).or_fail("munmap");
}

/// How a write to an address ends: in a child.
fn write_to(case: impl Display, address: usize) {
    let child = process::fork_child(|| {
        // SAFETY: no Rust object lies there; that it may be SIGSEGV is what is tried.
        unsafe { (address as *mut u8).write_volatile(b'w') };
        0
    });
    let status = process::wait(child.or_fail("fork")).or_fail("wait");
    match status {
        Status::Exited(0) => println!("{case}: written"),
        status => println!("{case}: {status:?}"),
    }
}

/// What a file was opened for decides what mprotect may do with a shared mapping of it.
fn rights(reader: Fd, writer: Fd) {
    for (opened, fd) in [("to read", reader), ("to read and write", writer)] {
        for (kind, flags) in [("shared", MAP_SHARED), ("private", MAP_PRIVATE)] {
            show(
                format_args!("mapping {kind}, to write, a file opened {opened}"),
                map_at(0, RW, flags, fd).map(|at| {
                    unmap(at, LEN);
                    0
                }),
            );
            let at = map(PROT_READ, flags, fd);
            for (change, prot) in [
                ("none", PROT_NONE),
                ("write", RW),
                ("write only", PROT_WRITE),
                ("read", PROT_READ),
                ("exec", PROT_READ | PROT_EXEC),
            ] {
                show(
                    format_args!("{kind}, opened {opened}: mprotect {change}"),
                    protect(at, LEN, prot),
                );
            }
            let _ = protect(at, LEN, RW);
            write_to(format_args!("{kind}, opened {opened}: a write"), at);
            unmap(at, LEN);
        }
    }
}

/// /dev/zero is no file, and memory for all that.
fn devices() {
    for (opened, flags) in [("to read", O_RDONLY), ("to read and write", O_RDWR)] {
        let fd = open(c"/dev/zero", flags);
        for (kind, flags) in [("shared", MAP_SHARED), ("private", MAP_PRIVATE)] {
            let at = map(PROT_READ, flags, fd);
            show(
                format_args!("/dev/zero {kind}, opened {opened}: mprotect"),
                protect(at, LEN, RW),
            );
            unmap(at, LEN);
        }
        file::close(fd).or_fail("close");
    }
}

/// mprotect does what comes before what stops it.
fn whole_ranges(reader: Fd, writer: Fd) {
    let at = map(PROT_READ, MAP_SHARED, writer);
    let half = at + LEN / 2;
    let fixed = |fd| map_at(half, PROT_READ, MAP_SHARED | MAP_FIXED, fd).or_fail("mmap");
    fixed(reader);
    show(
        "a file that must not be written follows",
        protect(at, LEN, RW),
    );
    write_to("before it", at);
    write_to("in it", half);
    unmap(half + PAGE_SIZE, PAGE_SIZE);
    show(
        "a hole follows",
        protect(at, half - at + PAGE_SIZE, PROT_READ),
    );
    show("both follow", protect(at, LEN, RW));
    show("it comes first", protect(half, PAGE_SIZE * 2, RW));
    show(
        "the hole comes first",
        protect(half + PAGE_SIZE, PAGE_SIZE, RW),
    );
    unmap(at, LEN * 3 / 2);
}

/// Nor may it be written after it was forked, split or moved.
fn changed_mappings(reader: Fd) {
    let at = map(PROT_READ, MAP_SHARED, reader);
    let child = process::fork_child(|| {
        show("in a child", protect(at, LEN, RW));
        0
    });
    process::expect_success(child.or_fail("fork"));
    show("a part", protect(at + PAGE_SIZE, PAGE_SIZE, RW));
    show("a part to nothing", protect(at + PAGE_SIZE, PAGE_SIZE, 0));
    show("that part", protect(at + PAGE_SIZE, PAGE_SIZE, RW));
    show("and back", protect(at + PAGE_SIZE, PAGE_SIZE, PROT_READ));
    let moved = call(__NR_mremap, [at, LEN, 2 * LEN, MREMAP_MAYMOVE as usize, 0]).or_fail("mremap");
    show("moved", protect(moved, PAGE_SIZE, RW));
    show("what it grew by", protect(moved + LEN, LEN, RW));
    unmap(moved, 2 * LEN);
}

/// What mincore says of so many pages, as digits.
fn in_core(case: impl Display, start: usize, pages: usize) {
    // Only the lowest bit means anything.
    let mut bytes = [0xaau8; 16];
    let to = bytes.as_mut_ptr() as usize;
    let result = call(__NR_mincore, [start, pages * PAGE_SIZE, to]);
    let digits = bytes.map(|byte| match byte {
        0xaa => b'-',
        byte => b'0' + (byte & 1),
    });
    let digits = core::str::from_utf8(&digits).unwrap_or_default();
    show(format_args!("mincore of {case}: {digits}"), result);
}

fn touch(address: usize) {
    // SAFETY: in a mapping of the callers', which may be written.
    unsafe { (address as *mut u8).write_volatile(1) };
}

fn residence(reader: Fd) {
    let at = map(RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    in_core("new memory", at, PAGES);
    touch(at + PAGE_SIZE);
    in_core("memory written in its second page", at, PAGES);
    // SAFETY: as in `touch`.
    unsafe { ((at + 2 * PAGE_SIZE) as *const u8).read_volatile() };
    in_core("memory read in its third", at, PAGES);
    protect(at + PAGE_SIZE, PAGE_SIZE, PROT_NONE).or_fail("mprotect");
    in_core("memory that is inaccessible in part", at, PAGES);
    let child = process::fork_child(|| {
        in_core("memory of a child, likewise", at, PAGES);
        0
    });
    process::expect_success(child.or_fail("fork"));
    protect(at, LEN, RW).or_fail("mprotect");
    call(__NR_madvise, [at, LEN, MADV_DONTNEED as usize]).or_fail("madvise");
    in_core("what was dropped", at, PAGES);
    unmap(at, LEN);

    let at = map(RW, MAP_SHARED | MAP_ANONYMOUS, -1);
    in_core("new shared memory", at, PAGES);
    touch(at + 3 * PAGE_SIZE);
    in_core("shared memory written in its last page", at, PAGES);
    call(__NR_madvise, [at, LEN, MADV_DONTNEED as usize]).or_fail("madvise");
    in_core("the same, dropped here", at, PAGES);
    unmap(at, LEN);

    let at = map(PROT_READ, MAP_SHARED, reader);
    in_core("a file that was written", at, PAGES);
    unmap(at, LEN);
    let at = map(RW, MAP_PRIVATE, reader);
    touch(at);
    in_core("a private mapping of it", at, PAGES);
    unmap(at, LEN);
    let longer = call(__NR_mmap, [0, 2 * LEN, 1, 2, reader as usize, 0]).or_fail("mmap");
    in_core("more than the file has", longer, 2 * PAGES);
    unmap(longer, 2 * LEN);
}

fn residence_errors(reader: Fd) {
    let at = map(PROT_READ, MAP_SHARED, reader);
    in_core("nothing", at, 0);
    in_core("half a page", at + 1, 1);
    unmap(at + 2 * PAGE_SIZE, PAGE_SIZE);
    in_core("a hole", at + 2 * PAGE_SIZE, 1);
    in_core("what a hole follows", at, PAGES);
    in_core("what ends at a hole", at, 2);
    let mut bytes = [0u8; 4];
    let to = bytes.as_mut_ptr() as usize;
    show("a byte of a page", call(__NR_mincore, [at, 1, to]));
    show("to nowhere", call(__NR_mincore, [at, PAGE_SIZE, 0]));
    show("of nothing, to nowhere", call(__NR_mincore, [at, 0, 0]));
    show(
        "of the end of all",
        call(__NR_mincore, [usize::MAX - PAGE_SIZE + 1, PAGE_SIZE, to]),
    );
    show(
        "of too much",
        call(__NR_mincore, [at, usize::MAX - PAGE_SIZE, to]),
    );
    unmap(at, LEN);
}
