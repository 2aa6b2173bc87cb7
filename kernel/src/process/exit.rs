//! The end of a process, and of the machine.

use super::signal::{self, Info};
use super::table::Bereaved;
use super::thread::{Current, current};
use super::{INIT, Process, group, scheduler, space::Space, table, timers, usage, wait};
use crate::arch::{secondary, uaccess};
use crate::fs::tty;
use crate::{driver, trace};
use alloc::sync::{Arc, Weak};
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};
use linux_raw_sys::general::SIGCHLD;
use wire::event::Event;

/// Ends the current process with an exit code.
pub fn exit(code: u32) -> ! {
    end((code & 0xff) << 8)
}

/// Ends the current process by a signal, at `pc`, for a fault at `addr`.
pub fn kill(thread: &Current, signal: u32, pc: u64, addr: u64) -> ! {
    trace::emit(Event::Killed {
        pid: thread.process.pid,
        signal: signal as u8,
        pc,
        addr,
    });
    end(signal)
}

fn end(status: u32) -> ! {
    let process = {
        let thread = current();
        let process = thread.process.clone();
        release_child_tid(&thread);
        // Out of their locks before anything is dropped: closing a pipe wakes others.
        let files = mem::take(&mut *process.files.lock());
        files.close_all();
        signal::end(&process);
        timers::end(&process);
        usage::end(&process, &thread);
        let space = thread.replace_space(None);
        let serial = space.as_ref().map_or(0, |space| space.serial);
        if let Some(space) = &space
            && Arc::strong_count(space) == 1
        {
            space.report_resident();
        }
        trace::emit(Event::Exit {
            pid: process.pid,
            space: serial,
            status,
        });
        if let Some(space) = space {
            Space::release(space);
        }
        process.status.store(status, Ordering::Relaxed);
        let own = {
            let mut state = process.state.lock();
            state.space = (0, 0, 0);
            state.memory = Weak::new();
            (state.thread.take(), state.program.take())
        };
        drop(own);
        release_vfork_parent(&process);
        process
    };
    if process.pid == INIT {
        machine(exit_code(status));
    }
    leave_family(&process);
    drop(process);
    scheduler::end_current()
}

/// What a shell would call the status.
fn exit_code(status: u32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) as i32,
        signal => 128 + signal as i32,
    }
}

/// CLONE_CHILD_CLEARTID: tells the others in the address space, if there are any.
fn release_child_tid(thread: &Current) {
    let addr = thread.clear_child_tid.load(Ordering::Relaxed);
    if addr != 0
        && thread
            .space()
            .is_some_and(|space| Arc::strong_count(space) > 1)
    {
        // As on Linux, a bad address is the program's own loss.
        let _ = uaccess::write_u32(addr, 0);
    }
}

/// Lets the parent of a vfork go on.
pub fn release_vfork_parent(process: &Process) {
    let parent = process.state.lock().vfork_parent.take();
    if let Some(parent) = parent {
        scheduler::wake(&parent);
    }
}

/// Becomes a zombie, or vanishes if the parent does not care.
fn leave_family(process: &Process) {
    tty::job::leader_ended(process);
    let place = |process: &Process| {
        let session = process.session.load(Ordering::Relaxed);
        (session, process.group.load(Ordering::Relaxed))
    };
    let own = place(process);
    let Bereaved {
        parent,
        heir,
        children,
    } = table::end(process.pid);
    for child in children {
        let death_signal = child.death_signal.load(Ordering::Relaxed);
        if death_signal != 0 {
            signal::send_info(&child, Info::kernel(death_signal));
        }
        let (session, group) = place(&child);
        group::lose_link(group, session, own, None);
    }
    if let Some(parent) = &parent {
        group::lose_link(own.1, own.0, place(parent), Some(process.pid));
    }
    if let Some(heir) = heir {
        wait::wake(&heir);
    }
    let Some(parent) = parent else { return };
    let end_signal = process.end_signal.load(Ordering::Relaxed);
    let (disowned, ignored) = signal::disowns_children(&parent);
    if end_signal == SIGCHLD && disowned && table::remove(process.pid) {
        trace::emit(Event::Reap {
            pid: process.pid,
            by: parent.pid,
        });
    }
    if end_signal != 0 && !(end_signal == SIGCHLD && ignored) {
        let (code, status) = wait::describe(process.status.load(Ordering::Relaxed));
        signal::send_info(&parent, Info::child(end_signal, process, code, status));
    }
    wait::wake(&parent);
}

/// Ends the machine: the first who says so has his way.
pub fn machine(code: i32) -> ! {
    /// A core that has something to do in the kernel, microseconds.
    const PATIENCE: u64 = 2_000_000;
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Ordering::Relaxed) {
        secondary::stop();
    }
    // They finish what they are doing first: their events are all there, and no lock is held.
    secondary::stop_others(PATIENCE);
    trace::end(code);
    driver::exit(code)
}
