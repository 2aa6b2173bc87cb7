//! A real trace with bytes flipped, deleted and inserted at random: every frame that is whole is
//! read, nothing else is, and the report says what is missing.

use std::sync::OnceLock;

use fastrand::Rng;
use tests::{Board, Boot, Trace};
use tools::analysis::stream;
use tools::report::args::{ReportFormat, SymbolArgs};
use tools::report::{self, Options};

/// The undamaged bytes.
fn original() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let run = Boot::on(Board::Virt).lossless().run(&["story", "child"]);
        run.expect_status(0).expect_sound();
        run.bytes.clone()
    })
}

/// Damages `count` places, and says which of the original's bytes were touched: flipped or
/// deleted, or with something inserted before them.
fn damage(bytes: &[u8], rng: &mut Rng, count: usize) -> (Vec<u8>, Vec<usize>) {
    let mut places: Vec<usize> = (0..count).map(|_| rng.usize(..bytes.len())).collect();
    places.sort_unstable();
    places.dedup();
    let mut damaged = Vec::with_capacity(bytes.len() + count);
    let mut touched = Vec::new();
    let mut at = 0;
    for place in places {
        if place < at {
            continue;
        }
        damaged.extend_from_slice(&bytes[at..place]);
        at = place;
        match rng.u8(..4) {
            // A bit, as lines do.
            0 => damaged.push(bytes[place] ^ 1 << rng.u8(..8)),
            1 => damaged.push(rng.u8(..)),
            // A run of bytes: a receiver that was too slow.
            2 => {
                let end = (place + rng.usize(1..=64)).min(bytes.len());
                touched.extend(place..end);
                at = end;
                continue;
            }
            // A run of noise.
            _ => {
                damaged.extend((0..rng.usize(1..=64)).map(|_| rng.u8(..)));
                damaged.push(bytes[place]);
            }
        }
        touched.push(place);
        at += 1;
    }
    damaged.extend_from_slice(&bytes[at..]);
    (damaged, touched)
}

fn options(strict: bool) -> Options {
    Options {
        format: ReportFormat::Json,
        story: true,
        top: 10,
        strict,
        symbols: SymbolArgs::default().search_path(),
        filter: Default::default(),
    }
}

#[test]
fn whole_frames_are_read_and_the_rest_is_told() {
    let original = original();
    let whole = Trace::decode(original);
    assert!(whole.frames.len() > 50 && whole.damage.is_empty());
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let count = 1 << rng.u32(..8);
        let (bytes, touched) = damage(original, &mut rng, count);
        let seen = Trace::decode(&bytes);

        // What was read is part of what was sent, in order.
        let mut sent = whole.frames.iter();
        let mut missing = Vec::new();
        for frame in &seen.frames {
            for other in sent.by_ref() {
                if (other.seq, &other.content) == (frame.seq, &frame.content) {
                    break;
                }
                missing.push(other);
            }
        }
        missing.extend(sent.by_ref());
        assert_eq!(
            seen.frames.len() + missing.len(),
            whole.frames.len(),
            "seed {seed}: something was read that was never sent"
        );
        // What was not read was touched.
        for frame in &missing {
            assert!(
                touched.iter().any(|place| frame.bytes.contains(place)),
                "seed {seed}: frame {} at {:?} is whole, and was not read",
                frame.seq,
                frame.bytes
            );
        }

        // The tool counts what is gone.
        let state = stream::read(&mut &bytes[..], &mut ()).expect("frames are left");
        let losses = &state.losses;
        assert_eq!(state.frames as usize, seen.frames.len(), "seed {seed}");
        let ends = [0, whole.frames.len() - 1].map(|index| {
            let frame = &whole.frames[index];
            !missing.iter().any(|gone| gone.seq == frame.seq)
        });
        assert_eq!((losses.late_start, losses.no_end), (!ends[0], !ends[1]));
        if ends == [true, true] {
            assert_eq!(losses.frames_lost as usize, missing.len(), "seed {seed}");
            let events: usize = missing.iter().map(|frame| frame.events).sum();
            let lost: u64 = losses.events_lost.expect("the end tells").iter().sum();
            assert_eq!(lost as usize, events, "seed {seed}");
        }
        assert_eq!(losses.corrupt as usize, seen.damage.len(), "seed {seed}");
        // Whatever the events that are left add up to, it is not taken for a fault of the kernel.
        let checks = &state.machine.checks;
        assert_eq!(
            checks.total().differed,
            0,
            "seed {seed}: {:#?}",
            checks.findings()
        );
    }
}

#[test]
fn reports_say_what_is_damaged() {
    let (bytes, _) = damage(original(), &mut Rng::with_seed(1), 20);
    for (strict, expected) in [(false, 0), (true, 4)] {
        let mut out = Vec::new();
        let code = report::run_to(&mut &bytes[..], &options(strict), &mut out).expect("a report");
        assert_eq!(code, expected);
        let report: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        let losses = &report["losses"];
        let seen = Trace::decode(&bytes);
        assert_eq!(losses["corrupt"], seen.damage.len());
        assert_eq!(losses["places"][0]["offset"], seen.damage[0].0);
        assert_eq!(losses["places"][0]["bytes"], seen.damage[0].1);
    }
}

#[test]
fn cut_off_anywhere() {
    let original = original();
    let whole = Trace::decode(original);
    let mut rng = Rng::with_seed(2);
    for _ in 0..100 {
        let from = rng.usize(..original.len() / 2);
        let to = rng.usize(original.len() / 2..original.len());
        let seen = Trace::decode(&original[from..to]);
        let inside = whole
            .frames
            .iter()
            .filter(|frame| frame.bytes.start >= from && frame.bytes.end <= to);
        assert!(seen.frames.len() >= inside.count(), "{from}..{to}");
        let mut out = Vec::new();
        let mut part = &original[from..to];
        let code = report::run_to(&mut part, &options(false), &mut out).expect("a report");
        assert_eq!(code, 0, "{from}..{to}");
    }
}
