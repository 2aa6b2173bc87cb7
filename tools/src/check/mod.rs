//! `cowscope check`: a trace against the rules.
//!
//! Two checks in one pass: Arm's translation rules on what `trace=mmu` records ([`model::checker`]),
//! and the kernel's own counts against what its events add up to ([`crate::analysis::check`]), which
//! any trace allows. What is lost makes the answer "unknown", never "ok".

mod feed;
mod text;

use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Args;
use model::checker::{Rule, Violation};
use serde::Serialize;

use crate::analysis::check::{Finding, Subject, Tally};
use crate::analysis::loss::Losses;
use crate::analysis::stream::{self, State};
use crate::exit::Exit;
use crate::report::args::{InputArgs, ReportFormat};
use crate::report::with_input;
use feed::Feed;

/// Violations listed in full, unless all are asked for.
const LISTED: usize = 8;

const EXAMPLES: &str = "\
Examples:
  cowscope run --trace mmu --lossless -o a.cow -- story
  cowscope check a.cow

Exit status: 0 nothing was found; 1 a rule is broken; 3 the input is no trace; 4 nothing was found,
but events are missing, so that nothing can be said for certain.";

/// `check`
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct CheckArgs {
    /// The trace: a file, or - for standard input [default: the last run's]
    #[arg(value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// List every violation in full, not only the first few
    #[arg(long)]
    pub all: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing was found.
    Clean,
    /// A rule is broken, or a count is wrong.
    Violated,
    /// Nothing was found, but events are missing.
    Unknown,
}

/// What was checked, and what was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of this document.
    pub schema_version: u32,
    /// The answer.
    pub verdict: Verdict,
    /// Events of any kind.
    pub events: u64,
    /// Frames of the wire.
    pub frames: u64,
    /// What the kernel was told to record: `mmu` or less.
    pub trace: Option<&'static str>,
    /// Ticks of every time per second.
    pub counter_hz: u64,
    /// Time of the first event, in ticks.
    pub start: u64,
    /// Arm's rules; `None`: the trace has no MMU events.
    pub translation: Option<Translation>,
    /// The kernel's counts.
    pub counts: Vec<(Subject, Tally)>,
    /// Where they differ from the events, the first ones.
    pub findings: Vec<Finding>,
    /// What is missing.
    pub losses: Losses,
}

/// The outcome for the translation rules.
#[derive(Debug, Serialize)]
pub struct Translation {
    /// Descriptor writes checked.
    pub descriptors: u64,
    /// Pages of the kernel's half.
    pub kernel_pages: u64,
    /// Barriers.
    pub barriers: u64,
    /// TLB invalidations.
    pub tlbis: u64,
    /// Writes of TTBR0_EL1.
    pub ttbr0: u64,
    /// Frames taken and given back.
    pub frames: u64,
    /// Frames filled, or made fit for instruction fetch.
    pub contents: u64,
    /// Ends of operations, where somebody relies on what was done.
    pub operations: u64,
    /// Reference counts compared, and those that could not be.
    pub references: (u64, u64),
    /// Executable pages that could not be judged: their frames are older than the trace.
    pub fetch_unknown: u64,
    /// Where the stream had to be taken up anew.
    pub losses: u64,
    /// Events that came after later ones: the order of the trace is not that of time.
    pub late: u64,
    /// Violations by rule.
    pub by_rule: Vec<(String, u64)>,
    /// The first of them.
    pub violations: Vec<Broken>,
    /// What such a trace cannot show, by rule.
    pub limits: Vec<(String, &'static str)>,
}

/// A violation.
#[derive(Debug, Serialize)]
pub struct Broken {
    /// `E1` to `E14`.
    pub rule: String,
    /// The rule's name.
    pub name: &'static str,
    /// Number of the event in the trace, from 1.
    pub event: u64,
    /// Its time, in ticks.
    pub time: u64,
    /// Its CPU.
    pub cpu: u8,
    /// What the event is.
    pub what: String,
    /// What is wrong.
    pub problem: String,
    /// What should have been there.
    pub missing: String,
    /// Address space.
    pub space: Option<u32>,
    /// ASID.
    pub asid: Option<u16>,
    /// Page, its first byte.
    pub address: Option<u64>,
    /// Frame.
    pub frame: Option<u64>,
    /// Table (a frame number), index and level of the descriptor.
    pub descriptor: Option<(u64, u16, u8)>,
    /// Why it is a rule.
    pub why: &'static str,
    /// Where the rule is from.
    pub reference: &'static str,
    /// The last events of that CPU: their numbers, and what they are.
    pub context: Vec<(u64, String)>,
}

impl Broken {
    fn new(violation: &Violation, context: &[(model::checker::At, model::checker::Event)]) -> Self {
        Broken {
            rule: violation.rule.to_string(),
            name: violation.rule.name(),
            event: violation.at.position,
            time: violation.at.time,
            cpu: violation.at.cpu,
            what: violation.event.clone(),
            problem: violation.what.clone(),
            missing: violation.missing.clone(),
            space: violation.page.and_then(|page| page.space),
            asid: violation.page.and_then(|page| page.asid),
            address: violation.page.map(|page| page.va),
            frame: violation.frame,
            descriptor: violation.descriptor,
            why: violation.rule.why(),
            reference: violation.rule.reference(),
            context: context
                .iter()
                .map(|(at, event)| (at.position, event.to_string()))
                .collect(),
        }
    }
}

/// Checks a trace; `limit`: violations kept in full.
///
/// # Errors
/// When reading fails, or the input is no trace.
pub fn check(input: &mut dyn Read, limit: usize) -> io::Result<Report> {
    let mut feed = Feed::new(limit);
    let state = stream::read(input, &mut feed)?;
    Ok(Report::new(&feed, &state))
}

impl Report {
    fn new(feed: &Feed, state: &State) -> Report {
        let counts = feed.checker.counts();
        let mmu = counts.descriptors + counts.tlbis > 0;
        let mmu = mmu
            || state
                .about
                .as_ref()
                .is_some_and(|about| about.trace == "mmu");
        let checks = &state.machine.checks;
        let lossy = state.losses.any() || counts.losses > 0 || feed.late > 0;
        let verdict = if feed.checker.total() > 0 || checks.total().differed > 0 {
            Verdict::Violated
        } else if lossy {
            Verdict::Unknown
        } else {
            Verdict::Clean
        };
        let violations = feed.checker.violations().iter().zip(&feed.contexts);
        let translation = Translation {
            descriptors: counts.descriptors,
            kernel_pages: counts.kernel_pages,
            barriers: counts.barriers,
            tlbis: counts.tlbis,
            ttbr0: counts.ttbr0,
            frames: counts.frames,
            contents: counts.contents,
            operations: counts.operations,
            references: (counts.references, counts.references_unknown),
            fetch_unknown: counts.fetch_unknown,
            losses: counts.losses,
            late: feed.late,
            by_rule: feed
                .checker
                .by_rule()
                .iter()
                .map(|(rule, count)| (rule.to_string(), *count))
                .collect(),
            violations: violations
                .map(|(violation, context)| Broken::new(violation, context))
                .collect(),
            limits: Rule::ALL
                .into_iter()
                .filter_map(|rule| Some((rule.to_string(), rule.limits()?)))
                .collect(),
        };
        Report {
            schema_version: 1,
            verdict,
            events: feed.events,
            frames: state.frames,
            trace: state.about.as_ref().map(|about| about.trace),
            counter_hz: state.about.as_ref().map_or(1, |about| about.counter_hz),
            start: state.machine.period.map_or(0, |(first, _)| first),
            translation: mmu.then_some(translation),
            counts: Subject::ALL
                .into_iter()
                .map(|subject| (subject, checks.tally(subject)))
                .collect(),
            findings: checks.findings().to_vec(),
            losses: state.losses.clone(),
        }
    }

    /// The exit status that says the same.
    pub fn exit(&self) -> Exit {
        match self.verdict {
            Verdict::Clean => Exit::Ok,
            Verdict::Violated => Exit::Finding,
            Verdict::Unknown => Exit::Lossy,
        }
    }
}

impl CheckArgs {
    /// `check`.
    ///
    /// # Errors
    /// When writing fails, or the input is no trace.
    pub fn run(&self) -> anyhow::Result<u8> {
        let input = InputArgs {
            input: self.input.clone(),
            strict: false,
        };
        with_input(&input, |input| {
            let mut out = anstream::AutoStream::auto(io::stdout().lock());
            self.run_to(input, &mut out)
        })
    }

    /// The same, to any output.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is no trace.
    pub fn run_to(&self, input: &mut dyn Read, out: &mut dyn Write) -> anyhow::Result<u8> {
        let limit = if self.all { usize::MAX } else { LISTED };
        let report = check(input, limit)?;
        match self.format {
            ReportFormat::Text => out.write_all(text::render(&report).as_bytes())?,
            ReportFormat::Json => {
                serde_json::to_writer_pretty(&mut *out, &report)?;
                writeln!(out)?;
            }
        }
        out.flush()?;
        Ok(report.exit() as u8)
    }
}
