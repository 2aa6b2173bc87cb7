//! Runs many programs, one after the other, so that one boot is enough for them.
//!
//! `batch FILE`: the file has, for each program, its path, the number of its arguments (its name is the
//! first), and the arguments, each with a NUL at its end. After each program a line with U+001E, its
//! exit code as a shell has it, and a newline goes to fd 1, and the same without the code to fd 2.
#![no_std]
#![no_main]

use user::arguments::{File, Vectors};
use user::process::{self, Pid};
use user::{Args, Errno, OrFail, eprintln, println};

user::program!(main, "usage: batch FILE");

fn main(args: Args) {
    let Some(path) = args.argv.tail().first() else {
        args.usage()
    };
    let mut strings = File::read(path);
    let mut vectors = Vectors::new();
    while let Some(program) = strings.next() {
        let count = strings
            .next()
            .and_then(|count| count.to_str().ok()?.parse().ok());
        let count: usize = count.unwrap_or_else(|| user::fail(format_args!("no count")));
        for argument in strings.by_ref().take(count) {
            vectors.push(argument);
        }
        let code = match process::spawn(program, vectors.finish(), args.envp) {
            Ok(pid) => wait_for(pid),
            Err(Errno::ENOENT) => 127,
            Err(errno) => {
                eprintln!("{program:?}: {errno}");
                126
            }
        };
        println!("\u{1e}{code}");
        eprintln!("\u{1e}");
    }
}

/// Reaps whatever ends until this process has; what it leaves behind is reaped later.
fn wait_for(program: Pid) -> i32 {
    loop {
        let (pid, status) = process::wait_any().or_fail("waiting for the program");
        if pid == program {
            return status.code();
        }
    }
}
