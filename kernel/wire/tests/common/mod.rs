//! Streams as a kernel would write them, for the tests and the speed example.
#![allow(dead_code)] // Each user takes a part.

use wire::batch::Encoder;
use wire::event::{Access, Event, Fault, Origin, Outcome, Record, STACK_DEPTH, Stack};
use wire::frame::MAX_FRAME;
use wire::{Body, Deframer, Item};

/// SplitMix64: numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high - low)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.range(0, n) == 0
    }
}

/// nG, AF, inner shareable, AP=RO at EL0, UXN, PXN; and the same but writable.
pub const READ_ONLY: u64 = 0x0060_0000_0000_0fc3;
pub const WRITABLE: u64 = 0x0060_0000_0000_0f43;

/// The frame of a fault that copies.
pub fn cow_copy(pid: u32, pc: u64, page: u64, old: u64, new: u64, cost: u32) -> Fault {
    let mut pcs = [0; STACK_DEPTH];
    for (index, slot) in pcs.iter_mut().enumerate() {
        *slot = 0x40_1000 + 0x1234 * index as u64 * index as u64 + pc % 0x1000;
    }
    Fault {
        outcome: Outcome::CowCopy,
        access: Access::Write,
        origin: Origin::User,
        pid,
        space: pid + 3,
        asid: pid as u16 + 1,
        cost,
        pc,
        addr: page << 12,
        esr: 0x9200_004f,
        old: old << 12 | READ_ONLY,
        new: new << 12 | WRITABLE,
        refs: 2,
        refs_after: 1,
        tlbis: 1,
        stack: Stack {
            depth: STACK_DEPTH as u8,
            pcs,
        },
    }
}

/// Frames as an allocator hands them out: the next one, but for one time in `irregular`.
fn next_frame(random: &mut Random, frame: &mut u64, irregular: u64) -> u64 {
    *frame += if random.one_in(irregular) {
        random.range(2, 300)
    } else {
        1
    };
    *frame
}

/// A program writes to consecutive pages after fork.
pub fn sweep(count: usize, seed: u64) -> Vec<Record> {
    let mut random = Random(seed);
    let (mut time, mut old, mut new) = (5_000_000_000, 0x41_000, 0x48_000);
    (0..count)
        .map(|index| {
            time += random.range(40, 200);
            let old = next_frame(&mut random, &mut old, 16);
            let new = next_frame(&mut random, &mut new, 16);
            let cost = random.range(500, 3000) as u32;
            let fault = cow_copy(2, 0x40_2344, 0x55_5555 + index as u64, old, new, cost);
            Record {
                time,
                tid: 2,
                event: Event::Fault(fault),
            }
        })
        .collect()
}

/// Parent and child write in turns, each from two places, in pieces of the same pages, with a
/// switch between them every few faults.
pub fn mix(count: usize, seed: u64) -> Vec<Record> {
    let mut random = Random(seed);
    let (mut time, mut new) = (5_000_000_000, 0x48_000);
    let mut pages = [[0x55_0000, 0x7f_f000_0000], [0x55_0000, 0x7f_f000_0000]];
    let (mut running, mut tlbis) = (0, 100);
    (0..count)
        .map(|_| {
            time += random.range(40, 200);
            if random.one_in(6) {
                let from = 2 + running as u32;
                running = 1 - running;
                let to = 2 + running as u32;
                tlbis += random.range(1, 8);
                let ttbr0 = u64::from(to + 1) << 48 | (0x4_1000 + u64::from(to)) << 12;
                let event = Event::Switch {
                    from,
                    to,
                    space: to + 3,
                    ttbr0,
                    tlbis,
                };
                return Record {
                    time,
                    tid: to,
                    event,
                };
            }
            let place = random.range(0, 2) as usize;
            let page = &mut pages[running][place];
            *page += if random.one_in(8) {
                random.range(2, 40)
            } else {
                1
            };
            let pid = 2 + running as u32;
            let cost = random.range(500, 3000) as u32;
            let old = *page % 0x10_0000;
            let new = next_frame(&mut random, &mut new, 8);
            let pc = [0x40_2344, 0x40_8120][place];
            let fault = cow_copy(pid, pc, *page, old, new, cost);
            Record {
                time,
                tid: pid,
                event: Event::Fault(fault),
            }
        })
        .collect()
}

/// The records as a stream of frames, numbered from 0.
pub fn encode(records: &[Record]) -> Vec<u8> {
    frames(records).concat()
}

/// The same, frame by frame.
pub fn frames(records: &[Record]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut encoder = Encoder::new();
    let mut flush = |encoder: &mut Encoder| {
        let mut out = [0; MAX_FRAME];
        let len = encoder.finish(0, frames.len() as u32, 0, &mut out);
        frames.push(out[..len].to_vec());
    };
    for record in records {
        if encoder.push(record).is_err() {
            flush(&mut encoder);
            encoder
                .push(record)
                .expect("an empty batch takes any record");
        }
    }
    if !encoder.is_empty() {
        flush(&mut encoder);
    }
    frames
}

/// Calls back for every item of a stream.
pub fn items(stream: &[u8], mut each: impl FnMut(Item<'_>)) -> Deframer {
    let mut deframer = Deframer::new();
    let mut input = stream;
    while let Some(item) = deframer.next(&mut input) {
        each(item);
    }
    while let Some(item) = deframer.finish() {
        each(item);
    }
    deframer
}

/// All records of a stream that must be whole.
pub fn decode(stream: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    items(stream, |item| match item {
        Item::Frame(envelope) => match envelope.body {
            Body::Batch(batch) => records.extend(batch.records().map(|record| record.unwrap())),
            body => panic!("unexpected {body:?}"),
        },
        item => panic!("unexpected {item:?}"),
    });
    records
}
