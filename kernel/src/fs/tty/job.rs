//! Whose terminal it is: the session that has it as its controlling terminal, and the process group in
//! the foreground (Linux's drivers/tty/tty_jobctrl.c).

use super::{Terminal, lock};
use crate::process::thread::current;
use crate::process::{Process, group, signal};
use crate::syscall::errno::Errno;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{SIGCONT, SIGHUP, SIGTTIN};

/// Who has the terminal; 0: nobody.
pub struct Job {
    /// The session whose controlling terminal it is.
    session: u32,
    /// The group in the foreground.
    pub group: u32,
}

impl Job {
    /// Nobody's.
    pub const NONE: Job = Job {
        session: 0,
        group: 0,
    };
}

fn session(process: &Process) -> u32 {
    process.session.load(Ordering::Relaxed)
}

fn group_of(process: &Process) -> u32 {
    process.group.load(Ordering::Relaxed)
}

impl Terminal {
    /// Whether it is the controlling terminal of a process.
    pub(super) fn controls(&self, process: &Process) -> bool {
        process.terminal.load(Ordering::Relaxed) && self.job.session == session(process)
    }
}

/// Whether the current process has a controlling terminal.
pub fn is_controlled() -> bool {
    lock().controls(&current().process)
}

/// Sees to it that a process in the background does not read the terminal (SIGTTIN), or change how it
/// is set up (SIGTTOU): its group gets the signal, and then the call is made again.
pub fn check(number: u32) -> Result<(), Errno> {
    let thread = current();
    let process = &thread.process;
    let own = group_of(process);
    {
        let terminal = lock();
        let foreground = terminal.job.group;
        if !terminal.controls(process) || foreground == 0 || foreground == own {
            return Ok(());
        }
    }
    let ignored = thread.signals.blocked() & signal::bit(number) != 0
        || signal::action(process, number).handler == signal::IGNORE;
    if ignored {
        return if number == SIGTTIN {
            Err(Errno::EIO)
        } else {
            Ok(())
        };
    }
    if group::is_orphaned(own, None) {
        return Err(Errno::EIO);
    }
    signal::send_to_group(own, number);
    Err(Errno::EINTR)
}

/// TIOCSCTTY: makes it the controlling terminal of the session that the caller leads. With `steal`,
/// root takes it from another one.
pub fn acquire(steal: bool) -> Result<(), Errno> {
    let process = &current().process;
    let own = session(process);
    let privileged = process.credentials.lock().is_root();
    let leads = own == process.pid;
    let mut terminal = lock();
    if leads && terminal.controls(process) {
        return Ok(());
    }
    if !leads || terminal.controls(process) {
        return Err(Errno::EPERM);
    }
    if terminal.job.session != 0 && !(steal && privileged) {
        return Err(Errno::EPERM);
    }
    terminal.job = Job {
        session: own,
        group: group_of(process),
    };
    process.terminal.store(true, Ordering::Relaxed);
    Ok(())
}

/// TIOCNOTTY: gives it up.
pub fn give_up() -> Result<(), Errno> {
    let process = &current().process;
    if !is_controlled() {
        return Err(Errno::ENOTTY);
    }
    if session(process) == process.pid {
        abandon(true);
    }
    process.terminal.store(false, Ordering::Relaxed);
    Ok(())
}

/// The leader of a session has ended, which its foreground group is told.
pub fn leader_ended(process: &Process) {
    if session(process) == process.pid && lock().controls(process) {
        abandon(false);
    }
}

/// The session loses it.
fn abandon(goes_on: bool) {
    let before = core::mem::replace(&mut lock().job, Job::NONE);
    if before.group != 0 {
        signal::send_to_group(before.group, SIGHUP);
        if goes_on {
            signal::send_to_group(before.group, SIGCONT);
        }
    }
}

/// TIOCGPGRP: the group in the foreground.
pub fn foreground() -> Result<u32, Errno> {
    let terminal = lock();
    if !terminal.controls(&current().process) {
        return Err(Errno::ENOTTY);
    }
    Ok(terminal.job.group)
}

/// TIOCGSID: the session that has it.
pub fn its_session() -> Result<u32, Errno> {
    let terminal = lock();
    if !terminal.controls(&current().process) {
        return Err(Errno::ENOTTY);
    }
    Ok(terminal.job.session)
}

/// TIOCSPGRP: puts a group of the caller's session into the foreground.
pub fn set_foreground(wanted: i32) -> Result<(), Errno> {
    let process = &current().process;
    if wanted < 0 {
        return Err(Errno::EINVAL);
    }
    if !is_controlled() {
        return Err(Errno::ENOTTY);
    }
    let wanted = wanted as u32;
    if !group::is_used(wanted) {
        return Err(Errno::ESRCH);
    }
    if !group::exists(wanted, session(process)) {
        return Err(Errno::EPERM);
    }
    lock().job.group = wanted;
    Ok(())
}

/// The foreground group of the terminal of a process, as /proc/PID/stat has it: -1 if it has none.
pub fn foreground_of(process: &Process) -> i64 {
    let terminal = lock();
    if terminal.controls(process) {
        terminal.job.group.into()
    } else {
        -1
    }
}
