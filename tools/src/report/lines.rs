//! Which lines of the programs break sharing, and at what cost.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;
use wire::event::{Event, Fault, Outcome, Record, Space};

use super::place::Place;
use crate::analysis::descriptor::{Descriptor, LEAVES, PAGE_SIZE};
use crate::analysis::machine::{Change, Machine};
use crate::analysis::process::Cost;
use crate::analysis::space::{Code, ForkId, How};
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;

/// Places told apart; more are counted together.
const PLACES_MAX: usize = 65536;
/// Copied pages told apart, of all places together, and blocks of an address space; of more it is not known whether they are others.
const PAGES_MAX: usize = 1 << 18;

/// Where sharing was broken: the instruction and its caller (the instruction alone may be that of
/// a `memcpy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Code(Code, Option<Code>),
    /// Nothing is known of the program.
    Address(u64),
}

/// The next larger size of a page.
pub const BLOCK_SIZE: u64 = LEAVES * PAGE_SIZE;

/// Sharing broken at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// Writes that copied a frame, or a table.
    pub copies: Cost,
    /// Writes of a last owner.
    pub reuses: Cost,
    /// Where the first page that it copied had been made.
    pub made: Option<Place>,
    /// What became of the copied pages, if the kernel compared them.
    pub changed: Changed,
    /// The pages that were copied.
    #[serde(skip)]
    pub(super) pages: FxHashSet<u64>,
    /// By whom.
    #[serde(skip)]
    pub(super) spaces: FxHashSet<Space>,
}

impl Line {
    /// Both together.
    pub fn total(&self) -> Cost {
        let mut total = self.copies;
        total.merge(&self.reuses);
        total
    }

    fn merge(&mut self, other: Line) {
        self.place.pc = self.place.pc.min(other.place.pc);
        self.copies.merge(&other.copies);
        self.reuses.merge(&other.reuses);
        self.made = self.made.take().or(other.made);
        self.changed.merge(&other.changed);
        self.pages.extend(other.pages);
        self.spaces.extend(other.spaces);
    }
}

/// How much of copied pages had changed when their frames were freed, or at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Pages that were compared.
    pub pages: u64,
    /// Those of them that were as they had been copied.
    pub unchanged: u64,
    /// Bytes that differed.
    pub bytes: u64,
    /// Lines of 64 bytes in which one differed.
    pub lines: u64,
    /// Pages that could not be compared, for want of memory.
    pub unknown: u64,
}

impl Changed {
    /// Bytes of a cache line.
    pub const LINE: u64 = 64;

    fn add(&mut self, kept: bool, bytes: u16, lines: u8) {
        if kept {
            self.pages += 1;
            self.unchanged += u64::from(bytes == 0);
            self.bytes += u64::from(bytes);
            self.lines += u64::from(lines);
        } else {
            self.unknown += 1;
        }
    }

    /// All of `other` too.
    pub fn merge(&mut self, other: &Changed) {
        self.pages += other.pages;
        self.unchanged += other.unchanged;
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.unknown += other.unknown;
    }

    /// Pages that would hold the changed lines, were they together.
    pub fn pages_needed(&self) -> u64 {
        (self.lines * Self::LINE).div_ceil(PAGE_SIZE)
    }
}

/// What became of copied pages, by what copied them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Amplification {
    /// First writes to pages that a fork had shared.
    pub writes: Changed,
    /// First writes to private pages of files.
    pub files: Changed,
    /// Eager forks, and whatever else: no event tells of the copy itself.
    pub others: Changed,
}

/// Whose copy a frame is.
#[derive(Clone, Copy, Debug)]
enum Copied {
    Line(Option<usize>),
    File,
}

/// Collects them.
#[derive(Debug, Default)]
pub struct Lines {
    lines: Vec<Line>,
    index: FxHashMap<Key, usize>,
    /// The last place: a loop over pages faults at one instruction again and again.
    last: Option<((Space, u64, u64), usize)>,
    others: (Cost, Cost),
    pages: usize,
    /// What larger pages would have copied in each live address space: number of the block, fork.
    blocks: FxHashMap<Space, FxHashSet<(u64, ForkId)>>,
    /// As many such blocks were in those that have ended.
    blocks_ended: u64,
    copied_pages: u64,
    /// Frames with copies that the kernel will compare.
    copied: FxHashMap<u64, Copied>,
    amplification: Option<Amplification>,
}

impl Lines {
    /// The most expensive ones first, source lines put together; and what was not told apart.
    pub fn finish(self, machine: &Machine, symbols: &mut Symbols) -> (Vec<Line>, Cost) {
        let mut merged: FxHashMap<String, Line> = FxHashMap::default();
        for mut line in self.lines {
            line.place.resolve(machine, symbols);
            if let Some(made) = &mut line.made {
                made.resolve(machine, symbols);
            }
            match merged.entry(line.place.text()) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(line);
                }
                std::collections::hash_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().merge(line);
                }
            }
        }
        let mut lines: Vec<Line> = merged.into_values().collect();
        lines.sort_by_key(|line| (std::cmp::Reverse(line.total().cycles), line.place.pc));
        let mut others = self.others.0;
        others.merge(&self.others.1);
        (lines, others)
    }

    /// Bytes copied by writes after forks, and what the same writes would have copied with pages of
    /// [`BLOCK_SIZE`].
    pub fn bytes(&self) -> (u64, u64) {
        let live: usize = self.blocks.values().map(FxHashSet::len).sum();
        let blocks = self.blocks_ended + live as u64;
        (self.copied_pages * PAGE_SIZE, blocks * BLOCK_SIZE)
    }

    /// What the kernel compared, if it was asked to.
    pub fn amplification(&self) -> Option<Amplification> {
        self.amplification
    }

    /// The places so far, by the index that [`Lines::fault`] returns.
    pub fn so_far(&self) -> &[Line] {
        &self.lines
    }

    fn line(&mut self, machine: &Machine, fault: &Fault) -> Option<usize> {
        let caller = (fault.stack.depth > 0).then_some(fault.stack.pcs[0]);
        let here = (fault.space, fault.pc, caller.unwrap_or(0));
        if let Some((last, index)) = self.last
            && last == here
        {
            return Some(index);
        }
        let key = Self::key(machine, fault.space, fault.pc, caller);
        let index = match self.index.get(&key) {
            Some(index) => *index,
            None if self.lines.len() >= PLACES_MAX => return None,
            None => {
                self.index.insert(key, self.lines.len());
                self.lines.push(Line {
                    place: Place::of_fault(machine, fault),
                    copies: Cost::default(),
                    reuses: Cost::default(),
                    made: None,
                    changed: Changed::default(),
                    pages: FxHashSet::default(),
                    spaces: FxHashSet::default(),
                });
                self.lines.len() - 1
            }
        };
        self.last = Some((here, index));
        Some(index)
    }

    fn key(machine: &Machine, space: Space, pc: u64, caller: Option<u64>) -> Key {
        let Some(space) = machine.spaces.get(&space) else {
            return Key::Address(pc);
        };
        let caller = caller.and_then(|pc| space.code(pc));
        space
            .code(pc)
            .map_or(Key::Address(pc), |code| Key::Code(code, caller))
    }

    /// A fault; the index of its place, if it broke sharing.
    pub fn fault(&mut self, state: &State, fault: &Fault, change: &Change) -> Option<usize> {
        let copies = match fault.outcome {
            Outcome::CowCopy | Outcome::TableUnshare => true,
            Outcome::CowReuse | Outcome::TableReuse => false,
            Outcome::FileCopy => {
                self.expect(state, fault, Copied::File);
                return None;
            }
            _ => return None,
        };
        let index = self.line(&state.machine, fault);
        let Some(line) = index.and_then(|index| self.lines.get_mut(index)) else {
            let others = match copies {
                true => &mut self.others.0,
                false => &mut self.others.1,
            };
            others.add(fault.cost);
            return None;
        };
        match copies {
            true => line.copies.add(fault.cost),
            false => line.reuses.add(fault.cost),
        }
        if copies && Descriptor(fault.old).frame() != Descriptor(fault.new).frame() {
            if let How::Fault(_) = change.before.how
                && line.made.is_none()
            {
                line.made = Some(Place::new(&state.machine, fault.space, change.before.pc));
            }
            self.copied_pages += 1;
            let blocks = self.blocks.entry(fault.space).or_default();
            if blocks.len() < PAGES_MAX {
                blocks.insert((fault.addr / BLOCK_SIZE, change.fork));
            }
            if self.pages < PAGES_MAX {
                self.pages += usize::from(line.pages.insert(fault.addr / PAGE_SIZE));
                self.pages += usize::from(line.spaces.insert(fault.space));
            }
            self.expect(state, fault, Copied::Line(index));
        }
        index
    }

    fn expect(&mut self, state: &State, fault: &Fault, copied: Copied) {
        if state
            .about
            .as_ref()
            .is_some_and(|about| about.amplification)
        {
            self.copied.insert(Descriptor(fault.new).frame(), copied);
        }
    }

    fn compared(&mut self, frame: u64, kept: bool, bytes: u16, lines: u8) {
        let sums = self.amplification.get_or_insert_default();
        let sum = match self.copied.remove(&frame) {
            Some(Copied::Line(index)) => {
                if let Some(line) = index.and_then(|index| self.lines.get_mut(index)) {
                    line.changed.add(kept, bytes, lines);
                }
                &mut sums.writes
            }
            Some(Copied::File) => &mut sums.files,
            None => &mut sums.others,
        };
        sum.add(kept, bytes, lines);
    }
}

impl Observer for Lines {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, change: &Change) {
        match record.event {
            Event::Fault(ref fault) => {
                self.fault(state, fault, change);
            }
            // Another file may be mapped where the last place was.
            Event::Map(_) | Event::Unmap { .. } | Event::Move { .. } => self.last = None,
            Event::SpaceEnd { space, .. } => {
                let blocks = self.blocks.remove(&space);
                self.blocks_ended += blocks.map_or(0, |blocks| blocks.len() as u64);
            }
            Event::Amplification {
                frame,
                kept,
                bytes,
                lines,
                ..
            } => self.compared(frame, kept, bytes, lines),
            _ => {}
        }
    }

    fn restart(&mut self) {
        *self = Lines::default();
    }
}
