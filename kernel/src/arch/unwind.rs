//! Who called whom, read from the frame records of kernel stacks (AAPCS64, 6.4.6). For machines in
//! trouble: nothing is believed that is not looked at first.

use super::layout;
use core::arch::asm;
use core::ops::Range;

/// Return addresses that are told at most.
const DEPTH: usize = 24;
/// The largest stack, guard included: records further apart are of two.
const SLOT: u64 = 32 * 1024;

/// Whether the kernel may read an address.
fn is_mapped(address: u64) -> bool {
    let result: u64;
    // SAFETY: translates, and accesses nothing. PAR_EL1 is nobody else's.
    unsafe {
        asm!(
            "at s1e1r, {address}",
            "isb",
            "mrs {result}, par_el1",
            address = in(reg) address,
            result = out(reg) result,
            options(nostack, preserves_flags)
        );
    }
    result & 1 == 0
}

/// The frame record at an address: that of the caller, and where it goes on.
fn record(at: u64) -> Option<[u64; 2]> {
    let stacks = [
        layout::text_end()..layout::image_end(),
        layout::STACKS.clone(),
    ];
    let in_stack = stacks.iter().any(|stack| stack.contains(&at));
    if !in_stack || !at.is_multiple_of(16) || !is_mapped(at) {
        return None;
    }
    // SAFETY: aligned, and mapped as far as this goes; whatever is there is looked at with suspicion.
    Some(unsafe { (at as *const [u64; 2]).read_volatile() })
}

/// Whether the instruction before an address is a call.
fn follows_call(address: u64) -> bool {
    let text = layout::image_start() + 4..layout::text_end();
    if !text.contains(&address) || !address.is_multiple_of(4) {
        return false;
    }
    // SAFETY: in the kernel's text.
    let instruction = unsafe { ((address - 4) as *const u32).read_volatile() };
    let (bl, blr) = (
        instruction >> 26 == 0x25,
        instruction & !0x3e0 == 0xd63f_0000,
    );
    bl || blr
}

/// The return addresses of a stack from this frame record on, innermost first.
pub fn from_frame(mut at: u64, mut f: impl FnMut(u64)) {
    // A stack may go on on another one, once: what the trace's output runs on.
    let mut crossings = 1;
    for _ in 0..DEPTH {
        let Some([next, back]) = record(at) else {
            return;
        };
        if back == 0 {
            return;
        }
        f(back);
        if next <= at || next - at >= SLOT {
            if crossings == 0 || next.abs_diff(at) < SLOT {
                return;
            }
            crossings -= 1;
        }
        at = next;
    }
}

/// The rows of calls on a stack of which nobody knows how much is in use. `f` is told the return
/// addresses of each, innermost first, and whether a row begins; a row ends where it joins one before.
///
/// What has returned is on the stack still, and looks like what has not: one of the rows is right
/// from some call on.
pub fn rows(stack: Range<u64>, mut f: impl FnMut(u64, bool)) {
    /// Records that are told at most.
    const MOST: usize = 64;
    let mut told = [0; MOST];
    let mut count = 0;
    for first in (stack.start.next_multiple_of(16)..stack.end).step_by(16) {
        if !is_row(&stack, first) {
            continue;
        }
        let mut at = first;
        while count < MOST
            && stack.contains(&at)
            && !told[..count].contains(&at)
            && let Some([next, back]) = record(at)
        {
            f(back, at == first);
            told[count] = at;
            count += 1;
            at = next;
        }
    }
}

/// Whether a row of calls begins at a record, which leads out of the stack.
fn is_row(stack: &Range<u64>, mut at: u64) -> bool {
    for _ in 0..DEPTH {
        let Some([next, back]) = record(at) else {
            return false;
        };
        if !follows_call(back) {
            return false;
        }
        // Whoever came from a program, or begins a thread, has the program's frame pointer, or 0.
        if !stack.contains(&next) {
            return true;
        }
        if next <= at {
            return false;
        }
        at = next;
    }
    false
}
