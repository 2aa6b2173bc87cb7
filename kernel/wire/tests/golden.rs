//! The bytes of every kind of body and of event, checked in. A failure here means that old and new
//! tools no longer understand each other: add a variant or a field at an end instead, or raise
//! `wire::MAJOR`. To write the file after an addition: `GOLDEN=write cargo test -p wire`.

mod common;

use std::fmt::Write;

use common::{Random, cow_copy};
use wire::batch::Encoder;
use wire::event::{Event, ForkMode, KIND_NAMES, KINDS, Outcome, Record};
use wire::frame::{
    self, Body, Contention, End, Envelope, Hello, MAX_FRAME, Meta, Snapshot, TraceLevel,
};
use wire::{Deframer, Item};

/// Of the major version 1.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn bodies() -> Vec<(&'static str, Body<'static>)> {
    let mut emitted = [0; KINDS];
    emitted[10] = 4096;
    emitted[19] = 1;
    let mut dropped = [0; KINDS];
    dropped[11] = 300;
    vec![
        (
            "hello",
            Body::Hello(Hello {
                major: 1,
                minor: 0,
                schema: 0x0123_4567_89ab_cdef,
                build_id: core::array::from_fn(|index| index as u8 * 13),
                board: "linux,dummy-virt",
                midr: 0x410f_d034,
                cpus: 4,
                counter_hz: 62_500_000,
                ram_bytes: 1 << 30,
                asid_bits: 16,
                trace: TraceLevel::Faults,
                lossless: true,
                ring: 16384,
                fork: ForkMode::Classic,
                boot_nonce: 77,
                bootargs: "init=/init -- größe",
                time: 123_456,
            }),
        ),
        (
            "meta-process",
            Body::Meta(Meta::Process {
                pid: 300,
                parent: 1,
                space: 7,
                root: 0x4_8123,
                asid: 9,
                file: 2,
                name: "story",
            }),
        ),
        (
            "meta-file",
            Body::Meta(Meta::File {
                id: 2,
                path: "/bin/story",
                build_id: &[0xde, 0, 0xad],
            }),
        ),
        (
            "meta-thread",
            Body::Meta(Meta::Thread {
                pid: 300,
                tid: 302,
                name: "worker",
            }),
        ),
        (
            "snapshot",
            Body::Snapshot(Snapshot {
                time: 1 << 40,
                free_frames: 250_000,
                total_frames: 262_144,
                kernel_heap_bytes: 65_536,
                processes: 3,
                emitted,
                dropped,
                ring_high_water: 12_000,
            }),
        ),
        ("log", Body::Log(&[0x12, 0x00, 0xff, 0x00])),
        (
            "console",
            Body::Console {
                fd: 2,
                bytes: b"hello\n",
            },
        ),
        (
            "end",
            Body::End(End {
                code: 139,
                time: 1 << 41,
                free_frames: 250_001,
                emitted,
                dropped,
                frames_sent: 5000,
            }),
        ),
        (
            "contention",
            Body::Contention(Contention {
                lock: "RunQueue",
                waits: 12,
                attempts: 3456,
                ticks: 78_900,
                longest: 1 << 33,
            }),
        ),
    ]
}

/// Records that show what is coded, a kind at a time: absolute first, then against the last.
fn batches() -> Vec<(String, Vec<Record>)> {
    let mut batches = Vec::new();
    for (kind, name) in KIND_NAMES.iter().enumerate() {
        let mut random = Random(1000 + kind as u64);
        let records = (0..4).map(|index| {
            let numbers = core::array::from_fn(|_| random.bits() >> random.range(0, 64));
            let mut record = common::record(kind, &numbers);
            (record.time, record.tid) = (1_000_000 + index * 100, 7 + index as u32 / 2);
            record
        });
        batches.push((format!("batch-{name}"), records.collect()));
    }
    let sweep = |each: &dyn Fn(u64, &mut Record)| -> Vec<Record> {
        (0..6)
            .map(|index| {
                let fault = cow_copy(
                    2,
                    0x40_2344,
                    0x5_5555 + index,
                    0x4_1000 + index,
                    0x4_8000 + index,
                    900,
                );
                let mut record = Record {
                    time: 50 * index,
                    cpu: 0,
                    tid: 2,
                    event: Event::Fault(fault),
                };
                each(index, &mut record);
                record
            })
            .collect()
    };
    batches.push(("sweep".into(), sweep(&|_, _| ())));
    for outcome in Outcome::ALL {
        let records = sweep(&|index, record| {
            if let Event::Fault(fault) = &mut record.event
                && index % 2 == 1
            {
                fault.outcome = outcome;
            }
        });
        batches.push((format!("sweep-{}", outcome.name()), records));
    }
    batches.push((
        "sweep-irregular".into(),
        sweep(&|index, record| {
            record.tid = 2 + index as u32 / 4;
            if let Event::Fault(fault) = &mut record.event {
                fault.addr += index * index * 4096;
                fault.old -= (index % 3) << 12;
                fault.new += (index / 2) << 12;
                fault.refs = 2 + index as u32 / 3;
                fault.stack.depth = 8 - index as u8;
                fault.stack.pcs[8 - index as usize..].fill(0);
            }
        }),
    ));
    batches.push(("mix".into(), common::mix(24, 3)));
    batches
}

/// All vectors as they are now: a name, and a frame in hexadecimal, a line.
fn lines() -> String {
    let mut lines = format!("schema {:016x}\n", Hello::SCHEMA);
    let mut out = [0; MAX_FRAME];
    for (seq, (name, body)) in bodies().into_iter().enumerate() {
        let len = frame::encode(&Envelope::new(1, 1000 + seq as u32, body), &mut out).unwrap();
        writeln!(lines, "{name} {}", hex(&out[..len])).unwrap();
    }
    for (name, records) in batches() {
        let mut encoder = Encoder::new();
        for record in &records {
            encoder.push(record).expect("it fits one batch");
        }
        let len = encoder.finish(2, 300, 5, &mut out);
        writeln!(lines, "{name} {}", hex(&out[..len])).unwrap();
    }
    lines
}

fn golden() -> String {
    std::fs::read_to_string(FILE).expect("the golden vectors are checked in")
}

#[test]
fn encodings_do_not_change() {
    let now = lines();
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(FILE, &now).unwrap();
    }
    let golden = golden();
    for (golden, now) in golden.lines().zip(now.lines()) {
        assert_eq!(golden, now, "an encoding has changed");
    }
    assert_eq!(golden.lines().count(), now.lines().count());
}

#[test]
fn old_bytes_are_still_understood() {
    let golden = golden();
    let mut vectors = golden.lines().skip(1).map(|line| {
        let (name, bytes) = line.split_once(' ').unwrap();
        (name, unhex(bytes))
    });
    for (seq, (name, body)) in bodies().into_iter().enumerate() {
        let (golden_name, bytes) = vectors.next().unwrap();
        assert_eq!(golden_name, name);
        let mut deframer = Deframer::new();
        let item = deframer.next(&mut &bytes[..]);
        assert_eq!(
            item,
            Some(Item::Frame(Envelope::new(1, 1000 + seq as u32, body)))
        );
    }
    for (name, records) in batches() {
        let (golden_name, bytes) = vectors.next().unwrap();
        assert_eq!(golden_name, name);
        assert_eq!(common::decode(&bytes), records, "{name}");
    }
    assert!(vectors.next().is_none());
}
