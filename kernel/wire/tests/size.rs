//! What an event costs on the wire, all included.

mod common;

/// Bytes per event, after checking that nothing is lost.
fn cost(records: &[wire::event::Record]) -> f64 {
    let stream = common::encode(records);
    assert!(common::decode(&stream) == records);
    stream.len() as f64 / records.len() as f64
}

#[test]
fn a_sweep_of_cow_copies_takes_at_most_10_bytes_per_fault() {
    let bytes = cost(&common::sweep(4096, 1));
    println!("sweep: {bytes:.2} bytes per event");
    assert!(bytes <= 10.0, "{bytes:.2} bytes per event");
}

#[test]
fn a_mix_of_faults_and_switches_takes_at_most_16_bytes_per_event() {
    let bytes = cost(&common::mix(4096, 1));
    println!("mix: {bytes:.2} bytes per event");
    assert!(bytes <= 16.0, "{bytes:.2} bytes per event");
}

/// Time, cost and tag are all that is left when the steps are regular, whatever they are.
#[test]
fn any_regular_steps_are_predicted() {
    for (pages, frames) in [(1, 1), (2, -1), (-1, 0), (-512, 8)] {
        let fault = |index: i64| {
            let page = 0x55_0000 + pages * index;
            let (old, new) = (0x5_0000 + frames * index, 0x9_0000 - frames * index);
            common::cow_copy(2, 0x40_2344, page as u64, old as u64, new as u64, 1000)
        };
        let records: Vec<_> = (0..4096)
            .map(|index| wire::event::Record {
                time: 100 * index as u64,
                cpu: 0,
                tid: 2,
                event: wire::event::Event::Fault(fault(index)),
            })
            .collect();
        let bytes = cost(&records);
        assert!(
            bytes <= 5.5,
            "{bytes:.2} bytes per event in steps of {pages}, {frames}"
        );
    }
}

/// With the last owner's reuse, which moves no frame.
#[test]
fn a_sweep_of_reuses_is_no_dearer() {
    let mut records = common::sweep(4096, 2);
    for record in &mut records {
        if let wire::event::Event::Fault(fault) = &mut record.event {
            fault.outcome = wire::event::Outcome::CowReuse;
            fault.new = fault.old ^ common::READ_ONLY ^ common::WRITABLE;
            fault.refs = 1;
        }
    }
    let bytes = cost(&records);
    assert!(bytes <= 5.6, "{bytes:.2} bytes per event");
}
