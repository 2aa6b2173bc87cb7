//! Batches: runs of records in the order in which they happened on all CPUs, delta-coded, each
//! decodable without the others.

use serde::{Deserialize, Serialize};

use crate::codec::{Reader, Stop, Writer};
use crate::context::Context;
use crate::event::Record;
use crate::frame::{self, Body, Envelope, MAX_FRAME};

/// The most bytes that the records of one batch take. A damaged byte costs this much at worst.
pub const MAX_EVENTS: usize = 480;

/// A run of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct Batch<'a> {
    /// The first record's time.
    pub time: u64,
    /// The first record's thread.
    pub tid: u32,
    /// Events that all CPUs have dropped since boot, when the batch was finished.
    pub dropped: u64,
    /// How many records there are, so that a decoder that cannot read one knows what it misses.
    pub count: u16,
    /// The records.
    #[serde(borrow, serialize_with = "frame::byte_string")]
    pub events: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The records, in the order in which they were recorded.
    pub fn records(&self) -> Records<'a> {
        decode(self)
    }
}

/// The batch has no room for the record: finish it and push again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl core::fmt::Display for Full {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the batch is full")
    }
}

impl core::error::Error for Full {}

/// Collects records into batches, in place: about 3 KiB, meant to live in a static.
pub struct Encoder {
    time: u64,
    tid: u32,
    count: u16,
    len: usize,
    events: [u8; MAX_EVENTS],
    context: Context,
}

impl Encoder {
    /// An empty one.
    pub const fn new() -> Self {
        Encoder {
            time: 0,
            tid: 0,
            count: 0,
            len: 0,
            events: [0; MAX_EVENTS],
            context: Context::new(0, 0),
        }
    }

    /// Adds a record. An empty batch has room for any.
    pub fn push(&mut self, record: &Record) -> Result<(), Full> {
        if self.count == 0 {
            self.time = record.time;
            self.tid = record.tid;
            self.context.reset(record.time, record.tid);
        }
        let mut writer = Writer::new(&mut self.events[self.len..]);
        self.context.write(&mut writer, record).map_err(|_| Full)?;
        self.len += writer.len();
        self.count += 1;
        Ok(())
    }

    /// No record was pushed since the last [`Encoder::finish`].
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many records were pushed since the last [`Encoder::finish`].
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Writes what was pushed as a complete frame and starts anew; the frame's length in bytes.
    ///
    /// `cpu` is the one that sends it, `seq` the stream's next sequence number, `dropped` what all
    /// CPUs have dropped since boot.
    pub fn finish(&mut self, cpu: u8, seq: u32, dropped: u64, out: &mut [u8; MAX_FRAME]) -> usize {
        let batch = Batch {
            time: self.time,
            tid: self.tid,
            dropped,
            count: self.count,
            events: &self.events[..self.len],
        };
        let envelope = Envelope::new(cpu, seq, Body::Batch(batch));
        // `MAX_EVENTS` and the header are well below what `MAX_FRAME` has room for.
        let len = frame::encode(&envelope, out).unwrap_or(0);
        self.count = 0;
        self.len = 0;
        len
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a batch's remaining records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A kind of event, or a value in one, of a newer version: these many records are skipped.
    Unknown {
        /// Records of the batch that were not read.
        skipped: u16,
    },
    /// Not what an encoder writes, although its CRC was right: these many records are lost.
    Malformed {
        /// Records of the batch that were not read.
        skipped: u16,
    },
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Unknown { skipped } => {
                write!(f, "{skipped} events skipped: one is of a newer version")
            }
            Error::Malformed { skipped } => write!(f, "{skipped} events lost: malformed batch"),
        }
    }
}

impl core::error::Error for Error {}

/// The records of a batch.
pub fn decode<'a>(batch: &Batch<'a>) -> Records<'a> {
    Records {
        reader: Reader::new(batch.events),
        left: batch.count,
        context: Context::new(batch.time, batch.tid),
    }
}

/// Iterates over a batch's records; ends after the first error.
pub struct Records<'a> {
    reader: Reader<'a>,
    left: u16,
    context: Context,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        match self.context.read(&mut self.reader) {
            Ok(record) => {
                self.left -= 1;
                Some(Ok(record))
            }
            Err(stop) => {
                let skipped = core::mem::take(&mut self.left);
                Some(Err(match stop {
                    Stop::Unknown => Error::Unknown { skipped },
                    Stop::End => Error::Malformed { skipped },
                }))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(usize::from(self.left)))
    }
}
