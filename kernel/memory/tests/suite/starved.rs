//! Each allocation of random programs, of frames and of heap, is refused in turn. Nothing but the
//! step that it was for may fail, and nothing may be lost.

use memory::mutate;

use crate::program::{Program, Programs};
use crate::random::{explore, machine, run};
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

/// Programs as long as those that are never refused anything. A step that fails must have changed
/// nothing, so it is tried again, until none of its allocations is left that was not refused.
#[test]
fn every_allocation_of_each_step_can_fail_in_turn() {
    for cpus in 1..=3 {
        let programs = Programs::new(200..240, 7 + cpus as u8).take(480);
        let met = explore(
            programs.map(|program| Program {
                refused: true,
                ..program
            }),
            cpus,
        );
        let met = met.unwrap_or_else(|failure| panic!("{failure}"));
        println!("{cpus} CPUs: {met:?}");
        assert!(met["refused"] > 20_000, "{met:?}");
        for name in [
            "cow-copy",
            "file-copy",
            "table-unshare",
            "table-reuse",
            "stack-grow",
            "populate",
            "remap-move",
        ] {
            assert!(met[name] >= 50, "{name} was hardly met: {met:?}");
        }
    }
}
