//! Waiting for files to be ready: what poll and select answer, a line per case. Run on Linux and
//! here, it must print the same.
#![no_std]
#![no_main]

use core::fmt::Display;
use user::file::{self, Fd, O_NONBLOCK, Pipe};
use user::linux::*;
use user::process;
use user::{Args, OrFail, Result, println, syscall};

user::program!(main, "usage: polls");

const IN: u32 = POLLIN;
const OUT: u32 = POLLOUT;

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    pipes();
    waiting();
    select();
    errors();
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or none.
    unsafe { syscall(number, arguments) }
}

/// A `struct pollfd`.
fn ask(fd: Fd, events: u32) -> u64 {
    u64::from(fd as u32) | u64::from(events) << 32
}

/// The answers.
fn poll(files: &mut [u64], milliseconds: Option<u64>) -> Result<usize> {
    let time = milliseconds.map(|ms| [ms / 1000, ms % 1000 * 1_000_000]);
    let time = time.as_ref().map_or(0, |time| time.as_ptr() as usize);
    call(
        __NR_ppoll,
        [files.as_mut_ptr() as usize, files.len(), time, 0, 8],
    )
}

/// Polls one file without waiting, and prints what it is ready for.
fn show(case: impl Display, fd: Fd, events: u32) {
    let mut files = [ask(fd, events)];
    match poll(&mut files, Some(0)) {
        Ok(count) => println!("{case}: {count}, {:#x}", files[0] >> 48),
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn pipe() -> Pipe {
    file::pipe2(O_NONBLOCK).or_fail("pipe")
}

fn close(fd: Fd) {
    file::close(fd).or_fail("closing");
}

fn pipes() {
    let Pipe { reader, writer } = pipe();
    show("an empty pipe, to read", reader, IN);
    show("to write", writer, OUT);
    show("the wrong end", reader, OUT);
    show("for nothing", writer, 0);
    file::write_all(writer, b"x").or_fail("writing");
    show("with a byte", reader, IN | POLLRDNORM);
    let mut bytes = [0; 4096];
    let mut pages = 0;
    while file::write(writer, &bytes).is_ok() {
        pages += 1;
    }
    println!("full after {pages} pages more");
    show("full, to write", writer, OUT);
    println!("another byte: {:?}", file::write(writer, b"x"));
    file::read(reader, &mut bytes[..1]).or_fail("reading");
    show("one byte less", writer, OUT);
    file::read(reader, &mut bytes).or_fail("reading");
    show("one page less", writer, OUT | POLLWRNORM);
    close(writer);
    show("without a writer", reader, IN);
    let mut left = 0;
    while let Ok(count @ 1..) = file::read(reader, &mut bytes) {
        left += count;
    }
    println!("{left} bytes are left");
    show("empty and without a writer", reader, IN);
    show("and not asked for", reader, 0);
    close(reader);
    let Pipe { reader, writer } = pipe();
    close(reader);
    show("without a reader", writer, OUT);
    close(writer);
    show("closed", writer, OUT);
    show("no descriptor", -1, OUT);
    // Small writes fill a page together; those that do not fit begin another.
    let Pipe { reader, writer } = pipe();
    let mut count = 0;
    while file::write(writer, &bytes[..1000]).is_ok() {
        count += 1;
    }
    println!("{count} times 1000 bytes");
    println!("96 more: {:?}", file::write(writer, &bytes[..96]));
    println!("97 more: {:?}", file::write(writer, &bytes[..97]));
    println!("8192 more: {:?}", file::write(writer, &[0; 8192]));
    close(reader);
    close(writer);
    let packets = file::pipe2(O_NONBLOCK | O_DIRECT).or_fail("pipe");
    for packet in [&b"one"[..], b"two and more"] {
        file::write_all(packets.writer, packet).or_fail("writing");
    }
    println!("a packet: {:?}", file::read(packets.reader, &mut bytes));
    println!(
        "part of one: {:?}",
        file::read(packets.reader, &mut bytes[..3])
    );
    println!(
        "the rest is gone: {:?}",
        file::read(packets.reader, &mut bytes)
    );
    close(packets.reader);
    close(packets.writer);
}

fn waiting() {
    let first = pipe();
    let second = pipe();
    let child = process::fork_child(|| {
        // The parent is likely asleep by then; it must not matter if it is not.
        for _ in 0..50 {
            process::sched_yield();
        }
        file::write_all(second.writer, b"x").or_fail("writing");
        0
    });
    let mut files = [ask(first.reader, IN), ask(second.reader, IN)];
    let count = poll(&mut files, None);
    println!(
        "woken by the second: {count:?} {:#x} {:#x}",
        files[0] >> 48,
        files[1] >> 48
    );
    process::expect_success(child.or_fail("fork"));
    let mut files = [ask(first.reader, IN)];
    println!("after a time: {:?}", poll(&mut files, Some(20)));
    println!("no files at all: {:?}", poll(&mut [], Some(1)));
    for fd in [first.reader, first.writer, second.reader, second.writer] {
        close(fd);
    }
}

fn select() {
    let Pipe { reader, writer } = pipe();
    let (r, w) = (1u64 << reader, 1u64 << writer);
    let most = 1 + reader.max(writer) as usize;
    let wait = |most: usize, read: u64, write: u64| {
        let (mut read, mut write) = (read, write);
        let time = [0u64, 0];
        let result = call(
            __NR_pselect6,
            [
                most,
                &raw mut read as usize,
                &raw mut write as usize,
                0,
                time.as_ptr() as usize,
                0,
            ],
        );
        (result, read == r, write == w)
    };
    println!("select on an empty pipe: {:?}", wait(most, r, w));
    file::write_all(writer, b"x").or_fail("writing");
    println!("with a byte: {:?}", wait(most, r, w));
    println!("reading only: {:?}", wait(most, r, 0));
    println!("none of them: {:?}", wait(0, r, w));
    println!(
        "of a bad descriptor: {:?}",
        wait(most + 8, 1 << (most + 3), 0).0
    );
    println!("a negative count: {:?}", wait(usize::MAX, r, 0).0);
    close(writer);
    let mut byte = [0];
    file::read(reader, &mut byte).or_fail("reading");
    println!("at the end: {:?}", wait(most, r, 0));
    close(reader);
}

fn errors() {
    let mut files = [ask(0, 0)];
    let place = files.as_mut_ptr() as usize;
    let time = [0usize, 1_000_000_000];
    let bad = time.as_ptr() as usize;
    println!(
        "too many nanoseconds: {:?}",
        call(__NR_ppoll, [place, 1, bad, 0, 8])
    );
    println!("a bad time: {:?}", call(__NR_ppoll, [place, 1, 8, 0, 8]));
    println!("bad files: {:?}", call(__NR_ppoll, [8, 1, 0, 0, 8]));
    println!("a bad mask: {:?}", call(__NR_ppoll, [place, 1, 0, 8, 8]));
    println!(
        "of a bad size: {:?}",
        call(__NR_ppoll, [place, 1, 0, place, 4])
    );
}
