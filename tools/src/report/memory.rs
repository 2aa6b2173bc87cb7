//! `memory`: what each process used at any moment of the trace.

use std::fmt::Write as _;

use serde::Serialize;
use wire::event::{Backing, Event, Outcome, Record};

use super::place::program_name;
use super::story::region_name;
use super::text::{DIM, HEAD, count, span, styled, table};
use crate::analysis::footprint::{Footprint, Sharers};
use crate::analysis::machine::Machine;
use crate::analysis::space::Mapping;
use crate::analysis::stream::{Observer, State};

/// A moment that somebody wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// So many nanoseconds after the first event.
    Time(u64),
    /// When most frames were in use by processes, or nearly: see [`Peak`].
    Peak,
    /// At the end of the trace.
    End,
}

/// What there was at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// `peak`, `end`, or nothing.
    pub what: Option<&'static str>,
    /// Counter ticks after the first event.
    pub ticks: u64,
    /// Seconds after it.
    pub seconds: f64,
    /// Whether all is known of all address spaces.
    pub certain: bool,
    /// By pid.
    pub processes: Vec<Usage>,
}

/// What a process used, in pages.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its process that it borrows the memory of (vfork).
    pub borrowed: bool,
    /// All of it.
    #[serde(flatten)]
    pub all: Footprint,
    /// By mapping.
    pub mappings: Vec<Part>,
}

/// A mapping, and what of it is there.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// What it is: a file's path, or heap, stack, mmap.
    pub name: String,
    /// Its first address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// What of it is there.
    #[serde(flatten)]
    pub pages: Footprint,
}

/// Frames in use, and the most that there were: looked at before processes end and frames are freed,
/// when there are more by a sixteenth than the last time.
#[derive(Debug, Default)]
struct Peak {
    now: u64,
    seen: u64,
    moment: Option<Moment>,
}

/// Collects moments.
pub struct Memory {
    wanted: Vec<At>,
    start: Option<u64>,
    last: u64,
    peak: Peak,
    moments: Vec<Moment>,
}

impl Memory {
    /// Those that are wanted.
    pub fn new(mut wanted: Vec<At>) -> Self {
        wanted.sort_unstable();
        wanted.dedup();
        Memory {
            wanted,
            start: None,
            last: 0,
            peak: Peak::default(),
            moments: Vec::new(),
        }
    }

    /// All of them, in the order of time.
    pub fn finish(mut self, state: &State) -> Vec<Moment> {
        self.look_for_peak(state);
        let end = self.last;
        for at in self.wanted.split_off(0) {
            match at {
                // After the last event nothing changes.
                At::Time(_) => self.moments.push(moment(state, None, end)),
                At::End => self.moments.push(moment(state, Some("end"), end)),
                At::Peak => self.moments.extend(self.peak.moment.take()),
            }
        }
        self.moments.sort_by_key(|moment| moment.ticks);
        self.moments
    }

    fn look_for_peak(&mut self, state: &State) {
        let peak = &mut self.peak;
        if self.wanted.contains(&At::Peak) && peak.now > peak.seen + peak.seen / 16 {
            peak.seen = peak.now;
            peak.moment = Some(moment(state, Some("peak"), self.last));
        }
    }
}

impl Observer for Memory {
    fn before(&mut self, state: &State, _cpu: u8, record: &Record) {
        let start = *self.start.get_or_insert(record.time);
        let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
        while let Some(At::Time(nanoseconds)) = self.wanted.first().copied() {
            let ticks = u128::from(nanoseconds) * u128::from(hz) / 1_000_000_000;
            let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
            if record.time.saturating_sub(start) <= ticks {
                break;
            }
            self.wanted.remove(0);
            self.moments.push(moment(state, None, ticks));
        }
        let freed = match record.event {
            Event::SpaceEnd { freed, .. }
            | Event::Unmap { freed, .. }
            | Event::Discard { freed, .. } => u64::from(freed),
            _ => 0,
        };
        // With the process that ends still among the living.
        let leaves = matches!(record.event, Event::Exit { .. } | Event::Exec { .. });
        if freed > 0 || leaves {
            self.look_for_peak(state);
            self.peak.now = self.peak.now.saturating_sub(freed);
        }
        self.last = record.time.saturating_sub(start);
    }

    fn after(
        &mut self,
        _state: &State,
        _cpu: u8,
        record: &Record,
        _change: &crate::analysis::machine::Change,
    ) {
        match &record.event {
            Event::Fault(fault) => {
                let takes = matches!(
                    fault.outcome,
                    Outcome::ZeroFill
                        | Outcome::CowCopy
                        | Outcome::CowZero
                        | Outcome::FileCopy
                        | Outcome::StackGrow
                );
                self.peak.now += u64::from(takes);
            }
            Event::Fork(fork) => self.peak.now += u64::from(fork.copied),
            _ => {}
        }
    }

    fn restart(&mut self) {
        (self.start, self.last, self.peak) = (None, 0, Peak::default());
        self.moments.clear();
    }
}

fn moment(state: &State, what: Option<&'static str>, ticks: u64) -> Moment {
    let machine = &state.machine;
    let sharers = Sharers::of(machine);
    let live = machine.processes.values();
    let mut live: Vec<_> = live.filter(|process| process.ended.is_none()).collect();
    live.sort_unstable_by_key(|process| process.pid);
    let processes = live.iter().map(|process| {
        let parts = sharers.by_mapping(machine, process.space);
        let mut all = Footprint::default();
        parts.values().for_each(|(_, pages)| all.merge(pages));
        let parts = parts.into_iter().map(|(start, (mapping, pages))| Part {
            name: mapping.map_or("unknown".to_owned(), |mapping| name(machine, &mapping)),
            start,
            end: mapping.map_or(0, |mapping| mapping.end),
            pages,
        });
        Usage {
            pid: process.pid,
            name: program_name(machine, process.pid),
            borrowed: process.borrowed,
            all,
            mappings: parts.collect(),
        }
    });
    let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
    Moment {
        what,
        ticks,
        seconds: ticks as f64 / hz as f64,
        certain: machine.faults_traced && machine.spaces.values().all(|space| space.certain),
        processes: processes.collect(),
    }
}

fn name(machine: &Machine, mapping: &Mapping) -> String {
    match mapping.backing {
        Backing::File { file, .. } => machine
            .files
            .get(&file)
            .map_or("a file".to_owned(), |file| file.path.clone()),
        Backing::Anonymous => region_name(mapping.region).to_owned(),
    }
}

fn row(first: [String; 2], pages: &Footprint) -> Vec<String> {
    let kib = |pages: f64| count((pages * 4.0).round() as u64);
    let [pid, name] = first;
    vec![
        pid,
        name,
        count(pages.resident * 4),
        kib(pages.proportional),
        count(pages.unique * 4),
        count(pages.anonymous * 4),
        count(pages.file * 4),
    ]
}

/// For a terminal. `only`: these processes, if there are any.
pub fn render(moments: &[Moment], only: &[u32], mappings: bool, state: &State) -> String {
    let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
    let mut text = String::new();
    for moment in moments {
        let what = moment
            .what
            .map_or(String::new(), |what| format!(" ({what})"));
        let _ = writeln!(
            text,
            "{HEAD}After {}{what}{HEAD:#}, in KiB",
            span(moment.ticks, hz)
        );
        let heading = ["pid", "", "RSS", "PSS", "USS", "anonymous", "file"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        let mut sum = Footprint::default();
        for usage in &moment.processes {
            if !only.is_empty() && !only.contains(&usage.pid) {
                continue;
            }
            let name = match usage.borrowed {
                true => format!("{} (its parent's, by vfork)", usage.name),
                false => usage.name.clone(),
            };
            rows.push(row([usage.pid.to_string(), name], &usage.all));
            if !usage.borrowed {
                sum.merge(&usage.all);
            }
            for part in usage.mappings.iter().filter(|_| mappings) {
                let name = format!("  {:#x} {}", part.start, part.name);
                rows.push(row([String::new(), name], &part.pages));
            }
        }
        rows.push(row(["sum".to_owned(), String::new()], &sum));
        text.push_str(&table(&rows, &[1], ""));
        if !moment.certain {
            let _ = writeln!(text, "not certain: something is missing from the trace");
        }
        text.push('\n');
    }
    let legend = "RSS: pages that the process maps; PSS: each divided by those who map it; USS: nobody else maps";
    let _ = writeln!(text, "{}", styled(DIM, legend));
    text
}
