//! From bytes to events, in one pass and bounded memory.

use std::io::{self, ErrorKind, Read};

use serde::Serialize;
use wire::deframe::Unknown;
use wire::event::{ForkMode, KINDS, Record};
use wire::frame::{Contention, Hello, Meta, TraceLevel};
use wire::{Body, Deframer, Envelope, Item};

use super::loss::Losses;
use super::machine::{Change, Machine};

/// What the kernel said of itself and the machine.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Version of the wire, major and minor.
    pub wire: (u8, u8),
    /// Whether kernel and tool were built from the same definitions.
    pub same_definitions: bool,
    /// The kernel's build id, in hex.
    pub kernel_build_id: String,
    /// The board's name.
    pub board: String,
    /// MIDR_EL1.
    pub midr: u64,
    /// CPUs found.
    pub cpus: u8,
    /// Ticks of every time per second.
    pub counter_hz: u64,
    /// Memory, in bytes.
    pub ram_bytes: u64,
    /// Bits of an ASID in use.
    pub asid_bits: u8,
    /// What is recorded.
    pub trace: &'static str,
    /// Whether faults are recorded.
    #[serde(skip)]
    pub faults_traced: bool,
    /// A full ring blocks instead of dropping.
    pub lossless: bool,
    /// Events that a CPU's ring holds.
    pub ring: u32,
    /// The default of fork.
    pub fork: &'static str,
    /// Another number at every boot.
    pub boot_nonce: u64,
    /// The boot arguments.
    pub bootargs: String,
    /// Whether copied pages are compared when they go.
    pub amplification: bool,
}

impl About {
    fn new(hello: &Hello<'_>) -> Self {
        About {
            wire: (hello.major, hello.minor),
            same_definitions: hello.schema == Hello::SCHEMA,
            kernel_build_id: hex(&hello.build_id),
            board: hello.board.to_owned(),
            midr: hello.midr,
            cpus: hello.cpus,
            counter_hz: hello.counter_hz.max(1),
            ram_bytes: hello.ram_bytes,
            asid_bits: hello.asid_bits,
            trace: match hello.trace {
                TraceLevel::Off => "off",
                TraceLevel::Life => "life",
                TraceLevel::Faults => "faults",
                TraceLevel::Mmu => "mmu",
            },
            faults_traced: hello.trace >= TraceLevel::Faults,
            lossless: hello.lossless,
            ring: hello.ring,
            fork: mode_name(hello.fork),
            boot_nonce: hello.boot_nonce,
            bootargs: hello.bootargs.to_owned(),
            amplification: {
                let mut words = hello.bootargs.split_ascii_whitespace();
                let mut own = words.by_ref().take_while(|word| *word != "--");
                own.any(|word| word == "amplification")
            },
        }
    }
}

/// A way to fork, as reports name it.
pub const fn mode_name(mode: ForkMode) -> &'static str {
    match mode {
        ForkMode::Classic => "classic",
        ForkMode::SharedTables => "shared",
        ForkMode::Eager => "eager",
        ForkMode::Vfork => "vfork",
    }
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// How the machine ended.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ended {
    /// Exit code of `/init`, or 128 + its signal.
    pub code: i32,
    /// Free frames then.
    pub free_frames: u64,
}

/// Memory of the machine, by the kernel's last word.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Free frames.
    pub free_frames: u64,
    /// Free frames in the first snapshot.
    pub free_frames_first: u64,
    /// All frames.
    pub total_frames: u64,
    /// Bytes of the kernel's heap.
    pub kernel_heap_bytes: u64,
    /// The most events a ring has held.
    pub ring_high_water: u32,
}

/// How CPUs waited for the locks of one kind, since boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LockWaits {
    /// The locks: their place in the kernel's order of locks.
    pub lock: String,
    /// Times that another CPU had it.
    pub waits: u64,
    /// Attempts to take it, by all that waited.
    pub attempts: u64,
    /// Counter ticks in which a CPU waited.
    pub ticks: u64,
    /// The longest wait, in counter ticks.
    pub longest: u64,
}

/// Kinds of locks that are told of, at most.
const LOCKS_MAX: usize = 256;

/// Sees the trace go by. Everything is optional.
pub trait Observer {
    /// A piece of the stream, before its events.
    fn item(&mut self, _item: &Item<'_>, _analysis: &State) {}
    /// An event is about to change the machine.
    fn before(&mut self, _state: &State, _cpu: u8, _record: &Record) {}
    /// An event has changed the machine.
    fn after(&mut self, _state: &State, _cpu: u8, _record: &Record, _change: &Change) {}
    /// The machine was started again: what follows is another machine.
    fn restart(&mut self) {}
    /// Whether there is a reason to read on.
    fn wants_more(&self) -> bool {
        true
    }
}

/// Only the machine is wanted.
impl Observer for () {}

/// Two at once.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn item(&mut self, item: &Item<'_>, analysis: &State) {
        self.0.item(item, analysis);
        self.1.item(item, analysis);
    }
    fn before(&mut self, state: &State, cpu: u8, record: &Record) {
        self.0.before(state, cpu, record);
        self.1.before(state, cpu, record);
    }
    fn after(&mut self, state: &State, cpu: u8, record: &Record, change: &Change) {
        self.0.after(state, cpu, record, change);
        self.1.after(state, cpu, record, change);
    }
    fn restart(&mut self) {
        self.0.restart();
        self.1.restart();
    }
    fn wants_more(&self) -> bool {
        self.0.wants_more() || self.1.wants_more()
    }
}

/// What one CPU has sent, for the loss counts.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    received: [u64; KINDS],
    /// Emitted before the trace began.
    base: Option<[u64; KINDS]>,
    emitted: Option<[u64; KINDS]>,
    dropped_by_kind: [u64; KINDS],
}

/// Everything known at one point of the trace.
#[derive(Debug, Default)]
pub struct State {
    /// The machine.
    pub machine: Machine,
    /// Who speaks.
    pub about: Option<About>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// Its memory.
    pub memory: Option<Memory>,
    /// Locks that CPUs waited for, in their order; told when the machine ends.
    pub locks: Vec<LockWaits>,
    /// What is missing.
    pub losses: Losses,
    /// Good frames.
    pub frames: u64,
    /// Bytes read.
    pub bytes: u64,
    sent: Vec<Sent>,
    /// Events that all CPUs had dropped when the trace began, and since then.
    dropped: Option<(u64, u64)>,
}

/// The input is no trace that this tool can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// No frame in so many bytes.
    NoFrame(u64),
    /// Only frames of another major version.
    Major(u8),
}

impl std::fmt::Display for Incompatible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Incompatible::NoFrame(0) => f.write_str("the input is empty"),
            Incompatible::NoFrame(bytes) => {
                write!(f, "no cowscope frame in {bytes} bytes: this is not a trace")
            }
            Incompatible::Major(major) => write!(
                f,
                "the trace is of wire version {major}, this tool reads version {}: \
                 use the tool that was built with the kernel",
                wire::MAJOR
            ),
        }
    }
}

impl std::error::Error for Incompatible {}

/// Reads a trace to its end, or until the observer has seen enough.
///
/// # Errors
/// When reading fails, or when the input holds no readable frame ([`Incompatible`] inside).
pub fn read(input: &mut dyn Read, observer: &mut impl Observer) -> io::Result<State> {
    let mut stream = Stream::new();
    let mut chunk = vec![0; 256 * 1024];
    while observer.wants_more() {
        let len = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        stream.take(&chunk[..len], observer);
    }
    stream.finish(observer)
}

/// A trace that comes piece by piece.
pub struct Stream {
    reader: Reader,
    deframer: Deframer,
    other_major: Option<u8>,
}

impl Stream {
    /// Before the first byte.
    pub fn new() -> Stream {
        Stream {
            reader: Reader {
                state: State::default(),
                expected: None,
                first: true,
                damaged: false,
            },
            deframer: Deframer::new(),
            other_major: None,
        }
    }

    /// The next bytes.
    pub fn take(&mut self, mut bytes: &[u8], observer: &mut impl Observer) {
        while let Some(item) = self.deframer.next(&mut bytes) {
            self.reader.item(&item, observer, &mut self.other_major);
        }
        self.reader.state.losses.count(self.deframer.counts());
        self.reader.state.bytes = self.deframer.counts().bytes;
    }

    /// What is known so far.
    pub fn state(&self) -> &State {
        &self.reader.state
    }

    /// There is no more, or nobody wants it.
    ///
    /// # Errors
    /// [`Incompatible`], if there was no readable frame.
    pub fn finish(mut self, observer: &mut impl Observer) -> io::Result<State> {
        while let Some(item) = self.deframer.finish() {
            self.reader.item(&item, observer, &mut self.other_major);
        }
        let mut state = self.reader.state;
        state.losses.count(self.deframer.counts());
        state.bytes = self.deframer.counts().bytes;
        if state.frames == 0 {
            let error = match self.other_major {
                Some(major) => Incompatible::Major(major),
                None => Incompatible::NoFrame(state.bytes),
            };
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        state.machine.finish();
        state.losses.no_end = observer.wants_more() && state.ended.is_none();
        state.sum_up();
        Ok(state)
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

struct Reader {
    state: State,
    expected: Option<u32>,
    first: bool,
    damaged: bool,
}

impl Reader {
    fn item(&mut self, item: &Item<'_>, observer: &mut impl Observer, major: &mut Option<u8>) {
        match item {
            Item::Frame(envelope) => {
                self.follow(envelope.seq, matches!(envelope.body, Body::Hello(_)));
                if let Body::Hello(hello) = &envelope.body {
                    self.hello(hello, observer);
                }
                self.state.frames += 1;
                if std::mem::take(&mut self.damaged) {
                    self.state.losses.resyncs += 1;
                }
                observer.item(item, &self.state);
                self.frame(envelope, observer);
                return;
            }
            Item::Text(_) => {}
            Item::Unknown {
                what: Unknown::Major(version),
                ..
            } => {
                major.get_or_insert(*version);
            }
            Item::Unknown { what, .. } => {
                let (Unknown::Body { seq, .. } | Unknown::Content { seq, .. }) = *what else {
                    return;
                };
                self.follow(seq, false);
                // A batch of another version may have held any event.
                if matches!(what, Unknown::Content { .. }) {
                    self.state.machine.lost();
                }
            }
            Item::Corrupt {
                offset,
                len,
                damage,
            } => {
                self.damaged = true;
                self.state.losses.damage(*offset, *len, *damage);
            }
        }
        observer.item(item, &self.state);
    }

    fn follow(&mut self, seq: u32, hello: bool) {
        if std::mem::take(&mut self.first) {
            let from_start = seq == 0 && hello;
            self.state.losses.late_start = !from_start;
            self.state.machine = Machine::new(from_start, true);
        } else if self.expected.is_some_and(|expected| expected != seq) {
            self.state.machine.lost();
        }
        self.expected = Some(seq.wrapping_add(1));
    }

    fn hello(&mut self, hello: &Hello<'_>, observer: &mut impl Observer) {
        let state = &mut self.state;
        if state
            .about
            .as_ref()
            .is_some_and(|about| about.boot_nonce == hello.boot_nonce)
        {
            return;
        }
        let about = About::new(hello);
        if state.about.is_some() {
            // Another machine: what is known of the one before says nothing about it.
            state.losses.reboots += 1;
            state.machine = Machine::new(self.expected == Some(1), about.faults_traced);
            state.sent.clear();
            state.dropped = None;
            (state.ended, state.memory) = (None, None);
            state.locks.clear();
            observer.restart();
        }
        state.machine.faults_traced = about.faults_traced;
        state.machine.set_cpus(about.cpus);
        state.about = Some(about);
    }

    fn frame(&mut self, envelope: &Envelope<'_>, observer: &mut impl Observer) {
        let state = &mut self.state;
        let cpu = envelope.cpu;
        match &envelope.body {
            Body::Batch(batch) => {
                state.dropped(batch.dropped);
                for record in batch.records() {
                    match record {
                        Ok(record) => {
                            let cpu = record.cpu;
                            state.sent_mut(cpu).received[record.event.kind()] += 1;
                            observer.before(state, cpu, &record);
                            let change = state.machine.apply(&record);
                            observer.after(state, cpu, &record, &change);
                        }
                        Err(error) => {
                            let (wire::batch::Error::Unknown { skipped }
                            | wire::batch::Error::Malformed { skipped }) = error;
                            state.losses.unreadable_events += u64::from(skipped);
                            state.machine.lost();
                        }
                    }
                }
            }
            Body::Meta(Meta::Process {
                pid,
                parent,
                space,
                file,
                name,
                ..
            }) => {
                state.machine.name(*pid, *parent, *space, name, *file);
            }
            Body::Meta(Meta::Thread { pid, tid, name }) => {
                state.machine.name_thread(*pid, *tid, name);
            }
            Body::Meta(Meta::File { id, path, build_id }) => {
                state.machine.file(*id, path, build_id);
            }
            Body::Snapshot(snapshot) => {
                let late = state.losses.late_start;
                let sent = state.sent_mut(cpu);
                sent.snapshot(&snapshot.emitted, &snapshot.dropped, late);
                // Of the CPUs heard so far: no more than all of them, and so no base.
                if !late || state.dropped.is_some() {
                    let kinds = state.sent.iter().flat_map(|sent| sent.dropped_by_kind);
                    state.dropped(kinds.sum());
                }
                let before = state.memory;
                state.memory = Some(Memory {
                    free_frames: snapshot.free_frames,
                    free_frames_first: before
                        .map_or(snapshot.free_frames, |memory| memory.free_frames_first),
                    total_frames: snapshot.total_frames,
                    kernel_heap_bytes: snapshot.kernel_heap_bytes,
                    ring_high_water: before
                        .map_or(0, |memory| memory.ring_high_water)
                        .max(snapshot.ring_high_water),
                });
            }
            Body::End(end) => {
                state.ended = Some(Ended {
                    code: end.code,
                    free_frames: end.free_frames,
                });
                if let Some(memory) = &mut state.memory {
                    memory.free_frames = end.free_frames;
                }
                state.end(end);
            }
            Body::Contention(contention) => state.contention(contention),
            Body::Hello(_) | Body::Log(_) | Body::Console { .. } => {}
        }
    }
}

impl State {
    /// The kernel's word on a lock; the last one counts.
    fn contention(&mut self, told: &Contention<'_>) {
        let waits = LockWaits {
            lock: told.lock.to_owned(),
            waits: told.waits,
            attempts: told.attempts,
            ticks: told.ticks,
            longest: told.longest,
        };
        let known = self.locks.iter().position(|known| known.lock == told.lock);
        match known {
            Some(index) => self.locks[index] = waits,
            None if self.locks.len() < LOCKS_MAX => self.locks.push(waits),
            None => {}
        }
    }
}

impl Sent {
    fn snapshot(&mut self, emitted: &[u64; KINDS], dropped: &[u64; KINDS], late: bool) {
        let received = self.received;
        self.base.get_or_insert_with(|| {
            let mut base = [0; KINDS];
            if late {
                for (base, (sent, got)) in base.iter_mut().zip(emitted.iter().zip(received)) {
                    *base = sent.saturating_sub(got);
                }
            }
            base
        });
        self.emitted = Some(*emitted);
        self.dropped_by_kind = *dropped;
    }
}

impl State {
    fn sent_mut(&mut self, cpu: u8) -> &mut Sent {
        let index = usize::from(cpu);
        if self.sent.len() <= index {
            self.sent.resize(index + 1, Sent::default());
        }
        &mut self.sent[index]
    }

    /// The CPUs have dropped at least this many events since boot.
    fn dropped(&mut self, dropped: u64) {
        let before = if self.losses.late_start { dropped } else { 0 };
        let (base, known) = self.dropped.get_or_insert((before, 0));
        let dropped = dropped.saturating_sub(*base);
        let more = dropped.saturating_sub(*known);
        if more > 0 {
            *known = dropped;
            self.losses.events_dropped += more;
            self.machine.lost();
        }
    }

    /// The kernel's last counts are the final ones.
    fn end(&mut self, end: &wire::frame::End) {
        if self.losses.late_start {
            return;
        }
        let mut lost = end.emitted;
        for sent in &self.sent {
            for (lost, received) in lost.iter_mut().zip(sent.received) {
                *lost = lost.saturating_sub(received);
            }
        }
        self.losses.events_lost = Some(lost);
        self.losses.dropped_by_kind = end.dropped;
        let dropped: u64 = end.dropped.iter().sum();
        if dropped > self.losses.events_dropped {
            self.losses.events_dropped = dropped;
            self.machine.lost();
        }
    }

    /// Adds up what the CPUs' last snapshots said, unless the end said it better.
    fn sum_up(&mut self) {
        if self.losses.events_lost.is_some() {
            return;
        }
        self.losses.dropped_by_kind = [0; KINDS];
        let mut lost = None;
        for sent in &self.sent {
            for (sum, dropped) in self
                .losses
                .dropped_by_kind
                .iter_mut()
                .zip(sent.dropped_by_kind)
            {
                *sum += dropped;
            }
            let (Some(emitted), Some(base)) = (sent.emitted, sent.base) else {
                continue;
            };
            let lost = lost.get_or_insert([0u64; KINDS]);
            for kind in 0..KINDS {
                let expected = emitted[kind].saturating_sub(base[kind]);
                lost[kind] += expected.saturating_sub(sent.received[kind]);
            }
        }
        self.losses.events_lost = lost;
    }
}
