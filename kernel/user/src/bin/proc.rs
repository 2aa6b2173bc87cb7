//! What /proc tells: each fact must be the one that Linux would tell of the same process.
#![no_std]
#![no_main]

use core::ffi::CStr;
use user::file::{self, O_RDONLY};
use user::linux::*;
use user::memory::{PAGE_SIZE, Pages};
use user::process::{self, Fork};
use user::text::Text;
use user::{Args, OrFail, check, println, syscall};

user::program!(main, "usage: proc");

/// What smaps says of one mapping, in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    rss: u64,
    pss: u64,
    shared_clean: u64,
    shared_dirty: u64,
    private_clean: u64,
    private_dirty: u64,
    anonymous: u64,
}

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    names();
    usage();
    links();
    println!("proc: all as on Linux");
}

/// Reads a file to its end; how much it is.
fn read<'b>(path: &CStr, buffer: &'b mut [u8]) -> &'b [u8] {
    let fd = file::open(path, O_RDONLY).or_fail("opening a file of /proc");
    let mut len = 0;
    loop {
        // Little by little: what comes next must go on where the last ended.
        let end = buffer.len().min(len + 100);
        let count = file::read(fd, &mut buffer[len..end]).or_fail("reading it");
        if count == 0 {
            break;
        }
        len += count;
    }
    file::close(fd).or_fail("closing it");
    &buffer[..len]
}

fn text<'b>(path: &CStr, buffer: &'b mut [u8]) -> &'b str {
    core::str::from_utf8(read(path, buffer)).unwrap_or("(no text)")
}

fn names() {
    let mut buffer = [0; 1024];
    check!(
        text(c"/proc/self/comm", &mut buffer) == "proc\n",
        "comm is another's"
    );
    let arguments = read(c"/proc/self/cmdline", &mut buffer);
    check!(
        arguments.ends_with(b"proc\0") && arguments.iter().filter(|&&b| b == 0).count() == 1,
        "cmdline is {arguments:?}"
    );
    let stat = text(c"/proc/self/stat", &mut buffer);
    let mut words = stat.split_ascii_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    check!(pid == Some(process::getpid()), "stat is of {pid:?}");
    check!(
        words.next() == Some("(proc)") && words.next() == Some("R"),
        "stat is {stat}"
    );
    let parent = words.next().and_then(|word| word.parse().ok());
    check!(
        parent == Some(process::getppid()),
        "the parent is {parent:?}"
    );
    check!(
        stat.split_ascii_whitespace().count() == 52,
        "stat is {stat}"
    );
    let status = text(c"/proc/self/status", &mut buffer);
    check!(
        status.starts_with("Name:\tproc\n") && status.contains("\nState:\tR (running)\n"),
        "status is {status}"
    );
    let meminfo = text(c"/proc/meminfo", &mut buffer);
    check!(meminfo.starts_with("MemTotal: "), "meminfo is {meminfo}");
    let release = text(c"/proc/sys/kernel/osrelease", &mut buffer);
    check!(release.ends_with('\n'), "osrelease is {release}");
    let id = text(c"/proc/sys/kernel/random/uuid", &mut buffer);
    check!(id.len() == 37 && id.as_bytes()[14] == b'4', "uuid is {id}");
    check!(
        file::open(c"/proc/0", O_RDONLY).is_err() && file::open(c"/proc/01", O_RDONLY).is_err(),
        "a process 0"
    );
    println!("the names are right");
}

/// What smaps says of the mapping that begins at an address.
fn usage_of(start: usize) -> Usage {
    let mut buffer = [0; 16384];
    let smaps = text(c"/proc/self/smaps", &mut buffer);
    let head = Text::new(format_args!("{start:08x}-"));
    let head = head.as_c_str().to_str().unwrap_or("?");
    let mut usage = Usage::default();
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(head));
    check!(
        lines.next().is_some(),
        "no mapping at {start:x} in\n{smaps}"
    );
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let (name, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let value: u64 = value.parse().unwrap_or(0);
        match name {
            "Rss:" => usage.rss = value,
            "Pss:" => usage.pss = value,
            "Shared_Clean:" => usage.shared_clean = value,
            "Shared_Dirty:" => usage.shared_dirty = value,
            "Private_Clean:" => usage.private_clean = value,
            "Private_Dirty:" => usage.private_dirty = value,
            "Anonymous:" => usage.anonymous = value,
            "VmFlags:" => break,
            _ => {}
        }
    }
    usage
}

#[track_caller]
fn expect(what: &str, start: usize, expected: Usage) {
    let seen = usage_of(start);
    check!(seen == expected, "{what}: {seen:?}, not {expected:?}");
}

fn usage() {
    // A page of distance on both sides, so that no mapping joins it.
    let all = Pages::map(10).or_fail("mmap");
    all.part(0, 1).unmap().or_fail("munmap");
    all.part(9, 1).unmap().or_fail("munmap");
    let pages = all.part(1, 8);
    let start = pages.address(0);
    expect("untouched", start, Usage::default());
    for page in 0..4 {
        pages.write(page, 1);
    }
    let _ = pages.read(5);
    let own = Usage {
        rss: 16,
        pss: 16,
        private_dirty: 16,
        anonymous: 16,
        ..Usage::default()
    };
    // The page that was only read is the zero page: it counts as nothing.
    expect("four written, one read", start, own);
    let (up, down) = (
        file::pipe2(0).or_fail("pipe"),
        file::pipe2(0).or_fail("pipe"),
    );
    let mut byte = [0];
    match process::fork().or_fail("fork") {
        Fork::Child => {
            expect(
                "the child's",
                start,
                Usage {
                    rss: 16,
                    pss: 8,
                    shared_dirty: 16,
                    anonymous: 16,
                    ..Usage::default()
                },
            );
            pages.write(0, 2);
            file::write_all(up.writer, b"x").or_fail("writing");
            file::read(down.reader, &mut byte).or_fail("reading");
            process::exit(0);
        }
        Fork::Parent(child) => {
            file::read(up.reader, &mut byte).or_fail("reading");
            expect(
                "the parent's",
                start,
                Usage {
                    rss: 16,
                    pss: 10,
                    shared_dirty: 12,
                    private_dirty: 4,
                    anonymous: 16,
                    ..Usage::default()
                },
            );
            file::write_all(down.writer, b"x").or_fail("writing");
            process::expect_success(child);
        }
    }
    expect("alone again", start, own);
    check!(PAGE_SIZE == 4096, "sizes are in pages of 4 kB");
    println!("the shares are right");
}

fn links() {
    let mut buffer = [0; 64];
    let read = |path: &CStr, buffer: &mut [u8]| {
        let arguments = [
            AT_FDCWD as usize,
            path.as_ptr() as usize,
            buffer.as_mut_ptr() as usize,
            buffer.len(),
        ];
        // SAFETY: the kernel writes to the buffer only.
        unsafe { syscall(__NR_readlinkat, arguments) }.or_fail("readlink")
    };
    let count = read(c"/proc/self/exe", &mut buffer);
    check!(buffer[..count].ends_with(b"/proc"), "exe is another's");
    let pipe = file::pipe2(0).or_fail("pipe");
    let path = Text::new(format_args!("/proc/self/fd/{}", pipe.reader));
    let count = read(path.as_c_str(), &mut buffer);
    check!(buffer[..count].starts_with(b"pipe:["), "a pipe's name");
    // Opening the link opens the pipe, not a file of its name.
    let again = Text::new(format_args!("/proc/self/fd/{}", pipe.writer));
    let writer = file::open(again.as_c_str(), O_WRONLY).or_fail("opening a pipe again");
    file::write_all(writer, b"x").or_fail("writing");
    check!(
        file::read(pipe.reader, &mut buffer) == Ok(1),
        "nothing came"
    );
    println!("the links are right");
}
