//! What the fuzz target and `tests/corpus.rs` both run: any bytes, as a stream, as the payload of a
//! frame that arrived well, and as the records of a batch. Nothing may panic, and what is counted
//! must add up.

use wire::batch::{Batch, Encoder};
use wire::frame::{self, Body, Envelope, MAX_FRAME, MAX_PAYLOAD};
use wire::{Deframer, Item};

pub fn run(data: &[u8]) {
    stream(data);
    payload(data);
    events(data);
}

/// Any bytes, pushed in pieces of a size that they choose.
fn stream(data: &[u8]) {
    let mut deframer = Deframer::new();
    let piece = 1 + data.first().map_or(0, |byte| usize::from(*byte));
    let (mut frames, mut unknown, mut text, mut corrupt) = (0, 0, 0, 0);
    let mut count = |item: Item<'_>| match item {
        Item::Frame(envelope) => {
            frames += 1;
            read(&envelope);
        }
        Item::Unknown { .. } => unknown += 1,
        Item::Text(part) => text += part.len() as u64,
        Item::Corrupt { len, .. } => corrupt += len as u64,
    };
    for mut input in data.chunks(piece) {
        while let Some(item) = deframer.next(&mut input) {
            count(item);
        }
        assert!(input.is_empty());
    }
    while let Some(item) = deframer.finish() {
        count(item);
    }
    let counts = deframer.counts();
    assert_eq!(counts.bytes, data.len() as u64);
    assert_eq!(
        (frames, unknown, text, corrupt),
        (
            counts.frames,
            counts.unknown,
            counts.text_bytes,
            counts.corrupt_bytes
        )
    );
    let zeros = data.iter().filter(|byte| **byte == 0).count() as u64;
    if frames + unknown == 0 {
        assert_eq!(text + corrupt + zeros, counts.bytes);
    }
}

/// Behind the CRC, where flipped bytes do not get.
fn payload(data: &[u8]) {
    let data = &data[..data.len().min(MAX_PAYLOAD)];
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(data);
    let content = [data, &crc.to_le_bytes()].concat();
    let mut bytes = [0; MAX_FRAME];
    let len = cobs::encode_including_sentinels(&content, &mut bytes);

    let mut deframer = Deframer::new();
    let mut input = &bytes[..len];
    match deframer.next(&mut input) {
        Some(Item::Frame(envelope)) => read(&envelope),
        Some(Item::Unknown {
            offset, len: raw, ..
        }) => assert_eq!((offset, raw), (1, len - 2)),
        Some(Item::Corrupt { .. }) => assert!(data.is_empty()),
        // No version of ours: it begins like a line of text, and may go on as anything.
        Some(Item::Text(_)) => return assert!(data.first().is_some_and(|byte| *byte >= 7)),
        None => panic!("a delimited frame gives an item"),
    }
    assert_eq!(deframer.next(&mut input), None);
}

fn events(data: &[u8]) {
    let [count, events @ ..] = data else { return };
    records(&Batch {
        time: 1 << 33,
        tid: 1,
        dropped: 0,
        count: u16::from(*count) * 3,
        events,
    });
}

/// A frame that was read is written and read again: the same comes out.
fn read(envelope: &Envelope<'_>) {
    if let Body::Batch(batch) = &envelope.body {
        records(batch);
    }
    let mut bytes = [0; MAX_FRAME];
    // Without the fields of a newer version, and in the shortest form, it is no longer than it was.
    let len = frame::encode(envelope, &mut bytes).expect("what was read can be written");
    let mut deframer = Deframer::new();
    assert_eq!(
        deframer.next(&mut &bytes[..len]),
        Some(Item::Frame(envelope.clone()))
    );
}

fn records(batch: &Batch<'_>) {
    let mut encoder = Encoder::new();
    let mut pending = Vec::new();
    let mut errors = 0;
    let mut seen = 0;
    let flush = |encoder: &mut Encoder, pending: &mut Vec<_>| {
        let mut bytes = [0; MAX_FRAME];
        let len = encoder.finish(0, 0, 0, &mut bytes);
        let mut deframer = Deframer::new();
        let mut input = &bytes[..len];
        let Some(Item::Frame(Envelope {
            body: Body::Batch(batch),
            ..
        })) = deframer.next(&mut input)
        else {
            panic!("a batch that was written can be read");
        };
        assert!(batch.records().eq(pending.drain(..).map(Ok)));
    };
    for record in batch.records() {
        let Ok(record) = record else {
            errors += 1;
            continue;
        };
        assert_eq!(errors, 0, "nothing follows an error");
        seen += 1;
        if encoder.push(&record).is_err() {
            flush(&mut encoder, &mut pending);
            encoder
                .push(&record)
                .expect("an empty batch takes any record");
        }
        pending.push(record);
    }
    assert!(seen + errors <= usize::from(batch.count).max(1));
    flush(&mut encoder, &mut pending);
}
