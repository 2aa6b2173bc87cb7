//! Each allocation of random programs, of frames and of heap, is refused in turn. Nothing but the
//! step that it was for may fail, and nothing may be lost.

use memory::mutate;

use crate::program::Programs;
use crate::random::{machine, run};
use crate::world::story;

#[test]
fn every_allocation_of_a_program_can_fail() {
    let mut refusals = 0;
    for (number, program) in Programs::new(60..80, 7).take(24).enumerate() {
        let cpus = 1 + number % 3;
        let world = machine(&program, cpus);
        let before = mutate::allocations();
        run(&program, world).unwrap_or_else(|error| panic!("{error}"));
        for index in 0..mutate::allocations() - before {
            let world = machine(&program, cpus);
            mutate::refuse(Some(index));
            if let Err(error) = run(&program, world) {
                let world = machine(&program, cpus);
                mutate::refuse(Some(index));
                panic!(
                    "allocation {index} fails, and then: {error}\n{}",
                    story(&program, world)
                );
            }
            mutate::refuse(None);
            refusals += 1;
        }
    }
    println!("{refusals} refusals");
    assert!(refusals > 3_000, "{refusals}");
}
