//! From any bytes to frames, text and counted damage.
//!
//! The stream is cut at its zeros. A piece is text if all of it is printable UTF-8, else a frame if
//! its COBS code and its CRC are right, else damage. No frame is text: its second byte is the
//! [`MAJOR`] version. Text is given out line by line, also when no zero follows, so that the last
//! words of a kernel that hangs are seen. What comes out does not depend on how the input was cut.

use crate::MAJOR;
use crate::frame::{Body, CRC, CRC_LEN, Envelope, MAX_FRAME};

/// What was found in the stream.
// Handled one at a time; boxing needs an allocator.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame of this version.
    Frame(Envelope<'a>),
    /// Text from outside of frames: firmware, a boot loader, an early panic. A line with its end,
    /// or what stood before a frame or filled the buffer.
    Text(&'a str),
    /// A frame that arrived well but is of another version.
    Unknown {
        /// Where in the stream it begins, in bytes.
        offset: u64,
        /// Its bytes in the stream, without the delimiters.
        len: usize,
        /// What is unknown.
        what: Unknown,
    },
    /// Bytes that are neither.
    Corrupt {
        /// Where in the stream they begin.
        offset: u64,
        /// How many.
        len: usize,
        /// What is wrong with them.
        damage: Damage,
    },
}

/// What a well-arrived frame has that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Another major version: nothing in it can be relied on.
    Major(u8),
    /// A newer minor version's kind of body.
    Body {
        /// Which.
        discriminant: u32,
        /// The frame's CPU.
        cpu: u8,
        /// The frame's sequence number.
        seq: u32,
    },
    /// A known kind of body with a value in it that is unknown.
    Content {
        /// Which kind of body.
        discriminant: u32,
        /// The frame's CPU.
        cpu: u8,
        /// The frame's sequence number.
        seq: u32,
    },
}

/// What is wrong with bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A COBS code points beyond the piece.
    Cobs,
    /// Too short for a header and a CRC.
    Short,
    /// The CRC is wrong.
    Crc,
    /// Longer than any frame, and not text.
    Long,
    /// The stream ended.
    Cut,
}

/// What a [`Deframer`] has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes taken in.
    pub bytes: u64,
    /// Frames given out.
    pub frames: u64,
    /// Frames of another version.
    pub unknown: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Damaged pieces. One damaged frame makes several if a zero fell into it.
    pub corrupt: u64,
    /// Bytes of damaged pieces.
    pub corrupt_bytes: u64,
    /// Frames that the sequence numbers say were sent and that did not arrive.
    pub missing: u64,
    /// How often the sequence numbers went backwards: the machine was started again.
    pub restarts: u64,
}

/// Cuts a stream into [`Item`]s with a fixed amount of memory.
///
/// ```
/// # fn handle(_: wire::Item) {}
/// let mut deframer = wire::Deframer::new();
/// for chunk in [&b"U-Boot 20"[..], b"25.01\n"] {
///     let mut input = chunk;
///     while let Some(item) = deframer.next(&mut input) {
///         handle(item);
///     }
/// }
/// while let Some(item) = deframer.finish() {
///     handle(item);
/// }
/// ```
pub struct Deframer {
    buffer: [u8; MAX_FRAME],
    len: usize,
    /// How much of the buffer's head the last call gave out.
    given: usize,
    /// Nothing in the buffer says that it is not text.
    text: bool,
    next_seq: Option<u32>,
    counts: Counts,
}

/// What to do with the buffer.
enum Step {
    /// This much of it is whole lines.
    Line(usize),
    /// A delimiter was seen.
    Piece,
    /// No room is left.
    Overflow,
}

impl Deframer {
    /// At the start of a stream, or anywhere in it.
    pub const fn new() -> Self {
        Deframer {
            buffer: [0; MAX_FRAME],
            len: 0,
            given: 0,
            text: true,
            next_seq: None,
            counts: Counts {
                bytes: 0,
                frames: 0,
                unknown: 0,
                text_bytes: 0,
                corrupt: 0,
                corrupt_bytes: 0,
                missing: 0,
                restarts: 0,
            },
        }
    }

    /// What was seen so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The next item, taking from `input` what it needs; `None` when `input` is used up.
    // Not `Iterator`: an item borrows the buffer.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Item<'_>> {
        self.forget_given();
        let step = self.fill(input)?;
        // The delimiter is not part of the piece.
        let end = self.counts.bytes - u64::from(matches!(step, Step::Piece));
        let offset = end - self.len as u64;
        match step {
            Step::Line(len) => self.give_text(len),
            Step::Piece => Some(self.give_piece(offset)),
            Step::Overflow => match self.printable() {
                Some(len) => self.give_text(len),
                None => Some(self.give_corrupt(offset, Damage::Long)),
            },
        }
    }

    /// The stream has ended: what is left, until `None`. Then a new stream may begin.
    pub fn finish(&mut self) -> Option<Item<'_>> {
        self.forget_given();
        if self.len == 0 {
            self.next_seq = None;
            return None;
        }
        match self.printable() {
            Some(len) => self.give_text(len),
            None => {
                let offset = self.counts.bytes - self.len as u64;
                Some(self.give_corrupt(offset, Damage::Cut))
            }
        }
    }

    fn forget_given(&mut self) {
        if self.given > 0 {
            self.buffer.copy_within(self.given..self.len, 0);
            self.len -= self.given;
            self.given = 0;
            // What is left over is the beginning of a character, or nothing.
            self.text = true;
        }
    }

    /// Moves input to the buffer until there is something to give out.
    fn fill(&mut self, input: &mut &[u8]) -> Option<Step> {
        loop {
            if self.text {
                // Byte by byte, to stop at a line's end; for a frame this is over at its second.
                let (&byte, rest) = input.split_first()?;
                *input = rest;
                self.counts.bytes += 1;
                if byte == 0 {
                    if self.len > 0 {
                        return Some(Step::Piece);
                    }
                    continue;
                }
                self.buffer[self.len] = byte;
                self.len += 1;
                self.text = is_printable(byte);
                // One byte alone may still be a frame's first.
                if byte == b'\n' && self.len > 1 {
                    if core::str::from_utf8(&self.buffer[..self.len]).is_ok() {
                        return Some(Step::Line(self.len));
                    }
                    self.text = false;
                }
            } else {
                let room = input.len().min(MAX_FRAME - self.len);
                if room == 0 {
                    return None;
                }
                let zero = input[..room].iter().position(|byte| *byte == 0);
                let taken = zero.unwrap_or(room);
                self.buffer[self.len..self.len + taken].copy_from_slice(&input[..taken]);
                self.len += taken;
                *input = &input[taken..];
                self.counts.bytes += taken as u64;
                if zero.is_some() {
                    *input = &input[1..];
                    self.counts.bytes += 1;
                    return Some(Step::Piece);
                }
            }
            if self.len == MAX_FRAME {
                return Some(Step::Overflow);
            }
        }
    }

    /// How much of the buffer is text: all of it, or all but the beginning of a last character.
    fn printable(&self) -> Option<usize> {
        if !self.text {
            return None;
        }
        match core::str::from_utf8(&self.buffer[..self.len]) {
            Ok(_) => Some(self.len),
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
                Some(error.valid_up_to())
            }
            Err(_) => None,
        }
    }

    fn give_text(&mut self, len: usize) -> Option<Item<'_>> {
        self.given = len;
        self.counts.text_bytes += len as u64;
        core::str::from_utf8(&self.buffer[..len])
            .ok()
            .map(Item::Text)
    }

    fn give_corrupt(&mut self, offset: u64, damage: Damage) -> Item<'static> {
        self.given = self.len;
        self.counts.corrupt += 1;
        self.counts.corrupt_bytes += self.len as u64;
        Item::Corrupt {
            offset,
            len: self.len,
            damage,
        }
    }

    fn give_piece(&mut self, offset: u64) -> Item<'_> {
        let len = self.len;
        if self.printable() == Some(len) {
            self.given = len;
            self.counts.text_bytes += len as u64;
            // `printable` has just checked it.
            return Item::Text(core::str::from_utf8(&self.buffer[..len]).unwrap_or_default());
        }
        let payload = match unwrap(&mut self.buffer[..len]) {
            Ok(payload) => payload,
            Err(damage) => return self.give_corrupt(offset, damage),
        };
        self.given = len;
        match parse(&self.buffer[..payload]) {
            Ok(envelope) => {
                self.counts.frames += 1;
                Self::follow(&mut self.next_seq, &mut self.counts, envelope.seq);
                Item::Frame(envelope)
            }
            Err(what) => {
                self.counts.unknown += 1;
                if let Unknown::Body { seq, .. } | Unknown::Content { seq, .. } = what {
                    Self::follow(&mut self.next_seq, &mut self.counts, seq);
                }
                Item::Unknown { offset, len, what }
            }
        }
    }

    /// Compares a sequence number with the expected one.
    fn follow(next_seq: &mut Option<u32>, counts: &mut Counts, seq: u32) {
        if let Some(expected) = *next_seq {
            let gap = seq.wrapping_sub(expected);
            if gap <= u32::MAX / 2 {
                counts.missing += u64::from(gap);
            } else {
                counts.restarts += 1;
            }
        }
        *next_seq = Some(seq.wrapping_add(1));
    }
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

/// What text may contain: no control characters but those that terminals and boot loaders use.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | 0x07 | 0x08 | 0x0c | 0x1b | 0x20..=0x7e | 0x80..)
}

/// Undoes COBS in place and checks the CRC; the length of the payload.
fn unwrap(piece: &mut [u8]) -> Result<usize, Damage> {
    let len = cobs::decode_in_place(piece).map_err(|_| Damage::Cobs)?;
    let content = piece.get(..len).ok_or(Damage::Cobs)?;
    let (payload, crc) = content.split_last_chunk::<CRC_LEN>().ok_or(Damage::Short)?;
    if payload.is_empty() {
        return Err(Damage::Short);
    }
    if CRC.checksum(payload) != u32::from_le_bytes(*crc) {
        return Err(Damage::Crc);
    }
    Ok(payload.len())
}

/// Bytes beyond the known fields are those of a newer minor version and are read over.
fn parse(payload: &[u8]) -> Result<Envelope<'_>, Unknown> {
    let version = payload.first().copied().unwrap_or_default();
    if version != MAJOR {
        return Err(Unknown::Major(version));
    }
    let header = postcard::take_from_bytes::<(u8, u8, u32, u32)>(payload);
    let (_, cpu, seq, discriminant) = header.map_err(|_| Unknown::Major(version))?.0;
    if discriminant >= Body::KNOWN {
        return Err(Unknown::Body {
            discriminant,
            cpu,
            seq,
        });
    }
    match postcard::take_from_bytes(payload) {
        Ok((envelope, _)) => Ok(envelope),
        Err(_) => Err(Unknown::Content {
            discriminant,
            cpu,
            seq,
        }),
    }
}
