//! Wrong arguments to every system call of ours: each must give the error that Linux gives, and no
//! call may crash.
//!
//! Every case is tried, the ones that differ are printed, and the program fails if there are any.
//! `qemu-aarch64` differs where it does not hand the call to the host's kernel as it is.
#![no_std]
#![no_main]

use core::cell::Cell;
use core::fmt::Display;
use user::file::{self, O_CLOEXEC, Pipe};
use user::linux::*;
use user::memory::{PAGE_SIZE, Pages};
use user::process::{self, Status};
use user::{Args, Errno, OrFail, Result, check, println, syscall};

user::program!(main, "usage: syscalls");

macro_rules! short {
    ($($name:ident)*) => { $(const $name: Errno = Errno::$name;)* };
}
short!(EACCES EAGAIN EBADF ECHILD EFAULT EINVAL ENAMETOOLONG ENODEV ENOENT ENOMEM);
short!(ENOSYS ENOTTY ESPIPE ESRCH);

const BAD_FD: usize = 99;
/// A descriptor that is no number at all.
const NO_FD: usize = usize::MAX;
/// The current directory, for openat.
const HERE: usize = AT_FDCWD as usize;
const RW: usize = (PROT_READ | PROT_WRITE) as usize;
const PRIVATE: usize = (MAP_PRIVATE | MAP_ANONYMOUS) as usize;

fn main(args: Args) {
    // Also ends what an execve with bad arguments starts, on a kernel that lets it pass.
    if args.argv.count() != 1 || args.argv.first() == Some(c"") {
        args.usage();
    }
    let t = Test::new();
    files(&t);
    pipes(&t);
    memory(&t);
    processes(&t);
    exec(&t, &args);
    time(&t);
    unknown(&t);
    check!(
        t.wrong.get() == 0,
        "{} of {} results differ from Linux's",
        t.wrong.get(),
        t.cases.get()
    );
    println!(
        "syscalls: {} wrong calls gave Linux's errors",
        t.cases.get()
    );
}

/// What the cases need, and the count of them.
struct Test {
    /// Addresses that no program may hand over: unmapped, null, the kernel's, the last of all.
    bad: [usize; 5],
    /// A readable and writable page, followed by one that is not mapped.
    page: Pages,
    /// A page that may only be read.
    read_only: Pages,
    pipe: Pipe,
    cases: Cell<u32>,
    wrong: Cell<u32>,
}

impl Test {
    fn new() -> Self {
        let pages = Pages::map(3).or_fail("mapping pages");
        pages.write(0, 0);
        let read_only = pages.part(2, 1);
        read_only.protect(PROT_READ).or_fail("mprotect");
        pages.part(1, 1).unmap().or_fail("munmap");
        Self {
            bad: [
                pages.address(1),
                0,
                0xffff_ff80_0000_0000,
                0x00ff_0000_0000_0000,
                usize::MAX - 7,
            ],
            page: pages.part(0, 1),
            read_only,
            pipe: file::pipe2(0).or_fail("making a pipe"),
            cases: Cell::new(0),
            wrong: Cell::new(0),
        }
    }

    /// A system call to get wrong.
    fn call(&self, name: &'static str, number: u32) -> Call<'_> {
        Call {
            test: self,
            name,
            number,
        }
    }

    fn result(&self, name: impl Display, seen: Result<usize>, expected: Result<usize>) {
        self.cases.set(self.cases.get() + 1);
        if seen != expected {
            self.wrong.set(self.wrong.get() + 1);
            println!("syscalls: {name}: {seen:x?}, where Linux gives {expected:x?}");
        }
    }

    /// A C string in the page.
    fn path(&self, text: &[u8]) -> usize {
        for (n, word) in (0..).zip(text.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.page.write_word(0, n, u64::from_ne_bytes(bytes));
        }
        self.page.write_word(0, text.len().div_ceil(8), 0);
        self.page.address(0)
    }
}

/// One system call.
struct Call<'a> {
    test: &'a Test,
    name: &'static str,
    number: u32,
}

impl Call<'_> {
    /// The call, with these arguments, must give this error.
    fn error<const N: usize>(&self, what: &str, arguments: [usize; N], expected: Errno) {
        // SAFETY: the calls here fail, or touch only the pages of the test.
        let seen = unsafe { syscall(self.number, arguments) };
        self.test
            .result(format_args!("{} {what}", self.name), seen, Err(expected));
    }

    /// The call must give EFAULT for each bad address, put in place of argument `at`.
    fn fault<const N: usize>(&self, what: &str, mut arguments: [usize; N], at: usize) {
        for address in self.test.bad {
            arguments[at] = address;
            self.error(what, arguments, EFAULT);
        }
    }
}

fn files(t: &Test) {
    let write = t.call("write", __NR_write);
    let read = t.call("read", __NR_read);
    let writev = t.call("writev", __NR_writev);
    let openat = t.call("openat", __NR_openat);
    let close = t.call("close", __NR_close);
    let dup3 = t.call("dup3", __NR_dup3);
    let lseek = t.call("lseek", __NR_lseek);
    let ioctl = t.call("ioctl", __NR_ioctl);
    let buffer = t.page.address(0);
    let Pipe { reader, writer } = t.pipe;
    let (reader, writer) = (reader as usize, writer as usize);
    file::write_all(t.pipe.writer, b"data").or_fail("writing to the pipe");

    write.fault("from a bad address", [writer, 0, 8], 1);
    read.fault("to a bad address", [reader, 0, 8], 1);
    read.error(
        "to a read-only page",
        [reader, t.read_only.address(0), 4],
        EFAULT,
    );
    for fd in [BAD_FD, NO_FD, 1 << 31] {
        read.error("of a bad descriptor", [fd, buffer, 1], EBADF);
        write.error("to a bad descriptor", [fd, buffer, 1], EBADF);
    }
    read.error("of the writing end", [writer, buffer, 1], EBADF);
    write.error("to the reading end", [reader, buffer, 1], EBADF);
    writev.fault("with a bad vector", [writer, 0, 1], 1);
    writev.error("of too many pieces", [writer, buffer, 1025], EINVAL);
    writev.error("to a bad descriptor", [BAD_FD, buffer, 0], EBADF);

    openat.fault("with a bad path", [HERE, 0, 0, 0], 1);
    openat.error("of nothing", [HERE, t.path(b""), 0, 0], ENOENT);
    openat.error(
        "of a missing file",
        [HERE, t.path(b"/no/such/file"), 0, 0],
        ENOENT,
    );
    openat.error(
        "of a missing name",
        [HERE, t.path(b"/no-such-file"), 0, 0],
        ENOENT,
    );
    openat.error(
        "of a long name",
        [HERE, t.path(&[b'x'; 300]), 0, 0],
        ENAMETOOLONG,
    );
    openat.error(
        "under a bad descriptor",
        [BAD_FD, t.path(b"file"), 0, 0],
        EBADF,
    );
    // The last byte before an unmapped page is not a NUL: the path has no end.
    t.page.write_word(0, 511, u64::from_ne_bytes(*b"/no/such"));
    openat.error(
        "with an endless path",
        [HERE, t.page.address(1) - 8, 0, 0],
        EFAULT,
    );
    t.page.write_word(0, 511, u64::from_ne_bytes(*b"/nofile\0"));
    openat.error(
        "with a path up to a hole",
        [HERE, t.page.address(1) - 8, 0, 0],
        ENOENT,
    );

    close.error("", [BAD_FD], EBADF);
    close.error("", [NO_FD], EBADF);
    dup3.error("of a bad descriptor", [BAD_FD, 50, 0], EBADF);
    dup3.error("to itself", [reader, reader, 0], EINVAL);
    dup3.error("with bad flags", [reader, 50, 1], EINVAL);
    dup3.error("to a bad descriptor", [reader, NO_FD, 0], EBADF);
    lseek.error("of a pipe", [reader, 0, 0], ESPIPE);
    lseek.error("of a bad descriptor", [BAD_FD, 0, 0], EBADF);
    ioctl.error("of a bad descriptor", [BAD_FD, 0x5401, buffer], EBADF);
    ioctl.error("TCGETS of a pipe", [reader, 0x5401, buffer], ENOTTY);
}

fn pipes(t: &Test) {
    let pipe2 = t.call("pipe2", __NR_pipe2);
    let read = t.call("read", __NR_read);
    pipe2.fault("to a bad address", [0, 0], 0);
    pipe2.error("to a read-only page", [t.read_only.address(0), 0], EFAULT);
    pipe2.error("with bad flags", [t.page.address(0), 1], EINVAL);
    // A pipe that could not be handed over must not have taken descriptors.
    let next = file::pipe2(O_CLOEXEC).or_fail("making a pipe");
    t.result(
        "the next free descriptor",
        Ok(next.reader as usize),
        Ok(t.pipe.writer as usize + 1),
    );
    file::close(next.reader).or_fail("close");
    file::close(next.writer).or_fail("close");
    // Nothing to read, and room for a part only: up to the hole the data goes through.
    let empty = file::pipe2(O_NONBLOCK).or_fail("making a pipe");
    let (reader, writer) = (empty.reader as usize, empty.writer as usize);
    read.error(
        "of an empty O_NONBLOCK pipe",
        [reader, t.page.address(0), 1],
        EAGAIN,
    );
    // SAFETY: write only reads memory; read writes to the page of `t`.
    unsafe {
        let nothing = syscall(__NR_write, [writer, t.page.address(0), 0]);
        t.result("write of no bytes", nothing, Ok(0));
        t.result(
            "read of no bytes",
            syscall(__NR_read, [reader, t.page.address(0), 0]),
            Ok(0),
        );
    }
    file::close(empty.reader).or_fail("close");
    file::close(empty.writer).or_fail("close");
}

fn memory(t: &Test) {
    let mmap = t.call("mmap", __NR_mmap);
    let munmap = t.call("munmap", __NR_munmap);
    let mprotect = t.call("mprotect", __NR_mprotect);
    let page = t.page.address(0);
    mmap.error("of no bytes", [0, 0, RW, PRIVATE, NO_FD, 0], EINVAL);
    mmap.error(
        "of everything",
        [0, usize::MAX, RW, PRIVATE, NO_FD, 0],
        ENOMEM,
    );
    mmap.error(
        "of half of everything",
        [0, 1 << 63, RW, PRIVATE, NO_FD, 0],
        ENOMEM,
    );
    mmap.error("of 2^60 bytes", [0, 1 << 60, RW, PRIVATE, NO_FD, 0], ENOMEM);
    let anonymous = MAP_ANONYMOUS as usize;
    mmap.error(
        "neither shared nor private",
        [0, PAGE_SIZE, RW, anonymous, NO_FD, 0],
        EINVAL,
    );
    let private = MAP_PRIVATE as usize;
    mmap.error(
        "of a bad descriptor",
        [0, PAGE_SIZE, RW, private, BAD_FD, 0],
        EBADF,
    );
    mmap.error(
        "of a pipe",
        [0, PAGE_SIZE, RW, private, t.pipe.reader as usize, 0],
        ENODEV,
    );
    mmap.error(
        "at half a page of a file",
        [0, PAGE_SIZE, RW, PRIVATE, NO_FD, 1],
        EINVAL,
    );
    let fixed = PRIVATE | MAP_FIXED as usize;
    mmap.error(
        "fixed at half a page",
        [page + 1, PAGE_SIZE, RW, fixed, NO_FD, 0],
        EINVAL,
    );
    mmap.error(
        "fixed in the kernel",
        [t.bad[2], PAGE_SIZE, RW, fixed, NO_FD, 0],
        ENOMEM,
    );

    munmap.error("at half a page", [page + 1, PAGE_SIZE], EINVAL);
    munmap.error("of no bytes", [page, 0], EINVAL);
    munmap.error("of the kernel", [t.bad[2], PAGE_SIZE], EINVAL);
    munmap.error("of everything", [0, usize::MAX], EINVAL);

    mprotect.error("at half a page", [page + 1, PAGE_SIZE, RW], EINVAL);
    mprotect.error(
        "of nothing mapped",
        [t.page.address(1), PAGE_SIZE, RW],
        ENOMEM,
    );
    mprotect.error("of the kernel", [t.bad[2], PAGE_SIZE, RW], ENOMEM);
    mprotect.error("to what does not exist", [page, PAGE_SIZE, 1 << 20], EINVAL);
    mprotect.error("beyond the end", [page, usize::MAX - PAGE_SIZE, RW], ENOMEM);

    let mremap = t.call("mremap", __NR_mremap);
    let (may_move, fixed) = (MREMAP_MAYMOVE as usize, MREMAP_FIXED as usize);
    let (unmapped, one) = (t.page.address(1), PAGE_SIZE);
    mremap.error("at half a page", [page + 1, one, one, 0, 0], EINVAL);
    mremap.error("to no bytes", [page, one, 0, 0, 0], EINVAL);
    mremap.error("with bad flags", [page, one, one, 8, 0], EINVAL);
    mremap.error(
        "fixed, but not to be moved",
        [page, one, one, fixed, 0],
        EINVAL,
    );
    mremap.error("of nothing mapped", [unmapped, one, 2 * one, 0, 0], EFAULT);
    mremap.error(
        "of more than is mapped",
        [page, 2 * one, 3 * one, may_move, 0],
        EFAULT,
    );
    mremap.error(
        "onto itself",
        [page, one, 2 * one, may_move | fixed, page],
        EINVAL,
    );
    mremap.error(
        "to half a page",
        [page, one, one, may_move | fixed, page + one + 1],
        EINVAL,
    );
    let madvise = t.call("madvise", __NR_madvise);
    let drop = MADV_DONTNEED as usize;
    madvise.error("at half a page", [page + 1, one, drop], EINVAL);
    madvise.error("of nothing mapped", [unmapped, one, drop], ENOMEM);
    for (what, advice) in [
        ("populating to read", MADV_POPULATE_READ as usize),
        ("populating to write", MADV_POPULATE_WRITE as usize),
    ] {
        madvise.error(what, [unmapped, one, advice], ENOMEM);
        madvise.error(what, [page + 1, one, advice], EINVAL);
        madvise.error(what, [page, usize::MAX, advice], EINVAL);
    }
    for (what, advice) in [
        ("populating to read", MADV_POPULATE_READ as usize),
        ("populating to write", MADV_POPULATE_WRITE as usize),
    ] {
        madvise.error(what, [unmapped, one, advice], ENOMEM);
        madvise.error(what, [page + 1, one, advice], EINVAL);
        madvise.error(what, [page, usize::MAX, advice], EINVAL);
    }
    madvise.error("that does not exist", [page, one, 1 << 20], EINVAL);

    let msync = t.call("msync", __NR_msync);
    msync.error("at half a page", [page + 1, one, MS_SYNC as usize], EINVAL);
    msync.error("at once and later", [page, one, 5], EINVAL);
    msync.error("of nothing mapped", [unmapped, one, 0], ENOMEM);
    let mlock = t.call("mlock", __NR_mlock);
    mlock.error("of nothing mapped", [unmapped, one], ENOMEM);
    t.call("mlockall", __NR_mlockall)
        .error("of nothing", [0], EINVAL);
    // SAFETY: the page stays as it is.
    unsafe {
        let synced = syscall(__NR_msync, [page, one, MS_ASYNC as usize]);
        t.result("msync", synced, Ok(0));
        t.result("mlock", syscall(__NR_mlock, [page + 1, one - 1]), Ok(0));
    }
    // What MAP_FIXED replaces makes room under the limit.
    let child = process::fork_child(|| {
        const GIB: usize = 1 << 30;
        let limit = [(GIB + GIB / 4) as u64; 2];
        let nothing = (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) as usize;
        // SAFETY: nothing lies in the range; the limit is the child's own.
        let again = unsafe {
            let at = syscall(__NR_mmap, [0, GIB, 0, nothing, NO_FD, 0]).or_fail("mmap");
            let limit = limit.as_ptr() as usize;
            syscall(__NR_setrlimit, [RLIMIT_AS as usize, limit]).or_fail("setrlimit");
            syscall(
                __NR_mmap,
                [at, GIB, 0, nothing | MAP_FIXED as usize, NO_FD, 0],
            )
        };
        i32::from(again.is_err())
    });
    let status = process::wait(child.or_fail("fork"));
    let replaced = status.map(|status| status.code() as usize);
    t.result("MAP_FIXED under RLIMIT_AS", replaced, Ok(0));

    // brk reports no errors: it returns where the heap ends.
    // SAFETY: no Rust object lies in the heap, and none of these moves it.
    unsafe {
        let end = syscall(__NR_brk, [0]);
        t.result("brk in the kernel", syscall(__NR_brk, [t.bad[2]]), end);
        t.result("brk below the program", syscall(__NR_brk, [PAGE_SIZE]), end);
        t.result(
            "brk to the end of everything",
            syscall(__NR_brk, [usize::MAX]),
            end,
        );
    }
}

fn processes(t: &Test) {
    let wait4 = t.call("wait4", __NR_wait4);
    let clone = t.call("clone", __NR_clone);
    let kill = t.call("kill", __NR_kill);
    let rt_sigaction = t.call("rt_sigaction", __NR_rt_sigaction);
    let uname = t.call("uname", __NR_uname);
    wait4.error("without a child", [NO_FD, 0, 0, 0], ECHILD);
    wait4.error("for a stranger", [1_000_000, 0, 0, 0], ECHILD);
    wait4.error("with bad options", [NO_FD, 0, 0x100, 0], EINVAL);
    let child = process::fork_child(|| 3).or_fail("fork");
    wait4.error("for another's child", [1, 0, 0, 0], ECHILD);
    // Linux stores the status when the child has already gone.
    wait4.error("to a bad address", [child as usize, t.bad[0], 0, 0], EFAULT);
    wait4.error("after that", [child as usize, 0, 0, 0], ECHILD);
    let child = process::fork_child(|| {
        // SAFETY: touches no memory.
        let _ = unsafe { syscall(__NR_exit_group, [0x1234]) };
        0
    });
    let status = process::wait(child.or_fail("fork"));
    let low_byte = Status::Exited(0x34);
    t.result(
        "the exit code's low byte",
        status.map(|s| (s == low_byte) as usize),
        Ok(1),
    );

    for (what, flags) in [
        ("with CLONE_SIGHAND alone", CLONE_SIGHAND),
        ("with CLONE_THREAD alone", CLONE_THREAD),
        (
            "with CLONE_THREAD and CLONE_VM alone",
            CLONE_THREAD | CLONE_VM,
        ),
    ] {
        clone.error(what, [(flags | SIGCHLD) as usize, 0, 0, 0, 0], EINVAL);
    }
    kill.error("of nobody", [1_000_000, 0], ESRCH);
    kill.error(
        "with a bad signal",
        [process::getpid() as usize, 65],
        EINVAL,
    );
    // SAFETY: signal 0 only asks whether the process is there.
    let there = unsafe { syscall(__NR_kill, [process::getpid() as usize, 0]) };
    t.result("kill with signal 0", there, Ok(0));
    rt_sigaction.error("of SIGKILL", [9, t.page.address(0), 0, 8], EINVAL);
    rt_sigaction.error("of signal 65", [65, 0, 0, 8], EINVAL);
    rt_sigaction.error("with a short mask", [10, 0, 0, 4], EINVAL);
    uname.fault("to a bad address", [0], 0);
}

fn exec(t: &Test, args: &Args) {
    let execve = t.call("execve", __NR_execve);
    let bad = t.bad[0];
    execve.fault("with a bad path", [0, 0, 0], 0);
    execve.error(
        "of a missing file",
        [t.path(b"/no/such/program"), 0, 0],
        ENOENT,
    );
    execve.error("of a directory", [t.path(b"/"), 0, 0], EACCES);
    execve.error("of nothing", [t.path(b""), 0, 0], ENOENT);
    let executable = args.executable().as_ptr() as usize;
    execve.error("with bad arguments", [executable, bad, 0], EFAULT);
    execve.error("with bad environment", [executable, 0, bad], EFAULT);
    // A vector in the page, after the path: one string, at a bad address.
    t.page.write_word(0, 100, bad as u64);
    t.page.write_word(0, 101, 0);
    let vector = t.page.address(0) + 800;
    execve.error("with a bad argument", [executable, vector, 0], EFAULT);
    execve.error("with a bad variable", [executable, 0, vector], EFAULT);
}

fn time(t: &Test) {
    let clock_gettime = t.call("clock_gettime", __NR_clock_gettime);
    let getrandom = t.call("getrandom", __NR_getrandom);
    let page = t.page.address(0);
    clock_gettime.fault("to a bad address", [CLOCK_MONOTONIC as usize, 0], 1);
    clock_gettime.error("of a bad clock", [99, page], EINVAL);
    let read_only = t.read_only.address(0);
    clock_gettime.error("to a read-only page", [0, read_only], EFAULT);
    getrandom.fault("to a bad address", [0, 8, 0], 0);
    getrandom.error("with bad flags", [page, 8, 0x100], EINVAL);
}

fn unknown(t: &Test) {
    for call in [600, 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        t.call("call", call)
            .error("that does not exist", [0; 6], ENOSYS);
    }
}
