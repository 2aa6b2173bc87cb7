//! Process 1: runs a program, reaps everything, and exits as the program did.
//!
//! `init PROGRAM ARGUMENTS...` looks for PROGRAM under `/bin` and `/`, unless it is a path. The
//! exit code is the program's, or 128 + n if signal n killed it, or 127 if it could not be started;
//! init ends when the last process has ended. Without arguments it runs `story child`, then `story
//! parent`.
//!
//! It starts programs by vfork and exec, so that its own pages are never shared: a trace begins
//! with the program's story, not with init's.
#![no_std]
#![no_main]

use core::ffi::{CStr, c_char};
use user::process::{self, Pid, Status};
use user::text::Text;
use user::{Args, Errno, OrFail, Result, Strings, eprintln};

user::program!(main, "usage: init [PROGRAM [ARGUMENTS...]]");

fn main(args: Args) -> i32 {
    let program = args.argv.tail();
    let code = match program.first() {
        Some(_) => run(program, args.envp),
        None => match run_story(c"child", args.envp) {
            0 => run_story(c"parent", args.envp),
            code => code,
        },
    };
    reap_all();
    code
}

fn run_story(first: &'static CStr, envp: Strings) -> i32 {
    let argv: [*const c_char; 3] = [c"story".as_ptr(), first.as_ptr(), core::ptr::null()];
    // SAFETY: NULL-terminated, and used only while `run` runs: the child's exec copies it.
    run(unsafe { Strings::new(argv.as_ptr()) }, envp)
}

/// Runs one program to its end.
fn run(argv: Strings, envp: Strings) -> i32 {
    let name = argv.first().unwrap_or(c"");
    match find_and_spawn(name, argv, envp) {
        Ok(pid) => wait_for(pid).code(),
        Err(errno) => {
            eprintln!("init: cannot run {name:?}: {errno}");
            127
        }
    }
}

fn find_and_spawn(name: &CStr, argv: Strings, envp: Strings) -> Result<Pid> {
    if name.to_bytes().contains(&b'/') {
        return process::spawn(name, argv, envp);
    }
    let text = name.to_str().map_err(|_| Errno::ENOENT)?;
    let mut result = Err(Errno::ENOENT);
    for directory in ["/bin/", "/"] {
        let path = Text::new(format_args!("{directory}{text}"));
        result = process::spawn(path.as_c_str(), argv, envp);
        if result != Err(Errno::ENOENT) {
            break;
        }
    }
    result
}

/// Reaps whatever ends, orphans too, until `program` has ended.
fn wait_for(program: Pid) -> Status {
    loop {
        let (pid, status) = process::wait_any().or_fail("waiting for the program");
        if pid == program {
            return status;
        }
    }
}

fn reap_all() {
    while process::wait_any().is_ok() {}
}
