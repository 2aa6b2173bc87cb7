//! `cowscope check` on booted machines: clean as recorded, and not so as soon as a barrier, a TLBI
//! or the break of an entry is missing from the stream.

use std::collections::BTreeMap;

use tests::{Board, Boot, ForkMode, Run, TraceLevel, cowscope};
use tools::check::{Report, Verdict, check};
use wire::batch::Encoder;
use wire::event::{Barrier, Event, KINDS, Record, TlbiOp};
use wire::frame::{self, Body, End, Envelope, MAX_FRAME};

fn boot(mode: ForkMode) -> Boot {
    Boot::on(Board::Virt)
        .lossless()
        .trace(TraceLevel::Mmu)
        .fork(mode)
}

fn checked(bytes: &[u8]) -> Report {
    check(&mut &bytes[..], 8).expect("a trace")
}

#[track_caller]
fn clean(run: &Run) -> Report {
    run.expect_status(0).expect_whole();
    let report = checked(&run.bytes);
    let translation = report.translation.as_ref().expect("MMU events");
    assert_eq!(
        report.verdict,
        Verdict::Clean,
        "{:#?} {:#?}",
        translation.violations.first(),
        report.findings
    );
    assert!(translation.descriptors > 50 && translation.tlbis > 2 && translation.ttbr0 > 2);
    assert!(translation.frames > 50 && translation.contents > 20 && translation.operations > 20);
    assert_eq!(translation.fetch_unknown, 0, "executable pages not judged");
    report
}

const MODES: [ForkMode; 3] = [ForkMode::Classic, ForkMode::Shared, ForkMode::Eager];

#[test]
fn the_demonstration_is_clean() {
    for mode in MODES {
        let report = clean(&boot(mode).run(&["story"]));
        let translation = report.translation.expect("MMU events");
        if mode != ForkMode::Eager {
            assert!(translation.references.0 > 1000, "{translation:?}");
        }
    }
}

#[test]
fn programs_are_clean() {
    let programs: [&[&str]; 5] = [
        &["isolation", "20", "200", "7"],
        &["mapping"],
        &["pipes"],
        &["vforks"],
        &["execs"],
    ];
    for mode in MODES {
        for program in programs {
            clean(&boot(mode).run(program));
        }
    }
}

#[test]
fn few_asids_are_clean() {
    let boot = boot(ForkMode::Shared).append("asid_bits=3");
    clean(&boot.run(&["isolation", "30", "100", "3"]));
}

/// A trace without MMU events: the kernel's counts are checked, and how to record more is said.
#[test]
fn faults_alone_are_half_a_check() {
    let run = Boot::on(Board::Virt).lossless().run(&["story"]);
    let report = checked(&run.bytes);
    assert_eq!(report.verdict, Verdict::Clean);
    assert!(report.translation.is_none());
    let agreed: u64 = report.counts.iter().map(|(_, tally)| tally.agreed).sum();
    assert!(agreed > 1000);
}

/// What is lost may have been anything: nobody is accused for it, and nothing is called clean.
#[test]
fn a_loss_is_unknown() {
    for (mode, program) in [
        (ForkMode::Classic, &["mapping"][..]),
        (ForkMode::Shared, &["isolation", "8", "100", "9"]),
    ] {
        let run = boot(mode).run(program);
        let frames = &run.trace.frames;
        let batches = frames.iter().filter(|frame| frame.events > 0);
        for lost in batches.step_by(frames.len() / 20) {
            let mut bytes = run.bytes.clone();
            bytes.drain(lost.bytes.clone());
            let report = checked(&bytes);
            let translation = report.translation.as_ref().expect("MMU events");
            assert_eq!(
                report.verdict,
                Verdict::Unknown,
                "without #{}: {:#?}",
                lost.seq,
                translation.violations.first()
            );
            assert_eq!((translation.losses, report.exit() as u8), (1, 4));
        }
        // Only the end of it was heard, or only the beginning.
        let middle = frames[frames.len() / 2].bytes.start;
        for part in [&run.bytes[middle..], &run.bytes[..middle]] {
            assert_eq!(checked(part).verdict, Verdict::Unknown);
        }
    }
}

/// A run's records as a trace of their own.
fn encode(run: &Run, records: &[(u8, Record)]) -> Vec<u8> {
    let mut bytes = run.bytes[run.trace.frames[0].bytes.clone()].to_vec();
    let mut seq = 1;
    let mut out = [0; MAX_FRAME];
    let mut encoder = Encoder::new();
    let mut emitted = [0; KINDS];
    let mut flush = |encoder: &mut Encoder, bytes: &mut Vec<u8>| {
        let len = encoder.finish(0, seq, 0, &mut out);
        bytes.extend(&out[..len]);
        seq += 1;
    };
    for (_, record) in records {
        emitted[record.event.kind()] += 1;
        if encoder.push(record).is_err() {
            flush(&mut encoder, &mut bytes);
            encoder
                .push(record)
                .expect("an empty batch takes any record");
        }
    }
    flush(&mut encoder, &mut bytes);
    let end = run.trace.end.as_ref().expect("an end");
    let end = Envelope {
        version: wire::MAJOR,
        cpu: 0,
        seq,
        body: Body::End(End {
            emitted,
            frames_sent: u64::from(seq) + 1,
            ..end.clone()
        }),
    };
    let mut out = [0; MAX_FRAME];
    let len = frame::encode(&end, &mut out).expect("it fits");
    bytes.extend(&out[..len]);
    bytes
}

/// What the event is to the MMU, if it is a barrier or a TLBI.
fn name(event: &Event) -> Option<String> {
    match event {
        Event::Barrier(barrier) => Some(format!("{barrier:?}")),
        Event::Tlbi { op, .. } => Some(format!("{op:?}")),
        _ => None,
    }
}

/// What stands beside it, for the sake of telling one place in the kernel from another.
fn neighbour(event: Option<&(u8, Record)>) -> String {
    match event.map(|(_, record)| &record.event) {
        Some(Event::Descriptor {
            level, old, new, ..
        }) => {
            format!("L{level} {}->{}", old & 1, new & 1)
        }
        Some(Event::Ttbr0 { .. }) => "TTBR0".to_owned(),
        Some(Event::KernelPage { new, .. }) => format!("kernel page {}", new & 1),
        Some(event) => name(event).unwrap_or_default(),
        None => String::new(),
    }
}

/// Instances that are left out of each kind of place, at most.
const INSTANCES: usize = 6;

/// Places (what is before, left out, after) where leaving the instruction out does no harm, and why;
/// those that [`orders_nothing`] does not find by itself.
const REDUNDANT: [(&str, &str, &str, &str); 4] = [
    ("", "DsbIsh", "TTBR0", MIGRATION),
    ("Isb", "DsbIsh", "TTBR0", MIGRATION),
    ("L2 0->1", "DsbIshst", "L3 1->1", ONE_FOR_BOTH),
    ("L2 0->1", "DsbIshst", "L3 1->0", ONE_FOR_BOTH),
];

/// A table is its last owner's again, and the leaf below that faulted is relaxed, or broken, next. A
/// DSB waits for all stores before it (DDI 0487, B2.3, DSB), so the leaf's own makes the table's entry
/// visible as well, before its TLBI and before the program is returned to: nothing relies on the entry
/// in between. A walk that finds it earlier finds leaves that were there all the time. Each has a DSB since
/// either may be alone. (Whether a run has the second case depends on who ends first.)
const ONE_FOR_BOTH: &str = "the DSB of the leaf's store is the table's as well";

/// Whether a barrier of a stream of one CPU has nothing to order: a DSB of stores, if no descriptor
/// was stored to since the last one; a DMB before a leaf, if nothing was put into its frame since the
/// last barrier; an ISB, if all that comes before the next one is another value of TTBR0.
fn orders_nothing(records: &[(u8, Record)], index: usize) -> bool {
    let event = |(_, record): &(u8, Record)| record.event;
    let before = || records[..index].iter().rev().map(event);
    let mut after = records[index + 1..].iter().map(event);
    let is_dsb =
        |event: &Event| matches!(event, Event::Barrier(Barrier::DsbIshst | Barrier::DsbIsh));
    match records[index].1.event {
        Event::Barrier(Barrier::DsbIshst) => !before()
            .take_while(|event| !is_dsb(event))
            .any(|event| matches!(event, Event::Descriptor { .. } | Event::KernelPage { .. })),
        Event::Barrier(Barrier::DmbIshst) => {
            let Some(Event::Descriptor { level: 3, new, .. }) = after.next() else {
                return false;
            };
            let leaf = new >> 12 & 0xf_ffff_ffff;
            let is_barrier =
                |event: &Event| is_dsb(event) || *event == Event::Barrier(Barrier::DmbIshst);
            !before()
                .take_while(|event| !is_barrier(event))
                .any(|event| matches!(event, Event::Contents { frame, .. } if frame == leaf))
        }
        Event::Barrier(Barrier::Isb) => {
            let isb = |event: &Event| *event == Event::Barrier(Barrier::Isb);
            let mut between = after.by_ref().take_while(|event| !isb(event)).peekable();
            between.peek().is_some()
                && between.all(|event| matches!(event, Event::Barrier(_) | Event::Ttbr0 { .. }))
        }
        _ => false,
    }
}

/// One CPU's threads leave no TLBI to be completed elsewhere.
const MIGRATION: &str = "it completes what a thread that moves to another CPU has left";

#[test]
fn whatever_is_left_out_of_a_stream_is_named() {
    let mut places: BTreeMap<(String, String, String), (usize, usize)> = BTreeMap::new();
    let runs = [
        boot(ForkMode::Classic).run(&["isolation", "3", "16", "5"]),
        boot(ForkMode::Shared).run(&["isolation", "3", "100", "5"]),
        boot(ForkMode::Shared).run(&["mapping"]),
        boot(ForkMode::Classic).run(&["story"]),
    ];
    for run in &runs {
        let records = &run.trace.records;
        let untouched = checked(&encode(run, records));
        assert_eq!(
            untouched.verdict,
            Verdict::Clean,
            "{:#?}",
            untouched.translation
        );
        let mut instances: BTreeMap<(String, String, String), Vec<usize>> = BTreeMap::new();
        for (index, (_, record)) in records.iter().enumerate() {
            if let Some(name) = name(&record.event)
                && !orders_nothing(records, index)
            {
                let before = neighbour(index.checked_sub(1).and_then(|i| records.get(i)));
                let after = neighbour(records.get(index + 1));
                instances
                    .entry((before, name, after))
                    .or_default()
                    .push(index);
            }
        }
        for (place, at) in instances {
            for &index in at.iter().step_by(at.len().div_ceil(INSTANCES)) {
                let mut rest = records.clone();
                let (_, removed) = rest.remove(index);
                let report = checked(&encode(run, &rest));
                let entry = places.entry(place.clone()).or_default();
                entry.1 += 1;
                let translation = report.translation.expect("MMU events");
                let Some(violation) = translation.violations.first() else {
                    assert_eq!(report.verdict, Verdict::Clean);
                    continue;
                };
                assert_eq!(report.verdict, Verdict::Violated);
                entry.0 += 1;
                // The page's own TLBI before an entry is made again: named to the last digit.
                if let (
                    Event::Tlbi {
                        op: TlbiOp::Vale1Is,
                        operand,
                    },
                    "L3 0->1",
                ) = (removed.event, neighbour(rest.get(index + 1)).as_str())
                {
                    let (va, asid) = ((operand & ((1 << 44) - 1)) << 12, operand >> 48);
                    assert_eq!(violation.rule, "E2");
                    assert_eq!(violation.address, Some(va));
                    let missing = format!("TLBI VALE1IS for VA {va:#x}, ASID {asid}");
                    assert!(violation.missing.contains(&missing), "{violation:?}");
                }
            }
        }
    }
    let mut missed = Vec::new();
    for ((before, what, after), (found, tried)) in places {
        println!("{before} | {what} | {after}: {found} of {tried}");
        let redundant = REDUNDANT
            .iter()
            .any(|known| (known.0, known.1, known.2) == (&*before, &*what, &*after));
        if found == 0 && !redundant {
            missed.push(format!("{before} | {what} | {after}: 0 of {tried}"));
        }
    }
    assert!(missed.is_empty(), "not noticed:\n{}", missed.join("\n"));
}

#[test]
fn an_entry_that_is_not_broken_is_named() {
    let run = boot(ForkMode::Classic).run(&["isolation", "3", "16", "5"]);
    let mut tried = 0;
    for (index, (_, record)) in run.trace.records.iter().enumerate() {
        let Event::Descriptor {
            table,
            index: entry,
            level: 3,
            old,
            new: 0,
        } = record.event
        else {
            continue;
        };
        if old & 1 == 0 || tried == 20 {
            continue;
        }
        // As if 0 had never been stored: what is stored next finds the old value.
        let mut records = run.trace.records.clone();
        records.remove(index);
        let next = records[index..]
            .iter_mut()
            .find_map(|(_, record)| match &mut record.event {
                Event::Descriptor {
                    table: t,
                    index: i,
                    old,
                    ..
                } if (*t, *i) == (table, entry) => Some(old),
                _ => None,
            });
        *next.expect("the entry is made again") = old;
        tried += 1;
        let report = checked(&encode(&run, &records));
        let translation = report.translation.expect("MMU events");
        let violation = translation.violations.first().expect("a violation");
        assert_eq!(violation.rule, "E1", "{violation:?}");
        assert_eq!(violation.descriptor, Some((table, entry, 3)));
        assert!(violation.address.is_some() && violation.missing.contains("TLBI VALE1IS"));
    }
    assert_eq!(tried, 20);
    // The kernel's own pages: a stack's frame goes back although the page is still mapped.
    let unmapped =
        |(_, record): &(u8, Record)| matches!(record.event, Event::KernelPage { new: 0, .. });
    let index = run
        .trace
        .records
        .iter()
        .position(unmapped)
        .expect("a stack");
    let mut records = run.trace.records.clone();
    records.remove(index);
    let report = checked(&encode(&run, &records));
    let translation = report.translation.expect("MMU events");
    let violation = translation.violations.first().expect("a violation");
    assert_eq!(
        (&*violation.rule, violation.asid),
        ("E4", None),
        "{violation:?}"
    );
}

/// The command: what it prints, and its statuses.
#[test]
fn the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let command = |name: &str, bytes: &[u8], args: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let output = cowscope().arg("check").arg(&path).args(args).output();
        let output = output.expect("cowscope runs");
        let text = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), text)
    };
    let run = boot(ForkMode::Classic).run(&["isolation", "3", "16", "5"]);
    let (status, text) = command("good.cow", &run.bytes, &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("no violation") && text.contains("descriptor writes"));
    assert!(text.contains("E9: locks are not in the stream"), "{text}");
    // All TLBIs of one page, whichever it is: more than are listed.
    let mut records = run.trace.records.clone();
    records.retain(|(_, record)| {
        !matches!(
            record.event,
            Event::Tlbi {
                op: TlbiOp::Vale1Is,
                ..
            }
        )
    });
    let bytes = encode(&run, &records);
    let (status, text) = command("bad.cow", &bytes, &[]);
    assert_eq!(status, Some(1), "{text}");
    for words in [
        "E2 make over an unclean entry:",
        "missing  ",
        "page     0x",
        "more (--all",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let (_, all) = command("bad.cow", &bytes, &["--all"]);
    assert!(all.len() > text.len() && !all.contains("more (--all"));
    let (status, json) = command("bad.cow", &bytes, &["--format", "json"]);
    assert_eq!(status, Some(1));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["verdict"], "violated");
    assert_eq!(json["translation"]["violations"][0]["rule"], "E2");
    let (status, text) = command("no.cow", b"this is no trace", &[]);
    assert_eq!((status, &*text), (Some(3), ""));
    let (status, text) = command("half.cow", &run.bytes[..run.bytes.len() / 2], &[]);
    assert_eq!(status, Some(4), "{text}");
    assert!(text.contains("Unknown"), "{text}");
    let faults = Boot::on(Board::Virt).lossless().run(&["story"]);
    let (status, text) = command("faults.cow", &faults.bytes, &[]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("cowscope run --trace mmu --lossless -o FILE"),
        "{text}"
    );
}
