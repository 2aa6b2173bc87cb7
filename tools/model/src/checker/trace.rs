//! From the events of a trace to those of the checker. Feature `wire`.

use wire::event::{self, Outcome, TlbiOp};

use super::bits;
use super::event::{Contents, Event, Operation};
use crate::{Barrier, Scope, Tlbi};

/// Tells what the checker is to know of an event of a trace: nothing, an event, or two.
pub fn of_trace(event: &event::Event, mut tell: impl FnMut(Event)) {
    use event::Event as E;
    let done = Event::Done;
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
            event::Barrier::DmbIshst => Barrier::DmbIshst,
            event::Barrier::DsbIshst => Barrier::DsbIshst,
            event::Barrier::DsbNshst => Barrier::DsbNshst,
            event::Barrier::DsbIsh => Barrier::DsbIsh,
            event::Barrier::DsbNsh => Barrier::DsbNsh,
            event::Barrier::Isb => Barrier::Isb,
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
            if bits::valid(fault.old) && fault.refs_after > 0 {
                tell(Event::References {
                    frame: bits::frame(fault.old),
                    count: fault.refs_after,
                });
            }
            done(Operation::Fault {
                va: fault.addr,
                spurious: fault.outcome == Outcome::Spurious,
            })
        }
        E::Fork(_) => done(Operation::Fork),
        E::Map(_) => done(Operation::Map),
        E::Unmap { .. } => done(Operation::Unmap),
        E::Discard { .. } => done(Operation::Discard),
        E::Move { .. } => done(Operation::Move),
        E::Protect { .. } => done(Operation::Protect),
        E::Exec { .. } => done(Operation::Exec),
        E::Switch { .. } => done(Operation::Switch),
        // TTBR0 says so as well.
        E::AsidNew { .. }
        | E::TablesShared { .. }
        | E::TableOwned { .. }
        | E::Spawn { .. }
        | E::Exit { .. }
        | E::Reap { .. }
        | E::Resident { .. }
        | E::Unimplemented { .. }
        | E::Killed { .. }
        | E::Refused(_)
        | E::ThreadStart { .. }
        | E::ThreadExit { .. }
        | E::Amplification { .. } => return,
    };
    tell(event);
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
