//! Futexes: what they refuse, whom they wake, and that copy-on-write loses no wake-up.

use super::*;
use user::thread::{Mutex, futex, futex_wait, wake};

const PRIVATE: u32 = FUTEX_PRIVATE_FLAG;

/// Every error that a program can cause.
pub fn errors() {
    let page = own_words();
    let it = word(page, 0);
    let odd = |operation| {
        call(
            __NR_futex,
            [page.address(0) + 2, operation as usize, 0, 0, 0, 1],
        )
    };
    println!("another value: {:?}", futex_wait(it, FUTEX_WAIT, 1, None));
    println!("odd: {:?} {:?}", odd(FUTEX_WAIT), odd(FUTEX_WAKE));
    let nowhere = |operation| call(__NR_futex, [8, operation as usize, 0, 0, 0, 1]);
    println!(
        "nowhere: {:?} {:?}",
        nowhere(FUTEX_WAIT | PRIVATE),
        nowhere(FUTEX_WAKE)
    );
    println!("nobody: {:?}", futex(it, FUTEX_WAKE, 5, 0, None, 0));
    println!(
        "too late: {:?}",
        futex_wait(it, FUTEX_WAIT, 0, Some(MILLISECOND))
    );
    println!("at once: {:?}", futex_wait(it, FUTEX_WAIT, 0, Some(0)));
    let now = time::now().or_fail("clock_gettime");
    let before = futex_wait(it, FUTEX_WAIT_BITSET, 0, Some(now));
    println!("in the past: {before:?}");
    let soon = futex_wait(it, FUTEX_WAIT_BITSET | PRIVATE, 0, Some(now + MILLISECOND));
    println!(
        "soon: {soon:?} {}",
        time::now().or_fail("clock_gettime") >= now + MILLISECOND
    );
    let bad = timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000_000,
    };
    let bad = (&raw const bad).addr();
    println!(
        "no time: {:?} {:?}",
        futex(it, FUTEX_WAIT, 0, bad, None, 0),
        futex(it, FUTEX_WAIT, 0, 8, None, 0)
    );
    println!(
        "no bits: {:?} {:?}",
        futex(it, FUTEX_WAIT_BITSET, 0, 0, None, 0),
        futex(it, FUTEX_WAKE_BITSET, 1, 0, None, 0)
    );
    println!(
        "requeue: {:?} {:?} {:?}",
        futex(it, FUTEX_CMP_REQUEUE, 1, 1, Some(word(page, 1)), 9),
        futex(it, FUTEX_REQUEUE, u32::MAX, 1, Some(word(page, 1)), 0),
        futex(it, FUTEX_REQUEUE, 1, 1, Some(word(page, 1)), 0)
    );
}

/// Threads that exclude each other.
pub fn locks() {
    const THREADS: usize = 4;
    const TIMES: u64 = 2000;
    let page = own_words();
    let threads: [Thread; THREADS] = core::array::from_fn(|_| {
        spawn(move || {
            for turn in 0..TIMES {
                Mutex(word(page, 0)).with(|| {
                    let before = page.read_word(0, 2);
                    if turn % 64 == 0 {
                        process::sched_yield();
                    }
                    page.write_word(0, 2, before + 1);
                });
            }
        })
    });
    for thread in threads {
        thread.join().or_fail("munmap");
    }
    println!("counted under a lock: {}", page.read_word(0, 2));
}

/// Threads that wait for a word, with bits; each counts when it was woken.
fn waiters<const N: usize>(page: Pages, bits: [u32; N]) -> [Thread; N] {
    bits.map(|bits| {
        spawn(move || {
            let result = futex(word(page, 0), FUTEX_WAIT_BITSET | PRIVATE, 0, 0, None, bits);
            check!(result == Ok(0), "waiting: {result:?}");
            word(page, 4 + bits.trailing_zeros() as usize).fetch_add(1, SeqCst);
        })
    })
}

/// How many of them wait at one of two words: all are moved to the other.
fn gather(from: &AtomicU32, to: &AtomicU32, count: usize) -> usize {
    let mut moved = 0;
    while moved < count {
        nap();
        let most = i32::MAX as usize;
        moved += futex(from, FUTEX_REQUEUE | PRIVATE, 0, most, Some(to), 0).or_fail("requeue");
    }
    moved
}

/// Who is woken, and how many.
pub fn wakes() {
    let page = own_words();
    let (first, second) = (word(page, 0), word(page, 1));
    let threads = waiters(page, [1; 5]);
    println!("moved: {}", gather(first, second, 5));
    println!("nobody is left: {}", wake(first, 9));
    println!("one: {} {}", wake(second, 1), wake(second, 0));
    let two = futex(
        second,
        FUTEX_CMP_REQUEUE | PRIVATE,
        1,
        1,
        Some(first),
        second.load(SeqCst),
    );
    println!("one woken, one moved: {two:?}");
    println!("the rest: {} {}", wake(first, 9), wake(second, 9));
    for thread in threads {
        thread.join().or_fail("munmap");
    }
    println!("woken: {}", word(page, 4).load(SeqCst));

    let threads = waiters(page, [1, 2, 4]);
    gather(first, second, 3);
    let some = |bits| futex(second, FUTEX_WAKE_BITSET | PRIVATE, 9, 0, None, bits);
    println!("by bits: {:?} {:?} {:?}", some(8), some(6), some(1));
    for thread in threads {
        thread.join().or_fail("munmap");
    }

    let threads = waiters(page, [1, 1, 1, 1]);
    gather(first, second, 4);
    let third = word(page, 2);
    third.store(5, SeqCst);
    let half = futex(second, FUTEX_REQUEUE | PRIVATE, 0, 2, Some(third), 0);
    println!("two and two: {half:?}");
    let change = |operation: u32, argument: u32, test: u32, against: u32| {
        operation << 28 | test << 24 | (argument & 0xfff) << 12 | against & 0xfff
    };
    // Adds 3, and wakes one of each: the old value is above 4.
    let add = change(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, 4);
    let woken = futex(second, FUTEX_WAKE_OP | PRIVATE, 1, 1, Some(third), add);
    println!("after a change: {woken:?} {}", third.load(SeqCst));
    for (operation, argument, test, against) in [
        (FUTEX_OP_SET, 0x0f0, FUTEX_OP_CMP_EQ, 8),
        (FUTEX_OP_OR, 0x00f, FUTEX_OP_CMP_NE, 8),
        (FUTEX_OP_ANDN, 0x011, FUTEX_OP_CMP_LT, 8),
        (FUTEX_OP_XOR, 0xfff, FUTEX_OP_CMP_LE, 8),
        (FUTEX_OP_ADD | 8, 4, FUTEX_OP_CMP_GE, 0xfff),
        (5, 0, 0, 0),
        (0, 0, 6, 0),
    ] {
        let value = change(operation, argument, test, against);
        let result = futex(second, FUTEX_WAKE_OP | PRIVATE, 1, 1, Some(third), value);
        println!(
            "operation {operation}, test {test}: {result:?} {:#x}",
            third.load(SeqCst)
        );
    }
    println!("the last: {} {}", wake(second, 9), wake(third, 9));
    for thread in threads {
        thread.join().or_fail("munmap");
    }
}

/// A word is the same one whatever becomes of its page.
pub fn across_fork() {
    let page = own_words();
    let shared = words();
    let it = word(page, 0);
    let waiter = spawn(move || {
        while it.load(SeqCst) == 0 {
            thread::wait_for(it, 0);
        }
        word(page, 1).fetch_add(1, SeqCst);
    });
    let child = status(move || {
        // The copy's is another word, and nobody waits for it.
        it.store(7, SeqCst);
        let woken = wake(it, 9) as i32;
        word(shared, 0).store(1, SeqCst);
        wake(word(shared, 0), 1);
        woken
    });
    println!("in the child: {child}, here {}", it.load(SeqCst));
    // This writes to another frame than the one that the waiter has looked at.
    it.store(1, SeqCst);
    wake(it, 1);
    waiter.join().or_fail("munmap");
    println!("woken: {}", word(page, 1).load(SeqCst));

    // Shared memory is the same for both.
    let there = word(shared, 4);
    let child = process::fork_child(move || {
        while there.load(SeqCst) == 0 {
            let _ = futex_wait(there, FUTEX_WAIT, 0, None);
        }
        3
    });
    let child = child.or_fail("fork");
    nap();
    there.store(1, SeqCst);
    futex(there, FUTEX_WAKE, 1, 0, None, 0).or_fail("wake");
    println!("shared: {:?}", process::wait(child).or_fail("wait4").code());
}

/// A thread that ends with locks of which it told the kernel.
pub fn robust() {
    #[repr(C)]
    struct Lock {
        next: usize,
        word: AtomicU32,
    }
    let page = own_words();
    // The head at 0: next, offset, pending; locks at 64 and 128.
    let address = page.address(0);
    let lock = |index: usize| (address + 64 * index) as *mut Lock;
    let held = word(page, 9);
    let free = word(page, 17);
    page.write_word(0, 0, lock(1) as u64);
    page.write_word(0, 1, core::mem::offset_of!(Lock, word) as u64);
    page.write_word(0, 8, lock(2) as u64);
    page.write_word(0, 16, address as u64);
    free.store(12345, SeqCst);
    let owner = spawn(move || {
        held.store(thread::gettid() as u32, SeqCst);
        call(__NR_set_robust_list, [address, 24]).or_fail("set_robust_list");
        until(|| word(page, 40).load(SeqCst) != 0);
    });
    until(|| held.load(SeqCst) != 0);
    let waiter = spawn(move || {
        let owner = held.fetch_or(FUTEX_WAITERS, SeqCst) | FUTEX_WAITERS;
        let result = futex_wait(held, FUTEX_WAIT, owner, None);
        word(page, 41).store(if result == Ok(0) { 2 } else { 1 }, SeqCst);
    });
    until(|| held.load(SeqCst) & FUTEX_WAITERS != 0);
    nap();
    word(page, 40).store(1, SeqCst);
    owner.join().or_fail("munmap");
    waiter.join().or_fail("munmap");
    println!(
        "robust: {:#x}, another's {}, woken {}",
        held.load(SeqCst),
        free.load(SeqCst),
        word(page, 41).load(SeqCst) != 0
    );
    let (mut head, mut len) = (1_usize, 0_usize);
    let of = [0, (&raw mut head).addr(), (&raw mut len).addr()];
    call(__NR_get_robust_list, of).or_fail("get_robust_list");
    println!(
        "none here: {head} {len}, too short: {:?}",
        call(__NR_set_robust_list, [address, 23])
    );
}

/// What is not there says so.
pub fn unsupported() {
    let it = word(own_words(), 0);
    println!(
        "priority inheritance: {:?} {:?}",
        futex(it, FUTEX_LOCK_PI, 0, 0, None, 0),
        futex(it, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 0, 0, None, 0)
    );
    println!("rseq: {:?}", call(__NR_rseq, [0, 32, 0, 0]));
}
