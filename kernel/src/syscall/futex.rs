//! System calls on futexes.

use super::errno::Errno;
use super::time::read_timespec;
use super::{Result, process, user};
use crate::arch::time;
use crate::process::futex::{self, ANY, COMMAND, Key};
use crate::process::signal::restart::Restart;
use crate::process::thread::current;
use crate::process::{clock, timer};
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_OP_ADD, FUTEX_OP_ANDN, FUTEX_OP_CMP_EQ,
    FUTEX_OP_CMP_GE, FUTEX_OP_CMP_GT, FUTEX_OP_CMP_LE, FUTEX_OP_CMP_LT, FUTEX_OP_CMP_NE,
    FUTEX_OP_OPARG_SHIFT, FUTEX_OP_OR, FUTEX_OP_SET, FUTEX_OP_XOR, FUTEX_PRIVATE_FLAG,
    FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};

type Fallible<T> = core::result::Result<T, Errno>;

/// Bytes of `struct robust_list_head`.
const ROBUST_HEAD: u64 = 24;

/// futex(addr, operation, value, timeout or second value, second address, third value). ENOSYS: an
/// operation with priority inheritance, or none at all.
pub fn futex(
    addr: u64,
    operation: u32,
    value: u32,
    timeout: u64,
    addr2: u64,
    value3: u32,
) -> Result {
    let private = operation & FUTEX_PRIVATE_FLAG != 0;
    let command = operation & COMMAND;
    if operation & FUTEX_CLOCK_REALTIME != 0 && command != FUTEX_WAIT_BITSET {
        return Err(Errno::ENOSYS);
    }
    // The count that travels in the timeout's place.
    let second = timeout as u32;
    match command {
        FUTEX_WAIT => {
            let deadline = match timeout {
                0 => None,
                at => Some(timer::ticks(read_timespec(at)?).saturating_add(time::now())),
            };
            let result = futex::wait(addr, Key::new(addr, private)?, value, ANY, deadline);
            if let (Err(Errno::EINTR), Some(deadline)) = (result, deadline) {
                current().signals.own().restart = Some(Restart::Futex(deadline));
            }
            result.map(|()| 0)
        }
        FUTEX_WAIT_BITSET => {
            let deadline = match timeout {
                0 => None,
                at => Some(absolute(at, operation & FUTEX_CLOCK_REALTIME != 0)?),
            };
            if value3 == 0 {
                return Err(Errno::EINVAL);
            }
            let key = Key::new(addr, private)?;
            futex::wait(addr, key, value, value3, deadline).map(|()| 0)
        }
        FUTEX_WAKE => Ok(futex::wake(Key::new(addr, private)?, count(value), ANY).into()),
        FUTEX_WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => {
            let key = Key::new(addr, private)?;
            Ok(futex::wake(key, count(value), value3).into())
        }
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            if (value as i32) < 0 || (second as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            let expected = (command == FUTEX_CMP_REQUEUE).then_some((addr, value3));
            let (from, to) = (Key::new(addr, private)?, Key::new(addr2, private)?);
            Ok(futex::requeue(from, to, value, second, expected)?.into())
        }
        FUTEX_WAKE_OP => {
            let (first, second_key) = (Key::new(addr, private)?, Key::new(addr2, private)?);
            let change = Change::decode(value3)?;
            let woken = futex::wake_after_change(
                (first, count(value)),
                (addr2, second_key, count(second)),
                |word| change.apply(word),
                |word| change.test(word),
            )?;
            Ok(woken.into())
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// How many to wake. As on Linux one is woken before anybody looks at the number.
fn count(value: u32) -> u32 {
    (value as i32).max(1) as u32
}

/// A time of the clock as a counter value.
fn absolute(addr: u64, realtime: bool) -> Fallible<u64> {
    let epoch = if realtime { clock::epoch() } else { 0 };
    Ok(timer::ticks(read_timespec(addr)?.saturating_sub(epoch)))
}

/// FUTEX_WAIT with the arguments of the call, until `deadline` (counter value).
pub fn wait_on(call: &[u64; 31], deadline: u64) -> Result {
    let [addr, operation, value, ..] = *call;
    let key = Key::new(addr, operation as u32 & FUTEX_PRIVATE_FLAG != 0)?;
    let result = futex::wait(addr, key, value as u32, ANY, Some(deadline));
    if result == Err(Errno::EINTR) {
        current().signals.own().restart = Some(Restart::Futex(deadline));
    }
    result.map(|()| 0)
}

/// What FUTEX_WAKE_OP does to the second word, and what it asks of its old value.
struct Change {
    change: u32,
    argument: u32,
    test: u32,
    against: i32,
}

impl Change {
    /// From the last argument: 4 bits of operation, 4 of comparison, and 12 for the argument of each.
    fn decode(value: u32) -> Fallible<Change> {
        let change = value >> 28 & 7;
        let signed = |bits: u32| (bits << 20) as i32 >> 20;
        let mut argument = signed(value >> 12) as u32;
        if value >> 28 & FUTEX_OP_OPARG_SHIFT != 0 {
            argument = 1 << (argument & 31);
        }
        let test = value >> 24 & 15;
        if change > FUTEX_OP_XOR {
            return Err(Errno::ENOSYS);
        }
        Ok(Change {
            change,
            argument,
            test,
            against: signed(value),
        })
    }

    fn apply(&self, word: u32) -> u32 {
        match self.change {
            FUTEX_OP_SET => self.argument,
            FUTEX_OP_ADD => word.wrapping_add(self.argument),
            FUTEX_OP_OR => word | self.argument,
            FUTEX_OP_ANDN => word & !self.argument,
            _ => word ^ self.argument,
        }
    }

    /// A test that there is not is found out after the change, as on Linux.
    fn test(&self, word: u32) -> Fallible<bool> {
        let word = word as i32;
        Ok(match self.test {
            FUTEX_OP_CMP_EQ => word == self.against,
            FUTEX_OP_CMP_NE => word != self.against,
            FUTEX_OP_CMP_LT => word < self.against,
            FUTEX_OP_CMP_LE => word <= self.against,
            FUTEX_OP_CMP_GT => word > self.against,
            FUTEX_OP_CMP_GE => word >= self.against,
            _ => return Err(Errno::ENOSYS),
        })
    }
}

/// set_robust_list(head, len).
pub fn set_robust_list(head: u64, len: u64) -> Result {
    if len != ROBUST_HEAD {
        return Err(Errno::EINVAL);
    }
    current().robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(thread, head, len).
pub fn get_robust_list(tid: u32, head: u64, len: u64) -> Result {
    let list = process::thread(tid)?.robust_list.load(Ordering::Relaxed);
    user::write(len, &ROBUST_HEAD)?;
    user::write(head, &list)?;
    Ok(0)
}
