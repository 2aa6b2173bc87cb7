//! What faults cost on the wire, and that what is lost is counted.

use tests::{Board, Boot, ForkMode, Run};
use tools::report::Options;
use tools::report::args::{ReportFormat, SymbolArgs};
use wire::event::{Event, KIND_NAMES, KINDS, Outcome};

/// Copies of a sweep's 4,096 pages, and of nothing else: those that one instruction made.
fn sweep_copies(run: &Run) -> Vec<usize> {
    let mut by_pc = std::collections::HashMap::<u64, Vec<usize>>::new();
    for (index, (_, record)) in run.trace.records.iter().enumerate() {
        if let Event::Fault(fault) = &record.event
            && fault.outcome == Outcome::CowCopy
        {
            by_pc.entry(fault.pc).or_default().push(index);
        }
    }
    let most = by_pc.into_values().max_by_key(Vec::len);
    most.expect("the sweep has copies")
}

#[test]
fn ten_bytes_a_fault() {
    for board in [Board::Virt, Board::Raspi3b] {
        // A shared table's first write is another outcome.
        let boot = Boot::on(board).lossless().fork(ForkMode::Classic);
        let run = boot.run(&["sweep", "4096", "copy"]);
        run.expect_status(0).expect_sound();
        let copies = sweep_copies(&run);
        assert_eq!(copies.len(), 4096);
        let (first, last) = (copies[0], copies[4095]);

        // Every byte from the frame of the first copy to that of the last, whatever is in them.
        let mut seen = 0;
        let mut bytes = 0;
        for frame in &run.trace.frames {
            if seen + frame.events > first && seen <= last {
                bytes += frame.bytes.len();
            }
            seen += frame.events;
        }
        let each = bytes as f64 / 4096.0;
        println!("{board}: {each:.2} bytes for each of 4096 copies");
        assert!(each <= 10.0, "{board}: {each:.2} bytes");

        let all = run.trace.faults().count();
        let bytes = run.bytes.len() as f64 / all as f64;
        println!("{board}: {bytes:.2} bytes for each of {all} faults, the whole trace counted");
    }
}

fn received(run: &Run) -> [u64; KINDS] {
    let mut received = [0; KINDS];
    for event in run.trace.events() {
        received[event.kind()] += 1;
    }
    received
}

fn loss_line(run: &Run) -> String {
    let options = Options {
        format: ReportFormat::Text,
        story: false,
        top: 3,
        strict: false,
        symbols: SymbolArgs::default().search_path(),
        filter: Default::default(),
    };
    let mut out = Vec::new();
    tools::report::run_to(&mut &run.bytes[..], &options, &mut out).expect("a report");
    let text = String::from_utf8(out).expect("text");
    text.trim_end()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

/// Events of a sweep with everything traced, by kind. Only a kernel that waits for the wire sends all of them.
fn mmu(ring: u32) -> Boot {
    Boot::on(Board::Virt).ring(ring).append("trace=mmu")
}

#[test]
fn what_is_dropped_is_counted() {
    let run = mmu(16).run(&["sweep", "4096", "copy"]);
    run.expect_status(0);
    let end = run.trace.end.as_ref().expect("an end");
    let received = received(&run);
    let dropped: u64 = end.dropped.iter().sum();
    assert!(dropped > 0, "a ring of 16 events was large enough");
    // `emitted` counts what was put on the wire, so nothing is lost there.
    assert_eq!(end.emitted, received);
    assert_eq!(end.frames_sent, run.trace.counts.frames);
    assert_eq!(run.trace.counts.missing, 0);

    // The tool says the same numbers.
    let losses = &run.state().losses;
    assert_eq!(losses.events_dropped, dropped);
    assert_eq!(losses.dropped_by_kind, end.dropped);
    assert_eq!(losses.events_lost, Some([0; KINDS]));
    let line = loss_line(&run).replace(',', "");
    assert!(
        line.contains(&format!("{dropped} events dropped by the kernel")),
        "{line}"
    );
    for (kind, &count) in end.dropped.iter().enumerate() {
        if count > 0 {
            let part = format!("{} {count}", KIND_NAMES[kind]);
            assert!(line.contains(&part), "{part:?} is not in {line:?}");
        }
    }
    let checks = &run.state().machine.checks;
    assert_eq!(
        checks.total().differed,
        0,
        "loss is no finding: {:#?}",
        checks.findings()
    );
}

/// A kernel that waits sends everything through the smallest ring, and what it sends is what one
/// with the largest ring sends.
#[test]
fn lossless_loses_nothing() {
    let small = mmu(1).append("lossless").run(&["sweep", "1024", "copy"]);
    let large = mmu(65536)
        .append("lossless")
        .run(&["sweep", "1024", "copy"]);
    for run in [&small, &large] {
        run.expect_status(0).expect_sound();
        let end = run.trace.end.as_ref().expect("an end");
        assert_eq!(end.dropped, [0; KINDS]);
        assert_eq!(end.emitted, received(run));
    }
    // Not frames: the ring is in the kernel's heap, which grows and shrinks at other moments then.
    let kinds = ["fault", "fork", "exec", "exit", "descriptor"];
    for kind in kinds {
        let index = KIND_NAMES.iter().position(|name| *name == kind);
        let index = index.expect("a kind of event");
        assert_eq!(received(&small)[index], received(&large)[index], "{kind}");
    }
}
