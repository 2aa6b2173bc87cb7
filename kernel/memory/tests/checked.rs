//! What the crate does to tables and TLBs, recorded and checked against Arm's translation rules;
//! and again with each barrier, TLBI and break left out, one at a time: the checker must name it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use memory::{
    Access, AddressSpace, Backing, ForkMode, Frame, FrameMeta, Frames, MAP_MIN, Mapping, Memory,
    Mmu, Outcome, PAGE_BYTES, PAGE_SIZE, PageCache, Prot, Region, Request, Source,
};
use model::checker::{At, Checker, Contents, Event, Operation, Rule, Violation};
use model::{Scope, Tlbi};

const FIRST: u64 = 0x40000;
const FRAMES: usize = 6000;
const HEAP: u64 = MAP_MIN + (16 << 20);
const FILE: u64 = HEAP + (64 << 20);
const PAGES: u64 = 300;

/// A place in the crate that executes a barrier or a TLBI: line, and what.
type Site = (u32, &'static str);

/// RAM, and a record of all that is done to the MMU.
struct Recorder {
    ram: RefCell<Vec<[u64; 512]>>,
    events: RefCell<Vec<(u8, Event, Option<Site>)>>,
    cpu: Cell<u8>,
}

impl Recorder {
    fn record(&self, event: Event, site: Option<Site>) {
        self.events.borrow_mut().push((self.cpu.get(), event, site));
    }

    fn index(frame: Frame) -> usize {
        (frame.number() - FIRST) as usize
    }

    fn contents(&self, frame: Frame, what: Contents) {
        let frame = frame.number();
        self.record(Event::Contents { frame, what }, None);
    }
}

impl Mmu for Recorder {
    fn read_descriptor(&self, table: Frame, index: usize) -> u64 {
        self.ram.borrow()[Self::index(table)][index]
    }

    fn write_descriptor(&self, table: Frame, index: usize, level: u8, value: u64) {
        let old = self.read_descriptor(table, index);
        let event = Event::Descriptor {
            table: table.number(),
            index: index as u16,
            level,
            old,
            new: value,
        };
        self.record(event, None);
        self.ram.borrow_mut()[Self::index(table)][index] = value;
    }

    fn barrier(&self, barrier: memory::Barrier) {
        let line = Location::caller().line();
        let (barrier, name) = match barrier {
            memory::Barrier::DmbIshst => (model::Barrier::DmbIshst, "DMB ISHST"),
            memory::Barrier::DsbIshst => (model::Barrier::DsbIshst, "DSB ISHST"),
            memory::Barrier::DsbNshst => (model::Barrier::DsbNshst, "DSB NSHST"),
            memory::Barrier::DsbIsh => (model::Barrier::DsbIsh, "DSB ISH"),
            memory::Barrier::DsbNsh => (model::Barrier::DsbNsh, "DSB NSH"),
            memory::Barrier::Isb => (model::Barrier::Isb, "ISB"),
        };
        self.record(Event::Barrier(barrier), Some((line, name)));
    }

    fn tlbi(&self, op: memory::Tlbi) {
        use memory::Tlbi as T;
        let line = Location::caller().line();
        let leaf = |va, asid| Scope::Leaf { va, asid };
        let page = |va, asid| Scope::Page { va, asid };
        let (scope, broadcast, name) = match op {
            T::Vale1 { va, asid } => (leaf(va, Some(asid)), false, "TLBI VALE1"),
            T::Vae1 { va, asid } => (page(va, Some(asid)), false, "TLBI VAE1"),
            T::Vale1Is { va, asid } => (leaf(va, Some(asid)), true, "TLBI VALE1IS"),
            T::Vae1Is { va, asid } => (page(va, Some(asid)), true, "TLBI VAE1IS"),
            T::Vaale1Is { va } => (leaf(va, None), true, "TLBI VAALE1IS"),
            T::Vaae1Is { va } => (page(va, None), true, "TLBI VAAE1IS"),
            T::Aside1Is { asid } => (Scope::Asid(asid), true, "TLBI ASIDE1IS"),
            T::Vmalle1 => (Scope::All, false, "TLBI VMALLE1"),
            T::Vmalle1Is => (Scope::All, true, "TLBI VMALLE1IS"),
        };
        self.record(Event::Tlbi(Tlbi { scope, broadcast }), Some((line, name)));
    }

    fn zero_frame(&self, frame: Frame) {
        self.ram.borrow_mut()[Self::index(frame)].fill(0);
        self.contents(frame, Contents::Stored);
    }

    fn copy_frame(&self, from: Frame, to: Frame) {
        let mut ram = self.ram.borrow_mut();
        ram[Self::index(to)] = ram[Self::index(from)];
        self.contents(to, Contents::Stored);
    }

    fn with_frame(&self, frame: Frame, f: &mut dyn FnMut(&mut [u8; PAGE_BYTES])) {
        // No test here looks at what is in a page of a program.
        f(&mut [0; PAGE_BYTES]);
        self.contents(frame, Contents::Lent);
    }

    fn sync_icache(&self, frame: Frame) {
        self.contents(frame, Contents::Fetchable);
    }

    fn frame_event(&self, frame: Frame, freed: bool) {
        let frame = frame.number();
        self.record(Event::Frame { frame, freed }, None);
    }
}

struct Empty;

impl Source for Empty {
    fn fill(&self, _: u64, _: &mut [u8; PAGE_BYTES]) {}
}

/// The life of a family, on a machine.
struct World {
    mem: Memory<Recorder>,
    /// Threads of the first process run on both.
    cpus: u8,
}

impl World {
    fn new(cpus: u8, asid_bits: u8) -> World {
        let recorder = Recorder {
            ram: RefCell::new(vec![[u64::MAX; 512]; FRAMES]),
            events: RefCell::default(),
            cpu: Cell::new(0),
        };
        let meta = Vec::leak((0..FRAMES).map(|_| FrameMeta::new()).collect());
        let frames = Frames::new(meta, Frame::new(FIRST));
        frames.add(Frame::new(FIRST)..Frame::new(FIRST + FRAMES as u64));
        let mem = Memory::new(recorder, frames, asid_bits, cpus.into()).expect("a zero page");
        World { mem, cpus }
    }

    fn done(&self, operation: Operation) {
        self.mem.mmu.record(Event::Done(operation), None);
    }

    fn born(&self, space: &AddressSpace) {
        let root = space.root();
        let event = Event::SpaceNew {
            space: space.serial(),
            root: root.frame().number(),
            asid: root.asid(),
        };
        self.mem.mmu.record(event, None);
    }

    fn run(&self, space: Option<&AddressSpace>) {
        let mmu = &self.mem.mmu;
        let cpu = usize::from(mmu.cpu.get());
        let value = space.map_or(0, |space| {
            self.mem.activate(space.root(), cpu);
            space.root().ttbr0()
        });
        mmu.record(Event::Barrier(model::Barrier::DsbIsh), None);
        mmu.record(Event::Ttbr0(value), Some((0, "MSR TTBR0")));
        mmu.record(Event::Barrier(model::Barrier::Isb), Some((0, "ISB")));
        self.done(Operation::Switch);
    }

    fn touch(&self, space: &mut AddressSpace, addr: u64, access: Access) {
        let handled = space.fault(&self.mem, Request { addr, access });
        assert!(handled.succeeded(), "{handled:?} at {addr:#x}");
        let spurious = handled.outcome == Outcome::Spurious;
        self.done(Operation::Fault { va: addr, spurious });
    }

    fn write(&self, space: &mut AddressSpace, pages: std::ops::Range<u64>) {
        for page in pages {
            self.touch(space, HEAP + page * PAGE_SIZE, Access::Write);
        }
    }

    fn fork(&self, parent: &mut AddressSpace, mode: ForkMode) -> AddressSpace {
        let (child, _) = parent.fork(&self.mem, mode).expect("memory");
        self.born(&child);
        self.done(Operation::Fork);
        child
    }

    fn end(&self, space: AddressSpace) {
        let serial = space.serial();
        space.destroy(&self.mem);
        let event = Event::SpaceEnd { space: serial };
        self.mem.mmu.record(event, None);
        self.done(Operation::End);
    }

    fn family(&self, mode: ForkMode) {
        let (mem, mmu) = (&self.mem, &self.mem.mmu);
        let file = Arc::new(PageCache::new(1, 16 * PAGE_SIZE, Box::new(Empty)));
        let mut a = AddressSpace::new(mem).expect("memory");
        self.born(&a);
        self.run(Some(&a));
        if self.cpus > 1 {
            // Another thread of it runs there all the time.
            mmu.cpu.set(1);
            self.run(Some(&a));
            mmu.cpu.set(0);
        }
        let rw = Prot::READ.union(Prot::WRITE);
        let map = |space: &mut AddressSpace, start, pages: u64, prot, backing| {
            let mapping = Mapping {
                start,
                end: start + pages * PAGE_SIZE,
                prot,
                shared: false,
                may_write: true,
                backing,
                region: Region::Mmap,
                charged: false,
            };
            space.map(mem, mapping).expect("room");
            self.done(Operation::Map);
        };
        let cached = |offset| Backing::File {
            cache: file.clone(),
            offset,
        };
        map(&mut a, HEAP, PAGES, rw, Backing::Anonymous);
        map(&mut a, FILE, 8, Prot::READ.union(Prot::EXEC), cached(0));
        map(&mut a, FILE + (8 << 20), 8, rw, cached(0));
        self.touch(&mut a, FILE, Access::Exec);
        self.touch(&mut a, FILE + (8 << 20), Access::Read);
        self.touch(&mut a, FILE + (8 << 20), Access::Write);
        self.touch(&mut a, FILE + (8 << 20) + PAGE_SIZE, Access::Write);
        for page in 0..4 {
            self.touch(&mut a, HEAP + page * PAGE_SIZE, Access::Read);
        }
        self.write(&mut a, 0..PAGES);
        let mut b = self.fork(&mut a, mode);
        self.write(&mut a, 0..3);
        self.run(Some(&b));
        self.write(&mut b, 2..6);
        // Alone in some pages, and not in others.
        self.touch(&mut b, HEAP + 100 * PAGE_SIZE, Access::Write);
        let mut c = self.fork(&mut b, mode);
        self.run(Some(&c));
        self.write(&mut c, 5..8);
        let protect = |space: &mut AddressSpace, from: u64, to: u64, prot| {
            let (from, to) = (HEAP + from * PAGE_SIZE, HEAP + to * PAGE_SIZE);
            space.protect(mem, from, to, prot).expect("mapped");
            self.done(Operation::Protect);
        };
        let unmap = |space: &mut AddressSpace, from: u64, to: u64| {
            let (from, to) = (HEAP + from * PAGE_SIZE, HEAP + to * PAGE_SIZE);
            space.unmap(mem, from, to).expect("mapped");
            self.done(Operation::Unmap);
        };
        protect(&mut c, 5, 7, Prot::READ);
        protect(&mut c, 5, 7, rw);
        self.write(&mut c, 5..7);
        unmap(&mut c, 5, 8);
        unmap(&mut c, 10, 200);
        self.run(None);
        self.end(c);
        self.run(Some(&b));
        self.write(&mut b, 0..20);
        self.run(None);
        self.end(b);
        self.run(Some(&a));
        // The last owner of all.
        self.write(&mut a, 0..PAGES);
        // Once more, of pages that the child leaves as they are.
        let d = self.fork(&mut a, mode);
        self.end(d);
        self.write(&mut a, 0..1);
        // The TLB refuses what the table allows: there is nothing to do but to forget.
        self.write(&mut a, 0..1);
        unmap(&mut a, 0, PAGES);
        map(
            &mut a,
            HEAP,
            4,
            Prot::READ.union(Prot::EXEC).union(Prot::WRITE),
            Backing::Anonymous,
        );
        self.write(&mut a, 0..2);
        self.touch(&mut a, HEAP, Access::Exec);
        self.touch(&mut a, HEAP, Access::Write);
        self.run(None);
        if self.cpus > 1 {
            mmu.cpu.set(1);
            self.run(None);
            mmu.cpu.set(0);
        }
        self.end(a);
        PageCache::release(file, mem);
    }
}

type Stream = Vec<(u8, Event, Option<Site>)>;

fn stream(mode: ForkMode, cpus: u8) -> Stream {
    let world = World::new(cpus, 16);
    world.family(mode);
    world.mem.mmu.events.take()
}

fn check<'a>(events: impl Iterator<Item = &'a (u8, Event, Option<Site>)>) -> Vec<Violation> {
    let mut checker = Checker::new(8);
    for (position, (cpu, event, _)) in events.enumerate() {
        let at = At {
            position: position as u64,
            time: 0,
            cpu: *cpu,
        };
        checker.event(at, *event);
    }
    checker.violations().to_vec()
}

const MODES: [ForkMode; 3] = [ForkMode::Classic, ForkMode::SharedTables, ForkMode::Eager];

#[test]
fn the_crate_keeps_the_rules() {
    for mode in MODES {
        for cpus in [1, 2] {
            let events = stream(mode, cpus);
            let found = check(events.iter());
            assert!(found.is_empty(), "{mode:?}, {cpus} CPUs:\n{}", found[0]);
        }
    }
    // More live address spaces than ASIDs.
    let world = World::new(1, 2);
    let mut first = AddressSpace::new(&world.mem).expect("memory");
    world.born(&first);
    world.run(Some(&first));
    let heap = Mapping {
        start: HEAP,
        end: HEAP + PAGES * PAGE_SIZE,
        prot: Prot::READ.union(Prot::WRITE),
        shared: false,
        may_write: true,
        backing: Backing::Anonymous,
        region: Region::Heap,
        charged: false,
    };
    first.map(&world.mem, heap).expect("room");
    world.write(&mut first, 0..3);
    let mut children: Vec<_> = (0..9).map(|_| world.fork(&mut first, MODES[0])).collect();
    for _ in 0..2 {
        for child in &mut children {
            world.run(Some(child));
            world.write(child, 0..2);
        }
    }
    world.run(None);
    children.into_iter().for_each(|child| world.end(child));
    world.end(first);
    let events = world.mem.mmu.events.take();
    let found = check(events.iter());
    assert!(found.is_empty(), "few ASIDs:\n{}", found[0]);
    // The flush that a CPU owes before it uses numbers that are handed out anew.
    let vmalle1 = |(_, event, _): &&(u8, Event, Option<Site>)| !matches!(event, Event::Tlbi(op) if op.scope == Scope::All);
    let found = check(events.iter().filter(vmalle1));
    assert_eq!(found.first().map(|v| v.rule), Some(Rule::E7), "{found:#?}");
}

/// Instances that are left out of each site, at most.
const INSTANCES: usize = 24;

#[test]
fn whatever_is_left_out_is_named() {
    let mut caught: BTreeMap<Site, (usize, usize, String)> = BTreeMap::new();
    for mode in MODES {
        for cpus in [1, 2] {
            let events = stream(mode, cpus);
            let mut instances: BTreeMap<Site, Vec<usize>> = BTreeMap::new();
            for (index, (_, _, site)) in events.iter().enumerate() {
                if let Some(site) = site {
                    instances.entry(*site).or_default().push(index);
                }
            }
            for (site, at) in instances {
                let step = at.len().div_ceil(INSTANCES);
                for &left_out in at.iter().step_by(step) {
                    let rest = events.iter().enumerate().filter(|(i, _)| *i != left_out);
                    let found = check(rest.map(|(_, event)| event));
                    let entry = caught.entry(site).or_default();
                    entry.1 += 1;
                    if let Some(violation) = found.first() {
                        entry.0 += 1;
                        entry.2 = violation.to_string();
                    }
                }
            }
        }
    }
    let mut missed = Vec::new();
    for ((line, what), (found, tried, example)) in caught {
        println!("change.rs:{line} {what}: {found} of {tried}, such as: {example}");
        // Not each time: a range is invalidated page by page, holes and all, and a DSB may be followed by
        // another one before anybody relies on it.
        if found == 0 {
            missed.push(format!("change.rs:{line} {what}: 0 of {tried}"));
        }
    }
    assert!(missed.is_empty(), "not noticed:\n{}", missed.join("\n"));
}

/// The stream of a kernel that does not store 0 before another descriptor.
fn without_break(events: &Stream, at: usize) -> Stream {
    let mut events = events.clone();
    let (
        _,
        Event::Descriptor {
            table, index, old, ..
        },
        _,
    ) = events.remove(at)
    else {
        panic!("not a write");
    };
    let next = events[at..]
        .iter_mut()
        .find_map(|(_, event, _)| match event {
            Event::Descriptor {
                table: t,
                index: i,
                old,
                ..
            } if (*t, *i) == (table, index) => Some(old),
            _ => None,
        });
    if let Some(next) = next {
        *next = old;
    }
    events
}

#[test]
fn an_entry_that_is_not_broken_is_named() {
    for mode in MODES {
        let events = stream(mode, 1);
        let mut tried = 0;
        for (index, (_, event, _)) in events.iter().enumerate() {
            let Event::Descriptor {
                level, old, new, ..
            } = event
            else {
                continue;
            };
            // Break-before-make, and entries that go for good.
            if old & 1 == 0 || new & 1 != 0 {
                continue;
            }
            tried += 1;
            if tried > 200 {
                break;
            }
            let found = check(without_break(&events, index).iter());
            let rules: Vec<Rule> = found.iter().map(|violation| violation.rule).collect();
            assert!(
                matches!(
                    rules.first(),
                    Some(Rule::E1 | Rule::E3 | Rule::E4 | Rule::E5)
                ),
                "{mode:?}: the break at {index}, level {level}: {rules:?}"
            );
            // The write alone is missing: somebody else's store, as far as the stream tells.
            let rest = events.iter().enumerate().filter(|(i, _)| *i != index);
            let found = check(rest.map(|(_, event)| event));
            assert!(
                !found.is_empty(),
                "{mode:?}: the break at {index} is missing"
            );
        }
        assert!(tried > 5, "{mode:?}");
    }
}

/// Broadcast forms made local, and DSBs of the inner shareable domain made non-shareable: wrong as
/// soon as an address space has run on two CPUs.
#[test]
fn whatever_is_too_weak_is_named() {
    for mode in MODES {
        let events = stream(mode, 2);
        let mut tried: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for index in 0..events.len() {
            let mut weak = events.clone();
            match &mut weak[index].1 {
                Event::Tlbi(op) if op.broadcast => op.broadcast = false,
                Event::Barrier(barrier @ model::Barrier::DsbIsh) => {
                    *barrier = model::Barrier::DsbNsh;
                }
                _ => continue,
            }
            let Some((_, what)) = events[index].2 else {
                continue;
            };
            let entry = tried.entry(what).or_default();
            if entry.1 == 2 * INSTANCES {
                continue;
            }
            entry.1 += 1;
            entry.0 += usize::from(!check(weak.iter()).is_empty());
        }
        println!("{mode:?}: {tried:?}");
        for (what, (found, tried)) in tried {
            assert!(found > 0, "{mode:?}: {what}: {found} of {tried}");
        }
    }
}
