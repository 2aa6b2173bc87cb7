//! The end of a process, and of the machine.

use super::signal::{self, Info};
use super::table::Bereaved;
use super::thread::{Current, current};
use super::{
    INIT, Process, futex, group, scheduler, space::Space, table, threads, timers, usage, wait,
};
use crate::arch::secondary;
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

/// Ends the current thread; with the last one its process, with this exit code.
pub fn exit_thread(code: u32) -> ! {
    thread_end((code & 0xff) << 8)
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
    thread_end(threads::end_all(&current(), status))
}

/// Ends the current thread. If it is the last, its process ends with this wait status, unless the
/// process was told to end with another.
pub fn thread_end(status: u32) -> ! {
    let ended = {
        let thread = current();
        let process = thread.process.clone();
        let shared = |space: &Arc<Space>| Arc::strong_count(space) > 1;
        futex::leave_memory(&thread, thread.space().is_some_and(shared));
        let last = threads::begin_end(&thread, status);
        if let Some(status) = last {
            end_process(&thread, status);
        } else {
            trace::emit(Event::ThreadExit {
                pid: process.pid,
                tid: thread.tid(),
            });
        }
        usage::note_resident(&process, &thread);
        if let Some(space) = thread.replace_space(None) {
            Space::release(space);
        }
        threads::finish_end(&thread).map(|status| (process, status))
    };
    if let Some((process, status)) = ended {
        bury(&process, status);
    }
    scheduler::end_current()
}

/// The last thread of a process gives up what they had in common, but for the address space.
fn end_process(thread: &Current, status: u32) {
    let process = &thread.process;
    // Out of their locks before anything is dropped: closing a pipe wakes others.
    let files = mem::take(&mut *process.files.lock());
    files.close_all();
    signal::end(process);
    timers::end(process);
    let space = thread.space();
    if let Some(space) = space
        && Arc::strong_count(space) == 1
    {
        space.report_resident();
    }
    trace::emit(Event::Exit {
        pid: process.pid,
        space: space.map_or(0, |space| space.serial),
        status,
    });
}

/// A process has no thread any more: those who have to know are told.
fn bury(process: &Process, status: u32) {
    process.status.store(status, Ordering::Relaxed);
    let program = {
        let mut state = process.state.lock();
        state.space = (0, 0, 0);
        state.memory = Weak::new();
        state.program.take()
    };
    drop(program);
    release_vfork_parent(process);
    if process.pid == INIT {
        machine(exit_code(status));
    }
    leave_family(process);
}

/// What a shell would call the status.
fn exit_code(status: u32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) as i32,
        signal => 128 + signal as i32,
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
