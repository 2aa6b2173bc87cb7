//! `memory::Mmu` over the adversarial machine, which can leave out any one barrier or TLBI.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::Location;

use memory::{Barrier, Frame, Mmu, PAGE_BYTES, Tlbi};
use model::{Machine, Scope};

/// A call site of a barrier or TLBI in the crate, and what it executes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub file: &'static str,
    pub line: u32,
    pub what: String,
}

/// The machine behind the seam. Single-threaded: the simulated CPUs take turns.
pub struct Sim {
    pub machine: RefCell<Machine>,
    /// The call site whose operation is left out.
    pub omit: Option<Site>,
    /// How often each call site was executed.
    pub sites: RefCell<BTreeMap<Site, u64>>,
    /// How often the instruction cache was synchronised.
    pub syncs: Cell<u64>,
}

impl Sim {
    pub fn new(machine: Machine) -> Sim {
        Sim {
            machine: RefCell::new(machine),
            omit: None,
            sites: RefCell::default(),
            syncs: Cell::new(0),
        }
    }

    fn omitted(&self, location: &Location<'static>, what: String) -> bool {
        // A DSB of a mutated recipe would complete what another one left: sites are told apart by line.
        let site = Site {
            file: location.file(),
            line: location.line(),
            what,
        };
        let omitted = self.omit.as_ref() == Some(&site);
        *self.sites.borrow_mut().entry(site).or_default() += 1;
        omitted
    }
}

impl Mmu for Sim {
    fn read_descriptor(&self, table: Frame, index: usize) -> u64 {
        self.machine
            .borrow_mut()
            .read_descriptor(table.number(), index)
    }

    fn write_descriptor(&self, table: Frame, index: usize, level: u8, value: u64) {
        self.machine
            .borrow_mut()
            .write_descriptor(table.number(), index, level, value);
    }

    fn barrier(&self, barrier: Barrier) {
        if self.omitted(Location::caller(), format!("{barrier:?}")) {
            return;
        }
        self.machine.borrow_mut().barrier(match barrier {
            Barrier::DmbIshst => model::Barrier::DmbIshst,
            Barrier::DsbIshst => model::Barrier::DsbIshst,
            Barrier::DsbNshst => model::Barrier::DsbNshst,
            Barrier::DsbIsh => model::Barrier::DsbIsh,
            Barrier::DsbNsh => model::Barrier::DsbNsh,
            Barrier::Isb => model::Barrier::Isb,
        });
    }

    fn tlbi(&self, op: Tlbi) {
        let (name, scope, broadcast) = match op {
            Tlbi::Vale1 { va, asid } => (
                "VALE1",
                Scope::Leaf {
                    va,
                    asid: Some(asid),
                },
                false,
            ),
            Tlbi::Vae1 { va, asid } => (
                "VAE1",
                Scope::Page {
                    va,
                    asid: Some(asid),
                },
                false,
            ),
            Tlbi::Vale1Is { va, asid } => (
                "VALE1IS",
                Scope::Leaf {
                    va,
                    asid: Some(asid),
                },
                true,
            ),
            Tlbi::Vae1Is { va, asid } => (
                "VAE1IS",
                Scope::Page {
                    va,
                    asid: Some(asid),
                },
                true,
            ),
            Tlbi::Vaale1Is { va } => ("VAALE1IS", Scope::Leaf { va, asid: None }, true),
            Tlbi::Vaae1Is { va } => ("VAAE1IS", Scope::Page { va, asid: None }, true),
            Tlbi::Aside1Is { asid } => ("ASIDE1IS", Scope::Asid(asid), true),
            Tlbi::Vmalle1 => ("VMALLE1", Scope::All, false),
            Tlbi::Vmalle1Is => ("VMALLE1IS", Scope::All, true),
        };
        if !self.omitted(Location::caller(), format!("TLBI {name}")) {
            self.machine
                .borrow_mut()
                .tlbi(model::Tlbi { scope, broadcast });
        }
    }

    fn zero_frame(&self, frame: Frame) {
        self.machine.borrow_mut().zero_frame(frame.number());
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        self.machine
            .borrow_mut()
            .copy_frame(from.number(), to.number());
    }

    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.machine.borrow_mut().with_frame(frame.number(), f);
    }

    fn sync_icache(&self, frame: Frame) {
        self.syncs.set(self.syncs.get() + 1);
        self.machine.borrow_mut().sync_icache(frame.number());
    }

    fn frame_event(&self, frame: Frame, freed: bool) {
        self.machine.borrow_mut().frame_event(frame.number(), freed);
    }
}
