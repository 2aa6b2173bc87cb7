//! What the loader knows of the machine, for whoever has to find out why something differs.

use crate::port::{Physical, ask};
use crate::register;
use boards::pi::Registers;
use boards::pi::mailbox::Message;
use boards::{Board, Serial};

type Fact = (&'static str, u64);

const MOST: usize = 48;

/// Names and values, as they were at the start.
pub struct Facts {
    facts: [Fact; MOST],
    len: usize,
}

impl Facts {
    /// Looks at everything, before anything is changed.
    pub fn look(board: &Board, handed: u64, loaded_at: u64) -> Self {
        let mut all = Self {
            facts: [("", 0); MOST],
            len: 0,
        };
        all.add("x0 at entry", handed);
        all.add("loaded at", loaded_at);
        all.core();
        all.level();
        all.uart(board);
        all.firmware(board);
        all
    }

    /// One of them.
    pub fn get(&self, index: u8) -> Option<Fact> {
        self.facts[..self.len].get(usize::from(index)).copied()
    }

    fn add(&mut self, name: &'static str, value: u64) {
        if let Some(place) = self.facts.get_mut(self.len) {
            *place = (name, value);
            self.len += 1;
        }
    }

    fn core(&mut self) {
        self.add("CurrentEL", register!("CurrentEL"));
        self.add("MIDR_EL1", register!("midr_el1"));
        self.add("MPIDR_EL1", register!("mpidr_el1"));
        self.add("REVIDR_EL1", register!("revidr_el1"));
        self.add("ID_AA64PFR0_EL1", register!("id_aa64pfr0_el1"));
        self.add("ID_AA64ISAR0_EL1", register!("id_aa64isar0_el1"));
        self.add("ID_AA64MMFR0_EL1", register!("id_aa64mmfr0_el1"));
        self.add("ID_AA64MMFR1_EL1", register!("id_aa64mmfr1_el1"));
        self.add("ID_AA64MMFR2_EL1", register!("id_aa64mmfr2_el1"));
        self.add("ID_AA64DFR0_EL1", register!("id_aa64dfr0_el1"));
        self.add("CTR_EL0", register!("ctr_el0"));
        self.add("CLIDR_EL1", register!("clidr_el1"));
        self.add("DCZID_EL0", register!("dczid_el0"));
        self.add("CNTFRQ_EL0", register!("cntfrq_el0"));
        self.add("CNTPCT_EL0", register!("cntpct_el0"));
        self.add("SCTLR_EL1", register!("sctlr_el1"));
    }

    fn level(&mut self) {
        if crate::machine::level() != 2 {
            return;
        }
        self.add("SCTLR_EL2", register!("sctlr_el2"));
        self.add("HCR_EL2", register!("hcr_el2"));
        self.add("CPTR_EL2", register!("cptr_el2"));
        self.add("CNTHCTL_EL2", register!("cnthctl_el2"));
        self.add("CNTVOFF_EL2", register!("cntvoff_el2"));
        self.add("MDCR_EL2", register!("mdcr_el2"));
        // CPUECTLR_EL1, which has SMPEN, of the two cores whose head touches it.
        if matches!(register!("midr_el1") >> 4 & 0xfff, 0xd03 | 0xd08) {
            self.add("CPUECTLR_EL1", register!("S3_1_C15_C2_1"));
        }
    }

    fn uart(&mut self, board: &Board) {
        let Serial::Pl011(at) = board.wire else {
            return;
        };
        let uart = Physical(at);
        self.add("PL011 at", at);
        self.add("PL011 IBRD", uart.read(0x24).into());
        self.add("PL011 FBRD", uart.read(0x28).into());
        self.add("PL011 LCR_H", uart.read(0x2c).into());
        self.add("PL011 CR", uart.read(0x30).into());
        if let Some(at) = board.gpio {
            self.add("GPFSEL1", Physical(at).read(4).into());
            self.add("GPFSEL3", Physical(at).read(12).into());
        }
    }

    fn firmware(&mut self, board: &Board) {
        for (name, message) in [
            ("firmware's version", Message::firmware()),
            ("board's revision", Message::revision()),
        ] {
            if let Some([value]) = ask(board, message).and_then(|m| m.answer()) {
                self.add(name, value.into());
            }
        }
        for (name, message) in [
            ("UART's clock, Hz", Message::uart_clock()),
            ("core's clock, Hz", Message::cpu_clock()),
            ("RAM by the firmware", Message::memory()),
        ] {
            if let Some([_, value]) = ask(board, message).and_then(|m| m.answer()) {
                self.add(name, value.into());
            }
        }
    }
}
