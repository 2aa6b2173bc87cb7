//! The frame allocator.

use super::{finds, holds};
use crate::sync::Bug;
use crate::world::{check_empty, join, on_cpu, world, world_of};
use shuttle::sync::mpsc::channel;

/// Three CPUs take all frames there are, twice. Each finds its share.
fn allocate_against_allocate() {
    const SHARE: usize = 11;
    let mem = world(3 * SHARE + 1);
    let threads = [1, 2, 3].map(|cpu| {
        let mem = mem.clone();
        on_cpu(cpu, move || {
            for _ in 0..2 {
                let taken: Vec<_> = (0..SHARE)
                    .map(|_| mem.alloc().expect("a share is left"))
                    .collect();
                taken.into_iter().for_each(|frame| mem.free(frame));
            }
        })
    });
    let [..] = threads.map(join);
    check_empty(&mem);
}

#[test]
fn allocate_against_allocate_holds() {
    holds(allocate_against_allocate);
}

/// Two CPUs take frames, and a third gives them back, so that what there is lies in its list. Each
/// takes no more than is its own: whenever it does, a frame is left, while the others move theirs
/// about.
fn take_against_give() {
    let mem = world(2 + 1);
    let (to_giver, taken) = channel();
    let mut given = Vec::new();
    let mut takers = Vec::new();
    for cpu in [1, 2] {
        let (mem, to_giver) = (mem.clone(), to_giver.clone());
        let (more, left) = channel();
        more.send(()).expect("it is not there yet");
        given.push(more);
        takers.push(on_cpu(cpu, move || {
            for _ in 0..4 {
                left.recv().expect("the giver gives it back");
                let frame = mem.alloc().expect("one is left");
                to_giver.send((cpu, frame)).expect("the giver waits");
            }
        }));
    }
    drop(to_giver);
    let giver = {
        let mem = mem.clone();
        on_cpu(3, move || {
            for (cpu, frame) in taken {
                mem.free(frame);
                // Not if it was the last one.
                let _ = given[cpu - 1].send(());
            }
        })
    };
    takers.into_iter().for_each(join);
    join(giver);
    check_empty(&mem);
}

#[test]
fn take_against_give_holds() {
    holds(take_against_give);
}

#[test]
fn take_against_give_finds_a_list_that_two_have() {
    let said = finds(Bug::TornSwap, take_against_give);
    // The same frame for both, or a list that is never put back.
    let waits = said.contains("max_steps");
    assert!(waits || said.contains("twice"), "{said}");
}

/// One CPU takes what another gives back, by magazines of several frames: the lists of the two are
/// always too short and too long.
fn hand_over() {
    let mem = world_of(2, 300, 16);
    let (to, from) = channel();
    let giver = {
        let mem = mem.clone();
        on_cpu(1, move || from.iter().for_each(|frame| mem.free(frame)))
    };
    for _ in 0..20 {
        to.send(mem.alloc().expect("most are left"))
            .expect("the giver waits");
    }
    drop(to);
    join(giver);
    check_empty(&mem);
}

#[test]
fn hand_over_holds() {
    holds(hand_over);
}
