//! Waiting for children (wait(2)).

use super::table::{self, Found, Select, Verdict};
use super::{Process, group, scheduler, thread, usage};
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    __WALL, __WCLONE, CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, SIGCHLD,
    SIGCONT, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED,
};
use wire::event::Event;

/// A child that has something to tell, and its wait status. It is collected if it has ended.
type News = (Arc<Process>, u32);

/// Waits for a child. `None`: there is nothing to tell yet, and the caller does not want to sleep.
/// `options`: those of waitid.
pub fn wait(select: Select, options: u32) -> Result<Option<News>, Errno> {
    let thread = thread::current();
    let process = &thread.process;
    let sleep = options & WNOHANG == 0;
    let keep = options & WNOWAIT != 0;
    loop {
        // Before the look at the table: a child that ends after it finds the flag.
        if sleep {
            process.waiting.store(true, Ordering::Release);
        }
        thread.set_state(if sleep {
            thread::State::Blocking
        } else {
            thread::State::Running
        });
        let running = options & (WSTOPPED | WCONTINUED) != 0;
        let found = table::find_child(process.pid, select, running, |child, ended| {
            look(child, ended, options)
        });
        if !sleep || !matches!(found, Found::Running) {
            stop_waiting(process);
            thread.set_state(thread::State::Running);
        }
        match found {
            Found::Child((child, status)) => {
                if keep || !is_end(status) {
                    return Ok(Some((child, status)));
                }
                if table::remove(child.pid) {
                    usage::inherit(process, &child);
                    trace::emit(Event::Reap {
                        pid: child.pid,
                        by: process.pid,
                    });
                    return Ok(Some((child, status)));
                }
            }
            Found::None => return Err(Errno::ECHILD),
            Found::Running if !sleep => return Ok(None),
            Found::Running => {
                scheduler::block();
                if thread.interrupted() {
                    stop_waiting(process);
                    return Err(Errno::EINTR);
                }
            }
        }
    }
}

fn look(child: &Arc<Process>, ended: bool, options: u32) -> Verdict<News> {
    // A "clone" child is one that does not say SIGCHLD at its end.
    let clone = child.end_signal.load(Ordering::Relaxed) != SIGCHLD;
    if options & __WALL == 0 && clone != (options & __WCLONE != 0) {
        return Verdict::Other;
    }
    let status = if ended {
        if options & WEXITED == 0 {
            return Verdict::Other;
        }
        Some(child.status.load(Ordering::Relaxed))
    } else {
        let stops = options & WSTOPPED != 0;
        let continues = options & WCONTINUED != 0;
        group::take_report(child, stops, continues, options & WNOWAIT != 0)
    };
    match status {
        Some(status) => Verdict::This((child.clone(), status)),
        None => Verdict::NotYet,
    }
}

/// Whether a wait status is that of a process that has ended.
fn is_end(status: u32) -> bool {
    !matches!(describe(status).0, CLD_STOPPED | CLD_CONTINUED)
}

/// A wait status as `siginfo_t` has it: CLD_*, and the exit code or the signal.
pub fn describe(status: u32) -> (u32, u32) {
    match (status & 0x7f, status >> 8) {
        (0x7f, 0xff) => (CLD_CONTINUED, SIGCONT),
        (0x7f, signal) => (CLD_STOPPED, signal),
        (0, code) => (CLD_EXITED, code),
        (signal, _) if status & 0x80 != 0 => (CLD_DUMPED, signal),
        (signal, _) => (CLD_KILLED, signal),
    }
}

/// Nobody has to be woken any more, unless it is another thread: that costs a look at most.
fn stop_waiting(process: &Process) {
    if !process.has_threads() {
        process.waiting.store(false, Ordering::Relaxed);
    }
}

/// Wakes a process that waits for its children: all threads, which go to sleep again if it was not
/// that what they are waiting for.
pub fn wake(process: &Process) {
    if process.waiting.swap(false, Ordering::AcqRel) {
        for thread in process.signals.lock().threads.iter() {
            scheduler::wake(thread);
        }
    }
}
