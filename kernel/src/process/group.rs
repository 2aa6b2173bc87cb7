//! Process groups and sessions: job control.
//!
//! The terminal is in `fs`; what it needs of processes is here: who is in the foreground is its own
//! affair, which group is orphaned, and who belongs to a session, is not.

use super::signal::{self, Info};
use super::{INIT, Process, table, wait};
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{CLD_CONTINUED, CLD_STOPPED, SIGCHLD, SIGCONT, SIGHUP};

/// How many processes are stopped: without any, no orphaned group has to be looked for.
static STOPPED: AtomicU32 = AtomicU32::new(0);

/// Wait status of a process that went on.
const CONTINUED: u32 = 0xffff;

/// Wait status of a process that `signal` stopped.
fn stopped_by(signal: u32) -> u32 {
    signal << 8 | 0x7f
}

/// What wait tells of a process that has stopped or gone on, if it was not told yet: the status, if
/// it is one that is asked for. It is told once, unless `keep`.
pub fn take_report(process: &Process, stops: bool, continues: bool, keep: bool) -> Option<u32> {
    let status = process.report.load(Ordering::Acquire);
    let wanted = match status {
        0 => false,
        CONTINUED => continues,
        _ => stops,
    };
    let taken = wanted
        && (keep
            || process
                .report
                .compare_exchange(status, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok());
    taken.then_some(status)
}

/// A process is stopped from now on.
pub fn count_stopped() {
    STOPPED.fetch_add(1, Ordering::Relaxed);
}

/// Tells the parent that a process was stopped by `signal`: no thread of it runs any more.
pub fn report_stopped(process: &Process, signal: u32) {
    process.report.store(stopped_by(signal), Ordering::Release);
    report(process, CLD_STOPPED, signal);
}

/// Tells the parent that a process that was stopped goes on.
pub fn report_continued(process: &Process) {
    STOPPED.fetch_sub(1, Ordering::Relaxed);
    process.report.store(CONTINUED, Ordering::Release);
    report(process, CLD_CONTINUED, SIGCONT);
}

/// A process that was stopped was killed.
pub fn forget_stopped() {
    STOPPED.fetch_sub(1, Ordering::Relaxed);
}

fn report(process: &Process, code: u32, status: u32) {
    let Some(parent) = table::get(process.parent.load(Ordering::Relaxed)) else {
        return;
    };
    if !signal::ignores_stops(&parent) {
        let info = Info::child(SIGCHLD, process, code, status);
        signal::send_info(&parent, info);
    }
    wait::wake(&parent);
}

/// Whether nobody is left who could make a stopped process of this group go on: no member has a
/// parent in another group of the same session. `ended` counts as gone.
pub fn is_orphaned(group: u32, ended: Option<u32>) -> bool {
    let mut pid = 0;
    while let Some(process) = table::next(pid) {
        pid = process.pid;
        let parent = process.parent.load(Ordering::Relaxed);
        if process.group.load(Ordering::Relaxed) != group
            || Some(pid) == ended
            || process.has_ended()
            || parent == INIT
        {
            continue;
        }
        if let Some(parent) = table::get(parent)
            && parent.group.load(Ordering::Relaxed) != group
            && parent.session.load(Ordering::Relaxed) == process.session.load(Ordering::Relaxed)
        {
            return false;
        }
    }
    true
}

/// Whether a group has a member, and one in session `session`.
pub fn exists(group: u32, session: u32) -> bool {
    any(group, |process| {
        process.session.load(Ordering::Relaxed) == session
    })
}

/// Whether a group has a member.
pub fn is_used(group: u32) -> bool {
    any(group, |_| true)
}

fn any(group: u32, mut test: impl FnMut(&Process) -> bool) -> bool {
    let mut pid = 0;
    while let Some(process) = table::next(pid) {
        pid = process.pid;
        if process.group.load(Ordering::Relaxed) == group && test(&process) {
            return true;
        }
    }
    false
}

/// A process has ended that was the last link between `group` and the rest of its session: what is
/// stopped there would be so for good, so it is told to hang up, and goes on.
///
/// `linked`: session and group of the one at the other end of the link.
pub fn lose_link(group: u32, session: u32, linked: (u32, u32), ended: Option<u32>) {
    if STOPPED.load(Ordering::Relaxed) == 0
        || linked.0 != session
        || linked.1 == group
        || !is_orphaned(group, ended)
        || !any(group, |process| process.signals.lock().stopped)
    {
        return;
    }
    signal::send_to_group(group, SIGHUP);
    signal::send_to_group(group, SIGCONT);
}
