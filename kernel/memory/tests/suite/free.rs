//! The free frames: whatever CPU gives one back, each finds it, and all add up.

use memory::Frame;
use std::collections::BTreeSet;

use crate::world::World;

/// Takes frames on a CPU until there is none left.
fn take_all(world: &World, cpu: usize) -> Vec<Frame> {
    world.mem.mmu.machine.borrow_mut().set_cpu(cpu);
    let taken: Vec<_> = std::iter::from_fn(|| world.mem.alloc()).collect();
    assert_eq!(world.mem.frames.free_count(), 0);
    let distinct: BTreeSet<_> = taken.iter().collect();
    assert_eq!(distinct.len(), taken.len(), "a frame is free twice");
    taken
}

fn give(world: &World, cpu: usize, frames: &[Frame]) {
    world.mem.mmu.machine.borrow_mut().set_cpu(cpu);
    frames.iter().for_each(|&frame| world.mem.free(frame));
}

#[test]
fn every_cpu_finds_what_the_others_gave_back() {
    // Magazines of one frame, of several, and of the most that there are.
    for frames in [40, 1000, 9000] {
        let world = World::new(3, frames, 0);
        let all = world.mem.frames.free_count() as usize;
        let mut taken = take_all(&world, 0);
        assert_eq!(taken.len(), all);
        for round in 1..7 {
            // Some of it to each, in pieces that fill magazines, that do not, and of a single frame.
            for (number, piece) in taken.chunks(round * 7 - 6).enumerate() {
                give(&world, (number + round) % 3, piece);
            }
            assert_eq!(world.mem.frames.free_count() as usize, all);
            taken = take_all(&world, round % 3);
            assert_eq!(taken.len(), all, "{frames} frames, round {round}");
        }
    }
}
