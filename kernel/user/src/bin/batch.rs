//! Runs many programs, one after the other, so that one boot is enough for them.
//!
//! `batch FILE`: the file has, for each program, its path, the number of its arguments (its name is the
//! first), and the arguments, each with a NUL at its end. After each program a line with U+001E, its
//! exit code as a shell has it, and a newline goes to fd 1, and the same without the code to fd 2.
//!
//! `batch --capture FILE` gives each program a session of its own, no input, no terminal, `PATH` alone
//! in its environment, and files to write to. After each, fd 1 gets a line with U+001E, the exit code,
//! and how many bytes it wrote to its fd 1 and to its fd 2, and then those bytes. One that has not ended
//! after a minute is killed, with its session's first group, and said to have exited with 999.
//!
//! `batch --boot FILE` does that on a Linux that has just been booted, as a child of its first process:
//! it mounts what our kernel has mounted by itself, and at the end turns the machine off.
#![no_std]
#![no_main]

use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;
use user::arguments::{File, Vectors};
use user::file::{self, Fd};
use user::ioctl::{TCGETS, TCSETS};
use user::linux::*;
use user::memory::PAGE_SIZE;
use user::process::{self, Pid};
use user::signal::{self, set};
use user::{Args, Errno, OrFail, Strings, eprintln, print, println, syscall};

user::program!(main, "usage: batch [--capture | --boot] FILE");

/// Nanoseconds for one program.
const PATIENCE: u64 = 60_000_000_000;
/// Exit codes are smaller.
const KILLED: i32 = 999;

fn main(args: Args) {
    match (args.argv.tail().first(), args.argv.tail().nth(1)) {
        (Some(option), Some(path)) if option == c"--capture" => capture(path),
        (Some(option), Some(path)) if option == c"--boot" => {
            mount();
            capture(path);
            // SAFETY: nothing of this program is left to be harmed.
            unsafe {
                syscall(
                    __NR_reboot,
                    [
                        LINUX_REBOOT_MAGIC1 as usize,
                        LINUX_REBOOT_MAGIC2 as usize,
                        LINUX_REBOOT_CMD_POWER_OFF as usize,
                        0,
                    ],
                )
            }
            .or_fail("turning the machine off");
        }
        (Some(path), None) => plain(path, args.envp),
        _ => args.usage(),
    }
}

/// The programs of the file, each with its arguments.
fn each(path: &CStr, mut run: impl FnMut(&'static CStr, Strings)) {
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
        run(program, vectors.finish());
    }
}

/// Waits for a program that was started, or was not; its exit code.
fn code_of(program: &CStr, started: user::Result<Pid>, wait_for: impl FnOnce(Pid) -> i32) -> i32 {
    match started {
        Ok(pid) => wait_for(pid),
        Err(Errno::ENOENT) => 127,
        Err(errno) => {
            eprintln!("{program:?}: {errno}");
            126
        }
    }
}

fn plain(path: &CStr, envp: Strings) {
    each(path, |program, arguments| {
        let started = process::spawn(program, arguments, envp);
        let code = code_of(program, started, wait_for);
        println!("\u{1e}{code}");
        eprintln!("\u{1e}");
    });
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

fn capture(path: &CStr) {
    let environment: [*const c_char; 2] = [c"PATH=/bin".as_ptr(), core::ptr::null()];
    // SAFETY: it ends with the null pointer, and is not changed.
    let environment = unsafe { Strings::new(environment.as_ptr()) };
    signal::block(set(SIGCHLD)).or_fail("mask");
    let input = file::open(c"/dev/null", O_RDONLY | O_CLOEXEC).or_fail("opening /dev/null");
    each(path, |program, arguments| {
        let streams = [input, store(c"/tmp/batch-1"), store(c"/tmp/batch-2")];
        let prepare = || {
            // Nothing of this can fail; and a program that has the wrong streams shows it.
            let _ = signal::set_mask(0);
            // SAFETY: touches no memory.
            let _ = unsafe { syscall(__NR_setsid, []) };
            for (to, from) in streams.into_iter().enumerate() {
                let _ = file::dup3(from, to as Fd, 0);
            }
        };
        let started = process::spawn_after(prepare, program, arguments, environment);
        let code = code_of(program, started, wait_patiently);
        let [_, out, err] = streams;
        println!("\u{1e}{code} {} {}", length(out), length(err));
        for store in [out, err] {
            copy(store);
            file::close(store).or_fail("close");
        }
        print!("\n");
    });
}

/// A file without a name, which is appended to.
fn store(name: &CStr) -> Fd {
    let flags = O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC;
    let name = name.as_ptr() as usize;
    let at = AT_FDCWD as usize;
    // SAFETY: the kernel reads the name.
    let file = unsafe { syscall(__NR_openat, [at, name, flags as usize, 0o600]) };
    // SAFETY: the same.
    unsafe { syscall(__NR_unlinkat, [at, name, 0]) }.or_fail("removing a file's name");
    file.or_fail("making a file") as Fd
}

fn seek(file: Fd, whence: u32) -> usize {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_lseek, [file as usize, 0, whence as usize]) }.or_fail("lseek")
}

fn length(file: Fd) -> usize {
    seek(file, SEEK_END)
}

/// Copies a file to fd 1.
fn copy(from: Fd) {
    seek(from, SEEK_SET);
    let mut bytes = [0; PAGE_SIZE];
    loop {
        match file::read(from, &mut bytes).or_fail("reading what was written") {
            0 => break,
            count => file::write_all(1, &bytes[..count]).or_fail("write"),
        }
    }
}

/// The same as `wait_for`, but not for ever.
fn wait_patiently(program: Pid) -> i32 {
    loop {
        match process::wait_raw(-1, WNOHANG).or_fail("waiting for the program") {
            (0, _) => {
                if signal::wait(set(SIGCHLD), PATIENCE).is_err() {
                    signal::kill(-program, SIGKILL).or_fail("kill");
                    wait_for(program);
                    return KILLED;
                }
            }
            (pid, status) if pid == program => return process::Status::of(status).code(),
            _ => {}
        }
    }
}

/// Mounts what programs look into, and lets the console alone with what they print.
fn mount() {
    for (place, kind) in [
        (c"/proc", c"proc"),
        (c"/dev", c"devtmpfs"),
        (c"/tmp", c"tmpfs"),
    ] {
        let [place, kind] = [place, kind].map(|text| text.as_ptr() as usize);
        // SAFETY: the kernel reads the strings.
        unsafe { syscall(__NR_mount, [kind, place, kind, 0, 0]) }.or_fail("mounting");
    }
    no_faults_around();
    let mut settings = MaybeUninit::<termios>::uninit();
    let address = settings.as_mut_ptr() as usize;
    // SAFETY: TCGETS fills in a `termios`, and TCSETS reads one.
    unsafe {
        syscall(__NR_ioctl, [1, TCGETS as usize, address]).or_fail("the console's settings");
        (*settings.as_mut_ptr()).c_oflag &= !OPOST;
        syscall(__NR_ioctl, [1, TCSETS as usize, address]).or_fail("the console's settings");
    }
    print!("\u{1e}begin\n");
}

/// Lets a fault on a file map one page, as ours do, and not those around it.
fn no_faults_around() {
    let (place, kind) = (c"/tmp", c"debugfs");
    let [at, kind] = [place, kind].map(|text| text.as_ptr() as usize);
    // SAFETY: the kernel reads the strings.
    unsafe { syscall(__NR_mount, [kind, at, kind, 0, 0]) }.or_fail("mounting");
    let setting = file::open(c"/tmp/fault_around_bytes", O_WRONLY).or_fail("opening a setting");
    file::write_all(setting, b"4096").or_fail("changing a setting");
    file::close(setting).or_fail("close");
    // SAFETY: as above.
    unsafe { syscall(__NR_umount2, [at, 0]) }.or_fail("unmounting");
}
