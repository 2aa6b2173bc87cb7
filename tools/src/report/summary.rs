//! The report: machine, story, processes, forks, lines, checks, loss.

use serde::Serialize;
use serde_json::{Value, json};
use wire::event::Outcome;

use super::advice::{Advice, advice};
use super::decay::Point;
use super::filter::Filter;
use super::lines::{Amplification, Line};
use super::phases::Phases;
use super::place::{Place, program_name};
use super::story::Evidence;
use super::story_text::Step;
use super::{Parts, text};
use crate::analysis::check::{Finding, Subject, Tally};
use crate::analysis::fork::{Fork, Parting, Writes};
use crate::analysis::loss::Losses;
use crate::analysis::machine::Machine;
use crate::analysis::process::{Activity, Cost, Process};
use crate::analysis::stream::{About, Ended, LockWaits, Memory, State, mode_name};
use crate::analysis::symbols::Symbols;

/// Raised when a field changes its meaning or goes away; new fields do not raise it.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything a report says.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The machine, if a hello was in the trace.
    pub machine: Option<About>,
    /// Name of its cores.
    pub cpu: Option<String>,
    /// From the first event to the last.
    pub duration_seconds: f64,
    /// How it ended.
    pub ended: Option<Ended>,
    /// Its memory.
    pub memory: Option<Memory>,
    /// Locks of the kernel that CPUs waited for, the longest sum of waits first.
    pub locks: Vec<LockWaits>,
    /// Frames in the trace.
    pub frames: u64,
    /// Events in the trace.
    pub events: u64,
    /// Steps of the story, if it was asked for.
    pub story: Option<Vec<Step>>,
    /// The evidence of the story.
    pub evidence: Option<Value>,
    /// Processes, by pid.
    pub processes: Vec<ProcessReport>,
    /// Processes that are only summed up, and what they did.
    pub other_processes: Option<(u64, ActivityReport)>,
    /// Forks that are remembered, the most expensive first.
    pub forks: Vec<ForkReport>,
    /// Forks in the trace.
    pub fork_count: u32,
    /// What cost most, and what would have saved it.
    pub advice: Vec<Advice>,
    /// Lines that break sharing, the most expensive first.
    pub lines: Vec<Line>,
    /// Bytes that writes after forks copied.
    pub copied_bytes: u64,
    /// The same with pages of 2 MiB, if all of each were there.
    pub copied_bytes_with_2mib_pages: u64,
    /// How much of copied pages had changed in the end, if the kernel compared them.
    pub amplification: Option<Amplification>,
    /// When processes copied, by who copied most.
    pub phases: Vec<Phases>,
    /// Comparisons with the kernel, by subject.
    pub checks: Vec<(Subject, Tally)>,
    /// The first that differ.
    pub findings: Vec<Finding>,
    /// What is missing.
    pub losses: Losses,
    /// Anything the user should know about symbols and versions.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(super) hz: u64,
    #[serde(skip)]
    pub(super) start: u64,
    #[serde(skip)]
    pub(super) costs: Option<String>,
}

/// What a process did, in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct ActivityReport {
    /// Faults by outcome: name, count, cycles.
    pub faults: Vec<(&'static str, Cost)>,
    /// All of them.
    pub faults_total: Cost,
    /// Forks it made.
    pub forks: Cost,
    /// Pages its forks shared.
    pub pages_shared: u64,
    /// Pages its eager forks copied at once.
    pub pages_copied_at_fork: u64,
    /// Pages it copied by writing.
    pub pages_copied: u64,
    /// Pages it took over as their last owner.
    pub pages_reused: u64,
    /// Writes that broke a fork's sharing.
    pub debt: Cost,
    /// Cycles in faults and forks.
    pub stall_cycles: u64,
    /// Programs it executed.
    pub execs: u64,
    /// Times it was given a CPU.
    pub switches: u64,
    /// Threads that it had beside its first.
    pub threads: u64,
}

impl ActivityReport {
    fn new(activity: &Activity) -> Self {
        ActivityReport {
            faults: activity
                .faults
                .iter()
                .map(|(o, cost)| (o.name(), cost))
                .collect(),
            faults_total: activity.faults.total(),
            forks: activity.forks,
            pages_shared: activity.shared,
            pages_copied_at_fork: activity.copied_at_fork,
            pages_copied: activity.faults.of(Outcome::CowCopy).count,
            pages_reused: activity.faults.of(Outcome::CowReuse).count,
            debt: activity.debt,
            stall_cycles: activity.stall(),
            execs: activity.execs,
            switches: activity.switches,
            threads: activity.threads,
        }
    }

    /// Faults with one of these outcomes.
    pub fn faults_of(&self, outcomes: &[Outcome]) -> u64 {
        let named = |name: &str| outcomes.iter().any(|outcome| outcome.name() == name);
        self.faults
            .iter()
            .filter(|(name, _)| named(name))
            .map(|(_, cost)| cost.count)
            .sum()
    }
}

/// A signal that killed a process.
#[derive(Clone, Debug, Serialize)]
pub struct KillReport {
    /// Its number.
    pub signal: u8,
    /// The address, for a fault.
    pub address: u64,
    /// The instruction.
    pub place: Place,
}

/// A system call the kernel lacks.
#[derive(Clone, Debug, Serialize)]
pub struct MissingReport {
    /// Its number.
    pub number: u32,
    /// Linux's name of it.
    pub name: Option<&'static str>,
    /// How often it was called.
    pub count: u64,
    /// The first caller.
    pub place: Place,
}

/// A system call that failed for want of memory.
#[derive(Clone, Debug, Serialize)]
pub struct RefusalReport {
    /// Its number.
    pub number: u32,
    /// Linux's name of it.
    pub name: Option<&'static str>,
    /// How often it was refused.
    pub count: u64,
    /// Pages that it wanted to be promised the first time, tables included; 0: a frame for the
    /// kernel's own use.
    pub pages: u64,
    /// Pages that could have been promised then.
    pub left: u64,
    /// The first caller.
    pub place: Place,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// Process id.
    pub pid: u32,
    /// Its parent, if known.
    pub parent: Option<u32>,
    /// Its name.
    pub name: String,
    /// Seconds after the first event at which it began, if seen.
    pub started_seconds: Option<f64>,
    /// Seconds after the first event at which it ended, if seen.
    pub ended_seconds: Option<f64>,
    /// Its wait status.
    pub status: Option<u32>,
    /// The signal that killed it.
    pub killed: Option<KillReport>,
    /// System calls it wanted and did not get.
    pub missing_syscalls: Vec<MissingReport>,
    /// System calls that were refused memory.
    pub refusals: Vec<RefusalReport>,
    /// What it did.
    #[serde(flatten)]
    pub activity: ActivityReport,
    /// Its anonymous pages at the end of the trace: its own, and shared with others.
    pub pages_at_end: Option<(u32, u32)>,
}

/// A fork and what it cost later.
#[derive(Clone, Debug, Serialize)]
pub struct ForkReport {
    /// Seconds after the first event.
    pub seconds: f64,
    /// Who forked.
    pub parent: u32,
    /// Whom.
    pub child: u32,
    /// How.
    pub mode: &'static str,
    /// The caller.
    pub place: Place,
    /// Pages shared.
    pub shared: u32,
    /// Descriptors of the parent that were write-protected.
    pub protected: u32,
    /// Pages copied at once.
    pub copied: u32,
    /// Tables allocated.
    pub tables: u32,
    /// Tables shared.
    pub tables_shared: u32,
    /// Cycles at the fork.
    pub cost: u32,
    /// First writes later, by the child.
    pub by_child: WritesReport,
    /// By the parent, while the child had its share.
    pub by_parent: WritesReport,
    /// By the parent, after the child had gone.
    pub by_parent_after: WritesReport,
    /// By others.
    pub by_others: WritesReport,
    /// Cycles of all of them.
    pub debt_cycles: u64,
    /// How the child gave its share back: exec or exit.
    pub child_gone_by: Option<&'static str>,
    /// Pages that the two still shared, from the fork until the child gave its share back or the
    /// trace ended: seconds after the fork, and pages.
    pub still_shared: Vec<(f64, u32)>,
    #[serde(skip)]
    pub(super) sharing: Vec<Point>,
}

/// First writes to shared pages.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WritesReport {
    /// That copied.
    pub copies: Cost,
    /// That did not.
    pub reuses: Cost,
    /// That copied a table.
    pub table_copies: Cost,
    /// That took a table over.
    pub table_reuses: Cost,
}

impl From<&Writes> for WritesReport {
    fn from(writes: &Writes) -> Self {
        WritesReport {
            copies: writes.copies,
            reuses: writes.reuses,
            table_copies: writes.table_copies,
            table_reuses: writes.table_reuses,
        }
    }
}

impl ForkReport {
    fn new(fork: &Fork, seconds: f64, place: Place) -> Self {
        let event = &fork.event;
        ForkReport {
            seconds,
            parent: event.parent,
            child: event.child,
            mode: mode_name(event.mode),
            place,
            shared: fork.pages_shared(),
            protected: event.protected,
            copied: event.copied,
            tables: event.tables,
            tables_shared: event.tables_shared,
            cost: event.cost,
            by_child: (&fork.child).into(),
            by_parent: (&fork.parent).into(),
            by_parent_after: (&fork.parent_after).into(),
            by_others: (&fork.others).into(),
            debt_cycles: fork.debt().total().cycles,
            child_gone_by: fork.parting.map(|parting| match parting {
                Parting::Exec(_) => "exec",
                Parting::Exit(_) => "exit",
            }),
            still_shared: Vec::new(),
            sharing: Vec::new(),
        }
    }
}

/// The report of a trace that was read to its end. `top` bounds its lists of lines and forks.
pub fn report(
    state: &State,
    story: Option<(Vec<Step>, &Evidence)>,
    parts: Parts,
    symbols: &mut Symbols,
    top: usize,
    filter: &Filter<'_>,
) -> Report {
    let machine = &state.machine;
    let Parts {
        lines,
        decay,
        copies,
    } = parts;
    let amplification = lines.amplification();
    let (copied_bytes, copied_bytes_with_2mib_pages) = lines.bytes();
    let (lines, _) = lines.finish(machine, symbols);
    let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
    let (start, end) = machine.period.unwrap_or_default();
    let seconds = |time: u64| time.saturating_sub(start) as f64 / hz as f64;
    let mut known: Vec<&Process> = machine
        .ended
        .iter()
        .chain(machine.processes.values())
        .filter(|process| filter.wants_process(process.pid))
        .collect();
    known.sort_by_key(|process| (process.pid, process.started));
    let period = machine.period.unwrap_or_default();
    let phases = known.iter().filter_map(|known| copies.of(known, period));
    let mut phases: Vec<Phases> = phases.collect();
    phases.sort_by_key(|phases| (std::cmp::Reverse(phases.all()), phases.pid));
    phases.truncate(top);
    let processes = known
        .into_iter()
        .map(|process| process_report(machine, process, symbols, &seconds))
        .collect();
    let of_wanted = |fork: &&Fork| {
        filter.wants_process(fork.event.parent) || filter.wants_process(fork.event.child)
    };
    let mut forks: Vec<&Fork> = machine.forks.iter().filter(of_wanted).collect();
    forks.sort_by_key(|fork| {
        std::cmp::Reverse(u64::from(fork.event.cost) + fork.debt().total().cycles)
    });
    let forks = forks.into_iter().take(top).map(|fork| {
        let mut place = Place::of_fork(fork);
        place.resolve(machine, symbols);
        let sharing = decay.of(fork, end);
        let points = sharing.iter();
        ForkReport {
            still_shared: points
                .map(|(time, pages)| (*time as f64 / hz as f64, *pages))
                .collect(),
            sharing,
            ..ForkReport::new(fork, seconds(fork.time), place)
        }
    });
    let forks = forks.collect();
    let mut notes = Vec::new();
    if let Some(about) = &state.about {
        if about.wire.1 > wire::MINOR {
            notes.push(format!(
                "the trace is of the newer wire version {}.{}: what this tool does not know is skipped",
                about.wire.0, about.wire.1
            ));
        } else if !about.same_definitions {
            notes.push(
                "kernel and tool were built from different definitions of the wire".to_owned(),
            );
        }
        if !about.faults_traced {
            notes.push(format!(
                "the kernel recorded with trace={}: no faults, so pages are not known",
                about.trace
            ));
        }
    }
    notes.extend_from_slice(symbols.problems());
    let (story, evidence) = match story {
        Some((steps, evidence)) => (Some(steps), Some(evidence_json(evidence))),
        None => (None, None),
    };
    let (others, activity) = &machine.ended_others;
    let mut locks = state.locks.clone();
    locks.sort_by_key(|waits| std::cmp::Reverse(waits.ticks));
    Report {
        schema_version: SCHEMA_VERSION,
        cpu: state.about.as_ref().map(|about| text::cpu_name(about.midr)),
        machine: state.about.clone(),
        duration_seconds: seconds(end),
        ended: state.ended,
        memory: state.memory,
        locks,
        frames: state.frames,
        events: machine.events.iter().sum(),
        story,
        evidence,
        processes,
        other_processes: (*others > 0).then(|| (*others, ActivityReport::new(activity))),
        forks,
        fork_count: machine.forks.count(),
        advice: advice(machine, &lines, symbols),
        lines: lines.into_iter().take(top).collect(),
        copied_bytes,
        copied_bytes_with_2mib_pages,
        amplification,
        phases,
        checks: Subject::ALL
            .map(|subject| (subject, machine.checks.tally(subject)))
            .to_vec(),
        findings: machine.checks.findings().to_vec(),
        losses: state.losses.clone(),
        notes,
        hz,
        start,
        costs: super::costs::cost_table(state),
    }
}

fn process_report(
    machine: &Machine,
    process: &Process,
    symbols: &mut Symbols,
    seconds: &impl Fn(u64) -> f64,
) -> ProcessReport {
    let mut resolved = |mut place: Place| {
        place.resolve(machine, symbols);
        place
    };
    let missing_syscalls = process.missing.iter().map(|missing| MissingReport {
        number: missing.number,
        name: syscall_name(missing.number),
        count: missing.count,
        place: resolved(Place::of_code(missing.pc, missing.code)),
    });
    let missing_syscalls = missing_syscalls.collect();
    let killed = process.killed.map(|kill| KillReport {
        signal: kill.signal,
        address: kill.address,
        place: resolved(Place::of_code(kill.pc, kill.code)),
    });
    let refusals = process.refusals.iter().map(|refusal| RefusalReport {
        number: refusal.first.number,
        name: syscall_name(refusal.first.number),
        count: refusal.count,
        pages: refusal.first.pages,
        left: refusal.first.left,
        place: resolved(Place::of_refusal(refusal)),
    });
    let refusals = refusals.collect();
    let space = machine
        .spaces
        .get(&process.space)
        .filter(|_| process.ended.is_none());
    ProcessReport {
        pid: process.pid,
        parent: process.parent,
        name: program_name(machine, process.pid),
        started_seconds: process.started.map(seconds),
        ended_seconds: process.ended.map(|(time, _)| seconds(time)),
        status: process.ended.map(|(_, status)| status),
        killed,
        missing_syscalls,
        refusals,
        activity: ActivityReport::new(&process.activity),
        pages_at_end: space.map(|space| machine.private_and_shared(space)),
    }
}

/// Linux's name of an arm64 system call.
fn syscall_name(number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    Some(syscalls::aarch64::Sysno::new(number)?.name())
}

fn evidence_json(evidence: &Evidence) -> Value {
    let fork = |fork: &Fork, place: &Place| {
        serde_json::to_value(ForkReport::new(fork, 0.0, place.clone())).unwrap_or_default()
    };
    let chain = |chain: &Option<super::story::Chain>| {
        chain.as_ref().map(|chain| {
            let mut value = serde_json::to_value(chain).unwrap_or_default();
            value["fork"] = fork(&chain.fork, &chain.fork_place);
            value
        })
    };
    json!({
        "chain": chain(&evidence.chain),
        "reverse": chain(&evidence.reverse),
        "switches": evidence.switches,
        "switch_count": evidence.switch_count,
        "exec": evidence.exec.as_ref().map(|exec| fork(&exec.fork, &exec.first)),
        "vfork": evidence.vfork.as_ref().map(|vfork| fork(&vfork.fork, &vfork.place)),
        "largest_fork": evidence.largest.as_ref().map(|(largest, place)| fork(largest, place)),
    })
}
