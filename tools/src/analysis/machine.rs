//! The machine, rebuilt from its events: who maps which frame where, who shares it, and why that
//! changes.
//!
//! Its size is that of the live state (address spaces, their pages, processes, the last forks), not
//! that of the trace. After a loss nothing that the lost events may have changed is taken for certain:
//! comparisons with the kernel then count as "unknown".

use std::ops::Range;

use rustc_hash::FxHashMap;
use wire::event::{Event, Fault, Outcome, Record, Space, Stack};

use super::check::{Checks, Spot, Subject};
use super::descriptor::{Descriptor, LEAVES, PAGE_SIZE, Ttbr0};
use super::fork::{Forks, Parting};
use super::frames::Frames;
use super::overlap::{Object, Overlap};
use super::process::{Activity, Kill, Process};
use super::space::{AddressSpace, Code, ForkId, How, Leaf, TableId, Tables};

/// A program or another file that processes map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path on the machine.
    pub path: String,
    /// GNU build id; empty if it has none.
    pub build_id: Vec<u8>,
}

/// What a fault changed, as the machine knew it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// The page before the fault.
    pub before: Leaf,
    /// The fork whose sharing this fault broke (0: none).
    pub fork: ForkId,
    /// Tables that mapped the old frame before, as rebuilt; `None`: unknown.
    pub references: Option<u32>,
}

/// Processes that ended and are kept one by one; more are summed up.
const ENDED_MAX: usize = 512;
/// Sources of programs kept at most.
const FILES_MAX: usize = 4096;

/// The machine.
#[derive(Debug, Default)]
pub struct Machine {
    /// Live address spaces.
    pub spaces: FxHashMap<Space, AddressSpace>,
    /// Their last-level tables.
    pub tables: Tables,
    /// Reference counts.
    pub frames: Frames,
    /// Live processes, and ended ones that nobody has reaped.
    pub processes: FxHashMap<u32, Process>,
    /// Reaped processes, oldest first; at most a few hundred.
    pub ended: Vec<Process>,
    /// The reaped processes beyond that, summed up, and how many they are.
    pub ended_others: (u64, Activity),
    /// Forks and their debt.
    pub forks: Forks,
    /// Files by id.
    pub files: FxHashMap<u32, File>,
    /// Comparisons with the kernel.
    pub checks: Checks,
    /// Events by kind.
    pub events: [u64; wire::event::KINDS],
    /// Whether the trace records faults; without them no page is known.
    pub faults_traced: bool,
    /// By parent, the tables that the fork under way has shared so far: by child, their addresses.
    pub(super) sharing: FxHashMap<Space, Vec<(Space, Range<u64>)>>,
    /// Threads that are not the first of their process and have not ended, by number.
    pub threads: FxHashMap<u32, Thread>,
    /// What several CPUs do at the same time.
    pub(super) overlap: Overlap,
    /// Set by a loss, and for good: reference counts are no longer certain.
    pub uncertain: bool,
    /// Counter ticks of the first event and of the last.
    pub period: Option<(u64, u64)>,
}

/// A thread that is not the first of its process.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    /// Its process.
    pub pid: u32,
    /// Its name; empty: not told.
    pub name: String,
}

impl Machine {
    /// A machine of which nothing is known yet. `from_start`: the trace begins with the machine.
    pub fn new(from_start: bool, faults_traced: bool) -> Self {
        Machine {
            uncertain: !from_start,
            faults_traced,
            ..Machine::default()
        }
    }

    /// Events were lost here.
    pub fn lost(&mut self) {
        self.uncertain = true;
        self.spaces
            .values_mut()
            .for_each(|space| space.certain = false);
    }

    /// What the kernel said of a file.
    pub fn file(&mut self, id: u32, path: &str, build_id: &[u8]) {
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&id) {
            return;
        }
        let known = self.files.get(&id);
        if known.is_none_or(|file| file.path != path || file.build_id != build_id) {
            self.files.insert(
                id,
                File {
                    path: path.to_owned(),
                    build_id: build_id.to_owned(),
                },
            );
        }
    }

    /// What the kernel said of a thread. A late copy of the message must not bring one back to life,
    /// so that only a process that lives gets one.
    pub fn name_thread(&mut self, pid: u32, tid: u32, name: &str) {
        let lives = |process: &Process| process.ended.is_none();
        if self.threads.contains_key(&tid) || self.processes.get(&pid).is_some_and(lives) {
            let thread = self.threads.entry(tid).or_default();
            thread.pid = pid;
            if thread.name != name {
                name.clone_into(&mut thread.name);
            }
        }
    }

    /// The process of a thread.
    pub fn process_of(&self, tid: u32) -> u32 {
        self.threads.get(&tid).map_or(tid, |thread| thread.pid)
    }

    /// The name of a thread of a process: for the first the process's, and for one of which no name
    /// was told.
    pub fn thread_name(&self, pid: u32, tid: u32) -> Option<&str> {
        let thread = self.threads.get(&tid).filter(|thread| thread.pid == pid)?;
        Some(thread.name.as_str()).filter(|name| !name.is_empty())
    }

    /// What the kernel said of a process.
    pub fn name(&mut self, pid: u32, parent: u32, space: Space, name: &str, file: u32) {
        // A late copy of the message must not bring a process back to life.
        let known = self.processes.contains_key(&pid);
        if !known && self.ended.iter().rev().any(|process| process.pid == pid) {
            return;
        }
        let process = self
            .processes
            .entry(pid)
            .or_insert_with(|| Process::new(pid, space));
        process.parent.get_or_insert(parent);
        if process.name != name {
            name.clone_into(&mut process.name);
        }
        process.file = Some(file);
        if let Some(space) = self.spaces.get_mut(&space) {
            space.program.get_or_insert(file);
        }
    }

    /// The page at `address` of an address space.
    pub fn leaf(&self, space: Space, address: u64) -> Option<&Leaf> {
        let page = address / PAGE_SIZE;
        let table = self.spaces.get(&space)?.slots.get(&(page / LEAVES))?;
        Some(&self.tables.get(*table).leaves[(page % LEAVES) as usize]).filter(|leaf| leaf.valid())
    }

    /// Which instruction of which file an address is, in an address space.
    pub fn code(&self, space: Space, pc: u64) -> Option<Code> {
        self.spaces.get(&space)?.code(pc)
    }

    /// The callers in a call stack of an address space, as far as they lie in files.
    pub fn callers(&self, space: Space, stack: &Stack) -> Vec<Code> {
        let pcs = stack.pcs.iter().take(usize::from(stack.depth));
        pcs.filter_map(|pc| self.code(space, *pc)).collect()
    }

    /// A process, alive or ended.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        let ended = || self.ended.iter().rev().find(|process| process.pid == pid);
        self.processes.get(&pid).or_else(ended)
    }

    fn space_of(&self, pid: u32) -> Space {
        self.processes.get(&pid).map_or(0, |process| process.space)
    }

    /// The processes that use an address space, by pid.
    pub fn users(&self, space: Space) -> Vec<u32> {
        let live = self
            .processes
            .values()
            .filter(|p| p.space == space && p.ended.is_none());
        let mut pids: Vec<u32> = live.map(|p| p.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// The address spaces that map `frame` at `address`, oldest first.
    pub fn sharers(&self, frame: u64, address: u64) -> Vec<Space> {
        let maps = |space: &Space| {
            let leaf = self.leaf(*space, address);
            let mapped = leaf.and_then(|leaf| self.frames.known(leaf.counted_frame()?));
            mapped == Some(frame)
        };
        let mut spaces: Vec<Space> = self.spaces.keys().copied().filter(maps).collect();
        spaces.sort_unstable();
        spaces
    }

    /// The next event.
    pub fn apply(&mut self, record: &Record) -> Change {
        self.events[record.event.kind()] += 1;
        let (first, last) = self.period.unwrap_or((record.time, record.time));
        self.period = Some((first.min(record.time), last.max(record.time)));
        self.overlap.begin(record);
        let change = self.change(record.time, &record.event);
        if self.overlap.possible() {
            for frame in self.frames.changed.drain(..) {
                self.overlap.change(Object::Frame(frame));
            }
            self.overlap.end(&record.event);
            self.checks.decide(&mut self.overlap);
        }
        change
    }

    /// The machine has so many CPUs.
    pub fn set_cpus(&mut self, cpus: u8) {
        self.overlap.set_cpus(cpus);
        self.frames.keep_changes = cpus > 1;
    }

    /// There are no more events.
    pub fn finish(&mut self) {
        self.overlap.finish();
        self.checks.decide(&mut self.overlap);
    }

    fn change(&mut self, time: u64, event: &Event) -> Change {
        match *event {
            Event::Fault(ref fault) => return self.fault(time, fault),
            Event::SpaceNew { space, root, asid } => {
                self.drop_space(space);
                let ttbr0 = Some(Ttbr0::new(root, asid));
                let certain = self.faults_traced;
                self.spaces
                    .insert(space, AddressSpace::new(space, ttbr0, certain));
            }
            Event::SpaceEnd {
                space,
                dropped,
                freed,
                ..
            } => {
                self.space_end(time, space, dropped, freed);
            }
            Event::Spawn { pid, space } => {
                let mut process = Process::new(pid, space);
                (process.started, process.parent) = (Some(time), Some(0));
                self.start(process);
            }
            Event::Fork(ref fork) => self.fork(time, fork),
            Event::Exec {
                pid,
                old_space,
                space,
                file,
                ..
            } => {
                self.part(pid, Parting::Exec(time));
                self.space_mut(space).program = Some(file);
                let process = self.process_mut(pid, old_space);
                (process.space, process.borrowed) = (space, false);
                process.file = Some(file);
                process.activity.execs += 1;
            }
            Event::Exit { pid, space, status } => {
                self.part(pid, Parting::Exit(time));
                self.process_mut(pid, space).ended = Some((time, status));
            }
            Event::Reap { pid, .. } => self.reap(pid),
            Event::Map(ref map) => self.space_mut(map.space).map(map),
            Event::Unmap {
                space,
                start,
                end,
                dropped,
                freed,
            } => {
                self.unmap(time, space, start..end, dropped, freed);
            }
            Event::Protect {
                space,
                start,
                end,
                prot,
                ..
            } => self.protect(space, start, end, prot),
            Event::Switch { to, space, .. } => self.switch(to, space),
            Event::Resident {
                space,
                anon,
                file,
                zero,
            } => {
                let trace = self.certain(space).then(|| self.resident(space));
                let spot = Spot {
                    time,
                    space,
                    address: None,
                };
                let show = |[anon, file, zero]: &[u32; 3]| {
                    format!("{anon} anonymous, {file} of files, {zero} of the zero page")
                };
                self.checks
                    .compare(Subject::Resident, spot, [anon, file, zero], trace, show);
            }
            Event::Unimplemented { pid, number, pc } => {
                let code = self.code(self.space_of(pid), pc);
                self.process_mut(pid, 0).missing(number, pc, code);
            }
            Event::Killed {
                pid,
                signal,
                pc,
                addr,
            } => {
                let code = self.code(self.space_of(pid), pc);
                let kill = Kill {
                    signal,
                    pc,
                    code,
                    address: addr,
                };
                self.process_mut(pid, 0).killed = Some(kill);
            }
            Event::Refused(ref refused) => {
                let space = self.space_of(refused.pid);
                let code = self.code(space, refused.pc);
                let callers = self.callers(space, &refused.stack);
                self.process_mut(refused.pid, 0)
                    .refused(refused, code, callers);
            }
            Event::AsidNew { space, asid, .. } => {
                let space = self.space_mut(space);
                space.ttbr0 = space.ttbr0.map(|old| Ttbr0::new(old.root(), asid));
            }
            Event::TablesShared {
                parent_space,
                child_space,
                start,
                end,
            } => {
                let sharing = self.sharing.entry(parent_space).or_default();
                sharing.push((child_space, start..end));
            }
            Event::TableOwned {
                space,
                start,
                copied,
            } => self.table_owned(space, start, copied),
            Event::Discard {
                space,
                start,
                end,
                dropped,
                freed,
            } => self.discard(time, space, start..end, dropped, freed),
            Event::Move {
                space,
                start,
                end,
                to,
            } => self.move_pages(space, start..end, to),
            Event::ThreadStart { pid, tid, .. } => {
                let name = String::new();
                self.threads.insert(tid, Thread { pid, name });
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.activity.threads += 1;
                }
            }
            Event::ThreadExit { tid, .. } => {
                self.threads.remove(&tid);
            }
            Event::Descriptor { .. }
            | Event::Barrier(_)
            | Event::Tlbi { .. }
            | Event::Ttbr0 { .. }
            | Event::Frame { .. }
            | Event::Contents { .. }
            | Event::KernelPage { .. }
            | Event::Amplification { .. } => {}
        }
        Change::default()
    }

    /// Whether the rebuilt state of an address space can be relied on.
    pub fn certain(&self, space: Space) -> bool {
        self.spaces.get(&space).is_some_and(|space| space.certain)
    }

    pub(super) fn space_mut(&mut self, space: Space) -> &mut AddressSpace {
        // An address space whose beginning was not seen: what it maps is not known.
        self.spaces
            .entry(space)
            .or_insert_with(|| AddressSpace::new(space, None, false))
    }

    pub(super) fn process_mut(&mut self, pid: u32, space: Space) -> &mut Process {
        self.processes
            .entry(pid)
            .or_insert_with(|| Process::new(pid, space))
    }

    pub(super) fn start(&mut self, mut process: Process) {
        // A pid that is used again: the one before is over, even if its reaping was lost. A message
        // about the new process may also have come before its first event.
        if let Some(before) = self.processes.remove(&process.pid) {
            if before.started.is_some() {
                self.retire(before);
            } else {
                process.name = before.name;
            }
        }
        self.processes.insert(process.pid, process);
    }

    fn part(&mut self, pid: u32, parting: Parting) {
        let faults = self
            .processes
            .get(&pid)
            .map(|process| process.activity.faults.total().count);
        self.forks.part(pid, parting, faults.unwrap_or(0));
    }

    fn reap(&mut self, pid: u32) {
        if let Some(process) = self.processes.remove(&pid) {
            self.retire(process);
        }
    }

    fn retire(&mut self, process: Process) {
        if self.ended.len() < ENDED_MAX {
            self.ended.push(process);
        } else {
            self.ended_others.0 += 1;
            self.ended_others.1.merge(&process.activity);
        }
    }

    fn switch(&mut self, to: u32, space: Space) {
        if let Some(process) = self.processes.get_mut(&self.process_of(to))
            && process.space == space
        {
            process.activity.switches += 1;
        }
    }

    fn fault(&mut self, time: u64, fault: &Fault) -> Change {
        // This runs for every fault of a trace: each map is asked once if that is possible.
        let process = self.processes.entry(fault.pid);
        let process = process.or_insert_with(|| Process::new(fault.pid, fault.space));
        process.activity.faults.add(fault);
        let file = process.file;
        let space = self.space_mut(fault.space);
        space.program = space.program.or(file);
        let here = Here {
            spot: Spot {
                time,
                space: fault.space,
                address: Some(fault.addr),
            },
            certain: space.certain,
            table: space.slots.get(&(fault.addr / PAGE_SIZE / LEAVES)).copied(),
            index: (fault.addr / PAGE_SIZE % LEAVES) as usize,
        };
        let before = match here.table {
            Some(table) => self.tables.get(table).leaves[here.index],
            None => Leaf::default(),
        };
        if matches!(
            fault.outcome,
            Outcome::Denied | Outcome::OutOfMemory | Outcome::Fatal
        ) {
            return Change {
                before,
                ..Change::default()
            };
        }
        let before = self.before(&here, before, Descriptor(fault.old));
        // Before a table is copied, and with it each of its references.
        let references = self.references(&here, fault.refs, &before);
        self.tell_table(here.table);
        let table_fork = match fault.outcome {
            Outcome::TableUnshare | Outcome::TableReuse => self.table_fault(fault),
            _ => 0,
        };
        let broke = matches!(
            fault.outcome,
            Outcome::CowCopy | Outcome::CowReuse | Outcome::TableUnshare | Outcome::TableReuse
        );
        let fork = match (broke, table_fork) {
            (false, _) => 0,
            (true, 0) => before.fork,
            (true, fork) => fork,
        };
        if fork != 0 {
            self.forks.pay(fork, fault.space, fault.outcome, fault.cost);
            self.process_mut(fault.pid, fault.space)
                .activity
                .debt
                .add(fault.cost);
        }
        let table = if table_fork == 0 { here.table } else { None };
        self.after(&here, table, fault, &before, broke);
        Change {
            before,
            fork,
            references,
        }
    }

    /// The page before the fault: as rebuilt, checked against the kernel's word, which wins.
    fn before(&mut self, here: &Here, mut before: Leaf, old: Descriptor) -> Leaf {
        let frame = before.descriptor.frame();
        if before.valid() && old.valid() && self.frames.known(frame).is_none() {
            // An eager copy's frame is the one thing that rules do not give.
            self.frames.reveal(frame, old.frame());
        }
        let named = self.frames.named(before.descriptor);
        // With several CPUs the rights that a shared table was left with depend on who took it
        // apart first, which the order of the events need not show.
        let inferred = self.overlap.possible() && before.inferred && old.valid();
        let agreed = old.same_translation(named)
            || inferred && before.valid() && old.frame() == named.frame();
        let shown = if agreed { old } else { named };
        let trace = here.certain.then_some(shown);
        // Another CPU that copies a shared table protects what it finds there.
        let objects = |_: &Overlap| here.table.map(Object::Table).into_iter().collect();
        self.checks.compare_shared(
            Subject::Descriptor,
            here.spot,
            (old, trace),
            (&mut self.overlap, objects),
            |d| format!("{:#018x} ({d})", d.0),
        );
        let counted = before.counted_frame();
        if !agreed {
            let how = if old.valid() {
                How::Adopted
            } else {
                How::Empty
            };
            before = Leaf {
                how,
                ..Leaf::default()
            };
        }
        (before.descriptor, before.inferred) = (old, false);
        // From here on the leaf names its frame as the kernel does.
        if before.counted_frame() != counted {
            if let Some(frame) = counted {
                self.frames.release(frame);
            }
            if let Some(frame) = before.counted_frame() {
                self.frames.acquire(frame);
            }
        }
        before
    }

    /// A table that others share, or did: what happens to it may concern them.
    fn tell_table(&mut self, table: Option<TableId>) {
        if let Some(table) = table
            && (self.tables.get(table).parents > 1 || self.tables.get(table).fork != 0)
        {
            self.overlap.change(Object::Table(table));
        }
    }

    /// References to the frame before the fault, checked against the kernel's count.
    fn references(&mut self, here: &Here, kernel: u32, before: &Leaf) -> Option<u32> {
        let frame = before.counted_frame()?;
        let known = !self.uncertain && here.certain;
        // The page cache holds its frames itself.
        let hold = u32::from(before.descriptor.file());
        let references = known.then(|| self.frames.references(frame) + hold);
        if kernel != 0 {
            let real = self.frames.known(frame).unwrap_or(frame);
            let objects = |_: &Overlap| {
                let table = here.table.map(Object::Table);
                [Some(Object::Frame(real)), table]
                    .into_iter()
                    .flatten()
                    .collect()
            };
            self.checks.compare_shared(
                Subject::References,
                here.spot,
                (kernel, references),
                (&mut self.overlap, objects),
                |n| format!("{n} to frame {frame:#x}"),
            );
        }
        references
    }

    /// The page after the fault. `table`: where it is, if that is known.
    fn after(
        &mut self,
        here: &Here,
        table: Option<TableId>,
        fault: &Fault,
        before: &Leaf,
        broke: bool,
    ) {
        let new = Descriptor(fault.new);
        let mut leaf = Leaf {
            descriptor: new,
            ..*before
        };
        if broke {
            leaf.fork = 0;
        }
        let (released, acquired) = (before.counted_frame(), leaf.counted_frame());
        if !before.valid() || before.descriptor.frame() != new.frame() {
            (leaf.pc, leaf.how) = (fault.pc, How::Fault(fault.outcome));
        }
        let table = table.unwrap_or_else(|| {
            let slot = fault.addr / PAGE_SIZE / LEAVES;
            let space = self.spaces.get_mut(&fault.space);
            let slots = space.map(|space| space.slots.entry(slot));
            slots.map_or(0, |slot| *slot.or_insert_with(|| self.tables.add()))
        });
        self.tables.get_mut(table).leaves[here.index] = leaf;
        if released == acquired {
            return;
        }
        if let Some(frame) = acquired {
            let references = self.frames.acquire(frame);
            if new.anonymous() {
                let trace = (!self.uncertain).then_some(references);
                let objects = |_: &Overlap| vec![Object::Frame(frame)];
                self.checks.compare_shared(
                    Subject::NewFrame,
                    here.spot,
                    (1, trace),
                    (&mut self.overlap, objects),
                    |n| format!("{n} references to the new frame {frame:#x}"),
                );
            }
        }
        if let Some(frame) = released {
            self.frames.release(frame);
        }
    }
}

/// Where a fault is.
struct Here {
    spot: Spot,
    certain: bool,
    table: Option<TableId>,
    index: usize,
}
