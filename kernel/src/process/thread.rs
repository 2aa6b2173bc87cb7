//! Threads: what the scheduler runs.

use super::space::{self, Space};
use super::{Process, fault, scheduler, signal, usage};
use crate::arch::cpu::MAX_CPUS;
use crate::arch::{self, KernelStack, context::Context, fp, heap::Place, trap::TrapFrame, uaccess};
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use core::cell::{Cell, UnsafeCell};
use core::ops::{Deref, Range};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use memory::Refusal;

/// Where a thread is between running and not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// On a CPU, or woken before it left it.
    Running,
    /// In a run queue, or on its way to one.
    Ready,
    /// On a CPU, about to sleep.
    Blocking,
    /// Asleep, its registers saved.
    Blocked,
    /// Ended; its stack goes with the last reference.
    Dead,
}

/// A thread.
pub struct Thread {
    tid: AtomicU32,
    /// Its process.
    pub process: Arc<Process>,
    /// Its signals.
    pub signals: signal::OfThread,
    /// What it has used.
    pub usage: usage::OfThread,
    /// Where to store 0 when the thread ends (CLONE_CHILD_CLEARTID).
    pub clear_child_tid: AtomicU64,
    /// Where the thread stores its number when it starts (CLONE_CHILD_SETTID).
    pub set_child_tid: AtomicU64,
    /// Its list of robust futexes (set_robust_list); 0: none.
    pub robust_list: AtomicU64,
    /// What memory its system call was refused: pages asked for and, below them, pages left, in 32
    /// bits each as numbers of frames are.
    refusal: AtomicU64,
    /// It fills the address space of a new program: running out of memory is exec's error.
    pub loading: AtomicBool,
    /// It has begun to end, and gets no signals any more.
    pub ending: AtomicBool,
    /// It sleeps because its process is stopped.
    pub stopped: AtomicBool,
    state: AtomicU8,
    /// The CPU that ran it last, or that made it.
    last_cpu: AtomicUsize,
    /// A bit per CPU that may run it.
    affinity: AtomicUsize,
    own: Own,
    stack: KernelStack,
    /// Behind it in the run queue, while it is there.
    link: Cell<*const Thread>,
}

/// May run on every CPU.
pub const ANY_CPU: usize = (1 << MAX_CPUS) - 1;

/// How a thread starts.
pub struct Start<'a> {
    /// Where, in the kernel; the argument is the address of the thread's trap frame.
    pub entry: extern "C" fn(usize) -> !,
    /// The user's registers.
    pub frame: &'a TrapFrame,
    /// Its FP registers.
    pub fp: &'a fp::State,
    /// TPIDR_EL0.
    pub thread_pointer: u64,
    /// Signals that it blocks.
    pub blocked: u64,
    /// Its alternate signal stack.
    pub signal_stack: signal::AlternateStack,
}

impl Default for Start<'_> {
    fn default() -> Self {
        Start {
            entry: enter,
            frame: const {
                &TrapFrame {
                    x: [0; 31],
                    sp: 0,
                    pc: 0,
                    pstate: 0,
                }
            },
            fp: const { &fp::State::new() },
            thread_pointer: 0,
            blocked: 0,
            signal_stack: signal::AlternateStack::NONE,
        }
    }
}

/// Where the user's registers are while a thread is in the kernel.
fn frame_of(stack: &KernelStack) -> *mut TrapFrame {
    ptr::with_exposed_provenance_mut(stack.top() as usize - size_of::<TrapFrame>())
}

/// What only the thread itself touches, and the scheduler of the CPU that runs it.
struct Own {
    context: UnsafeCell<Context>,
    fp: UnsafeCell<fp::State>,
    thread_pointer: Cell<u64>,
    space: UnsafeCell<Option<Arc<Space>>>,
    spurious: Cell<fault::Repeat>,
}

/// No refusal: no machine has so many pages left.
const NOT_REFUSED: u64 = u64::MAX;

// SAFETY: `own` is used by the thread itself, or by the scheduler while it switches to or from the
// thread; a thread is on one CPU at a time (`scheduler` publishes it only after its registers are
// saved), and the kernel is not preempted; `link` is used under the run queue's lock. All else in a
// Thread is Sync.
unsafe impl Sync for Thread {}
// SAFETY: as above; nothing in a thread is tied to the CPU that made it.
unsafe impl Send for Thread {}

impl Thread {
    /// A new thread of `process`, in the state [`State::Ready`] but not yet in the run queue.
    pub fn new(
        tid: u32,
        process: Arc<Process>,
        space: Option<Arc<Space>>,
        start: &Start<'_>,
    ) -> Result<Arc<Thread>, Errno> {
        let place = Place::new().ok_or(Errno::ENOMEM)?;
        let stack = KernelStack::new().ok_or_else(space::no_frame)?;
        let frame = frame_of(&stack);
        // SAFETY: the top of a stack that nobody uses yet; it is large and aligned enough for a frame.
        unsafe { frame.write(*start.frame) };
        Ok(place.fill(|| Thread {
            tid: AtomicU32::new(tid),
            process,
            signals: signal::OfThread::new(start.blocked, start.signal_stack),
            usage: usage::OfThread::default(),
            clear_child_tid: AtomicU64::new(0),
            set_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            refusal: AtomicU64::new(NOT_REFUSED),
            loading: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            state: AtomicU8::new(State::Ready as u8),
            last_cpu: AtomicUsize::new(arch::cpu::id()),
            affinity: AtomicUsize::new(try_current().map_or(ANY_CPU, |maker| maker.affinity())),
            own: Own {
                context: UnsafeCell::new(Context::new(
                    frame.addr() as u64,
                    start.entry,
                    frame.addr(),
                )),
                fp: UnsafeCell::new(start.fp.clone()),
                thread_pointer: Cell::new(start.thread_pointer),
                space: UnsafeCell::new(space),
                spurious: Cell::default(),
            },
            stack,
            link: Cell::new(ptr::null()),
        }))
    }

    /// Its number; the first thread of a process has the process's.
    #[inline]
    pub fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// Gives the thread, which is current and the only one of its process, the process's number: exec
    /// does, whoever calls it.
    pub fn become_first(&self) {
        self.tid.store(self.process.pid, Ordering::Relaxed);
    }

    /// Its state.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Running,
            1 => State::Ready,
            2 => State::Blocking,
            3 => State::Blocked,
            _ => State::Dead,
        }
    }

    /// Sets the state.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Changes the state if it is `from`; whether it was.
    pub fn change_state(&self, from: State, to: State) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The CPU that ran it last.
    #[inline]
    pub fn last_cpu(&self) -> usize {
        self.last_cpu.load(Ordering::Relaxed)
    }

    /// For the scheduler.
    #[inline]
    pub fn set_last_cpu(&self, number: usize) {
        self.last_cpu.store(number, Ordering::Relaxed);
    }

    /// A bit per CPU that may run it: one at least that runs.
    #[inline]
    pub fn affinity(&self) -> usize {
        self.affinity.load(Ordering::Relaxed)
    }

    /// Whether it may run on a CPU.
    #[inline]
    pub fn may_run_on(&self, number: usize) -> bool {
        self.affinity() & 1 << number != 0
    }

    /// Says which CPUs may run it from the next time on that it is made ready: at least one of
    /// those that run.
    pub fn set_affinity(&self, cpus: usize) {
        self.affinity.store(cpus, Ordering::Relaxed);
    }

    /// The next thread in the run queue, for the run queue.
    #[inline]
    pub fn link(&self) -> &Cell<*const Thread> {
        &self.link
    }

    /// Its saved registers, for the scheduler.
    pub fn context(&self) -> *mut Context {
        self.own.context.get()
    }

    /// Saves the FP registers and the thread pointer of the thread, which is current.
    #[inline]
    pub fn save_user_state(&self) {
        // SAFETY: only the current thread gets here, and it is not preempted; see `Sync`.
        unsafe { (*self.own.fp.get()).save() };
        self.own.thread_pointer.set(arch::context::thread_pointer());
    }

    /// Puts them back, before the thread goes on.
    #[inline]
    pub fn restore_user_state(&self) {
        // SAFETY: as in `save_user_state`.
        unsafe { (*self.own.fp.get()).restore() };
        arch::context::set_thread_pointer(self.own.thread_pointer.get());
    }

    /// The FP registers as they were last saved.
    pub fn fp(&self) -> &fp::State {
        // SAFETY: as in `save_user_state`.
        unsafe { &*self.own.fp.get() }
    }

    /// Gives the thread, which is current, these FP registers.
    pub fn load_fp(&self, state: &fp::State) {
        // SAFETY: as in `save_user_state`.
        unsafe { (*self.own.fp.get()).clone_from(state) };
        state.restore();
    }

    /// TPIDR_EL0 as it was last saved.
    pub fn thread_pointer(&self) -> u64 {
        self.own.thread_pointer.get()
    }

    /// Starts over with zero in the FP registers and the thread pointer.
    pub fn reset_user_state(&self) {
        // SAFETY: as in `save_user_state`.
        unsafe { *self.own.fp.get() = fp::State::new() };
        self.own.thread_pointer.set(0);
        self.restore_user_state();
    }

    /// Its address space. None once it is ending.
    #[inline]
    pub fn space(&self) -> Option<&Arc<Space>> {
        // SAFETY: see `Sync`. The reference does not outlive the next `replace_space`: only exec and
        // exit replace it, and they hold no such reference then.
        unsafe { (*self.own.space.get()).as_ref() }
    }

    /// Gives the thread, which is current, another address space, and makes it the active one.
    pub fn replace_space(&self, space: Option<Arc<Space>>) -> Option<Arc<Space>> {
        match &space {
            Some(space) => {
                space.activate();
            }
            None => arch::mmu::deactivate(),
        }
        // SAFETY: see `space`.
        unsafe { core::mem::replace(&mut *self.own.space.get(), space) }
    }

    /// Gives a thread that was made without one its address space, before it is started.
    pub fn set_space(&self, space: Arc<Space>) {
        // SAFETY: nobody runs it yet, and whoever made it is the only one who knows it.
        unsafe { *self.own.space.get() = Some(space) };
    }

    /// The registers the user had when the thread entered the kernel.
    pub fn user_frame(&self) -> *mut TrapFrame {
        frame_of(&self.stack)
    }

    /// Where what it does in the kernel is to be found on its stack.
    pub fn kernel_stack(&self) -> Range<u64> {
        let top = self.stack.top();
        top - arch::stack::SIZE..top - size_of::<TrapFrame>() as u64
    }

    /// Whether a signal waits that ends the sleep.
    pub fn interrupted(&self) -> bool {
        signal::deliverable(self) != 0
    }

    /// The last fault that changed nothing.
    pub fn spurious(&self) -> &Cell<fault::Repeat> {
        &self.own.spurious
    }

    /// Takes down what memory its system call is refused, for the call's end to tell.
    #[cold]
    pub fn note_refusal(&self, Refusal { pages, left }: Refusal) {
        self.refusal.store(pages << 32 | left, Ordering::Relaxed);
    }

    /// What was taken down last, if anything was since this was last asked.
    #[cold]
    pub fn take_refusal(&self) -> Option<Refusal> {
        let refusal = self.refusal.swap(NOT_REFUSED, Ordering::Relaxed);
        let (pages, left) = (refusal >> 32, refusal & u64::from(u32::MAX));
        (refusal != NOT_REFUSED).then_some(Refusal { pages, left })
    }
}

/// The first thing a forked thread does.
extern "C" fn enter(frame: usize) -> ! {
    scheduler::finish_switch();
    // SAFETY: `Thread::new` put a frame there, at the top of this thread's stack.
    let frame = unsafe { &mut *ptr::with_exposed_provenance_mut::<TrapFrame>(frame) };
    return_to_user(frame)
}

/// Leaves for user mode with the registers of `frame`, for a thread that did not come from there.
pub fn return_to_user(frame: &mut TrapFrame) -> ! {
    {
        let thread = current();
        thread.usage.resume();
        thread.restore_user_state();
        let child_tid = thread.set_child_tid.swap(0, Ordering::Relaxed);
        if child_tid != 0 {
            // In the child's own address space. As on Linux, a bad address is its own loss.
            let _ = uaccess::write_u32(child_tid, thread.tid());
        }
        signal::deliver(&thread, frame);
    }
    // SAFETY: `frame` is the one at the top of this thread's stack: both callers got its address
    // from `Thread::new`. The scheduler, or exec, activated the address space.
    unsafe { arch::trap::return_to_user(frame) }
}

/// The running thread. It can neither be sent elsewhere nor outlive the thread, since whoever holds
/// it runs on that thread's stack.
pub struct Current(NonNull<Thread>);

impl Deref for Current {
    type Target = Thread;

    #[inline]
    fn deref(&self) -> &Thread {
        // SAFETY: the CPU keeps a reference to the thread until it has left its stack.
        unsafe { self.0.as_ref() }
    }
}

impl Current {
    /// Another reference to the thread.
    pub fn share(&self) -> Arc<Thread> {
        // SAFETY: the pointer is an Arc's (`scheduler` made it with `Arc::into_raw`), and that Arc
        // is alive, as in `deref`.
        unsafe {
            Arc::increment_strong_count(self.0.as_ptr());
            Arc::from_raw(self.0.as_ptr())
        }
    }
}

/// The running thread. Panics in the idle loop, where there is none.
#[inline]
pub fn current() -> Current {
    match try_current() {
        Some(thread) => thread,
        None => panic!("no thread is running"),
    }
}

/// The running thread, if there is one.
#[inline]
pub fn try_current() -> Option<Current> {
    NonNull::new(scheduler::cpu().current.get().cast_mut()).map(Current)
}
