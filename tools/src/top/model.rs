//! What `top` shows: counts by process and by source line, each with a sparkline of its copies.

use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::{Event, Fault, Outcome, Record};

use crate::analysis::machine::Change;
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;
use crate::report::decay::bars;
use crate::report::lines::Lines;
use crate::report::place::{Place, program_name};

/// Parts of the time since the first event. When it is over, two become one.
pub const PARTS: usize = 32;
/// Processes that are counted one by one.
const PROCESSES_MAX: usize = 8192;
/// Places that are looked up for the lines that are shown: several may be of one line.
const PLACES: usize = 64;

/// Copies by parts of the time.
#[derive(Clone, Debug, Default)]
struct Spark([u32; PARTS]);

impl Spark {
    fn fold(&mut self) {
        for part in 0..PARTS {
            let pair = self.0.get(2 * part).zip(self.0.get(2 * part + 1));
            self.0[part] = pair.map_or(0, |(one, other)| one + other);
        }
    }

    fn text(&self, now: usize) -> String {
        bars(&self.0[..=now.min(PARTS - 1)])
    }
}

#[derive(Clone, Debug, Default)]
struct Counts {
    faults: u64,
    copies: u64,
    reuses: u64,
    cycles: u64,
    spark: Spark,
}

impl Counts {
    fn add(&mut self, fault: &Fault, part: usize) {
        self.faults += 1;
        self.cycles += u64::from(fault.cost);
        match fault.outcome {
            Outcome::CowCopy | Outcome::TableUnshare => {
                self.copies += 1;
                self.spark.0[part] += 1;
            }
            Outcome::CowReuse | Outcome::TableReuse => self.reuses += 1,
            _ => {}
        }
    }
}

/// Counts all that goes by.
#[derive(Debug, Default)]
pub struct Model {
    start: Option<u64>,
    /// Ticks of a part of the time.
    width: u64,
    now: usize,
    all: Counts,
    processes: FxHashMap<u32, Counts>,
    lines: Lines,
    by_line: Vec<Spark>,
}

/// A process, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessRow {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Whether it still runs.
    pub alive: bool,
    /// Its page faults.
    pub faults: u64,
    /// Those that copied.
    pub copies: u64,
    /// Those of a last owner.
    pub reuses: u64,
    /// Cycles of all of them.
    pub cycles: u64,
    /// Pages of its own, and shared with others, now.
    pub pages: Option<(u32, u32)>,
    /// Its copies over time.
    pub over_time: String,
}

/// A source line, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct LineRow {
    /// Function and line.
    pub place: String,
    /// Copies.
    pub copies: u64,
    /// Writes of a last owner.
    pub reuses: u64,
    /// Cycles of both.
    pub cycles: u64,
    /// Its copies over time.
    pub over_time: String,
}

/// Everything that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// Seconds since the first event.
    pub seconds: f64,
    /// Events.
    pub events: u64,
    /// Page faults.
    pub faults: u64,
    /// Those that copied.
    pub copies: u64,
    /// Those of a last owner.
    pub reuses: u64,
    /// Copies over time.
    pub over_time: String,
    /// By copies.
    pub processes: Vec<ProcessRow>,
    /// By cycles.
    pub lines: Vec<LineRow>,
}

impl Model {
    /// The part of the time that this is.
    fn part(&mut self, state: &State, time: u64) -> usize {
        let start = *self.start.get_or_insert(time);
        if self.width == 0 {
            let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
            self.width = (hz / 1000).max(1);
        }
        let since = time.saturating_sub(start);
        while since / self.width >= PARTS as u64 {
            self.width *= 2;
            self.all.spark.fold();
            let processes = self.processes.values_mut().map(|counts| &mut counts.spark);
            processes.chain(&mut self.by_line).for_each(Spark::fold);
        }
        self.now = (since / self.width) as usize;
        self.now
    }

    fn fault(&mut self, state: &State, time: u64, fault: &Fault, change: &Change) {
        let part = self.part(state, time);
        self.all.add(fault, part);
        if self.processes.len() < PROCESSES_MAX || self.processes.contains_key(&fault.pid) {
            let counts = self.processes.entry(fault.pid).or_default();
            counts.add(fault, part);
        }
        if let Some(index) = self.lines.fault(state, fault, change) {
            if self.by_line.len() <= index {
                self.by_line.resize_with(index + 1, Spark::default);
            }
            let copies = matches!(fault.outcome, Outcome::CowCopy | Outcome::TableUnshare);
            self.by_line[index].0[part] += u32::from(copies);
        }
    }

    /// What there is to be seen now: so many processes and lines at most.
    pub fn view(&self, state: &State, symbols: &mut Symbols, top: usize) -> View {
        let machine = &state.machine;
        let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
        let (first, last) = machine.period.unwrap_or_default();
        View {
            seconds: last.saturating_sub(first) as f64 / hz as f64,
            events: machine.events.iter().sum(),
            faults: self.all.faults,
            copies: self.all.copies,
            reuses: self.all.reuses,
            over_time: self.all.spark.text(self.now),
            processes: self.processes(state, top),
            lines: self.lines(state, symbols, top),
        }
    }

    fn processes(&self, state: &State, top: usize) -> Vec<ProcessRow> {
        let machine = &state.machine;
        let alive = |pid: &u32| {
            let process = machine.processes.get(pid);
            process.is_some_and(|process| process.ended.is_none())
        };
        let mut busiest: Vec<_> = self.processes.iter().collect();
        busiest.sort_by_key(|(pid, counts)| {
            let key = (alive(pid), counts.copies, counts.faults);
            (std::cmp::Reverse(key), **pid)
        });
        busiest.truncate(top);
        let row = |(pid, counts): (&u32, &Counts)| {
            let space = machine.processes.get(pid).map(|process| process.space);
            let space = space.and_then(|space| machine.spaces.get(&space));
            ProcessRow {
                pid: *pid,
                name: program_name(machine, *pid),
                alive: alive(pid),
                faults: counts.faults,
                copies: counts.copies,
                reuses: counts.reuses,
                cycles: counts.cycles,
                pages: space
                    .filter(|_| alive(pid))
                    .map(|space| machine.private_and_shared(space)),
                over_time: counts.spark.text(self.now),
            }
        };
        busiest.into_iter().map(row).collect()
    }

    fn lines(&self, state: &State, symbols: &mut Symbols, top: usize) -> Vec<LineRow> {
        let all = self.lines.so_far();
        let mut busiest: Vec<usize> = (0..all.len()).collect();
        busiest.sort_by_key(|index| std::cmp::Reverse(all[*index].total().cycles));
        busiest.truncate(PLACES.max(top));
        let mut rows: Vec<(LineRow, Spark)> = Vec::new();
        for index in busiest {
            let line = &all[index];
            let mut place: Place = line.place.clone();
            place.resolve(&state.machine, symbols);
            let place = place.text();
            let spark = self.by_line.get(index).cloned().unwrap_or_default();
            let known = rows.iter_mut().find(|(row, _)| row.place == place);
            let (row, sum) = match known {
                Some(known) => known,
                None => {
                    let row = LineRow {
                        place,
                        copies: 0,
                        reuses: 0,
                        cycles: 0,
                        over_time: String::new(),
                    };
                    rows.push((row, Spark::default()));
                    let Some(new) = rows.last_mut() else { break };
                    new
                }
            };
            row.copies += line.copies.count;
            row.reuses += line.reuses.count;
            row.cycles += line.total().cycles;
            sum.0
                .iter_mut()
                .zip(spark.0)
                .for_each(|(sum, more)| *sum += more);
        }
        rows.sort_by_key(|(row, _)| std::cmp::Reverse(row.cycles));
        rows.truncate(top);
        let finished = rows.into_iter().map(|(row, spark)| LineRow {
            over_time: spark.text(self.now),
            ..row
        });
        finished.collect()
    }
}

impl Observer for Model {
    fn after(&mut self, state: &State, cpu: u8, record: &Record, change: &Change) {
        match &record.event {
            Event::Fault(fault) => self.fault(state, record.time, fault, change),
            _ => {
                self.part(state, record.time);
                self.lines.after(state, cpu, record, change);
            }
        }
    }

    fn restart(&mut self) {
        *self = Model::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_become_one() {
        let mut spark = Spark::default();
        for (part, count) in spark.0.iter_mut().enumerate() {
            *count = part as u32;
        }
        spark.fold();
        assert_eq!(spark.0[..3], [1, 5, 9]);
        assert_eq!(spark.0[PARTS / 2 - 1], 61);
        assert_eq!(spark.0[PARTS / 2..], [0; PARTS / 2]);
    }
}
