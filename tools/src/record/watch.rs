//! Follows a stream while it is recorded: what programs print, how much came, what was lost.

use std::fmt;

use wire::deframe::{Counts, Damage, Unknown};
use wire::frame::End;
use wire::{Body, Deframer, Item};

/// Something to show at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// What a program wrote to its descriptor 1 or 2.
    Console {
        /// Which.
        fd: u8,
        /// What; it can end within a line, and within a character.
        bytes: &'a [u8],
    },
    /// What came outside of frames: firmware, or the last words of a kernel.
    Text(&'a str),
    /// A log frame of the kernel.
    Log(&'a [u8]),
}

/// A stream being followed.
#[derive(Default)]
pub struct Watch {
    deframer: Deframer,
    events: u64,
    /// By CPU: cumulative counts, of which the last is the largest.
    dropped: Vec<u64>,
    nonce: Option<u64>,
    end: Option<End>,
    major: Option<u8>,
}

impl Watch {
    /// At the start of a stream, or anywhere in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn take(&mut self, mut bytes: &[u8], mut show: impl FnMut(Shown<'_>)) {
        while let Some(item) = self.deframer.next(&mut bytes) {
            match item {
                Item::Frame(envelope) => match envelope.body {
                    Body::Hello(hello) => {
                        // Another boot: its counts begin anew.
                        if self.nonce.replace(hello.boot_nonce) != Some(hello.boot_nonce) {
                            self.dropped.clear();
                            self.end = None;
                        }
                    }
                    Body::Batch(batch) => {
                        self.events += u64::from(batch.count);
                        dropped(&mut self.dropped, envelope.cpu, batch.dropped);
                    }
                    Body::Snapshot(snapshot) => {
                        dropped(
                            &mut self.dropped,
                            envelope.cpu,
                            snapshot.dropped.iter().sum(),
                        );
                    }
                    Body::Console { fd, bytes } => show(Shown::Console { fd, bytes }),
                    Body::Log(bytes) => show(Shown::Log(bytes)),
                    Body::End(end) => {
                        // Of all CPUs.
                        self.dropped = vec![end.dropped.iter().sum()];
                        self.end = Some(end);
                    }
                    Body::Meta(_) | Body::Contention(_) => {}
                },
                Item::Text(text) => show(Shown::Text(text)),
                Item::Unknown {
                    what: Unknown::Major(major),
                    ..
                } => self.major = Some(major),
                Item::Unknown { .. } | Item::Corrupt { .. } => {}
            }
        }
    }

    /// The stream has ended. Whether it broke off in a frame.
    pub fn finish(&mut self, mut show: impl FnMut(Shown<'_>)) -> bool {
        let mut cut = false;
        while let Some(item) = self.deframer.finish() {
            match item {
                Item::Text(text) => show(Shown::Text(text)),
                Item::Corrupt {
                    damage: Damage::Cut,
                    ..
                } => cut = true,
                _ => {}
            }
        }
        cut
    }

    /// The machine's last frame.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// A version of the wire that we do not speak, if the stream has frames of one.
    pub fn foreign_version(&self) -> Option<u8> {
        self.major
    }

    /// What came so far.
    pub fn progress(&self) -> Summary {
        Summary {
            counts: *self.deframer.counts(),
            events: self.events,
            dropped: self.dropped.iter().sum(),
        }
    }
}

fn dropped(counts: &mut Vec<u64>, cpu: u8, count: u64) {
    let cpu = usize::from(cpu);
    if counts.len() <= cpu {
        counts.resize(cpu + 1, 0);
    }
    counts[cpu] = counts[cpu].max(count);
}

/// What came so far, in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of frames and bytes.
    pub counts: Counts,
    /// Events received.
    pub events: u64,
    /// Events that the machine dropped, by its own account.
    pub dropped: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        write!(
            f,
            "{:.1} kB, {} events",
            counts.bytes as f64 / 1000.0,
            self.events
        )?;
        let losses = [
            (self.dropped, "events dropped"),
            (counts.missing, "frames lost"),
            (counts.corrupt_bytes, "bytes damaged"),
            (counts.unknown, "frames of another version"),
        ];
        for (count, what) in losses {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Envelope;
    use wire::event::KINDS;
    use wire::frame::{MAX_FRAME, encode};

    fn frame(cpu: u8, seq: u32, body: Body<'_>) -> Vec<u8> {
        let mut buffer = [0; MAX_FRAME];
        let n = encode(&Envelope::new(cpu, seq, body), &mut buffer).unwrap();
        buffer[..n].to_vec()
    }

    fn batch(dropped: u64, count: u16) -> Body<'static> {
        Body::Batch(wire::batch::Batch {
            time: 0,
            tid: 1,
            dropped,
            count,
            events: &[],
        })
    }

    #[test]
    fn console_text_and_losses() {
        let mut dropped = [0; KINDS];
        dropped[0] = 9;
        let end = End {
            code: 3,
            time: 0,
            free_frames: 1,
            emitted: [0; KINDS],
            dropped,
            frames_sent: 6,
        };
        let stream = [
            b"firmware\n".to_vec(),
            frame(0, 0, batch(2, 10)),
            frame(1, 1, batch(4, 5)),
            frame(0, 2, batch(3, 1)),
            frame(
                0,
                4,
                Body::Console {
                    fd: 1,
                    bytes: b"hi",
                },
            ),
        ];
        let mut watch = Watch::new();
        let mut shown = String::new();
        for bytes in stream.concat().chunks(3) {
            watch.take(bytes, |s| shown += &format!("{s:?};"));
        }
        assert_eq!(
            shown,
            r#"Text("firmware\n");Console { fd: 1, bytes: [104, 105] };"#
        );
        let summary = watch.progress();
        assert_eq!(
            (summary.events, summary.dropped, summary.counts.missing),
            (16, 7, 1)
        );
        assert!(watch.end().is_none());

        watch.take(&frame(0, 5, Body::End(end)), |_| {});
        assert_eq!(watch.end().map(|e| e.code), Some(3));
        assert_eq!(watch.progress().dropped, 9);
        assert!(
            watch
                .progress()
                .to_string()
                .contains("9 events dropped, 1 frames lost")
        );
        assert!(!watch.finish(|_| {}));
    }

    #[test]
    fn a_stream_that_breaks_off() {
        let mut watch = Watch::new();
        let whole = frame(0, 0, batch(0, 1));
        watch.take(&whole[..whole.len() - 3], |_| {});
        assert!(watch.finish(|_| {}));
        assert_eq!(watch.progress().events, 0);
    }
}
