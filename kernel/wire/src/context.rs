//! Delta coding: what both sides remember of the records already in a batch, and the layout of a
//! record given that.
//!
//! A record begins with a tag byte:
//!
//! ```text
//! 1 s s s x n o a   a fault like the last one in slot s, but for: x a mask of more changes follows,
//!                   n the new frame, o the old frame, a the address is not as predicted
//! 0 t k k k k k k   kind k (Event::kind), in full; t: the thread is not the last record's
//! ```
//!
//! then the time since the last record, then the event. A fault in full opens a new slot and tells
//! how it differs from the most recent fault. Slots are keyed by what makes faults alike: thread,
//! instruction, outcome and call stack; so a loop that sweeps through memory costs a few bytes
//! per fault even when others fault in between.

use crate::codec::{Port, Stop};
use crate::event::{
    Access, Backing, Barrier, Event, Fault, Fork, ForkMode, KINDS, Map, Origin, Outcome, Record,
    Region, STACK_DEPTH, Stack, TlbiOp,
};

const SLOTS: usize = 8;
const PAGE_SIZE: i64 = 4096;

const AGAIN: u8 = 1 << 7;
const MORE: u8 = 1 << 3;
const NEW: u8 = 1 << 2;
const OLD: u8 = 1 << 1;
const ADDR: u8 = 1 << 0;
const TID: u8 = 1 << 6;
const KIND_FAULT: u8 = 10;

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

/// A descriptor is its output frame, which changes from page to page, and its attributes, which
/// do not: bits 47:12, and the others packed together.
const FRAME_MASK: u64 = 0x0000_ffff_ffff_f000;

const fn frame_of(descriptor: u64) -> u64 {
    (descriptor & FRAME_MASK) >> 12
}

const fn attributes_of(descriptor: u64) -> u32 {
    ((descriptor >> 48) << 12 | descriptor & 0xfff) as u32
}

const fn descriptor(frame: u64, attributes: u32) -> u64 {
    let attributes = attributes as u64;
    ((attributes >> 12) & 0xffff) << 48 | (frame << 12) & FRAME_MASK | attributes & 0xfff
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

/// What the last scheduler and `trace=mmu` events said.
#[derive(Clone, Copy)]
struct Last {
    /// Who ran last.
    running: u32,
    /// TLBI instructions so far.
    tlbis: u64,
    /// The latest values of TTBR0, and which is to be replaced next.
    ttbr0: [u64; 4],
    ttbr0_next: u8,
    table: u64,
    index: u16,
    level: u8,
    descriptor: u64,
    operand: u64,
    frame: u64,
}

impl Last {
    const NEW: Last = Last {
        running: 0,
        tlbis: 0,
        ttbr0: [0; 4],
        ttbr0_next: 0,
        table: 0,
        index: 0,
        level: 0,
        descriptor: 0,
        operand: 0,
        frame: 0,
    };
}

/// What both sides remember within a batch.
pub(crate) struct Context {
    time: u64,
    tid: u32,
    slots: [Slot; SLOTS],
    /// Slots that hold a fault of this batch.
    used: u8,
    /// The slot of the most recent fault.
    recent: u8,
    /// The slot that the next new kind of fault gets.
    next: u8,
    last: Last,
}

impl Context {
    pub(crate) const fn new(time: u64, tid: u32) -> Self {
        Context {
            time,
            tid,
            slots: [Slot::BLANK; SLOTS],
            used: 0,
            recent: 0,
            next: 0,
            last: Last::NEW,
        }
    }

    /// Forget everything. Slots keep their bytes but are not looked at before they are used again.
    pub(crate) fn reset(&mut self, time: u64, tid: u32) {
        self.time = time;
        self.tid = tid;
        self.used = 0;
        self.recent = 0;
        self.next = 0;
        self.last = Last::NEW;
    }

    /// Writes one record. On an error nothing is remembered of it.
    pub(crate) fn write<P: Port>(&mut self, port: &mut P, record: &Record) -> Result<(), Stop> {
        let mut record = *record;
        let (mut tag, changes) = match &record.event {
            Event::Fault(fault) => self.tag_fault(record.tid, fault),
            event => {
                let tid = if record.tid == self.tid { 0 } else { TID };
                (event.kind() as u8 | tid, 0)
            }
        };
        port.field(&mut tag)?;
        self.record(port, tag, changes, &mut record)
    }

    /// Reads one record.
    pub(crate) fn read<P: Port>(&mut self, port: &mut P) -> Result<Record, Stop> {
        let mut tag = 0;
        port.field(&mut tag)?;
        let kind = if tag & AGAIN != 0 {
            KIND_FAULT
        } else {
            tag & !TID
        };
        let mut record = Record {
            time: 0,
            tid: self.tid,
            event: blank(kind).ok_or(Stop::Unknown)?,
        };
        self.record(port, tag, 0, &mut record)?;
        Ok(record)
    }

    fn record<P: Port>(
        &mut self,
        port: &mut P,
        tag: u8,
        changes: u8,
        record: &mut Record,
    ) -> Result<(), Stop> {
        // Times do not decrease on one CPU; should they, the difference still comes out right.
        let mut elapsed = record.time.wrapping_sub(self.time);
        port.field(&mut elapsed)?;
        record.time = self.time.wrapping_add(elapsed);
        if let Event::Fault(fault) = &mut record.event {
            self.fault(port, tag, changes, &mut record.tid, fault)?;
        } else {
            if tag & TID != 0 {
                port.field(&mut record.tid)?;
            }
            let mut last = self.last;
            event(port, &mut last, &mut record.event)?;
            self.last = last;
        }
        self.time = record.time;
        self.tid = record.tid;
        Ok(())
    }

    /// The slot of the most recent fault of this batch.
    fn recent(&self) -> &Slot {
        match self.slots[..usize::from(self.used)].get(usize::from(self.recent)) {
            Some(slot) => slot,
            None => &Slot::BLANK,
        }
    }

    /// How to write a fault: its tag, and what else changed.
    fn tag_fault(&self, tid: u32, fault: &Fault) -> (u8, u8) {
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

    fn fault<P: Port>(
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

/// Every event but a fault. Rare ones are told in full.
fn event<P: Port>(port: &mut P, last: &mut Last, event: &mut Event) -> Result<(), Stop> {
    match event {
        Event::SpaceNew { space, root, asid } => {
            port.field(space)?;
            port.field(root)?;
            port.field(asid)
        }
        Event::SpaceEnd {
            space,
            asid,
            dropped,
            freed,
            tables,
            cost,
        } => {
            port.field(space)?;
            port.field(asid)?;
            for count in [dropped, freed, tables, cost] {
                port.field(count)?;
            }
            Ok(())
        }
        Event::Spawn { pid, space } => {
            port.field(pid)?;
            port.field(space)
        }
        Event::Fork(fork) => port.field(fork),
        Event::Exec {
            pid,
            old_space,
            space,
            file,
            cost,
        } => {
            for number in [pid, old_space, space, file, cost] {
                port.field(number)?;
            }
            Ok(())
        }
        Event::Exit { pid, space, status } => {
            port.field(pid)?;
            port.field(space)?;
            port.field(status)
        }
        Event::Reap { pid, by } => {
            port.field(pid)?;
            port.field(by)
        }
        Event::Map(map) => port.field(map),
        Event::Unmap {
            space,
            start,
            end,
            dropped,
            freed,
        } => {
            port.field(space)?;
            range(port, start, end)?;
            port.field(dropped)?;
            port.field(freed)
        }
        Event::Protect {
            space,
            start,
            end,
            prot,
            tightened,
        } => {
            port.field(space)?;
            range(port, start, end)?;
            port.field(prot)?;
            port.field(tightened)
        }
        // Coded by `Context::fault`, which needs the slots.
        Event::Fault(_) => Err(Stop::Unknown),
        Event::Switch {
            from,
            to,
            space,
            ttbr0,
            tlbis,
        } => {
            let mut difference = from.wrapping_sub(last.running) as i32;
            port.field(&mut difference)?;
            *from = last.running.wrapping_add(difference as u32);
            port.field(to)?;
            port.field(space)?;
            table_base(port, last, ttbr0)?;
            port.delta(tlbis, last.tlbis)?;
            last.running = *to;
            last.tlbis = *tlbis;
            Ok(())
        }
        Event::Resident {
            space,
            anon,
            file,
            zero,
        } => {
            for number in [space, anon, file, zero] {
                port.field(number)?;
            }
            Ok(())
        }
        Event::Unimplemented { pid, number, pc } => {
            port.field(pid)?;
            port.field(number)?;
            port.field(pc)
        }
        Event::Killed {
            pid,
            signal,
            pc,
            addr,
        } => {
            port.field(pid)?;
            port.field(signal)?;
            port.field(pc)?;
            port.field(addr)
        }
        Event::Descriptor {
            table,
            index,
            level,
            old,
            new,
        } => {
            entry(port, last, table, index, level)?;
            output(port, &mut last.descriptor, old)?;
            output(port, &mut last.descriptor, new)
        }
        Event::Barrier(barrier) => port.field(barrier),
        Event::Tlbi { op, operand } => {
            port.field(op)?;
            // Neighbouring pages of one address space differ in few low bits.
            let mut difference = *operand ^ last.operand;
            port.field(&mut difference)?;
            *operand = last.operand ^ difference;
            last.operand = *operand;
            Ok(())
        }
        Event::Ttbr0 { value } => table_base(port, last, value),
        Event::Frame { frame, freed } => {
            port.field(freed)?;
            port.delta(frame, last.frame)?;
            last.frame = *frame;
            Ok(())
        }
    }
}

/// A range by its start and its length.
fn range<P: Port>(port: &mut P, start: &mut u64, end: &mut u64) -> Result<(), Stop> {
    let mut length = end.wrapping_sub(*start);
    port.field(start)?;
    port.field(&mut length)?;
    *end = start.wrapping_add(length);
    Ok(())
}

/// A value of TTBR0: processes take turns, so it is likely one of the latest few.
fn table_base<P: Port>(port: &mut P, last: &mut Last, value: &mut u64) -> Result<(), Stop> {
    let known = last.ttbr0.len();
    let mut index = known as u8;
    if !P::READS
        && let Some(found) = last.ttbr0.iter().position(|known| known == value)
    {
        index = found as u8;
    }
    port.field(&mut index)?;
    if let Some(known) = last.ttbr0.get(usize::from(index)) {
        *value = *known;
        return Ok(());
    }
    if usize::from(index) != known {
        return Err(Stop::Unknown);
    }
    let mut asid = (*value >> 48) as u16;
    let mut base = *value & 0x0000_ffff_ffff_ffff;
    port.field(&mut asid)?;
    port.field(&mut base)?;
    *value = u64::from(asid) << 48 | base & 0x0000_ffff_ffff_ffff;
    last.ttbr0[usize::from(last.ttbr0_next)] = *value;
    last.ttbr0_next = (last.ttbr0_next + 1) % known as u8;
    Ok(())
}

/// The place of a descriptor: mostly the next one of the same table, or the same one again.
fn entry<P: Port>(
    port: &mut P,
    last: &mut Last,
    table: &mut u64,
    index: &mut u16,
    level: &mut u8,
) -> Result<(), Stop> {
    const STEP: u8 = 0b11;
    const ELSEWHERE: u8 = 2;
    const LEVEL: u8 = 1 << 2;
    const TABLE: u8 = 1 << 3;
    let mut flags = match index.wrapping_sub(last.index) {
        step @ 0..=1 => step as u8,
        _ => ELSEWHERE,
    };
    if *level != last.level {
        flags |= LEVEL;
    }
    if *table != last.table {
        flags |= TABLE;
    }
    port.field(&mut flags)?;
    match flags & STEP {
        ELSEWHERE => port.field(index)?,
        step @ 0..=1 => *index = last.index.wrapping_add(u16::from(step)),
        _ => return Err(Stop::Unknown),
    }
    if flags & LEVEL != 0 {
        port.field(level)?;
    } else {
        *level = last.level;
    }
    if flags & TABLE != 0 {
        port.delta(table, last.table)?;
    } else {
        *table = last.table;
    }
    (last.table, last.index, last.level) = (*table, *index, *level);
    Ok(())
}

/// A descriptor's value: 0 alone, any other against the last one that was not 0.
fn output<P: Port>(port: &mut P, last: &mut u64, value: &mut u64) -> Result<(), Stop> {
    const INVALID: u8 = 0;
    const FRAME: u8 = 1;
    const ATTRIBUTES: u8 = 2;
    const VALID: u8 = 4;
    let mut frame = frame_of(*value);
    let mut attributes = attributes_of(*value);
    let mut flags = INVALID;
    if *value != 0 {
        flags |= VALID;
        flags |= if frame == frame_of(*last) { 0 } else { FRAME };
        flags |= if attributes == attributes_of(*last) {
            0
        } else {
            ATTRIBUTES
        };
    }
    port.field(&mut flags)?;
    if flags == INVALID {
        *value = 0;
        return Ok(());
    }
    if flags & FRAME != 0 {
        port.delta(&mut frame, frame_of(*last))?;
    } else {
        frame = frame_of(*last);
    }
    if flags & ATTRIBUTES != 0 {
        port.field(&mut attributes)?;
    } else {
        attributes = attributes_of(*last);
    }
    *value = descriptor(frame, attributes);
    *last = *value;
    Ok(())
}

const BLANK_FAULT: Fault = Fault {
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

/// An event of a kind, to be filled in by reading.
fn blank(kind: u8) -> Option<Event> {
    const _: () = assert!(KINDS == 20, "a new kind needs a line here and in `event`");
    Some(match kind {
        0 => Event::SpaceNew {
            space: 0,
            root: 0,
            asid: 0,
        },
        1 => Event::SpaceEnd {
            space: 0,
            asid: 0,
            dropped: 0,
            freed: 0,
            tables: 0,
            cost: 0,
        },
        2 => Event::Spawn { pid: 0, space: 0 },
        3 => Event::Fork(Fork {
            mode: ForkMode::Classic,
            parent: 0,
            child: 0,
            parent_space: 0,
            child_space: 0,
            shared: 0,
            protected: 0,
            leaves: 0,
            copied: 0,
            tables: 0,
            tables_shared: 0,
            cost: 0,
            pc: 0,
        }),
        4 => Event::Exec {
            pid: 0,
            old_space: 0,
            space: 0,
            file: 0,
            cost: 0,
        },
        5 => Event::Exit {
            pid: 0,
            space: 0,
            status: 0,
        },
        6 => Event::Reap { pid: 0, by: 0 },
        7 => Event::Map(Map {
            space: 0,
            start: 0,
            end: 0,
            prot: 0,
            shared: false,
            backing: Backing::Anonymous,
            region: Region::Program,
        }),
        8 => Event::Unmap {
            space: 0,
            start: 0,
            end: 0,
            dropped: 0,
            freed: 0,
        },
        9 => Event::Protect {
            space: 0,
            start: 0,
            end: 0,
            prot: 0,
            tightened: 0,
        },
        KIND_FAULT => Event::Fault(BLANK_FAULT),
        11 => Event::Switch {
            from: 0,
            to: 0,
            space: 0,
            ttbr0: 0,
            tlbis: 0,
        },
        12 => Event::Resident {
            space: 0,
            anon: 0,
            file: 0,
            zero: 0,
        },
        13 => Event::Unimplemented {
            pid: 0,
            number: 0,
            pc: 0,
        },
        14 => Event::Killed {
            pid: 0,
            signal: 0,
            pc: 0,
            addr: 0,
        },
        15 => Event::Descriptor {
            table: 0,
            index: 0,
            level: 0,
            old: 0,
            new: 0,
        },
        16 => Event::Barrier(Barrier::Isb),
        17 => Event::Tlbi {
            op: TlbiOp::Vmalle1,
            operand: 0,
        },
        18 => Event::Ttbr0 { value: 0 },
        19 => Event::Frame {
            frame: 0,
            freed: false,
        },
        _ => return None,
    })
}
