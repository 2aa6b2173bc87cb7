//! A simple machine: RAM, and a TLB per CPU that invalidations reach at once.

use crate::descriptor::{Leaf, Table};
use crate::sync::{self, Bug, planted};
use crate::{Barrier, Frame, Mmu, PAGE_BYTES, Root, Tlbi};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};

pub const FIRST: u64 = 0x40000;

/// The translations a CPU has cached, by ASID and page: the frame, and whether it may be written.
type Tlb = HashMap<(u16, u64), (Frame, bool)>;

struct State {
    ram: Vec<[u64; 512]>,
    tlbs: Vec<Tlb>,
    ttbr0: Vec<Option<u64>>,
    allocated: BTreeSet<Frame>,
}

pub struct Machine {
    /// Never locked where another CPU may go on.
    state: Mutex<State>,
    /// Looked at where another CPU may go on.
    bus: shuttle::sync::atomic::AtomicU32,
}

fn index(frame: Frame) -> usize {
    (frame.number() - FIRST) as usize
}

impl Machine {
    pub fn new(cpus: usize, frames: usize) -> Machine {
        Machine {
            state: Mutex::new(State {
                ram: vec![[0; 512]; frames],
                tlbs: vec![Tlb::new(); cpus],
                ttbr0: vec![None; cpus],
                allocated: BTreeSet::new(),
            }),
            bus: shuttle::sync::atomic::AtomicU32::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no CPU has panicked")
    }

    /// Another CPU may go on here.
    fn step(&self) {
        self.bus.load(Ordering::SeqCst);
    }

    /// Writes TTBR0 of this CPU; `None`: it runs no program any more.
    pub fn switch(&self, root: Option<Root>) {
        let ttbr0 = root.map(Root::ttbr0);
        self.step();
        let mut state = self.state();
        let cpu = sync::cpu();
        for (other, running) in state.ttbr0.iter().enumerate() {
            if other != cpu
                && let (Some(a), Some(b)) = (ttbr0, *running)
            {
                assert!(
                    a == b || a >> 48 != b >> 48,
                    "two address spaces run with ASID {}",
                    a >> 48
                );
            }
        }
        state.ttbr0[cpu] = ttbr0;
    }

    /// A program's access to a word of a page, in the address space that this CPU runs: a store if
    /// there is a value. `None`: it faults.
    pub fn access(&self, va: u64, word: usize, value: Option<u64>) -> Option<u64> {
        self.step();
        let mut state = self.state();
        let cpu = sync::cpu();
        let ttbr0 = state.ttbr0[cpu].expect("the CPU runs a program");
        let (root, asid) = (
            Frame::containing(ttbr0 & 0xffff_ffff_f000),
            (ttbr0 >> 48) as u16,
        );
        let cached = state.tlbs[cpu].get(&(asid, va)).copied();
        let (frame, writable) = match cached {
            Some(entry) => entry,
            None => {
                let entry = state.walk(root, va)?;
                state.tlbs[cpu].insert((asid, va), entry);
                entry
            }
        };
        if value.is_some() && !writable {
            return None;
        }
        let word = &mut state.ram[index(frame)][word];
        if let Some(value) = value {
            *word = value;
        }
        Some(*word)
    }
}

impl State {
    fn walk(&self, root: Frame, va: u64) -> Option<(Frame, bool)> {
        let entry = |table: Frame, level: u32| {
            self.ram[index(table)][(va >> (39 - 9 * level)) as usize & 511]
        };
        let l2 = Table::from_bits(entry(root, 1))?.frame();
        let l3 = Table::from_bits(entry(l2, 2))?;
        let leaf = Leaf::from_bits(entry(l3.frame(), 3)).filter(|leaf| leaf.accessible())?;
        Some((leaf.frame(), leaf.writable() && !l3.is_shared()))
    }
}

impl Mmu for Machine {
    fn read_descriptor(&self, table: Frame, at: usize) -> u64 {
        let value = self.state().ram[index(table)][at];
        if value == 0 {
            // Most entries: it would only cost time to stop at each.
            return 0;
        }
        self.step();
        self.state().ram[index(table)][at]
    }

    fn write_descriptor(&self, table: Frame, at: usize, _: u8, value: u64) {
        self.step();
        let mut state = self.state();
        assert!(
            state.allocated.contains(&table),
            "a descriptor is written in a table that was freed"
        );
        state.ram[index(table)][at] = value;
    }

    fn barrier(&self, _: Barrier) {}

    fn tlbi(&self, op: Tlbi) {
        self.step();
        let mut state = self.state();
        let hit = |asid: u16, page: u64| match op {
            Tlbi::Vale1 { va, asid: of }
            | Tlbi::Vae1 { va, asid: of }
            | Tlbi::Vale1Is { va, asid: of }
            | Tlbi::Vae1Is { va, asid: of } => (of, va) == (asid, page),
            Tlbi::Vaale1Is { va } | Tlbi::Vaae1Is { va } => va == page,
            Tlbi::Aside1Is { asid: of } => of == asid,
            Tlbi::Vmalle1 => !planted(Bug::StuckTlb),
            Tlbi::Vmalle1Is => true,
        };
        let local = matches!(op, Tlbi::Vale1 { .. } | Tlbi::Vae1 { .. } | Tlbi::Vmalle1)
            || planted(Bug::DeafCpus);
        for (cpu, tlb) in state.tlbs.iter_mut().enumerate() {
            if !local || cpu == sync::cpu() {
                tlb.retain(|&(asid, page), _| !hit(asid, page));
            }
        }
    }

    fn zero_frame(&self, frame: Frame) {
        self.step();
        self.state().ram[index(frame)].fill(0);
    }

    /// In two halves: whoever writes the source meanwhile is noticed.
    fn copy_frame(&self, from: Frame, to: Frame) {
        for half in [0..256, 256..512] {
            self.step();
            let mut state = self.state();
            let part: Vec<u64> = state.ram[index(from)][half.clone()].to_vec();
            state.ram[index(to)][half].copy_from_slice(&part);
        }
    }

    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        self.step();
        let mut bytes = [0; PAGE_BYTES];
        for (to, word) in bytes
            .chunks_exact_mut(8)
            .zip(self.state().ram[index(frame)])
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        f(&mut bytes);
        let words = bytes.chunks_exact(8);
        for (word, from) in self.state().ram[index(frame)].iter_mut().zip(words) {
            *word = u64::from_le_bytes(from.try_into().expect("eight bytes"));
        }
    }

    fn sync_icache(&self, _: Frame) {}

    fn cpu(&self) -> usize {
        sync::cpu()
    }

    fn frame_event(&self, frame: Frame, freed: bool) {
        self.step();
        let mut state = self.state();
        if freed {
            assert!(state.allocated.remove(&frame), "{frame:?} is freed twice");
        } else {
            assert!(state.allocated.insert(frame), "{frame:?} is taken twice");
        }
    }
}
