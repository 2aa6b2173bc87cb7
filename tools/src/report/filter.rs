//! Which faults are meant: the same options for all that lists, exports or draws them.

use std::ops::Range;

use clap::Args;
use wire::Item;
use wire::event::{Backing, Event, Fault, Outcome, Record};

use super::args::{parse_addresses, parse_outcome, parse_times};
use super::place::Place;
use super::story::region_name;
use crate::analysis::machine::{Change, Machine};
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::{Symbols, short_name};

/// Options that choose faults; those that are not given choose all.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which faults")]
pub struct FilterArgs {
    /// Only of these processes (may be repeated)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,

    /// Only of these threads (may be repeated)
    #[arg(long, value_name = "TID", value_delimiter = ',')]
    pub tid: Vec<u32>,

    /// Only with these outcomes, e.g. cow-copy (may be repeated)
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',', value_parser = parse_outcome)]
    pub outcome: Vec<Outcome>,

    /// Only at these addresses: START-END, START+LENGTH, or ADDRESS for its page
    #[arg(long, value_name = "RANGE", value_parser = parse_addresses)]
    pub addr: Option<Range<u64>>,

    /// Only in these mappings: heap, stack, mmap, program, vdso, or a file by name or path (may be
    /// repeated)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub mapping: Vec<String>,

    /// Only at or below a function of this name, inlined or called (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub function: Vec<String>,

    /// Only in this time after the first event: 1s-2s, 10ms+500us, 5s-, -20ms
    #[arg(long, value_name = "RANGE", value_parser = parse_times, allow_hyphen_values = true)]
    pub time: Option<Range<u64>>,
}

/// The choice, on the way through a trace.
#[derive(Debug)]
pub struct Filter<'a> {
    args: &'a FilterArgs,
    start: Option<u64>,
}

impl<'a> Filter<'a> {
    /// Before the first event.
    pub fn new(args: &'a FilterArgs) -> Self {
        Filter { args, start: None }
    }

    /// An event goes by.
    pub fn see(&mut self, record: &Record) {
        self.start.get_or_insert(record.time);
    }

    /// The machine was started again, and its time with it.
    pub fn restart(&mut self) {
        self.start = None;
    }

    /// Counter ticks since the first event.
    pub fn since_start(&self, record: &Record) -> u64 {
        record
            .time
            .saturating_sub(self.start.unwrap_or(record.time))
    }

    /// Whether all are meant.
    pub fn is_all(&self) -> bool {
        let FilterArgs {
            pid,
            tid,
            outcome,
            addr,
            mapping,
            function,
            time,
        } = self.args;
        pid.is_empty()
            && tid.is_empty()
            && outcome.is_empty()
            && addr.is_none()
            && mapping.is_empty()
            && function.is_empty()
            && time.is_none()
    }

    /// Whether a process is meant.
    pub fn wants_process(&self, pid: u32) -> bool {
        self.args.pid.is_empty() || self.args.pid.contains(&pid)
    }

    /// Whether a fault that the machine has just gone through is meant.
    pub fn wants(
        &self,
        state: &State,
        record: &Record,
        fault: &Fault,
        symbols: &mut Symbols,
    ) -> bool {
        let args = self.args;
        let any = |list: &[u32], number| list.is_empty() || list.contains(&number);
        any(&args.pid, fault.pid)
            && any(&args.tid, record.tid)
            && (args.outcome.is_empty() || args.outcome.contains(&fault.outcome))
            && args
                .addr
                .as_ref()
                .is_none_or(|range| range.contains(&fault.addr))
            && self.in_time(state, record)
            && self.in_mapping(&state.machine, fault)
            && self.in_function(&state.machine, fault, symbols)
    }

    /// Whether an event is in the time that is meant.
    pub fn in_time(&self, state: &State, record: &Record) -> bool {
        self.args.time.as_ref().is_none_or(|range| {
            let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
            let span = u128::from(self.since_start(record)) * 1_000_000_000 / u128::from(hz);
            range.contains(&u64::try_from(span).unwrap_or(u64::MAX))
        })
    }

    fn in_mapping(&self, machine: &Machine, fault: &Fault) -> bool {
        if self.args.mapping.is_empty() {
            return true;
        }
        let Some(found) = Mapped::of(machine, fault) else {
            return false;
        };
        let mut wanted = self.args.mapping.iter();
        wanted.any(|name| found.region == name || found.path == Some(name) || found.name() == name)
    }

    fn in_function(&self, machine: &Machine, fault: &Fault, symbols: &mut Symbols) -> bool {
        if self.args.function.is_empty() {
            return true;
        }
        let mut place = Place::of_fault(machine, fault);
        place.resolve(machine, symbols);
        place.stack.iter().any(|frame| {
            let (short, own) = (short_name(&frame.function), frame.name());
            let mut wanted = self.args.function.iter();
            wanted.any(|name| *name == frame.function || *name == short || *name == own)
        })
    }
}

/// An observer that is told of the faults that are meant, and of everything else.
pub struct Chosen<'a, O> {
    filter: Filter<'a>,
    symbols: &'a mut Symbols,
    /// It.
    pub observer: O,
}

impl<'a, O> Chosen<'a, O> {
    /// `symbols`: for what is chosen by function.
    pub fn new(filter: Filter<'a>, symbols: &'a mut Symbols, observer: O) -> Self {
        Chosen {
            filter,
            symbols,
            observer,
        }
    }
}

impl<O: Observer> Observer for Chosen<'_, O> {
    fn item(&mut self, item: &Item<'_>, state: &State) {
        self.observer.item(item, state);
    }

    fn before(&mut self, state: &State, cpu: u8, record: &Record) {
        self.observer.before(state, cpu, record);
    }

    fn after(&mut self, state: &State, cpu: u8, record: &Record, change: &Change) {
        self.filter.see(record);
        if let Event::Fault(fault) = &record.event
            && !self.filter.is_all()
            && !self.filter.wants(state, record, fault, self.symbols)
        {
            return;
        }
        self.observer.after(state, cpu, record, change);
    }

    fn restart(&mut self) {
        self.filter.restart();
        self.observer.restart();
    }

    fn wants_more(&self) -> bool {
        self.observer.wants_more()
    }
}

/// What is mapped where a fault was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped<'a> {
    /// What the mapping is for: heap, stack, mmap, program or vdso.
    pub region: &'static str,
    /// The file behind it, if it has one and the trace knows it.
    pub path: Option<&'a str>,
    /// The address: bytes from the start of the file, or else of the mapping.
    pub offset: u64,
}

impl<'a> Mapped<'a> {
    /// The mapping at a fault's address; `None` if there is none, or it is not in the trace.
    pub fn of(machine: &'a Machine, fault: &Fault) -> Option<Mapped<'a>> {
        let mapping = machine.spaces.get(&fault.space)?.mapping(fault.addr)?;
        let into = fault.addr - mapping.start;
        let (path, offset) = match mapping.backing {
            Backing::Anonymous => (None, into),
            Backing::File { file, offset } => {
                let path = machine.files.get(&file).map(|file| file.path.as_str());
                (path, offset + into)
            }
        };
        Some(Mapped {
            region: region_name(mapping.region),
            path,
            offset,
        })
    }

    /// The file's own name, or what the mapping is for.
    pub fn name(&self) -> &'a str {
        let file = self.path.and_then(|path| path.rsplit('/').next());
        file.unwrap_or(self.region)
    }
}
