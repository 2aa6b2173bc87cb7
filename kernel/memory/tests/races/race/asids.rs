//! More address spaces than ASIDs.

use super::{finds, holds};
use crate::Backing;
use crate::sync::Bug;
use crate::world::{Space, check_empty, end, join, on_cpu, page, world_of};
use std::sync::Arc;

/// Two CPUs switch among more address spaces than there are numbers; one is of both. A number
/// that two run with is noticed by the machine, and an entry of a number's former owner by the
/// contents.
fn rollover_against_activate() {
    // Two bits: three numbers, of which a rollover keeps at most two.
    let mem = world_of(2, 64, 0);
    let spaces: Vec<_> = (0..6)
        .map(|value| {
            let space = Arc::new(Space::new(&mem, Backing::Anonymous));
            space.write(page(0), 0, value);
            space
        })
        .collect();
    let run = |numbers: &'static [usize]| {
        let spaces = spaces.clone();
        move || {
            for &number in numbers {
                spaces[number].enter();
                for _ in 0..3 {
                    assert_eq!(spaces[number].go_on(page(0), 0, None), number as u64);
                }
            }
            spaces[0].leave();
        }
    };
    // One goes to and fro between two that may keep their numbers, and one uses numbers up.
    let other = on_cpu(1, run(&[0, 1, 0, 1, 0, 4]));
    run(&[2, 3, 4, 5, 2, 3, 4])();
    join(other);
    spaces.into_iter().for_each(end);
    check_empty(&mem);
}

#[test]
fn rollover_against_activate_holds() {
    holds(rollover_against_activate);
}

#[test]
fn rollover_against_activate_finds_a_number_that_is_not_kept() {
    let said = finds(Bug::BlindSwap, rollover_against_activate);
    assert!(said.contains("ASID"), "{said}");
}

#[test]
fn rollover_against_activate_finds_entries_of_a_former_owner() {
    let said = finds(Bug::StuckTlb, rollover_against_activate);
    assert!(said.contains("left: "), "{said}");
}
