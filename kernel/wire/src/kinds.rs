//! Every event but a fault: rare ones in full, those of the scheduler and of `trace=mmu` against
//! the last of their kind.

use crate::codec::{Port, Stop};
use crate::descriptor::{attributes_of, descriptor, frame_of};
use crate::event::{
    Backing, Barrier, Contents, Event, Fork, ForkMode, KINDS, Map, Refused, Region, Stack, TlbiOp,
};
use crate::faults::{BLANK_FAULT, KIND_FAULT};

/// What the last scheduler and `trace=mmu` events said.
#[derive(Clone, Copy)]
pub(crate) struct Last {
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
    pub(crate) const NEW: Last = Last {
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

/// An event after its tag, its time and its thread.
pub(crate) fn code<P: Port>(port: &mut P, last: &mut Last, event: &mut Event) -> Result<(), Stop> {
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
        // Coded by `Faults::code`, which has the slots.
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
        Event::AsidNew {
            space,
            asid,
            generation,
        } => {
            port.field(space)?;
            port.field(asid)?;
            port.field(generation)
        }
        Event::Contents { frame, what } => {
            port.field(what)?;
            port.delta(frame, last.frame)?;
            last.frame = *frame;
            Ok(())
        }
        Event::KernelPage { va, old, new } => {
            port.field(va)?;
            output(port, &mut last.descriptor, old)?;
            output(port, &mut last.descriptor, new)
        }
        Event::TablesShared {
            parent_space,
            child_space,
            start,
            end,
        } => {
            port.field(parent_space)?;
            port.field(child_space)?;
            range(port, start, end)
        }
        Event::TableOwned {
            space,
            start,
            copied,
        } => {
            port.field(space)?;
            port.field(start)?;
            port.field(copied)
        }
        Event::Discard {
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
        Event::Move {
            space,
            start,
            end,
            to,
        } => {
            port.field(space)?;
            range(port, start, end)?;
            port.field(to)
        }
        Event::ThreadStart { pid, tid, by } => {
            port.field(pid)?;
            port.field(tid)?;
            port.field(by)
        }
        Event::ThreadExit { pid, tid } => {
            port.field(pid)?;
            port.field(tid)
        }
        Event::Amplification {
            frame,
            freed,
            kept,
            bytes,
            lines,
        } => {
            port.field(freed)?;
            port.field(kept)?;
            port.field(bytes)?;
            port.field(lines)?;
            port.delta(frame, last.frame)?;
            last.frame = *frame;
            Ok(())
        }
        Event::Refused(refused) => port.field(refused),
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
/// An event of a kind, to be filled in by reading.
pub(crate) fn blank(kind: u8) -> Option<Event> {
    const _: () = assert!(KINDS == 31, "a new kind needs a line here and in `event`");
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
            stack: Stack::default(),
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
        20 => Event::AsidNew {
            space: 0,
            asid: 0,
            generation: 0,
        },
        21 => Event::Contents {
            frame: 0,
            what: Contents::Stored,
        },
        22 => Event::KernelPage {
            va: 0,
            old: 0,
            new: 0,
        },
        23 => Event::TablesShared {
            parent_space: 0,
            child_space: 0,
            start: 0,
            end: 0,
        },
        24 => Event::TableOwned {
            space: 0,
            start: 0,
            copied: false,
        },
        25 => Event::Discard {
            space: 0,
            start: 0,
            end: 0,
            dropped: 0,
            freed: 0,
        },
        26 => Event::Move {
            space: 0,
            start: 0,
            end: 0,
            to: 0,
        },
        27 => Event::ThreadStart {
            pid: 0,
            tid: 0,
            by: 0,
        },
        28 => Event::ThreadExit { pid: 0, tid: 0 },
        29 => Event::Amplification {
            frame: 0,
            freed: false,
            kept: false,
            bytes: 0,
            lines: 0,
        },
        30 => Event::Refused(Refused {
            pid: 0,
            number: 0,
            pages: 0,
            left: 0,
            pc: 0,
            stack: Stack::default(),
        }),
        _ => return None,
    })
}
