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
