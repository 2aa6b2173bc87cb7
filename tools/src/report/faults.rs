//! The list of faults: one line each, as they go by.

use std::io::{self, Write};

use serde::Serialize;
use wire::event::{Access, Event, Fault, Origin, Record};

use super::args::{FaultsArgs, ListFormat};
use super::place::{Place, program_name};
use super::summary::SCHEMA_VERSION;
use super::text::{count, micros};
use crate::analysis::descriptor::{Descriptor, PAGE_SIZE};
use crate::analysis::machine::Change;
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;

/// One fault, flat, for programs.
#[derive(Debug, Serialize)]
struct Row<'a> {
    time_us: f64,
    cpu: u8,
    pid: u32,
    tid: u32,
    name: &'a str,
    space: u32,
    asid: u16,
    outcome: &'static str,
    access: &'static str,
    origin: &'static str,
    address: String,
    pc: String,
    function: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    esr: String,
    old: String,
    new: String,
    old_frame: Option<String>,
    new_frame: Option<String>,
    references: u32,
    references_after: u32,
    /// Pids that map the old frame at this address, as rebuilt, after the fault.
    sharers: String,
    tlbis: u8,
    cost_cycles: u32,
    /// The fork whose sharing this broke: its child's pid.
    broke_fork_of: Option<u32>,
}

/// Lists faults on `out`.
pub struct Lister<'a> {
    args: &'a FaultsArgs,
    symbols: &'a mut Symbols,
    out: Output<'a>,
    start: Option<u64>,
    listed: u64,
    failed: Option<io::Error>,
}

enum Output<'a> {
    Plain(&'a mut dyn Write),
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
}

impl<'a> Lister<'a> {
    /// Begins the list.
    pub fn new(
        args: &'a FaultsArgs,
        symbols: &'a mut Symbols,
        out: &'a mut dyn Write,
    ) -> io::Result<Self> {
        let out = match args.format {
            ListFormat::Csv => Output::Csv(Box::new(csv::Writer::from_writer(out))),
            ListFormat::Text => Output::Plain(out),
            ListFormat::Jsonl => {
                writeln!(out, "{{\"schema_version\":{SCHEMA_VERSION}}}")?;
                Output::Plain(out)
            }
            ListFormat::Json => {
                write!(out, "{{\"schema_version\":{SCHEMA_VERSION},\"faults\":[")?;
                Output::Plain(out)
            }
        };
        Ok(Lister {
            args,
            symbols,
            out,
            start: None,
            listed: 0,
            failed: None,
        })
    }

    /// Ends the list.
    pub fn finish(self) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.out {
            Output::Plain(out) => {
                if self.args.format == ListFormat::Json {
                    writeln!(out, "\n]}}")?;
                }
                out.flush()
            }
            Output::Csv(mut out) => out.flush(),
        }
    }

    fn wanted(&self, time: u64, hz: u64, fault: &Fault) -> bool {
        let args = self.args;
        let span = u64::try_from(u128::from(time) * 1_000_000_000 / u128::from(hz.max(1)));
        (args.pid.is_empty() || args.pid.contains(&fault.pid))
            && (args.outcome.is_empty() || args.outcome.contains(&fault.outcome))
            && args
                .addr
                .as_ref()
                .is_none_or(|range| range.contains(&fault.addr))
            && args
                .time
                .as_ref()
                .is_none_or(|range| range.contains(&span.unwrap_or(u64::MAX)))
    }

    fn list(
        &mut self,
        state: &State,
        cpu: u8,
        record: &Record,
        fault: &Fault,
        change: &Change,
    ) -> io::Result<()> {
        let machine = &state.machine;
        let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
        let time = record
            .time
            .saturating_sub(self.start.unwrap_or(record.time));
        if !self.wanted(time, hz, fault) {
            return Ok(());
        }
        self.listed += 1;
        let mut place = Place::of_fault(machine, fault);
        place.resolve(machine, self.symbols);
        let name = program_name(machine, fault.pid);
        let (old, new) = (Descriptor(fault.old), Descriptor(fault.new));
        let access = match fault.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Exec => "exec",
        };
        if self.args.format == ListFormat::Text {
            let Output::Plain(out) = &mut self.out else {
                return Ok(());
            };
            let frames = match (old.valid(), new.valid()) {
                (true, true) if old.frame() != new.frame() => {
                    format!("{:#x} -> {:#x}", old.frame(), new.frame())
                }
                (_, true) => format!("{:#x}", new.frame()),
                _ => "-".to_owned(),
            };
            let kernel = if fault.origin == Origin::Kernel {
                "k"
            } else {
                " "
            };
            return writeln!(
                out,
                "{:>12.2} us  pid {:<3} {:<10} {:<13} {}{kernel} {:<#14x} {frames:<18} refs {:<2} {:>7} cyc  {}",
                micros(time, hz),
                fault.pid,
                name,
                fault.outcome.name(),
                &access[..1],
                fault.addr,
                fault.refs,
                count(fault.cost),
                place.text()
            );
        }
        let sharers: Vec<String> = if old.valid() {
            let spaces = machine.sharers(old.frame(), fault.addr / PAGE_SIZE * PAGE_SIZE);
            let pids = spaces.into_iter().flat_map(|space| machine.users(space));
            pids.map(|pid| pid.to_string()).collect()
        } else {
            Vec::new()
        };
        let hex = |bits: u64| format!("{bits:#x}");
        let source = place.source.as_ref();
        let row = Row {
            time_us: micros(time, hz),
            cpu,
            pid: fault.pid,
            tid: record.tid,
            name: &name,
            space: fault.space,
            asid: fault.asid,
            outcome: fault.outcome.name(),
            access,
            origin: if fault.origin == Origin::Kernel {
                "kernel"
            } else {
                "user"
            },
            address: hex(fault.addr),
            pc: hex(fault.pc),
            function: source.map(|source| source.function.as_str()),
            file: source.and_then(|source| source.file.as_deref()),
            line: source.and_then(|source| source.line),
            esr: hex(u64::from(fault.esr)),
            old: hex(fault.old),
            new: hex(fault.new),
            old_frame: old.valid().then(|| hex(old.frame())),
            new_frame: new.valid().then(|| hex(new.frame())),
            references: fault.refs,
            references_after: fault.refs_after,
            sharers: sharers.join(" "),
            tlbis: fault.tlbis,
            cost_cycles: fault.cost,
            broke_fork_of: machine.forks.get(change.fork).map(|fork| fork.event.child),
        };
        match &mut self.out {
            Output::Csv(out) => out.serialize(row).map_err(io::Error::other),
            Output::Plain(out) => {
                match self.args.format {
                    ListFormat::Json if self.listed == 1 => writeln!(out)?,
                    ListFormat::Json => writeln!(out, ",")?,
                    _ => {}
                }
                serde_json::to_writer(&mut *out, &row)?;
                if self.args.format == ListFormat::Jsonl {
                    writeln!(out)?;
                }
                Ok(())
            }
        }
    }
}

impl Observer for Lister<'_> {
    fn after(&mut self, state: &State, cpu: u8, record: &Record, change: &Change) {
        self.start.get_or_insert(record.time);
        if let Event::Fault(fault) = &record.event
            && self.wants_more()
            && let Err(error) = self.list(state, cpu, record, fault, change)
        {
            self.failed = Some(error);
        }
    }

    fn restart(&mut self) {
        self.start = None;
    }

    fn wants_more(&self) -> bool {
        self.failed.is_none() && self.args.limit.is_none_or(|limit| self.listed < limit)
    }
}
