//! The machine: RAM, CPUs, what the kernel does to them, and the rules it must keep.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::cpu::{Context, Cpu, Leaf, Pending, Store, Table, What, bits, matches_leaf, prefix};
use crate::{Barrier, PAGE, Rng, Scope, Tlbi};

/// The rules, by their numbers in `translation-and-cow.md` 3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// E1: a valid descriptor was changed in a way that needs break-before-make.
    BreakBeforeMake,
    /// E2: a descriptor was made valid while another translation from the same place was cached.
    Unclean,
    /// E3: rights were relied on to be gone while some TLB still granted them.
    Stale,
    /// E4: a frame was freed while some TLB still mapped it, or used after it was freed.
    FreedFrame,
    /// E5: a table was freed while some walk cache still led to it.
    FreedTable,
    /// E7: an ASID was used for a second root while entries of the first one were cached, or a
    /// user leaf was global.
    Asid,
    /// E11: a frame could be reached before its contents were visible.
    DataBeforeDescriptor,
    /// E12: instructions were fetched from a frame whose contents the caches may not have.
    Icache,
    /// A leaf lacks AF, PXN or inner shareability, or is writable and executable.
    Malformed,
    /// A walk left RAM or went through a freed frame.
    WildWalk,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What happened.
    pub detail: String,
}

pub(crate) struct Info {
    pub allocated: bool,
    /// Counts changes of the contents.
    pub version: u64,
    /// The version that instruction fetches see.
    pub clean: u64,
    /// The version when the frame was last allocated.
    pub born: u64,
}

/// What freed frames are filled with: as a descriptor it is valid and leads nowhere.
const POISON: u8 = 0xdb;

/// A machine. Kernel methods act for the current CPU ([`set_cpu`](Self::set_cpu)).
pub struct Machine {
    pub(crate) ram: Vec<Box<[u8; PAGE]>>,
    pub(crate) first: u64,
    pub(crate) info: Vec<Info>,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) current: usize,
    pub(crate) rng: Rng,
    /// Addresses that speculation is interested in.
    pub(crate) pages: Vec<u64>,
    /// By root, the ASID that it was last made current with, and a number for this pairing. What a
    /// TLB caches for an earlier pairing is not used any more, unless a CPU is given that ASID
    /// again before it forgets: kernels may leave it to the CPU's next flush.
    pairings: BTreeMap<u64, (u16, u32)>,
    next_pairing: u32,
    /// Where the last descriptor was stored.
    written: u64,
    violations: Vec<Violation>,
}

impl Machine {
    /// A machine with `frames` frames of RAM from frame number `first`. Speculation walks the
    /// addresses `pages`, on whatever CPU may.
    pub fn new(cpus: usize, first: u64, frames: usize, pages: Vec<u64>, seed: u64) -> Machine {
        let info = || Info {
            allocated: false,
            version: 1,
            clean: 0,
            born: 1,
        };
        Machine {
            ram: (0..frames).map(|_| Box::new([POISON; PAGE])).collect(),
            first,
            info: (0..frames).map(|_| info()).collect(),
            cpus: vec![Cpu::default(); cpus],
            current: 0,
            rng: Rng::new(seed),
            pages,
            pairings: BTreeMap::new(),
            next_pairing: 1,
            written: 0,
            violations: Vec::new(),
        }
    }

    /// The CPU that executes what follows. The kernel's lock goes with it: what was stored under
    /// the lock is visible to the next owner.
    pub fn set_cpu(&mut self, cpu: usize) {
        if cpu != self.current {
            self.drain(self.current);
        }
        self.current = cpu;
    }

    /// The current CPU.
    pub fn cpu(&self) -> usize {
        self.current
    }

    /// The rules broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn violate(&mut self, rule: Rule, detail: String) {
        // The first ones tell the story; a broken machine could go on forever.
        if self.violations.len() < 16 {
            self.violations.push(Violation { rule, detail });
        }
    }

    pub(crate) fn index(&self, frame: u64) -> Option<usize> {
        let index = frame.checked_sub(self.first)? as usize;
        (index < self.ram.len()).then_some(index)
    }

    pub(crate) fn allocated(&self, frame: u64) -> bool {
        self.index(frame)
            .is_some_and(|index| self.info[index].allocated)
    }

    /// Frames that are allocated now.
    pub fn allocated_count(&self) -> usize {
        self.info.iter().filter(|info| info.allocated).count()
    }

    /// A table as the owner of the kernel's lock sees it.
    pub fn table(&self, frame: u64) -> Vec<u64> {
        let Some(index) = self.index(frame) else {
            return vec![0; 512];
        };
        let (words, _) = self.ram[index].as_chunks();
        let mut table: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        for store in &self.cpus[self.current].stores {
            match &store.what {
                What::Descriptor { at, value } if at / PAGE as u64 == frame => {
                    table[*at as usize % PAGE / 8] = *value;
                }
                What::Frame { frame: f, bytes } if *f == frame => {
                    let (words, _) = bytes.as_chunks();
                    let words = words.iter().map(|word| u64::from_le_bytes(*word));
                    table
                        .iter_mut()
                        .zip(words)
                        .for_each(|(old, new)| *old = new);
                }
                _ => {}
            }
        }
        table
    }

    /// What the current CPU reads: its own stores, else memory.
    pub(crate) fn word(&self, at: u64) -> u64 {
        let stores = &self.cpus[self.current].stores;
        let own = stores.iter().rev().find_map(|store| store.what.word(at));
        own.unwrap_or_else(|| self.word_in_memory(at))
    }

    pub(crate) fn word_in_memory(&self, at: u64) -> u64 {
        let Some(index) = self.index(at / PAGE as u64) else {
            return 0;
        };
        let offset = at as usize % PAGE;
        u64::from_le_bytes(
            self.ram[index][offset..offset + 8]
                .try_into()
                .expect("8 bytes"),
        )
    }

    /// Reads a descriptor. Nothing but a DSB orders a TLBI after it.
    pub fn read_descriptor(&mut self, table: u64, index: usize) -> u64 {
        self.cpus[self.current].unordered = true;
        self.descriptor(table, index)
    }

    /// What a descriptor reads as.
    pub fn descriptor(&self, table: u64, index: usize) -> u64 {
        self.word(table * PAGE as u64 + index as u64 * 8)
    }

    /// Stores a descriptor; nobody need see it before a barrier.
    pub fn write_descriptor(&mut self, table: u64, index: usize, level: u8, value: u64) {
        let at = table * PAGE as u64 + index as u64 * 8;
        // The worst case for what follows: everybody has the old entry.
        if self.rng.chance(80) {
            self.speculate_at(at);
        }
        let old = self.descriptor(table, index);
        self.check_write(at, level, old, value);
        self.store(What::Descriptor { at, value });
        self.written = at;
        self.race();
    }

    fn check_write(&mut self, at: u64, level: u8, old: u64, new: u64) {
        if !self.allocated(at / PAGE as u64) {
            self.violate(
                Rule::FreedFrame,
                format!("descriptor {at:#x} is written in a free frame"),
            );
        }
        if new & bits::VALID == 0 {
            return;
        }
        let rights = bits::EL0 | bits::READ_ONLY | bits::PXN | bits::UXN;
        // Of tables nothing: that APTable alone may change in place is not clear from the manual.
        let changeable = if level == 3 {
            rights | bits::SOFTWARE
        } else {
            bits::SOFTWARE
        };
        if old & bits::VALID != 0 && (old ^ new) & !changeable != 0 {
            self.violate(
                Rule::BreakBeforeMake,
                format!(
                    "descriptor {at:#x} of level {level}: {old:#x} -> {new:#x} without a break"
                ),
            );
        }
        let frame = (new & bits::ADDRESS) / PAGE as u64;
        let stale = self.cpus.iter().any(|cpu| {
            let leaf = |leaf: &Leaf| leaf.at == at && leaf.frame != frame && self.usable(leaf);
            let table = |table: &Table| {
                table.at == at && table.frame != frame && self.paired(table.pairing)
            };
            cpu.leaves.iter().any(leaf) || cpu.tables.iter().any(table)
        });
        if stale && old & bits::VALID == 0 {
            let detail =
                format!("descriptor {at:#x} is made {new:#x} while its old value is cached");
            self.violate(Rule::Unclean, detail);
        }
        if level != 3 {
            return;
        }
        if new & bits::NOT_GLOBAL == 0 {
            self.violate(Rule::Asid, format!("the user leaf {new:#x} is global"));
        }
        let needed = bits::ACCESSED | bits::PXN | bits::INNER_SHAREABLE;
        if new & needed != needed || new & (bits::READ_ONLY | bits::UXN) == 0 {
            self.violate(Rule::Malformed, format!("the user leaf {new:#x}"));
        }
    }

    fn store(&mut self, what: What) {
        if let Some(index) = self.index(what.frame()) {
            self.info[index].version += 1;
        }
        let cpu = &mut self.cpus[self.current];
        cpu.stores.push(Store {
            epoch: cpu.epoch,
            local: false,
            what,
        });
    }

    /// Executes a barrier.
    pub fn barrier(&mut self, barrier: Barrier) {
        self.race();
        let current = self.current;
        if !matches!(barrier, Barrier::DmbIshst | Barrier::Isb) {
            self.cpus[current].unordered = false;
        }
        match barrier {
            Barrier::DmbIshst => self.cpus[current].epoch += 1,
            Barrier::DsbIshst => {
                self.land(current, |_| true);
                self.drain(current);
            }
            Barrier::DsbNshst => self.publish_locally(current),
            Barrier::DsbNsh => {
                self.publish_locally(current);
                self.complete(current, false);
            }
            Barrier::DsbIsh => {
                // Of the program that ran here, too.
                self.land(current, |_| true);
                self.drain(current);
                self.complete(current, true);
            }
            Barrier::Isb => {}
        }
        self.steps();
    }

    fn publish_locally(&mut self, cpu: usize) {
        self.cpus[cpu]
            .stores
            .iter_mut()
            .for_each(|store| store.local = true);
        self.cpus[cpu].epoch += 1;
    }

    /// Issues an invalidation. It acts when it likes, until a DSB waits for it.
    pub fn tlbi(&mut self, op: Tlbi) {
        self.race();
        let todo = if op.broadcast {
            (1 << self.cpus.len()) - 1
        } else {
            1 << self.current
        };
        let here = 1 << self.current;
        let mut pending = Pending { op, todo };
        let cpu = &mut self.cpus[self.current];
        if cpu.unordered && self.rng.chance(50) {
            // It acts before what was read by then, and the walker fetches once more what the tables
            // said before that.
            cpu.invalidate_and_refetch(op.scope);
            pending.todo &= !here;
        }
        cpu.pending.push(pending);
        self.race();
    }

    /// A DSB waits for the invalidations that `cpu` has issued; the non-shareable form only for
    /// what they do on `cpu` itself.
    fn complete(&mut self, cpu: usize, everywhere: bool) {
        let mut pending = core::mem::take(&mut self.cpus[cpu].pending);
        for pending in &mut pending {
            for target in 0..self.cpus.len() {
                if pending.todo & 1 << target != 0 && (everywhere || target == cpu) {
                    self.cpus[target].invalidate(pending.op.scope);
                    pending.todo &= !(1 << target);
                }
            }
            if everywhere && pending.op.broadcast {
                self.land_translated(pending.op.scope);
            }
        }
        pending.retain(|pending| pending.todo != 0);
        self.cpus[cpu].pending = pending;
    }

    /// Stores of any CPU that used a translation which is gone now have reached memory.
    fn land_translated(&mut self, scope: Scope) {
        for cpu in 0..self.cpus.len() {
            self.land(cpu, |store| matches_leaf(scope, &store.leaf));
        }
    }

    /// All stores of a CPU become visible, in order.
    fn drain(&mut self, cpu: usize) {
        for store in core::mem::take(&mut self.cpus[cpu].stores) {
            self.perform(store.what);
        }
        self.cpus[cpu].epoch += 1;
    }

    /// The store at `index` becomes visible, and with it those that are ordered before it.
    pub(crate) fn drain_until(&mut self, cpu: usize, index: usize) {
        let stores = core::mem::take(&mut self.cpus[cpu].stores);
        let (epoch, what) = (stores[index].epoch, stores[index].what.clone());
        let mut kept = Vec::new();
        for (at, store) in stores.into_iter().enumerate() {
            if at <= index && (at == index || store.epoch < epoch || store.what.overlaps(&what)) {
                self.perform(store.what);
            } else {
                kept.push(store);
            }
        }
        self.cpus[cpu].stores = kept;
    }

    fn perform(&mut self, what: What) {
        let Some(index) = self.index(what.frame()) else {
            return;
        };
        match what {
            What::Descriptor { at, value } => {
                let offset = at as usize % PAGE;
                self.ram[index][offset..offset + 8].copy_from_slice(&value.to_le_bytes());
            }
            What::Frame { bytes, .. } => self.ram[index] = bytes,
            What::Bytes { bytes, .. } => {
                for (offset, byte) in bytes {
                    self.ram[index][offset] = byte;
                }
            }
        }
    }

    /// The frame as the current CPU's loads see it.
    fn own_view(&mut self, frame: u64) -> Box<[u8; PAGE]> {
        let current = self.current;
        self.land(current, |store| store.leaf.frame == frame);
        if !self.allocated(frame) {
            self.violate(
                Rule::FreedFrame,
                format!("the kernel reads frame {frame:#x}, which is free"),
            );
        }
        let mut view = self
            .index(frame)
            .map_or_else(|| Box::new([POISON; PAGE]), |index| self.ram[index].clone());
        for store in &self.cpus[current].stores {
            match &store.what {
                What::Descriptor { at, value } if at / PAGE as u64 == frame => {
                    let offset = *at as usize % PAGE;
                    view[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
                }
                What::Frame { frame: f, bytes } if *f == frame => view.copy_from_slice(&bytes[..]),
                What::Bytes { frame: f, bytes } if *f == frame => {
                    bytes
                        .iter()
                        .for_each(|(offset, byte)| view[*offset] = *byte);
                }
                _ => {}
            }
        }
        view
    }

    /// Fills a frame with zeros.
    pub fn zero_frame(&mut self, frame: u64) {
        self.store(What::Frame {
            frame,
            bytes: Box::new([0; PAGE]),
        });
        self.steps();
    }

    /// Copies a frame.
    pub fn copy_frame(&mut self, from: u64, to: u64) {
        let bytes = self.own_view(from);
        self.store(What::Frame { frame: to, bytes });
        self.steps();
    }

    /// Lends a frame's bytes to the kernel.
    pub fn with_frame(&mut self, frame: u64, f: &mut dyn FnMut(&mut [u8; PAGE])) {
        let mut view = self.own_view(frame);
        let before = view.clone();
        f(&mut view);
        let bytes: Vec<_> = (0..PAGE)
            .filter(|&at| before[at] != view[at])
            .map(|at| (at, view[at]))
            .collect();
        if !bytes.is_empty() {
            self.store(What::Bytes { frame, bytes });
        }
        self.steps();
    }

    /// Instruction fetches see the frame's contents.
    pub fn sync_icache(&mut self, frame: u64) {
        if let Some(index) = self.index(frame) {
            self.info[index].clean = self.info[index].version;
        }
    }

    /// A frame leaves the allocator, or comes back to it.
    pub fn frame_event(&mut self, frame: u64, freed: bool) {
        let Some(index) = self.index(frame) else {
            return;
        };
        self.info[index].allocated = !freed;
        if !freed {
            self.info[index].born = self.info[index].version;
            return;
        }
        let maps = |leaf: &Leaf| leaf.frame == frame && self.usable(leaf);
        if self.cpus.iter().any(|cpu| cpu.leaves.iter().any(maps)) {
            self.violate(
                Rule::FreedFrame,
                format!("frame {frame:#x} is freed while a TLB maps it"),
            );
        }
        if self
            .cpus
            .iter()
            .any(|cpu| cpu.in_flight.iter().any(|store| store.leaf.frame == frame))
        {
            self.violate(
                Rule::FreedFrame,
                format!("frame {frame:#x} is freed while a store to it is under way"),
            );
        }
        let walked = |cpu: &Cpu| {
            let leads = |table: &Table| table.frame == frame && self.paired(table.pairing);
            cpu.tables.iter().any(leads) || cpu.context.is_some_and(|context| context.root == frame)
        };
        if self.cpus.iter().any(walked) {
            self.violate(
                Rule::FreedTable,
                format!("table {frame:#x} is freed while a walk may use it"),
            );
        }
        for cpu in &mut self.cpus {
            cpu.stores.retain(|store| store.what.frame() != frame);
        }
        self.pairings.remove(&frame);
        self.ram[index].fill(POISON);
        self.info[index].version += 1;
    }

    /// Makes an address space current on the current CPU (`DSB ISH; MSR TTBR0_EL1; ISB`), or none.
    pub fn activate(&mut self, ttbr0: Option<u64>) {
        self.barrier(Barrier::DsbIsh);
        let context = ttbr0.map(|value| {
            let asid = (value >> 48) as u16;
            self.pair((value & bits::ADDRESS) / PAGE as u64, asid)
        });
        if let Some(context) = context {
            let Context {
                asid,
                root,
                pairing,
            } = context;
            let here = &self.cpus[self.current];
            let leaf = |leaf: &Leaf| leaf.asid == Some(asid) && leaf.pairing != pairing;
            let table = |table: &Table| table.asid == asid && table.pairing != pairing;
            if here.leaves.iter().any(leaf) || here.tables.iter().any(table) {
                let detail = format!("ASID {asid} is used again while its old entries are cached");
                self.violate(Rule::Asid, detail);
            }
            let elsewhere = self.cpus.iter().enumerate().any(|(cpu, that)| {
                let other = |context: Context| context.root == root && context.asid != asid;
                cpu != self.current && that.context.is_some_and(other)
            });
            if elsewhere {
                let detail = format!("root {root:#x} is active with ASID {asid} and another");
                self.violate(Rule::Asid, detail);
            }
        }
        self.cpus[self.current].context = context;
    }

    /// A root and the ASID that it is made current with.
    fn pair(&mut self, root: u64, asid: u16) -> Context {
        let next = &mut self.next_pairing;
        let mut new = || {
            *next += 1;
            *next
        };
        let entry = self.pairings.entry(root).or_insert_with(|| (asid, new()));
        if entry.0 != asid {
            *entry = (asid, new());
        }
        Context {
            asid,
            root,
            pairing: entry.1,
        }
    }

    /// Entries of this pairing may be used at any time.
    fn paired(&self, pairing: u32) -> bool {
        self.pairings.values().any(|(_, number)| *number == pairing)
    }

    fn usable(&self, leaf: &Leaf) -> bool {
        leaf.asid.is_none() || self.paired(leaf.pairing)
    }

    /// The kernel returns to the program: whatever a TLB still grants must be granted by the tables
    /// as they are now, of all address spaces that `roots` (ASID, root) lists.
    pub fn check_quiescent(&mut self, roots: &[(u16, u64)]) {
        let mut stale = Vec::new();
        for (number, cpu) in self.cpus.iter().enumerate() {
            for leaf in &cpu.leaves {
                if !self.usable(leaf) {
                    continue;
                }
                let owner = |(asid, root): &&(u16, u64)| {
                    leaf.asid.is_none_or(|of| of == *asid) && *root == leaf.root
                };
                let Some(&(_, root)) = roots.iter().find(owner) else {
                    stale.push(format!("CPU {number} caches {leaf:x?}, whose ASID is free"));
                    continue;
                };
                let now = self.look_up(root, leaf.page * PAGE as u64);
                let granted = now.is_some_and(|now| {
                    now.frame == leaf.frame
                        && now.readable >= leaf.readable
                        && now.writable >= leaf.writable
                        && now.executable >= leaf.executable
                });
                if !granted {
                    stale.push(format!(
                        "CPU {number} caches {leaf:x?}, but the tables say {now:x?}"
                    ));
                }
            }
        }
        stale
            .into_iter()
            .for_each(|detail| self.violate(Rule::Stale, detail));
    }

    /// One of the things that hardware does when nobody asks.
    pub(crate) fn steps(&mut self) {
        for _ in 0..2 {
            let cpu = self.rng.below(self.cpus.len());
            match self.rng.below(8) {
                0 | 1 => self.step_store(cpu),
                2 | 3 => self.step_tlbi(cpu),
                4 | 5 if !self.pages.is_empty() => {
                    let va = self.pages[self.rng.below(self.pages.len())];
                    self.speculate(cpu, va);
                }
                6 if !self.cpus[cpu].in_flight.is_empty() => {
                    let at = self.rng.below(self.cpus[cpu].in_flight.len());
                    let mut index = 0;
                    self.land(cpu, |_| {
                        index += 1;
                        index - 1 == at
                    });
                }
                _ => {}
            }
        }
    }

    /// The unlucky orders, more often than chance would have them: the last descriptor store
    /// becomes visible at once, or only after walks and invalidations that should have come later.
    fn race(&mut self) {
        for _ in 0..self.rng.below(4) {
            match self.rng.below(5) {
                0 => {
                    let stores = &self.cpus[self.current].stores;
                    let last = |store: &Store| store.what.word(self.written).is_some();
                    if let Some(index) = stores.iter().rposition(last) {
                        self.drain_until(self.current, index);
                    }
                }
                1 => {
                    for _ in 0..self.cpus.len() {
                        self.step_tlbi(self.current);
                    }
                }
                2 => self.speculate_at(self.written),
                3 => {
                    self.act_early();
                    self.speculate_at(self.written);
                }
                _ => self.steps(),
            }
        }
    }

    fn step_store(&mut self, cpu: usize) {
        let count = self.cpus[cpu].stores.len();
        if count > 0 {
            let index = self.rng.below(count);
            self.drain_until(cpu, index);
        }
    }

    fn step_tlbi(&mut self, cpu: usize) {
        let count = self.cpus[cpu].pending.len();
        if count == 0 {
            return;
        }
        let index = self.rng.below(count);
        let target = self.rng.below(self.cpus.len());
        let pending = &mut self.cpus[cpu].pending[index];
        if pending.todo & 1 << target != 0 {
            pending.todo &= !(1 << target);
            let scope = pending.op.scope;
            self.cpus[target].invalidate(scope);
        }
    }

    /// What the current CPU has asked for acts everywhere, before any DSB.
    fn act_early(&mut self) {
        let mut pending = core::mem::take(&mut self.cpus[self.current].pending);
        for pending in &mut pending {
            for target in 0..self.cpus.len() {
                if pending.todo & 1 << target != 0 {
                    self.cpus[target].invalidate(pending.op.scope);
                }
            }
            pending.todo = 0;
        }
        self.cpus[self.current].pending = pending;
    }

    /// Every CPU that can walks through the descriptor at `at`.
    fn speculate_at(&mut self, at: u64) {
        for cpu in 0..self.cpus.len() {
            let Some(context) = self.cpus[cpu].context else {
                continue;
            };
            for index in 0..self.pages.len() {
                let va = self.pages[index];
                if self.passes(context.root, va, at) {
                    self.speculate(cpu, va);
                }
            }
        }
    }

    fn passes(&self, root: u64, va: u64, at: u64) -> bool {
        let mut table = root;
        for level in 1..=3 {
            let here = table * PAGE as u64 + (prefix(va, level) % 512) * 8;
            if here == at {
                return true;
            }
            let value = self.word_in_memory(here);
            if value & bits::VALID == 0 {
                return false;
            }
            table = (value & bits::ADDRESS) / PAGE as u64;
        }
        false
    }
}
