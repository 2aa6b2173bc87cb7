//! Faults: told by how they differ from one like them.
//!
//! The last faults of several kinds are kept in slots, keyed by what makes faults alike: thread,
//! instruction, outcome and call stack; so a loop that sweeps through memory costs a few bytes per
//! fault even when others fault in between. The tag byte is one of
//!
//! ```text
//! 1 s s s x n o a   like the last one in slot s, but for: x a mask of more changes follows, n the
//!                   new frame, o the old frame, a the address is not as predicted
//! 0 0 0 0 1 0 1 0   a new slot; all of x, n, o, a follow, against the most recent fault
//! ```

use crate::codec::{Port, Stop};
use crate::descriptor::{attributes_of, descriptor, frame_of};
use crate::event::{Access, Fault, Origin, Outcome, STACK_DEPTH, Stack};

const SLOTS: usize = 8;
const PAGE_SIZE: i64 = 4096;

pub(crate) const KIND_FAULT: u8 = 10;
pub(crate) const AGAIN: u8 = 1 << 7;
const MORE: u8 = 1 << 3;
const NEW: u8 = 1 << 2;
const OLD: u8 = 1 << 1;
const ADDR: u8 = 1 << 0;

/// The mask of more changes. What belongs together changes together.
mod more {
    pub const REFS: u8 = 1 << 0;
    pub const ATTRIBUTES: u8 = 1 << 1;
    pub const ESR: u8 = 1 << 2;
    pub const TLBIS: u8 = 1 << 3;
    pub const OWNER: u8 = 1 << 4;
    pub const KIND: u8 = 1 << 5;
    pub const PC: u8 = 1 << 6;
    pub const STACK: u8 = 1 << 7;
}
/// Predicts the next value of a sequence that mostly advances by the same step.
#[derive(Clone, Copy)]
struct Stride {
    step: i64,
    last: i64,
}

impl Stride {
    const fn new(step: i64) -> Self {
        Stride { step, last: step }
    }

    /// A step counts once it was seen twice in a row: a single jump costs one miss, not two.
    fn learn(&mut self, from: u64, to: u64) {
        let step = to.wrapping_sub(from) as i64;
        if step == self.last {
            self.step = step;
        }
        self.last = step;
    }

    fn after(&self, value: u64) -> u64 {
        value.wrapping_add(self.step as u64)
    }
}

/// The last fault of its likes.
#[derive(Clone, Copy)]
struct Slot {
    tid: u32,
    fault: Fault,
    addr: Stride,
    old: Stride,
    new: Stride,
}

impl Slot {
    const fn new(tid: u32, fault: Fault) -> Self {
        Slot {
            tid,
            fault,
            addr: Stride::new(PAGE_SIZE),
            old: Stride::new(1),
            new: Stride::new(1),
        }
    }

    const BLANK: Slot = Slot::new(0, BLANK_FAULT);

    fn is_like(&self, tid: u32, fault: &Fault) -> bool {
        self.fault.pc == fault.pc
            && self.tid == tid
            && self.fault.outcome == fault.outcome
            && self.fault.stack == fault.stack
    }

    fn predict_addr(&self) -> u64 {
        self.addr.after(self.fault.addr)
    }

    fn predict_old(&self) -> u64 {
        frame_of(descriptor(self.old.after(frame_of(self.fault.old)), 0))
    }

    /// A fault that left the frame in place will do so again.
    fn predict_new(&self, old: u64) -> u64 {
        let frame = frame_of(self.fault.new);
        if frame == frame_of(self.fault.old) {
            old
        } else {
            frame_of(descriptor(self.new.after(frame), 0))
        }
    }

    fn learn(&mut self, fault: &Fault) {
        self.addr.learn(self.fault.addr, fault.addr);
        self.old
            .learn(frame_of(self.fault.old), frame_of(fault.old));
        self.new
            .learn(frame_of(self.fault.new), frame_of(fault.new));
        self.fault = *fault;
    }
}

/// The slots.
pub(crate) struct Faults {
    slots: [Slot; SLOTS],
    /// Slots that hold a fault of this batch.
    used: u8,
    /// The slot of the most recent fault.
    recent: u8,
    /// The slot that the next new kind of fault gets.
    next: u8,
}

impl Faults {
    pub(crate) const fn new() -> Self {
        Faults {
            slots: [Slot::BLANK; SLOTS],
            used: 0,
            recent: 0,
            next: 0,
        }
    }

    /// Slots keep their bytes but are not looked at before they are used again.
    pub(crate) fn reset(&mut self) {
        self.used = 0;
        self.recent = 0;
        self.next = 0;
    }

    /// The slot of the most recent fault of this batch.
    fn recent(&self) -> &Slot {
        match self.slots[..usize::from(self.used)].get(usize::from(self.recent)) {
            Some(slot) => slot,
            None => &Slot::BLANK,
        }
    }

    /// How to write a fault: its tag, and what else changed.
    pub(crate) fn tag(&self, tid: u32, fault: &Fault) -> (u8, u8) {
        let slots = &self.slots[..usize::from(self.used)];
        let Some(index) = slots.iter().position(|slot| slot.is_like(tid, fault)) else {
            return (KIND_FAULT, changes(self.recent(), tid, fault));
        };
        let slot = &slots[index];
        let changes = changes(slot, tid, fault);
        let mut tag = AGAIN | (index as u8) << 4;
        if fault.addr != slot.predict_addr() {
            tag |= ADDR;
        }
        if frame_of(fault.old) != slot.predict_old() {
            tag |= OLD;
        }
        if frame_of(fault.new) != slot.predict_new(frame_of(fault.old)) {
            tag |= NEW;
        }
        if changes != 0 {
            tag |= MORE;
        }
        (tag, changes)
    }

    /// A fault after its tag and time.
    pub(crate) fn code<P: Port>(
        &mut self,
        port: &mut P,
        tag: u8,
        mut changes: u8,
        tid: &mut u32,
        fault: &mut Fault,
    ) -> Result<(), Stop> {
        let again = (tag & AGAIN != 0).then_some(usize::from(tag >> 4 & 7));
        let base = match again {
            // A slot nobody filled: not from our encoder.
            Some(index) if index >= usize::from(self.used) => return Err(Stop::End),
            Some(index) => &self.slots[index],
            None => self.recent(),
        };
        // In full, everything that `Again` predicts is told.
        let tag = if again.is_some() {
            tag
        } else {
            ADDR | OLD | NEW | MORE
        };
        if P::READS {
            *tid = base.tid;
            *fault = base.fault;
        }

        port.field(&mut fault.cost)?;
        if tag & ADDR != 0 {
            port.delta(&mut fault.addr, base.fault.addr)?;
        } else {
            fault.addr = base.predict_addr();
        }
        let mut old = frame_of(fault.old);
        if tag & OLD != 0 {
            port.delta(&mut old, frame_of(base.fault.old))?;
        } else {
            old = base.predict_old();
        }
        let mut new = frame_of(fault.new);
        if tag & NEW != 0 {
            port.delta(&mut new, frame_of(base.fault.new))?;
        } else {
            new = base.predict_new(old);
        }

        let mut attributes = (attributes_of(fault.old), attributes_of(fault.new));
        if tag & MORE != 0 {
            port.field(&mut changes)?;
            if changes & more::REFS != 0 {
                port.field(&mut fault.refs)?;
                port.field(&mut fault.refs_after)?;
            }
            if changes & more::ATTRIBUTES != 0 {
                port.field(&mut attributes)?;
            }
            if changes & more::ESR != 0 {
                port.field(&mut fault.esr)?;
            }
            if changes & more::TLBIS != 0 {
                port.field(&mut fault.tlbis)?;
            }
            if changes & more::OWNER != 0 {
                port.field(tid)?;
                port.field(&mut fault.pid)?;
                port.field(&mut fault.space)?;
                port.field(&mut fault.asid)?;
            }
            if changes & more::KIND != 0 {
                port.field(&mut fault.outcome)?;
                port.field(&mut fault.access)?;
                port.field(&mut fault.origin)?;
            }
            if changes & more::PC != 0 {
                port.delta(&mut fault.pc, base.fault.pc)?;
            }
            if changes & more::STACK != 0 {
                stack(port, &base.fault.stack, fault.pc, &mut fault.stack)?;
            }
        }
        fault.old = descriptor(old, attributes.0);
        fault.new = descriptor(new, attributes.1);

        match again {
            Some(index) => {
                self.slots[index].tid = *tid;
                self.slots[index].learn(fault);
                self.recent = index as u8;
            }
            None => {
                self.slots[usize::from(self.next)] = Slot::new(*tid, *fault);
                self.recent = self.next;
                self.used = self.used.max(self.next + 1);
                self.next = (self.next + 1) % SLOTS as u8;
            }
        }
        Ok(())
    }
}

/// What changed since the fault in a slot, besides what is predicted.
fn changes(slot: &Slot, tid: u32, fault: &Fault) -> u8 {
    let base = &slot.fault;
    let mut changes = 0;
    let mut note = |bit, same: bool| {
        if !same {
            changes |= bit;
        }
    };
    note(
        more::REFS,
        base.refs == fault.refs && base.refs_after == fault.refs_after,
    );
    note(
        more::ATTRIBUTES,
        attributes_of(base.old) == attributes_of(fault.old)
            && attributes_of(base.new) == attributes_of(fault.new),
    );
    note(more::ESR, base.esr == fault.esr);
    note(more::TLBIS, base.tlbis == fault.tlbis);
    note(
        more::OWNER,
        slot.tid == tid
            && base.pid == fault.pid
            && base.space == fault.space
            && base.asid == fault.asid,
    );
    note(
        more::KIND,
        base.outcome == fault.outcome && base.access == fault.access && base.origin == fault.origin,
    );
    note(more::PC, base.pc == fault.pc);
    note(more::STACK, base.stack == fault.stack);
    changes
}

/// A call stack: how many of the outermost callers are as in `base`, and the rest from the inside
/// out, each as its distance from the one before (callers are near in the text).
fn stack<P: Port>(port: &mut P, base: &Stack, pc: u64, stack: &mut Stack) -> Result<(), Stop> {
    let base = &base.pcs[..usize::from(base.depth).min(STACK_DEPTH)];
    let mut depth = usize::from(stack.depth).min(STACK_DEPTH);
    let mut same = 0;
    if !P::READS {
        let pairs = base.iter().rev().zip(stack.pcs[..depth].iter().rev());
        same = pairs.take_while(|(a, b)| a == b).count();
    }
    let mut lengths = (same << 4 | depth) as u8;
    port.field(&mut lengths)?;
    depth = usize::from(lengths & 15);
    same = usize::from(lengths >> 4);
    if depth > STACK_DEPTH || same > depth || same > base.len() {
        return Err(Stop::End);
    }
    if P::READS {
        *stack = Stack {
            depth: depth as u8,
            pcs: [0; STACK_DEPTH],
        };
        stack.pcs[depth - same..depth].copy_from_slice(&base[base.len() - same..]);
    }
    let mut previous = pc;
    for pc in &mut stack.pcs[..depth - same] {
        port.delta(pc, previous)?;
        previous = *pc;
    }
    Ok(())
}
pub(crate) const BLANK_FAULT: Fault = Fault {
    outcome: Outcome::Spurious,
    access: Access::Read,
    origin: Origin::User,
    pid: 0,
    space: 0,
    asid: 0,
    cost: 0,
    pc: 0,
    addr: 0,
    esr: 0,
    old: 0,
    new: 0,
    refs: 0,
    refs_after: 0,
    tlbis: 0,
    stack: Stack {
        depth: 0,
        pcs: [0; STACK_DEPTH],
    },
};
