//! mmap, munmap, mprotect and brk, alone and together with fork: one function for each case.
//!
//! Where an access must end in SIGSEGV, a child makes it.
#![no_std]
#![no_main]

use user::file;
use user::linux::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, SIGSEGV,
};
use user::memory::{self, PAGE_SIZE, Pages, WORDS};
use user::process::{self, Fork, Status};
use user::sync::Conversation;
use user::{Args, Errno, OrFail, check, println};

user::program!(main, "usage: mapping");

const RW: u32 = PROT_READ | PROT_WRITE;

/// What a case shows, and the function that shows it.
type Case = (&'static str, fn(Args));

fn main(args: Args) {
    if !args.words().is_empty() {
        args.usage();
    }
    let cases: [Case; 17] = [
        ("new pages are zero, read first or not", new_pages_are_zero),
        ("a read-only page refuses writes", read_only_refuses_writes),
        (
            "PROT_NONE refuses everything and keeps the contents",
            none_refuses_everything,
        ),
        (
            "munmap in the middle leaves the neighbours",
            unmap_in_the_middle,
        ),
        ("munmap of a hole succeeds", unmap_of_a_hole),
        ("mprotect across a hole fails", protect_across_a_hole),
        ("MAP_FIXED replaces", fixed_replaces),
        (
            "MAP_FIXED after fork replaces in one process",
            fixed_after_fork,
        ),
        (
            "shared memory stays shared across fork",
            shared_stays_shared,
        ),
        ("shared memory goes with its last mapping", shared_unmapped),
        (
            "a mapping is shared, or not, before it is touched",
            sharing_before_the_first_touch,
        ),
        (
            "munmap after fork leaves the other process",
            unmap_after_fork,
        ),
        (
            "mprotect RO, then RW, after fork keeps both apart",
            protect_after_fork,
        ),
        (
            "a read-only page made writable after fork is not shared",
            writable_after_fork,
        ),
        (
            "read(2) into a shared page keeps both apart",
            kernel_write_after_fork,
        ),
        ("the heap grows, shrinks and grows again, zeroed", heap),
        (
            "a private file mapping does not write to the file",
            private_file,
        ),
    ];
    for (name, case) in cases {
        case(args);
        println!("mapping: {name}");
    }
    statics();
    println!("mapping: statics are initialised, and private after fork");
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

/// Runs `child` and `parent` one after the other while both processes are alive, then `check` in
/// both.
fn in_both(child: impl FnOnce(), parent: impl FnOnce(), check: impl Fn(&str)) {
    let conversation = Conversation::new();
    match process::fork().or_fail("fork") {
        Fork::Child => {
            let side = conversation.child_side();
            child();
            side.tell();
            side.wait();
            check("child");
            process::exit(0)
        }
        Fork::Parent(pid) => {
            let side = conversation.parent_side();
            side.wait();
            parent();
            side.tell();
            process::expect_success(pid);
            check("parent");
            side.close();
        }
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

/// For `in_both`: the child must see one value, the parent another.
fn expect_apart(pages: Pages, child: u64, parent: u64) -> impl Fn(&str) {
    move |who| {
        let expected = if who == "child" { child } else { parent };
        for page in 0..pages.count() {
            let seen = pages.read(page);
            check!(
                seen == expected,
                "page {page} has {seen:#x} in the {who}, not {expected:#x}"
            );
        }
    }
}

fn map(count: usize) -> Pages {
    Pages::map(count).or_fail("mapping pages")
}

/// Pages that are written, so that a fork shares them.
fn written(count: usize, value: u64) -> Pages {
    let pages = map(count);
    for page in 0..count {
        pages.write(page, value);
    }
    pages
}

fn map_fixed(pages: Pages, prot: u32) {
    // SAFETY: replaces pages that hold no Rust object.
    let mapped = unsafe {
        let len = pages.count() * PAGE_SIZE;
        memory::mmap(
            pages.address(0),
            len,
            prot,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
            -1,
            0,
        )
    };
    let mapped = mapped.or_fail("mmap with MAP_FIXED");
    check!(
        mapped == pages.address(0),
        "MAP_FIXED gave {mapped:#x} instead of {:#x}",
        pages.address(0)
    );
}

fn new_pages_are_zero(_: Args) {
    let pages = map(4);
    for page in 0..4 {
        // Two of the four are written first: their frames come zeroed, not by way of the zero page.
        if page % 2 == 0 {
            pages.write_word(page, WORDS - 1, 1);
        }
        for word in 0..WORDS - 1 {
            check!(
                pages.read_word(page, word) == 0,
                "word {word} of new page {page} is not zero"
            );
        }
        pages.write(page, 1);
        expect(pages, page, 1);
    }
    pages.unmap().or_fail("munmap");
    must_fault(|| {
        pages.read(0);
    });
}

fn read_only_refuses_writes(_: Args) {
    let pages = written(2, 7);
    pages.part(1, 1).protect(PROT_READ).or_fail("mprotect");
    must_fault(|| pages.write(1, 8));
    pages.write(0, 8);
    expect(pages, 1, 7);
    pages.protect(RW).or_fail("mprotect");
    pages.write(1, 8);
    let fresh = Pages::map_with(1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS)
        .or_fail("mapping a read-only page");
    must_fault(|| fresh.write(0, 1));
    expect(fresh, 0, 0);
}

fn none_refuses_everything(_: Args) {
    let pages = written(2, 9);
    pages.protect(PROT_NONE).or_fail("mprotect");
    must_fault(|| {
        pages.read(0);
    });
    must_fault(|| pages.write(1, 1));
    pages.protect(RW).or_fail("mprotect");
    expect(pages, 0, 9);
    pages.write(1, 10);
    expect(pages, 1, 10);
}

fn unmap_in_the_middle(_: Args) {
    let pages = written(3, 4);
    pages.part(1, 1).unmap().or_fail("munmap");
    expect(pages, 0, 4);
    expect(pages, 2, 4);
    must_fault(|| {
        pages.read(1);
    });
    map_fixed(pages.part(1, 1), RW);
    expect(pages, 1, 0);
}

fn unmap_of_a_hole(_: Args) {
    let pages = written(3, 4);
    pages.part(1, 1).unmap().or_fail("munmap");
    pages.part(1, 1).unmap().or_fail("munmap of nothing");
    pages.unmap().or_fail("munmap across a hole");
    must_fault(|| {
        pages.read(0);
    });
    must_fault(|| {
        pages.read(2);
    });
}

fn protect_across_a_hole(_: Args) {
    let pages = written(3, 4);
    pages.part(1, 1).unmap().or_fail("munmap");
    let result = pages.part(1, 1).protect(PROT_READ);
    check!(
        result == Err(Errno::ENOMEM),
        "mprotect of a hole gave {result:?}"
    );
    let result = pages.protect(RW);
    check!(
        result == Err(Errno::ENOMEM),
        "mprotect across a hole gave {result:?}"
    );
    pages.write(0, 5);
    pages.write(2, 5);
}

fn fixed_replaces(_: Args) {
    let pages = written(4, 3);
    map_fixed(pages.part(1, 2), RW);
    expect(pages, 0, 3);
    expect(pages, 1, 0);
    expect(pages, 2, 0);
    expect(pages, 3, 3);
    map_fixed(pages.part(3, 1), PROT_NONE);
    must_fault(|| {
        pages.read(3);
    });
}

fn fixed_after_fork(_: Args) {
    let pages = written(4, 3);
    in_both(
        || {
            map_fixed(pages, RW);
            for page in 0..4 {
                expect(pages, page, 0);
                pages.write(page, 1);
            }
        },
        || {
            for page in 0..4 {
                expect(pages, page, 3);
                pages.write(page, 2);
            }
        },
        expect_apart(pages, 1, 2),
    );
}

fn shared_stays_shared(_: Args) {
    let pages = Pages::map_shared(2).or_fail("mapping shared pages");
    pages.write(0, 1);
    pages.write(1, 1);
    in_both(
        || pages.write(0, 2),
        || {
            expect(pages, 0, 2);
            pages.write(1, 3);
        },
        |_| {
            expect(pages, 0, 2);
            expect(pages, 1, 3);
        },
    );
}

/// The trace counts what goes, whoever lets go of it last.
fn shared_unmapped(_: Args) {
    let pages = Pages::map_shared(3).or_fail("mapping shared pages");
    pages.write(0, 1);
    pages.write(2, 1);
    pages.part(1, 2).unmap().or_fail("munmap");
    expect(pages, 0, 1);
    pages.part(0, 1).unmap().or_fail("munmap");
}

/// Nobody touches the pages before the fork: private ones must still come apart, shared ones stay
/// together.
fn sharing_before_the_first_touch(_: Args) {
    let private = map(2);
    let shared = Pages::map_shared(2).or_fail("mapping shared pages");
    expect(private, 1, 0); // the zero page, which a fork shares too
    in_both(
        || {
            private.write(0, 1);
            private.write(1, 1);
            shared.write(0, 1);
        },
        || {
            expect(private, 0, 0);
            expect(private, 1, 0);
            expect(shared, 0, 1);
            private.write(0, 2);
            private.write(1, 2);
            shared.write(1, 2);
        },
        |who| {
            expect_apart(private, 1, 2)(who);
            expect(shared, 0, 1);
            expect(shared, 1, 2);
        },
    );
}

fn unmap_after_fork(_: Args) {
    let pages = written(8, 6);
    in_both(
        || pages.unmap().or_fail("munmap"),
        || {
            for page in 0..8 {
                expect(pages, page, 6);
                pages.write(page, 7);
            }
        },
        |who| {
            if who == "parent" {
                expect(pages, 7, 7);
            }
        },
    );
    must_fault(|| {
        pages.unmap().or_fail("munmap");
        pages.read(3);
    });
    expect(pages, 3, 7);
}

/// mprotect must not make a page writable that is still shared.
fn protect_after_fork(_: Args) {
    let pages = written(4, 1);
    let cycle = |value| {
        pages.protect(PROT_READ).or_fail("mprotect");
        expect(pages, 0, 1);
        pages.protect(RW).or_fail("mprotect");
        for page in 0..4 {
            pages.write(page, value);
        }
    };
    in_both(|| cycle(2), || cycle(3), expect_apart(pages, 2, 3));
}

fn writable_after_fork(_: Args) {
    let pages = written(4, 1);
    pages.protect(PROT_READ).or_fail("mprotect");
    let write = |value| {
        expect(pages, 0, 1);
        pages.protect(RW).or_fail("mprotect");
        for page in 0..4 {
            pages.write(page, value);
        }
    };
    in_both(|| write(2), || write(3), expect_apart(pages, 2, 3));
}

/// The kernel writes on behalf of the process: that must take the same copy.
fn kernel_write_after_fork(_: Args) {
    let pages = written(2, 1);
    let read_into = |value: u64| {
        let pipe = file::pipe2(0).or_fail("making a pipe");
        let mut data = [0; 2 * PAGE_SIZE - 8];
        for chunk in data.chunks_exact_mut(8) {
            chunk.copy_from_slice(&value.to_ne_bytes());
        }
        file::write_all(pipe.writer, &data).or_fail("writing to the pipe");
        let mut done = 0;
        while done < data.len() {
            // SAFETY: no Rust object lies in these pages, and the range ends within them.
            let got =
                unsafe { file::read_at(pipe.reader, pages.address(0) + done, data.len() - done) };
            done += got.or_fail("reading into a page");
        }
    };
    in_both(|| read_into(2), || read_into(3), expect_apart(pages, 2, 3));
    check!(pages.read_word(1, WORDS - 1) == 0, "read(2) wrote too much");
}

fn heap(_: Args) {
    let set = |end| {
        // SAFETY: no Rust object lies in the heap: the runtime does not use it.
        let result = unsafe { memory::brk(end) }.or_fail("brk");
        check!(end == 0 || result == end, "brk({end:#x}) gave {result:#x}");
        result
    };
    let start = set(0).next_multiple_of(PAGE_SIZE);
    set(start + 3 * PAGE_SIZE);
    // SAFETY: as above.
    let pages = unsafe { Pages::at(start, 3) };
    for page in 0..3 {
        expect(pages, page, 0);
        pages.write(page, 1);
    }
    set(start + PAGE_SIZE);
    must_fault(|| {
        pages.read(1);
    });
    set(start + 3 * PAGE_SIZE);
    expect(pages, 0, 1);
    expect(pages, 1, 0);
    pages.write(1, 2);
    pages.write(2, 2);
    let write = |value| (0..3).for_each(|page| pages.write(page, value));
    in_both(|| write(4), || write(5), expect_apart(pages, 4, 5));
    // A start below the heap is refused: the end stays.
    // SAFETY: as above.
    let end = unsafe { memory::brk(PAGE_SIZE) }.or_fail("brk");
    check!(
        end == start + 3 * PAGE_SIZE,
        "brk below the heap moved its end to {end:#x}"
    );
}

/// This program's own file, which begins with the ELF header.
fn private_file(args: Args) {
    const ELF: u64 = 0x464c_457f;
    let fd = file::open(args.executable(), file::O_RDONLY).or_fail("opening this program's file");
    let map = || {
        // SAFETY: no address is asked for.
        let start = unsafe { memory::mmap(0, 2 * PAGE_SIZE, RW, MAP_PRIVATE, fd, 0) }
            .or_fail("mapping a file");
        // SAFETY: no Rust object lies there.
        unsafe { Pages::at(start, 2) }
    };
    let (one, two) = (map(), map());
    check!(
        one.read(0) & 0xffff_ffff == ELF,
        "the file does not begin with an ELF header"
    );
    let original = one.read(1);
    one.write(0, 1); // read before
    two.write(1, 2); // not touched before
    expect(one, 1, original);
    check!(
        two.read(0) & 0xffff_ffff == ELF,
        "a private mapping wrote to the file"
    );
    check!(
        map().read(1) == original,
        "a private mapping wrote to the file"
    );
    in_both(
        || one.write(1, 3),
        || one.write(1, 4),
        expect_apart(one.part(1, 1), 3, 4),
    );
    // SAFETY: no address is asked for.
    let shared = unsafe { memory::mmap(0, PAGE_SIZE, RW, MAP_SHARED, fd, 0) };
    check!(
        shared == Err(Errno::EACCES),
        "a shared writable mapping of a file opened for reading: {shared:?}"
    );
    file::close(fd).or_fail("closing the file");
}

/// Two pages of data and two without contents in the file, so that the segment's end lies within a
/// page.
fn statics() {
    static mut DATA: [u64; WORDS] = [0x1234; WORDS];
    static mut BSS: [u64; 2 * WORDS] = [0; 2 * WORDS];
    let (data, bss) = (&raw mut DATA, &raw mut BSS);
    let child = process::fork_child(|| {
        // SAFETY: one thread, and no reference to them anywhere.
        unsafe {
            (*data)[5] = 1;
            (*bss)[5] = 1;
        }
        0
    });
    process::expect_success(child.or_fail("fork"));
    for word in 0..WORDS {
        // SAFETY: as above; volatile, so that the loader's work is read and not the compiler's
        // knowledge.
        let (initialised, zero, zero_too) = unsafe {
            let bss = bss.cast::<u64>();
            let data = data.cast::<u64>().add(word).read_volatile();
            (
                data,
                bss.add(word).read_volatile(),
                bss.add(WORDS + word).read_volatile(),
            )
        };
        check!(
            initialised == 0x1234,
            "word {word} of the data is {initialised:#x}"
        );
        check!(
            zero == 0 && zero_too == 0,
            "word {word} of the bss is not zero"
        );
    }
}
