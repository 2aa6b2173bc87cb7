//! `memory::Mmu` over the adversarial machine, which can leave out any one barrier or TLBI.

use std::cell::RefCell;
use std::collections::BTreeMap;

pub use memory::mutate::Site;
use memory::mutate::{is_left_out, leave_out};
use memory::{Barrier, Frame, Mmu, PAGE_BYTES, Tlbi};
use model::{Machine, Scope};

/// Does something while a place of the crate leaves out what it should execute.
pub fn leaving_out<T>(site: Option<Site>, f: impl FnOnce() -> T) -> T {
    let before = leave_out(site);
    let result = f();
    leave_out(before);
    result
}

type Meanwhile = dyn FnOnce(&RefCell<Machine>);
type AtCopies = dyn FnMut(&mut Machine);

/// The machine behind the seam. Single-threaded: the simulated CPUs take turns.
pub struct Sim {
    pub machine: RefCell<Machine>,
    /// How often each barrier and TLBI was executed, by name.
    pub executed: RefCell<BTreeMap<&'static str, u64>>,
    /// What another CPU does before the next barrier.
    pub meanwhile: RefCell<Option<Box<Meanwhile>>>,
    /// What another CPU does before each frame is copied.
    pub at_copies: RefCell<Option<Box<AtCopies>>>,
}

impl Sim {
    pub fn new(machine: Machine) -> Sim {
        Sim {
            machine: RefCell::new(machine),
            executed: RefCell::default(),
            meanwhile: RefCell::default(),
            at_copies: RefCell::default(),
        }
    }

    #[track_caller]
    fn executes(&self, what: &'static str) -> bool {
        *self.executed.borrow_mut().entry(what).or_default() += 1;
        !is_left_out(what, true)
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
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile(&self.machine);
        }
        let (name, barrier) = match barrier {
            Barrier::DmbIshst => ("DMB ISHST", model::Barrier::DmbIshst),
            Barrier::DsbIshst => ("DSB ISHST", model::Barrier::DsbIshst),
            Barrier::DsbNshst => ("DSB NSHST", model::Barrier::DsbNshst),
            Barrier::DsbIsh => ("DSB ISH", model::Barrier::DsbIsh),
            Barrier::DsbNsh => ("DSB NSH", model::Barrier::DsbNsh),
            Barrier::Isb => ("ISB", model::Barrier::Isb),
        };
        if self.executes(name) {
            self.machine.borrow_mut().barrier(barrier);
        }
    }

    fn tlbi(&self, op: Tlbi) {
        let (name, scope, broadcast) = match op {
            Tlbi::Vale1 { va, asid } => (
                "TLBI VALE1",
                Scope::Leaf {
                    va,
                    asid: Some(asid),
                },
                false,
            ),
            Tlbi::Vae1 { va, asid } => (
                "TLBI VAE1",
                Scope::Page {
                    va,
                    asid: Some(asid),
                },
                false,
            ),
            Tlbi::Vale1Is { va, asid } => (
                "TLBI VALE1IS",
                Scope::Leaf {
                    va,
                    asid: Some(asid),
                },
                true,
            ),
            Tlbi::Vae1Is { va, asid } => (
                "TLBI VAE1IS",
                Scope::Page {
                    va,
                    asid: Some(asid),
                },
                true,
            ),
            Tlbi::Vaale1Is { va } => ("TLBI VAALE1IS", Scope::Leaf { va, asid: None }, true),
            Tlbi::Vaae1Is { va } => ("TLBI VAAE1IS", Scope::Page { va, asid: None }, true),
            Tlbi::Aside1Is { asid } => ("TLBI ASIDE1IS", Scope::Asid(asid), true),
            Tlbi::Vmalle1 => ("TLBI VMALLE1", Scope::All, false),
            Tlbi::Vmalle1Is => ("TLBI VMALLE1IS", Scope::All, true),
        };
        if self.executes(name) {
            self.machine
                .borrow_mut()
                .tlbi(model::Tlbi { scope, broadcast });
        }
    }

    fn cpu(&self) -> usize {
        self.machine.borrow().cpu()
    }

    fn zero_frame(&self, frame: Frame) {
        if self.executes("zeros") {
            self.machine.borrow_mut().zero_frame(frame.number());
        }
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        if let Some(at_copies) = self.at_copies.borrow_mut().as_mut() {
            at_copies(&mut self.machine.borrow_mut());
        }
        if self.executes("copy") {
            let mut machine = self.machine.borrow_mut();
            machine.copy_frame(from.number(), to.number());
        }
    }

    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.machine.borrow_mut().with_frame(frame.number(), f);
    }

    fn sync_icache(&self, frame: Frame) {
        if self.executes("IC IVAU") {
            self.machine.borrow_mut().sync_icache(frame.number());
        }
    }

    fn frame_event(&self, frame: Frame, freed: bool) {
        self.machine.borrow_mut().frame_event(frame.number(), freed);
    }
}
