//! What a process is: stat, status, statm, comm, cmdline, environ.

use super::memory::{self, Sizes, with_space};
use super::text::Window;
use crate::fs::tty;
use crate::process::thread::State;
use crate::process::{Process, signal, usage};
use ::memory::PAGE_SIZE;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

/// The letter of `ps`, and the word for it.
fn state(process: &Process) -> (char, &'static str) {
    match process.thread().map(|thread| thread.state()) {
        None | Some(State::Dead) => ('Z', "zombie"),
        Some(State::Running | State::Ready) => ('R', "running"),
        Some(State::Blocking | State::Blocked) => ('S', "sleeping"),
    }
}

/// Whether nothing of it is left but its status.
pub fn has_ended(process: &Process) -> bool {
    state(process).0 == 'Z'
}

/// How many threads it has; one that has ended counts as one.
fn threads(process: &Process) -> usize {
    process.signals.lock().threads.count().max(1)
}

fn name(process: &Process) -> [u8; 16] {
    process.state.lock().name
}

fn text(name: &[u8]) -> &[u8] {
    let len = name.iter().position(|&byte| byte == 0);
    &name[..len.unwrap_or(name.len())]
}

fn sizes(process: &Process) -> Sizes {
    with_space(process, memory::sizes).unwrap_or(Sizes {
        size: 0,
        resident: 0,
        file: 0,
        text: 0,
        data: 0,
        stack: 0,
    })
}

/// /proc/PID/comm.
pub fn comm(to: &mut Window, process: &Process) -> fmt::Result {
    to.push(text(&name(process)))?;
    to.push(b"\n")
}

/// The masks of signals: pending, blocked, ignored, caught.
fn signals(process: &Process) -> [u64; 4] {
    let (mut ignored, mut caught) = (0, 0);
    for number in 1..=signal::MAX {
        match signal::action(process, number).handler {
            0 => {}
            1 => ignored |= signal::bit(number),
            _ => caught |= signal::bit(number),
        }
    }
    let (pending, blocked) = process.thread().map_or((0, 0), |thread| {
        (signal::pending(&thread), thread.signals.blocked())
    });
    [pending, blocked, ignored, caught]
}

/// /dev/console as /proc/PID/stat has it.
const CONSOLE: u32 = 5 << 8 | 1;

/// /proc/PID/stat: proc_pid_stat(5) numbers the fields.
pub fn stat(to: &mut Window, process: &Process) -> fmt::Result {
    let sizes = sizes(process);
    let [pending, blocked, ignored, caught] = signals(process);
    let foreground = tty::job::foreground_of(process);
    let load = |value: &core::sync::atomic::AtomicU32| value.load(Ordering::Relaxed);
    write!(to, "{} (", process.pid)?;
    to.push(text(&name(process)))?;
    write!(
        to,
        ") {} {} {} {} {} {} 4194304",
        state(process).0,
        load(&process.parent),
        load(&process.group),
        load(&process.session),
        if foreground < 0 { 0 } else { CONSOLE },
        foreground,
    )?;
    let own = usage::of_process(process);
    let children = usage::of_children(process);
    // No fault waits for a disk. Then priority, nice, threads, 0, start.
    write!(
        to,
        " {} {} 0 0 {} {} {} {} {} {} {} 0 0",
        own.faults,
        children.faults,
        usage::user_hz(own.user),
        usage::user_hz(own.system),
        usage::user_hz(children.user),
        usage::user_hz(children.system),
        20 + process.nice.load(Ordering::Relaxed),
        process.nice.load(Ordering::Relaxed),
        threads(process),
    )?;
    write!(
        to,
        " {} {} {}",
        sizes.size * PAGE_SIZE,
        sizes.resident,
        u64::MAX
    )?;
    // Addresses are not told: 26 to 30.
    to.write_str(" 0 0 0 0 0")?;
    write!(to, " {pending} {blocked} {ignored} {caught}")?;
    // 35 to 52; the signal at the end is SIGCHLD.
    to.write_str(" 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n")
}

/// The lines on who it is.
fn identity(to: &mut Window, process: &Process) -> fmt::Result {
    let (uid, gid, groups) = {
        let credentials = process.credentials.lock();
        // Without memory for them they are not shown.
        let groups = credentials.try_clone().map(|copy| copy.groups);
        (credentials.uid, credentials.gid, groups.unwrap_or_default())
    };
    for (name, ids) in [("Uid", uid), ("Gid", gid)] {
        let [real, effective, saved, files] = [ids.real, ids.effective, ids.saved, ids.files];
        writeln!(to, "{name}:\t{real}\t{effective}\t{saved}\t{files}")?;
    }
    write!(to, "FDSize:\t{FD_SIZE}\nGroups:\t")?;
    for group in groups {
        write!(to, "{group} ")?;
    }
    to.write_str(" \n")
}

/// Slots of descriptors that a process has at least.
const FD_SIZE: usize = 256;

/// /proc/PID/status.
pub fn status(to: &mut Window, process: &Process) -> fmt::Result {
    let sizes = sizes(process);
    let [pending, blocked, ignored, caught] = signals(process);
    let (letter, word) = state(process);
    let umask = process.state.lock().umask;
    let parent = process.parent.load(Ordering::Relaxed);
    let pid = process.pid;
    to.push(b"Name:\t")?;
    to.push(text(&name(process)))?;
    write!(
        to,
        "\nUmask:\t{umask:04o}\nState:\t{letter} ({word})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\n\
         PPid:\t{parent}\nTracerPid:\t0\n"
    )?;
    identity(to, process)?;
    if letter != 'Z' {
        let kilobytes = |pages: u64| pages * PAGE_SIZE / 1024;
        for (name, pages) in [
            ("VmSize", sizes.size),
            ("VmRSS", sizes.resident),
            ("RssAnon", sizes.resident - sizes.file),
            ("RssFile", sizes.file),
            ("VmData", sizes.data - sizes.stack),
            ("VmStk", sizes.stack),
            ("VmExe", sizes.text),
        ] {
            writeln!(to, "{name}:\t{:8} kB", kilobytes(pages))?;
        }
    }
    write!(
        to,
        "Threads:\t{}\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{blocked:016x}\n\
         SigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n",
        threads(process),
        0
    )
}

/// /proc/PID/statm.
pub fn statm(to: &mut Window, process: &Process) -> fmt::Result {
    let sizes = sizes(process);
    writeln!(
        to,
        "{} {} {} {} 0 {} 0",
        sizes.size, sizes.resident, sizes.file, sizes.text, sizes.data
    )
}

/// /proc/PID/cmdline and environ: bytes of the process's own memory.
pub fn strings(to: &mut Window, process: &Process, environment: bool) -> fmt::Result {
    let (arguments, rest) = process.state.lock().strings;
    let (mut at, end) = if environment { rest } else { arguments };
    while at < end {
        let mut bytes = [0; 128];
        let len = (bytes.len() as u64).min(end - at) as usize;
        let read = with_space(process, |space| {
            let mut inner = space.lock();
            inner
                .map
                .read(crate::arch::mmu::memory(), at, &mut bytes[..len])
                .is_ok()
        });
        if read != Some(true) {
            return Ok(());
        }
        to.push(&bytes[..len])?;
        at += len as u64;
    }
    Ok(())
}
