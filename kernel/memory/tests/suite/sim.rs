//! `memory::Mmu` over the adversarial machine, which can leave out any one barrier or TLBI. All that
//! is done is told to the checker of the rules as well, so that each of the two tests the other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

pub use memory::mutate::Site;
use memory::mutate::{is_left_out, leave_out};
use memory::{AddressSpace, Barrier, Frame, Mmu, PAGE_BYTES, Tlbi};
use model::checker::{At, Checker, Contents, Event, Operation};
use model::{Machine, Scope};

thread_local! {
    static DEAF: Cell<bool> = const { Cell::new(false) };
}

/// Whether, in this thread, nobody listens to the checker.
pub fn deaf() -> bool {
    DEAF.get()
}

/// Listens to the checker, in this thread, or not.
pub fn set_deaf(deaf: bool) {
    DEAF.set(deaf);
}

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
    pub checker: RefCell<Checker>,
    /// Events that the checker was told.
    events: Cell<u64>,
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
            checker: RefCell::new(Checker::new(1)),
            events: Cell::new(0),
            executed: RefCell::default(),
            meanwhile: RefCell::default(),
            at_copies: RefCell::default(),
        }
    }

    fn tell(&self, event: Event) {
        let position = self.events.get() + 1;
        self.events.set(position);
        let cpu = self.machine.borrow().cpu() as u8;
        let at = At {
            position,
            time: position,
            cpu,
        };
        self.checker.borrow_mut().event(at, event);
    }

    /// What the checker has found.
    pub fn told(&self) -> Option<String> {
        let checker = self.checker.borrow();
        let first = checker.violations().first()?;
        Some(format!("the checker says {first}"))
    }

    /// An operation is over, and its caller counts on it.
    pub fn done(&self, operation: Operation) {
        self.tell(Event::Done(operation));
    }

    /// An address space came to life.
    pub fn born(&self, space: &AddressSpace) {
        let root = space.root();
        self.tell(Event::SpaceNew {
            space: space.serial(),
            root: root.frame().number(),
            asid: root.asid(),
        });
    }

    /// Switches the current CPU to an address space, or to none.
    pub fn activate(&self, ttbr0: Option<u64>) {
        self.machine.borrow_mut().activate(ttbr0);
        self.tell(Event::Barrier(model::Barrier::DsbIsh));
        self.tell(Event::Ttbr0(ttbr0.unwrap_or(0)));
        self.tell(Event::Barrier(model::Barrier::Isb));
    }

    fn contents(&self, frame: Frame, what: Contents) {
        let frame = frame.number();
        self.tell(Event::Contents { frame, what });
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
        let old = self.machine.borrow().descriptor(table.number(), index);
        self.tell(Event::Descriptor {
            table: table.number(),
            index: index as u16,
            level,
            old,
            new: value,
        });
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
            self.tell(Event::Barrier(barrier));
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
            let op = model::Tlbi { scope, broadcast };
            self.machine.borrow_mut().tlbi(op);
            self.tell(Event::Tlbi(op));
        }
    }

    fn cpu(&self) -> usize {
        self.machine.borrow().cpu()
    }

    fn zero_frame(&self, frame: Frame) {
        if self.executes("zeros") {
            self.machine.borrow_mut().zero_frame(frame.number());
            self.contents(frame, Contents::Stored);
        }
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        if let Some(at_copies) = self.at_copies.borrow_mut().as_mut() {
            at_copies(&mut self.machine.borrow_mut());
        }
        if self.executes("copy") {
            let mut machine = self.machine.borrow_mut();
            machine.copy_frame(from.number(), to.number());
            drop(machine);
            self.contents(to, Contents::Stored);
        }
    }

    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.machine.borrow_mut().with_frame(frame.number(), f);
        self.contents(frame, Contents::Lent);
    }

    fn sync_icache(&self, frame: Frame) {
        if self.executes("IC IVAU") {
            self.machine.borrow_mut().sync_icache(frame.number());
            self.contents(frame, Contents::Fetchable);
        }
    }

    fn frame_event(&self, frame: Frame, freed: bool) {
        let frame = frame.number();
        self.tell(Event::Frame { frame, freed });
        self.machine.borrow_mut().frame_event(frame, freed);
    }
}
