//! The timeline for Perfetto.
//!
//! Tracks: for each CPU, who ran there; for each thread, its faults and forks as slices; for each
//! process, counters of its shared and private pages. Flows lead from a fork to the child's birth.
//!
//! An event's time in the trace is its end. A slice's length is its cost in cycles, a cycle taken for
//! a nanosecond: under QEMU it is one.

use std::io::{self, Write};

use rustc_hash::FxHashMap;
use wire::event::{Event, Fault, Fork, Record};

use super::perfetto::{
    CounterDescriptor, DebugAnnotation, ProcessDescriptor, ThreadDescriptor, TracePacket,
    TrackDescriptor, TrackEvent, Type, Value, write,
};
use crate::analysis::descriptor::Descriptor;
use crate::analysis::machine::{Change, Machine};
use crate::analysis::stream::{Observer, State, mode_name};
use crate::analysis::symbols::Symbols;
use crate::report::filter::{Filter, Mapped};
use crate::report::place::{Place, program_name};
use crate::report::text::plural;

/// All packets are of one writer.
const SEQUENCE: u32 = 1;

/// What a track is of. Its number is the track's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Track {
    Cpu(u8),
    Process(u32),
    Thread(u32),
    Shared(u32),
    Private(u32),
}

/// Writes the timeline as the trace goes by.
pub struct Timeline<'a> {
    filter: Filter<'a>,
    symbols: &'a mut Symbols,
    out: &'a mut dyn Write,
    tracks: FxHashMap<Track, u64>,
    next_track: u64,
    /// By process, the name that its track was given.
    names: FxHashMap<u32, String>,
    /// By thread, the end of its last slice, ns.
    ends: FxHashMap<u32, u64>,
    /// Who runs, by CPU.
    running: FxHashMap<u8, u32>,
    /// Pages looked at for the last sample of the counters, and faults since.
    sampled: (u64, u64),
    now: u64,
    failed: Option<io::Error>,
}

impl<'a> Timeline<'a> {
    /// Before the first event.
    pub fn new(filter: Filter<'a>, symbols: &'a mut Symbols, out: &'a mut dyn Write) -> Self {
        Timeline {
            filter,
            symbols,
            out,
            tracks: FxHashMap::default(),
            next_track: 1,
            names: FxHashMap::default(),
            ends: FxHashMap::default(),
            running: FxHashMap::default(),
            sampled: (0, 0),
            now: 0,
            failed: None,
        }
    }

    /// The last samples, and the ends of what still runs.
    pub fn finish(mut self, state: &State) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.sample(&state.machine)?;
        self.stop_all()
    }

    fn stop_all(&mut self) -> io::Result<()> {
        let cpus: Vec<u8> = self.running.keys().copied().collect();
        cpus.into_iter().try_for_each(|cpu| self.stop(cpu))
    }

    fn put(&mut self, timestamp: u64, event: TrackEvent) -> io::Result<()> {
        let packet = TracePacket {
            timestamp: Some(timestamp),
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_event: Some(event),
            track_descriptor: None,
        };
        write(&packet, self.out)
    }

    fn describe(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        let packet = TracePacket {
            timestamp: None,
            trusted_packet_sequence_id: Some(SEQUENCE),
            track_event: None,
            track_descriptor: Some(descriptor),
        };
        write(&packet, self.out)
    }

    /// The track's number, and whether it is new.
    fn number(&mut self, track: Track) -> (u64, bool) {
        if let Some(known) = self.tracks.get(&track) {
            return (*known, false);
        }
        let number = self.next_track;
        self.next_track += 1;
        self.tracks.insert(track, number);
        (number, true)
    }

    fn cpu(&mut self, cpu: u8) -> io::Result<u64> {
        let (number, new) = self.number(Track::Cpu(cpu));
        if new {
            self.describe(TrackDescriptor {
                uuid: Some(number),
                name: Some(format!("CPU {cpu}")),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(number)
    }

    fn process(&mut self, machine: &Machine, pid: u32) -> io::Result<u64> {
        let (number, new) = self.number(Track::Process(pid));
        let name = program_name(machine, pid);
        let named = self.names.get(&pid) == Some(&name);
        if new || (!named && !name.is_empty()) {
            self.names.insert(pid, name.clone());
            self.describe(TrackDescriptor {
                uuid: Some(number),
                process: Some(ProcessDescriptor {
                    pid: Some(pid.cast_signed()),
                    process_name: (!name.is_empty()).then_some(name),
                }),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(number)
    }

    fn thread(&mut self, machine: &Machine, pid: u32, tid: u32) -> io::Result<u64> {
        self.process(machine, pid)?;
        let (number, new) = self.number(Track::Thread(tid));
        if new {
            let name = program_name(machine, pid);
            self.describe(TrackDescriptor {
                uuid: Some(number),
                thread: Some(ThreadDescriptor {
                    pid: Some(pid.cast_signed()),
                    tid: Some(tid.into()),
                    thread_name: (!name.is_empty()).then_some(name),
                }),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(number)
    }

    fn counter(&mut self, machine: &Machine, track: Track, pid: u32) -> io::Result<u64> {
        let parent = self.process(machine, pid)?;
        let (number, new) = self.number(track);
        if new {
            let name = match track {
                Track::Shared(_) => "pages shared",
                _ => "pages private",
            };
            self.describe(TrackDescriptor {
                uuid: Some(number),
                parent_uuid: Some(parent),
                name: Some(name.to_owned()),
                counter: Some(CounterDescriptor {
                    unit_name: Some("pages".to_owned()),
                }),
                ..TrackDescriptor::default()
            })?;
        }
        Ok(number)
    }

    /// A slice of so many cycles that ends now.
    fn slice(&mut self, tid: u32, cost: u32, track: u64, event: TrackEvent) -> io::Result<()> {
        // What the clock rounds off must not make it overlap the one before.
        let after = self.ends.get(&tid).copied().unwrap_or(0);
        let start = self
            .now
            .saturating_sub(cost.into())
            .max(after)
            .min(self.now);
        self.ends.insert(tid, self.now);
        let begin = TrackEvent {
            r#type: Some(Type::SliceBegin.into()),
            track_uuid: Some(track),
            ..event
        };
        self.put(start, begin)?;
        let end = TrackEvent {
            r#type: Some(Type::SliceEnd.into()),
            track_uuid: Some(track),
            ..TrackEvent::default()
        };
        self.put(self.now, end)
    }

    fn instant(&mut self, track: u64, name: String, flow: Option<u64>) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(Type::Instant.into()),
            track_uuid: Some(track),
            categories: vec!["process".to_owned()],
            name: Some(name),
            terminating_flow_ids: flow.into_iter().collect(),
            ..TrackEvent::default()
        };
        self.put(self.now, event)
    }

    fn event(&mut self, state: &State, record: &Record) -> io::Result<()> {
        let machine = &state.machine;
        let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
        let now = u128::from(record.time) * 1_000_000_000 / u128::from(hz);
        self.now = u64::try_from(now).unwrap_or(u64::MAX);
        match &record.event {
            Event::Fault(fault) => self.fault(state, record, fault),
            Event::Fork(fork) => self.fork(machine, record.tid, fork),
            Event::Switch { from: _, to, .. } => self.switch(machine, record.cpu, *to),
            Event::Exec { pid, cost, .. } => {
                let track = self.thread(machine, *pid, record.tid)?;
                let event = TrackEvent {
                    name: Some(format!("exec {}", program_name(machine, *pid))),
                    categories: vec!["process".to_owned()],
                    ..TrackEvent::default()
                };
                self.slice(record.tid, *cost, track, event)?;
                self.sample(machine)
            }
            Event::Exit { pid, status, .. } => {
                let track = self.thread(machine, *pid, record.tid)?;
                let how = match status & 0x7f {
                    0 => format!("exit {}", status >> 8 & 0xff),
                    signal => format!("killed by signal {signal}"),
                };
                self.instant(track, how, None)?;
                self.sample(machine)
            }
            Event::Refused(refused) => {
                let track = self.thread(machine, refused.pid, record.tid)?;
                let name = format!("refused {}", plural(refused.pages, "page"));
                self.instant(track, name, None)
            }
            Event::Reap { pid, .. } => {
                // A number may be another process's next.
                for track in [
                    Track::Process(*pid),
                    Track::Thread(*pid),
                    Track::Shared(*pid),
                    Track::Private(*pid),
                ] {
                    self.tracks.remove(&track);
                }
                self.names.remove(pid);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fault(&mut self, state: &State, record: &Record, fault: &Fault) -> io::Result<()> {
        let machine = &state.machine;
        self.sampled.1 += 1;
        if self.sampled.1 > 64.max(self.sampled.0 / 4) {
            self.sample(machine)?;
        }
        if !self.filter.wants(state, record, fault, self.symbols) {
            return Ok(());
        }
        let track = self.thread(machine, fault.pid, record.tid)?;
        let mut place = Place::of_fault(machine, fault);
        place.resolve(machine, self.symbols);
        let (old, new) = (Descriptor(fault.old), Descriptor(fault.new));
        let mut notes = vec![
            note("address", Value::Address(fault.addr)),
            note("at", Value::Text(place.text())),
            note("pc", Value::Address(fault.pc)),
            note("cycles", Value::Number(fault.cost.into())),
            note("references before", Value::Number(fault.refs.into())),
            note("references after", Value::Number(fault.refs_after.into())),
        ];
        let mapped = Mapped::of(machine, fault);
        notes.extend(mapped.map(|mapped| note("mapping", Value::Text(mapped.name().to_owned()))));
        for (name, leaf) in [("old frame", old), ("new frame", new)] {
            notes.extend(
                leaf.valid()
                    .then(|| note(name, Value::Address(leaf.frame()))),
            );
        }
        let event = TrackEvent {
            debug_annotations: notes,
            categories: vec!["fault".to_owned()],
            name: Some(fault.outcome.name().to_owned()),
            ..TrackEvent::default()
        };
        self.slice(record.tid, fault.cost, track, event)
    }

    fn fork(&mut self, machine: &Machine, tid: u32, fork: &Fork) -> io::Result<()> {
        let parent = self.thread(machine, fork.parent, tid)?;
        let child = self.thread(machine, fork.child, fork.child)?;
        // Time makes it unique, also where process numbers come again.
        let flow = self.now << 16 | u64::from(fork.child & 0xffff);
        let event = TrackEvent {
            debug_annotations: vec![
                note("child", Value::Number(fork.child.into())),
                note("pages shared one by one", Value::Number(fork.shared.into())),
                note("tables shared", Value::Number(fork.tables_shared.into())),
                note("pages copied", Value::Number(fork.copied.into())),
                note("cycles", Value::Number(fork.cost.into())),
            ],
            categories: vec!["process".to_owned()],
            name: Some(format!("fork ({})", mode_name(fork.mode))),
            flow_ids: vec![flow],
            ..TrackEvent::default()
        };
        self.slice(tid, fork.cost, parent, event)?;
        self.instant(child, format!("forked by {}", fork.parent), Some(flow))?;
        self.sample(machine)
    }

    fn stop(&mut self, cpu: u8) -> io::Result<()> {
        if self.running.remove(&cpu).is_none() {
            return Ok(());
        }
        let track = self.cpu(cpu)?;
        let event = TrackEvent {
            r#type: Some(Type::SliceEnd.into()),
            track_uuid: Some(track),
            ..TrackEvent::default()
        };
        self.put(self.now, event)
    }

    fn switch(&mut self, machine: &Machine, cpu: u8, to: u32) -> io::Result<()> {
        self.stop(cpu)?;
        if to == 0 {
            return Ok(());
        }
        let track = self.cpu(cpu)?;
        self.running.insert(cpu, to);
        let name = program_name(machine, to);
        let event = TrackEvent {
            r#type: Some(Type::SliceBegin.into()),
            track_uuid: Some(track),
            categories: vec!["cpu".to_owned()],
            name: Some(format!("{name} {to}").trim_start().to_owned()),
            ..TrackEvent::default()
        };
        self.put(self.now, event)
    }

    /// The counters of all live processes. It looks at all their pages: so often that it costs
    /// no more than the rest.
    fn sample(&mut self, machine: &Machine) -> io::Result<()> {
        if !machine.faults_traced {
            return Ok(());
        }
        let mut pids: Vec<u32> = machine.processes.keys().copied().collect();
        pids.sort_unstable();
        self.sampled = (0, 0);
        for pid in pids {
            let process = &machine.processes[&pid];
            let space = machine
                .spaces
                .get(&process.space)
                .filter(|_| process.ended.is_none() && !process.borrowed);
            let (private, shared) = space.map_or((0, 0), |space| machine.private_and_shared(space));
            self.sampled.0 += u64::from(private) + u64::from(shared);
            for (track, value) in [(Track::Shared(pid), shared), (Track::Private(pid), private)] {
                let track = self.counter(machine, track, pid)?;
                let event = TrackEvent {
                    r#type: Some(Type::Counter.into()),
                    track_uuid: Some(track),
                    counter_value: Some(value.into()),
                    ..TrackEvent::default()
                };
                self.put(self.now, event)?;
            }
        }
        Ok(())
    }
}

fn note(name: &str, value: Value) -> DebugAnnotation {
    DebugAnnotation {
        name: Some(name.to_owned()),
        value: Some(value),
    }
}

impl Observer for Timeline<'_> {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, _change: &Change) {
        self.filter.see(record);
        if self.failed.is_none()
            && let Err(error) = self.event(state, record)
        {
            self.failed = Some(error);
        }
    }

    fn restart(&mut self) {
        self.filter.restart();
        // Nothing of the machine before goes on.
        if let Err(error) = self.stop_all() {
            self.failed = Some(error);
        }
        self.tracks.clear();
        self.names.clear();
        self.ends.clear();
    }

    fn wants_more(&self) -> bool {
        self.failed.is_none()
    }
}
