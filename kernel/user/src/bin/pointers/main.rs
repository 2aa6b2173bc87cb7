//! Bad pointers in every pointer argument of every system call: each must give Linux's error.
//!
//! A line per call, argument and case says what came of it, and what Linux says where that differs:
//! then the program fails. `processes` and `files` have the calls and what is special about some; that it has all calls
//! of the kernel is what the test of this program sees to.
//!
//! `qemu-aarch64` checks whole ranges of memory before it hands a call over, and so differs where Linux
//! goes as far as it can.
#![no_std]
#![no_main]

mod files;
mod kinds;
mod processes;

use core::cell::Cell;
use kinds::{Call, Case, Expected, Memory, Pointer};
use user::file::{self, Fd};
use user::linux::*;
use user::memory::{PAGE_SIZE, Pages};
use user::process::{self, Status};
use user::signal;
use user::{Args, Errno, OrFail, Result, check, println, syscall, text::Text};

user::program!(main, "usage: pointers");

fn main(args: Args) {
    // Also ends what an execve starts that should have failed.
    if args.argv.count() != 1 || args.argv.first() == Some(c"") {
        args.usage();
    }
    let name = Text::new(format_args!("/tmp/pointers-{}", process::getpid()));
    let own = name.as_c_str().as_ptr() as usize;
    invoke(__NR_mkdirat, [HERE, own, 0o755]).or_fail("mkdir");
    invoke(__NR_chdir, [own]).or_fail("chdir");
    prepare();
    let mut wrong = 0;
    for call in processes::CALLS.iter().chain(files::CALLS) {
        println!("call {}", call.name);
        if call.pointers.is_empty() {
            continue;
        }
        // In a process of its own: what one call leaves behind does not matter to the next.
        let child = process::fork_child(|| match Test::new(call).run() {
            0 => 0,
            _ => 1,
        });
        match process::wait(child.or_fail("fork")).or_fail("wait") {
            Status::Exited(0) => {}
            status => {
                wrong += 1;
                println!("{}: {status:?}", call.name);
            }
        }
    }
    for name in ["file\0", "other\0", "link\0"] {
        invoke(__NR_unlinkat, [HERE, name.as_ptr() as usize, 0]).or_fail("unlink");
    }
    invoke(__NR_unlinkat, [HERE, own, AT_REMOVEDIR as usize]).or_fail("rmdir");
    check!(wrong == 0, "{wrong} calls differ from Linux's");
    println!("pointers: done");
}

/// The current directory, where a call wants a descriptor.
pub const HERE: usize = AT_FDCWD as usize;

/// A system call with memory of this program's alone, or none.
fn invoke<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: no Rust object lies in the pages of a test; all else are strings and words of the
    // callers that stay where they are.
    unsafe { syscall(number, arguments) }
}

/// The files that the calls have: a regular file with 64 bytes, another, a directory, a pipe, an
/// eventfd that an epoll watches, a timerfd, devices.
fn prepare() {
    let create = (O_RDWR | O_CREAT | O_TRUNC) as usize;
    for (name, fd) in [("file\0", kinds::FILE), ("other\0", kinds::OTHER)] {
        let opened = invoke(__NR_openat, [HERE, name.as_ptr() as usize, create, 0o644]);
        put_at(opened.or_fail("open") as Fd, fd);
        file::write_all(fd as Fd, &[b'x'; 64]).or_fail("write");
    }
    let (target, link) = (c"target".as_ptr(), c"link".as_ptr());
    invoke(__NR_symlinkat, [target as usize, HERE, link as usize]).or_fail("symlink");
    put_at(
        file::open(c".", O_DIRECTORY).or_fail("open"),
        kinds::DIRECTORY,
    );
    put_at(
        file::open(c"/dev/null", O_RDWR).or_fail("open"),
        kinds::NULL,
    );
    put_at(
        file::open(c"/dev/zero", O_RDWR).or_fail("open"),
        kinds::ZERO,
    );
    let pipe = file::pipe2(0).or_fail("pipe");
    put_at(pipe.reader, kinds::READER);
    put_at(pipe.writer, kinds::WRITER);
    let event = invoke(__NR_eventfd2, [1, 0]).or_fail("eventfd");
    put_at(event as Fd, kinds::EVENT);
    let epoll = invoke(__NR_epoll_create1, [0]).or_fail("epoll");
    put_at(epoll as Fd, kinds::EPOLL);
    let wanted = [u64::from(EPOLLIN), 7];
    let add = [
        kinds::EPOLL,
        EPOLL_CTL_ADD as usize,
        kinds::EVENT,
        wanted.as_ptr() as usize,
    ];
    invoke(__NR_epoll_ctl, add).or_fail("epoll_ctl");
    let timer = invoke(__NR_timerfd_create, [CLOCK_MONOTONIC as usize, 0]);
    put_at(timer.or_fail("timerfd") as Fd, kinds::TIMER);
    prepare_sockets();
}

/// Sockets: two that are connected, and one that listens.
fn prepare_sockets() {
    let mut ends = [0 as Fd; 2];
    let to = ends.as_mut_ptr() as usize;
    invoke(__NR_socketpair, [1, 2, 0, to]).or_fail("socketpair");
    put_at(ends[0], kinds::ONE);
    put_at(ends[1], kinds::OTHER_END);
    let listener = invoke(__NR_socket, [1, 1, 0]).or_fail("socket");
    put_at(listener as Fd, kinds::LISTENER);
    // Any abstract name.
    let family = 1u16;
    let from = (&raw const family) as usize;
    invoke(__NR_bind, [kinds::LISTENER, from, 2]).or_fail("bind");
    invoke(__NR_listen, [kinds::LISTENER, 16]).or_fail("listen");
}

fn put_at(fd: Fd, wanted: usize) {
    file::dup3(fd, wanted as Fd, 0).or_fail("dup3");
    file::close(fd).or_fail("close");
}

/// The memory of one argument: a page to read and write, a hole, a page to read.
#[derive(Clone, Copy)]
struct Area(Pages);

impl Area {
    fn new() -> Area {
        let pages = Pages::map(3).or_fail("mapping pages");
        pages.part(1, 1).unmap().or_fail("unmapping a page");
        Area(pages)
    }

    /// Copies bytes to an address in the area.
    fn fill(self, address: usize, bytes: impl Iterator<Item = u8>) {
        for (at, byte) in (address..).zip(bytes) {
            // SAFETY: the callers stay in the area, where no Rust object lies.
            unsafe { (at as *mut u8).write_volatile(byte) };
        }
    }

    fn writable(self) -> usize {
        self.0.address(0)
    }

    fn hole(self) -> usize {
        self.0.address(1)
    }

    /// Where `memory` is for this case, filled with what the call shall find.
    fn address(self, case: Case, memory: Memory, nested: usize) -> usize {
        let size = memory.size();
        let address = match case {
            Case::Valid => self.writable(),
            Case::Null => return 0,
            Case::Unmapped => return self.hole(),
            Case::Kernel => return 0xffff_ff80_0000_0000,
            Case::ReadOnly => self.0.address(2),
            Case::Straddle => self.hole() - memory.before_hole(),
            Case::Unaligned => self.writable() + 1,
        };
        let end = match case {
            Case::Straddle => self.hole(),
            _ => address + size,
        };
        let last = self.0.part(2, 1);
        last.protect(PROT_READ | PROT_WRITE).or_fail("mprotect");
        let room = end - address;
        match memory {
            Memory::Text(text) => self.fill(address, text.bytes().take(room)),
            Memory::Bytes(bytes) => self.fill(address, bytes.iter().copied().take(room)),
            Memory::Words(words) | Memory::Exchange(words) => {
                let bytes = words.iter().flat_map(|word| word.to_le_bytes());
                self.fill(address, bytes.take(room));
            }
            Memory::Vector => {
                let words = [nested as u64, kinds::NESTED as u64];
                let bytes = words.into_iter().flat_map(u64::to_le_bytes);
                self.fill(address, bytes.take(room));
            }
            Memory::Room => self.fill(address, 16u32.to_le_bytes().into_iter().take(room)),
            Memory::Space(_) | Memory::Untouched | Memory::Source | Memory::Sink => {}
        }
        last.protect(PROT_READ).or_fail("mprotect");
        address
    }
}

/// The cases of one call.
struct Test {
    call: &'static Call,
    areas: [Area; 6],
    /// Behind the vectors.
    inner: Area,
    pid: i32,
    wrong: Cell<u32>,
}

impl Test {
    fn new(call: &'static Call) -> Test {
        Test {
            call,
            areas: core::array::from_fn(|_| Area::new()),
            inner: Area::new(),
            pid: process::getpid(),
            wrong: Cell::new(0),
        }
    }

    /// Returns how many differ from Linux's.
    fn run(&self) -> u32 {
        let name = self.call.name;
        let mut good = Ok(0);
        if !self.call.leaves {
            good = self.result(None, Case::Valid);
            println!("{name} {}good: {}", self.call.note, Shown(good));
        }
        if good == Err(Errno::EFAULT) {
            self.wrong.set(1);
        }
        for pointer in self.call.pointers {
            for case in Case::BAD {
                self.case(pointer, case, good);
            }
        }
        self.wrong.get()
    }

    fn case(&self, pointer: &Pointer, case: Case, good: Result<usize>) {
        let expected = match pointer.expected(case) {
            Expected::Skipped => return,
            Expected::Error(errno) => Err(errno),
            Expected::Value(value) => Ok(value),
            Expected::Same => good,
        };
        let seen = self.result(Some(pointer), case);
        let exact = matches!(pointer.expected(case), Expected::Value(_));
        let right = match (seen, expected) {
            (Ok(seen), Ok(expected)) => !exact || seen == expected,
            (seen, expected) => seen == expected,
        };
        let name = self.call.name;
        let (note, at) = (self.call.note, pointer.name());
        match (exact, seen) {
            (true, Ok(count)) => println!("{name} {note}{at} {case:?}: {count}"),
            _ => println!("{name} {note}{at} {case:?}: {}", Shown(seen)),
        }
        if !right {
            self.wrong.set(self.wrong.get() + 1);
            println!("    on Linux: {expected:?}");
        }
    }

    /// Makes the call, with this case in place of one pointer.
    fn result(&self, bad: Option<&Pointer>, case: Case) -> Result<usize> {
        let mut arguments = self.call.arguments;
        if let Some(before) = self.call.before {
            before(&mut arguments);
        }
        let nested = self
            .call
            .pointers
            .iter()
            .find(|pointer| pointer.is_nested());
        let mut inner = self.inner.writable();
        for pointer in nested.into_iter().chain(self.call.pointers) {
            let is_bad = bad.is_some_and(|bad| core::ptr::eq(bad, pointer));
            let case = if is_bad { case } else { Case::Valid };
            if pointer.is_nested() {
                inner = self.inner.address(case, pointer.memory, 0);
            } else {
                let area = self.areas[pointer.at];
                arguments[pointer.at] = area.address(case, pointer.memory, inner);
            }
        }
        let result = invoke(self.call.number, arguments);
        if process::getpid() != self.pid {
            process::exit(0);
        }
        if let Some(after) = self.call.after {
            after(result);
        }
        result
    }
}

/// A result without its value.
struct Shown(Result<usize>);

impl core::fmt::Display for Shown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Ok(_) => f.write_str("ok"),
            Err(errno) => errno.fmt(f),
        }
    }
}

/// What has to be there before a call, or happen after it.
mod hooks {
    use super::*;

    extern "C" fn handle(_: u32, _: &mut signal::Info, _: &mut signal::Context) {}

    fn remove(name: &str, flags: u32) {
        let _ = invoke(
            __NR_unlinkat,
            [HERE, name.as_ptr() as usize, flags as usize],
        );
    }

    fn make(name: &str) {
        let flags = (O_CREAT | O_RDWR) as usize;
        let fd = invoke(__NR_openat, [HERE, name.as_ptr() as usize, flags, 0o644]);
        file::close(fd.or_fail("open") as Fd).or_fail("close");
    }

    pub fn child_that_ended(_: &mut [usize; 6]) {
        process::fork_child(|| 0).or_fail("fork");
    }

    pub fn no_new_name(_: &mut [usize; 6]) {
        remove("new\0", 0);
        remove("new\0", AT_REMOVEDIR);
    }

    pub fn removed(_: Result<usize>) {
        no_new_name(&mut [0; 6]);
        remove("moved\0", 0);
    }

    pub fn new_name(_: &mut [usize; 6]) {
        remove("moved\0", 0);
        make("new\0");
    }

    pub fn closed(result: Result<usize>) {
        if let Ok(fd) = result {
            file::close(fd as Fd).or_fail("close");
        }
    }

    pub fn bytes_in_the_pipe(_: &mut [usize; 6]) {
        let mut waiting = 0u32;
        let ask = [kinds::READER, user::ioctl::FIONREAD as usize];
        let to = (&raw mut waiting) as usize;
        invoke(__NR_ioctl, [ask[0], ask[1], to]).or_fail("FIONREAD");
        if waiting == 0 {
            file::write_all(kinds::WRITER as Fd, &[b'x'; 16]).or_fail("write");
        }
    }

    pub fn room_in_the_pipe(_: &mut [usize; 6]) {
        let mut bytes = [0; 64];
        bytes_in_the_pipe(&mut [0; 6]);
        file::read(kinds::READER as Fd, &mut bytes).or_fail("read");
    }

    pub fn not_watched(_: &mut [usize; 6]) {
        let delete = EPOLL_CTL_DEL as usize;
        let _ = invoke(__NR_epoll_ctl, [kinds::EPOLL, delete, kinds::READER, 0]);
    }

    pub fn from_the_start(_: &mut [usize; 6]) {
        for fd in [kinds::FILE, kinds::OTHER, kinds::DIRECTORY] {
            invoke(__NR_lseek, [fd, 0, SEEK_SET as usize]).or_fail("lseek");
        }
    }

    /// A new socket, as argument 0.
    pub fn socket(arguments: &mut [usize; 6]) {
        arguments[0] = invoke(__NR_socket, [1, 2, 0]).or_fail("socket");
    }

    pub fn somebody_connects(_: &mut [usize; 6]) {
        let mut name = [0u8; 110];
        let mut len = 110u32;
        let to = name.as_mut_ptr() as usize;
        let room = (&raw mut len) as usize;
        invoke(__NR_getsockname, [kinds::LISTENER, to, room]).or_fail("getsockname");
        let client = invoke(__NR_socket, [1, 1, 0]).or_fail("socket");
        invoke(__NR_connect, [client, to, len as usize]).or_fail("connect");
        close(client);
    }

    fn close(fd: usize) {
        file::close(fd as Fd).or_fail("close");
    }

    pub fn sent(_: &mut [usize; 6]) {
        received(Ok(0));
        file::write_all(kinds::ONE as Fd, &[b'x'; 16]).or_fail("write");
    }

    pub fn received(_: Result<usize>) {
        let mut bytes = [0u8; 64];
        let to = bytes.as_mut_ptr() as usize;
        const DONT_WAIT: usize = 64;
        while invoke(__NR_recvfrom, [kinds::OTHER_END, to, 64, DONT_WAIT, 0, 0]).is_ok() {}
    }

    /// Sixteen pages, as argument 0.
    pub fn mapped_pages(arguments: &mut [usize; 6]) {
        arguments[0] = Pages::map(16).or_fail("mapping pages").address(0);
    }

    /// A timer, as argument 0.
    pub fn timer(arguments: &mut [usize; 6]) {
        let mut id = 0u32;
        let to = (&raw mut id) as usize;
        invoke(__NR_timer_create, [CLOCK_MONOTONIC as usize, 0, to]).or_fail("timer_create");
        arguments[0] = id as usize;
    }

    /// This process, as argument 0.
    pub fn to_this_process(arguments: &mut [usize; 6]) {
        arguments[0] = process::getpid() as usize;
    }

    /// Its first thread, as argument 1.
    pub fn to_this_thread(arguments: &mut [usize; 6]) {
        to_this_process(arguments);
        arguments[1] = arguments[0];
    }

    /// This program, as argument 0.
    pub fn own_program(arguments: &mut [usize; 6]) {
        arguments[0] = c"/proc/self/exe".as_ptr() as usize;
    }

    pub fn one_group(_: &mut [usize; 6]) {
        let groups = [1u32];
        // Who is not root keeps his own.
        let _ = invoke(__NR_setgroups, [1, groups.as_ptr() as usize]);
    }

    pub fn counted(_: &mut [usize; 6]) {
        file::write_all(kinds::EVENT as Fd, &1u64.to_le_bytes()).or_fail("write");
    }

    pub fn pending_signal(_: &mut [usize; 6]) {
        signal::set_action(SIGUSR1, &signal::Action::call(handle, 0)).or_fail("rt_sigaction");
        signal::block(1 << (SIGUSR1 - 1)).or_fail("rt_sigprocmask");
        signal::kill(process::getpid(), SIGUSR1).or_fail("kill");
    }
}

/// Pages are what the cases rest on.
const _: () = assert!(PAGE_SIZE == 4096);
