//! The list of faults: one each, as they go by.

use std::fs::File;
use std::io::{self, Write};

use wire::event::{Event, Fault, Origin, Record};

use super::args::ListFormat;
use super::filter::Filter;
use super::parquet::Table;
use super::place::{Place, program_name};
use super::row::{Row, access_name};
use super::summary::SCHEMA_VERSION;
use super::text::{count, micros};
use crate::analysis::descriptor::Descriptor;
use crate::analysis::machine::Change;
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::Symbols;

/// Lists faults.
pub struct Lister<'a> {
    filter: Filter<'a>,
    limit: Option<u64>,
    symbols: &'a mut Symbols,
    out: Output<'a>,
    listed: u64,
    failed: Option<io::Error>,
}

/// Where to, and how.
pub enum Output<'a> {
    Text(&'a mut dyn Write),
    Json(&'a mut dyn Write),
    JsonLines(&'a mut dyn Write),
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
    Parquet(Box<Table>),
}

impl<'a> Output<'a> {
    /// As text of a format.
    pub fn text(format: ListFormat, out: &'a mut dyn Write) -> io::Result<Self> {
        Ok(match format {
            ListFormat::Text => Output::Text(out),
            ListFormat::Csv => Output::Csv(Box::new(csv::Writer::from_writer(out))),
            ListFormat::Jsonl => {
                writeln!(out, "{{\"schema_version\":{SCHEMA_VERSION}}}")?;
                Output::JsonLines(out)
            }
            ListFormat::Json => {
                write!(out, "{{\"schema_version\":{SCHEMA_VERSION},\"faults\":[")?;
                Output::Json(out)
            }
        })
    }

    /// As a Parquet file.
    pub fn parquet(file: File) -> io::Result<Self> {
        Ok(Output::Parquet(Box::new(Table::new(file)?)))
    }

    fn put(&mut self, row: &Row<'_>, first: bool) -> io::Result<()> {
        match self {
            Output::Text(_) => Ok(()),
            Output::Json(out) => {
                writeln!(out, "{}", if first { "" } else { "," })?;
                Ok(serde_json::to_writer(out, row)?)
            }
            Output::JsonLines(out) => {
                serde_json::to_writer(&mut *out, row)?;
                writeln!(out)
            }
            Output::Csv(out) => out.serialize(row).map_err(io::Error::other),
            Output::Parquet(table) => table.put(row),
        }
    }
}

impl<'a> Lister<'a> {
    /// Begins the list, of at most `limit` faults.
    pub fn new(
        filter: Filter<'a>,
        limit: Option<u64>,
        symbols: &'a mut Symbols,
        out: Output<'a>,
    ) -> Self {
        Lister {
            filter,
            limit,
            symbols,
            out,
            listed: 0,
            failed: None,
        }
    }

    /// Ends the list.
    pub fn finish(self) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.out {
            Output::Text(out) | Output::JsonLines(out) => out.flush(),
            Output::Json(out) => {
                writeln!(out, "\n]}}")?;
                out.flush()
            }
            Output::Csv(mut out) => out.flush(),
            Output::Parquet(table) => table.finish(),
        }
    }

    fn list(
        &mut self,
        state: &State,
        record: &Record,
        fault: &Fault,
        change: &Change,
    ) -> io::Result<()> {
        if !self.filter.wants(state, record, fault, self.symbols) {
            return Ok(());
        }
        let time = self.filter.since_start(record);
        self.listed += 1;
        let machine = &state.machine;
        let mut place = Place::of_fault(machine, fault);
        place.resolve(machine, self.symbols);
        let name = program_name(machine, fault.pid);
        if let Output::Text(out) = &mut self.out {
            let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
            let name = match machine.thread_name(fault.pid, record.tid) {
                Some(thread) => format!("{thread}/{}", record.tid),
                None => name,
            };
            return writeln!(out, "{}", line(time, hz, fault, &name, &place));
        }
        let row = Row::new(state, (time, record), fault, change, (&name, &place));
        self.out.put(&row, self.listed == 1)
    }
}

fn line(time: u64, hz: u64, fault: &Fault, name: &str, place: &Place) -> String {
    let (old, new) = (Descriptor(fault.old), Descriptor(fault.new));
    let frames = match (old.valid(), new.valid()) {
        (true, true) if old.frame() != new.frame() => {
            format!("{:#x} -> {:#x}", old.frame(), new.frame())
        }
        (_, true) => format!("{:#x}", new.frame()),
        _ => "-".to_owned(),
    };
    let kernel = match fault.origin {
        Origin::Kernel => "k",
        Origin::User => " ",
    };
    format!(
        "{:>12.2} us  pid {:<3} {:<10} {:<13} {}{kernel} {:<#14x} {frames:<18} refs {:<2} {:>7} cyc  {}",
        micros(time, hz),
        fault.pid,
        name,
        fault.outcome.name(),
        &access_name(fault.access)[..1],
        fault.addr,
        fault.refs,
        count(fault.cost),
        place.text()
    )
}

impl Observer for Lister<'_> {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, change: &Change) {
        self.filter.see(record);
        if let Event::Fault(fault) = &record.event
            && self.wants_more()
            && let Err(error) = self.list(state, record, fault, change)
        {
            self.failed = Some(error);
        }
    }

    fn restart(&mut self) {
        self.filter.restart();
    }

    fn wants_more(&self) -> bool {
        self.failed.is_none() && self.limit.is_none_or(|limit| self.listed < limit)
    }
}
