//! Level 3 tables that address spaces share.

use memory::{
    Access, ForkMode, MapError, Outcome, PAGE_SIZE, Prot, REFS_LIMIT, Request, SpaceError,
};

use super::starvable;
use crate::oracle::va;
use crate::program::{Back, Op};
use crate::traps::{RW, exit, protect, read, touch, world, write};
use crate::world::World;

/// Two processes that share the tables of the first 2 MiB (pages 0 to 3, all of them written) and
/// the second (pages 4 to 7, one of them).
fn shared(cpus: usize) -> World {
    shared_in(world(cpus))
}

fn shared_in(mut world: World) -> World {
    world.mem.share_from = 1;
    (0..5).for_each(|page| assert_eq!(write(&mut world, 0, page, 3), Some(Outcome::ZeroFill)));
    let free = world.mem.frames.free_count();
    world.fork(0, ForkMode::SharedTables).unwrap();
    world.check().unwrap();
    // The child's root and its level 2 table.
    assert_eq!(free - world.mem.frames.free_count(), 2);
    world
}

#[test]
pub fn the_first_write_below_a_shared_table_copies_the_table_then_the_page() {
    let mut world = shared(2);
    let before = world.processes[1].space.leaf(&world.mem, va(1));
    assert_eq!(write(&mut world, 1, 1, 9), Some(Outcome::TableUnshare));
    assert_ne!(world.processes[1].space.leaf(&world.mem, va(1)), before);
    assert_eq!(
        write(&mut world, 1, 2, 9),
        Some(Outcome::CowCopy),
        "the table is its own now"
    );
    assert_eq!(
        write(&mut world, 1, 4, 9),
        Some(Outcome::TableUnshare),
        "another 2 MiB"
    );
    (0..5).for_each(|page| assert_eq!(read(&mut world, 0, page), None));
    world.finish().unwrap();
}

#[test]
pub fn a_child_that_left_gives_the_table_back_with_one_fault() {
    let mut world = shared(2);
    exit(&mut world, 1);
    assert_eq!(write(&mut world, 0, 1, 9), Some(Outcome::TableReuse));
    for page in [0, 2, 3] {
        assert_eq!(
            write(&mut world, 0, page, 9),
            None,
            "its leaves kept their rights"
        );
    }
    world.finish().unwrap();
}

#[test]
pub fn the_last_owner_of_a_table_does_not_get_frames_that_a_copy_of_it_maps() {
    let mut world = shared(2);
    assert_eq!(write(&mut world, 1, 1, 9), Some(Outcome::TableUnshare));
    // The parent's table has one owner again, but its frames have two.
    assert_eq!(write(&mut world, 0, 2, 8), Some(Outcome::TableReuse));
    assert_eq!(read(&mut world, 1, 2), None);
    assert_eq!(
        write(&mut world, 0, 1, 8),
        Some(Outcome::CowReuse),
        "the child has its own since"
    );
    world.finish().unwrap();
}

#[test]
pub fn unmapping_and_protecting_part_of_a_shared_table_touch_only_the_caller() {
    let mut world = shared(2);
    world
        .step(Op::Unmap {
            cpu: 0,
            process: 1,
            page: 1,
            count: 1,
        })
        .unwrap();
    protect(&mut world, 1, 4, Prot::READ);
    for page in [0, 1, 2, 4] {
        assert_eq!(read(&mut world, 0, page), None);
    }
    assert_eq!(read(&mut world, 1, 1), Some(Outcome::Denied));
    assert_eq!(write(&mut world, 1, 4, 9), Some(Outcome::Denied));
    world.finish().unwrap();
}

#[test]
pub fn unmapping_part_of_a_shared_table_can_run_out_of_memory_and_changes_nothing() {
    let mut world = shared_in(starvable(1));
    world.step(Op::Starve { left: 0 }).unwrap();
    let space = &mut world.processes[1].space;
    assert_eq!(
        space.unmap(&world.mem, va(1), va(2)),
        Err(MapError::OutOfMemory)
    );
    assert_eq!(
        space.protect(&world.mem, va(1), va(2), Prot::READ),
        Err(MapError::OutOfMemory)
    );
    assert_eq!(space.mappings().len(), 1);
    // The whole table needs no copy: it is just let go.
    let dropped = space.unmap(&world.mem, va(0), va(7) + PAGE_SIZE).unwrap();
    assert_eq!((dropped.dropped, dropped.freed), (5, 0));
    world.processes[1].pages.0.clear();
    world.check().unwrap();
    world.finish().unwrap();
}

#[test]
pub fn a_saturated_table_counter_fails_the_fork_and_nothing_else() {
    let mut world = shared(1);
    let root = world.processes[0].space.root().frame().number();
    let entry = |table: u64, index: usize| {
        let table = world.mem.mmu.machine.borrow().table(table)[index];
        memory::descriptor::Table::from_bits(table).unwrap().frame()
    };
    let table = entry(entry(root, 0).number(), 0);
    world.mem.frames.set_refs(table, REFS_LIMIT);
    let failed = world.processes[0]
        .space
        .fork(&world.mem, ForkMode::SharedTables)
        .map(|_| ());
    assert_eq!(failed, Err(SpaceError::TooManyReferences));
    world.mem.frames.set_refs(table, 2);
    world.check().unwrap();
    world.finish().unwrap();
}

#[test]
pub fn a_classic_fork_of_a_shared_table_leaves_nothing_writable() {
    let mut world = shared(2);
    world.fork(0, ForkMode::Classic).unwrap();
    world.fork(1, ForkMode::SharedTables).unwrap();
    for (process, value) in [(0, 10), (1, 11), (2, 12), (3, 13)] {
        for page in 0..5 {
            write(&mut world, process, page, value);
        }
    }
    for process in 0..4 {
        (0..5).for_each(|page| assert_eq!(read(&mut world, process, page), None));
    }
    world.finish().unwrap();
}

#[test]
pub fn the_others_leave_while_a_table_is_copied() {
    let mut world = shared(2);
    let child = world.processes.pop().unwrap();
    let parent = world.processes.pop().unwrap();
    let world: &'static World = Box::leak(Box::new(world));
    let mem = &world.mem;
    let mut space = child.space;
    mem.activate(space.root(), 0);
    let ttbr0 = space.root().ttbr0();
    mem.mmu.activate(Some(ttbr0));
    // The table is copied by then, and not yet let go.
    mem.mmu.meanwhile.replace(Some(Box::new(|machine| {
        machine.borrow_mut().set_cpu(1);
        parent.space.destroy(&world.mem);
        machine.borrow_mut().set_cpu(0);
    })));
    let request = Request {
        addr: va(1),
        access: Access::Write,
    };
    let handled = space.fault(mem, request);
    assert_eq!((handled.outcome, handled.refs), (Outcome::TableUnshare, 1));
    assert_eq!(
        space
            .fault(
                mem,
                Request {
                    addr: va(2),
                    ..request
                }
            )
            .outcome,
        Outcome::CowReuse
    );
    let root = space.root().frame();
    assert_eq!(mem.frames.refs(root), 1);
    mem.mmu.activate(None);
    space.destroy(mem);
    let machine = mem.mmu.machine.borrow();
    assert_eq!(machine.violations(), []);
    assert_eq!(machine.allocated_count(), 1, "the zero page");
    assert_eq!(mem.frames.free_count(), mem.frames.total() - 1);
}

#[test]
pub fn a_table_whose_copy_fails_half_way_keeps_its_counts() {
    let mut world = shared(1);
    let leaf = world.processes[0].space.leaf(&world.mem, va(2));
    let frame = memory::descriptor::Leaf::from_bits(leaf).unwrap().frame();
    let free = world.mem.frames.free_count();
    world.mem.frames.set_refs(frame, REFS_LIMIT);
    let request = Request {
        addr: va(1),
        access: Access::Write,
    };
    let handled = world.processes[1].space.fault(&world.mem, request);
    assert_eq!(handled.outcome, Outcome::OutOfMemory);
    world.mem.frames.set_refs(frame, 1);
    assert_eq!(world.mem.frames.free_count(), free);
    world.check().unwrap();
    world.finish().unwrap();
}

#[test]
pub fn a_freed_table_is_in_no_walk_cache_when_its_frame_becomes_a_page() {
    let mut world = World::new(3, 24, 1);
    for round in 0..8 {
        for (page, cpu) in [(0, 0), (8, 1), (0, 2), (8, 0), (4, 1), (12, 2)] {
            if !world.processes[0].pages.0.contains_key(&page) {
                world.map(0, page, 8, RW, Back::Anonymous).unwrap();
            }
            touch(&mut world, cpu, 0, page, Access::Write, round);
        }
        for page in [0, 8] {
            let unmap = Op::Unmap {
                cpu: 0,
                process: 0,
                page,
                count: 8,
            };
            world.step(unmap).unwrap();
        }
        // The tables' frames, which are free now, as pages of bytes that look like descriptors.
        world.map(0, 16, 8, RW, Back::Anonymous).unwrap();
        for page in 16..24 {
            touch(&mut world, 0, 0, page, Access::Write, 0xff);
        }
        for (cpu, page) in [(0, 4), (1, 0), (2, 12)] {
            let read = touch(&mut world, cpu, 0, page, Access::Read, 0);
            assert_eq!(read, Some(Outcome::Denied));
        }
    }
    world.finish().unwrap();
}

#[test]
pub fn the_last_owner_of_a_table_does_not_get_pages_that_were_forked_one_by_one() {
    for mode in [ForkMode::Classic, ForkMode::Eager] {
        let mut world = shared(2);
        // The leaves in the table that two share lose what the third must not see used.
        world.fork(0, mode).unwrap();
        exit(&mut world, 1);
        for page in 0..4 {
            assert!(
                write(&mut world, 0, page, 9).is_some(),
                "{mode:?}: page {page}"
            );
            assert_eq!(read(&mut world, 1, page), None);
        }
        world.finish().unwrap();
    }
}

#[test]
pub fn discarding_all_of_a_shared_table_leaves_it_to_the_others() {
    let mut world = shared(2);
    let free = world.mem.frames.free_count();
    let space = &mut world.processes[1].space;
    let discarded = space.discard(&world.mem, 0, 2 << 20).unwrap();
    assert_eq!((discarded.dropped.dropped, discarded.dropped.freed), (4, 0));
    assert_eq!(world.mem.frames.free_count(), free, "nothing is copied");
    world.processes[1].pages.discard(0, 4);
    world.check().unwrap();
    for page in 0..4 {
        assert_eq!(read(&mut world, 1, page), Some(Outcome::ZeroPage));
        assert_eq!(read(&mut world, 0, page), None);
    }
    world.finish().unwrap();
}
