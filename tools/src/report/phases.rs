//! When in its life a process broke sharing: at its start, in between, or at its end.

use std::collections::BTreeMap;

use serde::Serialize;
use wire::event::{Event, Fault, Outcome, Record};

use super::decay::Curve;
use crate::analysis::machine::Change;
use crate::analysis::process::Process;
use crate::analysis::stream::{Observer, State};

/// Processes whose copies are followed.
const PROCESSES_MAX: usize = 4096;
/// Parts of a life; the first is its start, the last its end.
pub const PARTS: usize = 10;

/// The copies of a process, by tenths of its life, or of what of it is in the trace. Of a process with
/// more than a hundred copies the numbers of a part may be off by a hundredth of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phases {
    /// Process.
    pub pid: u32,
    /// Pages and tables that it copied, in each tenth of its life.
    pub copies: [u32; PARTS],
}

impl Phases {
    /// All of them.
    pub fn all(&self) -> u32 {
        self.copies.iter().sum()
    }

    /// In the first tenth, the eight that follow, the last.
    pub fn start_steady_exit(&self) -> [u32; 3] {
        let [start, steady @ .., exit] = &self.copies;
        [*start, steady.iter().sum(), *exit]
    }
}

/// Collects them.
#[derive(Debug, Default)]
pub struct Copies {
    /// By pid, with the time at which the process began: a pid may be used again.
    curves: BTreeMap<(u32, Option<u64>), Curve>,
}

impl Copies {
    fn fault(&mut self, state: &State, time: u64, fault: &Fault) {
        if !matches!(fault.outcome, Outcome::CowCopy | Outcome::TableUnshare) {
            return;
        }
        let process = state.machine.processes.get(&fault.pid);
        let key = (fault.pid, process.and_then(|process| process.started));
        if self.curves.len() < PROCESSES_MAX || self.curves.contains_key(&key) {
            self.curves.entry(key).or_default().add(time);
        }
    }

    /// Of a process, in a trace of so long.
    pub fn of(&self, process: &Process, (first, last): (u64, u64)) -> Option<Phases> {
        let curve = self.curves.get(&(process.pid, process.started))?;
        let start = process.started.unwrap_or(first);
        let end = process.ended.map_or(last, |(time, _)| time);
        let mut copies = [0; PARTS];
        let mut before = 0;
        let all = curve.points().iter().copied();
        for (time, broken) in all.chain([curve.last()]) {
            let into = u128::from(time.saturating_sub(start));
            let part = into * PARTS as u128 / u128::from(end.saturating_sub(start).max(1));
            copies[(part as usize).min(PARTS - 1)] += broken - before;
            before = broken;
        }
        Some(Phases {
            pid: process.pid,
            copies,
        })
    }
}

impl Observer for Copies {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, _change: &Change) {
        if let Event::Fault(fault) = &record.event {
            self.fault(state, record.time, fault);
        }
    }

    fn restart(&mut self) {
        self.curves.clear();
    }
}
