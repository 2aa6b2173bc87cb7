//! One HTML file that works offline: the report, the sharing map of all address spaces over time,
//! the decay curves, the flame graph, and the life of each page.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::{Event, Fault, Outcome, Record};

use crate::analysis::descriptor::{Descriptor, LEAVES, PAGE_SIZE};
use crate::analysis::machine::{Change, Machine};
use crate::analysis::space::{AddressSpace, Leaf};
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;
use crate::report::filter::Mapped;
use crate::report::place::Place;

/// Runs of pages in all pictures together; then every second picture goes.
const RUNS_MAX: usize = 200_000;
/// Pictures, likewise.
const PICTURES_MAX: usize = 240;
/// Faults in the lives of pages; those after them are counted only.
const FAULTS_MAX: usize = 50_000;

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// What a page of an address space is, in the order of the script's colours.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Private,
    Shared,
    File,
    Zero,
}

/// Pages in a row that are of one class: first page number, how many, class.
type Run = (u64, u64, u8);

#[derive(Serialize)]
struct Picture {
    /// Ticks since the first event.
    time: u64,
    /// What had just happened.
    after: String,
    spaces: Vec<(u32, Vec<Run>)>,
}

/// Ticks, pid, page, outcome, frame before and after (0: none), references before and after,
/// cycles, place.
type Row = (u64, u32, u64, u8, u64, u64, u32, u32, u32, u32);

/// Collects what the page shows beside the report.
#[derive(Default)]
pub struct Collector {
    start: Option<u64>,
    pictures: Vec<Picture>,
    runs: usize,
    /// So many changes go by from one picture to the next.
    step: u64,
    since: u64,
    faults: Vec<Row>,
    more_faults: u64,
    places: Vec<Place>,
    place_of: FxHashMap<(u32, u64, u64), u32>,
    /// What was mapped at a page that was touched: by page, the mapping's name.
    labels: BTreeMap<u64, String>,
}

impl Collector {
    fn since_start(&self, record: &Record) -> u64 {
        record
            .time
            .saturating_sub(self.start.unwrap_or(record.time))
    }

    fn fault(&mut self, state: &State, record: &Record, fault: &Fault) {
        let page = fault.addr / PAGE_SIZE;
        let mapped = Mapped::of(&state.machine, fault);
        if let Some(mapped) = mapped
            && self
                .labels
                .range(..=page)
                .next_back()
                .map(|(_, name)| name.as_str())
                != Some(mapped.name())
        {
            self.labels.insert(page, mapped.name().to_owned());
        }
        if self.faults.len() >= FAULTS_MAX {
            self.more_faults += 1;
            return;
        }
        let caller = fault.stack.pcs[0];
        let next = self.places.len() as u32;
        let place = *self
            .place_of
            .entry((fault.space, fault.pc, caller))
            .or_insert(next);
        if place == next {
            self.places.push(Place::of_fault(&state.machine, fault));
        }
        let frame = |leaf: u64| {
            let leaf = Descriptor(leaf);
            if leaf.valid() { leaf.frame() } else { 0 }
        };
        self.faults.push((
            self.since_start(record),
            fault.pid,
            page,
            fault.outcome as u8,
            frame(fault.old),
            frame(fault.new),
            fault.refs,
            fault.refs_after,
            fault.cost,
            place,
        ));
    }

    fn picture(&mut self, machine: &Machine, time: u64, after: String) {
        let mut processes: Vec<_> = machine
            .processes
            .values()
            .filter(|process| process.ended.is_none() && !process.borrowed)
            .collect();
        processes.sort_unstable_by_key(|process| process.pid);
        let spaces: Vec<(u32, Vec<Run>)> = processes
            .into_iter()
            .filter_map(|process| {
                let space = machine.spaces.get(&process.space)?;
                Some((process.pid, runs(machine, space)))
            })
            .collect();
        self.since = 0;
        self.runs += spaces.iter().map(|(_, runs)| runs.len()).sum::<usize>();
        self.pictures.push(Picture {
            time,
            after,
            spaces,
        });
        while self.pictures.len() > 2
            && (self.runs > RUNS_MAX || self.pictures.len() > PICTURES_MAX)
        {
            self.step = (self.step * 2).max(64);
            let mut index = 0;
            self.pictures.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            let runs = self.pictures.iter().flat_map(|picture| &picture.spaces);
            self.runs = runs.map(|(_, runs)| runs.len()).sum();
        }
    }

    /// Writes the page. `report` is the report as JSON, `flame` a picture of it.
    pub fn write(
        mut self,
        state: &State,
        symbols: &mut Symbols,
        report: serde_json::Value,
        flame: Option<&[u8]>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let machine = &state.machine;
        if let Some((start, end)) = machine.period {
            self.picture(machine, end - start, "the end of the trace".to_owned());
        }
        let places = self.places.iter_mut().map(|place| {
            place.resolve(machine, symbols);
            place.text()
        });
        let data = Data {
            report,
            hz: state.about.as_ref().map_or(1, |about| about.counter_hz),
            outcomes: Outcome::ALL.map(Outcome::name).to_vec(),
            places: places.collect(),
            pictures: &self.pictures,
            faults: &self.faults,
            more_faults: self.more_faults,
            labels: self.labels.iter().collect(),
        };
        // In a script element only `<` could end it.
        let data = serde_json::to_string(&data)?.replace('<', "\\u003c");
        let flame = flame.map_or_else(
            || "<p>No page was copied.</p>".to_owned(),
            |svg| {
                format!(
                    "<object type=\"image/svg+xml\" title=\"Flame graph of copies\" \
                     data=\"data:image/svg+xml;base64,{}\"></object>",
                    STANDARD.encode(svg)
                )
            },
        );
        // One piece after the other, so that nothing in the data is taken for a mark.
        let mut rest = PAGE;
        for (mark, piece) in [
            ("@STYLE@", STYLE),
            ("@FLAME@", &flame),
            ("@DATA@", &data),
            ("@SCRIPT@", SCRIPT),
        ] {
            let (before, after) = rest
                .split_once(mark)
                .ok_or_else(|| anyhow::anyhow!("the page has no {mark}"))?;
            write!(out, "{before}{piece}")?;
            rest = after;
        }
        out.write_all(rest.as_bytes())?;
        Ok(())
    }
}

#[derive(Serialize)]
struct Data<'a> {
    report: serde_json::Value,
    hz: u64,
    outcomes: Vec<&'static str>,
    places: Vec<String>,
    pictures: &'a [Picture],
    faults: &'a [Row],
    more_faults: u64,
    labels: Vec<(&'a u64, &'a String)>,
}

fn runs(machine: &Machine, space: &AddressSpace) -> Vec<Run> {
    let mut slots: Vec<_> = space.slots.iter().collect();
    slots.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for (slot, id) in slots {
        let table = machine.tables.get(*id);
        for (index, leaf) in (0u64..).zip(table.leaves.iter()) {
            let Some(class) = class(machine, leaf, table.parents > 1) else {
                continue;
            };
            let page = slot * LEAVES + index;
            match runs.last_mut() {
                Some((first, count, last)) if *first + *count == page && *last == class as u8 => {
                    *count += 1;
                }
                _ => runs.push((page, 1, class as u8)),
            }
        }
    }
    runs
}

fn class(machine: &Machine, leaf: &Leaf, table_shared: bool) -> Option<Class> {
    if !leaf.valid() {
        return None;
    }
    let descriptor = leaf.descriptor;
    if descriptor.zero() {
        return Some(Class::Zero);
    }
    if descriptor.file() {
        return Some(Class::File);
    }
    let references = leaf
        .counted_frame()
        .map_or(1, |frame| machine.frames.references(frame));
    Some(match table_shared || references > 1 {
        true => Class::Shared,
        false => Class::Private,
    })
}

impl Observer for Collector {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, _change: &Change) {
        self.start.get_or_insert(record.time);
        let time = self.since_start(record);
        let after = match &record.event {
            Event::Fault(fault) => {
                self.fault(state, record, fault);
                self.since += 1;
                if self.since <= self.step.max(16) {
                    return;
                }
                format!("{} of pid {}", fault.outcome.name(), fault.pid)
            }
            Event::Fork(fork) if fork.parent_space != fork.child_space => {
                format!("fork {} > {}", fork.parent, fork.child)
            }
            Event::Exec { pid, .. } => format!("exec by pid {pid}"),
            Event::Exit { pid, .. } => format!("exit of pid {pid}"),
            Event::Unmap { start, end, .. } if end - start >= 64 * PAGE_SIZE => {
                format!("munmap at {start:#x}")
            }
            _ => return,
        };
        self.picture(&state.machine, time, after);
    }

    fn restart(&mut self) {
        *self = Collector::default();
    }
}
