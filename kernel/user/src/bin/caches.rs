//! Files that are mapped, read, written and cut at the same time: one page cache, a line per case. Linux
//! must print the same.
#![no_std]
#![no_main]

use core::fmt::Display;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use user::file::{self, Fd};
use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::process;
use user::signal::{self, Action, Context, Info};
use user::{Args, OrFail, Result, println, syscall};

user::program!(main, "usage: caches");

const RW: u32 = PROT_READ | PROT_WRITE;
const NAME: &core::ffi::CStr = c"/tmp/caches";

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    for signal in [SIGSEGV, SIGBUS] {
        signal::set_action(signal, &Action::call(step_over, SA_SIGINFO)).or_fail("sigaction");
    }
    coherent();
    private();
    cut();
    cut_after_fork();
    punched();
    grown();
    refused();
    moved();
}

/// What the last fault was.
static SIGNAL: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Notes the fault, and goes on behind the instruction, which was a load or a store.
extern "C" fn step_over(signal: u32, info: &mut Info, context: &mut Context) {
    SIGNAL.store(signal, Relaxed);
    CODE.store(info.code, Relaxed);
    ADDRESS.store(info.first, Relaxed);
    context.pc += 4;
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name memory of this program's that no Rust object lies in, or none.
    unsafe { syscall(number, arguments) }
}

fn make(pages: usize) -> Fd {
    let flags = (O_RDWR | O_CREAT | O_TRUNC) as usize;
    let fd = call(
        __NR_openat,
        [AT_FDCWD as usize, NAME.as_ptr() as usize, flags, 0o600],
    );
    let fd = fd.or_fail("open") as Fd;
    for page in 0..pages {
        file::write_all(fd, &[b'a' + page as u8; PAGE_SIZE]).or_fail("write");
    }
    fd
}

fn map(fd: Fd, count: usize, prot: u32, flags: u32) -> Pages {
    // SAFETY: no address is asked for.
    let start = unsafe { memory::mmap(0, count * PAGE_SIZE, prot, flags, fd, 0) }.or_fail("mmap");
    // SAFETY: nobody else knows of them.
    unsafe { Pages::at(start, count) }
}

fn truncate(fd: Fd, len: usize) {
    call(__NR_ftruncate, [fd as usize, len]).or_fail("ftruncate");
}

fn write_at(fd: Fd, bytes: &[u8], at: usize) -> Result<usize> {
    call(
        __NR_pwrite64,
        [fd as usize, bytes.as_ptr() as usize, bytes.len(), at],
    )
}

fn read_at(fd: Fd, at: usize) -> Result<u8> {
    let mut byte = [0u8; 1];
    match call(
        __NR_pread64,
        [fd as usize, byte.as_mut_ptr() as usize, 1, at],
    )? {
        0 => Ok(b'$'),
        _ => Ok(byte[0]),
    }
}

/// The byte at a place, or the fault.
fn peek(what: impl Display, pages: Pages, at: usize) {
    SIGNAL.store(0, Relaxed);
    let address = pages.address(0) + at;
    let mut value = u64::from(b'?');
    // SAFETY: a load, or a fault that is stepped over.
    unsafe {
        core::arch::asm!("ldrb {0:w}, [{1}]", inlateout(reg) value, in(reg) address, options(nostack));
    }
    report(what, address, value);
}

fn poke(what: impl Display, pages: Pages, at: usize, value: u8) {
    SIGNAL.store(0, Relaxed);
    let address = pages.address(0) + at;
    // SAFETY: a store to pages without Rust objects, or a fault that is stepped over.
    unsafe {
        core::arch::asm!("strb {0:w}, [{1}]", in(reg) u32::from(value), in(reg) address, options(nostack));
    }
    report(what, address, value.into());
}

fn report(what: impl Display, address: usize, value: u64) {
    match SIGNAL.load(Relaxed) {
        0 => println!("{what}: {:?}", value as u8 as char),
        signal => println!(
            "{what}: signal {signal}, code {}, there: {}",
            CODE.load(Relaxed),
            ADDRESS.load(Relaxed) as usize == address
        ),
    }
}

fn coherent() {
    let fd = make(3);
    let shared = map(fd, 3, RW, MAP_SHARED);
    let second = map(fd, 3, PROT_READ, MAP_SHARED);
    let private = map(fd, 3, PROT_READ, MAP_PRIVATE);
    write_at(fd, b"X", 0).or_fail("pwrite");
    peek("written, seen shared", shared, 0);
    peek("written, seen private", private, 0);
    poke("stored", shared, 1, b'Y');
    println!("stored, read: {:?}", read_at(fd, 1).map(char::from));
    peek("stored, seen", second, 1);
    peek("stored, seen private", private, 1);
    let from = shared.address(1);
    println!(
        "from its own mapping: {:?}",
        call(__NR_pwrite64, [fd as usize, from, 10, 20])
    );
    peek("which shows", second, 25);
    println!(
        "into its own mapping: {:?}",
        call(__NR_pread64, [fd as usize, from, 10, 0])
    );
    peek("which shows too", second, PAGE_SIZE + 1);
    println!(
        "msync: {:?}",
        call(__NR_msync, [from, PAGE_SIZE, MS_SYNC as usize])
    );
    for pages in [shared, second, private] {
        pages.unmap().or_fail("munmap");
    }
    println!("still: {:?}", read_at(fd, PAGE_SIZE + 1).map(char::from));
    file::close(fd).or_fail("close");
}

fn private() {
    let fd = make(2);
    let private = map(fd, 2, RW, MAP_PRIVATE);
    let shared = map(fd, 2, RW, MAP_SHARED);
    poke("a store of its own", private, 0, b'P');
    println!("not in the file: {:?}", read_at(fd, 0).map(char::from));
    write_at(fd, b"QQ", 0).or_fail("pwrite");
    peek("what is its own stays", private, 0);
    peek("the whole page of it", private, 1);
    poke("another's store", shared, PAGE_SIZE, b'S');
    peek("is seen in a page that is not", private, PAGE_SIZE);
    private.unmap().or_fail("munmap");
    shared.unmap().or_fail("munmap");
    file::close(fd).or_fail("close");
}

fn cut() {
    let fd = make(4);
    let shared = map(fd, 6, RW, MAP_SHARED);
    let private = map(fd, 4, RW, MAP_PRIVATE);
    for page in 0..4 {
        shared.read(page);
        private.read(page);
    }
    poke("its own", private, 3 * PAGE_SIZE, b'P');
    peek("behind the end", shared, 4 * PAGE_SIZE);
    poke("a store there", shared, 5 * PAGE_SIZE + 3, b'x');
    truncate(fd, PAGE_SIZE + 10);
    peek("the part that is left", shared, PAGE_SIZE + 9);
    peek("the rest of that page", shared, PAGE_SIZE + 10);
    poke("a store in that rest", shared, PAGE_SIZE + 11, b'r');
    peek("is kept", shared, PAGE_SIZE + 11);
    peek("cut off", shared, 2 * PAGE_SIZE);
    poke(
        "a store to what is cut off",
        shared,
        2 * PAGE_SIZE + 8,
        b'x',
    );
    peek("cut off, private", private, 2 * PAGE_SIZE);
    peek("cut off, its own", private, 3 * PAGE_SIZE);
    let at = shared.address(2);
    println!(
        "write from there: {:?}",
        call(__NR_write, [fd as usize, at, 10])
    );
    println!(
        "read to there: {:?}",
        call(__NR_pread64, [fd as usize, at, 10, 0])
    );
    truncate(fd, 4 * PAGE_SIZE);
    peek("longer again, the rest", shared, PAGE_SIZE + 11);
    peek("longer again", shared, 2 * PAGE_SIZE);
    peek("longer again, private", private, 3 * PAGE_SIZE);
    truncate(fd, 0);
    peek("nothing is left", shared, 0);
    shared.unmap().or_fail("munmap");
    private.unmap().or_fail("munmap");
    file::close(fd).or_fail("close");
}

fn cut_after_fork() {
    let fd = make(3);
    let private = map(fd, 3, RW, MAP_PRIVATE);
    let shared = map(fd, 3, RW, MAP_SHARED);
    poke("before the fork", private, 0, b'P');
    peek("read before", shared, 2 * PAGE_SIZE);
    let child = process::fork_child(|| {
        poke("the child's", private, PAGE_SIZE, b'C');
        truncate(fd, PAGE_SIZE);
        peek("cut off in the child", private, PAGE_SIZE);
        peek("not cut off in the child", private, 0);
        0
    });
    process::wait_raw(child.or_fail("fork"), 0).or_fail("wait4");
    peek("cut off in the parent", private, PAGE_SIZE);
    peek("and shared", shared, 2 * PAGE_SIZE);
    peek("not cut off in the parent", private, 0);
    private.unmap().or_fail("munmap");
    shared.unmap().or_fail("munmap");
    file::close(fd).or_fail("close");
}

fn punched() {
    let fd = make(3);
    let shared = map(fd, 3, RW, MAP_SHARED);
    let private = map(fd, 3, RW, MAP_PRIVATE);
    poke("its own", private, PAGE_SIZE, b'P');
    peek("not its own", private, 2 * PAGE_SIZE);
    let punch = |at: usize, len: usize| {
        let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        call(__NR_fallocate, [fd as usize, mode as usize, at, len])
    };
    println!("a hole: {:?}", punch(PAGE_SIZE, 2 * PAGE_SIZE));
    peek("shared", shared, PAGE_SIZE);
    peek("private", private, 2 * PAGE_SIZE);
    peek("private, its own", private, PAGE_SIZE);
    println!("part of a page: {:?}", punch(10, 10));
    peek("before", shared, 9);
    peek("in it", shared, 10);
    poke("a store to the hole", shared, PAGE_SIZE, b'n');
    println!("is there: {:?}", read_at(fd, PAGE_SIZE).map(char::from));
    let mut stat = [0u64; 16];
    call(__NR_fstat, [fd as usize, stat.as_mut_ptr() as usize]).or_fail("fstat");
    println!("size {}, blocks {}", stat[6], stat[8]);
    shared.unmap().or_fail("munmap");
    private.unmap().or_fail("munmap");
    file::close(fd).or_fail("close");
}

fn grown() {
    let fd = make(1);
    let shared = map(fd, 3, RW, MAP_SHARED);
    peek("behind the end", shared, PAGE_SIZE);
    write_at(fd, b"new", 2 * PAGE_SIZE).or_fail("pwrite");
    peek("a hole", shared, PAGE_SIZE);
    peek("new", shared, 2 * PAGE_SIZE);
    peek("zero behind it", shared, 2 * PAGE_SIZE + 3);
    println!(
        "unlink: {:?}",
        call(
            __NR_unlinkat,
            [AT_FDCWD as usize, NAME.as_ptr() as usize, 0]
        )
    );
    file::close(fd).or_fail("close");
    peek("without a name", shared, 2 * PAGE_SIZE + 2);
    poke("still to be written", shared, PAGE_SIZE, b'w');
    peek("and read", shared, PAGE_SIZE);
    shared.unmap().or_fail("munmap");
}

fn refused() {
    let fd = make(1);
    let reader = file::open(NAME, O_RDONLY).or_fail("open");
    let writer = file::open(NAME, O_WRONLY).or_fail("open");
    let directory = file::open(c"/tmp", O_RDONLY).or_fail("open");
    let pipe = file::pipe2(0).or_fail("pipe");
    let null = file::open(c"/dev/null", O_RDWR).or_fail("open");
    let map = |fd: Fd, len: usize, prot: u32, flags: u32, offset: usize| {
        // SAFETY: no address is asked for.
        unsafe { memory::mmap(0, len, prot, flags, fd, offset) }.map(|_| ())
    };
    let file = [(fd, "both"), (reader, "read"), (writer, "written")];
    for (fd, opened) in file {
        for (prot, rights) in [
            (PROT_NONE, "none"),
            (PROT_READ, "read"),
            (PROT_WRITE, "write"),
            (RW, "both"),
        ] {
            for (flags, kind) in [
                (MAP_PRIVATE, "private"),
                (MAP_SHARED, "shared"),
                (MAP_SHARED_VALIDATE, "validated"),
            ] {
                println!(
                    "opened to be {opened}, {kind}, {rights}: {:?}",
                    map(fd, PAGE_SIZE, prot, flags, 0)
                );
            }
        }
    }
    for (fd, what) in [
        (directory, "directory"),
        (pipe.reader, "pipe"),
        (null, "null"),
        (99, "none"),
    ] {
        println!("{what}: {:?}", map(fd, PAGE_SIZE, PROT_READ, MAP_SHARED, 0));
    }
    println!("no length: {:?}", map(fd, 0, PROT_READ, MAP_SHARED, 0));
    println!("no kind: {:?}", map(fd, PAGE_SIZE, PROT_READ, 0, 0));
    println!(
        "odd offset: {:?}",
        map(fd, PAGE_SIZE, PROT_READ, MAP_SHARED, 100)
    );
    println!(
        "far offset: {:?}",
        map(fd, PAGE_SIZE, PROT_READ, MAP_SHARED, 1 << 50)
    );
    println!(
        "overflow: {:?}",
        map(
            fd,
            2 * PAGE_SIZE,
            PROT_READ,
            MAP_SHARED,
            0usize.wrapping_sub(PAGE_SIZE)
        )
    );
    println!(
        "too long: {:?}",
        map(fd, 1 << 60, PROT_READ, MAP_PRIVATE, 0)
    );
    for fd in [
        fd,
        reader,
        writer,
        directory,
        pipe.reader,
        pipe.writer,
        null,
    ] {
        file::close(fd).or_fail("close");
    }
}

fn moved() {
    let fd = make(4);
    let shared = map(fd, 2, RW, MAP_SHARED);
    poke("stored", shared, PAGE_SIZE, b'm');
    let arguments = [
        shared.address(0),
        2 * PAGE_SIZE,
        6 * PAGE_SIZE,
        MREMAP_MAYMOVE as usize,
    ];
    let start = call(__NR_mremap, arguments).or_fail("mremap");
    // SAFETY: they are there.
    let shared = unsafe { Pages::at(start, 6) };
    peek("moved", shared, PAGE_SIZE);
    peek("more of it", shared, 3 * PAGE_SIZE);
    peek("behind the end", shared, 4 * PAGE_SIZE);
    poke("stored again", shared, 3 * PAGE_SIZE, b'M');
    println!(
        "in the file: {:?}",
        read_at(fd, 3 * PAGE_SIZE).map(char::from)
    );
    let start = shared.address(1);
    let fewer = [shared.address(0), 6 * PAGE_SIZE, PAGE_SIZE, 0];
    let stays = call(__NR_mremap, fewer).map(|at| at == shared.address(0));
    println!("fewer: {stays:?}");
    // SAFETY: that they are gone is what is looked at.
    peek("gone", unsafe { Pages::at(start, 1) }, 0);
    file::close(fd).or_fail("close");
    call(
        __NR_unlinkat,
        [AT_FDCWD as usize, NAME.as_ptr() as usize, 0],
    )
    .or_fail("unlink");
}
