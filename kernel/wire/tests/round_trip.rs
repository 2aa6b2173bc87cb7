//! What is written is read.

mod common;

use proptest::collection::vec;
use proptest::prelude::*;
use wire::batch::Encoder;
use wire::event::{Event, ForkMode, KINDS, Record};
use wire::frame::{
    self, Body, Contention, End, Envelope, Hello, MAX_CONTENT, MAX_FRAME, Meta, Snapshot,
    TraceLevel,
};
use wire::{Deframer, Item};

/// Of every length, and often equal.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..3u64,
        (any::<u64>(), 0..64u32).prop_map(|(bits, shift)| bits >> shift)
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![0..KINDS, Just(10), Just(11), Just(15)];
    (kind, proptest::array::uniform12(number())).prop_map(|(kind, n)| common::record(kind, &n))
}

fn counts() -> impl Strategy<Value = [u64; KINDS]> {
    vec(number(), KINDS).prop_map(|counts| counts.try_into().unwrap())
}

/// The envelope that comes out for the one that went in.
fn check(body: Body<'_>) {
    let sent = Envelope::new(3, 70_000, body);
    let mut out = [0; MAX_FRAME];
    let len = frame::encode(&sent, &mut out).unwrap();
    assert!(out[0] == 0 && out[len - 1] == 0 && !out[1..len - 1].contains(&0));
    let mut deframer = Deframer::new();
    let mut input = &out[..len];
    assert_eq!(deframer.next(&mut input), Some(Item::Frame(sent)));
    assert_eq!(deframer.next(&mut input), None);
    assert_eq!(deframer.finish(), None);
}

proptest! {
    #[test]
    fn records(records in vec(record(), 0..300)) {
        prop_assert_eq!(common::decode(&common::encode(&records)), records);
    }

    #[test]
    fn an_empty_batch_takes_any_record(record in record()) {
        prop_assert!(Encoder::new().push(&record).is_ok());
    }

    #[test]
    fn log_and_console(content in vec(any::<u8>(), 0..=MAX_CONTENT), fd in any::<u8>()) {
        check(Body::Log(&content));
        check(Body::Console { fd, bytes: &content });
    }

    #[test]
    fn hello(board in ".{0,40}", bootargs in ".{0,180}", n in vec(number(), 6), flag in any::<bool>()) {
        check(Body::Hello(Hello {
            major: wire::MAJOR,
            minor: wire::MINOR,
            schema: Hello::SCHEMA,
            build_id: [n[0] as u8; 20],
            board: &board,
            midr: n[0],
            cpus: n[1] as u8,
            counter_hz: n[1],
            ram_bytes: n[2],
            asid_bits: n[2] as u8,
            trace: [TraceLevel::Off, TraceLevel::Life, TraceLevel::Faults, TraceLevel::Mmu]
                [n[3] as usize % 4],
            lossless: flag,
            ring: n[3] as u32,
            fork: [ForkMode::Classic, ForkMode::SharedTables, ForkMode::Eager, ForkMode::Vfork]
                [n[4] as usize % 4],
            boot_nonce: n[4],
            bootargs: &bootargs,
            time: n[5],
        }));
    }

    #[test]
    fn meta(text in ".{0,190}", build_id in vec(any::<u8>(), 0..32), n in vec(number(), 6)) {
        check(Body::Meta(Meta::Process {
            pid: n[0] as u32,
            parent: n[1] as u32,
            space: n[2] as u32,
            root: n[3],
            asid: n[4] as u16,
            file: n[5] as u32,
            name: &text,
        }));
        check(Body::Meta(Meta::Thread { pid: n[0] as u32, tid: n[1] as u32, name: &text }));
        check(Body::Meta(Meta::File { id: n[0] as u32, path: &text, build_id: &build_id }));
    }

    #[test]
    fn snapshot_and_end(emitted in counts(), dropped in counts(), n in vec(number(), 6)) {
        check(Body::Snapshot(Snapshot {
            time: n[0],
            free_frames: n[1],
            total_frames: n[2],
            kernel_heap_bytes: n[3],
            processes: n[4] as u32,
            emitted,
            dropped,
            ring_high_water: n[5] as u32,
        }));
        check(Body::Contention(Contention {
            lock: "RunQueue",
            waits: n[0],
            attempts: n[1],
            ticks: n[2],
            longest: n[3],
        }));
        check(Body::End(End {
            code: n[0] as i32,
            time: n[1],
            free_frames: n[2],
            emitted,
            dropped,
            frames_sent: n[3],
        }));
    }
}

/// What the property tests may not meet by chance: runs of every kind, alone and mixed.
#[test]
fn long_runs() {
    let mut random = common::Random(7);
    for kind in 0..=KINDS {
        let records: Vec<Record> = (0..2000)
            .map(|_| {
                loop {
                    let record = common::any_record(&mut random);
                    if kind == KINDS || record.event.kind() == kind {
                        break record;
                    }
                }
            })
            .collect();
        assert!(
            common::decode(&common::encode(&records)) == records,
            "kind {kind}"
        );
    }
}

#[test]
fn a_full_batch_keeps_what_it_had() {
    let mut random = common::Random(11);
    let mut encoder = Encoder::new();
    let mut out = [0; MAX_FRAME];
    for seq in 0..200 {
        let mut pushed = Vec::new();
        // Longer records may not fit where shorter ones still do.
        let mut refused = 0;
        while refused < 5 {
            let record = common::any_record(&mut random);
            match encoder.push(&record) {
                Ok(()) => pushed.push(record),
                Err(_) => refused += 1,
            }
        }
        assert_eq!(encoder.count(), pushed.len());
        let len = encoder.finish(1, seq, 42, &mut out);
        assert!(encoder.is_empty());
        assert!(common::decode(&out[..len]) == pushed);
    }
}

#[test]
fn frames_that_are_too_long_are_refused() {
    let long = [1; frame::MAX_PAYLOAD];
    assert_eq!(
        frame::encode(&Envelope::new(0, 0, Body::Log(&long)), &mut [0; 4096]),
        Err(frame::Error)
    );
    let envelope = Envelope::new(0, 0, Body::Log(b"0123456789"));
    let mut out = [0xaa; 64];
    let len = frame::encode(&envelope, &mut out).unwrap();
    for short in 0..len {
        assert_eq!(
            frame::encode(&envelope, &mut out[..short]),
            Err(frame::Error),
            "{short}"
        );
    }
    assert_eq!(frame::encode(&envelope, &mut out[..len]), Ok(len));
}

/// COBS has a special case at 254 bytes without a zero.
#[test]
fn every_length_of_content() {
    for byte in [0, 1, 0xff] {
        let content = [byte; MAX_CONTENT];
        for len in 0..=MAX_CONTENT {
            check(Body::Log(&content[..len]));
        }
    }
}

#[test]
fn clipped_text_ends_with_a_whole_character() {
    assert_eq!(frame::clip("größe", 3), "gr");
    assert_eq!(frame::clip("größe", 4), "grö");
    assert_eq!(frame::clip("größe", 99), "größe");
}

#[test]
fn a_descriptor_is_its_frame_and_its_attributes() {
    // Any 64 bits, not only what this architecture defines.
    for bit in 0..64 {
        let event = Event::Descriptor {
            table: 1,
            index: 2,
            level: 3,
            old: 1 << bit,
            new: !0 << bit,
        };
        let records = [Record {
            time: 0,
            cpu: 0,
            tid: 0,
            event,
        }];
        assert_eq!(common::decode(&common::encode(&records)), records);
    }
}
