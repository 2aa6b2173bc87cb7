//! From the trace to the checker: its words.

use std::collections::VecDeque;

use model::checker::{At, Checker, Contents, Event, Operation};
use model::{Scope, Tlbi};
use wire::event::{self, Outcome, Record, TlbiOp};
use wire::{Body, Item};

use crate::analysis::descriptor::Descriptor;
use crate::analysis::stream::{Observer, State};

/// Events shown with a violation.
const CONTEXT: usize = 12;
/// Events remembered, to choose those from.
const REMEMBERED: usize = 64 * CONTEXT;

/// Feeds a checker, and keeps what led to each violation that it keeps.
pub struct Feed {
    /// The checker.
    pub checker: Checker,
    /// For each of its violations, the events of that CPU up to it.
    pub contexts: Vec<Vec<(At, Event)>>,
    /// Events of any kind.
    pub events: u64,
    /// Events that came after later ones.
    pub late: u64,
    latest: u64,
    recent: VecDeque<(At, Event)>,
    /// The next frame's number.
    expected: Option<u32>,
    /// Events that all CPUs have dropped so far.
    dropped: u64,
    /// The same by CPU, as of their last snapshots.
    dropped_by_cpu: Vec<u64>,
    unreadable: u64,
    /// The batch that is being read may have had its loss anywhere.
    lossy_batch: bool,
}

impl Feed {
    /// `limit`: violations kept in full.
    pub fn new(limit: usize) -> Feed {
        Feed {
            checker: Checker::new(limit),
            contexts: Vec::new(),
            events: 0,
            late: 0,
            latest: 0,
            recent: VecDeque::new(),
            expected: None,
            dropped: 0,
            dropped_by_cpu: Vec::new(),
            unreadable: 0,
            lossy_batch: false,
        }
    }

    fn lost(&mut self) {
        self.checker.lost();
        self.recent.clear();
    }

    fn check(&mut self, at: At, event: Event) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((at, event));
        self.checker.event(at, event);
        while self.contexts.len() < self.checker.violations().len() {
            let here = self.recent.iter().filter(|(other, _)| other.cpu == at.cpu);
            let mut context: Vec<_> = here.rev().take(CONTEXT).copied().collect();
            context.reverse();
            self.contexts.push(context);
        }
    }

    /// All CPUs have dropped at least so many events.
    fn drops(&mut self, dropped: u64) {
        if dropped > self.dropped {
            self.dropped = dropped;
            self.lost();
            // A batch says how many there are, not where.
            self.lossy_batch = true;
        }
    }
}

impl Observer for Feed {
    fn item(&mut self, item: &Item<'_>, state: &State) {
        if std::mem::take(&mut self.lossy_batch) || state.losses.unreadable_events > self.unreadable
        {
            self.unreadable = state.losses.unreadable_events;
            self.lost();
        }
        let Item::Frame(envelope) = item else {
            // What it held is missed by its number.
            return;
        };
        let first = self.expected.is_none() && state.losses.late_start;
        if first || self.expected.is_some_and(|next| next != envelope.seq) {
            self.lost();
        }
        self.expected = Some(envelope.seq.wrapping_add(1));
        match &envelope.body {
            Body::Batch(batch) => self.drops(batch.dropped),
            Body::Snapshot(snapshot) => {
                let cpu = usize::from(envelope.cpu);
                if self.dropped_by_cpu.len() <= cpu {
                    self.dropped_by_cpu.resize(cpu + 1, 0);
                }
                self.dropped_by_cpu[cpu] = snapshot.dropped.iter().sum();
                self.drops(self.dropped_by_cpu.iter().sum());
            }
            _ => {}
        }
    }

    fn before(&mut self, _: &State, cpu: u8, record: &Record) {
        self.events += 1;
        self.late += u64::from(record.time < self.latest);
        self.latest = self.latest.max(record.time);
        let (first, second) = translate(&record.event);
        let at = At {
            position: self.events,
            time: record.time,
            cpu,
        };
        for event in [first, second].into_iter().flatten() {
            self.check(at, event);
        }
    }

    fn restart(&mut self) {
        self.lost();
        self.latest = 0;
        self.dropped = 0;
        self.dropped_by_cpu.clear();
        self.expected = None;
    }
}

/// What the checker is to know of an event.
fn translate(event: &event::Event) -> (Option<Event>, Option<Event>) {
    use event::Event as E;
    let done = |operation| Some(Event::Done(operation));
    let event = match *event {
        E::Descriptor {
            table,
            index,
            level,
            old,
            new,
        } => Event::Descriptor {
            table,
            index,
            level,
            old,
            new,
        },
        E::Barrier(barrier) => Event::Barrier(match barrier {
            event::Barrier::DmbIshst => model::Barrier::DmbIshst,
            event::Barrier::DsbIshst => model::Barrier::DsbIshst,
            event::Barrier::DsbNshst => model::Barrier::DsbNshst,
            event::Barrier::DsbIsh => model::Barrier::DsbIsh,
            event::Barrier::DsbNsh => model::Barrier::DsbNsh,
            event::Barrier::Isb => model::Barrier::Isb,
        }),
        E::Tlbi { op, operand } => Event::Tlbi(tlbi(op, operand)),
        E::Ttbr0 { value } => Event::Ttbr0(value),
        E::Frame { frame, freed } => Event::Frame { frame, freed },
        E::Contents { frame, what } => Event::Contents {
            frame,
            what: match what {
                event::Contents::Stored => Contents::Stored,
                event::Contents::Lent => Contents::Lent,
                event::Contents::Fetchable => Contents::Fetchable,
            },
        },
        E::KernelPage { va, old, new } => Event::KernelPage { va, old, new },
        E::SpaceNew { space, root, asid } => Event::SpaceNew { space, root, asid },
        E::SpaceEnd { space, .. } => Event::SpaceEnd { space },
        E::Fault(ref fault) => {
            let old = Descriptor(fault.old);
            let counted = (old.valid() && fault.refs_after > 0).then_some(Event::References {
                frame: old.frame(),
                count: fault.refs_after,
            });
            let fault = Operation::Fault {
                va: fault.addr,
                spurious: fault.outcome == Outcome::Spurious,
            };
            return (counted, done(fault));
        }
        E::Fork(_) => return (None, done(Operation::Fork)),
        E::Map(_) => return (None, done(Operation::Map)),
        E::Unmap { .. } => return (None, done(Operation::Unmap)),
        E::Discard { .. } => return (None, done(Operation::Discard)),
        E::Move { .. } => return (None, done(Operation::Move)),
        E::Protect { .. } => return (None, done(Operation::Protect)),
        E::Exec { .. } => return (None, done(Operation::Exec)),
        E::Switch { .. } => return (None, done(Operation::Switch)),
        // TTBR0 says so as well.
        E::AsidNew { .. }
        | E::TablesShared { .. }
        | E::TableOwned { .. }
        | E::Spawn { .. }
        | E::Exit { .. }
        | E::Reap { .. }
        | E::Resident { .. }
        | E::Unimplemented { .. }
        | E::Killed { .. } => return (None, None),
    };
    (Some(event), None)
}

/// A TLBI by its name and its operand: VA[55:12] in bits 43:0, the ASID in 63:48.
fn tlbi(op: TlbiOp, operand: u64) -> Tlbi {
    // Addresses of the upper half have all bits set from 55 on.
    let page = operand & ((1 << 44) - 1);
    let va = ((page << 20) as i64 >> 8) as u64;
    let asid = (operand >> 48) as u16;
    let (scope, broadcast) = match op {
        TlbiOp::Vale1 => (
            Scope::Leaf {
                va,
                asid: Some(asid),
            },
            false,
        ),
        TlbiOp::Vale1Is => (
            Scope::Leaf {
                va,
                asid: Some(asid),
            },
            true,
        ),
        TlbiOp::Vae1 => (
            Scope::Page {
                va,
                asid: Some(asid),
            },
            false,
        ),
        TlbiOp::Vae1Is => (
            Scope::Page {
                va,
                asid: Some(asid),
            },
            true,
        ),
        TlbiOp::Vaale1Is => (Scope::Leaf { va, asid: None }, true),
        TlbiOp::Vaae1Is => (Scope::Page { va, asid: None }, true),
        TlbiOp::Aside1Is => (Scope::Asid(asid), true),
        TlbiOp::Vmalle1 => (Scope::All, false),
        TlbiOp::Vmalle1Is => (Scope::All, true),
    };
    Tlbi { scope, broadcast }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands() {
        let va = 0x55_5555_5000;
        let operand = va >> 12 | 7 << 48;
        let Scope::Leaf { va: got, asid } = tlbi(TlbiOp::Vale1Is, operand).scope else {
            panic!("not by leaf")
        };
        assert_eq!((got, asid), (va, Some(7)));
        let va = 0xffff_ffff_c000_5000u64;
        let operand = va >> 12 & ((1 << 44) - 1);
        let Scope::Page { va: got, asid } = tlbi(TlbiOp::Vaae1Is, operand).scope else {
            panic!("not by page")
        };
        assert_eq!((got, asid), (va, None));
    }
}
