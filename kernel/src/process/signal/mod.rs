//! Signals: actions, masks, sending. What happens to the one who gets them is in [`deliver`].
//!
//! A signal waits in the queue of a process or of one thread until a thread that does not block it
//! is about to return to user mode. Whoever sends one raises the thread's `attention` and wakes it;
//! the thread looks at its queues when it has seen that flag. The process's `signals` lock protects
//! actions, queues and the state of job control; the bits that are read without it are hints which
//! the flag makes good.

pub mod deliver;
pub mod frame;
pub mod info;
pub mod restart;

pub use deliver::{deliver, deliver_interrupted};
pub use info::Info;

use super::thread::{Current, Thread};
use super::threads::Threads;
use super::{INIT, Process, group, scheduler, table, timers};
use crate::arch::heap;
use crate::fs::special::signals;
use crate::syscall::errno::Errno;
use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use info::Queue;
use linux_raw_sys::general::{
    SA_NOCLDSTOP, SA_NOCLDWAIT, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGILL, SIGKILL, SIGSEGV,
    SIGSTOP, SIGSYS, SIGTRAP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH, SS_DISABLE,
};
use memory::{Guard, Lock, Rank};

/// Signals are 1 to this.
pub const MAX: u32 = 64;
/// From this one on, every instance is queued.
pub const FIRST_REAL_TIME: u32 = 32;
/// SIG_DFL.
pub const DEFAULT: u64 = 0;
/// SIG_IGN.
pub const IGNORE: u64 = 1;

/// `struct sigaction` of the system call.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Action {
    /// Handler, SIG_DFL or SIG_IGN.
    pub handler: u64,
    /// SA_*.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

impl Action {
    /// Whether a flag (SA_*) is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Whether the program has a handler.
    pub fn catches(&self) -> bool {
        self.handler > IGNORE
    }
}

/// What a process does on each signal.
pub type Actions = [Action; MAX as usize];

/// The bit of a signal in a mask.
pub const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Signals that cannot be blocked, caught or ignored.
pub const UNBLOCKABLE: u64 = bit(SIGKILL) | bit(SIGSTOP);
/// Signals that do nothing by default.
pub const HARMLESS: u64 = bit(SIGCHLD) | bit(SIGURG) | bit(SIGWINCH) | bit(SIGCONT);
/// Signals that stop a process by default.
pub const STOPPING: u64 = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
/// Signals of an instruction that went wrong: they come before all others, so that the handler's
/// context is that instruction.
pub const SYNCHRONOUS: u64 =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS);

/// What a process has of signals.
pub struct OfProcess {
    /// What waits in the queue, for a look without the lock.
    pending: AtomicU64,
    state: Lock<State>,
}

/// What the lock protects.
#[derive(Default)]
pub struct State {
    /// Sent to the process; any of its threads may take it.
    queue: Queue,
    /// None: all defaults.
    actions: Option<Box<Actions>>,
    /// The threads of the process.
    pub threads: Threads,
    /// It is stopped, or about to be: its threads sleep as soon as they look at their signals.
    pub stopped: bool,
    /// The signal that stopped it, until its parent is told: when all its threads sleep.
    stopped_by: u8,
    /// A stop signal was taken out of the queue, and nothing came since that takes it back.
    stopping: bool,
    /// The kernel itself has sentenced it: not even `/init` is protected.
    condemned: bool,
}

/// What a thread has of signals.
pub struct OfThread {
    /// There is something to do before it returns to user mode.
    attention: AtomicBool,
    /// What waits in `queue`, for a look without the lock.
    pending: AtomicU64,
    /// Signals not acted upon for now.
    blocked: AtomicU64,
    /// Signals that rt_sigtimedwait waits for: blocked, but they wake.
    awaited: AtomicU64,
    queue: Lock<Queue>,
    own: Lock<Own>,
}

/// What only the thread itself uses.
pub struct Own {
    /// The alternate stack: address, size, SS_*.
    pub stack: AlternateStack,
    /// The mask to go back to at the end of a system call that has changed it for its own time.
    pub saved: Option<u64>,
    /// What restart_syscall goes on with.
    pub restart: Option<restart::Restart>,
    /// Address and ESR of the last fault, for `fault_address` and the ESR record of frames.
    pub fault: (u64, u64),
}

/// `stack_t`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AlternateStack {
    /// Lowest address.
    pub address: u64,
    /// SS_*.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
    /// Bytes.
    pub size: u64,
}

impl AlternateStack {
    /// None.
    pub const NONE: AlternateStack = AlternateStack {
        address: 0,
        flags: SS_DISABLE,
        pad: 0,
        size: 0,
    };
}

impl OfProcess {
    /// With these actions, and nothing sent.
    pub fn new(actions: Option<Box<Actions>>) -> OfProcess {
        OfProcess {
            pending: AtomicU64::new(0),
            state: Lock::new(
                Rank::Signals,
                State {
                    actions,
                    ..State::default()
                },
            ),
        }
    }

    /// Locks it.
    pub fn lock(&self) -> Guard<'_, State> {
        self.state.lock()
    }
}

impl OfThread {
    /// With this mask and stack, and nothing sent.
    pub fn new(blocked: u64, stack: AlternateStack) -> OfThread {
        OfThread {
            attention: AtomicBool::new(false),
            pending: AtomicU64::new(0),
            blocked: AtomicU64::new(blocked),
            awaited: AtomicU64::new(0),
            queue: Lock::new(Rank::ThreadSignals, Queue::default()),
            own: Lock::new(
                Rank::ThreadSignals,
                Own {
                    stack,
                    saved: None,
                    restart: None,
                    fault: (0, 0),
                },
            ),
        }
    }

    /// Whether [`deliver`] has something to do.
    #[inline]
    pub fn attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// The mask.
    pub fn blocked(&self) -> u64 {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Signals that it would act upon.
    pub fn wanted(&self) -> u64 {
        let awaited = self.awaited.load(Ordering::Relaxed);
        !self.blocked() | awaited | UNBLOCKABLE
    }

    /// What the thread alone uses. Never held across an access to user memory.
    pub fn own(&self) -> Guard<'_, Own> {
        self.own.lock()
    }
}

impl State {
    /// The action of `signal`.
    pub fn action(&self, signal: u32) -> Action {
        self.actions
            .as_ref()
            .map_or(Action::default(), |actions| actions[signal as usize - 1])
    }

    /// Whether `signal` would do nothing, were it not blocked.
    fn ignores(&self, process: &Process, signal: u32) -> bool {
        let handler = self.action(signal).handler;
        handler == IGNORE
            || handler == DEFAULT && bit(signal) & HARMLESS != 0
            || handler <= IGNORE && self.protects(process)
    }

    /// The process is stopped from now on. `thread`, which is current, is about to sleep.
    fn stop(&mut self, thread: &Thread, signal: u32) {
        self.stopped = true;
        self.stopped_by = signal as u8;
        group::count_stopped();
        if self.threads.are_many() {
            for other in self.threads.iter() {
                if !core::ptr::eq(&**other, thread) && !other.stopped.load(Ordering::Relaxed) {
                    // SIGCONT takes it back, like any that stops.
                    queue_for(other, Info::kernel(SIGSTOP));
                    notify(other);
                }
            }
        }
    }

    /// Whether the last thread of a process that was stopped sleeps now: by which signal. Once.
    pub fn stop_is_complete(&mut self) -> Option<u32> {
        if !self.stopped || self.stopped_by == 0 || !self.threads.all_stopped() {
            return None;
        }
        Some(core::mem::take(&mut self.stopped_by).into())
    }

    /// Whether only signals with a handler reach it: `/init`, on which all others depend.
    fn protects(&self, process: &Process) -> bool {
        process.pid == INIT && !self.condemned
    }
}

/// A table of actions on the heap, or ENOMEM.
fn boxed(actions: &Actions) -> Result<Box<Actions>, Errno> {
    heap::try_box(*actions).ok_or(Errno::ENOMEM)
}

/// A copy of a process's actions for a forked child.
pub fn copy_actions(process: &Process) -> Result<Option<Box<Actions>>, Errno> {
    process
        .signals
        .lock()
        .actions
        .as_deref()
        .map(boxed)
        .transpose()
}

/// The action of `signal`.
pub fn action(process: &Process, signal: u32) -> Action {
    process.signals.lock().action(signal)
}

/// Sets the action of `signal`; returns the one before.
pub fn set_action(process: &Process, signal: u32, action: Action) -> Result<Action, Errno> {
    // What SA_UNSUPPORTED asks: Linux clears the flags that it does not know.
    const KNOWN: u64 = 0xdc00_0807;
    let fresh = if process.signals.lock().actions.is_none() {
        Some(boxed(&[Action::default(); MAX as usize])?)
    } else {
        None
    };
    let action = Action {
        flags: action.flags & KNOWN,
        mask: action.mask & !UNBLOCKABLE,
        ..action
    };
    let mut state = process.signals.lock();
    let before = state.action(signal);
    if state.actions.is_none() {
        state.actions = fresh;
    }
    if let Some(actions) = state.actions.as_mut() {
        actions[signal as usize - 1] = action;
    }
    // POSIX: what waits is discarded when it becomes ignored, blocked or not.
    if state.ignores(process, signal) {
        discard(process, &mut state, bit(signal));
    }
    Ok(before)
}

/// Takes signals out of all queues of a process.
fn discard(process: &Process, state: &mut State, signals: u64) {
    state.queue.discard(signals);
    publish(process, state);
    for thread in state.threads.iter() {
        let mut queue = thread.signals.queue.lock();
        queue.discard(signals);
        thread.signals.pending.store(queue.set(), Ordering::Release);
    }
}

/// Enters a signal for one thread. Whether its info was kept.
fn queue_for(thread: &Thread, info: Info) -> bool {
    let mut queue = thread.signals.queue.lock();
    let kept = queue.push(info);
    thread.signals.pending.store(queue.set(), Ordering::Release);
    kept
}

/// Makes a thread end as soon as it looks at its signals, which it does at once. The lock of its
/// process's signals is held.
pub fn sentence(thread: &Arc<Thread>) {
    queue_for(thread, Info::kernel(SIGKILL));
    notify(thread);
}

/// Whether a thread has to end.
pub fn is_killed(thread: &Thread) -> bool {
    pending(thread) & bit(SIGKILL) != 0
}

/// Shows the bits of a process's queue to those who look without the lock.
fn publish(process: &Process, state: &State) {
    process
        .signals
        .pending
        .store(state.queue.set(), Ordering::Release);
}

/// Whether the end of a child is no news to this parent, and whether it wants no SIGCHLD either.
pub fn disowns_children(parent: &Process) -> (bool, bool) {
    let action = action(parent, SIGCHLD);
    let ignores = action.handler == IGNORE;
    (ignores || action.has(SA_NOCLDWAIT), ignores)
}

/// Whether a parent wants no SIGCHLD when a child stops or goes on.
pub fn ignores_stops(parent: &Process) -> bool {
    let action = action(parent, SIGCHLD);
    action.handler == IGNORE || action.has(SA_NOCLDSTOP)
}

/// A new program: handlers go with the old one, what is ignored stays ignored, and what waits goes
/// on waiting.
pub fn exec(thread: &Thread) {
    if let Some(actions) = thread.process.signals.lock().actions.as_mut() {
        for action in actions.iter_mut() {
            let handler = if action.handler == IGNORE {
                IGNORE
            } else {
                DEFAULT
            };
            *action = Action {
                handler,
                ..Action::default()
            };
        }
    }
    let mut own = thread.signals.own();
    own.stack = AlternateStack::NONE;
    own.restart = None;
}

/// A process that has ended needs no queue and no actions.
pub fn end(process: &Process) {
    let (queue, actions, stopped) = {
        let mut state = process.signals.lock();
        let queue = core::mem::take(&mut state.queue);
        let stopped = core::mem::take(&mut state.stopped);
        (queue, state.actions.take(), stopped)
    };
    drop((queue, actions));
    process.signals.pending.store(0, Ordering::Relaxed);
    if stopped {
        group::forget_stopped();
    }
}

/// Sends a signal to a process. False: its `info` is lost for want of memory.
pub fn send_info(process: &Process, info: Info) -> bool {
    enter(process, None, info)
}

/// Sends a signal to one thread. False as for [`send_info`].
pub fn send_to_thread(thread: &Arc<Thread>, info: Info) -> bool {
    enter(&thread.process, Some(thread), info)
}

/// For one thread if it is named, else for any.
fn enter(process: &Process, own: Option<&Arc<Thread>>, info: Info) -> bool {
    let signal = info.signal;
    let mut state = process.signals.lock();
    let chosen = match own {
        Some(thread) if thread.ending.load(Ordering::Relaxed) => None,
        Some(thread) => Some(thread),
        None => state.threads.choose(bit(signal)),
    };
    let Some(thread) = chosen.cloned() else {
        // It has ended.
        return true;
    };
    let mut went_on = false;
    if bit(signal) & STOPPING != 0 {
        discard(process, &mut state, bit(SIGCONT));
    } else if signal == SIGCONT {
        discard(process, &mut state, STOPPING);
        state.stopping = false;
        state.stopped_by = 0;
        went_on = core::mem::take(&mut state.stopped);
        if went_on {
            state.threads.iter().for_each(notify);
        }
    } else if signal == SIGKILL {
        state.stopping = false;
    }
    let mine = &thread.signals;
    let blocked = mine.blocked() | mine.awaited.load(Ordering::Relaxed);
    let mut kept = true;
    // A blocked signal waits even if it is ignored: its action may be another by then.
    if blocked & bit(signal) != 0 || !state.ignores(process, signal) {
        if own.is_some() {
            kept = queue_for(&thread, info);
        } else {
            kept = state.queue.push(info);
            publish(process, &state);
        }
    }
    drop(state);
    signals::notify();
    if deliverable(&thread) != 0 {
        notify(&thread);
    }
    if went_on {
        group::report_continued(process);
    }
    kept
}

/// Makes a thread look at its signals, wherever it is.
pub fn notify(thread: &Arc<Thread>) {
    thread.signals.attention.store(true, Ordering::Release);
    scheduler::wake(thread);
    scheduler::kick(thread);
}

/// A signal that the current thread has earned by what it did: it takes the default action if it
/// is blocked or ignored.
pub fn force(thread: &Current, info: Info) {
    let process = &thread.process;
    let signal = info.signal;
    let mut state = process.signals.lock();
    let blocked = thread.signals.blocked();
    let hidden = blocked & bit(signal) != 0 || state.action(signal).handler == IGNORE;
    if hidden {
        if let Some(actions) = state.actions.as_mut() {
            actions[signal as usize - 1].handler = DEFAULT;
        }
        thread
            .signals
            .blocked
            .store(blocked & !bit(signal), Ordering::Relaxed);
    }
    if !state.action(signal).catches() {
        state.condemned = true;
    }
    queue_for(thread, info);
    thread.signals.attention.store(true, Ordering::Release);
}

/// The next signal of the current thread that is in `wanted`.
fn take(thread: &Thread, state: &mut State, wanted: u64) -> Option<Info> {
    let process = &thread.process;
    let mut queue = thread.signals.queue.lock();
    let own = queue.set() & wanted;
    let info = if let Some(signal) = first(own) {
        let info = queue.take(signal);
        thread.signals.pending.store(queue.set(), Ordering::Release);
        info
    } else {
        let info = state.queue.take(first(state.queue.set() & wanted)?);
        publish(process, state);
        info
    };
    if let Some(info) = &info
        && bit(info.signal) & STOPPING != 0
    {
        state.stopping = true;
    }
    info
}

/// The one of `signals` to take first.
fn first(signals: u64) -> Option<u32> {
    let urgent = [bit(SIGKILL), SYNCHRONOUS, u64::MAX]
        .into_iter()
        .map(|some| signals & some)
        .find(|&some| some != 0)?;
    Some(urgent.trailing_zeros() + 1)
}

/// Takes a signal that is in `wanted`, for those who wait for signals instead of catching them.
pub fn take_awaited(thread: &Current, wanted: u64) -> Option<Info> {
    let info = {
        let mut state = thread.process.signals.lock();
        take(thread, &mut state, wanted & !UNBLOCKABLE)?
    };
    timers::delivered(&thread.process, &info);
    Some(info)
}

/// Says which signals, though blocked, wake the current thread.
pub fn await_signals(thread: &Current, wanted: u64) {
    // As in `set_blocked`.
    let state = thread.process.signals.lock();
    let before = thread.signals.awaited.load(Ordering::Relaxed);
    thread
        .signals
        .awaited
        .store(wanted & !UNBLOCKABLE, Ordering::Release);
    leave_to_others(thread, &state, before & !wanted);
}

/// Signals that wait for the thread: its own and its process's.
pub fn pending(thread: &Thread) -> u64 {
    thread.signals.pending.load(Ordering::Acquire)
        | thread.process.signals.pending.load(Ordering::Acquire)
}

/// Signals that wait for a thread and are not blocked, or awaited.
#[inline]
pub fn deliverable(thread: &Thread) -> u64 {
    pending(thread) & thread.signals.wanted()
}

/// The thread, which is current, does not want these any more. One that waits for the process may
/// have been announced to this thread alone.
fn leave_to_others(thread: &Thread, state: &State, signals: u64) {
    if state.threads.are_many() {
        let waiting = thread.process.signals.pending.load(Ordering::Relaxed) & signals;
        if waiting != 0 {
            state.threads.retarget(thread, waiting);
        }
    }
}

/// Sets the mask of the current thread.
pub fn set_blocked(thread: &Thread, mask: u64) {
    // Under the lock: whoever sends a signal now either sees the new mask, or is seen here.
    let state = thread.process.signals.lock();
    let before = thread.signals.blocked();
    thread
        .signals
        .blocked
        .store(mask & !UNBLOCKABLE, Ordering::Relaxed);
    if deliverable(thread) != 0 {
        thread.signals.attention.store(true, Ordering::Release);
    }
    leave_to_others(thread, &state, mask & !before);
}

/// Gives the current thread another mask for the time of a system call that waits. If a signal ends
/// the wait, its handler still runs under this mask, and the old one comes back after that; else
/// the caller puts it back with [`end_temporary_mask`].
pub fn set_temporary_mask(thread: &Thread, mask: u64) {
    let before = thread.signals.blocked();
    thread.signals.own().saved = Some(before);
    // Whatever happens, somebody has to look whether the old mask is back.
    thread.signals.attention.store(true, Ordering::Release);
    set_blocked(thread, mask);
}

/// Puts the mask from before [`set_temporary_mask`] back.
pub fn end_temporary_mask(thread: &Thread) {
    let saved = thread.signals.own().saved.take();
    if let Some(mask) = saved {
        set_blocked(thread, mask);
    }
}

/// Sleeps until there is a signal for the current thread.
pub fn wait_for_any(thread: &Current) {
    loop {
        scheduler::prepare_to_block();
        if thread.interrupted() {
            thread.set_state(super::thread::State::Running);
            return;
        }
        scheduler::block();
    }
}

/// Sends a signal to every process that `wanted` selects: `Ok` if there is one that may be sent to,
/// EPERM if there are only others, ESRCH if there is none. Signal 0 only asks.
pub fn send_to(
    info: Option<Info>,
    mut wanted: impl FnMut(&Process) -> Option<bool>,
) -> Result<(), Errno> {
    let mut found = Err(Errno::ESRCH);
    let mut pid = 0;
    while let Some(process) = table::next(pid) {
        pid = process.pid;
        match wanted(&process) {
            None => {}
            Some(false) if found.is_err() => found = Err(Errno::EPERM),
            Some(false) => {}
            Some(true) => {
                found = Ok(());
                if let Some(info) = info {
                    send_info(&process, info);
                }
            }
        }
    }
    found
}

/// Sends a signal to a process group, from the kernel: what a terminal does.
pub fn send_to_group(group: u32, signal: u32) {
    // Nobody there is no error.
    let _ = send_to(Some(Info::kernel(signal)), |process| {
        (process.group.load(Ordering::Relaxed) == group).then_some(true)
    });
}
