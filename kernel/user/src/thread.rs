//! Threads and futexes.

use crate::memory::{PAGE_SIZE, Pages};
use crate::{Errno, Result, syscall};
use core::arch::naked_asm;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU32, Ordering};
use linux_raw_sys::general::{
    __NR_clone, __NR_exit, __NR_futex, __NR_gettid, __NR_tgkill, CLONE_CHILD_CLEARTID, CLONE_FILES,
    CLONE_FS, CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD,
    CLONE_VM, FUTEX_PRIVATE_FLAG, FUTEX_WAIT, FUTEX_WAKE, timespec,
};

/// What C libraries make threads with.
pub const FLAGS: u32 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID;

/// Pages of a thread's stack.
const STACK: usize = 8;

/// A thread that was started. It goes on when this is dropped, and its stack stays.
pub struct Thread {
    stack: Pages,
    tid: i32,
}

/// What lies at the top of a thread's stack.
#[repr(C, align(16))]
struct Start<F> {
    /// Its number while it lives, then 0: the kernel sees to it.
    alive: AtomicU32,
    run: ManuallyDrop<F>,
}

impl Thread {
    /// Starts a thread that runs `run` and ends.
    pub fn spawn<F: FnOnce() + Send + 'static>(run: F) -> Result<Thread> {
        const { assert!(size_of::<Start<F>>() <= PAGE_SIZE) };
        let stack = Pages::map(STACK)?;
        let start: *mut Start<F> = (stack.address(STACK - 1)) as *mut Start<F>;
        let run = ManuallyDrop::new(run);
        let alive = AtomicU32::new(u32::MAX);
        // SAFETY: the last page of a mapping that nobody else knows; it has room, and is aligned.
        unsafe { start.write(Start { alive, run }) };
        // SAFETY: `enter::<F>` fits `start`, which stays until the thread has ended. Below it is
        // the thread's stack.
        let result = unsafe {
            thread_call(
                FLAGS as usize,
                start.addr(),
                start.addr(),
                start.addr(),
                start.addr(),
                enter::<F> as *const () as usize,
                start.addr(),
            )
        };
        match -result {
            errno @ 1..=4095 => {
                // SAFETY: there is no thread to take the closure.
                unsafe { ManuallyDrop::drop(&mut (*start).run) };
                stack.unmap()?;
                Err(Errno(errno as u32))
            }
            _ => Ok(Thread {
                stack,
                tid: result as i32,
            }),
        }
    }

    /// Its number.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.alive().load(Ordering::Acquire) == 0
    }

    fn alive(&self) -> &AtomicU32 {
        // SAFETY: `spawn` put it there, the first of its structure.
        unsafe { &*(self.stack.address(STACK - 1) as *const AtomicU32) }
    }

    /// Waits for its end.
    pub fn join(self) -> Result<()> {
        loop {
            match self.alive().load(Ordering::Acquire) {
                0 => return self.stack.unmap(),
                // The kernel wakes by an operation without FUTEX_PRIVATE_FLAG.
                tid => ignore(futex_wait(self.alive(), FUTEX_WAIT, tid, None)),
            }
        }
    }
}

/// Whatever came of it, the caller looks again.
fn ignore<T>(_: Result<T>) {}

extern "C" fn enter<F: FnOnce()>(start: *mut Start<F>) {
    // SAFETY: `spawn` wrote it, and the thread alone takes the closure.
    let run = unsafe { ManuallyDrop::take(&mut (*start).run) };
    run();
}

/// The thread calls `function` with `argument`, on its own stack, and ends.
///
/// # Safety
///
/// As for clone(2) with CLONE_VM; `function` is an `extern "C" fn(*mut T)` that fits `argument`.
#[unsafe(naked)]
unsafe extern "C" fn thread_call(
    flags: usize,
    stack: usize,
    parent_tid: usize,
    tls: usize,
    child_tid: usize,
    function: usize,
    argument: usize,
) -> isize {
    naked_asm!(
        "mov x8, {clone}",
        "svc #0",
        "cbz x0, 1f",
        "ret",
        "1: mov x29, xzr",
        "mov x30, xzr",
        "mov x0, x6",
        "blr x5",
        "mov x0, #0",
        "mov x8, {exit}",
        "svc #0",
        "brk #1",
        clone = const __NR_clone,
        exit = const __NR_exit,
    )
}

/// The number of this thread.
pub fn gettid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_gettid, []) }.unwrap_or(0) as i32
}

/// TPIDR_EL0, where a thread finds what is its own.
pub fn pointer() -> usize {
    let pointer;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack)) };
    pointer
}

/// Ends this thread alone.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    let result = unsafe { syscall(__NR_exit, [code as usize]) };
    crate::fail(format_args!("exit returned {result:?}"))
}

/// Sends a signal to a thread.
pub fn kill(pid: i32, tid: i32, signal: u32) -> Result<()> {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_tgkill, [pid as usize, tid as usize, signal as usize]) }.map(drop)
}

/// A futex call on a word: operation, value, the fourth argument, the second word, the third value.
pub fn futex(
    word: &AtomicU32,
    operation: u32,
    value: u32,
    fourth: usize,
    second: Option<&AtomicU32>,
    third: u32,
) -> Result<usize> {
    let second = second.map_or(0, |second| second.as_ptr().addr());
    // SAFETY: the words are atomics; `fourth` is a number or, from `futex_wait`, a time that is there.
    unsafe {
        syscall(
            __NR_futex,
            [
                word.as_ptr().addr(),
                operation as usize,
                value as usize,
                fourth,
                second,
                third as usize,
            ],
        )
    }
}

/// A wait operation, for `nanoseconds` or until then.
pub fn futex_wait(
    word: &AtomicU32,
    operation: u32,
    expected: u32,
    nanoseconds: Option<u64>,
) -> Result<usize> {
    const SECOND: u64 = 1_000_000_000;
    let time = nanoseconds.map(|nanoseconds| timespec {
        tv_sec: (nanoseconds / SECOND) as i64,
        tv_nsec: (nanoseconds % SECOND) as i64,
    });
    let time = time.as_ref().map_or(0, |time| (&raw const *time).addr());
    futex(word, operation, expected, time, None, u32::MAX)
}

/// Sleeps until the word, which holds `expected`, is woken; at once if it holds something else.
pub fn wait_for(word: &AtomicU32, expected: u32) {
    ignore(futex_wait(
        word,
        FUTEX_WAIT | FUTEX_PRIVATE_FLAG,
        expected,
        None,
    ));
}

/// Wakes up to `most` threads that sleep for a word; how many.
pub fn wake(word: &AtomicU32, most: u32) -> usize {
    futex(word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, most, 0, None, 0).unwrap_or(0)
}

/// A lock of one word: free, taken, or taken with others waiting.
pub struct Mutex<'a>(pub &'a AtomicU32);

impl Mutex<'_> {
    /// Runs `f` while nobody else has it.
    pub fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        let word = self.0;
        if word
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            while word.swap(2, Ordering::Acquire) != 0 {
                wait_for(word, 2);
            }
        }
        let result = f();
        if word.swap(0, Ordering::Release) == 2 {
            wake(word, 1);
        }
        result
    }
}
