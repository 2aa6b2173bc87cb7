//! What of the trace is missing, counted and never guessed.

use serde::Serialize;
use wire::deframe::{Counts, Damage};
use wire::event::KINDS;

/// Damaged places remembered with their offset; more are only counted.
const PLACES_MAX: usize = 16;

/// A damaged piece of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong with it.
    pub damage: &'static str,
}

/// Everything that is missing, or wrong, in a trace.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Losses {
    /// Frames that were sent and did not arrive, by their sequence numbers.
    pub frames_lost: u64,
    /// Events that went with them, by the kernel's own counts; `None` if no count came after the loss.
    pub events_lost: Option<[u64; KINDS]>,
    /// Events that the kernel dropped because a ring was full, all CPUs.
    pub events_dropped: u64,
    /// The same by kind, as of the last snapshot of each CPU or the end.
    pub dropped_by_kind: [u64; KINDS],
    /// Damaged pieces of the stream.
    pub corrupt: u64,
    /// Bytes in them.
    pub corrupt_bytes: u64,
    /// The first of them.
    pub places: Vec<Place>,
    /// How often a good frame followed damage.
    pub resyncs: u64,
    /// Frames of another version, skipped.
    pub unknown_frames: u64,
    /// Events inside good batches that could not be read.
    pub unreadable_events: u64,
    /// Bytes outside of frames that are text.
    pub text_bytes: u64,
    /// The machine was started again within the trace.
    pub reboots: u64,
    /// The trace does not begin with the machine's first frame.
    pub late_start: bool,
    /// The trace does not end with the machine's last frame.
    pub no_end: bool,
}

impl Losses {
    pub(super) fn damage(&mut self, offset: u64, len: usize, damage: Damage) {
        let damage = match damage {
            Damage::Cobs => "bad COBS code",
            Damage::Short => "too short for a frame",
            Damage::Crc => "wrong CRC",
            Damage::Long => "longer than any frame",
            Damage::Cut => "cut off by the end",
        };
        if self.places.len() < PLACES_MAX {
            self.places.push(Place {
                offset,
                bytes: len as u64,
                damage,
            });
        }
    }

    pub(super) fn count(&mut self, counts: &Counts) {
        self.frames_lost = counts.missing;
        self.corrupt = counts.corrupt;
        self.corrupt_bytes = counts.corrupt_bytes;
        self.unknown_frames = counts.unknown;
        self.text_bytes = counts.text_bytes;
    }

    /// Whether anything is missing or damaged: what `--strict` refuses.
    pub fn any(&self) -> bool {
        let lost = self
            .events_lost
            .is_some_and(|lost| lost.iter().any(|&count| count > 0));
        self.frames_lost > 0
            || lost
            || self.events_dropped > 0
            || self.corrupt > 0
            || self.unknown_frames > 0
            || self.unreadable_events > 0
            || self.late_start
            || self.no_end
    }
}
