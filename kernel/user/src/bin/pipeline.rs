//! A shell with much in memory, which runs pipelines of two programs: started by fork and exec, or
//! by vfork and exec.
//!
//! Under `qemu-aarch64` it fails unless the host can execute arm64 files.
#![no_std]
#![no_main]

use user::file::{self, Fd, Pipe};
use user::memory::Pages;
use user::process::{self, Pid};
use user::text::Text;
use user::{Args, OrFail, check, distinct, println};

user::program!(
    main,
    "usage: pipeline [N [both|fork|vfork]]   (default: 4 both: each way N times)"
);

/// What the shell has in memory: history, variables, functions.
const PAGES: usize = 512;

fn main(args: Args) -> i32 {
    let words = args.words();
    let (fork, vfork) = match *words {
        ["--print", line] => return print(args.number(line)),
        ["--count"] => return count(),
        [] | [_] | [_, "both"] => (true, true),
        [_, "fork"] => (true, false),
        [_, "vfork"] => (false, true),
        _ => args.usage(),
    };
    let times: u64 = words.first().map_or(4, |word| args.number(word));
    let shell = Shell {
        args,
        pages: Pages::map(PAGES).or_fail("mapping the shell's memory"),
    };
    shell.start();
    for number in 1..=times {
        if vfork {
            shell.run_by_vfork(number);
        }
        if fork {
            shell.run_by_fork(number);
        }
    }
    println!("pipeline: {times} of two programs each way");
    0
}

/// The first program of a pipeline.
fn print(line: u64) -> i32 {
    println!("{line}");
    0
}

/// The second: its status is the length of what it reads.
fn count() -> i32 {
    let mut bytes = 0;
    let mut buffer = [0; 64];
    loop {
        match file::read(0, &mut buffer).or_fail("reading") {
            0 => return bytes as i32,
            read => bytes += read,
        }
    }
}

struct Shell {
    args: Args,
    pages: Pages,
}

impl Shell {
    /// Writes to all it has, as a shell does between two commands.
    #[inline(never)]
    fn start(&self) {
        distinct!();
        for page in 0..PAGES {
            self.pages.write(page, 1);
        }
    }

    #[inline(never)]
    fn remember(&self, number: u64) {
        distinct!();
        for page in 0..PAGES {
            self.pages.write(page, number);
        }
    }

    #[inline(never)]
    fn run_by_fork(&self, number: u64) {
        distinct!();
        let pipe = file::pipe2(file::O_CLOEXEC).or_fail("making a pipe");
        let first = process::fork_child(|| self.first(pipe, number)).or_fail("fork");
        let second = process::fork_child(|| self.second(pipe)).or_fail("fork");
        self.finish(pipe, [first, second], number);
    }

    #[inline(never)]
    fn run_by_vfork(&self, number: u64) {
        distinct!();
        let pipe = file::pipe2(file::O_CLOEXEC).or_fail("making a pipe");
        let first = process::vfork(|| self.first(pipe, number)).or_fail("vfork");
        let second = process::vfork(|| self.second(pipe)).or_fail("vfork");
        self.finish(pipe, [first, second], number);
    }

    fn first(&self, pipe: Pipe, number: u64) -> i32 {
        let number = Text::new(number as i32);
        self.exec(pipe.writer, 1, &[c"--print", number.as_c_str()])
    }

    fn second(&self, pipe: Pipe) -> i32 {
        self.exec(pipe.reader, 0, &[c"--count"])
    }

    fn exec(&self, end: Fd, fd: Fd, arguments: &[&core::ffi::CStr]) -> i32 {
        file::dup3(end, fd, 0).or_fail("dup3");
        let errno = process::exec_self(&self.args, arguments);
        user::fail!("exec of {:?}: {errno}", self.args.executable())
    }

    fn finish(&self, pipe: Pipe, [first, second]: [Pid; 2], number: u64) {
        file::close(pipe.reader).or_fail("closing the pipe");
        file::close(pipe.writer).or_fail("closing the pipe");
        process::expect_success(first);
        let status = process::wait(second).or_fail("waiting").code();
        let digits = number.checked_ilog10().map_or(1, |log| log as i32 + 1);
        check!(status == digits + 1, "{status} bytes came of {number}");
        self.remember(number);
    }
}
