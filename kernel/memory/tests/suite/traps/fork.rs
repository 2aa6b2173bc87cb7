//! Fork: both sides, all modes, at any point of failure.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use memory::{Access, ForkMode, Outcome, REFS_LIMIT, SpaceError};
use model::Machine;

use super::starvable;
use crate::oracle::va;
use crate::program::{Back, Op};
use crate::traps::{RW, read, touch, world, write};
use crate::world::World;

#[test]
pub fn both_sides_of_a_fork_are_write_protected_and_each_gets_its_own() {
    let mut world = world(2);
    assert_eq!(write(&mut world, 0, 1, 7), Some(Outcome::ZeroFill));
    world.fork(0, ForkMode::Classic).unwrap();
    assert_eq!(
        write(&mut world, 0, 1, 8),
        Some(Outcome::CowCopy),
        "the parent writes first"
    );
    assert_eq!(
        write(&mut world, 1, 1, 9),
        Some(Outcome::CowReuse),
        "the child is alone by then"
    );
    assert_eq!(read(&mut world, 0, 1), None);
    world.finish().unwrap();
}

#[test]
pub fn fork_flushes_the_parent_once() {
    let mut world = world(1);
    (0..8).for_each(|page| assert_eq!(write(&mut world, 0, page, 1), Some(Outcome::ZeroFill)));
    let before = (
        world.executed("TLBI ASIDE1IS"),
        world.executed("TLBI VALE1IS"),
    );
    world.fork(0, ForkMode::Classic).unwrap();
    assert_eq!(
        (
            world.executed("TLBI ASIDE1IS"),
            world.executed("TLBI VALE1IS")
        ),
        (before.0 + 1, before.1)
    );
    world.finish().unwrap();
}

#[test]
pub fn a_saturated_counter_fails_the_fork_and_nothing_else() {
    let mut world = world(1);
    (0..3).for_each(|page| assert_eq!(write(&mut world, 0, page, 7), Some(Outcome::ZeroFill)));
    let leaf = world.processes[0].space.leaf(&world.mem, va(1));
    let frame = memory::descriptor::Leaf::from_bits(leaf).unwrap().frame();
    let free = world.mem.frames.free_count();
    world.mem.frames.set_refs(frame, REFS_LIMIT);
    let failed = world.processes[0]
        .space
        .fork(&world.mem, ForkMode::Classic)
        .map(|_| ());
    assert_eq!(failed, Err(SpaceError::TooManyReferences));
    world.mem.frames.set_refs(frame, 1);
    assert_eq!(world.mem.frames.free_count(), free);
    world.check().unwrap();
    // Some pages were write-protected before it failed: slower, not wrong.
    assert_eq!(write(&mut world, 0, 0, 8), Some(Outcome::CowReuse));
    world.finish().unwrap();
}

#[test]
pub fn fork_survives_running_out_of_frames_at_every_allocation() {
    for mode in [ForkMode::Classic, ForkMode::SharedTables, ForkMode::Eager] {
        let mut failures = 0;
        for left in 0.. {
            let mut world = starvable(2);
            world.mem.share_from = 1;
            world.map(0, 8, 8, RW, Back::Anonymous).unwrap();
            for page in [1, 6, 9, 14] {
                write(&mut world, 0, page, page as u8);
            }
            world.step(Op::Starve { left }).unwrap();
            let free = world.mem.frames.free_count();
            assert_eq!(free, left);
            world.fork(0, mode).unwrap();
            if world.processes.len() > 1 {
                world.finish().unwrap();
                break;
            }
            failures += 1;
            assert_eq!(
                world.mem.frames.free_count(),
                free,
                "a failed fork keeps frames"
            );
            world.check().unwrap();
            for page in [1, 6, 9, 14] {
                write(&mut world, 0, page, 99);
            }
            world.finish().unwrap();
        }
        // The root, two tables of level 2; four of level 3 unless they are shared; the eager copies.
        let expected = match mode {
            ForkMode::SharedTables => 3,
            ForkMode::Classic => 7,
            _ => 11,
        };
        assert_eq!(failures, expected, "{mode:?}");
    }
}

#[test]
pub fn eager_fork_leaves_nothing_to_copy() {
    let mut world = world(2);
    (0..4).for_each(|page| assert_eq!(write(&mut world, 0, page, 3), Some(Outcome::ZeroFill)));
    world.fork(0, ForkMode::Eager).unwrap();
    for process in [0, 1] {
        (0..4).for_each(|page| assert_eq!(write(&mut world, process, page, process as u8), None));
    }
    world.finish().unwrap();
}

#[test]
pub fn small_tables_are_copied_even_if_tables_are_shared() {
    let mut world = world(1);
    world.mem.share_from = 64;
    write(&mut world, 0, 1, 7);
    let (child, counts) = world.processes[0]
        .space
        .fork(&world.mem, ForkMode::SharedTables)
        .unwrap();
    assert_eq!(
        (counts.tables_shared, counts.shared, counts.leaves),
        (0, 1, 1)
    );
    child.destroy(&world.mem);
    world.finish().unwrap();
}

#[test]
pub fn an_eager_copy_is_not_torn_by_another_thread() {
    let mut world = world(2);
    for cpu in 0..2 {
        for page in 0..4 {
            touch(&mut world, cpu, 0, page, Access::Write, 1);
        }
    }
    let written: Rc<RefCell<BTreeSet<usize>>> = Rc::default();
    let pages = written.clone();
    // The other thread goes on, on the other CPU, wherever it does not fault: by what its TLB has,
    // or in pages that the parent may write again since they were copied.
    let thread = move |machine: &mut Machine| {
        let succeeds = |page: &usize| machine.store_byte(1, va(*page), 2).is_ok();
        pages.borrow_mut().extend((0..4).filter(succeeds));
    };
    world.run(1, 0);
    world.run(0, 0);
    world.mem.mmu.at_copies.replace(Some(Box::new(thread)));
    world.fork(0, ForkMode::Eager).unwrap();
    world.mem.mmu.at_copies.take();
    for page in written.take() {
        world.processes[0].pages.write(page, 0, 2);
    }
    for page in 0..4 {
        // The child's are as they were when all were protected.
        assert_eq!(read(&mut world, 1, page), None);
        assert_eq!(read(&mut world, 0, page), None);
    }
    world.finish().unwrap();
}

#[test]
pub fn a_cow_page_forked_again_stays_writable_for_all() {
    for mode in [ForkMode::Classic, ForkMode::SharedTables] {
        let mut world = world(1);
        world.mem.share_from = 1;
        write(&mut world, 0, 1, 7);
        world.fork(0, mode).unwrap();
        world.fork(1, mode).unwrap();
        world.fork(2, mode).unwrap();
        for process in [2, 0, 3, 1] {
            assert!(write(&mut world, process, 1, process as u8).is_some());
            (0..4).for_each(|process| assert_eq!(read(&mut world, process, 1), None));
        }
        world.finish().unwrap();
    }
}

#[test]
pub fn three_hundred_children_share_one_page() {
    let mut world = World::new(1, 1400, 1);
    world.map(0, 0, 1, RW, Back::Anonymous).unwrap();
    write(&mut world, 0, 0, 7);
    let mut children = Vec::new();
    for _ in 0..300 {
        let space = &mut world.processes[0].space;
        children.push(space.fork(&world.mem, ForkMode::Classic).unwrap().0);
    }
    let leaf = world.processes[0].space.leaf(&world.mem, va(0));
    let frame = memory::descriptor::Leaf::from_bits(leaf).unwrap().frame();
    assert_eq!(world.mem.frames.refs(frame), 301);
    for child in children {
        child.destroy(&world.mem);
    }
    assert_eq!(write(&mut world, 0, 0, 8), Some(Outcome::CowReuse));
    world.finish().unwrap();
}
