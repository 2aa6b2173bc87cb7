//! Faults: who gets which frame, and what happens without one.

use memory::{
    Access, Backing, Denial, ForkMode, Mapping, Outcome, PAGE_SIZE, Prot, Region, Request,
    USER_END, mutate,
};

use super::starvable;
use crate::oracle::va;
use crate::program::Op;
use crate::traps::{FILE, RW, exit, page_at, protect, read, touch, world, write};
use crate::world::World;

#[test]
pub fn the_last_owner_writes_in_place_with_a_local_tlbi_only() {
    let mut world = world(2);
    write(&mut world, 0, 1, 7);
    world.fork(0, ForkMode::Classic).unwrap();
    exit(&mut world, 1);
    let broadcasts = world.executed("TLBI VALE1IS") + world.executed("TLBI ASIDE1IS");
    assert_eq!(write(&mut world, 0, 1, 8), Some(Outcome::CowReuse));
    assert_eq!(
        world.executed("TLBI VALE1IS") + world.executed("TLBI ASIDE1IS"),
        broadcasts
    );
    world.finish().unwrap();
}

#[test]
pub fn two_threads_that_fault_on_one_page_get_one_frame() {
    let mut world = world(2);
    let request = Request {
        addr: va(1),
        access: Access::Write,
    };
    let space = &mut world.processes[0].space;
    assert_eq!(space.fault(&world.mem, request).outcome, Outcome::ZeroFill);
    let free = world.mem.frames.free_count();
    let second = space.fault(&world.mem, request);
    assert_eq!(second.outcome, Outcome::Spurious);
    assert_eq!((second.old, second.refs), (second.new, 1));
    assert_eq!(world.mem.frames.free_count(), free);
    world.finish().unwrap();
}

#[test]
pub fn the_zero_page_is_replaced_not_written() {
    let mut world = world(1);
    assert_eq!(read(&mut world, 0, 1), Some(Outcome::ZeroPage));
    world.fork(0, ForkMode::Classic).unwrap();
    assert_eq!(write(&mut world, 1, 1, 5), Some(Outcome::CowZero));
    assert_eq!(write(&mut world, 0, 1, 6), Some(Outcome::CowZero));
    world.finish().unwrap();
}

#[test]
pub fn the_kernel_writes_a_cow_page_by_the_same_rules() {
    let mut world = world(1);
    write(&mut world, 0, 1, 7);
    read(&mut world, 0, 2);
    world.fork(0, ForkMode::Classic).unwrap();
    for page in [1, 2] {
        world
            .step(Op::KernelWrite {
                cpu: 0,
                process: 1,
                page,
                value: 9,
            })
            .unwrap();
        assert_eq!(read(&mut world, 0, page), None);
        assert_eq!(read(&mut world, 1, page), None);
    }
    world.finish().unwrap();
}

#[test]
pub fn a_fault_that_runs_out_of_frames_changes_nothing() {
    for left in 0..4 {
        let mut world = starvable(1);
        world.step(Op::Starve { left }).unwrap();
        let space = &mut world.processes[0].space;
        let request = Request {
            addr: va(1),
            access: Access::Write,
        };
        let handled = space.fault(&world.mem, request);
        // Two tables and a frame.
        if left >= 3 {
            assert_eq!(handled.outcome, Outcome::ZeroFill);
        } else {
            assert_eq!(
                (handled.outcome, handled.old, handled.new),
                (Outcome::OutOfMemory, 0, 0)
            );
            assert_eq!(world.mem.frames.free_count(), left);
            assert_eq!(space.resident(), Default::default());
        }
        world.finish().unwrap();
    }
}

#[test]
pub fn a_copy_that_runs_out_of_frames_leaves_the_page_shared() {
    let mut world = starvable(1);
    write(&mut world, 0, 1, 7);
    world.fork(0, ForkMode::Classic).unwrap();
    world.step(Op::Starve { left: 0 }).unwrap();
    assert_eq!(write(&mut world, 1, 1, 9), Some(Outcome::OutOfMemory));
    assert_eq!(read(&mut world, 1, 1), None);
    world.finish().unwrap();
}

#[test]
pub fn denials_say_why() {
    let mut world = world(1);
    protect(&mut world, 0, 1, Prot::READ);
    let mut why = |page: usize, access| {
        world
            .access(0, 0, page, 0, access, 0)
            .unwrap()
            .unwrap()
            .denial
    };
    assert_eq!(why(1, Access::Write), Some(Denial::Forbidden));
    assert_eq!(why(1, Access::Exec), Some(Denial::Forbidden));
    assert_eq!(why(12, Access::Read), Some(Denial::Unmapped));
    let outside = Request {
        addr: u64::MAX,
        access: Access::Read,
    };
    let handled = world.processes[0].space.fault(&world.mem, outside);
    assert_eq!(
        (handled.outcome, handled.denial),
        (Outcome::Denied, Some(Denial::Unmapped))
    );
    world.finish().unwrap();
}

#[test]
pub fn the_stack_grows_to_its_limit_and_keeps_clear_of_what_is_below() {
    let mut world = World::new(1, 1000, 1);
    let top = USER_END - (64 << 20);
    let stack = |start| Mapping {
        start,
        end: top,
        prot: RW,
        shared: false,
        may_write: true,
        backing: Backing::Anonymous,
        region: Region::Stack,
        charged: false,
    };
    let mem = &world.mem;
    let space = &mut world.processes[0].space;
    space.map(mem, stack(top - PAGE_SIZE)).unwrap();
    space.set_stack_limit(1 << 20);
    let at = |distance: u64| Request {
        addr: top - distance,
        access: Access::Write,
    };
    let handled = space.fault(mem, at(3 * PAGE_SIZE));
    assert_eq!(
        (handled.outcome, handled.grown),
        (Outcome::StackGrow, Some((top - 3 * PAGE_SIZE, top)))
    );
    assert_eq!(
        space.fault(mem, at((1 << 20) + 1)).denial,
        Some(Denial::Unmapped),
        "past the limit"
    );
    assert_eq!(
        space.fault(mem, at(1 << 20)).outcome,
        Outcome::StackGrow,
        "at the limit"
    );
    // A hole for a mapping leaves the stack's room and a guard gap free.
    space.set_stack_limit(2 << 20);
    let free = space.find_free(PAGE_SIZE, 0).unwrap();
    assert_eq!(free + PAGE_SIZE, top - (2 << 20) - 256 * PAGE_SIZE);
    space
        .map(
            mem,
            Mapping {
                region: Region::Mmap,
                charged: false,
                ..page_at(free)
            },
        )
        .unwrap();
    space.set_stack_limit(64 << 20);
    let gap = top - (free + PAGE_SIZE) - 256 * PAGE_SIZE;
    assert_eq!(
        space.fault(mem, at(gap + PAGE_SIZE)).denial,
        Some(Denial::Unmapped),
        "in the guard gap"
    );
    assert_eq!(
        space.fault(mem, at(gap)).outcome,
        Outcome::StackGrow,
        "next to the guard gap"
    );
    world.finish().unwrap();
}

#[test]
pub fn a_frame_that_somebody_else_holds_is_copied_not_reused() {
    let mut world = world(1);
    write(&mut world, 0, 1, 7);
    world.fork(0, ForkMode::Classic).unwrap();
    let leaf = world.processes[0].space.leaf(&world.mem, va(1));
    let frame = memory::descriptor::Leaf::from_bits(leaf).unwrap().frame();
    exit(&mut world, 1);
    // As the child's vmsplice would have, which no mapping shows.
    world.mem.frames.set_refs(frame, 2);
    let handled = world.access(0, 0, 1, 0, Access::Write, 8).unwrap().unwrap();
    assert_eq!(
        (handled.outcome, handled.refs, handled.refs_after),
        (Outcome::CowCopy, 2, 1)
    );
    // What the holder sees is what it was.
    assert_eq!(
        world.mem.mmu.machine.borrow().table(frame.number())[0] as u8,
        7
    );
    let leak = world.finish().unwrap_err();
    assert_eq!(leak, "1 frames leak", "the holder's");
}

#[test]
pub fn a_write_retried_after_its_page_was_dropped_is_a_write_again() {
    let mut world = world(2);
    world.map(0, 1, 1, RW, FILE).unwrap();
    let request = Request {
        addr: va(1),
        access: Access::Write,
    };
    for round in 0..4 {
        // The copy is made, and gone before the writer comes back to it.
        let handled = world.processes[0].space.fault(&world.mem, request);
        assert_eq!(handled.outcome, Outcome::FileCopy, "round {round}");
        world
            .step(Op::Unmap {
                cpu: 1,
                process: 0,
                page: 1,
                count: 1,
            })
            .unwrap();
        world.map(0, 1, 1, RW, FILE).unwrap();
        // Somebody reads the file's page in, which must not be taken for the writer's.
        assert_eq!(
            touch(&mut world, 1, 0, 1, Access::Read, 0),
            Some(Outcome::FileRead)
        );
        assert_eq!(
            touch(&mut world, 0, 0, 1, Access::Write, round),
            Some(Outcome::CowCopy)
        );
        world
            .step(Op::Unmap {
                cpu: 0,
                process: 0,
                page: 1,
                count: 1,
            })
            .unwrap();
        world.map(0, 1, 1, RW, FILE).unwrap();
    }
    // The file itself is as it was.
    assert_eq!(read(&mut world, 0, 1), Some(Outcome::FileRead));
    world.finish().unwrap();
}

#[test]
pub fn a_copied_page_is_another_one_on_every_cpu() {
    let mut world = world(3);
    write(&mut world, 0, 1, 7);
    world.fork(0, ForkMode::Classic).unwrap();
    // All CPUs hold the shared page, read-only.
    (0..3).for_each(|cpu| assert_eq!(touch(&mut world, cpu, 0, 1, Access::Read, 0), None));
    assert_eq!(
        touch(&mut world, 1, 0, 1, Access::Write, 8),
        Some(Outcome::CowCopy)
    );
    (0..3).for_each(|cpu| assert_eq!(touch(&mut world, cpu, 0, 1, Access::Read, 0), None));
    assert_eq!(read(&mut world, 1, 1), None);
    world.finish().unwrap();
}

#[test]
pub fn a_stack_that_cannot_grow_leaves_no_table_behind() {
    for allocation in 0..4 {
        let mut world = World::new(1, 1000, 1);
        let top = USER_END - (64 << 20);
        let stack = Mapping {
            start: top - PAGE_SIZE,
            region: Region::Stack,
            ..page_at(top - PAGE_SIZE)
        };
        let mem = &world.mem;
        let space = &mut world.processes[0].space;
        space.map(mem, stack).unwrap();
        // In another table than the stack's first page is in.
        let request = Request {
            addr: top - (3 << 20),
            access: Access::Write,
        };
        mutate::refuse(Some(allocation));
        let handled = space.fault(mem, request);
        mutate::refuse(None);
        let grown = allocation == 3;
        let expected = if grown {
            Outcome::StackGrow
        } else {
            Outcome::OutOfMemory
        };
        assert_eq!(handled.outcome, expected, "allocation {allocation}");
        world.check().unwrap();
        world.finish().unwrap();
    }
}
