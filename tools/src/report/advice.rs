//! Findings: what cost most, and what would have saved it, with numbers from the trace.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::ForkMode;

use super::lines::{Changed, Line};
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

/// So many pages are not just the top of a stack.
const SEVERAL: u64 = 4;

/// Something that cost much.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// What kind: `fork-then-exec`, `classic-fork`, `eager-fork`, `amplification`, `same-in-each-child`
    /// or `copies`.
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
    let compared = lines.iter().any(|line| line.changed.pages > 0);
    found.extend(copies(lines, compared));
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
    Eager,
}

impl Kind {
    fn of(fork: &Fork) -> Option<Kind> {
        match (fork.event.mode, fork.parting) {
            (ForkMode::Vfork, _) => None,
            (_, Some(Parting::Exec(_))) => Some(Kind::ForkThenExec),
            (ForkMode::Classic, _) => Some(Kind::Classic),
            (ForkMode::Eager, _) => Some(Kind::Eager),
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
            Kind::Eager => Advice {
                kind: "eager-fork",
                cycles: site.fork_cycles,
                what: format!(
                    "{times} copied {} at once: {} cycles",
                    plural(site.pages, "page"),
                    count(site.fork_cycles)
                ),
                instead: "copy-on-write (--fork shared), which copies what is written".to_owned(),
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

/// The lines that copied most. `compared`: the kernel compared copied pages when they went.
fn copies(lines: &[Line], compared: bool) -> Vec<Advice> {
    let all: u64 = lines.iter().map(|line| line.copies.count).sum();
    let copied = lines.iter().filter(|line| line.copies.count > 0);
    let advice = copied.enumerate().map(|(index, line)| {
        // Said once.
        let hint = !compared && index == 0;
        amplified(line)
            .or_else(|| repeated(line))
            .unwrap_or_else(|| plain(line, all, hint))
    });
    advice.collect()
}

/// Little of what was copied has changed.
fn amplified(line: &Line) -> Option<Advice> {
    let changed = line.changed;
    let needed = changed.pages_needed();
    if changed.pages == 0 || needed * 2 > changed.pages {
        return None;
    }
    let part = changed.bytes as f64 * 100.0 / (changed.pages * PAGE_SIZE) as f64;
    let cycles = u128::from(line.copies.cycles) * u128::from(changed.pages - needed)
        / u128::from(changed.pages);
    let still = match changed.unchanged {
        0 => String::new(),
        unchanged => format!("; {} as before", count(unchanged)),
    };
    Some(Advice {
        kind: "amplification",
        cycles: cycles as u64,
        what: format!(
            "of {} copied ({}), {} in {} of {} bytes had changed in the end: {part:.2} %{still}",
            plural(changed.pages, "page"),
            bytes(changed.pages * PAGE_SIZE),
            plural(changed.bytes, "byte"),
            plural(changed.lines, "line"),
            Changed::LINE,
        ),
        instead: match needed {
            0 => "nothing was to be written: leave it alone in the child".to_owned(),
            _ => format!(
                "keep what it writes apart from what is only read: it fits on {}",
                plural(needed, "page")
            ),
        },
        place: line.place.clone(),
    })
}

/// Several processes have copied the same pages, and more than those of a stack.
fn repeated(line: &Line) -> Option<Advice> {
    let (pages, processes) = (line.pages.len() as u64, line.spaces.len() as u64);
    if pages < SEVERAL || processes < 2 || line.copies.count < pages * 2 {
        return None;
    }
    Some(Advice {
        kind: "same-in-each-child",
        cycles: line.copies.cycles,
        what: format!(
            "{processes} processes copied the same {}: {}, {} cycles",
            plural(pages, "page"),
            plural(line.copies.count, "copy"),
            count(line.copies.cycles)
        ),
        instead: "do it once before the fork: all then share the result".to_owned(),
        place: line.place.clone(),
    })
}

fn plain(line: &Line, all: u64, hint: bool) -> Advice {
    let copies = line.copies;
    let made = line.made.as_ref().filter(|made| made.source.is_some());
    let earlier = match made {
        Some(made) => format!("fork before {} makes the pages", made.text()),
        None => "fork before the pages are made".to_owned(),
    };
    let hint = match hint {
        true => " (run --amplification tells how much of each changes)",
        false => "",
    };
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
        instead: format!("{earlier}, or keep what is written together on few pages{hint}"),
        place: line.place.clone(),
    }
}
