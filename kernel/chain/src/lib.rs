//! What the chain loader and the host say to each other on a serial line that loses bytes and
//! damages others.
//!
//! The host asks, the loader answers, one frame each: postcard, then a CRC-32C, COBS-framed between
//! zero bytes. Every request may be repeated, as it means the same the second time (what is written
//! is written to an address), so that the host asks again whatever has no answer, and nothing else is
//! needed to go on after a loss. Text between frames is for people.
#![no_std]
#![forbid(unsafe_code)]

use crc::{CRC_32_ISCSI, Crc, NoTable};
use serde::{Deserialize, Serialize};

/// The protocol's version.
pub const VERSION: u8 = 1;
/// The most bytes that a request writes, or an answer has.
pub const MAX_BYTES: usize = 4096;
/// The most bytes of a message: [`MAX_BYTES`], what stands before them, the CRC.
const MAX_MESSAGE: usize = MAX_BYTES + 32 + CRC_LEN;
/// The most bytes of a frame, delimiters included.
pub const MAX_FRAME: usize = cobs::max_encoding_length(MAX_MESSAGE) + 2;
const CRC_LEN: usize = 4;

/// The rate that both sides begin with, in baud.
pub const FIRST_BAUD: u32 = 115_200;
/// The loader goes back to it when at another rate nothing sensible came for so long, microseconds.
pub const RATE_TRIAL: u64 = 2_000_000;

/// Without a table: the loader runs with its data cache off, where a table is slower.
static CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISCSI);

/// The CRC-32C of bytes that come in pieces.
pub struct Checksum(crc::Digest<'static, u32, NoTable>);

impl Checksum {
    /// Of nothing.
    #[expect(clippy::new_without_default, reason = "it is no value to default to")]
    pub fn new() -> Self {
        Self(CRC.digest())
    }

    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The CRC of all of them.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Something said, and its number: an answer has that of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The number.
    pub number: u16,
    /// What is said.
    pub body: T,
}

/// What the host asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Who is there?
    Hello,
    /// Another rate: from the answer on, which still comes at the old one.
    Baud {
        /// Bits per second.
        baud: u32,
    },
    /// The device tree that the firmware left, from an offset on.
    Tree {
        /// In bytes.
        offset: u32,
    },
    /// One of the things the loader knows of the machine, by number, for whoever debugs it.
    Fact {
        /// From 0 on, until there is no such fact.
        index: u8,
    },
    /// Stores bytes in memory.
    Write {
        /// Physical address.
        address: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The CRC-32C of memory.
    Check {
        /// Physical address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// Jump, with the device tree's address in x0.
    Go {
        /// Physical address.
        entry: u64,
        /// Physical address.
        tree: u64,
    },
}

/// What the loader answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// To [`Request::Hello`].
    Here(Here),
    /// The rate it will have from now on.
    Baud {
        /// Bits per second, by its own account.
        baud: u32,
    },
    /// Bytes of the device tree.
    Tree {
        /// Bytes in all.
        total: u32,
        /// Those from the offset on.
        bytes: &'a [u8],
    },
    /// A fact.
    Fact {
        /// What it is.
        name: &'a str,
        /// Its value.
        value: u64,
    },
    /// Stored.
    Written,
    /// The CRC.
    Checked {
        /// CRC-32C.
        crc: u32,
    },
    /// It jumps now. The last thing it says.
    Going,
    /// It will not.
    Refused(Why),
    /// A frame came that made no sense. Its number is 0, and it is an answer to nothing.
    Damaged,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// [`VERSION`].
    pub version: u8,
    /// MIDR_EL1.
    pub midr: u64,
    /// The exception level.
    pub level: u8,
    /// Bytes of device tree that the firmware left; 0: none.
    pub tree: u32,
    /// The loader's own memory: start and end.
    pub own: [u64; 2],
    /// The rate can be changed.
    pub rates: bool,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Nothing is to be written there: the firmware's page, the loader itself, no RAM.
    Address,
    /// The UART cannot have this rate.
    Baud,
    /// There is no more of it.
    Nothing,
}

/// Which memory may be written: RAM but the firmware's first pages and the loader's own.
pub fn may_write(address: u64, len: u64, own: [u64; 2], ram_end: u64) -> bool {
    // A kernel's lowest load address, of old firmware.
    const FIRST: u64 = 0x8_0000;
    let Some(end) = address.checked_add(len) else {
        return false;
    };
    address >= FIRST && end <= ram_end && (end <= own[0] || address >= own[1])
}

/// What cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Makes a frame of something said; its length.
pub fn encode(
    message: &Numbered<impl Serialize>,
    scratch: &mut [u8; MAX_FRAME],
    frame: &mut [u8; MAX_FRAME],
) -> Result<usize, TooLong> {
    let room = MAX_MESSAGE - CRC_LEN;
    let used = postcard::to_slice(message, &mut scratch[..room])
        .map_err(|_| TooLong)?
        .len();
    let crc = CRC.checksum(&scratch[..used]);
    scratch[used..used + CRC_LEN].copy_from_slice(&crc.to_le_bytes());
    frame[0] = 0;
    let n = cobs::encode(&scratch[..used + CRC_LEN], &mut frame[1..]);
    frame[1 + n] = 0;
    Ok(n + 2)
}

/// Collects bytes until they are a message.
pub struct Collector {
    buffer: [u8; MAX_FRAME],
    len: usize,
    /// More came than a frame has: what follows, until the next zero, belongs to it.
    overlong: bool,
}

/// What came of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected<'a> {
    /// A message, without its CRC.
    Message(&'a [u8]),
    /// Something that is none: damaged, or text.
    Damaged(&'a [u8]),
}

impl Collector {
    /// Empty.
    #[expect(clippy::new_without_default, reason = "it is large")]
    pub const fn new() -> Self {
        Self {
            buffer: [0; MAX_FRAME],
            len: 0,
            overlong: false,
        }
    }

    /// Takes a byte; at the end of a frame, what it was.
    pub fn take(&mut self, byte: u8) -> Option<Collected<'_>> {
        if byte != 0 {
            match self.buffer.get_mut(self.len) {
                Some(place) => {
                    *place = byte;
                    self.len += 1;
                }
                None => self.overlong = true,
            }
            return None;
        }
        let (len, overlong) = (self.len, self.overlong);
        self.len = 0;
        self.overlong = false;
        if len == 0 {
            return None;
        }
        if overlong || !is_message(&self.buffer[..len]) {
            return Some(Collected::Damaged(&self.buffer[..len]));
        }
        let used = cobs::decode_in_place(&mut self.buffer[..len]).ok()?;
        Some(Collected::Message(&self.buffer[..used - CRC_LEN]))
    }
}

/// Whether COBS and the CRC fit. The bytes stay as they are.
fn is_message(frame: &[u8]) -> bool {
    let mut digest = CRC.digest();
    // The CRC's own bytes are held back: the last four of what is decoded.
    let mut held = [0; CRC_LEN];
    let mut count = 0;
    let mut take = |byte: u8| {
        if count >= CRC_LEN {
            digest.update(&held[..1]);
        }
        held.rotate_left(1);
        held[CRC_LEN - 1] = byte;
        count += 1;
    };
    let mut rest = frame;
    while let Some((&code, after)) = rest.split_first() {
        let n = usize::from(code) - 1;
        let Some((bytes, next)) = after.split_at_checked(n) else {
            return false;
        };
        bytes.iter().for_each(|&byte| take(byte));
        // A zero stood between this block and the next one.
        if code != 0xff && !next.is_empty() {
            take(0);
        }
        rest = next;
    }
    count > CRC_LEN && digest.finalize().to_le_bytes() == held
}

/// What a message says.
pub fn decode<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Option<Numbered<T>> {
    postcard::from_bytes(message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn frame(number: u16, body: impl Serialize) -> Vec<u8> {
        let (mut scratch, mut frame) = ([0; MAX_FRAME], [0; MAX_FRAME]);
        let n = encode(&Numbered { number, body }, &mut scratch, &mut frame).unwrap();
        assert!(frame[1..n - 1].iter().all(|&byte| byte != 0));
        frame[..n].to_vec()
    }

    /// The numbers of the requests that come out of these bytes, and how much was damaged.
    fn numbers(bytes: &[u8]) -> (Vec<u16>, usize) {
        let mut collector = Collector::new();
        let (mut numbers, mut damaged) = (Vec::new(), 0);
        for &byte in bytes {
            match collector.take(byte) {
                Some(Collected::Message(message)) => {
                    numbers.push(decode::<Request<'_>>(message).expect("a request").number);
                }
                Some(Collected::Damaged(_)) => damaged += 1,
                None => {}
            }
        }
        (numbers, damaged)
    }

    #[test]
    fn there_and_back() {
        for len in [0, 1, 253, 254, 255, 1000, MAX_BYTES] {
            for fill in [0, 1, 0xff] {
                let bytes: Vec<u8> = std::vec![fill; len];
                let request = Request::Write {
                    address: u64::MAX,
                    bytes: &bytes,
                };
                let mut collector = Collector::new();
                let frame = frame(u16::MAX, request);
                let (last, first) = frame.split_last().unwrap();
                for &byte in first {
                    assert_eq!(collector.take(byte), None);
                }
                let Some(Collected::Message(message)) = collector.take(*last) else {
                    panic!("{len} bytes of {fill}")
                };
                let found: Numbered<Request<'_>> = decode(message).unwrap();
                assert_eq!(found.body, request);
            }
        }
    }

    #[test]
    fn what_does_not_fit() {
        let bytes = [1; MAX_BYTES + 40];
        let message = Numbered {
            number: 0,
            body: Request::Write {
                address: 0,
                bytes: &bytes,
            },
        };
        let (mut scratch, mut frame) = ([0; MAX_FRAME], [0; MAX_FRAME]);
        assert_eq!(encode(&message, &mut scratch, &mut frame), Err(TooLong));
    }

    #[test]
    fn damage_costs_one_frame() {
        let frames: Vec<_> = (1..=3)
            .map(|n| {
                let bytes = [n as u8; 300];
                frame(
                    n,
                    Request::Write {
                        address: 9,
                        bytes: &bytes,
                    },
                )
            })
            .collect();
        let all = frames.concat();
        assert_eq!(numbers(&all), (std::vec![1, 2, 3], 0));
        let second = frames[0].len()..frames[0].len() + frames[1].len();
        for at in second.start + 1..second.end - 1 {
            for flip in [1, 0x40] {
                let mut bytes = all.clone();
                bytes[at] ^= flip;
                let (found, damaged) = numbers(&bytes);
                assert_eq!(found, [1, 3], "byte {at} flipped");
                assert!(damaged >= 1);
            }
            let mut bytes = all.clone();
            bytes.remove(at);
            assert_eq!(numbers(&bytes).0, [1, 3], "byte {at} lost");
        }
        // A lost delimiter: the other one of the two in a row does.
        for at in [second.start, second.end - 1] {
            let mut bytes = all.clone();
            bytes.remove(at);
            assert_eq!(numbers(&bytes), (std::vec![1, 2, 3], 0));
        }
    }

    #[test]
    fn text_and_noise_in_between() {
        let mut bytes = b"\r\nLoader waits\r\n".to_vec();
        bytes.extend(frame(7, Request::Hello));
        bytes.extend([0xff; 3 * MAX_FRAME]);
        bytes.extend(frame(8, Request::Hello));
        assert_eq!(numbers(&bytes), (std::vec![7, 8], 2));
    }

    #[test]
    fn checksums_in_pieces() {
        // The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
        let mut checksum = Checksum::new();
        for piece in [&b"1234"[..], b"", b"56789"] {
            checksum.take(piece);
        }
        assert_eq!(checksum.finish(), 0xe306_9283);
    }

    #[test]
    fn where_may_be_written() {
        let own = [0x700_0000, 0x710_0000];
        let may = |address, len| may_write(address, len, own, 0x1c00_0000);
        assert!(may(0x8_0000, 0x6f8_0000) && may(0x710_0000, 1) && may(0x1bff_ffff, 1));
        assert!(
            !may(0, 1) && !may(0x7_ffff, 1),
            "the spin table, the firmware's stub"
        );
        assert!(!may(0x8_0000, 0x6f8_0001) && !may(0x70f_ffff, 1) && !may(0x20_0000, 1 << 30));
        assert!(!may(0x1c00_0000, 1) && !may(u64::MAX, 2));
    }
}
