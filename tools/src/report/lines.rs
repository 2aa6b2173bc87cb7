//! Which lines of the programs break sharing, and at what cost.

use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::{Event, Fault, Outcome, Record, Space};

use super::place::Place;
use crate::analysis::machine::{Change, Machine};
use crate::analysis::process::Cost;
use crate::analysis::space::Code;
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;

/// Places told apart; more are counted together.
const PLACES_MAX: usize = 65536;

/// Where sharing was broken: the instruction and its caller (the instruction alone may be that of
/// a `memcpy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Code(Code, Option<Code>),
    /// Nothing is known of the program.
    Address(u64),
}

/// Sharing broken at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// Writes that copied a frame, or a table.
    pub copies: Cost,
    /// Writes of a last owner.
    pub reuses: Cost,
}

impl Line {
    /// Both together.
    pub fn total(&self) -> Cost {
        let mut total = self.copies;
        total.merge(&self.reuses);
        total
    }
}

/// Collects them.
#[derive(Debug, Default)]
pub struct Lines {
    lines: Vec<Line>,
    index: FxHashMap<Key, usize>,
    /// The last place: a loop over pages faults at one instruction again and again.
    last: Option<((Space, u64, u64), usize)>,
    others: (Cost, Cost),
}

impl Lines {
    /// The most expensive ones first, source lines put together; and what was not told apart.
    pub fn finish(self, machine: &Machine, symbols: &mut Symbols) -> (Vec<Line>, Cost) {
        let mut merged: FxHashMap<String, Line> = FxHashMap::default();
        for mut line in self.lines {
            line.place.resolve(machine, symbols);
            match merged.entry(line.place.text()) {
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(line);
                }
                std::collections::hash_map::Entry::Occupied(mut entry) => {
                    let known = entry.get_mut();
                    known.place.pc = known.place.pc.min(line.place.pc);
                    known.copies.merge(&line.copies);
                    known.reuses.merge(&line.reuses);
                }
            }
        }
        let mut lines: Vec<Line> = merged.into_values().collect();
        lines.sort_by_key(|line| (std::cmp::Reverse(line.total().cycles), line.place.pc));
        let mut others = self.others.0;
        others.merge(&self.others.1);
        (lines, others)
    }

    fn line(&mut self, machine: &Machine, fault: &Fault) -> Option<&mut Line> {
        let caller = (fault.stack.depth > 0).then_some(fault.stack.pcs[0]);
        let here = (fault.space, fault.pc, caller.unwrap_or(0));
        if let Some((last, index)) = self.last
            && last == here
        {
            return self.lines.get_mut(index);
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
                });
                self.lines.len() - 1
            }
        };
        self.last = Some((here, index));
        self.lines.get_mut(index)
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
}

impl Observer for Lines {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, _change: &Change) {
        let fault = match &record.event {
            Event::Fault(fault) => fault,
            // Another file may be mapped where the last place was.
            Event::Map(_) | Event::Unmap { .. } | Event::Move { .. } => {
                self.last = None;
                return;
            }
            _ => return,
        };
        let copies = match fault.outcome {
            Outcome::CowCopy | Outcome::TableUnshare => true,
            Outcome::CowReuse | Outcome::TableReuse => false,
            _ => return,
        };
        let (copied, reused) = match self.line(&state.machine, fault) {
            Some(line) => (&mut line.copies, &mut line.reuses),
            None => (&mut self.others.0, &mut self.others.1),
        };
        if copies { copied } else { reused }.add(fault.cost);
    }

    fn restart(&mut self) {
        *self = Lines::default();
    }
}
