//! What splice, tee and vmsplice answer, a line per case. Run on Linux and here, it must print the
//! same.
#![no_std]
#![no_main]

use core::fmt::Display;
use user::file::{self, Fd, Pipe};
use user::linux::*;
use user::net::{AF_UNIX, SOCK_STREAM};
use user::process;
use user::{Args, Errno, OrFail, Result, println, signal, syscall};

user::program!(main, "usage: splices");

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    signal::set_action(SIGPIPE, &signal::Action::IGNORE).or_fail("sigaction");
    let name = c"/tmp/splices".as_ptr() as usize;
    let file = call(
        __NR_openat,
        [
            AT_FDCWD as usize,
            name,
            (O_RDWR | O_CREAT | O_TRUNC) as usize,
            0o600,
        ],
    )
    .or_fail("open") as Fd;
    let bytes = [b'f'; 10_000];
    for _ in 0..10 {
        file::write_all(file, &bytes).or_fail("write");
    }
    let (one, two) = (pipe(), pipe());
    files(file, &one);
    pipes(&one, &two);
    memory(&one);
    errors(file, &one, &two);
    ends(file);
    sockets();
    packets();
    sleeping();
    two_readers();
    call(__NR_unlinkat, [AT_FDCWD as usize, name, 0]).or_fail("unlink");
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name buffers of this program's, or none.
    unsafe { syscall(number, arguments) }
}

fn pipe() -> Pipe {
    file::pipe2(0).or_fail("pipe")
}

fn show(case: impl Display, result: Result<usize>) {
    match result {
        Ok(value) => println!("{case}: {value}"),
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn splice(
    from: Fd,
    at: Option<&mut u64>,
    to: Fd,
    to_at: Option<&mut u64>,
    len: usize,
) -> Result<usize> {
    let address = |at: Option<&mut u64>| at.map_or(0, |at| &raw mut *at as usize);
    let (at, to_at) = (address(at), address(to_at));
    let flags = SPLICE_F_NONBLOCK as usize;
    call(
        __NR_splice,
        [from as usize, at, to as usize, to_at, len, flags],
    )
}

fn tee(from: Fd, to: Fd, len: usize) -> Result<usize> {
    let flags = SPLICE_F_NONBLOCK as usize;
    call(__NR_tee, [from as usize, to as usize, len, flags])
}

fn vmsplice(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    let vector = [buffer.as_mut_ptr() as usize, buffer.len()];
    let flags = SPLICE_F_NONBLOCK as usize;
    call(
        __NR_vmsplice,
        [fd as usize, vector.as_ptr() as usize, 1, flags],
    )
}

fn position(fd: Fd) -> Result<usize> {
    call(__NR_lseek, [fd as usize, 0, SEEK_CUR as usize])
}

/// Reads what there is, in one go.
fn drain(fd: Fd) -> Result<usize> {
    let mut bytes = [0; 70_000];
    file::read(fd, &mut bytes)
}

fn files(file: Fd, pipe: &Pipe) {
    let mut at = 100;
    show("in", splice(file, Some(&mut at), pipe.writer, None, 50));
    println!("offset: {at}");
    show("position", position(file));
    let mut at = 20;
    show("out", splice(pipe.reader, None, file, Some(&mut at), 30));
    println!("offset: {at}");
    show(
        "the rest",
        splice(pipe.reader, None, file, Some(&mut at), 30),
    );
    println!("offset: {at}");
    show("empty", splice(pipe.reader, None, file, None, 30));
    show("at the end", splice(file, None, pipe.writer, None, 10));
    call(__NR_lseek, [file as usize, 0, SEEK_SET as usize]).or_fail("lseek");
    show(
        "all that fits",
        splice(file, None, pipe.writer, None, 1 << 40),
    );
    show("position", position(file));
    show("full", splice(file, None, pipe.writer, None, 1));
    show("drained", drain(pipe.reader));
    show("from there", splice(file, None, pipe.writer, None, 7));
    show("position", position(file));
    show("drained", drain(pipe.reader));
}

fn pipes(one: &Pipe, two: &Pipe) {
    show("nothing to tee", tee(one.reader, two.writer, 10));
    file::write_all(one.writer, b"abcdefgh").or_fail("write");
    show("tee", tee(one.reader, two.writer, 5));
    show(
        "pipe to pipe",
        splice(one.reader, None, two.writer, None, 100),
    );
    let mut bytes = [0; 20];
    let count = file::read(two.reader, &mut bytes).or_fail("read");
    println!("{}", core::str::from_utf8(&bytes[..count]).unwrap_or("?"));
    show("nothing", splice(one.reader, None, two.writer, None, 100));
}

fn memory(pipe: &Pipe) {
    let mut bytes = *b"of memory";
    show("vmsplice", vmsplice(pipe.writer, &mut bytes));
    let mut back = [0; 20];
    show("and back", vmsplice(pipe.reader, &mut back));
    println!("{}", core::str::from_utf8(&back[..9]).unwrap_or("?"));
    show("of nothing", vmsplice(pipe.reader, &mut back));
    show("no bytes", vmsplice(pipe.writer, &mut []));
}

fn errors(file: Fd, one: &Pipe, two: &Pipe) {
    let mut at = 0;
    file::write_all(one.writer, b"x").or_fail("write");
    show("no pipe", splice(file, None, file, None, 1));
    show(
        "offset of a pipe",
        splice(one.reader, Some(&mut at), file, None, 1),
    );
    show("same pipe", splice(one.reader, None, one.writer, None, 1));
    show(
        "not to be read",
        splice(one.writer, None, two.writer, None, 1),
    );
    show(
        "not to be written",
        splice(one.reader, None, two.reader, None, 1),
    );
    show("no file", splice(99, None, two.writer, None, 1));
    show("no length", splice(99, None, 99, None, 0));
    let mut negative = u64::MAX;
    show(
        "negative",
        splice(one.reader, None, file, Some(&mut negative), 1),
    );
    let arguments = [one.reader as usize, 0, two.writer as usize, 0, 1, 16];
    show("flags", call(__NR_splice, arguments));
    let append = [file as usize, F_SETFL as usize, O_APPEND as usize];
    call(__NR_fcntl, append).or_fail("fcntl");
    show("append", splice(one.reader, None, file, None, 1));
    show("tee of a file", tee(file, one.writer, 1));
    show("tee to itself", tee(one.reader, one.writer, 1));
    show("vmsplice of a file", vmsplice(file, &mut [0; 4]));
}

fn ends(file: Fd) {
    let (one, two) = (pipe(), pipe());
    file::close(one.writer).or_fail("close");
    file::close(two.reader).or_fail("close");
    show("no writer", splice(one.reader, None, file, Some(&mut 0), 1));
    show("no reader", splice(file, Some(&mut 0), two.writer, None, 1));
    show("tee without writer", tee(one.reader, two.writer, 1));
    show("vmsplice without reader", vmsplice(two.writer, &mut [0; 4]));
}

fn socket_pair() -> [Fd; 2] {
    let mut ends: [Fd; 2] = [0; 2];
    let kind = (SOCK_STREAM | O_NONBLOCK) as usize;
    let to = ends.as_mut_ptr() as usize;
    call(__NR_socketpair, [AF_UNIX as usize, kind, 0, to]).or_fail("socketpair");
    ends
}

/// Two sockets, the first of which cannot send any more.
fn full_socket() -> [Fd; 2] {
    let ends = socket_pair();
    while file::write(ends[0], &[b's'; 4096]).is_ok() {}
    while file::write(ends[0], b"s").is_ok() {}
    ends
}

fn close(fds: &[Fd]) {
    for &fd in fds {
        file::close(fd).or_fail("close");
    }
}

fn show_read(case: &str, fd: Fd) {
    let mut bytes = [0; 64];
    match file::read(fd, &mut bytes) {
        Ok(count) => println!(
            "{case}: {}",
            core::str::from_utf8(&bytes[..count]).unwrap_or("?")
        ),
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn sockets() {
    let pipe = pipe();
    let [full, reader] = full_socket();
    file::write_all(pipe.writer, b"stays").or_fail("write");
    show(
        "to a full socket",
        splice(pipe.reader, None, full, None, 10),
    );
    show_read("it is all there", pipe.reader);
    close(&[full, reader]);
    let [one, two] = socket_pair();
    file::write_all(pipe.writer, b"travels").or_fail("write");
    show("to a socket", splice(pipe.reader, None, one, None, 4));
    show("and out of it", splice(two, None, pipe.writer, None, 100));
    show_read("in order", pipe.reader);
    show(
        "nothing is there",
        splice(two, None, pipe.writer, None, 100),
    );
    file::write_all(one, b"waits").or_fail("write");
    let fill = [0u8; 4096];
    call(
        __NR_fcntl,
        [pipe.writer as usize, F_SETFL as usize, O_NONBLOCK as usize],
    )
    .or_fail("fcntl");
    while file::write(pipe.writer, &fill).is_ok() {}
    show("to a full pipe", splice(two, None, pipe.writer, None, 100));
    show_read("it is still in the socket", two);
    close(&[one]);
    show(
        "to a socket that is gone",
        splice(pipe.reader, None, two, None, 1),
    );
    close(&[two, pipe.reader, pipe.writer]);
}

/// A packet stays one, in its pipe and in the next.
fn packets() {
    let from = file::pipe2(O_DIRECT).or_fail("pipe");
    let to = pipe();
    let [full, reader] = full_socket();
    for text in [b"first", b"other", b"third"] {
        file::write_all(from.writer, text).or_fail("write");
    }
    show(
        "a packet to a full socket",
        splice(from.reader, None, full, None, 10),
    );
    show_read("a packet", from.reader);
    show("packets", splice(from.reader, None, to.writer, None, 7));
    show_read("one", to.reader);
    show_read("and a part", to.reader);
    show_read("the rest", from.reader);
    file::write_all(to.writer, b"no packet").or_fail("write");
    show("no packet", splice(to.reader, None, from.writer, None, 9));
    let mut two = [0; 2];
    for _ in 0..2 {
        show("two bytes of it", file::read(from.reader, &mut two));
    }
    close(&[full, reader, from.reader, from.writer, to.reader, to.writer]);
}

extern "C" fn nothing(_: u32, _: &mut signal::Info, _: &mut signal::Context) {}

/// A signal ends the sleep, for data and for room.
fn sleeping() {
    let (one, two) = (pipe(), pipe());
    signal::set_action(SIGALRM, &signal::Action::call(nothing, 0)).or_fail("sigaction");
    let soon = || {
        let interval = [0u64, 0, 0, 30_000];
        let at = interval.as_ptr() as usize;
        call(__NR_setitimer, [ITIMER_REAL as usize, at, 0]).or_fail("setitimer");
    };
    let (from, to) = (one.reader as usize, two.writer as usize);
    soon();
    show("for data", call(__NR_splice, [from, 0, to, 0, 10, 0]));
    soon();
    show("tee, for data", call(__NR_tee, [from, to, 10, 0]));
    for _ in 0..16 {
        file::write_all(two.writer, &[0; 4096]).or_fail("write");
    }
    file::write_all(one.writer, b"here").or_fail("write");
    soon();
    show("for room", call(__NR_splice, [from, 0, to, 0, 10, 0]));
    show_read("what was to go", one.reader);
    close(&[one.reader, one.writer, two.reader, two.writer]);
}

/// Who reads beside a splice that cannot go on sees all in order.
fn two_readers() {
    const WORDS: u64 = 20_000;
    let pipe = pipe();
    let [full, other] = full_socket();
    let writer = process::fork_child(|| {
        for word in 1..=WORDS {
            file::write_all(pipe.writer, &word.to_ne_bytes()).or_fail("write");
        }
        0
    })
    .or_fail("fork");
    let splicer = process::fork_child(|| {
        loop {
            if splice(pipe.reader, None, full, None, 64) != Err(Errno::EAGAIN) {
                return 1;
            }
        }
    })
    .or_fail("fork");
    let mut in_order = true;
    for word in 1..=WORDS {
        let mut bytes = [0; 8];
        let count = file::read(pipe.reader, &mut bytes).or_fail("read");
        in_order &= count == 8 && u64::from_ne_bytes(bytes) == word;
    }
    println!("two readers, in order: {in_order}");
    signal::kill(splicer, SIGKILL).or_fail("kill");
    process::wait(splicer).or_fail("wait");
    process::expect_success(writer);
    close(&[full, other, pipe.reader, pipe.writer]);
}
