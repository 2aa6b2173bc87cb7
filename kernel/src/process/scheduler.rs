//! The scheduler: a run queue per CPU, round robin, preempted by the tick; sleeping and waking.
//!
//! The kernel itself is never preempted. A thread that goes to sleep first says so (`Blocking`)
//! under the lock of what it waits for; a waker may then come at any time, also before the
//! thread has left its CPU: it is put into a run queue by whoever comes later, the waker or
//! `finish_switch`, so that no CPU runs it before its registers are saved.
//!
//! A thread that is made ready goes to a CPU that sleeps, if there is one, else to where it ran
//! last. A CPU with nothing to do takes from the others' queues. One that is about to sleep says so
//! in [`ASLEEP`] before it looks into the queues for the last time; whoever fills a queue looks
//! there afterwards: one of the two sees the other.

use super::thread::{State, Thread, current};
use super::timer;
use crate::arch::{
    self,
    context::Context,
    cpu::{Local, MAX_CPUS},
    secondary,
};
use crate::driver::interrupt::{self, Call};
use crate::fs::console;
use crate::trace;
use alloc::sync::Arc;
use core::cell::{Cell, UnsafeCell};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use memory::{Guard, Lock, Rank};
use wire::event::Event;

/// What each CPU has of its own. The first field's address is the CPU's TPIDR_EL1.
#[repr(C, align(128))]
pub struct Cpu {
    local: Local,
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
    ready: Ready,
}

/// The threads that are ready to run on a CPU. All CPUs use it.
#[repr(align(128))]
struct Ready {
    /// How many there are, to look at without the lock.
    count: AtomicUsize,
    queue: Lock<RunQueue>,
}

struct Cpus([Cpu; MAX_CPUS]);

// SAFETY: `cpu` hands out this CPU's element only, and of the others' `ready`, which is Sync, and
// `local`, which its CPU alone uses once it runs; the kernel runs with interrupts masked and is not
// preempted, and a thread that moves to another CPU does so only inside `switch`, across which
// nobody keeps the reference.
unsafe impl Sync for Cpus {}

/// By number. The head finds the boot CPU's by this name.
#[unsafe(no_mangle)]
static CPUS: Cpus = Cpus({
    let mut cpus = [const { Cpu::new(0) }; MAX_CPUS];
    let mut number = 1;
    while number < MAX_CPUS {
        cpus[number] = Cpu::new(number);
        number += 1;
    }
    cpus
});

/// A bit per CPU that sleeps, or is about to, and wants an interrupt when there is work.
static ASLEEP: AtomicUsize = AtomicUsize::new(0);

impl Cpu {
    const fn new(number: usize) -> Cpu {
        Cpu {
            local: Local::new(number),
            current: Cell::new(ptr::null()),
            previous: Cell::new(ptr::null()),
            idle: UnsafeCell::new(Context::empty()),
            reschedule: Cell::new(false),
            no_faults: Cell::new(false),
            timer: Cell::new(0),
            ready: Ready {
                count: AtomicUsize::new(0),
                queue: Lock::new(
                    Rank::RunQueue,
                    RunQueue {
                        first: ptr::null(),
                        last: ptr::null(),
                    },
                ),
            },
        }
    }
}

/// This CPU.
#[inline(always)]
pub fn cpu() -> &'static Cpu {
    // SAFETY: `arch` put the address of the first field of one of `CPUS` there: an address of the
    // whole, since `Cpu` is `repr(C)`.
    unsafe { &*arch::cpu::local().cast() }
}

/// The thread that another CPU runs, or ran when it stopped; none: it is idle.
///
/// # Safety
/// The CPU goes on no more.
pub unsafe fn running(number: usize) -> Option<&'static Thread> {
    let cpu = &CPUS.0[number];
    // SAFETY: nobody changes it, by the caller's promise, and the CPU keeps a reference to it.
    unsafe { cpu.current.as_ptr().read_volatile().as_ref() }
}

/// What `arch` keeps for a CPU that has not started yet.
pub fn local(number: usize) -> &'static Local {
    &CPUS.0[number].local
}

/// Threads that are ready, linked through themselves: no memory is needed to make one ready.
struct RunQueue {
    /// `Arc`s that were turned into pointers; null: none.
    first: *const Thread,
    last: *const Thread,
}

// SAFETY: the pointers stand for `Arc<Thread>`s, which may go to any CPU.
unsafe impl Send for RunQueue {}

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

    /// Takes the first thread that may run on CPU `number`.
    #[inline]
    fn pop(&mut self, number: usize) -> Option<Arc<Thread>> {
        let mut before: *const Thread = ptr::null();
        let mut at = self.first;
        // SAFETY: the queue's own reference, or null.
        while let Some(thread) = unsafe { at.as_ref() } {
            let next = thread.link().get();
            if !thread.may_run_on(number) {
                (before, at) = (at, next);
                continue;
            }
            // SAFETY: as above; the links belong to the queue.
            match unsafe { before.as_ref() } {
                Some(before) => before.link().set(next),
                None => self.first = next,
            }
            if next.is_null() {
                self.last = before;
            }
            // SAFETY: `push` made it from an Arc, and it is in the queue no more.
            return Some(unsafe { Arc::from_raw(at) });
        }
        None
    }
}

impl Ready {
    #[inline]
    fn push(&self, thread: Arc<Thread>) {
        let mut queue = self.queue.lock();
        queue.push(thread);
        // Under the lock, so that the count is right whenever it is not held.
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
    }

    /// Takes the first thread that CPU `number` may run.
    #[inline]
    fn pop(&self, number: usize) -> Option<Arc<Thread>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        let thread = queue.pop(number)?;
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count - 1, Ordering::Relaxed);
        Some(thread)
    }
}

/// The next thread for this CPU: its own first, or one that waits elsewhere.
#[inline]
fn next(cpu: &Cpu) -> Option<Arc<Thread>> {
    let number = arch::cpu::id();
    match cpu.ready.pop(number) {
        Some(thread) => Some(thread),
        None if secondary::online() > 1 => steal(number),
        None => None,
    }
}

/// Takes a thread from another CPU's queue.
#[inline(never)]
fn steal(number: usize) -> Option<Arc<Thread>> {
    let online = secondary::online();
    (number + 1..online)
        .chain(0..number)
        .find_map(|other| CPUS.0[other].ready.pop(number))
}

/// Puts a thread, which is ready, into a run queue, and sees to it that a CPU looks there.
#[inline]
fn enqueue(thread: Arc<Thread>) {
    if secondary::online() == 1 {
        return cpu().ready.push(thread);
    }
    enqueue_somewhere(thread)
}

#[inline(never)]
fn enqueue_somewhere(thread: Arc<Thread>) {
    let number = arch::cpu::id();
    let allowed = thread.affinity();
    let last = thread.last_cpu();
    let idle = ASLEEP.load(Ordering::Relaxed) & allowed;
    let target = if allowed & 1 << last == 0 {
        // Nobody is allowed no CPU.
        (if idle != 0 { idle } else { allowed }).trailing_zeros() as usize
    } else if idle == 0 || idle & 1 << last != 0 {
        last
    } else {
        idle.trailing_zeros() as usize
    };
    CPUS.0[target].ready.push(thread);
    // The push before the look: see `idle`.
    arch::cpu::fence();
    let idle = ASLEEP.load(Ordering::Relaxed) & allowed & !(1 << number);
    if idle != 0 {
        let woken = if idle & 1 << target != 0 {
            target
        } else {
            idle.trailing_zeros() as usize
        };
        if ASLEEP.fetch_and(!(1 << woken), Ordering::Relaxed) & 1 << woken != 0 {
            interrupt::call(woken, Call::Reschedule);
        }
    }
}

/// Starts a new thread.
pub fn start(thread: Arc<Thread>) {
    enqueue(thread);
}

/// Wakes a thread that sleeps or is about to.
pub fn wake(thread: &Arc<Thread>) {
    // What the thread is woken for, before the look at its state: see `block`.
    arch::cpu::fence();
    loop {
        match thread.state() {
            State::Blocked => {
                if thread.change_state(State::Blocked, State::Ready) {
                    return enqueue(thread.clone());
                }
            }
            State::Blocking => {
                if thread.change_state(State::Blocking, State::Running) {
                    return;
                }
            }
            State::Running | State::Ready | State::Dead => return,
        }
    }
}

/// Interrupts the CPU that runs a thread, if it is another: the thread then looks whether there is
/// something to do before it goes on. One that is on its way to a CPU looks anyway.
pub fn kick(thread: &Thread) {
    arch::cpu::fence();
    let number = thread.last_cpu();
    if secondary::online() > 1 && number != arch::cpu::id() && thread.state() == State::Running {
        interrupt::call(number, Call::Reschedule);
    }
}

/// Says that the current thread is about to sleep. What it waits for must be locked.
pub fn prepare_to_block() {
    current().set_state(State::Blocking);
}

/// Sleeps until somebody wakes the thread, or a signal does; returns at once if that has happened
/// since `prepare_to_block`. Callers check again what they waited for.
pub fn block() {
    let thread = current();
    // Either a signal that is sent now finds the thread about to sleep, or the thread finds it.
    arch::cpu::fence();
    if thread.interrupted() {
        // It may have been woken as well: all the same.
        thread.set_state(State::Running);
        return;
    }
    block_for_good();
}

/// As [`block`], but no signal ends it.
pub fn block_for_good() {
    if current().state() == State::Blocking {
        switch_away();
    }
}

/// Lets the next thread run, if there is one.
pub fn yield_now() {
    if cpu().ready.count.load(Ordering::Relaxed) != 0 {
        give_way();
    }
}

/// The running thread has had its time: lets the next one run, also one that waits at another CPU,
/// so that more threads than CPUs get equal shares.
pub fn preempt() {
    let mut counts = CPUS.0[..secondary::online()]
        .iter()
        .map(|cpu| cpu.ready.count.load(Ordering::Relaxed));
    if counts.any(|count| count != 0) || !current().may_run_on(arch::cpu::id()) {
        give_way();
    }
}

/// Lets another thread run, or none if this one may not run here.
pub fn give_way() {
    current().set_state(State::Ready);
    switch_away();
}

/// Ends the current thread, which has nothing left but its stack.
pub fn end_current() -> ! {
    current().set_state(State::Dead);
    switch_away();
    unreachable!("a dead thread was run")
}

/// Leaves the current thread for the next that is ready, or for the idle loop. Comes back when the
/// thread is scheduled again.
fn switch_away() {
    memory::lock::assert_none_held();
    let thread = current();
    let cpu = cpu();
    let next = next(cpu);
    if next.is_none() && thread.state() == State::Ready && thread.may_run_on(arch::cpu::id()) {
        // Another CPU was faster.
        thread.set_state(State::Running);
        return;
    }
    thread.usage.leave_kernel();
    thread.usage.count_switch(thread.state() == State::Ready);
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
    thread.usage.resume();
    thread.restore_user_state();
}

/// Makes `next` the current thread, and its address space the active one.
fn leave_for(cpu: &Cpu, next: Option<Arc<Thread>>) {
    cpu.previous.set(cpu.current.get());
    cpu.reschedule.set(false);
    // SAFETY: the CPU holds a reference to its current thread, null aside.
    let from = unsafe { cpu.current.get().as_ref() }.map_or(0, |thread| thread.tid());
    match next {
        Some(next) => {
            next.set_state(State::Running);
            next.set_last_cpu(arch::cpu::id());
            let (mut serial, mut ttbr0) = (0, 0);
            if let Some(space) = next.space() {
                (serial, ttbr0) = (space.serial, space.activate());
            }
            trace::switch(next.tid(), || Event::Switch {
                from,
                to: next.tid(),
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

/// Those who wait until other threads have left CPUs that they may run on no more.
static MOVES: Lock<WaitQueue> = Lock::new(Rank::Waiting, WaitQueue::new());

/// Sleeps until a thread, which may not run everywhere any more, runs nowhere else; or until a signal
/// comes.
pub fn wait_for_move(thread: &Thread) {
    let stays = || thread.state() == State::Running && !thread.may_run_on(thread.last_cpu());
    if !stays() {
        return;
    }
    kick(thread);
    let mut queue = MOVES.lock();
    while stays() && !current().interrupted() {
        queue = WaitQueue::wait(&MOVES, queue, |queue| queue);
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
    let moves = !previous.may_run_on(arch::cpu::id());
    match previous.state() {
        State::Dead => {}
        State::Blocking if previous.change_state(State::Blocking, State::Blocked) => {}
        // It yielded, or was woken on its way to sleep.
        _ => {
            previous.set_state(State::Ready);
            enqueue(previous);
        }
    }
    if moves {
        moved();
    }
}

#[cold]
#[inline(never)]
fn moved() {
    MOVES.lock().wake_all();
}

/// What a CPU does when there is nothing to do: empties the trace's rings, and sleeps.
pub fn idle() -> ! {
    let me = 1 << arch::cpu::id();
    timer::start();
    loop {
        let cpu = cpu();
        if let Some(thread) = next(cpu) {
            ASLEEP.fetch_and(!me, Ordering::Relaxed);
            let target = thread.context();
            leave_for(cpu, Some(thread));
            // SAFETY: as in `switch_away`; the idle context belongs to this CPU alone.
            unsafe { arch::context::switch(cpu.idle.get(), target) };
            finish_switch();
            continue;
        }
        // One more look at the queues between this and the sleep: whoever fills one now either was
        // seen, or sees this and interrupts.
        if ASLEEP.fetch_or(me, Ordering::Relaxed) & me == 0 {
            arch::cpu::fence();
            continue;
        }
        let woken = || ASLEEP.load(Ordering::Relaxed) & me == 0;
        trace::idle(cpu.timer.get(), woken);
        if !woken() && !console::idle() {
            arch::cpu::wait_for_interrupt();
        }
    }
}

/// The other CPUs' way into the idle loop. They wait for the boot to be over.
pub fn run_secondary() -> ! {
    while !STARTED.load(Ordering::Acquire) {
        arch::cpu::wait_for_interrupt();
    }
    idle()
}

/// The first process has been made.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Lets the other CPUs run threads, and runs them here.
pub fn run() -> ! {
    STARTED.store(true, Ordering::Release);
    for number in 1..secondary::online() {
        interrupt::call(number, Call::Reschedule);
    }
    idle()
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
        guard: Guard<'a, T>,
        queue: impl Fn(&mut T) -> &mut WaitQueue,
    ) -> Guard<'a, T> {
        WaitQueue::wait_unless(lock, guard, queue, || false)
    }

    /// `wait`, but not if something is true that wakes this thread when it becomes so: that may
    /// happen, without the lock, until the thread is about to sleep.
    pub fn wait_unless<'a, T>(
        lock: &'a Lock<T>,
        mut guard: Guard<'a, T>,
        queue: impl Fn(&mut T) -> &mut WaitQueue,
        happened: impl FnOnce() -> bool,
    ) -> Guard<'a, T> {
        let waiter = Waiter {
            thread: current().share(),
            next: Cell::new(ptr::null()),
            queued: Cell::new(true),
        };
        queue(&mut guard).push(&waiter);
        prepare_to_block();
        if happened() {
            current().set_state(State::Running);
        } else {
            drop(guard);
            block();
            guard = lock.lock();
        }
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
    #[inline]
    pub fn wake_all(&mut self) {
        // Most often nobody waits.
        if !self.first.is_null() {
            self.wake_some();
        }
    }

    #[inline(never)]
    fn wake_some(&mut self) {
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
