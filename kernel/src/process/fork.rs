//! Making processes: fork, vfork, and what of clone is like them.

use super::space::Space;
use super::thread::{Start, Thread, current};
use super::{Process, State, limits, scheduler, signal, table, threads, timers, usage};
use crate::arch::{self, heap::Place, trap::TrapFrame, uaccess};
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_DETACHED, CLONE_FILES, CLONE_FS,
    CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_UNTRACED,
    CLONE_VFORK, CLONE_VM,
};
use memory::{ForkCounts, Lock, Rank};
use wire::event::{Event, Fork, ForkMode};

/// The arguments of clone.
pub struct Clone {
    /// CLONE_* and, in the lowest byte, the signal at the end.
    pub flags: u64,
    /// The child's stack pointer; 0: the parent's.
    pub stack: u64,
    /// For CLONE_PARENT_SETTID.
    pub parent_tid: u64,
    /// For CLONE_SETTLS.
    pub tls: u64,
    /// For CLONE_CHILD_SETTID and CLONE_CHILD_CLEARTID.
    pub child_tid: u64,
}

/// `clone`: a new process that shares or copies the address space of the current one.
pub fn clone(frame: &TrapFrame, clone: &Clone) -> Result<u32, Errno> {
    const SUPPORTED: u32 = CLONE_VM
        | CLONE_VFORK
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_SETTID
        | CLONE_CHILD_CLEARTID
        | CLONE_SETTLS;
    let start = arch::time::cycles();
    let (flags, at_end) = (clone.flags as u32 & !0xff, clone.flags as u32 & 0xff);
    if flags & CLONE_THREAD != 0 {
        return clone_thread(frame, clone);
    }
    // Namespaces and shared descriptors are for later, and so is a process in the parent's address
    // space that the parent does not wait for.
    let concurrent = flags & CLONE_VM != 0 && flags & CLONE_VFORK == 0;
    if clone.flags >> 32 != 0 || flags & !SUPPORTED != 0 || concurrent || at_end > signal::MAX {
        return Err(Errno::EINVAL);
    }
    let parent = current();
    let process = &parent.process;
    if !limits::may_fork(process) {
        return Err(Errno::EAGAIN);
    }
    let parent_space = parent.space().ok_or(Errno::ESRCH)?;
    let reserved = table::allocate()?;
    let pid = reserved.number();
    let files = process.files.lock().try_clone()?;
    let actions = signal::copy_actions(process)?;
    let credentials = process.credentials.lock().try_clone()?;
    let place = Place::new().ok_or(Errno::ENOMEM)?;
    let mode = process.state.lock().fork_mode;
    // All that may fail comes first. The address space is forked last, and that is on record before
    // another thread of the parent changes it.
    let ticking = process.timers.is_watched();
    let child = place.fill(|| Process {
        pid,
        parent: AtomicU32::new(process.pid),
        group: AtomicU32::new(process.group.load(Ordering::Relaxed)),
        session: AtomicU32::new(process.session.load(Ordering::Relaxed)),
        status: AtomicU32::new(0),
        threaded: AtomicBool::new(false),
        waiting: AtomicBool::new(false),
        files: Lock::new(Rank::Descriptors, files),
        signals: signal::OfProcess::new(actions),
        credentials: Lock::new(Rank::Credentials, credentials),
        report: AtomicU32::new(0),
        end_signal: AtomicU32::new(at_end),
        // In a block of its own: a guard in the expression would be held until all is built.
        limits: {
            let limits = process.limits.lock();
            Lock::new(Rank::Limits, *limits)
        },
        timers: timers::Timers::default(),
        usage: usage::OfProcess::default(),
        death_signal: AtomicU32::new(0),
        subreaper: AtomicBool::new(false),
        no_new_rights: AtomicBool::new(process.no_new_rights.load(Ordering::Relaxed)),
        terminal: AtomicBool::new(process.terminal.load(Ordering::Relaxed)),
        dumpable: AtomicU32::new(process.dumpable.load(Ordering::Relaxed)),
        executed: AtomicBool::new(false),
        nice: AtomicI32::new(process.nice.load(Ordering::Relaxed)),
        state: Lock::new(Rank::Process, {
            let state = process.state.lock();
            State {
                name: state.name,
                program: state.program.clone(),
                directory: state.directory.clone(),
                root: state.root.clone(),
                umask: state.umask,
                space: (0, 0, 0),
                fork_mode: state.fork_mode,
                strings: state.strings,
                memory: Weak::new(),
                vfork_parent: (flags & CLONE_VFORK != 0).then(|| parent.share()),
            }
        }),
    });
    let thread = new_thread(pid, &child, None, frame, clone)?;
    let tell = |mode, space: &Space, counts: ForkCounts| {
        // The user's stack need not be walked for nobody.
        if !trace::enabled(trace::FORK) {
            return;
        }
        trace::emit(Event::Fork(Fork {
            mode,
            parent: process.pid,
            child: pid,
            parent_space: parent_space.serial,
            child_space: space.serial,
            shared: counts.shared,
            protected: counts.protected,
            leaves: counts.leaves,
            copied: counts.copied,
            tables: counts.tables,
            tables_shared: counts.tables_shared,
            cost: arch::time::cycles().wrapping_sub(start) as u32,
            pc: frame.pc,
            stack: trace::stack::of(frame),
        }));
    };
    let space = if flags & CLONE_VM != 0 {
        tell(ForkMode::Vfork, parent_space, ForkCounts::default());
        parent_space.clone()
    } else {
        parent_space.fork(mode, |space, counts| tell(mode, space, counts))?
    };
    {
        let mut state = child.state.lock();
        state.space = space.identity();
        state.memory = Arc::downgrade(&space);
    }
    thread.set_space(space.clone());
    if ticking {
        // The limit on CPU time is the child's, too.
        timers::watch(&child);
    }
    child.signals.lock().threads.begin(thread.clone());
    table::insert(reserved, child.clone(), process.pid);
    child.announce();
    if flags & CLONE_VM == 0 {
        parent_space.report_resident();
        space.report_resident();
    }
    drop(space);
    if flags & CLONE_PARENT_SETTID != 0 {
        // As on Linux, a bad address does not undo the child.
        let _ = uaccess::write_u32(clone.parent_tid, pid);
    }
    scheduler::start(thread);
    if flags & CLONE_VFORK != 0 {
        wait_for_exec(&child);
    }
    Ok(pid)
}

/// A thread of the current process. What the two share cannot be chosen: it is all that POSIX has
/// threads share.
fn clone_thread(frame: &TrapFrame, clone: &Clone) -> Result<u32, Errno> {
    const SHARED: u32 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    // The last three say what is so anyway: there are no such semaphores, and no tracers.
    const SUPPORTED: u32 = SHARED
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_SETTID
        | CLONE_CHILD_CLEARTID
        | CLONE_SETTLS
        | CLONE_SYSVSEM
        | CLONE_DETACHED
        | CLONE_UNTRACED;
    let flags = clone.flags as u32 & !0xff;
    if clone.flags >> 32 != 0 || flags & SHARED != SHARED || flags & !SUPPORTED != 0 {
        return Err(Errno::EINVAL);
    }
    let maker = current();
    let process = &maker.process;
    if !limits::may_fork(process) {
        return Err(Errno::EAGAIN);
    }
    let space = maker.space().ok_or(Errno::ESRCH)?.clone();
    let reserved = table::allocate()?;
    let tid = reserved.number();
    let thread = new_thread(tid, process, Some(space), frame, clone)?;
    process.threaded.store(true, Ordering::Relaxed);
    threads::enter(&maker, &thread)?;
    table::insert_thread(reserved, thread.clone());
    trace::emit(Event::ThreadStart {
        pid: process.pid,
        tid,
        by: maker.tid(),
    });
    threads::announce(process, tid);
    if flags & CLONE_PARENT_SETTID != 0 {
        // As on Linux, a bad address does not undo the thread.
        let _ = uaccess::write_u32(clone.parent_tid, tid);
    }
    scheduler::start(thread);
    Ok(tid)
}

fn new_thread(
    tid: u32,
    process: &Arc<Process>,
    space: Option<Arc<Space>>,
    frame: &TrapFrame,
    clone: &Clone,
) -> Result<Arc<Thread>, Errno> {
    let flags = clone.flags as u32;
    let parent = current();
    parent.save_user_state();
    let start = Start {
        frame,
        fp: parent.fp(),
        thread_pointer: match flags & CLONE_SETTLS != 0 {
            true => clone.tls,
            false => parent.thread_pointer(),
        },
        blocked: parent.signals.blocked(),
        signal_stack: if flags & (CLONE_VM | CLONE_VFORK) == CLONE_VM {
            signal::AlternateStack::NONE
        } else {
            parent.signals.own().stack
        },
        ..Start::default()
    };
    let thread = Thread::new(tid, process.clone(), space, &start)?;
    // SAFETY: nobody runs the thread yet, and nobody else knows it.
    let registers = unsafe { &mut *thread.user_frame() };
    registers.x[0] = 0;
    if clone.stack != 0 {
        registers.sp = clone.stack;
    }
    if flags & CLONE_CHILD_SETTID != 0 {
        thread
            .set_child_tid
            .store(clone.child_tid, Ordering::Relaxed);
    }
    if flags & CLONE_CHILD_CLEARTID != 0 {
        thread
            .clear_child_tid
            .store(clone.child_tid, Ordering::Relaxed);
    }
    Ok(thread)
}

/// Sleeps until the child of a vfork has its own address space, or has ended.
fn wait_for_exec(child: &Process) {
    loop {
        let state = child.state.lock();
        if state.vfork_parent.is_none() {
            return;
        }
        scheduler::prepare_to_block();
        drop(state);
        if has_to_end() {
            // The child goes on alone.
            child.state.lock().vfork_parent = None;
            return;
        }
        scheduler::block_for_good();
    }
}

/// Whether the current thread, which is about to sleep, must not.
fn has_to_end() -> bool {
    let thread = current();
    // Either a signal that is sent now finds the thread about to sleep, or the thread finds it.
    arch::cpu::fence();
    let killed = signal::is_killed(&thread);
    if killed {
        thread.set_state(super::thread::State::Running);
    }
    killed
}
