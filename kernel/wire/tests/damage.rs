//! Streams that were damaged on their way.

mod common;

use std::collections::BTreeSet;
use std::ops::Range;

use common::Random;
use wire::batch;
use wire::deframe::{Damage, Unknown};
use wire::frame::{self, Body, Envelope, MAX_FRAME};
use wire::{Deframer, Item};

/// A stream of batches, logs and console text, and where each frame lies, its delimiters included.
struct Stream {
    bytes: Vec<u8>,
    frames: Vec<Range<usize>>,
}

fn stream(count: usize, seed: u64) -> Stream {
    let mut random = Random(seed);
    let mut stream = Stream {
        bytes: Vec::new(),
        frames: Vec::new(),
    };
    let mut out = [0; MAX_FRAME];
    for seq in 0..count as u32 {
        if random.one_in(3) {
            let text = [
                "Starting kernel ...\r\n",
                "\u{1b}[1mwarning\u{1b}[0m: größe\n",
                "no newline",
            ];
            let text = text[random.range(0, 3) as usize];
            stream.bytes.extend_from_slice(text.as_bytes());
        }
        let len = if random.one_in(2) {
            let mut encoder = batch::Encoder::new();
            for _ in 0..random.range(1, 40) {
                let _ = encoder.push(&common::any_record(&mut random));
            }
            encoder.finish(0, seq, 0, &mut out)
        } else {
            let content: Vec<u8> = (0..random.range(0, 60))
                .map(|_| random.bits() as u8)
                .collect();
            frame::encode(&Envelope::new(1, seq, Body::Log(&content)), &mut out).unwrap()
        };
        let start = stream.bytes.len();
        stream.bytes.extend_from_slice(&out[..len]);
        stream.frames.push(start..start + len);
    }
    stream
}

/// One change of one byte, at a place in the undamaged stream.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(u8),
    Delete,
    Insert(u8),
}

fn harm(random: &mut Random) -> Harm {
    match random.range(0, 5) {
        0 => Harm::Delete,
        1 => Harm::Insert(0),
        2 => Harm::Insert(random.bits() as u8),
        _ => Harm::Flip(random.range(1, 256) as u8),
    }
}

/// Applies harms to distinct places.
fn damaged(bytes: &[u8], harms: &[(usize, Harm)]) -> Vec<u8> {
    let mut harms = harms.to_vec();
    harms.sort_by_key(|(place, _)| *place);
    harms.dedup_by_key(|(place, _)| *place);
    let mut bytes = bytes.to_vec();
    for (place, harm) in harms.into_iter().rev() {
        match harm {
            Harm::Flip(bits) => bytes[place] ^= bits,
            Harm::Delete => {
                bytes.remove(place);
            }
            Harm::Insert(byte) => bytes.insert(place, byte),
        }
    }
    bytes
}

fn touches(frame: &Range<usize>, (place, harm): (usize, Harm)) -> bool {
    match harm {
        Harm::Insert(_) => frame.start < place && place < frame.end,
        _ => frame.contains(&place),
    }
}

/// The sequence numbers of the frames that came out, after checking what holds of any stream.
fn received(stream: &Stream, bytes: &[u8]) -> BTreeSet<u32> {
    let mut seqs = Vec::new();
    let mut corrupt = (0, 0);
    let mut text = 0;
    let mut end = 0;
    let deframer = common::items(bytes, |item| match item {
        Item::Frame(envelope) => {
            // What comes out is what went in: no damaged frame passes for a whole one.
            let mut out = [0; MAX_FRAME];
            let len = frame::encode(&envelope, &mut out).unwrap();
            assert_eq!(
                out[..len],
                stream.bytes[stream.frames[envelope.seq as usize].clone()]
            );
            seqs.push(envelope.seq);
        }
        Item::Text(line) => text += line.len() as u64,
        Item::Corrupt { offset, len, .. } => {
            let range = offset as usize..offset as usize + len;
            assert!(range.start >= end && len > 0 && len <= MAX_FRAME);
            end = range.end;
            assert!(!bytes[range].contains(&0));
            corrupt = (corrupt.0 + 1, corrupt.1 + len as u64);
        }
        Item::Unknown { .. } => panic!("a CRC that is right by chance"),
    });
    assert!(seqs.is_sorted_by(|a, b| a < b));
    let counts = deframer.counts();
    assert_eq!(counts.bytes, bytes.len() as u64);
    assert_eq!((counts.corrupt, counts.corrupt_bytes), corrupt);
    assert_eq!(counts.text_bytes, text);
    assert_eq!(counts.frames, seqs.len() as u64);
    if let (Some(first), Some(last)) = (seqs.first(), seqs.last()) {
        assert_eq!(counts.missing + counts.frames, u64::from(last - first + 1));
    }
    seqs.into_iter().collect()
}

#[test]
fn an_undamaged_stream_arrives_whole() {
    let stream = stream(300, 1);
    assert_eq!(received(&stream, &stream.bytes).len(), 300);
}

#[test]
fn all_undamaged_frames_arrive() {
    let stream = stream(60, 2);
    let mut random = Random(3);
    for _ in 0..3000 {
        let harms: Vec<_> = (0..random.range(1, 30))
            .map(|_| {
                (
                    random.range(0, stream.bytes.len() as u64) as usize,
                    harm(&mut random),
                )
            })
            .collect();
        let got = received(&stream, &damaged(&stream.bytes, &harms));
        for (seq, frame) in stream.frames.iter().enumerate() {
            let whole = !harms.iter().any(|harm| touches(frame, *harm));
            assert!(
                !whole || got.contains(&(seq as u32)),
                "frame {seq}, {harms:?}"
            );
        }
    }
}

#[test]
fn one_damaged_byte_costs_one_frame() {
    let stream = stream(12, 4);
    for place in 0..stream.bytes.len() {
        for harm in [
            Harm::Flip(0x01),
            Harm::Flip(0x80),
            Harm::Flip(stream.bytes[place]),
            Harm::Delete,
            Harm::Insert(0),
            Harm::Insert(0x41),
        ] {
            if matches!(harm, Harm::Flip(0)) {
                continue;
            }
            let bytes = damaged(&stream.bytes, &[(place, harm)]);
            let lost = stream.frames.len() - received(&stream, &bytes).len();
            assert!(lost <= 1, "{lost} frames lost by {harm:?} at {place}");
        }
    }
}

/// With damage in a frame, something is reported: as damage, or by the sequence numbers.
#[test]
fn damage_is_counted() {
    let stream = stream(40, 5);
    let mut random = Random(6);
    for _ in 0..2000 {
        // Not the first or the last frame, which no sequence number brackets.
        let frame = &stream.frames[random.range(1, 39) as usize];
        let place = random.range(frame.start as u64 + 1, frame.end as u64 - 1) as usize;
        let bits = random.range(1, 256) as u8;
        let bytes = damaged(&stream.bytes, &[(place, Harm::Flip(bits))]);
        let counts = *common::items(&bytes, |_| ()).counts();
        assert_eq!(counts.missing, 1);
        assert!(counts.corrupt >= 1 && counts.corrupt_bytes <= MAX_FRAME as u64);
    }
}

#[test]
fn what_comes_out_does_not_depend_on_how_the_input_was_cut() {
    let mut random = Random(8);
    for seed in 0..300 {
        let stream = stream(20, 100 + seed);
        let harms: Vec<_> = (0..random.range(0, 20))
            .map(|_| {
                (
                    random.range(0, stream.bytes.len() as u64) as usize,
                    harm(&mut random),
                )
            })
            .collect();
        let bytes = damaged(&stream.bytes, &harms);
        let mut whole = Vec::new();
        common::items(&bytes, |item| whole.push(format!("{item:?}")));

        let mut cut = Vec::new();
        let mut deframer = Deframer::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (mut chunk, tail) =
                rest.split_at(random.range(1, 50).min(rest.len() as u64) as usize);
            while let Some(item) = deframer.next(&mut chunk) {
                cut.push(format!("{item:?}"));
            }
            assert!(chunk.is_empty());
            rest = tail;
        }
        while let Some(item) = deframer.finish() {
            cut.push(format!("{item:?}"));
        }
        assert_eq!(whole, cut);
    }
}

#[test]
fn text_is_given_out_by_the_line_and_before_any_zero() {
    let mut deframer = Deframer::new();
    let mut input = &b"kernel panic\nat "[..];
    assert_eq!(
        deframer.next(&mut input),
        Some(Item::Text("kernel panic\n"))
    );
    assert_eq!(deframer.next(&mut input), None);
    assert_eq!(deframer.finish(), Some(Item::Text("at ")));
    assert_eq!(deframer.finish(), None);
}

#[test]
fn long_text_without_an_end_is_text_and_noise_is_not() {
    let text = "ä€".repeat(2000);
    let mut got = String::new();
    common::items(text.as_bytes(), |item| match item {
        Item::Text(part) => got.push_str(part),
        item => panic!("{item:?}"),
    });
    assert_eq!(got, text);

    let noise = [0x02; 5000];
    let mut damage = Vec::new();
    common::items(&noise, |item| match item {
        Item::Corrupt {
            offset,
            len,
            damage: why,
        } => damage.push((offset, len, why)),
        item => panic!("{item:?}"),
    });
    assert_eq!(damage[0], (0, MAX_FRAME, Damage::Long));
    assert_eq!(
        damage.iter().map(|(_, len, _)| len).sum::<usize>(),
        noise.len()
    );
    assert_eq!(damage.last().unwrap().2, Damage::Cut);
}

#[test]
fn a_restart_is_no_loss() {
    let first = stream(5, 9);
    let bytes = [&first.bytes[..], &stream(5, 10).bytes].concat();
    let counts = *common::items(&bytes, |_| ()).counts();
    assert_eq!((counts.frames, counts.missing, counts.restarts), (10, 0, 1));
}

#[test]
fn sequence_numbers_wrap() {
    let mut bytes = Vec::new();
    for seq in [u32::MAX - 1, u32::MAX, 0, 2] {
        let mut out = [0; MAX_FRAME];
        let len = frame::encode(&Envelope::new(0, seq, Body::Log(b"x")), &mut out).unwrap();
        bytes.extend_from_slice(&out[..len]);
    }
    let counts = *common::items(&bytes, |_| ()).counts();
    assert_eq!((counts.frames, counts.missing, counts.restarts), (4, 1, 0));
}

/// A frame with any payload.
fn framed(payload: &[u8]) -> Vec<u8> {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(payload);
    let content = [payload, &crc.to_le_bytes()].concat();
    let mut out = vec![0; cobs::max_encoding_length(content.len()) + 2];
    let len = cobs::encode_including_sentinels(&content, &mut out);
    out.truncate(len);
    out
}

#[test]
fn newer_versions_are_unknown_and_not_corrupt() {
    let cases = [
        (&[2, 9, 9][..], Unknown::Major(2)),
        (&[0], Unknown::Major(0)),
        // A body that comes after `Contention`.
        (
            &[1, 3, 5, 8, 1, 2, 3],
            Unknown::Body {
                discriminant: 8,
                cpu: 3,
                seq: 5,
            },
        ),
        // A third kind of meta.
        (
            &[1, 3, 5, 2, 2, 1],
            Unknown::Content {
                discriminant: 2,
                cpu: 3,
                seq: 5,
            },
        ),
    ];
    for (payload, what) in cases {
        let bytes = framed(payload);
        let mut items = 0;
        let deframer = common::items(&bytes, |item| {
            items += 1;
            assert_eq!(
                item,
                Item::Unknown {
                    offset: 1,
                    len: bytes.len() - 2,
                    what
                }
            );
        });
        assert_eq!(
            (items, deframer.counts().unknown, deframer.counts().corrupt),
            (1, 1, 0)
        );
    }
}

#[test]
fn new_fields_at_a_body_s_end_are_read_over() {
    let mut payload = postcard::to_stdvec(&Envelope::new(0, 1, Body::Log(b"hello"))).unwrap();
    payload.extend_from_slice(&[1, 2, 3]);
    common::items(&framed(&payload), |item| {
        assert_eq!(item, Item::Frame(Envelope::new(0, 1, Body::Log(b"hello"))));
    });
}

#[test]
fn an_unknown_event_ends_its_batch_and_is_counted() {
    let unknown_kind = [0x3e, 0, 1, 2];
    let unknown_cpu = [0x3f, 16, 0, 0, 0];
    let unknown_value = [0x10, 0, 99];
    let missing_bytes = [0x10, 0];
    let empty_slot = [0xf0, 0, 0];
    for (events, error) in [
        (&unknown_kind[..], batch::Error::Unknown { skipped: 5 }),
        (&unknown_value, batch::Error::Unknown { skipped: 5 }),
        (&missing_bytes, batch::Error::Malformed { skipped: 5 }),
        (&empty_slot, batch::Error::Malformed { skipped: 5 }),
        (&unknown_cpu, batch::Error::Malformed { skipped: 5 }),
    ] {
        let batch = batch::Batch {
            time: 0,
            tid: 0,
            dropped: 0,
            count: 5,
            events,
        };
        let records: Vec<_> = batch.records().collect();
        assert_eq!(records, [Err(error)]);
    }
}

/// Bounded memory: what the kernel keeps per CPU, and a tool per stream, is all there is.
#[test]
fn encoder_and_deframer_are_small() {
    assert!(
        size_of::<batch::Encoder>() <= 3072,
        "{}",
        size_of::<batch::Encoder>()
    );
    assert!(size_of::<Deframer>() <= 1280, "{}", size_of::<Deframer>());
}
