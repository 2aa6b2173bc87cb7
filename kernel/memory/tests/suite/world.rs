//! Processes on the adversarial machine, each beside its oracle, and the invariants that hold
//! between any two steps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use memory::descriptor::{Content, Leaf, Table, bits};
use memory::{
    Access, AddressSpace, Backing, ForkMode, Frame, FrameMeta, Frames, Handled, Kind, MapError,
    Mapping, Memory, Outcome, PAGE_BYTES, PAGE_SIZE, PageCache, Prot, Region, Request, Resident,
    Source, SpaceError,
};
use model::Machine;

use crate::oracle::{OFFSETS, Object, PAGES, Page, Pages, va};
use crate::program::{Back, Op};
use crate::sim::{Sim, Site};

const FIRST: u64 = 0x40000;
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

pub struct Process {
    pub space: AddressSpace,
    pub pages: Pages,
}

pub struct World {
    pub mem: Memory<Sim>,
    pub processes: Vec<Process>,
    /// By CPU, the serial number of the address space that is active.
    running: Vec<Option<u32>>,
    files: Vec<(Arc<PageCache>, Object)>,
    hogs: Vec<Frame>,
    /// The outcomes seen, for tests that want to have met them all.
    pub outcomes: BTreeMap<&'static str, u32>,
}

type Result<T = ()> = std::result::Result<T, String>;

impl World {
    /// How often barriers and TLBIs of a name were executed so far.
    pub fn executed(&self, what: &str) -> u64 {
        let sites = self.mem.mmu.sites.borrow();
        sites
            .iter()
            .filter(|(site, _)| site.what == what)
            .map(|(_, count)| count)
            .sum()
    }

    pub fn new(cpus: usize, frames: usize, seed: u64, omit: Option<Site>) -> World {
        let machine = Machine::new(cpus, FIRST, frames, (0..PAGES).map(va).collect(), seed);
        let mut sim = Sim::new(machine);
        sim.omit = omit;
        let meta = Vec::leak((0..frames).map(|_| FrameMeta::new()).collect());
        let all = Frames::new(meta, Frame::new(FIRST));
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
        let first = Process {
            space,
            pages: Pages::default(),
        };
        let running = vec![None; cpus];
        World {
            mem,
            processes: vec![first],
            running,
            files,
            hogs: Vec::new(),
            outcomes: BTreeMap::new(),
        }
    }

    /// A step, and the checks that follow every step.
    pub fn step(&mut self, op: Op) -> Result {
        let starved = !self.hogs.is_empty();
        self.execute(op)?;
        if starved {
            for hog in self.hogs.drain(..) {
                self.mem.free(hog);
            }
        }
        self.check()
    }

    fn cpu(&mut self, cpu: usize) -> usize {
        let cpu = cpu % self.running.len();
        self.mem.mmu.machine.borrow_mut().set_cpu(cpu);
        cpu
    }

    fn execute(&mut self, op: Op) -> Result {
        let count = self.processes.len();
        match op {
            Op::Starve { left } => {
                while self.mem.frames.free_count() > left {
                    self.hogs.extend(self.mem.alloc());
                }
            }
            Op::FileWrite {
                cpu,
                file,
                page,
                value,
            } => {
                self.cpu(cpu);
                self.mem.mmu.machine.borrow_mut().synchronise();
                let (cache, object) = &self.files[file];
                if page < object.borrow().len()
                    && cache
                        .write(&self.mem, page as u64 * PAGE_SIZE + OFFSETS[1], &[value])
                        .is_ok()
                {
                    object.borrow_mut()[page][1] = value;
                }
            }
            _ if count == 0 => {}
            Op::Read {
                cpu,
                process,
                page,
                offset,
            } => {
                self.access(cpu, process % count, page, offset, Access::Read, 0)?;
            }
            Op::Write {
                cpu,
                process,
                page,
                offset,
                value,
            } => {
                self.access(cpu, process % count, page, offset, Access::Write, value)?;
            }
            Op::Fetch { cpu, process, page } => {
                self.access(cpu, process % count, page, 0, Access::Exec, 0)?;
            }
            Op::KernelWrite {
                cpu,
                process,
                page,
                value,
            } => {
                self.run(cpu, process % count);
                self.mem.mmu.machine.borrow_mut().synchronise();
                let process = &mut self.processes[process % count];
                let done = process.space.write(&self.mem, va(page), &[value, value]);
                let permitted = process.pages.permits(page, Access::Write);
                if done.is_ok() && permitted {
                    process.pages.write(page, 0, value);
                    process.pages.write(page, 1, value);
                }
                self.expect(permitted, done)?;
            }
            Op::KernelRead { cpu, process, page } => {
                self.run(cpu, process % count);
                self.mem.mmu.machine.borrow_mut().synchronise();
                let process = &mut self.processes[process % count];
                let mut bytes = [0; 2];
                let done = process.space.read(&self.mem, va(page), &mut bytes);
                let permitted = process.pages.permits(page, Access::Read);
                if done.is_ok() && permitted && bytes[..] != process.pages.0[&page].bytes()[..2] {
                    return Err(format!("the kernel reads {bytes:?} at page {page}"));
                }
                self.expect(permitted, done)?;
            }
            Op::Map {
                cpu,
                process,
                page,
                count: pages,
                prot,
                back,
            } => {
                self.run(cpu, process % count);
                self.map(process % count, page, pages, Prot::from_bits(prot), back)?;
            }
            Op::Unmap {
                cpu,
                process,
                page,
                count: pages,
            } => {
                self.run(cpu, process % count);
                let process = &mut self.processes[process % count];
                let (start, end) = (va(page), va(page) + pages as u64 * PAGE_SIZE);
                match process.space.unmap(&self.mem, start, end) {
                    Ok(_) => {}
                    Err(MapError::OutOfMemory) if !self.hogs.is_empty() => return Ok(()),
                    Err(error) => return Err(format!("unmap: {error}")),
                }
                process
                    .pages
                    .0
                    .retain(|at, _| !(page..page + pages).contains(at));
            }
            Op::Protect {
                cpu,
                process,
                page,
                count: pages,
                prot,
            } => {
                self.run(cpu, process % count);
                let process = &mut self.processes[process % count];
                let (start, end) = (va(page), va(page) + pages as u64 * PAGE_SIZE);
                let prot = Prot::from_bits(prot);
                let mapped = (page..page + pages).all(|at| process.pages.0.contains_key(&at));
                let done = process.space.protect(&self.mem, start, end, prot);
                if done == Err(MapError::OutOfMemory) && !self.hogs.is_empty() {
                    return Ok(());
                }
                if done.is_ok() != mapped {
                    return Err(format!("protect says {done:?}, but mapped = {mapped}"));
                }
                if mapped {
                    process
                        .pages
                        .0
                        .range_mut(page..page + pages)
                        .for_each(|(_, page)| page.prot = prot);
                }
            }
            Op::Fork {
                cpu,
                process,
                page,
                mode,
            } => {
                self.run(cpu, process % count);
                let modes = [ForkMode::Eager, ForkMode::Classic, ForkMode::SharedTables];
                self.fork(process % count, modes[mode.min(2)])?;
                // The parent goes on where it was, and finds its memory without another fault.
                self.access(cpu, process % count, page, 0, Access::Read, 0)?;
            }
            Op::Exec { cpu, process } => {
                let cpu = self.cpu(cpu);
                match AddressSpace::new(&self.mem) {
                    Ok(space) => {
                        let old =
                            std::mem::replace(&mut self.processes[process % count].space, space);
                        self.processes[process % count].pages = Pages::default();
                        self.destroy(cpu, old);
                    }
                    Err(SpaceError::OutOfMemory) => {}
                    Err(error) => return Err(format!("exec: {error}")),
                }
            }
            Op::Everywhere {
                process,
                page,
                value,
            } => {
                for access in [Access::Read, Access::Write] {
                    for cpu in 0..self.running.len() {
                        self.access(cpu, process % count, page, 0, access, value)?;
                    }
                }
            }
            Op::Exit { cpu, process } => {
                let cpu = self.cpu(cpu);
                let process = self.processes.remove(process % count);
                self.destroy(cpu, process.space);
            }
        }
        Ok(())
    }

    /// No CPU may have it in TTBR0 when it ends.
    fn destroy(&mut self, cpu: usize, space: AddressSpace) {
        for other in 0..self.running.len() {
            if self.running[other] == Some(space.serial()) {
                let mut machine = self.mem.mmu.machine.borrow_mut();
                machine.set_cpu(other);
                machine.activate(None);
                self.running[other] = None;
            }
        }
        self.cpu(cpu);
        space.destroy(&self.mem);
    }

    fn expect(&self, permitted: bool, done: std::result::Result<(), Handled>) -> Result {
        match done {
            Ok(()) if permitted => Ok(()),
            Err(handled) if handled.outcome == Outcome::Denied && !permitted => Ok(()),
            Err(handled) if handled.outcome == Outcome::OutOfMemory && !self.hogs.is_empty() => {
                Ok(())
            }
            _ => Err(format!(
                "permitted = {permitted}, but the fault handler says {done:?}"
            )),
        }
    }

    pub fn map(
        &mut self,
        process: usize,
        page: usize,
        count: usize,
        prot: Prot,
        back: Back,
    ) -> Result {
        let (start, end) = (va(page), va(page) + count as u64 * PAGE_SIZE);
        let (backing, shared, object) = match back {
            Back::Anonymous => (Backing::Anonymous, false, None),
            Back::Shared => {
                let object = Rc::new(RefCell::new(vec![[0; OFFSETS.len()]; count]));
                (Backing::Anonymous, true, Some((object, 0)))
            }
            Back::File { file, from, shared } => {
                let (cache, object) = &self.files[file];
                let offset = from as u64 * PAGE_SIZE;
                (
                    Backing::File {
                        cache: cache.clone(),
                        offset,
                    },
                    shared,
                    Some((object.clone(), from)),
                )
            }
        };
        let process = &mut self.processes[process];
        let mapping = Mapping {
            start,
            end,
            prot,
            shared,
            backing,
            region: Region::Mmap,
        };
        match process.space.map(&self.mem, mapping) {
            Ok(_) => {}
            Err(MapError::OutOfMemory) if !self.hogs.is_empty() => return Ok(()),
            Err(error) => return Err(format!("map: {error}")),
        }
        for at in 0..count {
            let object = object
                .as_ref()
                .map(|(object, from)| (object.clone(), from + at));
            process.pages.0.insert(
                page + at,
                Page {
                    prot,
                    shared,
                    object,
                    own: None,
                },
            );
        }
        Ok(())
    }

    /// One more process, with an address space of its own.
    pub fn adopt(&mut self, space: AddressSpace) {
        let pages = Pages::default();
        self.processes.push(Process { space, pages });
    }

    pub fn fork(&mut self, parent: usize, mode: ForkMode) -> Result {
        if self.processes.len() >= PROCESSES {
            return Ok(());
        }
        let parent = &mut self.processes[parent];
        match parent.space.fork(&self.mem, mode) {
            Ok((space, _)) => {
                if space.resident() != parent.space.resident() {
                    return Err("the child's resident counts differ".into());
                }
                let pages = parent.pages.clone();
                self.processes.push(Process { space, pages });
                Ok(())
            }
            Err(SpaceError::OutOfMemory) if !self.hogs.is_empty() => Ok(()),
            Err(error) => Err(format!("fork: {error}")),
        }
    }

    /// Makes a process current on a CPU.
    pub fn run(&mut self, cpu: usize, process: usize) -> usize {
        let cpu = self.cpu(cpu);
        let space = &self.processes[process].space;
        // Also where it is active already, as a kernel that has been in another thread does.
        let before = self.mem.asids.generation();
        self.mem.activate(space.root(), cpu);
        let rolled = self.mem.asids.generation() - before;
        *self.outcomes.entry("rollover").or_default() += rolled as u32;
        if self.running[cpu] != Some(space.serial()) {
            let ttbr0 = space.root().ttbr0();
            self.mem.mmu.machine.borrow_mut().activate(Some(ttbr0));
            self.running[cpu] = Some(space.serial());
        }
        cpu
    }

    /// An access of a program, with at most one fault. What the fault handler did, if it was called.
    pub fn access(
        &mut self,
        cpu: usize,
        process: usize,
        page: usize,
        offset: usize,
        access: Access,
        value: u8,
    ) -> Result<Option<Handled>> {
        let cpu = self.run(cpu, process);
        let permitted = self.processes[process].pages.permits(page, access);
        let addr = va(page) + OFFSETS[offset];
        let mut last: Option<Handled> = None;
        loop {
            let done = {
                let mut machine = self.mem.mmu.machine.borrow_mut();
                match access {
                    Access::Read => machine.load(cpu, addr).map(Some),
                    Access::Write => machine.store_byte(cpu, addr, value).map(|()| None),
                    Access::Exec => machine.fetch(cpu, addr).map(|()| None),
                }
            };
            let pages = &mut self.processes[process].pages;
            match done {
                Ok(_) if !permitted => {
                    return Err(format!(
                        "{access:?} of page {page} is not permitted, but works"
                    ));
                }
                Ok(read) => {
                    if access == Access::Write {
                        pages.write(page, offset, value);
                    } else if let Some(read) = read
                        && read != pages.read(page, offset)
                    {
                        return Err(format!(
                            "process {process} reads {read:#x} at page {page}, not {:#x}",
                            pages.read(page, offset)
                        ));
                    }
                    return Ok(last);
                }
                Err(fault) if last.is_some() => {
                    return Err(format!("{fault:?} again after {last:?}"));
                }
                Err(_) => {}
            }
            let space = &mut self.processes[process].space;
            let handled = space.fault(&self.mem, Request { addr, access });
            *self.outcomes.entry(name(handled.outcome)).or_default() += 1;
            match handled.outcome {
                Outcome::Denied if !permitted => return Ok(Some(handled)),
                Outcome::OutOfMemory if !self.hogs.is_empty() => return Ok(Some(handled)),
                Outcome::Denied | Outcome::OutOfMemory => {
                    return Err(format!("{access:?} of page {page}: {handled:?}"));
                }
                Outcome::Spurious if self.running.len() == 1 => {
                    return Err("a spurious fault with one CPU".into());
                }
                _ => last = Some(handled),
            }
        }
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
        census.counts(&self.mem)
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
        for hog in self.hogs.drain(..) {
            self.mem.free(hog);
        }
        checked?;
        let zero = self.mem.zero_page().number();
        let machine = self.mem.mmu.machine.borrow();
        if machine.table(zero).iter().any(|word| *word != 0) {
            return Err("the zero page is not zero".into());
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

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Spurious => "spurious",
        Outcome::ZeroFill => "zero-fill",
        Outcome::ZeroPage => "zero-page",
        Outcome::CowCopy => "cow-copy",
        Outcome::CowZero => "cow-zero",
        Outcome::CowReuse => "cow-reuse",
        Outcome::TableUnshare => "table-unshare",
        Outcome::TableReuse => "table-reuse",
        Outcome::SharedWrite => "shared-write",
        Outcome::FileRead => "file-read",
        Outcome::FileCopy => "file-copy",
        Outcome::Exec => "exec",
        Outcome::StackGrow => "stack-grow",
        Outcome::Denied => "denied",
        Outcome::OutOfMemory => "out-of-memory",
    }
}

/// Who maps what, counted from the tables themselves.
#[derive(Default)]
struct Census {
    /// Effectively writable leaves, and all leaves, of distinct tables, by frame.
    frames: BTreeMap<u64, (u32, u32)>,
    /// Parents by table, and how many of them write-protect it.
    tables: BTreeMap<u64, (u32, u32)>,
}

impl Census {
    /// A table, and whether it is met for the first time.
    fn table(&mut self, mem: &Memory<Sim>, frame: u64, read_only: bool) -> (Vec<u64>, bool) {
        let parents = self.tables.entry(frame).or_default();
        parents.0 += 1;
        parents.1 += u32::from(read_only);
        (mem.mmu.machine.borrow().table(frame), parents.0 == 1)
    }

    fn space(&mut self, mem: &Memory<Sim>, space: &AddressSpace) -> Result {
        let mut resident = Resident::default();
        for (i, entry) in self
            .table(mem, space.root().frame().number(), false)
            .0
            .into_iter()
            .enumerate()
        {
            let Some(l2) = entry_table(entry)? else {
                continue;
            };
            for (j, entry) in self
                .table(mem, l2.frame().number(), false)
                .0
                .into_iter()
                .enumerate()
            {
                let Some(l3) = entry_table(entry)? else {
                    continue;
                };
                let base = (i as u64) << 30 | (j as u64) << 21;
                let served = |m: &Mapping| m.start < base + (1 << 21) && m.end > base;
                if !space.mappings().iter().any(served) {
                    return Err(format!("the table for {base:#x} serves no mapping"));
                }
                let read_only = entry & bits::TABLE_READ_ONLY != 0;
                if read_only != l3.is_shared() {
                    return Err(format!("the table entry {entry:#x} is half shared"));
                }
                let (entries, first) = self.table(mem, l3.frame().number(), read_only);
                for (k, entry) in entries.into_iter().enumerate() {
                    let Some(leaf) = Leaf::from_bits(entry) else {
                        if entry != 0 {
                            return Err(format!("{entry:#x} was broken and not released"));
                        }
                        continue;
                    };
                    self.leaf(
                        mem,
                        space,
                        base | (k as u64) << 12,
                        leaf,
                        read_only,
                        &mut resident,
                    )?;
                    if leaf.counted() {
                        let private = leaf.writable() && leaf.content() != Content::Shared;
                        let frame = self.frames.entry(leaf.frame().number()).or_default();
                        frame.0 += u32::from(private && !read_only);
                        frame.1 += u32::from(first);
                    }
                }
            }
        }
        if resident != space.resident() {
            return Err(format!(
                "{:?} is counted, {resident:?} is mapped",
                space.resident()
            ));
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        mem: &Memory<Sim>,
        space: &AddressSpace,
        va: u64,
        leaf: Leaf,
        read_only: bool,
        resident: &mut Resident,
    ) -> Result {
        let Some(mapping) = space
            .mappings()
            .iter()
            .find(|m| m.start <= va && va < m.end)
        else {
            return Err(format!("{va:#x} is a leaf, but not a mapping"));
        };
        let more = (leaf.writable() && !read_only && !mapping.prot.contains(Prot::WRITE))
            || (leaf.executable() && !mapping.prot.contains(Prot::EXEC))
            || (leaf.accessible() && mapping.prot == Prot::NONE);
        if more || leaf.cow() && leaf.writable() || leaf.executable() && leaf.writable() {
            return Err(format!(
                "{va:#x}: the leaf {:#x} grants more than {:?}",
                leaf.bits(),
                mapping.prot
            ));
        }
        let kind = match leaf.content() {
            Content::Anon => {
                resident.anon += 1;
                Kind::Anon
            }
            Content::File | Content::Shared => {
                resident.file += 1;
                Kind::Cache
            }
            Content::Zero => {
                resident.zero += 1;
                Kind::Zero
            }
        };
        if mem.frames.kind(leaf.frame()) != kind
            || mapping.shared != (leaf.content() == Content::Shared)
        {
            return Err(format!(
                "{va:#x}: the leaf {:#x} maps a frame of another kind",
                leaf.bits()
            ));
        }
        Ok(())
    }

    fn counts(&self, mem: &Memory<Sim>) -> Result {
        for (&frame, &(writable, leaves)) in &self.frames {
            let (refs, kind) = (
                mem.frames.refs(Frame::new(frame)),
                mem.frames.kind(Frame::new(frame)),
            );
            let expected = leaves + u32::from(kind == Kind::Cache);
            if refs != expected {
                return Err(format!(
                    "frame {frame:#x} has {refs} references, not {expected}"
                ));
            }
            if writable > 0 && refs != 1 {
                return Err(format!("frame {frame:#x} is writable and shared"));
            }
        }
        for (&table, &(parents, read_only)) in &self.tables {
            let (refs, kind) = (
                mem.frames.refs(Frame::new(table)),
                mem.frames.kind(Frame::new(table)),
            );
            if refs != parents || kind != Kind::Table {
                return Err(format!(
                    "table {table:#x}, a {kind:?}, has {refs} references, not {parents}"
                ));
            }
            if parents > 1 && read_only != parents {
                return Err(format!("table {table:#x} is shared and writable"));
            }
        }
        Ok(())
    }
}

fn entry_table(entry: u64) -> Result<Option<Table>> {
    match Table::from_bits(entry) {
        Some(table) => Ok(Some(table)),
        None if entry == 0 => Ok(None),
        None => Err(format!("the table {entry:#x} was broken and not released")),
    }
}
