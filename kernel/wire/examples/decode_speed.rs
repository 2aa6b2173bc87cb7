//! How many events per second are decoded, and what they cost on the wire.
//! `cargo run --release -p wire --example decode_speed`

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

fn main() {
    for (name, records) in [
        ("sweep", common::sweep(1 << 20, 1)),
        ("mix", common::mix(1 << 20, 1)),
    ] {
        let started = Instant::now();
        let stream = common::encode(&records);
        let encoded = started.elapsed();
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let started = Instant::now();
            let mut count = 0;
            let mut sum = 0;
            common::items(&stream, |item| {
                if let wire::Item::Frame(envelope) = item
                    && let wire::Body::Batch(batch) = envelope.body
                {
                    for record in batch.records().flatten() {
                        count += 1;
                        sum ^= record.time;
                    }
                }
            });
            std::hint::black_box(sum);
            assert_eq!(count, records.len());
            best = best.min(started.elapsed().as_secs_f64());
        }
        println!(
            "{name}: {:.2} bytes per event, encode {:.1} M events/s, decode {:.1} M events/s",
            stream.len() as f64 / records.len() as f64,
            records.len() as f64 / encoded.as_secs_f64() / 1e6,
            records.len() as f64 / best / 1e6,
        );
    }
}
