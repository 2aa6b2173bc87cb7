//! Signals: to a thread, to a process, and to all of its threads.

use super::*;
use core::sync::atomic::AtomicI32;
use user::signal::{self, Action, Context, Info, Stack};

/// Who ran the handler last, and how often it ran.
static LAST: AtomicI32 = AtomicI32::new(0);
static TIMES: AtomicU32 = AtomicU32::new(0);

extern "C" fn note(_: u32, _: &mut Info, _: &mut Context) {
    LAST.store(thread::gettid(), SeqCst);
    TIMES.fetch_add(1, SeqCst);
}

fn handle(number: u32, flags: u32) {
    signal::set_action(number, &Action::call(note, flags)).or_fail("rt_sigaction");
}

/// Waits until the handler has run so often; by which thread it did last.
fn handled(times: u32) -> i32 {
    until(|| TIMES.load(SeqCst) >= times);
    LAST.load(SeqCst)
}

/// Threads that sleep, with some signals blocked, until `stop`.
fn sleepers<const N: usize>(stop: &'static AtomicU32, blocked: [u64; N]) -> [Thread; N] {
    let ready = word(words(), 0);
    let threads = blocked.map(|blocked| {
        spawn(move || {
            signal::set_mask(blocked).or_fail("rt_sigprocmask");
            ready.fetch_add(1, SeqCst);
            while stop.load(SeqCst) == 0 {
                thread::wait_for(stop, 0);
            }
        })
    });
    until(|| ready.load(SeqCst) == N as u32);
    threads
}

fn stop_all<const N: usize>(stop: &AtomicU32, threads: [Thread; N]) {
    stop.store(1, SeqCst);
    thread::wake(stop, i32::MAX as u32);
    for thread in threads {
        thread.join().or_fail("munmap");
    }
}

/// One thread gets what is sent to it, and not what it blocks.
pub fn directed() {
    let page = words();
    handle(SIGUSR1, SA_RESTART);
    let pid = process::getpid();
    let threads = sleepers(word(page, 0), [0; 3]);
    for (index, target) in threads.iter().enumerate() {
        thread::kill(pid, target.tid(), SIGUSR1).or_fail("tgkill");
        check!(
            handled(index as u32 + 1) == target.tid(),
            "another thread ran the handler"
        );
    }
    println!("directed: {}", TIMES.load(SeqCst));
    let tid = threads[0].tid();
    println!(
        "of another process: {:?}, none: {:?}, no thread: {:?}",
        thread::kill(1, tid, 0),
        thread::kill(pid, tid, 65),
        thread::kill(pid, 0, 0)
    );
    stop_all(word(page, 0), threads);
}

/// A process's signal goes to a thread that does not block it.
pub fn shared() {
    let page = words();
    handle(SIGUSR1, SA_RESTART);
    let only = signal::set(SIGUSR1);
    let pid = process::getpid();
    let before = signal::block(only).or_fail("rt_sigprocmask");
    let threads = sleepers(word(page, 0), [only, 0, only]);
    signal::kill(pid, SIGUSR1).or_fail("kill");
    println!("the one that wants it: {}", handled(1) == threads[1].tid());
    // Any number of the process's names the process.
    signal::kill(threads[2].tid(), SIGUSR1).or_fail("kill");
    println!("by another number: {}", handled(2) == threads[1].tid());
    stop_all(word(page, 0), threads);

    let threads = sleepers(word(page, 1), [only, only]);
    signal::kill(pid, SIGUSR1).or_fail("kill");
    nap();
    println!(
        "all block it: {} {:#x}",
        TIMES.load(SeqCst),
        signal::pending().or_fail("pending")
    );
    let taker = spawn(move || {
        let info = signal::wait(only, 1000 * MILLISECOND).or_fail("rt_sigtimedwait");
        word(page, 3).store(info.signal, SeqCst);
    });
    taker.join().or_fail("munmap");
    println!(
        "taken: {} {}",
        word(page, 3).load(SeqCst),
        TIMES.load(SeqCst)
    );
    // One that waits for it is woken.
    let taker = spawn(move || {
        word(page, 4).store(1, SeqCst);
        let info = signal::wait(only, 1000 * MILLISECOND).or_fail("rt_sigtimedwait");
        word(page, 5).store(info.signal, SeqCst);
    });
    until(|| word(page, 4).load(SeqCst) == 1);
    nap();
    signal::kill(pid, SIGUSR1).or_fail("kill");
    taker.join().or_fail("munmap");
    println!("awaited: {}", word(page, 5).load(SeqCst));
    stop_all(word(page, 1), threads);

    // Unblocked at last.
    signal::kill(pid, SIGUSR1).or_fail("kill");
    signal::set_mask(before).or_fail("rt_sigprocmask");
    println!("unblocked: {} {}", handled(3) == pid, TIMES.load(SeqCst));

    // A wait with a time goes on after a stop.
    let child = process::fork_child(|| {
        let page = own_words();
        let start = time::now().or_fail("clock_gettime");
        let result = thread::futex_wait(word(page, 0), FUTEX_WAIT, 0, Some(40 * MILLISECOND));
        let late = time::now().or_fail("clock_gettime") - start >= 40 * MILLISECOND;
        i32::from(late && result == Err(user::Errno(user::errno_numbers::ETIMEDOUT)))
    });
    let child = child.or_fail("fork");
    nap();
    signal::kill(child, SIGSTOP).or_fail("kill");
    process::wait_raw(child, WUNTRACED).or_fail("wait4");
    signal::kill(child, SIGCONT).or_fail("kill");
    println!(
        "stopped while waiting: {:?}",
        process::wait(child).or_fail("wait4").code()
    );
}

/// Each thread has a signal stack of its own, at first none, and a mask that is its maker's.
pub fn stacks() {
    let page = words();
    let area = Pages::map(8).or_fail("mmap");
    let stack = Stack {
        address: area.address(0),
        flags: 0,
        pad: 0,
        size: 8 * 4096,
    };
    // SAFETY: nothing else is there.
    unsafe { signal::alternate_stack(Some(&stack)) }.or_fail("sigaltstack");
    let before = signal::block(signal::set(SIGUSR2)).or_fail("rt_sigprocmask");
    let other = spawn(move || {
        // SAFETY: sets nothing.
        let own = unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
        word(page, 0).store(own.flags, SeqCst);
        long(page, 1).store(signal::block(0).or_fail("rt_sigprocmask"), SeqCst);
    });
    other.join().or_fail("munmap");
    signal::set_mask(before).or_fail("rt_sigprocmask");
    // SAFETY: sets nothing.
    let own = unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
    println!(
        "stacks: {} {}, mask {:#x}",
        word(page, 0).load(SeqCst),
        own.size,
        long(page, 1).load(SeqCst)
    );
    let none = Stack {
        flags: SS_DISABLE,
        ..stack
    };
    // SAFETY: takes it away; no handler runs.
    unsafe { signal::alternate_stack(Some(&none)) }.or_fail("sigaltstack");
}

/// All threads of a process stop, and go on.
pub fn stops() {
    const THREADS: usize = 3;
    let page = words();
    let child = process::fork_child(|| {
        let threads: [Thread; THREADS] = core::array::from_fn(|index| {
            spawn(move || {
                loop {
                    long(page, index).fetch_add(1, SeqCst);
                    match index {
                        0 => {}
                        1 => nap(),
                        // One sleeps where only a signal ends it.
                        _ => {
                            let it = word(page, 20);
                            let _ = thread::futex_wait(it, FUTEX_WAIT, 0, Some(MILLISECOND));
                        }
                    }
                }
            })
        });
        until(|| threads.iter().any(Thread::has_ended));
        0
    });
    let child = child.or_fail("fork");
    let counts = || core::array::from_fn::<u64, THREADS, _>(|index| long(page, index).load(SeqCst));
    let moved = |from: [u64; THREADS]| counts().iter().zip(from).all(|(now, then)| *now > then);
    for round in 0..4 {
        let before = counts();
        until(|| moved(before));
        signal::kill(child, SIGSTOP).or_fail("kill");
        let (_, stopped) = process::wait_raw(child, WUNTRACED).or_fail("wait4");
        let still = counts();
        nap();
        nap();
        let same = counts() == still;
        signal::kill(child, SIGCONT).or_fail("kill");
        let (_, continued) = process::wait_raw(child, WCONTINUED).or_fail("wait4");
        println!("stop {round}: {stopped:#x}, still {same}, {continued:#x}");
    }
    let before = counts();
    until(|| moved(before));
    signal::kill(child, SIGSTOP).or_fail("kill");
    process::wait_raw(child, WUNTRACED).or_fail("wait4");
    // A stopped process can be killed.
    signal::kill(child, SIGKILL).or_fail("kill");
    println!(
        "killed: {:#x}",
        process::wait_raw(child, 0).or_fail("wait4").1
    );
}
