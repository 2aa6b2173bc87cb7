//! Futexes (futex(2)): threads that sleep until another says that a word of memory has changed.
//!
//! A word is known by its place: an address in an address space, or in a shared mapping the offset in
//! what is mapped. Never by the frame it is in, which copy-on-write may replace while somebody sleeps.
//!
//! One lock is for all: a waiter is moved from one word to another under it, and whoever wakes
//! either finds a waiter or has changed the word before that one looked.

use super::scheduler;
use super::thread::{Current, State, Thread, current};
use super::{fault, timer};
use crate::arch::{self, uaccess};
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general::{
    FUTEX_CLOCK_REALTIME, FUTEX_OWNER_DIED, FUTEX_PRIVATE_FLAG, FUTEX_TID_MASK, FUTEX_WAITERS,
};
use memory::{Backing, Lock, Rank, USER_END};

/// The part of the operation that says what to do.
pub const COMMAND: u32 = !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
/// Every waiter.
pub const ANY: u32 = u32::MAX;

/// Where a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    what: What,
    /// Address, or offset in the file.
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// FUTEX_PRIVATE_FLAG: in this address space.
    Private(u32),
    /// In this one, too, but without the flag: as on Linux not the same word.
    Unshared(u32),
    /// In this file, or shared anonymous memory.
    File(u32),
}

impl Key {
    /// Of the word at `addr` of the current thread; `private`: no other process has it.
    pub fn new(addr: u64, private: bool) -> Result<Key, Errno> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        if addr >= USER_END {
            return Err(Errno::EFAULT);
        }
        let thread = current();
        let space = thread.space().ok_or(Errno::EFAULT)?;
        if private {
            let what = What::Private(space.serial);
            return Ok(Key { what, at: addr });
        }
        let inner = space.lock();
        let mappings = inner.map.mappings();
        let at = mappings.partition_point(|mapping| mapping.end <= addr);
        let mapping = mappings.get(at).filter(|mapping| mapping.start <= addr);
        let mapping = mapping.ok_or(Errno::EFAULT)?;
        Ok(match &mapping.backing {
            Backing::File { cache, offset } if mapping.shared => Key {
                what: What::File(cache.id()),
                at: offset + (addr - mapping.start),
            },
            _ => Key {
                what: What::Unshared(space.serial),
                at: addr,
            },
        })
    }

    fn list(self) -> usize {
        let what = match self.what {
            What::Private(n) | What::Unshared(n) | What::File(n) => n,
        };
        let mixed = ((self.at / 4) ^ (u64::from(what) << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % LISTS
    }
}

const LISTS: usize = 64;

/// A thread that waits; on its own stack, so that no memory is needed to sleep.
struct Waiter {
    thread: Arc<Thread>,
    key: Cell<Key>,
    /// Whoever wakes has one of these bits.
    bits: u32,
    /// It is in a list.
    queued: Cell<bool>,
    next: Cell<*const Waiter>,
}

/// Those who wait, the one who has waited longest first.
#[derive(Clone, Copy)]
struct List {
    /// Null: none.
    first: *const Waiter,
    last: *const Waiter,
}

struct Table([List; LISTS]);

// SAFETY: the pointers are to waiters that are used under the table's lock only, and whose threads may
// be woken from any CPU.
unsafe impl Send for Table {}

static TABLE: Lock<Table> = Lock::new(
    Rank::Waiting,
    Table(
        [List {
            first: ptr::null(),
            last: ptr::null(),
        }; LISTS],
    ),
);

impl List {
    fn push(&mut self, waiter: &Waiter) {
        waiter.next.set(ptr::null());
        waiter.queued.set(true);
        // SAFETY: what is in a list lives until `wait` has taken it out.
        match unsafe { self.last.as_ref() } {
            Some(last) => last.next.set(waiter),
            None => self.first = waiter,
        }
        self.last = waiter;
    }

    /// Takes out those for which `wanted` says so, from the first on, until it says `None`.
    fn take(
        &mut self,
        mut wanted: impl FnMut(&Waiter) -> Option<bool>,
        mut each: impl FnMut(&Waiter),
    ) {
        let mut before: *const Waiter = ptr::null();
        let mut at = self.first;
        // SAFETY: as in `push`.
        while let Some(waiter) = unsafe { at.as_ref() } {
            let next = waiter.next.get();
            match wanted(waiter) {
                None => return,
                Some(false) => before = at,
                Some(true) => {
                    // SAFETY: as in `push`.
                    match unsafe { before.as_ref() } {
                        Some(before) => before.next.set(next),
                        None => self.first = next,
                    }
                    if next.is_null() {
                        self.last = before;
                    }
                    waiter.queued.set(false);
                    each(waiter);
                }
            }
            at = next;
        }
    }
}

impl Table {
    /// Wakes up to `most` waiters, one at least if there is one.
    fn wake(&mut self, key: Key, most: u32, bits: u32) -> u32 {
        let mut woken = 0;
        let most = most.max(1);
        self.0[key.list()].take(
            |waiter| {
                if woken >= most {
                    return None;
                }
                let wanted = waiter.key.get() == key && waiter.bits & bits != 0;
                woken += u32::from(wanted);
                Some(wanted)
            },
            |waiter| scheduler::wake(&waiter.thread),
        );
        woken
    }

    /// Wakes up to `wake` of the waiters of one word, and lets up to `most` others wait for another
    /// word. How many both are.
    fn requeue(&mut self, from: Key, to: Key, wake: u32, most: u32) -> u32 {
        let mut moved = List {
            first: ptr::null(),
            last: ptr::null(),
        };
        let mut count = 0;
        let all = wake.saturating_add(most);
        let woken = Cell::new(0);
        self.0[from.list()].take(
            |waiter| {
                if count >= all {
                    return None;
                }
                let wanted = waiter.key.get() == from;
                count += u32::from(wanted);
                Some(wanted)
            },
            |waiter| {
                if woken.get() < wake {
                    woken.set(woken.get() + 1);
                    scheduler::wake(&waiter.thread);
                } else {
                    waiter.key.set(to);
                    moved.push(waiter);
                }
            },
        );
        let list = &mut self.0[to.list()];
        moved.take(|_| Some(true), |waiter| list.push(waiter));
        count
    }
}

/// Sleeps until the word at `addr`, which must hold `expected`, is woken with one of `bits`.
///
/// EAGAIN: it holds something else. ETIMEDOUT: nobody came until `deadline` (counter value). EINTR: a
/// signal did. EFAULT: it cannot be read.
pub fn wait(
    addr: u64,
    key: Key,
    expected: u32,
    bits: u32,
    deadline: Option<u64>,
) -> Result<(), Errno> {
    let thread = current();
    let waiter = Waiter {
        thread: thread.share(),
        key: Cell::new(key),
        bits,
        queued: Cell::new(false),
        next: Cell::new(ptr::null()),
    };
    let _alarm = deadline.map(timer::Alarm::waking).transpose()?;
    loop {
        let mut table = TABLE.lock();
        match word_now(addr) {
            Some(word) if word == expected => {
                table.0[key.list()].push(&waiter);
                break;
            }
            Some(_) => return Err(Errno::EAGAIN),
            None => {
                drop(table);
                uaccess::read_u32(addr)?;
            }
        }
    }
    loop {
        scheduler::prepare_to_block();
        // Whatever happens from here on finds the thread about to sleep.
        arch::cpu::fence();
        let late = deadline.is_some_and(|deadline| arch::time::now() >= deadline);
        let interrupted = thread.interrupted();
        let mut table = TABLE.lock();
        if waiter.queued.get() && !late && !interrupted {
            drop(table);
            scheduler::block_for_good();
            continue;
        }
        thread.set_state(State::Running);
        if !waiter.queued.get() {
            return Ok(());
        }
        let this = |other: &Waiter| Some(ptr::eq(other, &waiter));
        table.0[waiter.key.get().list()].take(this, |_| ());
        return Err(if interrupted {
            Errno::EINTR
        } else {
            Errno::ETIMEDOUT
        });
    }
}

/// Wakes up to `most` that wait for a word with one of `bits`; how many.
pub fn wake(key: Key, most: u32, bits: u32) -> u32 {
    TABLE.lock().wake(key, most, bits)
}

/// FUTEX_REQUEUE, and with `expected` FUTEX_CMP_REQUEUE: address and contents of the first word.
pub fn requeue(
    from: Key,
    to: Key,
    wake: u32,
    most: u32,
    expected: Option<(u64, u32)>,
) -> Result<u32, Errno> {
    loop {
        let mut table = TABLE.lock();
        if let Some((addr, expected)) = expected {
            match word_now(addr) {
                Some(word) if word == expected => {}
                Some(_) => return Err(Errno::EAGAIN),
                None => {
                    drop(table);
                    uaccess::read_u32(addr)?;
                    continue;
                }
            }
        }
        return Ok(table.requeue(from, to, wake, most));
    }
}

/// FUTEX_WAKE_OP: changes the word at `addr`, wakes one word's waiters, and if the old value passes
/// `test` those of the changed one. How many both are.
pub fn wake_after_change(
    (first, most): (Key, u32),
    (addr, second, most_there): (u64, Key, u32),
    change: impl Fn(u32) -> u32,
    test: impl Fn(u32) -> Result<bool, Errno>,
) -> Result<u32, Errno> {
    loop {
        let mut table = TABLE.lock();
        if let Some(before) = change_now(addr, &change) {
            let both = test(before)?;
            let mut woken = table.wake(first, most, ANY);
            if both {
                woken += table.wake(second, most_there, ANY);
            }
            return Ok(woken);
        }
        drop(table);
        // Takes the faults of a read and a write.
        let word = uaccess::read_u32(addr)?;
        uaccess::exchange_u32(addr, word, word)?;
    }
}

/// The word, unless it takes a fault to read it: a lock is held.
fn word_now(addr: u64) -> Option<u32> {
    let mut word = None;
    fault::without_faults(|| word = uaccess::read_u32(addr).ok());
    word
}

/// Changes the word; what it was.
fn change_now(addr: u64, change: impl Fn(u32) -> u32) -> Option<u32> {
    let mut word = word_now(addr)?;
    loop {
        let mut found = None;
        fault::without_faults(|| found = uaccess::exchange_u32(addr, word, change(word)).ok());
        match found? {
            same if same == word => return Some(word),
            other => word = other,
        }
    }
}

/// Whether [`leave_memory`] has something to do.
pub fn owes(thread: &Thread, shared: bool) -> bool {
    thread.robust_list.load(Relaxed) != 0 || shared && thread.clear_child_tid.load(Relaxed) != 0
}

/// The current thread is about to leave its address space, which others may be in (`shared`): who
/// waits for it, or for a lock that it holds, is told (kernel/fork.c, `mm_release`).
pub fn leave_memory(thread: &Current, shared: bool) {
    let list = thread.robust_list.swap(0, Relaxed);
    if list != 0 {
        // As on Linux, a bad list is the program's own loss.
        let _ = give_up_robust(thread, list);
    }
    let addr = thread.clear_child_tid.swap(0, Relaxed);
    if addr != 0
        && shared
        && uaccess::write_u32(addr, 0).is_ok()
        && let Ok(key) = Key::new(addr, false)
    {
        wake(key, 1, ANY);
    }
}

/// The list that set_robust_list named (kernel/futex/core.c, `exit_robust_list`): marks every lock
/// in it that the thread holds.
fn give_up_robust(thread: &Current, head: u64) -> Result<(), uaccess::Fault> {
    /// ROBUST_LIST_LIMIT: it may be a circle.
    const MOST: usize = 2048;
    /// In a pointer to an entry: the lock is one with priority inheritance.
    const PI: u64 = 1;
    let mut entry = uaccess::read_u64(head)?;
    let offset = uaccess::read_u64(head.wrapping_add(8))?;
    let pending = uaccess::read_u64(head.wrapping_add(16))?;
    let word = |entry: u64| (entry & !PI).wrapping_add(offset);
    for _ in 0..MOST {
        if entry & !PI == head {
            break;
        }
        // Whoever gets the lock may reuse the entry.
        let next = uaccess::read_u64(entry & !PI);
        if entry & !PI != pending & !PI {
            give_up(thread, word(entry), entry & PI != 0, false)?;
        }
        entry = next?;
    }
    if pending & !PI != 0 {
        give_up(thread, word(pending), pending & PI != 0, true)?;
    }
    Ok(())
}

/// One lock; `pending`: the thread was about to take it, or has just given it up.
fn give_up(thread: &Current, addr: u64, pi: bool, pending: bool) -> Result<(), uaccess::Fault> {
    if !addr.is_multiple_of(4) {
        return Err(uaccess::Fault);
    }
    let wake_one = || {
        if let Ok(key) = Key::new(addr, false) {
            wake(key, 1, ANY);
        }
    };
    let mut word = uaccess::read_u32(addr)?;
    loop {
        if pending && !pi && word == 0 {
            wake_one();
            return Ok(());
        }
        if word & FUTEX_TID_MASK != thread.tid() {
            return Ok(());
        }
        let after = word & FUTEX_WAITERS | FUTEX_OWNER_DIED;
        match uaccess::exchange_u32(addr, word, after)? {
            same if same == word => break,
            other => word = other,
        }
    }
    if !pi && word & FUTEX_WAITERS != 0 {
        wake_one();
    }
    Ok(())
}
