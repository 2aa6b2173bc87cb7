//! The story of copy-on-write as evidence: the best example of each step that the trace holds.
//!
//! Nothing here knows the demonstration: any program's trace is searched for a page that two
//! processes shared, that one of them copied and the other then took over; for switches between
//! address spaces; for children that exec; for vforks. What is not there is said to be not there.

use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::{Event, Fault, ForkMode, Origin, Outcome, Record, Region, Space};

use super::place::{Place, program_name};
use crate::analysis::descriptor::{Descriptor, PAGE_SIZE, Ttbr0};
use crate::analysis::fork::{Fork, Parting};
use crate::analysis::machine::{Change, Machine};
use crate::analysis::space::{ForkId, How, Leaf};
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;

/// A process with its address space.
#[derive(Clone, Debug, Serialize)]
pub struct Party {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its address space.
    pub space: Space,
    /// Root table and ASID, if known.
    #[serde(serialize_with = "ttbr0")]
    pub ttbr0: Option<Ttbr0>,
}

fn ttbr0<S: serde::Serializer>(value: &Option<Ttbr0>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|ttbr0| ttbr0.0).serialize(serializer)
}

/// A first write to a shared page.
#[derive(Clone, Debug, Serialize)]
pub struct Write {
    /// Counter ticks.
    pub time: u64,
    /// The outcome's name.
    pub outcome: &'static str,
    /// The faulting instruction.
    pub place: Place,
    /// FAR_EL1.
    pub address: u64,
    /// ESR_EL1.
    pub esr: u32,
    /// ASID of the access.
    pub asid: u16,
    /// Descriptors before and after.
    pub descriptors: (u64, u64),
    /// Frames before and after.
    pub frames: (u64, u64),
    /// References to the old frame, before and after.
    pub references: (u32, u32),
    /// TLBI instructions.
    pub tlbis: u8,
    /// Cycles.
    pub cost: u32,
}

impl Write {
    fn new(machine: &Machine, time: u64, fault: &Fault) -> Write {
        let (old, new) = (Descriptor(fault.old), Descriptor(fault.new));
        Write {
            time,
            outcome: fault.outcome.name(),
            place: Place::of_fault(machine, fault),
            address: fault.addr,
            esr: fault.esr,
            asid: fault.asid,
            descriptors: (fault.old, fault.new),
            frames: (old.frame(), new.frame()),
            references: (fault.refs, fault.refs_after),
            tlbis: fault.tlbis,
            cost: fault.cost,
        }
    }
}

/// How the page came to be, before the fork.
#[derive(Clone, Debug, Serialize)]
pub struct Origins {
    /// The outcome of the fault that made it; `None` if that is not in the trace.
    pub outcome: Option<&'static str>,
    /// Who made it.
    pub place: Place,
    /// The mapping: its region, protection, start and end.
    pub mapping: Option<(&'static str, u8, u64, u64)>,
}

/// Three switches: A, B, A.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Switches {
    /// Counter ticks of each.
    pub times: [u64; 3],
    /// TTBR0_EL1 as written by each.
    pub ttbr0: [u64; 3],
    /// The address spaces.
    pub spaces: [Space; 3],
    /// TLBIs issued by this CPU since boot, at each.
    pub tlbis: [u64; 3],
    /// TLBIs that page faults report between the first and the last.
    pub by_faults: u64,
    /// Calls between them that may also invalidate: forks, unmappings, ends of address spaces.
    pub other_calls: u64,
}

impl Switches {
    /// TLBIs between the first and the last switch that no page fault reports.
    pub fn unexplained(&self) -> u64 {
        self.moved().saturating_sub(self.by_faults)
    }

    /// TLBIs between the first and the last switch.
    pub fn moved(&self) -> u64 {
        self.tlbis[2].saturating_sub(self.tlbis[0])
    }
}

/// Steps 1 to 5: one page from its first write to its last owner.
#[derive(Clone, Debug, Serialize)]
pub struct Chain {
    /// A, which forked.
    pub parent: Party,
    /// B, its child.
    pub child: Party,
    /// V: the page's first byte.
    pub page: u64,
    /// F.
    pub frame: u64,
    /// How A came by it.
    pub origins: Origins,
    /// What the kernel said of the fork.
    #[serde(skip)]
    pub fork: Fork,
    /// The fork's caller.
    pub fork_place: Place,
    /// Descriptors of A and B between the fork and the first write.
    pub forked: (u64, u64),
    /// Whether the first to write was the child.
    pub child_first: bool,
    /// The first write: a copy.
    pub copy: Write,
    /// The other's descriptor right after the copy, as rebuilt.
    pub other_after: u64,
    /// The other's write.
    pub reuse: Option<Write>,
    /// Whether both still shared other memory then.
    pub both_alive: bool,
    /// Switches between the two.
    pub switches: Option<Switches>,
    score: u32,
}

/// Step 6: a child that executes another program.
#[derive(Clone, Debug)]
pub struct Exec {
    /// A.
    pub parent: Party,
    /// B.
    pub child: Party,
    /// The fork, as far as it has come.
    pub fork: Fork,
    /// A's first write after the child had gone.
    pub first: Place,
}

/// Step 7: vfork.
#[derive(Clone, Debug)]
pub struct Vfork {
    /// A.
    pub parent: Party,
    /// The vfork and its caller.
    pub fork: Fork,
    /// Its caller.
    pub place: Place,
}

/// Candidates for a chain that wait for their second write.
const OPEN_MAX: usize = 256;
/// Pairs of address spaces whose switches are remembered.
const PAIRS_MAX: usize = 256;

/// A switch, as remembered.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    time: u64,
    space: Space,
    ttbr0: u64,
    tlbis: u64,
    by_faults: u64,
    other_calls: u64,
}

/// What one CPU did last.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    recent: [Seen; 2],
    by_faults: u64,
    other_calls: u64,
}

/// Collects the evidence.
#[derive(Debug, Default)]
pub struct Story {
    /// The best chain in which the child wrote first, and that in which the parent did.
    chains: [Option<Chain>; 2],
    open: FxHashMap<(Space, u64), Chain>,
    pairs: FxHashMap<(Space, Space), Switches>,
    /// The best switches of any two address spaces.
    any_switches: Option<Switches>,
    cpus: FxHashMap<u8, Cpu>,
    /// Switches, all together.
    pub switches: u64,
    exec: Option<Exec>,
    vfork: Option<Vfork>,
    /// The fork of most pages, their number, and its caller.
    largest: Option<(ForkId, u32, Place)>,
    largest_fork: Option<Fork>,
}

/// The evidence, complete.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Steps 1 to 5.
    pub chain: Option<Chain>,
    /// The other way round: who writes first is exchanged.
    pub reverse: Option<Chain>,
    /// Step 3.
    pub switches: Option<Switches>,
    /// Switches, all together.
    pub switch_count: u64,
    /// Step 6.
    pub exec: Option<Exec>,
    /// Step 7.
    pub vfork: Option<Vfork>,
    /// Step 8.
    pub largest: Option<(Fork, Place)>,
}

impl Story {
    /// Puts everything together and looks up names.
    pub fn finish(mut self, machine: &Machine, symbols: &mut Symbols) -> Evidence {
        let [child_first, parent_first] = &mut self.chains;
        for open in self.open.into_values() {
            let best = if open.child_first {
                &mut *child_first
            } else {
                &mut *parent_first
            };
            if better(&open, best) {
                *best = Some(open);
            }
        }
        let score = |chain: &Option<Chain>| chain.as_ref().map_or(0, |chain| chain.score);
        let (mut chain, mut reverse) = (child_first.take(), parent_first.take());
        if score(&reverse) > score(&chain) {
            std::mem::swap(&mut chain, &mut reverse);
        }
        // Who is worth telling of is known now, and their forks have gone on since.
        for chain in [&mut chain, &mut reverse].into_iter().flatten() {
            chain.fork = machine
                .forks
                .get(chain.fork.id)
                .cloned()
                .unwrap_or(chain.fork.clone());
            if chain.switches.is_none() {
                let key = pair(chain.parent.space, chain.child.space);
                chain.switches = self.pairs.get(&key).copied();
            }
            let writes = [Some(&mut chain.copy), chain.reuse.as_mut()];
            let places = writes.into_iter().flatten().map(|write| &mut write.place);
            for place in places.chain([&mut chain.origins.place, &mut chain.fork_place]) {
                place.resolve(machine, symbols);
            }
        }
        let of_chain = chain.as_ref().and_then(|chain| chain.switches);
        let both = [of_chain, self.any_switches].into_iter().flatten();
        let switches = both.min_by_key(Switches::unexplained);
        if let Some(exec) = &mut self.exec {
            exec.first.resolve(machine, symbols);
        }
        if let Some(vfork) = &mut self.vfork {
            vfork.place.resolve(machine, symbols);
            let id = vfork.fork.id;
            vfork.fork = machine.forks.get(id).cloned().unwrap_or(vfork.fork.clone());
            if vfork.fork.parting.is_none()
                && let Some(child) = machine.process(vfork.fork.event.child)
            {
                vfork.fork.child_faults = child.activity.faults.total().count;
            }
        }
        let largest = self.largest.take().and_then(|(id, _, mut place)| {
            place.resolve(machine, symbols);
            Some((machine.forks.get(id).cloned().or(self.largest_fork)?, place))
        });
        Evidence {
            chain,
            reverse,
            switches,
            switch_count: self.switches,
            exec: self.exec,
            vfork: self.vfork,
            largest,
        }
    }

    fn switch(&mut self, cpu: u8, time: u64, space: Space, ttbr0: u64, tlbis: u64) {
        self.switches += 1;
        let cpu = self.cpus.entry(cpu).or_default();
        // Leaving for the idle loop is no visit to another process.
        if space == 0 || space == cpu.recent[1].space {
            return;
        }
        let now = Seen {
            time,
            space,
            ttbr0,
            tlbis,
            by_faults: cpu.by_faults,
            other_calls: cpu.other_calls,
        };
        let [first, second] = cpu.recent;
        cpu.recent = [second, now];
        if first.space != space || second.space == 0 {
            return;
        }
        let seen = Switches {
            times: [first.time, second.time, time],
            ttbr0: [first.ttbr0, second.ttbr0, ttbr0],
            spaces: [first.space, second.space, space],
            tlbis: [first.tlbis, second.tlbis, tlbis],
            by_faults: now.by_faults - first.by_faults,
            other_calls: now.other_calls - first.other_calls,
        };
        let fewer = |best: &Switches| seen.moved() < best.moved();
        let key = pair(space, second.space);
        let best = self.pairs.get(&key);
        if best.map_or(self.pairs.len() < PAIRS_MAX, fewer) {
            self.pairs.insert(key, seen);
        }
        if self.any_switches.as_ref().is_none_or(fewer) {
            self.any_switches = Some(seen);
        }
    }

    fn copy(&mut self, machine: &Machine, time: u64, fault: &Fault, change: &Change) {
        let Some(fork) = machine.forks.get(change.fork) else {
            return;
        };
        let (parent, child) = (fork.event.parent_space, fork.event.child_space);
        let other = match fault.space {
            space if space == child => parent,
            space if space == parent => child,
            _ => return,
        };
        let page = fault.addr / PAGE_SIZE * PAGE_SIZE;
        let child_first = fault.space == child;
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&(other, page)) {
            return;
        }
        let score = self.score(machine, fault, child_first, fork);
        let best = &self.chains[usize::from(!child_first)];
        let most = score + COMPLETE + ALIVE;
        if best.as_ref().is_some_and(|best| best.score >= most) {
            return;
        }
        let frame = Descriptor(fault.old).frame();
        let Some(theirs) = machine.leaf(other, page) else {
            return;
        };
        if theirs.counted_frame() != Some(frame) {
            return;
        }
        let (old, theirs) = (fault.old, theirs.descriptor.0);
        let chain = Chain {
            parent: party(machine, fork.event.parent, parent),
            child: party(machine, fork.event.child, child),
            page,
            frame,
            origins: origins(machine, parent, page, &change.before),
            fork_place: Place::of_fork(fork),
            forked: if child_first {
                (theirs, old)
            } else {
                (old, theirs)
            },
            child_first,
            copy: Write::new(machine, time, fault),
            other_after: theirs,
            reuse: None,
            both_alive: false,
            switches: self.pairs.get(&pair(parent, child)).copied(),
            score,
            fork: fork.clone(),
        };
        self.open.insert((other, page), chain);
    }

    fn score(&self, machine: &Machine, fault: &Fault, child_first: bool, fork: &Fork) -> u32 {
        let space = machine.spaces.get(&fault.space);
        let region = space
            .and_then(|space| space.mapping(fault.addr))
            .map(|m| m.region);
        let data = match region {
            Some(Region::Mmap | Region::Heap) => 4,
            Some(Region::Program) => 2,
            _ => 0,
        };
        let key = pair(fork.event.parent_space, fork.event.child_space);
        let switched = self
            .pairs
            .get(&key)
            .is_some_and(|switches| switches.moved() == 0);
        let user = fault.origin == Origin::User;
        data + 2 * u32::from(user) + 2 * u32::from(switched) + u32::from(child_first)
    }

    fn reuse(&mut self, machine: &Machine, time: u64, fault: &Fault) {
        let page = fault.addr / PAGE_SIZE * PAGE_SIZE;
        let Some(mut chain) = self.open.remove(&(fault.space, page)) else {
            return;
        };
        if Descriptor(fault.old).frame() == chain.frame {
            chain.reuse = Some(Write::new(machine, time, fault));
            let alive = |space: Space| machine.spaces.contains_key(&space);
            chain.both_alive = alive(chain.parent.space) && alive(chain.child.space);
            chain.score += COMPLETE + if chain.both_alive { ALIVE } else { 0 };
        }
        self.close(chain);
    }

    fn close(&mut self, chain: Chain) {
        let best = &mut self.chains[usize::from(!chain.child_first)];
        if better(&chain, best) {
            *best = Some(chain);
        }
    }

    fn space_end(&mut self, space: Space) {
        if !self.open.is_empty() {
            let gone: Vec<_> = self
                .open
                .keys()
                .filter(|key| key.0 == space)
                .copied()
                .collect();
            let chains: Vec<_> = gone
                .iter()
                .filter_map(|key| self.open.remove(key))
                .collect();
            chains.into_iter().for_each(|chain| self.close(chain));
        }
        self.pairs
            .retain(|pair, _| pair.0 != space && pair.1 != space);
    }

    fn after_parting(&mut self, machine: &Machine, fault: &Fault, id: ForkId) {
        let Some(fork) = machine.forks.get(id) else {
            return;
        };
        if fault.space != fork.event.parent_space || !matches!(fork.parting, Some(Parting::Exec(_)))
        {
            return;
        }
        match &mut self.exec {
            Some(exec) if exec.fork.id == id => exec.fork = fork.clone(),
            Some(exec) if exec.fork.parent_after.reuses.count >= fork.parent_after.reuses.count => {
            }
            _ => {
                self.exec = Some(Exec {
                    parent: party(machine, fork.event.parent, fork.event.parent_space),
                    child: party(machine, fork.event.child, fork.event.child_space),
                    fork: fork.clone(),
                    first: Place::of_fault(machine, fault),
                });
            }
        }
    }

    fn fork(&mut self, machine: &Machine, event: &wire::event::Fork) {
        let Some(fork) = machine.forks.of_child(event.child) else {
            return;
        };
        let place = || Place::of_fork(fork);
        if event.mode == ForkMode::Vfork {
            // The best evidence is a child that found all its pages in place.
            let faulted = |vfork: &Vfork| {
                machine
                    .forks
                    .get(vfork.fork.id)
                    .is_none_or(|fork| fork.parting.is_some() && fork.child_faults > 0)
            };
            if self.vfork.as_ref().is_none_or(faulted) {
                let parent = party(machine, event.parent, event.parent_space);
                self.vfork = Some(Vfork {
                    parent,
                    fork: fork.clone(),
                    place: place(),
                });
            }
            return;
        }
        let pages = fork.pages();
        if self
            .largest
            .as_ref()
            .is_none_or(|(_, most, _)| pages > *most)
        {
            self.largest = Some((fork.id, pages, place()));
            self.largest_fork = Some(fork.clone());
        }
    }
}

/// What a second write adds to a chain's worth, and two processes that live to see it.
const COMPLETE: u32 = 16;
const ALIVE: u32 = 8;

fn better(chain: &Chain, best: &Option<Chain>) -> bool {
    // Of two that are equal, the earlier.
    best.as_ref()
        .is_none_or(|best| (chain.score, best.copy.time) > (best.score, chain.copy.time))
}

fn pair(a: Space, b: Space) -> (Space, Space) {
    (a.min(b), a.max(b))
}

fn party(machine: &Machine, pid: u32, space: Space) -> Party {
    let ttbr0 = machine.spaces.get(&space).and_then(|space| space.ttbr0);
    Party {
        pid,
        name: program_name(machine, pid),
        space,
        ttbr0,
    }
}

fn origins(machine: &Machine, space: Space, page: u64, leaf: &Leaf) -> Origins {
    let mapping = machine
        .spaces
        .get(&space)
        .and_then(|space| space.mapping(page));
    Origins {
        outcome: match leaf.how {
            How::Fault(outcome) => Some(outcome.name()),
            How::Copied => Some("eager copy"),
            How::Empty | How::Adopted => None,
        },
        place: Place::new(machine, space, leaf.pc),
        mapping: mapping.map(|m| (region_name(m.region), m.prot, m.start, m.end)),
    }
}

/// A region, as reports name it.
pub const fn region_name(region: Region) -> &'static str {
    match region {
        Region::Program => "program",
        Region::Heap => "heap",
        Region::Stack => "stack",
        Region::Mmap => "mmap",
        Region::Vdso => "vdso",
    }
}

impl Observer for Story {
    fn before(&mut self, _state: &State, cpu: u8, record: &Record) {
        match record.event {
            Event::Switch {
                space,
                ttbr0,
                tlbis,
                ..
            } => {
                self.switch(cpu, record.time, space, ttbr0, tlbis);
            }
            Event::SpaceEnd { space, .. } => {
                self.cpus.entry(cpu).or_default().other_calls += 1;
                self.space_end(space);
            }
            Event::Fault(ref fault) if fault.tlbis > 0 => {
                self.cpus.entry(cpu).or_default().by_faults += u64::from(fault.tlbis);
            }
            Event::Fork(_)
            | Event::Exec { .. }
            | Event::Unmap { .. }
            | Event::Protect { .. }
            | Event::Discard { .. }
            | Event::Move { .. }
            | Event::TableOwned { .. } => {
                self.cpus.entry(cpu).or_default().other_calls += 1;
            }
            _ => {}
        }
    }

    fn after(&mut self, state: &State, _cpu: u8, record: &Record, change: &Change) {
        let machine = &state.machine;
        match &record.event {
            Event::Fork(fork) => self.fork(machine, fork),
            Event::Fault(fault) if change.fork != 0 => match fault.outcome {
                Outcome::CowCopy => self.copy(machine, record.time, fault, change),
                Outcome::CowReuse => {
                    self.reuse(machine, record.time, fault);
                    self.after_parting(machine, fault, change.fork);
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn restart(&mut self) {
        *self = Story::default();
    }
}
