//! Everything that is in a trace, one line each: for those who debug the kernel or the tool.

use std::io::{self, Write};

use defmt_decoder::Table;
use wire::event::{Backing, Event, Record};
use wire::frame::Meta;
use wire::{Body, Item};

use super::filter::Filter;
use super::story::region_name;
use super::text::{micros, protection};
use crate::analysis::descriptor::{Descriptor, Ttbr0};
use crate::analysis::machine::Change;
use crate::analysis::stream::{Observer, State, hex, mode_name};
use crate::analysis::symbols::Symbols;

/// Writes lines as the trace goes by.
pub struct Dump<'a> {
    out: &'a mut dyn Write,
    symbols: &'a mut Symbols,
    filter: Filter<'a>,
    /// The kernel's log strings; `None` inside: looked for and not found.
    logs: Option<Option<Box<Table>>>,
    start: u64,
    hz: u64,
    failed: Option<io::Error>,
}

impl<'a> Dump<'a> {
    /// A dump to `out`: of faults those that `filter` wants, and of the rest everything.
    pub fn new(out: &'a mut dyn Write, symbols: &'a mut Symbols, filter: Filter<'a>) -> Self {
        Dump {
            out,
            symbols,
            filter,
            logs: None,
            start: 0,
            hz: 1,
            failed: None,
        }
    }

    /// The last write's error, if any.
    pub fn finish(self) -> io::Result<()> {
        self.failed.map_or_else(|| self.out.flush(), Err)
    }

    fn log(&mut self, state: &State, bytes: &[u8]) -> io::Result<()> {
        if self.logs.is_none() {
            self.logs = Some(self.log_table(state));
        }
        let Some(Some(table)) = &self.logs else {
            return writeln!(
                self.out,
                "log {} (no kernel ELF with its build id)",
                hex(bytes)
            );
        };
        match table.decode(bytes) {
            Ok((frame, _)) => writeln!(self.out, "log {}", frame.display(false)),
            Err(_) => writeln!(self.out, "log {} (not of this kernel)", hex(bytes)),
        }
    }

    fn log_table(&mut self, state: &State) -> Option<Box<Table>> {
        let id = &state.about.as_ref()?.kernel_build_id;
        let id: Option<Vec<u8>> = (0..id.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(id.get(at..at + 2)?, 16).ok())
            .collect();
        let elf = std::fs::read(self.symbols.find(&id?)?).ok()?;
        Table::parse(&elf).ok().flatten().map(Box::new)
    }

    fn write_item(&mut self, item: &Item<'_>, state: &State) -> io::Result<()> {
        let envelope = match item {
            Item::Frame(envelope) => envelope,
            Item::Text(text) => {
                return writeln!(self.out, "text {:?}", text.trim_end_matches(['\r', '\n']));
            }
            Item::Unknown { offset, len, what } => {
                return writeln!(self.out, "unknown at byte {offset}, {len} bytes: {what:?}");
            }
            Item::Corrupt {
                offset,
                len,
                damage,
            } => {
                return writeln!(
                    self.out,
                    "corrupt at byte {offset}, {len} bytes: {damage:?}"
                );
            }
        };
        if let Body::Batch(batch) = &envelope.body {
            return writeln!(
                self.out,
                "#{} cpu {} batch: {} events, {} bytes, {} dropped so far",
                envelope.seq,
                envelope.cpu,
                batch.count,
                batch.events.len(),
                batch.dropped
            );
        }
        write!(self.out, "#{} cpu {} ", envelope.seq, envelope.cpu)?;
        match &envelope.body {
            Body::Log(bytes) => self.log(state, bytes),
            Body::Console { fd, bytes } => {
                writeln!(
                    self.out,
                    "console fd {fd} {:?}",
                    String::from_utf8_lossy(bytes)
                )
            }
            Body::Hello(hello) => {
                self.hz = hello.counter_hz.max(1);
                writeln!(self.out, "{hello:?}")
            }
            Body::Meta(Meta::File { id, path, build_id }) => {
                writeln!(self.out, "file {id} {path} build id {}", hex(build_id))
            }
            Body::Meta(meta) => writeln!(self.out, "{meta:?}"),
            Body::Snapshot(snapshot) => writeln!(self.out, "{snapshot:?}"),
            Body::Contention(contention) => writeln!(self.out, "{contention:?}"),
            Body::End(end) => writeln!(self.out, "{end:?}"),
            Body::Batch(_) => Ok(()),
        }
    }

    fn write_event(&mut self, cpu: u8, record: &Record) -> io::Result<()> {
        let time = micros(record.time.saturating_sub(self.start), self.hz);
        let (out, tid) = (&mut *self.out, record.tid);
        write!(out, "{time:>14.2} us cpu {cpu} tid {tid:<4} ")?;
        match &record.event {
            Event::Fault(fault) => {
                write!(
                    out,
                    "fault {} {:?} {:?} pid {} space {} asid {} {:#x} pc {:#x} esr {:#x} {:#x} -> {:#x} refs {} -> {} tlbis {} cost {}",
                    fault.outcome.name(),
                    fault.access,
                    fault.origin,
                    fault.pid,
                    fault.space,
                    fault.asid,
                    fault.addr,
                    fault.pc,
                    fault.esr,
                    fault.old,
                    fault.new,
                    fault.refs,
                    fault.refs_after,
                    fault.tlbis,
                    fault.cost
                )?;
                let depth = usize::from(fault.stack.depth).min(fault.stack.pcs.len());
                for pc in &fault.stack.pcs[..depth] {
                    write!(out, " < {pc:#x}")?;
                }
                writeln!(out)
            }
            Event::Fork(fork) => writeln!(
                out,
                "fork {} pid {} space {} -> pid {} space {}: shared {} protected {} leaves {} copied {} tables {} tables-shared {} cost {} pc {:#x}",
                mode_name(fork.mode),
                fork.parent,
                fork.parent_space,
                fork.child,
                fork.child_space,
                fork.shared,
                fork.protected,
                fork.leaves,
                fork.copied,
                fork.tables,
                fork.tables_shared,
                fork.cost,
                fork.pc
            ),
            Event::Refused(refused) => writeln!(
                out,
                "refused pid {} system call {}: pages {} left {} pc {:#x}",
                refused.pid, refused.number, refused.pages, refused.left, refused.pc
            ),
            Event::Map(map) => {
                let backing = match map.backing {
                    Backing::Anonymous => "anonymous".to_owned(),
                    Backing::File { file, offset } => format!("file {file} at {offset:#x}"),
                };
                writeln!(
                    out,
                    "map space {} {:#x}-{:#x} {}{} {} {backing}",
                    map.space,
                    map.start,
                    map.end,
                    protection(map.prot),
                    if map.shared { "s" } else { "p" },
                    region_name(map.region)
                )
            }
            Event::Switch {
                from,
                to,
                space,
                ttbr0,
                tlbis,
            } => writeln!(
                out,
                "switch {from} -> {to} space {space} ttbr0 {ttbr0:#018x} root {:#x} asid {} tlbis {tlbis}",
                Ttbr0(*ttbr0).root(),
                Ttbr0(*ttbr0).asid()
            ),
            Event::Descriptor {
                table,
                index,
                level,
                old,
                new,
            } => writeln!(
                out,
                "descriptor table {table:#x}[{index}] level {level} {old:#x} -> {new:#x} ({})",
                if *level == 3 {
                    Descriptor(*new).to_string()
                } else {
                    String::new()
                }
            ),
            event => writeln!(out, "{event:?}"),
        }
    }
}

impl Observer for Dump<'_> {
    fn item(&mut self, item: &Item<'_>, state: &State) {
        if self.failed.is_none() {
            self.failed = self.write_item(item, state).err();
        }
    }

    fn restart(&mut self) {
        self.filter.restart();
    }

    fn before(&mut self, state: &State, cpu: u8, record: &Record) {
        if state.machine.period.is_none() {
            self.start = record.time;
        }
        self.filter.see(record);
        if let Event::Fault(fault) = &record.event
            && !self.filter.is_all()
            && !self.filter.wants(state, record, fault, self.symbols)
        {
            return;
        }
        if self.failed.is_none() {
            self.failed = self.write_event(cpu, record).err();
        }
    }

    fn after(&mut self, _state: &State, _cpu: u8, _record: &Record, _change: &Change) {}

    fn wants_more(&self) -> bool {
        self.failed.is_none()
    }
}
