//! The user's call stack at a fault, from the chain of frame records (AAPCS64, section 6.4.6).

use crate::arch::{trap::TrapFrame, uaccess};
use crate::process::fault;
use wire::event::{STACK_DEPTH, Stack};

/// The call stack of the user code that entered the kernel; empty with `stacks=off`.
#[inline]
pub fn of(frame: &TrapFrame) -> Stack {
    if super::stacks() {
        walk(frame)
    } else {
        Stack::default()
    }
}

/// Walks the frame records from x29. It stops at the first that is unaligned, not above the one
/// before, or not in memory: a walk causes no page fault of its own.
fn walk(frame: &TrapFrame) -> Stack {
    let mut stack = Stack::default();
    let mut record = frame.x[29];
    fault::without_faults(|| {
        while usize::from(stack.depth) < STACK_DEPTH && record != 0 && record.is_multiple_of(8) {
            let mut words = [0; 16];
            if uaccess::read(&mut words, record).is_err() {
                break;
            }
            let words = u128::from_le_bytes(words);
            let (next, pc) = (words as u64, (words >> 64) as u64);
            if pc == 0 {
                break;
            }
            stack.pcs[usize::from(stack.depth)] = pc;
            stack.depth += 1;
            if next <= record {
                break;
            }
            record = next;
        }
    });
    stack
}
