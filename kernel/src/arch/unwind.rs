//! Who called whom, read from the frame records of kernel stacks (AAPCS64, 6.4.6). For machines in
//! trouble: nothing is believed that is not looked at first.

use super::layout;
use core::arch::asm;
use core::cmp::Reverse;
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

/// The innermost frame record of a stack of which nobody knows how much is in use, as it may be:
/// two guesses, or one if they agree.
///
/// What has returned is on the stack still, and looks like what has not. The longest row of calls is
/// right if its innermost one still runs. Where that has returned, and its caller goes on without
/// calling anything as deep, the row of those records is right that are nearest to their callers.
pub fn innermost(stack: Range<u64>) -> (Option<u64>, Option<u64>) {
    let records = || (stack.start.next_multiple_of(16)..stack.end).step_by(16);
    let longest = records().filter_map(|at| {
        let (length, outermost) = row(&stack, at)?;
        Some((length, Reverse(at), outermost))
    });
    let Some((_, Reverse(longest), outermost)) = longest.max() else {
        return (None, None);
    };
    let mut nearest = outermost;
    let calls = |at: u64, caller: u64| {
        record(at).is_some_and(|[next, back]| next == caller && follows_call(back))
    };
    while let Some(at) = records()
        .filter(|&at| at < nearest && calls(at, nearest))
        .last()
    {
        nearest = at;
    }
    (Some(longest), (nearest != longest).then_some(nearest))
}

/// The length of a row of calls that begins at a record, and the last record of it; none: it is none.
fn row(stack: &Range<u64>, mut at: u64) -> Option<(usize, u64)> {
    for length in 1..=DEPTH {
        let [next, back] = record(at)?;
        if !follows_call(back) {
            return None;
        }
        // Whoever came from a program, or begins a thread, has the program's frame pointer, or 0.
        if !stack.contains(&next) {
            return Some((length, at));
        }
        if next <= at {
            return None;
        }
        at = next;
    }
    None
}
