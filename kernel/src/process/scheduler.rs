//! The scheduler: round robin, preempted by the tick; sleeping and waking.
//!
//! The kernel itself is never preempted. A thread that goes to sleep first says so (`Blocking`)
//! under the lock of what it waits for; a waker may then come at any time, also before the
//! thread has left its CPU: it is put into the run queue by whoever comes later, the waker or
//! `finish_switch`, so that no CPU runs it before its registers are saved.
//!
//! Lock order: pipe, process table -> run queue. Nothing is locked while the run queue is.

use super::thread::{State, Thread, current};
use super::timer;
use crate::arch::{self, context::Context, park::MAX_CPUS};
use crate::trace;
use alloc::sync::Arc;
use core::cell::{Cell, UnsafeCell};
use core::ptr;
use memory::{Guard, Lock, Rank};
use wire::event::Event;

/// What each CPU has of its own.
pub struct Cpu {
    /// The running thread: an `Arc` that was turned into a pointer; null in the idle loop.
    pub current: Cell<*const Thread>,
    /// The thread that was left in the last switch, until `finish_switch`.
    previous: Cell<*const Thread>,
    idle: UnsafeCell<Context>,
    /// The running thread has had its time.
    pub reschedule: Cell<bool>,
    /// User accesses fail instead of faulting pages in.
    pub no_faults: Cell<bool>,
    /// When the timer interrupt comes.
    pub timer: Cell<u64>,
}

struct Cpus([Cpu; MAX_CPUS]);

// SAFETY: `cpu` hands out this CPU's element only; the kernel runs with interrupts masked and is
// not preempted, and a thread that moves to another CPU does so only inside `switch`, across
// which nobody keeps the reference.
unsafe impl Sync for Cpus {}

static CPUS: Cpus = Cpus(
    [const {
        Cpu {
            current: Cell::new(ptr::null()),
            previous: Cell::new(ptr::null()),
            idle: UnsafeCell::new(Context::empty()),
            reschedule: Cell::new(false),
            no_faults: Cell::new(false),
            timer: Cell::new(0),
        }
    }; MAX_CPUS],
);

/// This CPU.
#[inline]
pub fn cpu() -> &'static Cpu {
    &CPUS.0[arch::cpu::id()]
}

/// Threads that are ready, linked through themselves: no memory is needed to make one ready.
struct RunQueue {
    /// `Arc`s that were turned into pointers; null: none.
    first: *const Thread,
    last: *const Thread,
}

// SAFETY: the pointers stand for `Arc<Thread>`s, which may go to any CPU.
unsafe impl Send for RunQueue {}

static QUEUE: Lock<RunQueue> = Lock::new(
    Rank::RunQueue,
    RunQueue {
        first: ptr::null(),
        last: ptr::null(),
    },
);

impl RunQueue {
    #[inline]
    fn push(&mut self, thread: Arc<Thread>) {
        let thread = Arc::into_raw(thread);
        // SAFETY: both are the queue's own references; the links belong to the queue, which is locked.
        unsafe {
            (*thread).link().set(ptr::null());
            match self.last.as_ref() {
                Some(last) => last.link().set(thread),
                None => self.first = thread,
            }
        }
        self.last = thread;
    }

    #[inline]
    fn pop(&mut self) -> Option<Arc<Thread>> {
        let first = self.first;
        // SAFETY: the queue's own reference, or null; the link belongs to the queue.
        self.first = unsafe { first.as_ref() }?.link().get();
        if self.first.is_null() {
            self.last = ptr::null();
        }
        // SAFETY: `push` made it from an Arc, and it is in the queue no more.
        Some(unsafe { Arc::from_raw(first) })
    }
}

/// Starts a new thread.
pub fn start(thread: Arc<Thread>) {
    QUEUE.lock().push(thread);
}

/// Wakes a thread that sleeps or is about to.
pub fn wake(thread: &Arc<Thread>) {
    if thread.change_state(State::Blocked, State::Ready) {
        QUEUE.lock().push(thread.clone());
    } else {
        thread.change_state(State::Blocking, State::Running);
    }
}

/// Says that the current thread is about to sleep. What it waits for must be locked.
pub fn prepare_to_block() {
    current().set_state(State::Blocking);
}

/// Sleeps until somebody wakes the thread; returns at once if that has happened since
/// `prepare_to_block`. Callers check again what they waited for.
pub fn block() {
    if current().state() == State::Blocking {
        switch_away();
    }
}

/// Lets the next thread run, if there is one.
pub fn yield_now() {
    if !QUEUE.lock().first.is_null() {
        current().set_state(State::Ready);
        switch_away();
    }
}

/// Ends the current thread, which has nothing left but its stack.
pub fn end_current() -> ! {
    current().set_state(State::Dead);
    switch_away();
    unreachable!("a dead thread was run")
}

/// Leaves the current thread for the next in the queue, or for the idle loop. Comes back when the
/// thread is scheduled again.
fn switch_away() {
    memory::lock::assert_none_held();
    let thread = current();
    let cpu = cpu();
    let next = QUEUE.lock().pop();
    thread.save_user_state();
    let target: *const Context = match &next {
        Some(next) => next.context(),
        None => cpu.idle.get(),
    };
    leave_for(cpu, next);
    // SAFETY: both contexts are valid until the switch is over: the thread's, because
    // `cpu.previous` now holds the CPU's reference to it; the target's, because the CPU took over
    // the queue's reference. Interrupts are masked.
    unsafe { arch::context::switch(thread.context(), target) };
    finish_switch();
    thread.restore_user_state();
}

/// Makes `next` the current thread, and its address space the active one.
fn leave_for(cpu: &Cpu, next: Option<Arc<Thread>>) {
    cpu.previous.set(cpu.current.get());
    cpu.reschedule.set(false);
    // SAFETY: the CPU holds a reference to its current thread, null aside.
    let from = unsafe { cpu.current.get().as_ref() }.map_or(0, |thread| thread.tid);
    match next {
        Some(next) => {
            next.set_state(State::Running);
            let (mut serial, mut ttbr0) = (0, 0);
            if let Some(space) = next.space() {
                (serial, ttbr0) = (space.serial, space.activate());
            }
            trace::switch(next.tid, || Event::Switch {
                from,
                to: next.tid,
                space: serial,
                ttbr0,
                tlbis: arch::mmu::tlbi_count(),
            });
            cpu.current.set(Arc::into_raw(next));
        }
        None => {
            arch::mmu::deactivate();
            let tlbis = arch::mmu::tlbi_count();
            trace::switch(0, || Event::Switch {
                from,
                to: 0,
                space: 0,
                ttbr0: arch::mmu::reserved_ttbr0(),
                tlbis,
            });
            cpu.current.set(ptr::null());
        }
    }
}

/// On the new stack: deals with the thread that was left.
pub fn finish_switch() {
    let previous = cpu().previous.replace(ptr::null());
    if previous.is_null() {
        return;
    }
    // SAFETY: `leave_for` put the CPU's own reference there, and nobody else takes it out.
    let previous = unsafe { Arc::from_raw(previous) };
    match previous.state() {
        State::Dead => {}
        State::Blocking if previous.change_state(State::Blocking, State::Blocked) => {}
        // It yielded, or was woken on its way to sleep.
        _ => {
            previous.set_state(State::Ready);
            QUEUE.lock().push(previous);
        }
    }
}

/// What a CPU does when there is nothing to do: empties its trace ring, and sleeps.
pub fn idle() -> ! {
    timer::start();
    loop {
        let next = QUEUE.lock().pop();
        if let Some(next) = next {
            let cpu = cpu();
            let target = next.context();
            leave_for(cpu, Some(next));
            // SAFETY: as in `switch_away`; the idle context belongs to this CPU alone.
            unsafe { arch::context::switch(cpu.idle.get(), target) };
            finish_switch();
            continue;
        }
        trace::idle(cpu().timer.get());
        arch::cpu::wait_for_interrupt();
    }
}

/// Threads that wait for something. It belongs inside the lock of what they wait for.
///
/// Each is linked through a record on its own stack, as on Linux: no memory is needed to sleep, so
/// that a machine whose memory is used up can still wait for some to come back.
pub struct WaitQueue {
    /// Null: none.
    first: *const Waiter,
    last: *const Waiter,
}

/// A thread in a wait queue, which is locked whenever this is used.
struct Waiter {
    thread: Arc<Thread>,
    next: Cell<*const Waiter>,
    queued: Cell<bool>,
}

// SAFETY: the pointers are to waiters that are used under the queue's lock only, and whose threads
// may be woken from any CPU.
unsafe impl Send for WaitQueue {}

impl WaitQueue {
    /// Nobody.
    pub const fn new() -> WaitQueue {
        WaitQueue {
            first: ptr::null(),
            last: ptr::null(),
        }
    }

    /// Sleeps in `queue`, which `lock` protects, until somebody wakes the thread, like a condition
    /// variable: the lock is given up meanwhile. Callers check again what they waited for.
    pub fn wait<'a, T>(
        lock: &'a Lock<T>,
        mut guard: Guard<'a, T>,
        queue: impl Fn(&mut T) -> &mut WaitQueue,
    ) -> Guard<'a, T> {
        let waiter = Waiter {
            thread: current().share(),
            next: Cell::new(ptr::null()),
            queued: Cell::new(true),
        };
        queue(&mut guard).push(&waiter);
        prepare_to_block();
        drop(guard);
        block();
        let mut guard = lock.lock();
        // Something else may have woken it. Until here the waiter stays where it is, whatever
        // happens: the kernel does not unwind.
        if waiter.queued.get() {
            queue(&mut guard).remove(&waiter);
        }
        guard
    }

    fn push(&mut self, waiter: *const Waiter) {
        // SAFETY: what is in the queue lives until `wait` has taken it out.
        match unsafe { self.last.as_ref() } {
            Some(last) => last.next.set(waiter),
            None => self.first = waiter,
        }
        self.last = waiter;
    }

    fn remove(&mut self, waiter: *const Waiter) {
        let mut before: *const Waiter = ptr::null();
        let mut at = self.first;
        // SAFETY: as in `push`.
        while let Some(this) = unsafe { at.as_ref() } {
            if !ptr::eq(at, waiter) {
                (before, at) = (at, this.next.get());
                continue;
            }
            // SAFETY: as in `push`.
            match unsafe { before.as_ref() } {
                Some(before) => before.next.set(this.next.get()),
                None => self.first = this.next.get(),
            }
            if ptr::eq(self.last, at) {
                self.last = before;
            }
            this.queued.set(false);
            return;
        }
    }

    /// Wakes all.
    pub fn wake_all(&mut self) {
        self.last = ptr::null();
        let mut at = core::mem::replace(&mut self.first, ptr::null());
        // SAFETY: as in `push`; a waiter that was woken stays until it gets the lock, which the
        // caller holds.
        while let Some(waiter) = unsafe { at.as_ref() } {
            at = waiter.next.get();
            waiter.queued.set(false);
            wake(&waiter.thread);
        }
    }
}
