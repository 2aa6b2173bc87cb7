//! The life of one page: every mapping, frame and descriptor it had, in every process that had
//! to do with it, and why each changed.

use std::fmt::Write as _;

use rustc_hash::FxHashSet;
use serde::Serialize;
use wire::event::{Access, Backing, Event, ForkMode, Origin, Record, Space};

use super::place::{Place, program_name};
use super::story::region_name;
use super::summary::SCHEMA_VERSION;
use super::text::{DIM, HEAD, MARK, count, plural, protection, span, styled};
use crate::analysis::descriptor::{Descriptor, LEAVES, PAGE_SIZE};
use crate::analysis::machine::{Change, Machine};
use crate::analysis::stream::{Observer, State, mode_name};
use crate::analysis::symbols::Symbols;

/// Changes remembered at most.
const ENTRIES_MAX: usize = 100_000;

/// One change in the life of the page, in one address space.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Counter ticks.
    pub time: u64,
    /// Address space.
    pub space: Space,
    /// The process that did it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What happened.
    pub what: String,
    /// The frame after it, if the page is mapped and its frame known.
    pub frame: Option<u64>,
    /// The descriptor after it (0: none).
    pub descriptor: u64,
    /// Whether the descriptor follows from rules instead of being reported by the kernel.
    pub rebuilt: bool,
    /// References to the frame after it, as rebuilt.
    pub references: Option<u32>,
    /// The other processes that map the same frame here, after it.
    pub shared_with: Vec<u32>,
    /// Where in the program.
    pub place: Option<Place>,
    #[serde(skip)]
    touched: [Option<u64>; 2],
}

/// Collects the life of one page.
pub struct Life {
    pid: u32,
    page: u64,
    entries: Vec<Entry>,
    left_out: u64,
    /// Address spaces that the process has used.
    spaces: FxHashSet<Space>,
    /// Pairs of address spaces that a fork relates.
    forks: Vec<(Space, Space)>,
    /// Before the event at hand: frame, and whether the space knew the page.
    before: Option<(Option<u64>, bool)>,
}

impl Life {
    /// Of the page of `pid` that contains `address`.
    pub fn new(pid: u32, address: u64) -> Self {
        Life {
            pid,
            page: address / PAGE_SIZE * PAGE_SIZE,
            entries: Vec::new(),
            left_out: 0,
            spaces: FxHashSet::default(),
            forks: Vec::new(),
            before: None,
        }
    }

    /// Whether the process occurs in the trace.
    pub fn known(&self) -> bool {
        !self.spaces.is_empty()
    }

    /// What concerns the process's page: its own entries, and those of whoever shared a frame
    /// with it there, or forked it, or was forked by it.
    pub fn finish(mut self, machine: &Machine, symbols: &mut Symbols) -> (Vec<Entry>, u64) {
        let own: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|e| self.spaces.contains(&e.space))
            .collect();
        let frames: FxHashSet<u64> = own.iter().flat_map(|e| e.touched).flatten().collect();
        let mut related = self.spaces.clone();
        for entry in &self.entries {
            if entry
                .touched
                .iter()
                .flatten()
                .any(|frame| frames.contains(frame))
            {
                related.insert(entry.space);
            }
        }
        for (parent, child) in &self.forks {
            if self.spaces.contains(parent) {
                related.insert(*child);
            } else if self.spaces.contains(child) {
                related.insert(*parent);
            }
        }
        self.entries.retain(|entry| related.contains(&entry.space));
        for place in self
            .entries
            .iter_mut()
            .filter_map(|entry| entry.place.as_mut())
        {
            place.resolve(machine, symbols);
        }
        (self.entries, self.left_out)
    }

    /// Whether an address space maps the page, or could.
    fn knows(&self, machine: &Machine, space: Space) -> bool {
        let mapping = machine
            .spaces
            .get(&space)
            .and_then(|space| space.mapping(self.page));
        mapping.is_some() || machine.leaf(space, self.page).is_some()
    }

    fn frame(&self, machine: &Machine, space: Space) -> Option<u64> {
        let leaf = machine.leaf(space, self.page)?;
        machine.frames.known(leaf.descriptor.frame())
    }

    fn note(
        &mut self,
        machine: &Machine,
        time: u64,
        space: Space,
        pid: u32,
        what: String,
        place: Option<Place>,
    ) {
        if self.entries.len() >= ENTRIES_MAX {
            self.left_out += 1;
            return;
        }
        let leaf = machine.leaf(space, self.page);
        let frame = self.frame(machine, space);
        let counted = leaf.and_then(|leaf| machine.frames.known(leaf.counted_frame()?));
        let sharers = counted
            .map(|frame| machine.sharers(frame, self.page))
            .unwrap_or_default();
        let others = sharers.into_iter().filter(|other| *other != space);
        let users: Vec<u32> = machine.users(space);
        let pid = if pid != 0 {
            pid
        } else {
            users.first().copied().unwrap_or(0)
        };
        self.entries.push(Entry {
            time,
            space,
            pid,
            name: program_name(machine, pid),
            what,
            frame,
            // Of an unknown frame only the permissions are known.
            descriptor: leaf.map_or(0, |leaf| leaf.descriptor.at(frame.unwrap_or(0)).0),
            rebuilt: leaf.is_some_and(|leaf| leaf.inferred),
            references: counted.map(|frame| machine.frames.references(frame)),
            shared_with: others.flat_map(|space| machine.users(space)).collect(),
            place,
            touched: [self.before.and_then(|before| before.0), frame],
        });
    }

    fn fork(&mut self, machine: &Machine, time: u64, fork: &wire::event::Fork) {
        let place = || machine.forks.of_child(fork.child).map(Place::of_fork);
        if fork.mode == ForkMode::Vfork {
            if self.knows(machine, fork.parent_space) {
                let what = format!("vforks pid {}, which borrows the address space", fork.child);
                self.note(machine, time, fork.parent_space, fork.parent, what, place());
            }
            return;
        }
        self.forks.push((fork.parent_space, fork.child_space));
        if !self.knows(machine, fork.parent_space) {
            return;
        }
        let there = machine.leaf(fork.parent_space, self.page).is_some();
        let how = if there {
            ""
        } else {
            " (the page is not there yet)"
        };
        let what = format!("forks pid {} ({}){how}", fork.child, mode_name(fork.mode));
        self.note(machine, time, fork.parent_space, fork.parent, what, place());
        let what = if there {
            format!("begins as a fork of pid {}, with the page", fork.parent)
        } else {
            format!("begins as a fork of pid {}, with the mapping", fork.parent)
        };
        self.note(machine, time, fork.child_space, fork.child, what, None);
    }
}

/// The address space an event changes, if it is one that can change a page.
fn changed_space(event: &Event) -> Option<Space> {
    match event {
        Event::SpaceEnd { space, .. }
        | Event::Unmap { space, .. }
        | Event::Discard { space, .. }
        | Event::Move { space, .. }
        | Event::TableOwned { space, .. }
        | Event::Protect { space, .. } => Some(*space),
        Event::Fault(fault) => Some(fault.space),
        Event::Map(map) => Some(map.space),
        _ => None,
    }
}

impl Observer for Life {
    fn before(&mut self, state: &State, _cpu: u8, record: &Record) {
        let machine = &state.machine;
        self.before = None;
        if let Some(space) = changed_space(&record.event) {
            self.before = Some((self.frame(machine, space), self.knows(machine, space)));
        }
        // The last moment at which it is known who used the address space.
        if let Event::SpaceEnd { space, .. } = record.event
            && self.before.is_some_and(|before| before.1)
        {
            let freed = machine
                .leaf(space, self.page)
                .and_then(|leaf| leaf.counted_frame());
            let what = match freed.map(|frame| (frame, machine.frames.references(frame))) {
                Some((frame, 1))
                    if machine
                        .leaf(space, self.page)
                        .is_some_and(|l| l.descriptor.anonymous()) =>
                {
                    format!("address space {space} ends: frame {frame:#x} is freed")
                }
                Some((frame, _)) => {
                    format!("address space {space} ends: one reference to frame {frame:#x} less")
                }
                None => format!("address space {space} ends"),
            };
            let pid = self
                .entries
                .iter()
                .rev()
                .find(|e| e.space == space)
                .map_or(0, |e| e.pid);
            self.note(machine, record.time, space, pid, what, None);
            if let Some(entry) = self.entries.last_mut() {
                (entry.frame, entry.descriptor, entry.references) = (None, 0, None);
                entry.shared_with.clear();
            }
        }
    }

    fn after(&mut self, state: &State, _cpu: u8, record: &Record, _change: &Change) {
        let (machine, time, page) = (&state.machine, record.time, self.page);
        match record.event {
            Event::Spawn { pid, space } if pid == self.pid => {
                self.spaces.insert(space);
            }
            Event::Fork(ref fork) => {
                for (pid, space) in [
                    (fork.parent, fork.parent_space),
                    (fork.child, fork.child_space),
                ] {
                    if pid == self.pid {
                        self.spaces.insert(space);
                    }
                }
                self.fork(machine, time, fork);
            }
            Event::Exec {
                pid,
                old_space,
                space,
                file,
                ..
            } => {
                if pid == self.pid {
                    self.spaces.extend([old_space, space]);
                }
                if self.knows(machine, old_space) || self.knows(machine, space) {
                    let path = machine
                        .files
                        .get(&file)
                        .map_or("?", |file| file.path.as_str());
                    let what =
                        format!("executes {path}: from address space {old_space} to {space}");
                    self.note(machine, time, old_space, pid, what, None);
                }
            }
            Event::Exit { pid, space, status } if self.knows(machine, space) => {
                let what = super::text::wait_status(status);
                self.note(machine, time, space, pid, what, None);
            }
            Event::Map(ref map) if (map.start..map.end).contains(&page) => {
                let backing = match map.backing {
                    Backing::Anonymous => "anonymous".to_owned(),
                    Backing::File { file, offset } => {
                        let path = machine
                            .files
                            .get(&file)
                            .map_or("?", |file| file.path.as_str());
                        format!("{path} at {:#x}", offset.wrapping_add(page - map.start))
                    }
                };
                let what = format!(
                    "mapped: {} of {:#x}-{:#x}, {}{}, {backing}",
                    region_name(map.region),
                    map.start,
                    map.end,
                    protection(map.prot),
                    if map.shared { " shared" } else { "" }
                );
                let known = self.before.is_some_and(|before| before.1);
                if !known {
                    self.note(machine, time, map.space, 0, what, None);
                }
            }
            Event::Unmap {
                space, start, end, ..
            } if (start..end).contains(&page) && self.before.is_some_and(|before| before.1) => {
                self.note(machine, time, space, 0, "unmapped".to_owned(), None);
            }
            Event::Discard {
                space, start, end, ..
            } if (start..end).contains(&page) && self.before.is_some_and(|before| before.1) => {
                let what = "dropped by madvise; the mapping stays".to_owned();
                self.note(machine, time, space, 0, what, None);
            }
            Event::Move {
                space,
                start,
                end,
                to,
            } => {
                let shift = to.wrapping_sub(start);
                let what = if (start..end).contains(&page) {
                    format!("moved to {:#x}", page.wrapping_add(shift))
                } else if (start..end).contains(&page.wrapping_sub(shift)) {
                    format!("moved here from {:#x}", page.wrapping_sub(shift))
                } else {
                    return;
                };
                self.note(machine, time, space, 0, what, None);
            }
            Event::TableOwned {
                space,
                start,
                copied,
            } if page / (LEAVES * PAGE_SIZE) == start / (LEAVES * PAGE_SIZE)
                && self.before.is_some_and(|before| before.1) =>
            {
                let what = match copied {
                    true => "its table is copied: a system call changes something below it",
                    false => "its table is its own again: the others had gone",
                };
                self.note(machine, time, space, 0, what.to_owned(), None);
            }
            Event::Protect {
                space,
                start,
                end,
                prot,
                ..
            } if (start..end).contains(&page) => {
                let what = format!("protection becomes {}", protection(prot));
                self.note(machine, time, space, 0, what, None);
            }
            Event::Fault(ref fault) => {
                if fault.pid == self.pid {
                    self.spaces.insert(fault.space);
                }
                if fault.addr / PAGE_SIZE * PAGE_SIZE != page {
                    return;
                }
                let access = match fault.access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::Exec => "fetch",
                };
                let by = if fault.origin == Origin::Kernel {
                    " by the kernel for it"
                } else {
                    ""
                };
                let mut what = format!(
                    "{}: {access}{by} at {:#x}",
                    fault.outcome.name(),
                    fault.addr
                );
                if fault.refs > 0 {
                    let _ = write!(what, ", references {} -> {}", fault.refs, fault.refs_after);
                }
                let _ = write!(what, ", {} cycles", count(fault.cost));
                let place = Some(Place::of_fault(machine, fault));
                self.note(machine, time, fault.space, fault.pid, what, place);
            }
            _ => {}
        }
    }

    fn restart(&mut self) {
        *self = Life::new(self.pid, self.page);
    }
}

/// For a terminal.
pub fn render(pid: u32, page: u64, entries: &[Entry], left_out: u64, state: &State) -> String {
    let machine = &state.machine;
    let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
    let start = machine.period.map_or(0, |period| period.0);
    let mut text = format!("{HEAD}The page at {page:#x} of pid {pid}{HEAD:#}\n");
    if entries.is_empty() {
        let _ = writeln!(text, "\nNothing in the trace concerns it.");
    }
    let mut last = (0, u64::MAX);
    for entry in entries {
        if last != (entry.pid, u64::from(entry.space)) {
            let name = if entry.name.is_empty() {
                String::new()
            } else {
                format!(" ({})", entry.name)
            };
            let who = format!("pid {}{name}, address space {}", entry.pid, entry.space);
            let _ = writeln!(text, "\n{}", styled(HEAD, who));
            last = (entry.pid, u64::from(entry.space));
        }
        let time = span(entry.time.saturating_sub(start), hz);
        let _ = writeln!(text, "  {time:>12}  {}", entry.what);
        if let Some(place) = entry.place.as_ref().filter(|place| place.source.is_some()) {
            let _ = writeln!(text, "                {}", place.text());
        }
        let descriptor = Descriptor(entry.descriptor);
        if descriptor.valid() {
            let frame = entry.frame.map_or("frame unknown".to_owned(), |frame| {
                format!("frame {frame:#x}")
            });
            let rebuilt = if entry.rebuilt { " (rebuilt)" } else { "" };
            let shared = match entry.shared_with.as_slice() {
                [] => String::new(),
                pids => {
                    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
                    format!(", shared with pid {}", pids.join(", "))
                }
            };
            let _ = writeln!(
                text,
                "                {}{shared}  {:#018x} {descriptor}{}",
                styled(MARK, frame),
                descriptor.0,
                styled(DIM, rebuilt)
            );
        }
    }
    if entries.iter().any(|entry| entry.rebuilt) {
        let what =
            "(rebuilt): as the rules of fork and mprotect leave it; no event carries its bits";
        let _ = writeln!(text, "\n{}", styled(DIM, what));
    }
    if left_out > 0 {
        let _ = writeln!(
            text,
            "\nand {} that were not kept",
            plural(left_out, "change")
        );
    }
    text
}

/// For programs.
pub fn json(pid: u32, page: u64, entries: &[Entry], state: &State) -> serde_json::Value {
    serde_json::json!({
        "schema_version": SCHEMA_VERSION,
        "pid": pid,
        "page": page,
        "counter_hz": state.about.as_ref().map(|about| about.counter_hz),
        "first_event_time": state.machine.period.map(|period| period.0),
        "entries": entries,
        "losses": state.losses,
    })
}
