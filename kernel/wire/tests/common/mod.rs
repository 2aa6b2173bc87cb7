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
                cpu: 0,
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
                    cpu: 0,
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
                cpu: 0,
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

/// A record of a kind, its fields from `numbers`, cut to their types.
pub fn record(kind: usize, numbers: &[u64; 12]) -> Record {
    use wire::event::{Backing, Barrier, Fork, ForkMode, MAX_CPUS, Map, Refused, Region, TlbiOp};
    let mut fields = numbers[2..].iter().cycle();
    let mut next = || *fields.next().unwrap();
    let (time, tid) = (numbers[0], numbers[1] as u32);
    let cpu = (numbers[1] >> 32) as u8 % MAX_CPUS as u8;
    macro_rules! fields {
        (Event::$variant:ident { $($field:ident),* }) => {
            Event::$variant { $($field: next() as _),* }
        };
    }
    let event = match kind {
        0 => fields!(Event::SpaceNew { space, root, asid }),
        1 => fields!(Event::SpaceEnd {
            space,
            asid,
            dropped,
            freed,
            tables,
            cost
        }),
        2 => fields!(Event::Spawn { pid, space }),
        3 => {
            use ForkMode::*;
            Event::Fork(Fork {
                mode: [Classic, SharedTables, Eager, Vfork][next() as usize % 4],
                parent: next() as u32,
                child: next() as u32,
                parent_space: next() as u32,
                child_space: next() as u32,
                shared: next() as u32,
                protected: next() as u32,
                leaves: next() as u32,
                copied: next() as u32,
                tables: next() as u32,
                tables_shared: next() as u32,
                cost: next() as u32,
                pc: next(),
                stack: Stack {
                    depth: 2,
                    pcs: [next(), next(), 0, 0, 0, 0, 0, 0],
                },
            })
        }
        4 => fields!(Event::Exec {
            pid,
            old_space,
            space,
            file,
            cost
        }),
        5 => fields!(Event::Exit { pid, space, status }),
        6 => fields!(Event::Reap { pid, by }),
        7 => {
            use Region::*;
            let backing = match next() {
                odd if odd & 1 == 1 => Backing::File {
                    file: next() as u32,
                    offset: next(),
                },
                _ => Backing::Anonymous,
            };
            Event::Map(Map {
                space: next() as u32,
                start: next(),
                end: next(),
                prot: next() as u8,
                shared: next() & 1 == 1,
                backing,
                region: [Program, Heap, Stack, Mmap, Vdso][next() as usize % 5],
            })
        }
        8 => fields!(Event::Unmap {
            space,
            start,
            end,
            dropped,
            freed
        }),
        9 => fields!(Event::Protect {
            space,
            start,
            end,
            prot,
            tightened
        }),
        10 => {
            let kinds = next() as usize;
            let mut fault = Fault {
                outcome: Outcome::ALL[kinds % 16],
                access: [Access::Read, Access::Write, Access::Exec][kinds / 16 % 3],
                origin: [Origin::User, Origin::Kernel][kinds / 48 % 2],
                pid: next() as u32,
                space: numbers[3] as u32 + 1,
                asid: numbers[3] as u16,
                cost: next() as u32,
                pc: next(),
                addr: next(),
                esr: next() as u32,
                old: next(),
                new: next(),
                refs: next() as u32,
                refs_after: numbers[9] as u32 / 2,
                tlbis: numbers[9] as u8,
                stack: Stack::default(),
            };
            let depth = next() as usize % (STACK_DEPTH + 1);
            fault.stack.depth = depth as u8;
            for (index, pc) in fault.stack.pcs[..depth].iter_mut().enumerate() {
                *pc = numbers[11].rotate_left(7 * index as u32);
            }
            Event::Fault(fault)
        }
        11 => fields!(Event::Switch {
            from,
            to,
            space,
            ttbr0,
            tlbis
        }),
        12 => fields!(Event::Resident {
            space,
            anon,
            file,
            zero
        }),
        13 => fields!(Event::Unimplemented { pid, number, pc }),
        14 => fields!(Event::Killed {
            pid,
            signal,
            pc,
            addr
        }),
        15 => fields!(Event::Descriptor {
            table,
            index,
            level,
            old,
            new
        }),
        16 => {
            use Barrier::*;
            let all = [DmbIshst, DsbIshst, DsbNshst, DsbIsh, DsbNsh, Isb];
            Event::Barrier(all[next() as usize % 6])
        }
        17 => {
            use TlbiOp::*;
            let all = [
                Vale1, Vae1, Vale1Is, Vae1Is, Vaale1Is, Vaae1Is, Aside1Is, Vmalle1, Vmalle1Is,
            ];
            Event::Tlbi {
                op: all[next() as usize % 9],
                operand: next(),
            }
        }
        18 => fields!(Event::Ttbr0 { value }),
        19 => Event::Frame {
            frame: next(),
            freed: next() & 1 == 1,
        },
        20 => fields!(Event::AsidNew {
            space,
            asid,
            generation
        }),
        21 => Event::Contents {
            frame: next(),
            what: {
                use wire::event::Contents::*;
                [Stored, Lent, Fetchable][next() as usize % 3]
            },
        },
        22 => fields!(Event::KernelPage { va, old, new }),
        23 => fields!(Event::TablesShared {
            parent_space,
            child_space,
            start,
            end
        }),
        24 => Event::TableOwned {
            space: next() as u32,
            start: next(),
            copied: next() & 1 == 1,
        },
        25 => fields!(Event::Discard {
            space,
            start,
            end,
            dropped,
            freed
        }),
        26 => fields!(Event::Move {
            space,
            start,
            end,
            to
        }),
        27 => fields!(Event::ThreadStart { pid, tid, by }),
        28 => fields!(Event::ThreadExit { pid, tid }),
        29 => Event::Amplification {
            frame: next(),
            freed: numbers[1] & 1 == 1,
            kept: numbers[1] & 2 == 2,
            bytes: next() as u16,
            lines: next() as u8,
        },
        30 => Event::Refused(Refused {
            pid: next() as u32,
            number: next() as u32,
            pages: next(),
            left: next(),
            pc: next(),
            stack: Stack {
                depth: 2,
                pcs: [next(), next(), 0, 0, 0, 0, 0, 0],
            },
        }),
        _ => unreachable!("no such kind"),
    };
    assert_eq!(event.kind(), kind);
    Record {
        time,
        cpu,
        tid,
        event,
    }
}

/// A record of any kind, its fields of any size.
pub fn any_record(random: &mut Random) -> Record {
    let mut numbers = [0; 12];
    for number in &mut numbers {
        // Few small values, so that records are often alike, and some of every length.
        *number = if random.one_in(2) {
            random.range(0, 3)
        } else {
            random.bits() >> random.range(0, 64)
        };
    }
    record(
        random.range(0, wire::event::KINDS as u64) as usize,
        &numbers,
    )
}
