//! Processes on the adversarial machine, each beside its oracle, and the invariants that hold
//! between any two steps.

mod access;
mod census;
mod commit;
mod execute;
mod remap;
mod story;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use memory::{
    AddressSpace, Frame, FrameMeta, Frames, Memory, PAGE_BYTES, PAGE_SIZE, PageCache, Source,
    mutate,
};
use model::Machine;
use model::checker::Operation;

use self::census::Census;
pub use self::story::story;

use crate::oracle::{OFFSETS, Object, PAGES, Pages, va};
use crate::program::Op;
use crate::sim::{self, Sim};

const FIRST: u64 = 0x40000;
/// Of the seed: promises are not limited, and faults may fail.
pub const STARVABLE: u64 = 4;
/// More than there are ASIDs.
const PROCESSES: usize = 10;

/// A file with a pattern in it.
struct Pattern(u8);

impl Pattern {
    fn byte(&self, at: u64) -> u8 {
        (at / PAGE_SIZE * 16 + at % 7) as u8 ^ self.0
    }
}

impl Source for Pattern {
    fn fill(&self, offset: u64, page: &mut [u8; PAGE_BYTES]) {
        (0u64..)
            .zip(page)
            .for_each(|(at, byte)| *byte = self.byte(offset + at));
    }
}

/// What a step is to the checker.
fn operation(op: Op) -> Operation {
    match op {
        Op::Fork { .. } => Operation::Fork,
        Op::Map { .. } | Op::Stack { .. } => Operation::Map,
        Op::Unmap { .. } => Operation::Unmap,
        Op::Protect { .. } => Operation::Protect,
        Op::Remap { .. } => Operation::Move,
        Op::Exec { .. } => Operation::Exec,
        Op::Exit { .. } => Operation::End,
        _ => Operation::Discard,
    }
}

pub struct Process {
    /// Its number in order of birth.
    pub name: usize,
    pub space: AddressSpace,
    pub pages: Pages,
}

pub struct World {
    pub mem: Memory<Sim>,
    pub processes: Vec<Process>,
    /// By CPU, the serial number of the address space that is active.
    running: Vec<Option<u32>>,
    files: Vec<(Arc<PageCache>, Object)>,
    shortage: Shortage,
    /// Processes ever.
    born: usize,
    /// What processes are promised is kept.
    pub strict: bool,
    /// Each allocation of a step is refused in turn, before the step is done.
    pub refuses: bool,
    /// The outcomes seen, for tests that want to have met them all.
    pub outcomes: BTreeMap<&'static str, u32>,
}

/// Why allocations may fail.
#[derive(Default)]
struct Shortage {
    hogs: Vec<Frame>,
    /// Allocations before this step.
    began: u64,
}

impl Shortage {
    /// This step may run out of memory.
    fn any(&self) -> bool {
        !self.hogs.is_empty() || mutate::refused_since(self.began)
    }
}

impl Drop for World {
    /// What failed has not released its caches, which is no second failure.
    fn drop(&mut self) {
        self.processes.drain(..).for_each(std::mem::forget);
        self.files.drain(..).for_each(std::mem::forget);
    }
}

type Result<T = ()> = std::result::Result<T, String>;

impl World {
    /// How often barriers and TLBIs of a name were executed so far.
    pub fn executed(&self, what: &str) -> u64 {
        let executed = self.mem.mmu.executed.borrow();
        executed.get(what).copied().unwrap_or_default()
    }

    pub fn new(cpus: usize, frames: usize, seed: u64) -> World {
        let machine = Machine::new(cpus, FIRST, frames, (0..PAGES).map(va).collect(), seed);
        let sim = Sim::new(machine);
        let meta = Vec::leak((0..frames).map(|_| FrameMeta::new()).collect());
        let mut all = Frames::new(meta, Frame::new(FIRST));
        // With a limit and without.
        let strict = seed & STARVABLE == 0;
        if !strict {
            all.set_overcommit();
        }
        // In two ranges, as boards have it.
        let middle = FIRST + frames as u64 / 3;
        all.add(Frame::new(FIRST)..Frame::new(middle));
        all.add(Frame::new(middle)..Frame::new(FIRST + frames as u64));
        let mut mem =
            Memory::new(sim, all, 2 + seed as u8 % 2, cpus).expect("a frame for the zero page");
        mem.share_from = [1, 1, 5, 64][seed as usize % 4];
        let file = |id: u32, pages: usize| {
            let pattern = Pattern(id as u8 * 0x55);
            let bytes =
                |page: usize| OFFSETS.map(|offset| pattern.byte(page as u64 * PAGE_SIZE + offset));
            let object = Rc::new(RefCell::new((0..pages).map(bytes).collect()));
            let cache = PageCache::new(id, pages as u64 * PAGE_SIZE, Box::new(pattern));
            (Arc::new(cache), object)
        };
        let files = vec![file(1, 3), file(2, 6)];
        let space = AddressSpace::new(&mem).expect("a first address space");
        mem.mmu.born(&space);
        let first = Process {
            name: 0,
            space,
            pages: Pages::default(),
        };
        let running = vec![None; cpus];
        World {
            mem,
            processes: vec![first],
            running,
            files,
            shortage: Shortage::default(),
            born: 1,
            strict,
            refuses: false,
            outcomes: BTreeMap::new(),
        }
    }

    /// Cuts a file off within its first page, and makes it one page long again.
    pub fn cut_off(&mut self, file: usize, len: u64) {
        let (cache, object) = &self.files[file];
        cache.set_len(&self.mem, len);
        cache.set_len(&self.mem, PAGE_SIZE);
        let mut pages = object.borrow_mut();
        pages.truncate(1);
        for (offset, byte) in OFFSETS.into_iter().zip(&mut pages[0]) {
            *byte = if offset < len { *byte } else { 0 };
        }
    }

    /// A step, and the checks that follow every step.
    pub fn step(&mut self, op: Op) -> Result {
        if !self.refuses || matches!(op, Op::Starve { .. }) {
            return self.attempt(op);
        }
        for index in 0.. {
            let before = mutate::allocations();
            mutate::refuse(Some(index));
            let done = self.attempt(op);
            mutate::refuse(None);
            done.map_err(|error| format!("with allocation {index} of it refused: {error}"))?;
            if mutate::allocations() - before <= index {
                break;
            }
            *self.outcomes.entry("refused").or_default() += 1;
        }
        Ok(())
    }

    fn attempt(&mut self, op: Op) -> Result {
        let hogs = self.shortage.hogs.len();
        self.shortage.began = mutate::allocations();
        self.execute(op)?;
        self.mem.mmu.done(operation(op));
        // A step of several parts may have given them back by itself.
        let hogs = hogs.min(self.shortage.hogs.len());
        for hog in self.shortage.hogs.drain(..hogs) {
            self.mem.free(hog);
        }
        self.check()
    }

    /// The invariants of `translation-and-cow.md` 5.3, and what the machine has to report.
    pub fn check(&mut self) -> Result {
        let roots: Vec<_> = self
            .processes
            .iter()
            .map(|p| (p.space.root().asid(), p.space.root().frame().number()))
            .collect();
        let mut machine = self.mem.mmu.machine.borrow_mut();
        machine.check_quiescent(&roots);
        if let Some(violation) = machine.violations().first() {
            return Err(format!("{:?}: {}", violation.rule, violation.detail));
        }
        if !sim::deaf()
            && let Some(told) = self.mem.mmu.told()
        {
            return Err(told);
        }
        let allocated = machine.allocated_count() as u64;
        drop(machine);
        if allocated != self.mem.frames.total() - self.mem.frames.free_count() {
            return Err(format!(
                "{allocated} frames are allocated, but {} are free",
                self.mem.frames.free_count()
            ));
        }
        let mut census = Census::default();
        for process in &self.processes {
            census.space(&self.mem, &process.space)?;
        }
        census.counts(&self.mem)?;
        self.check_commit()
    }

    /// Ends everything; nothing may be left but the zero page, which is still zero.
    pub fn finish(mut self) -> Result {
        while let Some(process) = self.processes.pop() {
            self.destroy(0, process.space);
        }
        let checked = self.check();
        for (cache, _) in self.files.drain(..) {
            PageCache::release(cache, &self.mem);
        }
        for hog in self.shortage.hogs.drain(..) {
            self.mem.free(hog);
        }
        checked?;
        let zero = self.mem.zero_page().number();
        let machine = self.mem.mmu.machine.borrow();
        if machine.table(zero).iter().any(|word| *word != 0) {
            return Err("the zero page is not zero".into());
        }
        if self.mem.frames.committed() != 0 {
            return Err(format!(
                "{} pages are still charged",
                self.mem.frames.committed()
            ));
        }
        if machine.allocated_count() != 1 {
            return Err(format!("{} frames leak", machine.allocated_count() - 1));
        }
        // A number that was running at the last rollover, and ended since, is out until the next.
        let cpus = self.running.len() as u32;
        if self.mem.asids.free_count() < (1 << self.mem.asids.bits()) - 1 - cpus {
            return Err("an ASID leaks".into());
        }
        Ok(())
    }
}
