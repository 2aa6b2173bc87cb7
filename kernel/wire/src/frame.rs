//! Frames: what is said, by whom, and as how many-th; and how that becomes bytes.

use cobs::CobsEncoder;
use crc::{CRC_32_ISCSI, Crc, Digest};
use postcard::ser_flavors::Flavor;
use postcard_schema::{Schema, key::Key};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::batch::Batch;
use crate::event::{Event, ForkMode, KINDS, Record, Space};
use crate::{MAJOR, MINOR};

/// The most bytes of a payload, the CRC not counted.
pub const MAX_PAYLOAD: usize = 1024;

/// The most bytes of a frame, with both delimiters: the size of every buffer that holds one.
pub const MAX_FRAME: usize = cobs::max_encoding_length(MAX_PAYLOAD + CRC_LEN) + 2;

/// The most bytes of a console or log frame's content, or of the strings of one frame together,
/// that are sure to fit. Longer console output takes several frames; for strings see [`clip`].
pub const MAX_CONTENT: usize = 768;

pub(crate) const CRC_LEN: usize = 4;

/// CRC-32C. A table of 1 KiB, not the faster one of 16 KiB: the kernel's cache is the user's.
pub(crate) static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// One payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Envelope<'a> {
    /// [`MAJOR`] of the sender.
    pub version: u8,
    /// The CPU that speaks.
    pub cpu: u8,
    /// Counts the frames of the stream, whatever their CPU; wraps. A gap is loss on the line.
    pub seq: u32,
    /// What is said.
    #[serde(borrow)]
    pub body: Body<'a>,
}

impl<'a> Envelope<'a> {
    /// An envelope of this version.
    pub const fn new(cpu: u8, seq: u32, body: Body<'a>) -> Self {
        Envelope {
            version: MAJOR,
            cpu,
            seq,
            body,
        }
    }
}

/// What a frame says. Append-only.
// Lives for the time it takes to encode or to handle one frame; boxing needs an allocator.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Body<'a> {
    /// Who speaks. First, and again every few seconds, so that a listener may come late.
    #[serde(borrow)]
    Hello(Hello<'a>),
    /// Events.
    #[serde(borrow)]
    Batch(Batch<'a>),
    /// What the numbers in events stand for.
    #[serde(borrow)]
    Meta(Meta<'a>),
    /// Totals, to check what was rebuilt from events.
    Snapshot(Snapshot),
    /// One raw `defmt` frame.
    #[serde(borrow, serialize_with = "byte_string")]
    Log(&'a [u8]),
    /// What a program wrote to its terminal.
    Console {
        /// The file descriptor: 1 or 2.
        fd: u8,
        /// The bytes; a character may be split over two frames.
        #[serde(borrow, serialize_with = "byte_string")]
        bytes: &'a [u8],
    },
    /// The machine is about to stop. The last frame.
    End(End),
    /// How CPUs waited for a lock; before the end, and one for each lock that was waited for.
    #[serde(borrow)]
    Contention(Contention<'a>),
}

impl Body<'_> {
    /// How many variants this version knows.
    pub(crate) const KNOWN: u32 = 8;
}

/// Which events are recorded.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Schema,
)]
pub enum TraceLevel {
    /// None.
    Off,
    /// Lives of processes and address spaces: no faults, no switches.
    Life,
    /// And faults and switches.
    Faults,
    /// And every descriptor write, barrier, TLBI, TTBR0 write, frame taken or given back.
    Mmu,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Hello<'a> {
    /// [`MAJOR`] of the kernel.
    pub major: u8,
    /// [`MINOR`] of the kernel.
    pub minor: u8,
    /// [`Hello::SCHEMA`] of the kernel.
    pub schema: u64,
    /// The kernel's GNU build id (zeros: it has none).
    pub build_id: [u8; 20],
    /// The board's name, from its device tree.
    pub board: &'a str,
    /// MIDR_EL1.
    pub midr: u64,
    /// CPUs found.
    pub cpus: u8,
    /// CNTFRQ_EL0: ticks of every `time` per second.
    pub counter_hz: u64,
    /// Memory that the kernel manages, in bytes.
    pub ram_bytes: u64,
    /// Bits of an ASID in use.
    pub asid_bits: u8,
    /// What is recorded.
    pub trace: TraceLevel,
    /// A full ring blocks instead of dropping.
    pub lossless: bool,
    /// Events that a CPU's ring holds.
    pub ring: u32,
    /// The default of fork.
    pub fork: ForkMode,
    /// Another number at every boot, to tell a reboot from a repetition.
    pub boot_nonce: u64,
    /// The boot arguments, clipped.
    pub bootargs: &'a str,
    /// CNTVCT_EL0 now.
    pub time: u64,
}

impl Hello<'_> {
    /// A hash of the names and types of everything on the wire, made at compile time. Kernel and
    /// tool were built from the same definitions if it is the same on both sides.
    pub const SCHEMA: u64 = {
        let frame = u64::from_le_bytes(Key::for_path::<Envelope<'static>>("wire").to_bytes());
        // Records are not coded as serde would, so that their types are not part of `Batch`.
        let event = u64::from_le_bytes(Key::for_path::<Event>("event").to_bytes());
        let record = u64::from_le_bytes(Key::for_path::<Record>("record").to_bytes());
        frame ^ event.rotate_left(21) ^ record.rotate_left(42) ^ MINOR as u64
    };
}

/// What a number in events stands for. Idempotent, and told again from time to time. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Meta<'a> {
    /// A process as it is now.
    Process {
        /// Process.
        pid: u32,
        /// Its parent (0: none).
        parent: u32,
        /// Its address space.
        space: Space,
        /// Frame of its root table.
        root: u64,
        /// Its ASID.
        asid: u16,
        /// File id of its program (0: none yet).
        file: u32,
        /// Its name, clipped.
        name: &'a str,
    },
    /// A file that was mapped or executed.
    File {
        /// File id, never reused.
        id: u32,
        /// Its path when it was opened, clipped.
        path: &'a str,
        /// Its GNU build id, if it is an ELF file that has one.
        #[serde(serialize_with = "byte_string")]
        build_id: &'a [u8],
    },
    /// A thread as it is now that is not the first of its process, whose name is the process's.
    Thread {
        /// Process.
        pid: u32,
        /// Its number.
        tid: u32,
        /// Its name, clipped.
        name: &'a str,
    },
}

/// Totals of one CPU and of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Snapshot {
    /// CNTVCT_EL0 now.
    pub time: u64,
    /// Frames that are free.
    pub free_frames: u64,
    /// Frames that the kernel manages.
    pub total_frames: u64,
    /// Bytes of the kernel's heap in use.
    pub kernel_heap_bytes: u64,
    /// Processes, ended ones that were not collected included.
    pub processes: u32,
    /// Events of each kind that this CPU has put on the wire since boot.
    #[serde(with = "counts")]
    pub emitted: [u64; KINDS],
    /// Events of each kind that this CPU has dropped since boot.
    #[serde(with = "counts")]
    pub dropped: [u64; KINDS],
    /// The most events that this CPU's ring has held.
    pub ring_high_water: u32,
}

/// What waiting for a lock, or for those of one kind, has cost since boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Contention<'a> {
    /// Its name: its place in the kernel's order of locks.
    pub lock: &'a str,
    /// Times that another CPU had it.
    pub waits: u64,
    /// Attempts to take it, until it was free, by all that waited.
    pub attempts: u64,
    /// Counter ticks in which a CPU waited, of all that did.
    pub ticks: u64,
    /// The longest wait, in counter ticks.
    pub longest: u64,
}

/// The machine stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct End {
    /// Exit code of `/init`: 0 to 255, or 128 + its signal.
    pub code: i32,
    /// CNTVCT_EL0 now.
    pub time: u64,
    /// Frames that are free.
    pub free_frames: u64,
    /// Events of each kind put on the wire, by all CPUs.
    #[serde(with = "counts")]
    pub emitted: [u64; KINDS],
    /// Events of each kind dropped, by all CPUs.
    #[serde(with = "counts")]
    pub dropped: [u64; KINDS],
    /// Frames sent, this one included.
    pub frames_sent: u64,
}

/// A frame could not be made: its payload exceeds [`MAX_PAYLOAD`], or the buffer is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error;

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "the frame is longer than {MAX_PAYLOAD} bytes or its buffer"
        )
    }
}

impl core::error::Error for Error {}

/// Writes an envelope as a complete frame, with both delimiters; its length in bytes.
///
/// A buffer of [`MAX_FRAME`] bytes is large enough for any. One pass, no buffer of its own.
pub fn encode(envelope: &Envelope<'_>, out: &mut [u8]) -> Result<usize, Error> {
    let (first, rest) = out.split_first_mut().ok_or(Error)?;
    *first = 0;
    let framer = Framer {
        cobs: CobsEncoder::new(rest),
        digest: CRC.digest(),
        len: 0,
    };
    let len = postcard::serialize_with_flavor(envelope, framer).map_err(|_| Error)?;
    *out.get_mut(1 + len).ok_or(Error)? = 0;
    Ok(len + 2)
}

/// The longest beginning of `text` that has at most `max` bytes and ends with a whole character.
pub fn clip(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Where postcard's output goes: through the CRC into COBS.
struct Framer<'a> {
    cobs: CobsEncoder<'a>,
    digest: Digest<'static, u32>,
    len: usize,
}

impl Flavor for Framer<'_> {
    type Output = usize;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.len += bytes.len();
        if self.len > MAX_PAYLOAD {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.digest.update(bytes);
        self.cobs
            .push(bytes)
            .map_err(|_| postcard::Error::SerializeBufferFull)
    }

    fn finalize(mut self) -> postcard::Result<usize> {
        let crc = self.digest.finalize().to_le_bytes();
        self.cobs
            .push(&crc)
            .map_err(|_| postcard::Error::SerializeBufferFull)?;
        Ok(self.cobs.finalize())
    }
}

/// Bytes at once, where serde would go one by one.
pub(crate) fn byte_string<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Counts by kind of event, with their number, so that more kinds are no new format.
mod counts {
    use super::{Deserializer, KINDS, Serializer};
    use core::fmt;
    use serde::de::{SeqAccess, Visitor};

    pub fn serialize<S: Serializer>(
        counts: &[u64; KINDS],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(counts)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u64; KINDS], D::Error> {
        struct Counts;

        impl<'de> Visitor<'de> for Counts {
            type Value = [u64; KINDS];

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("counts by kind of event")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut counts = [0; KINDS];
                let mut index = 0;
                // Kinds of a newer version are read over; those an older one lacks stay 0.
                while let Some(count) = seq.next_element()? {
                    if let Some(slot) = counts.get_mut(index) {
                        *slot = count;
                    }
                    index += 1;
                }
                Ok(counts)
            }
        }

        deserializer.deserialize_seq(Counts)
    }
}
