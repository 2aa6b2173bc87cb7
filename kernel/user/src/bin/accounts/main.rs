//! What /proc says of a process's memory, and what rusage counts, a line per fact. Everything lies at
//! addresses that are fixed here, so that Linux must print the same.
#![no_std]
#![no_main]

use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::process::{self, Fork};
use user::sync::Conversation;
use user::{Args, OrFail, Result, println, syscall};

mod files;
mod limits;
mod text;

use text::{rollup, show, status};

user::program!(main, "usage: accounts");

const RW: u32 = PROT_READ | PROT_WRITE;
/// Where the mappings are, far from each other.
const HERE: usize = 0x10_0000_0000;
const FAR: usize = 0x10_1000_0000;

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    private();
    forked();
    shared();
    advice();
    moved();
    merged();
    locked();
    heap();
    counted();
    files::all();
    limits::all();
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name memory of this program's that no Rust object lies in, or none.
    unsafe { syscall(number, arguments) }
}

/// Maps pages at a fixed place.
fn map(start: usize, count: usize, prot: u32, flags: u32) -> Pages {
    let flags = flags | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    // SAFETY: nothing is there.
    unsafe { memory::mmap(start, count * PAGE_SIZE, prot, flags, -1, 0) }.or_fail("mmap");
    // SAFETY: nobody else knows of them.
    unsafe { Pages::at(start, count) }
}

fn write(pages: Pages, range: core::ops::Range<usize>) {
    for page in range {
        pages.write(page, page as u64 + 1);
    }
}

fn advise(pages: Pages, advice: u32) -> Result<usize> {
    let len = pages.count() * PAGE_SIZE;
    call(__NR_madvise, [pages.address(0), len, advice as usize])
}

/// Runs `child` in a child, then `parent`, while both live; then the child ends.
fn with_child(child: impl FnOnce(), parent: impl FnOnce()) {
    let conversation = Conversation::new();
    match process::fork().or_fail("fork") {
        Fork::Child => {
            let side = conversation.child_side();
            child();
            side.tell();
            side.wait();
            process::exit(0)
        }
        Fork::Parent(pid) => {
            let side = conversation.parent_side();
            side.wait();
            parent();
            side.tell();
            process::expect_success(pid);
            side.close();
        }
    }
}

fn private() {
    let pages = map(HERE, 16, RW, MAP_PRIVATE);
    show("untouched", HERE);
    for page in 0..4 {
        pages.read(page);
    }
    show("read", HERE);
    write(pages, 2..7);
    show("written", HERE);
    pages.part(0, 4).protect(PROT_READ).or_fail("mprotect");
    show("read-only", HERE);
    show("the rest", HERE + 4 * PAGE_SIZE);
    pages.part(0, 4).protect(RW).or_fail("mprotect");
    show("one again", HERE);
    pages.part(4, 12).protect(PROT_NONE).or_fail("mprotect");
    show("nobody's", HERE + 4 * PAGE_SIZE);
    pages.unmap().or_fail("munmap");
    show("unmapped", HERE);
    let pages = map(HERE, 8, RW, MAP_PRIVATE | MAP_POPULATE);
    show("populated", HERE);
    pages.unmap().or_fail("munmap");
    let pages = map(HERE, 8, PROT_READ, MAP_PRIVATE | MAP_POPULATE);
    show("populated with zeros", HERE);
    pages.unmap().or_fail("munmap");
    let pages = map(HERE, 8, PROT_READ | PROT_EXEC, MAP_PRIVATE);
    show("code", HERE);
    pages.unmap().or_fail("munmap");
    let pages = map(HERE, 8, RW, MAP_PRIVATE | MAP_NORESERVE);
    show("without a reserve", HERE);
    pages.unmap().or_fail("munmap");
}

fn forked() {
    let pages = map(HERE, 16, RW, MAP_PRIVATE);
    write(pages, 0..8);
    for page in 8..12 {
        pages.read(page);
    }
    with_child(
        || {
            show("the child's", HERE);
            write(pages, 0..2);
            show("after two writes", HERE);
            write(pages, 8..9);
            show("and one to zeros", HERE);
            pages.part(2, 1).unmap().or_fail("munmap");
            show("and one less", HERE + 3 * PAGE_SIZE);
        },
        || {
            show("the parent's", HERE);
            write(pages, 1..4);
            show("after three writes", HERE);
        },
    );
    show("alone again", HERE);
    write(pages, 4..5);
    show("a write alone", HERE);
    with_child(
        || {
            with_child(
                || {
                    show("three have it", HERE);
                    write(pages, 0..1);
                    show("one has its own", HERE);
                },
                || show("two have it", HERE),
            );
        },
        || show("the first", HERE),
    );
    pages.unmap().or_fail("munmap");
}

fn shared() {
    let pages = map(HERE, 8, RW, MAP_SHARED);
    show("shared, untouched", HERE);
    for page in 0..2 {
        pages.read(page);
    }
    show("shared, read", HERE);
    write(pages, 1..4);
    show("shared, written", HERE);
    with_child(
        || {
            show("shared, inherited", HERE);
            for page in 0..4 {
                pages.read(page);
            }
            write(pages, 3..6);
            show("shared with a parent", HERE);
        },
        || show("shared with a child", HERE),
    );
    show("shared with nobody", HERE);
    pages.read(5);
    show("what the child wrote", HERE);
    pages.part(0, 8).protect(PROT_READ).or_fail("mprotect");
    show("shared and read-only", HERE);
    pages.unmap().or_fail("munmap");
}

fn advice() {
    let pages = map(HERE, 8, RW, MAP_PRIVATE);
    write(pages, 0..8);
    println!("dontneed: {:?}", advise(pages.part(2, 3), MADV_DONTNEED));
    show("without three", HERE);
    println!("zero again: {} {}", pages.read(2), pages.read(5));
    show("read again", HERE);
    with_child(
        || {
            println!("dontneed: {:?}", advise(pages.part(0, 2), MADV_DONTNEED));
            show("the child's", HERE);
            println!("zero: {}", pages.read(0));
        },
        || {
            println!("not zero: {}", pages.read(0));
            show("the parent's", HERE);
        },
    );
    for advice in [
        MADV_SEQUENTIAL,
        MADV_RANDOM,
        MADV_NORMAL,
        MADV_WILLNEED,
        MADV_DONTDUMP,
        MADV_DODUMP,
    ] {
        println!("advice {advice}: {:?}", advise(pages.part(0, 4), advice));
        show("advised", HERE);
    }
    for advice in [
        MADV_COLD,
        MADV_PAGEOUT,
        MADV_POPULATE_READ,
        MADV_POPULATE_WRITE,
        99,
    ] {
        println!("advice {advice}: {:?}", advise(pages.part(0, 8), advice));
    }
    pages.unmap().or_fail("munmap");

    let pages = map(HERE, 8, RW, MAP_SHARED);
    write(pages, 0..4);
    println!("dontneed: {:?}", advise(pages, MADV_DONTNEED));
    show("shared, given back", HERE);
    println!("still there: {}", pages.read(3));
    pages.unmap().or_fail("munmap");

    let pages = map(HERE, 6, RW, MAP_PRIVATE);
    write(pages, 0..6);
    println!(
        "fork advice: dontfork: {:?}",
        advise(pages.part(0, 2), MADV_DONTFORK)
    );
    println!(
        "fork advice: wipeonfork: {:?}",
        advise(pages.part(2, 2), MADV_WIPEONFORK)
    );
    show("fork advice: not for children", HERE);
    show("fork advice: empty for children", HERE + 2 * PAGE_SIZE);
    with_child(
        || {
            show("fork advice: not there", HERE);
            show("fork advice: empty", HERE + 2 * PAGE_SIZE);
            show("fork advice: as it was", HERE + 4 * PAGE_SIZE);
            println!(
                "fork advice: wiped: {}, kept: {}",
                pages.read(3),
                pages.read(5)
            );
        },
        || {},
    );
    println!(
        "fork advice: dofork: {:?}",
        advise(pages.part(0, 2), MADV_DOFORK)
    );
    println!(
        "fork advice: keeponfork: {:?}",
        advise(pages.part(2, 2), MADV_KEEPONFORK)
    );
    show("fork advice: all as it was", HERE);
    pages.unmap().or_fail("munmap");
}

fn moved() {
    let remap = |pages: Pages, len: usize, flags: u32, to: usize| {
        let old = pages.count() * PAGE_SIZE;
        call(
            __NR_mremap,
            [pages.address(0), old, len * PAGE_SIZE, flags as usize, to],
        )
    };
    let pages = map(HERE, 4, RW, MAP_PRIVATE);
    write(pages, 0..4);
    println!("larger: {:x?}", remap(pages, 8, 0, 0));
    show("larger", HERE);
    // SAFETY: they are there now.
    let pages = unsafe { Pages::at(HERE, 8) };
    write(pages, 6..7);
    let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    println!("moved: {:x?}", remap(pages, 8, flags, FAR));
    show("the old place", HERE);
    show("the new place", FAR);
    // SAFETY: as above.
    let pages = unsafe { Pages::at(FAR, 8) };
    println!(
        "contents: {} {} {}",
        pages.read(0),
        pages.read(3),
        pages.read(6)
    );
    println!("smaller: {:x?}", remap(pages, 2, 0, 0));
    show("smaller", FAR);
    let pages = pages.part(0, 2);
    with_child(
        || {
            println!("moved back: {:x?}", remap(pages, 2, flags, HERE));
            show("the child's", HERE);
        },
        || show("the parent's", FAR),
    );
    let flags = flags | MREMAP_DONTUNMAP;
    println!("and kept: {:x?}", remap(pages, 2, flags, HERE));
    show("left", FAR);
    show("taken", HERE);
    println!("empty: {}", pages.read(0));
    pages.unmap().or_fail("munmap");
    // SAFETY: as above.
    unsafe { Pages::at(HERE, 2) }.unmap().or_fail("munmap");
}

fn merged() {
    let first = map(HERE, 2, RW, MAP_PRIVATE);
    let third = map(HERE + 4 * PAGE_SIZE, 2, RW, MAP_PRIVATE);
    write(first, 0..2);
    write(third, 0..2);
    let second = map(HERE + 2 * PAGE_SIZE, 2, PROT_READ, MAP_PRIVATE);
    show("apart", HERE);
    second.protect(RW).or_fail("mprotect");
    show("together, or not", HERE);
    show("the last", HERE + 4 * PAGE_SIZE);
    // SAFETY: all is mapped.
    unsafe { Pages::at(HERE, 6) }.unmap().or_fail("munmap");
    // What was never written has nothing to keep apart.
    map(HERE, 2, RW, MAP_PRIVATE);
    map(HERE + 4 * PAGE_SIZE, 2, RW, MAP_PRIVATE);
    map(HERE + 2 * PAGE_SIZE, 2, RW, MAP_PRIVATE);
    show("the gap is filled", HERE);
    // SAFETY: all is mapped.
    let all = unsafe { Pages::at(HERE, 6) };
    all.part(2, 1).unmap().or_fail("munmap");
    show("below the hole", HERE);
    show("above the hole", HERE + 3 * PAGE_SIZE);
    all.unmap().or_fail("munmap");
    map(HERE, 2, RW, MAP_SHARED);
    map(HERE + 2 * PAGE_SIZE, 2, RW, MAP_SHARED);
    show("shared ones are apart", HERE);
    // SAFETY: all is mapped.
    unsafe { Pages::at(HERE, 4) }.unmap().or_fail("munmap");
}

fn locked() {
    let before = status("VmLck");
    let pages = map(HERE, 8, RW, MAP_PRIVATE);
    write(pages, 0..2);
    println!("mlock: {:?}", call(__NR_mlock, [HERE, 4 * PAGE_SIZE]));
    show("locked", HERE);
    show("not locked", HERE + 4 * PAGE_SIZE);
    println!(
        "more locked: {:?}",
        status("VmLck").zip(before).map(|(a, b)| a - b)
    );
    with_child(|| show("locked, in a child", HERE), || {});
    println!("advice on it: {:?}", advise(pages, MADV_DONTNEED));
    println!("munlock: {:?}", call(__NR_munlock, [HERE, 8 * PAGE_SIZE]));
    show("unlocked", HERE);
    println!(
        "more locked: {:?}",
        status("VmLck").zip(before).map(|(a, b)| a - b)
    );
    pages.unmap().or_fail("munmap");
}

fn heap() {
    // SAFETY: asks.
    let start = unsafe { memory::brk(0) }.or_fail("brk");
    let end = start.next_multiple_of(PAGE_SIZE) + 4 * PAGE_SIZE;
    // SAFETY: nothing lies there.
    let grown = unsafe { memory::brk(end) }.or_fail("brk");
    println!("grown: {}", grown == end);
    // SAFETY: the last three pages are ours.
    let pages = unsafe { Pages::at(end - 3 * PAGE_SIZE, 3) };
    write(pages, 0..2);
    text::show_fields("the heap", end - PAGE_SIZE);
    // SAFETY: nobody uses it.
    unsafe { memory::brk(end - 2 * PAGE_SIZE) }.or_fail("brk");
    text::show_fields("smaller", end - 3 * PAGE_SIZE);
    println!("beyond it: {}", text::is_mapped(end - PAGE_SIZE));
    // SAFETY: the same.
    unsafe { memory::brk(end) }.or_fail("brk");
    println!("zero: {}", pages.read(1));
    // SAFETY: the same.
    unsafe { memory::brk(start) }.or_fail("brk");
}

/// rusage's page faults, and the process's numbers.
fn counted() {
    let faults = || {
        let mut usage = [0u64; 18];
        call(__NR_getrusage, [0, usage.as_mut_ptr() as usize]).or_fail("getrusage");
        usage[8]
    };
    let counting = |what: &str, f: &dyn Fn()| {
        faults();
        let before = faults();
        f();
        println!("{what}: {} faults", faults() - before);
    };
    // Files here are memory of the kernel's, as shared memory is; Linux has a number for each.
    let number = |name: &'static str| match name {
        "RssFile" => Some(status(name)? + status("RssShmem").unwrap_or(0)),
        _ => status(name),
    };
    let numbers = [
        "VmSize", "VmRSS", "RssAnon", "RssFile", "VmData", "VmStk", "VmExe",
    ];
    let before = numbers.map(number);
    let statm = text::statm();
    let pages = map(HERE, 64, RW, MAP_PRIVATE);
    let shared = map(FAR, 64, RW, MAP_SHARED);
    counting("writes", &|| write(pages, 0..20));
    counting("again", &|| write(pages, 0..20));
    counting("reads", &|| {
        for page in 20..30 {
            pages.read(page);
        }
    });
    counting("writes to zeros", &|| write(pages, 20..30));
    counting("shared", &|| write(shared, 0..10));
    let after = numbers.map(number);
    for ((name, before), after) in numbers.iter().zip(before).zip(after) {
        match before.zip(after) {
            Some((before, after)) => println!("{name}: {} kB more", after as i64 - before as i64),
            None => println!("{name}: not said"),
        }
    }
    let now = text::statm();
    for (index, name) in ["size", "resident", "shared", "text", "lib", "data", "dirty"]
        .iter()
        .enumerate()
    {
        println!(
            "{name}: {} pages more",
            now[index] as i64 - statm[index] as i64
        );
    }
    with_child(
        || {
            // Some of its stack, too.
            faults();
            let before = faults();
            write(pages, 0..8);
            println!(
                "a child's writes: {}",
                (8..10).contains(&(faults() - before))
            );
        },
        || {
            counting("a parent's writes", &|| write(pages, 0..4));
        },
    );
    counting("after it", &|| write(pages, 4..8));
    rollup("all", &["Shared_Dirty", "LazyFree", "Swap"]);
    pages.unmap().or_fail("munmap");
    shared.unmap().or_fail("munmap");
}
