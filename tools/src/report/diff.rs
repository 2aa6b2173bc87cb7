//! What differs between two traces: did the fix help?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use wire::event::{Event, Outcome, Record};

use super::args::{ReportFormat, SymbolArgs};
use super::filter::{Chosen, Filter, FilterArgs};
use super::lines::Lines;
use super::summary::SCHEMA_VERSION;
use super::summary_text::loss_line;
use super::text::{BAD, DIM, GOOD, HEAD, count, styled, table};
use super::with_trace;
use crate::analysis::machine::Change;
use crate::analysis::process::Activity;
use crate::analysis::stream::{self, Observer, State};
use crate::analysis::symbols::Symbols;
use crate::exit::{Exit, usage};

const DIFF_EXAMPLES: &str = "\
Examples:
  cowscope diff before.cow after.cow
  cowscope diff main.cow mine.cow --fail-above copies=5 --fail-above stall=10    for CI
  cowscope diff before.cow after.cow --mapping heap --pid 2                      only there";

/// `diff`: two traces of the same work.
#[derive(Args, Clone, Debug)]
#[command(after_help = DIFF_EXAMPLES)]
pub struct DiffArgs {
    /// The trace before
    #[arg(value_name = "BEFORE")]
    pub before: PathBuf,
    /// The trace after
    #[arg(value_name = "AFTER")]
    pub after: PathBuf,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// End with 1 if a number has grown by more than so many percent (may be repeated): faults,
    /// copies, reuses, forks, debt, fork-cost or stall
    #[arg(long, value_name = "METRIC=PERCENT", value_parser = parse_limit)]
    pub fail_above: Vec<Limit>,

    /// Which faults; forks are those of the processes, in the time.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// How many source lines to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,

    /// Exit with 4 if anything is missing from a trace or damaged
    #[arg(long)]
    pub strict: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// A number that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Page faults
    Faults,
    /// Pages and tables that writes copied
    Copies,
    /// Writes of last owners
    Reuses,
    /// Forks
    Forks,
    /// Cycles of first writes after forks
    Debt,
    /// Cycles of the forks themselves
    ForkCost,
    /// Cycles in faults and forks
    Stall,
}

impl Metric {
    fn title(self) -> &'static str {
        match self {
            Metric::Faults => "page faults",
            Metric::Copies => "pages and tables copied by writes",
            Metric::Reuses => "writes of last owners",
            Metric::Forks => "forks",
            Metric::Debt => "debt: cycles of first writes after forks",
            Metric::ForkCost => "cycles of the forks themselves",
            Metric::Stall => "stall: cycles in faults and forks",
        }
    }

    fn of(self, all: &Activity) -> u64 {
        let faults = |outcomes: [Outcome; 2]| outcomes.map(|o| all.faults.of(o).count).iter().sum();
        match self {
            Metric::Faults => all.faults.total().count,
            Metric::Copies => faults([Outcome::CowCopy, Outcome::TableUnshare]),
            Metric::Reuses => faults([Outcome::CowReuse, Outcome::TableReuse]),
            Metric::Forks => all.forks.count,
            Metric::Debt => all.debt.cycles,
            Metric::ForkCost => all.forks.cycles,
            Metric::Stall => all.stall(),
        }
    }
}

/// How much a number may grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    metric: Metric,
    percent: f64,
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let (metric, percent) = text.split_once('=').ok_or("not METRIC=PERCENT")?;
    let metric = Metric::from_str(metric, false)
        .map_err(|_| format!("no number is called {metric:?}: see --help"))?;
    let percent: f64 = percent
        .trim_end_matches('%')
        .parse()
        .map_err(|error| format!("{percent:?}: {error}"))?;
    if !percent.is_finite() || percent < 0.0 {
        return Err(format!(
            "{percent} is no percentage that something may grow by"
        ));
    }
    Ok(Limit { metric, percent })
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Pair {
    before: u64,
    after: u64,
}

impl Pair {
    /// Percent; infinite if there was nothing before.
    fn growth(self) -> f64 {
        match (self.before, self.after) {
            (before, after) if before == after => 0.0,
            (0, _) => f64::INFINITY,
            (before, after) => (after as f64 - before as f64) / before as f64 * 100.0,
        }
    }

    fn cells(self) -> [String; 3] {
        let growth = match self.growth() {
            0.0 => "=".to_owned(),
            growth if growth.is_infinite() => "new".to_owned(),
            _ if self.after == 0 => "gone".to_owned(),
            growth => format!("{growth:+.1} %"),
        };
        [count(self.before), count(self.after), growth]
    }
}

#[derive(Debug, Serialize)]
struct LinePair {
    line: String,
    /// Pages and tables copied, and taken over by last owners.
    writes: Pair,
    cycles: Pair,
}

#[derive(Debug, Serialize)]
struct Report {
    schema_version: u32,
    metrics: Vec<(Metric, Pair)>,
    lines: Vec<LinePair>,
    /// What grew by more than it may.
    exceeded: Vec<Metric>,
    #[serde(skip)]
    hidden: usize,
    #[serde(skip)]
    notes: Vec<String>,
    #[serde(skip)]
    losses: [String; 2],
}

/// What is compared of one trace.
struct Side {
    all: Activity,
    /// Writes and cycles by source line.
    lines: BTreeMap<String, (u64, u64)>,
    lossy: bool,
    loss: String,
    notes: Vec<String>,
}

/// Counts what is compared.
struct Counts<'a> {
    /// For the forks; faults come chosen.
    filter: Filter<'a>,
    all: Activity,
    lines: Lines,
}

impl Observer for Counts<'_> {
    fn after(&mut self, state: &State, cpu: u8, record: &Record, change: &Change) {
        self.filter.see(record);
        match &record.event {
            Event::Fault(fault) => {
                self.all.faults.add(fault);
                if change.fork != 0 {
                    self.all.debt.add(fault.cost);
                }
            }
            Event::Fork(fork)
                if self.filter.wants_process(fork.parent) && self.filter.in_time(state, record) =>
            {
                self.all.forks.add(fork.cost);
            }
            _ => {}
        }
        self.lines.after(state, cpu, record, change);
    }

    fn restart(&mut self) {
        self.filter.restart();
        self.all = Activity::default();
        self.lines.restart();
    }
}

impl DiffArgs {
    fn read(&self, path: &Path) -> anyhow::Result<Side> {
        with_trace(path, |input| {
            let counts = Counts {
                filter: Filter::new(&self.filter),
                all: Activity::default(),
                lines: Lines::default(),
            };
            let mut chosen_by = Symbols::new(self.symbols.search_path());
            let mut chosen = Chosen::new(Filter::new(&self.filter), &mut chosen_by, counts);
            let state = stream::read(input, &mut chosen)?;
            let Counts { all, lines, .. } = chosen.observer;
            let mut symbols = Symbols::new(self.symbols.search_path());
            let (lines, others) = lines.finish(&state.machine, &mut symbols);
            let mut by_line: BTreeMap<String, (u64, u64)> = BTreeMap::new();
            let known = lines.iter().map(|line| (line.place.text(), line.total()));
            let others = (others.count > 0).then(|| ("other lines".to_owned(), others));
            for (text, cost) in known.chain(others) {
                let sum = by_line.entry(text).or_default();
                *sum = (sum.0 + cost.count, sum.1 + cost.cycles);
            }
            let events = state.machine.events.iter().sum();
            Ok(Side {
                all,
                lines: by_line,
                lossy: state.losses.any(),
                loss: loss_line(&state.losses, state.frames, events),
                notes: symbols.problems().to_vec(),
            })
        })
    }

    /// `diff`.
    ///
    /// # Errors
    /// When reading or writing fails, or an input is no trace.
    pub fn run(&self) -> anyhow::Result<u8> {
        if self.before == Path::new("-") && self.after == Path::new("-") {
            return Err(usage("only one of the two can be standard input"));
        }
        let (before, after) = (self.read(&self.before)?, self.read(&self.after)?);
        let lossy = before.lossy || after.lossy;
        let report = self.compare(before, after);
        let mut out = anstream::stdout();
        let text = match self.format {
            ReportFormat::Text => render(&report),
            ReportFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        };
        std::io::Write::write_all(&mut out, text.as_bytes())?;
        Ok(match self.strict && lossy {
            true => Exit::Lossy,
            false if report.exceeded.is_empty() => Exit::Ok,
            false => Exit::Finding,
        } as u8)
    }

    fn compare(&self, before: Side, after: Side) -> Report {
        let metrics: Vec<(Metric, Pair)> = Metric::value_variants()
            .iter()
            .map(|metric| {
                let (before, after) = (metric.of(&before.all), metric.of(&after.all));
                (*metric, Pair { before, after })
            })
            .collect();
        let grown = |limit: &Limit| {
            let pair = metrics.iter().find(|(metric, _)| *metric == limit.metric);
            pair.is_some_and(|(_, pair)| pair.growth() > limit.percent)
        };
        let exceeded = self.fail_above.iter().filter(|limit| grown(limit));
        let exceeded = exceeded.map(|limit| limit.metric).collect();
        let mut names: Vec<&String> = before.lines.keys().chain(after.lines.keys()).collect();
        names.sort();
        names.dedup();
        let of = |side: &Side, name: &String| side.lines.get(name).copied().unwrap_or_default();
        let mut lines: Vec<LinePair> = names
            .into_iter()
            .map(|name| {
                let (before, after) = (of(&before, name), of(&after, name));
                LinePair {
                    line: name.clone(),
                    writes: Pair {
                        before: before.0,
                        after: after.0,
                    },
                    cycles: Pair {
                        before: before.1,
                        after: after.1,
                    },
                }
            })
            .collect();
        let changed = |line: &LinePair| line.cycles.before.abs_diff(line.cycles.after);
        lines.sort_by_key(|line| std::cmp::Reverse(changed(line)));
        let hidden = lines.len().saturating_sub(self.top);
        lines.truncate(self.top);
        let mut notes = before.notes;
        notes.extend(after.notes);
        notes.dedup();
        Report {
            schema_version: SCHEMA_VERSION,
            metrics,
            lines,
            exceeded,
            hidden,
            notes,
            losses: [before.loss, after.loss],
        }
    }
}

fn render(report: &Report) -> String {
    let mut rows = vec![
        ["", "before", "after", "change"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (metric, pair) in &report.metrics {
        let mut row = vec![metric.title().to_owned()];
        row.extend(pair.cells());
        if report.exceeded.contains(metric) {
            row.push(styled(BAD, "more than it may"));
        }
        rows.push(row);
    }
    let mut text = table(&rows, &[4], "");
    if !report.lines.is_empty() {
        let heading = [
            "writes",
            "after",
            "cycles",
            "after",
            "change",
            "line that broke sharing",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for line in &report.lines {
            let [before, after, _] = line.writes.cells();
            let mut row = vec![before, after];
            row.extend(line.cycles.cells());
            row.push(line.line.clone());
            rows.push(row);
        }
        let _ = writeln!(text, "\n{HEAD}Lines, by what changed most{HEAD:#}");
        text.push_str(&table(&rows, &[5], ""));
        if report.hidden > 0 {
            let more = format!("and {} more (see --top)", report.hidden);
            let _ = writeln!(text, "{}", styled(DIM, more));
        }
    }
    text.push('\n');
    if report.exceeded.is_empty() && report.metrics.iter().all(|(_, pair)| pair.growth() == 0.0) {
        let _ = writeln!(text, "{}", styled(GOOD, "No number differs."));
    }
    for note in &report.notes {
        let _ = writeln!(text, "{} {note}", styled(DIM, "Note:"));
    }
    let [before, after] = &report.losses;
    let _ = writeln!(text, "Before: {before}\nAfter:  {after}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_in_percent_of_what_was() {
        let pair = |before, after| Pair { before, after };
        assert_eq!(pair(200, 150).growth(), -25.0);
        assert_eq!(pair(0, 0).growth(), 0.0);
        assert!(pair(0, 1).growth().is_infinite());
        assert_eq!(pair(1000, 1015).cells(), ["1,000", "1,015", "+1.5 %"]);
        assert_eq!(pair(3, 0).cells()[2], "gone");
    }

    #[test]
    fn limits_name_a_number_and_a_percentage() {
        let limit = parse_limit("fork-cost=2.5%").expect("a limit");
        assert_eq!((limit.metric, limit.percent), (Metric::ForkCost, 2.5));
        for wrong in [
            "copies",
            "pages=3",
            "copies=lots",
            "copies=-1",
            "copies=inf",
        ] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
    }
}
