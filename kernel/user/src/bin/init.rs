//! Process 1: runs a program, reaps everything, and exits as the program did.
//!
//! `init PROGRAM ARGUMENTS...` looks for PROGRAM in the directories of `PATH` (without one, under
//! `/bin` and `/`), unless it is a path. The exit code is the program's, or 128 + n if signal n killed
//! it, or as with a shell 127 if there is no such program and 126 if it cannot be executed; init ends
//! when the last process has ended. Without arguments it runs `story child`, then `story parent`.
//!
//! `init @FILE` takes all of it from a file: the environment, an empty string, the program and its
//! arguments, each with a NUL at its end. Boot arguments are short, and have no way to write
//! everything that an argument may be.
//!
//! Where there is a terminal the program leads a session of its own, which has that terminal.
//!
//! It starts programs by vfork and exec, so that its own pages are never shared: a trace begins
//! with the program's story, not with init's.
#![no_std]
#![no_main]

use core::ffi::{CStr, c_char};
use user::arguments::{File, Vectors};
use user::process::{self, Pid, Status};
use user::{Args, Errno, OrFail, Result, Strings, eprintln};

user::program!(main, "usage: init [PROGRAM [ARGUMENTS...] | @FILE]");

/// Where programs are when nobody says.
const PATH: &str = "/bin:/";

fn main(args: Args) -> i32 {
    let program = args.argv.tail();
    let code = match program.first().map(CStr::to_bytes) {
        Some([b'@', name @ ..]) if !name.is_empty() => {
            let (argv, envp) = read(program, args.envp);
            run(argv, envp)
        }
        Some(_) => run(program, args.envp),
        None => match run_story(c"child", args.envp) {
            0 => run_story(c"parent", args.envp),
            code => code,
        },
    };
    reap_all();
    code
}

/// Reads `@FILE`, the first of `words`: the program with its arguments, and its environment, which
/// `more` goes to the end of.
fn read(words: Strings, more: Strings) -> (Strings, Strings) {
    let name = words.first().unwrap_or(c"@");
    // Behind the "@".
    let path = CStr::from_bytes_with_nul(&name.to_bytes_with_nul()[1..]).unwrap_or(c"");
    let mut strings = File::read(path);
    let mut vectors = Vectors::new();
    for variable in strings.by_ref().take_while(|string| !string.is_empty()) {
        vectors.push(variable);
    }
    for variable in more {
        vectors.push(variable);
    }
    let envp = vectors.finish();
    for word in strings {
        vectors.push(word);
    }
    (vectors.finish(), envp)
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
            if errno == Errno::ENOENT { 127 } else { 126 }
        }
    }
}

/// As execvp(3) does it.
fn find_and_spawn(name: &CStr, argv: Strings, envp: Strings) -> Result<Pid> {
    if name.to_bytes().contains(&b'/') {
        return process::spawn_in_session(name, argv, envp);
    }
    let mut variables = envp.filter_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let path = variables.next().unwrap_or(PATH.as_bytes());
    let mut result = Err(Errno::ENOENT);
    for directory in path.split(|&byte| byte == b':') {
        let mut buffer = [0; 4096];
        let Some(file) = join(&mut buffer, directory, name.to_bytes()) else {
            continue;
        };
        match process::spawn_in_session(file, argv, envp) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            // Perhaps a later one may be executed.
            Err(Errno::EACCES) => result = Err(Errno::EACCES),
            other => return other,
        }
    }
    result
}

/// `directory/name`, if it fits.
fn join<'b>(buffer: &'b mut [u8], directory: &[u8], name: &[u8]) -> Option<&'b CStr> {
    let len = directory.len() + 1 + name.len();
    // One more for the NUL.
    let room = buffer.get_mut(..len + 1)?;
    room[..directory.len()].copy_from_slice(directory);
    room[directory.len()] = b'/';
    room[directory.len() + 1..len].copy_from_slice(name);
    room[len] = 0;
    CStr::from_bytes_with_nul(room).ok()
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
