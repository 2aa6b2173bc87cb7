//! A trace in memory, taken apart.

use std::ops::Range;

use wire::deframe::Counts;
use wire::event::{Event, Fault, Record};
use wire::frame::{End, Snapshot};
use wire::{Body, Deframer, Item};

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes in the stream, delimiters and whatever stood before it included.
    pub bytes: Range<usize>,
    /// Its sequence number.
    pub seq: u32,
    /// Events in it.
    pub events: usize,
    /// What it says, to be compared.
    pub content: String,
}

/// All that a trace says.
#[derive(Debug, Default)]
pub struct Trace {
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// CPU and event, in order.
    pub records: Vec<(u8, Record)>,
    /// Snapshots, in order.
    pub snapshots: Vec<Snapshot>,
    /// The last frame.
    pub end: Option<End>,
    /// What programs wrote to descriptor 1.
    pub stdout: Vec<u8>,
    /// And to 2.
    pub stderr: Vec<u8>,
    /// What stood outside of frames.
    pub text: String,
    /// Log frames.
    pub logs: Vec<Vec<u8>>,
    /// Where damage begins, and how long it is.
    pub damage: Vec<(u64, usize)>,
    /// Events that could not be read.
    pub unreadable: usize,
    /// What the deframer counted.
    pub counts: Counts,
}

impl Trace {
    /// Reads any bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut trace = Self::default();
        let mut deframer = Deframer::new();
        let mut input = bytes;
        let mut start = 0;
        while let Some(item) = deframer.next(&mut input) {
            let end = bytes.len() - input.len();
            trace.item(item, start..end);
            start = end;
        }
        while let Some(item) = deframer.finish() {
            trace.item(item, start..bytes.len());
        }
        trace.counts = *deframer.counts();
        trace
    }

    fn item(&mut self, item: Item<'_>, bytes: Range<usize>) {
        let envelope = match item {
            Item::Frame(envelope) => envelope,
            Item::Text(text) => return self.text.push_str(text),
            Item::Corrupt { offset, len, .. } => return self.damage.push((offset, len)),
            Item::Unknown { .. } => return,
        };
        let before = self.records.len();
        let content = match &envelope.body {
            // Its bytes are all it says, and short.
            Body::Batch(batch) => {
                for record in batch.records() {
                    match record {
                        Ok(record) => self.records.push((record.cpu, record)),
                        Err(_) => self.unreadable += 1,
                    }
                }
                format!("{:?} {:?}", batch.time, batch.events)
            }
            other => format!("{other:?}"),
        };
        match envelope.body {
            Body::Snapshot(snapshot) => self.snapshots.push(snapshot),
            Body::End(end) => self.end = Some(end),
            Body::Console { fd: 2, bytes } => self.stderr.extend_from_slice(bytes),
            Body::Console { bytes, .. } => self.stdout.extend_from_slice(bytes),
            Body::Log(bytes) => self.logs.push(bytes.to_vec()),
            Body::Hello(_) | Body::Meta(_) | Body::Batch(_) | Body::Contention(_) => {}
        }
        self.frames.push(Frame {
            bytes,
            seq: envelope.seq,
            events: self.records.len() - before,
            content,
        });
    }

    /// The events alone.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.records.iter().map(|(_, record)| &record.event)
    }

    /// The page faults.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.events().filter_map(|event| match event {
            Event::Fault(fault) => Some(fault),
            _ => None,
        })
    }
}
