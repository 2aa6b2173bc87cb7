//! Findings: what cost most, and what would have saved it, with numbers from the trace.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::ForkMode;

use super::lines::Line;
use super::place::Place;
use super::text::{bytes, count, plural};
use crate::analysis::descriptor::PAGE_SIZE;
use crate::analysis::fork::{Fork, Parting};
use crate::analysis::machine::Machine;
use crate::analysis::symbols::Symbols;

/// Findings that a report lists.
const MOST: usize = 5;
/// What costs less than this part of all stalls is not worth a reader's time.
const WORTH: u64 = 100;

/// Something that cost much.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// What kind: `fork-then-exec`, `copies` or `classic-fork`.
    pub kind: &'static str,
    /// What it cost, and could have been saved at most.
    pub cycles: u64,
    /// Where.
    pub place: Place,
    /// What happened.
    pub what: String,
    /// What would help.
    pub instead: String,
}

/// Forks of one place.
#[derive(Default)]
struct Site {
    forks: u64,
    fork_cycles: u64,
    debt_cycles: u64,
    pages: u64,
    /// Pages whose descriptors were copied one by one.
    leaves: u64,
    place: Option<Place>,
}

impl Site {
    fn add(&mut self, fork: &Fork) {
        self.forks += 1;
        self.fork_cycles += u64::from(fork.event.cost);
        self.debt_cycles += fork.debt().total().cycles;
        self.pages += u64::from(fork.pages());
        self.leaves += u64::from(fork.event.leaves);
        self.place.get_or_insert_with(|| Place::of_fork(fork));
    }

    fn times(&self) -> String {
        match self.forks {
            1 => "one fork".to_owned(),
            forks => plural(forks, "fork"),
        }
    }
}

/// The findings of a trace, the most expensive first.
pub fn advice(machine: &Machine, lines: &[Line], symbols: &mut Symbols) -> Vec<Advice> {
    let mut found = Vec::new();
    for (kind, site) in sites(machine) {
        let mut place = site.place.clone().unwrap_or_default();
        place.resolve(machine, symbols);
        found.push(kind.advice(&site, place, machine));
    }
    found.extend(copies(lines));
    let all = machine.ended.iter().chain(machine.processes.values());
    let stall: u64 = all.map(|process| process.activity.stall()).sum();
    found.retain(|advice| advice.cycles > 0 && advice.cycles >= stall / WORTH);
    found.sort_by_key(|advice| (Reverse(advice.cycles), advice.place.pc));
    found.truncate(MOST);
    found
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    ForkThenExec,
    Classic,
}

impl Kind {
    fn of(fork: &Fork) -> Option<Kind> {
        match (fork.event.mode, fork.parting) {
            (ForkMode::Vfork, _) => None,
            (_, Some(Parting::Exec(_))) => Some(Kind::ForkThenExec),
            (ForkMode::Classic, _) => Some(Kind::Classic),
            _ => None,
        }
    }

    fn advice(self, site: &Site, place: Place, machine: &Machine) -> Advice {
        let times = site.times();
        let both = site.fork_cycles + site.debt_cycles;
        match self {
            Kind::ForkThenExec => {
                let vforks = machine.forks.totals(ForkMode::Vfork).forks;
                let instead = match vforks.mean() {
                    Some(mean) => format!(
                        "posix_spawn or vfork: {} cycles each in this trace, and none later",
                        count(mean)
                    ),
                    None => "posix_spawn or vfork, which share all and copy nothing".to_owned(),
                };
                let mean = vforks.mean().unwrap_or(0);
                Advice {
                    kind: "fork-then-exec",
                    cycles: both.saturating_sub(mean * site.forks),
                    what: format!(
                        "{times} shared {} with who only called execve: {} cycles, and {} in first writes later",
                        plural(site.pages, "page"),
                        count(site.fork_cycles),
                        count(site.debt_cycles)
                    ),
                    instead,
                    place,
                }
            }
            Kind::Classic => Advice {
                kind: "classic-fork",
                cycles: site.fork_cycles,
                what: format!(
                    "{times} copied {} descriptors one by one: {} cycles",
                    count(site.leaves),
                    count(site.fork_cycles)
                ),
                instead: "shared tables (--fork shared), which touch one entry for 2 MiB"
                    .to_owned(),
                place,
            },
        }
    }
}

/// Forks worth a word, by kind and place.
fn sites(machine: &Machine) -> Vec<(Kind, Site)> {
    let mut sites: FxHashMap<_, Site> = FxHashMap::default();
    for fork in machine.forks.iter() {
        if let Some(kind) = Kind::of(fork) {
            let caller = fork.callers.first().copied();
            let site = sites.entry((kind, fork.code, caller)).or_default();
            site.add(fork);
        }
    }
    sites
        .into_iter()
        .map(|((kind, ..), site)| (kind, site))
        .collect()
}

/// The lines that copied most.
fn copies(lines: &[Line]) -> Vec<Advice> {
    let all: u64 = lines.iter().map(|line| line.copies.count).sum();
    let copied = lines.iter().filter(|line| line.copies.count > 0);
    let advice = copied.map(|line| {
        let copies = line.copies;
        Advice {
            kind: "copies",
            cycles: copies.cycles,
            what: format!(
                "copied {} ({}) that a fork had shared: {} % of all copies, {} cycles each",
                plural(copies.count, "page"),
                bytes(copies.count * PAGE_SIZE),
                copies.count * 100 / all.max(1),
                copies.mean().map(count).unwrap_or_default()
            ),
            instead: "fork before it is made, or keep what is written together on few pages"
                .to_owned(),
            place: line.place.clone(),
        }
    });
    advice.collect()
}
