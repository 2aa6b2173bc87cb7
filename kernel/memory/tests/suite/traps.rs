//! A test for each trap that some kernel fell into: `translation-and-cow.md` section 4 and
//! `peer-kernels.md` section 3. All of them on the adversarial machine, whose report is part of
//! every step.

use memory::{
    Access, AddressSpace, Backing, Denial, ForkMode, MapError, Mapping, Outcome, PAGE_SIZE, Prot,
    REFS_LIMIT, Region, Request, SpaceError, USER_END,
};

use crate::oracle::va;
use crate::program::{Back, Op};
use crate::world::World;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const RX: Prot = Prot::READ.union(Prot::EXEC);
const RWX: Prot = RW.union(Prot::EXEC);

/// One process with eight anonymous pages.
fn world(cpus: usize) -> World {
    let mut world = World::new(cpus, 160, 1, None);
    world.map(0, 0, 8, RW, Back::Anonymous).unwrap();
    world
}

fn touch(
    world: &mut World,
    cpu: usize,
    process: usize,
    page: usize,
    access: Access,
    value: u8,
) -> Option<Outcome> {
    let handled = world.access(cpu, process, page, 0, access, value).unwrap();
    world.check().unwrap();
    handled.map(|handled| handled.outcome)
}

fn write(world: &mut World, process: usize, page: usize, value: u8) -> Option<Outcome> {
    touch(world, 0, process, page, Access::Write, value)
}

fn read(world: &mut World, process: usize, page: usize) -> Option<Outcome> {
    touch(world, 0, process, page, Access::Read, 0)
}

fn protect(world: &mut World, process: usize, page: usize, prot: Prot) {
    world
        .step(Op::Protect {
            cpu: 0,
            process,
            page,
            count: 1,
            prot: prot.bits(),
        })
        .unwrap();
}

fn exit(world: &mut World, process: usize) {
    world.step(Op::Exit { cpu: 0, process }).unwrap();
}

#[test]
fn both_sides_of_a_fork_are_write_protected_and_each_gets_its_own() {
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
fn the_last_owner_writes_in_place_with_a_local_tlbi_only() {
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
fn fork_flushes_the_parent_once() {
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
fn protecting_a_cow_page_and_back_does_not_make_it_writable() {
    for mode in [Prot::READ, Prot::NONE] {
        let mut world = world(1);
        write(&mut world, 0, 1, 7);
        world.fork(0, ForkMode::Classic).unwrap();
        for process in [1, 0] {
            protect(&mut world, process, 1, mode);
            protect(&mut world, process, 1, RW);
        }
        assert_eq!(write(&mut world, 1, 1, 9), Some(Outcome::CowCopy));
        assert_eq!(read(&mut world, 0, 1), None);
        world.finish().unwrap();
    }
}

#[test]
fn protection_is_gone_from_every_cpu_when_the_call_returns() {
    let mut world = world(3);
    write(&mut world, 0, 1, 7);
    (0..3).for_each(|cpu| assert_eq!(touch(&mut world, cpu, 0, 1, Access::Read, 0), None));
    protect(&mut world, 0, 1, Prot::READ);
    (0..3).for_each(|cpu| {
        assert_eq!(
            touch(&mut world, cpu, 0, 1, Access::Write, 0),
            Some(Outcome::Denied)
        )
    });
    // No copy and no second owner: the page is writable in place once it may be.
    protect(&mut world, 0, 1, RW);
    assert_eq!(write(&mut world, 0, 1, 8), Some(Outcome::CowReuse));
    world.finish().unwrap();
}

#[test]
fn a_saturated_counter_fails_the_fork_and_nothing_else() {
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
fn fork_survives_running_out_of_frames_at_every_allocation() {
    for mode in [ForkMode::Classic, ForkMode::SharedTables, ForkMode::Eager] {
        let mut failures = 0;
        for left in 0.. {
            let mut world = world(2);
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
fn a_fault_that_runs_out_of_frames_changes_nothing() {
    for left in 0..4 {
        let mut world = world(1);
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
fn a_copy_that_runs_out_of_frames_leaves_the_page_shared() {
    let mut world = world(1);
    write(&mut world, 0, 1, 7);
    world.fork(0, ForkMode::Classic).unwrap();
    world.step(Op::Starve { left: 0 }).unwrap();
    assert_eq!(write(&mut world, 1, 1, 9), Some(Outcome::OutOfMemory));
    assert_eq!(read(&mut world, 1, 1), None);
    world.finish().unwrap();
}

#[test]
fn two_threads_that_fault_on_one_page_get_one_frame() {
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
fn the_zero_page_is_replaced_not_written() {
    let mut world = world(1);
    assert_eq!(read(&mut world, 0, 1), Some(Outcome::ZeroPage));
    world.fork(0, ForkMode::Classic).unwrap();
    assert_eq!(write(&mut world, 1, 1, 5), Some(Outcome::CowZero));
    assert_eq!(write(&mut world, 0, 1, 6), Some(Outcome::CowZero));
    world.finish().unwrap();
}

#[test]
fn the_kernel_writes_a_cow_page_by_the_same_rules() {
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
fn a_shared_mapping_stays_shared_and_is_not_protected_by_fork() {
    for back in [
        Back::Shared,
        Back::File {
            file: 0,
            from: 0,
            shared: true,
        },
    ] {
        let mut world = world(1);
        world.map(0, 1, 2, RW, back).unwrap();
        assert_eq!(write(&mut world, 0, 1, 7), Some(Outcome::SharedWrite));
        let (child, counts) = world.processes[0]
            .space
            .fork(&world.mem, ForkMode::Classic)
            .unwrap();
        assert_eq!((counts.protected, counts.shared, counts.leaves), (0, 0, 1));
        child.destroy(&world.mem);
        world.fork(0, ForkMode::Classic).unwrap();
        assert_eq!(
            write(&mut world, 1, 1, 8),
            None,
            "the child writes without a fault"
        );
        assert_eq!(read(&mut world, 0, 1), None);
        // A page that neither had touched is one page too.
        assert_eq!(write(&mut world, 1, 2, 9), Some(Outcome::SharedWrite));
        assert_eq!(read(&mut world, 0, 2), Some(Outcome::FileRead));
        assert_eq!(write(&mut world, 0, 2, 10), Some(Outcome::SharedWrite));
        world.finish().unwrap();
    }
}

#[test]
fn a_private_file_page_is_copied_at_the_first_write_and_never_written_back() {
    let mut world = world(1);
    world
        .map(
            0,
            1,
            2,
            RW,
            Back::File {
                file: 0,
                from: 0,
                shared: false,
            },
        )
        .unwrap();
    world
        .map(
            0,
            4,
            2,
            Prot::READ,
            Back::File {
                file: 0,
                from: 0,
                shared: false,
            },
        )
        .unwrap();
    assert_eq!(
        write(&mut world, 0, 1, 7),
        Some(Outcome::FileCopy),
        "one fault, never read-only in between"
    );
    assert_eq!(read(&mut world, 0, 2), Some(Outcome::FileRead));
    // One mapping only, but the cache holds the frame: no reuse in place.
    assert_eq!(write(&mut world, 0, 2, 7), Some(Outcome::CowCopy));
    assert_eq!(read(&mut world, 0, 4), Some(Outcome::FileRead));
    assert_eq!(read(&mut world, 0, 5), Some(Outcome::FileRead));
    world.finish().unwrap();
}

#[test]
fn a_page_past_the_end_of_its_file_is_a_bus_error() {
    let mut world = world(1);
    world
        .map(
            0,
            1,
            4,
            RW,
            Back::File {
                file: 0,
                from: 0,
                shared: false,
            },
        )
        .unwrap();
    let handled = world.access(0, 0, 4, 0, Access::Read, 0).unwrap().unwrap();
    assert_eq!(
        (handled.outcome, handled.denial),
        (Outcome::Denied, Some(Denial::PastEnd))
    );
    world.finish().unwrap();
}

#[test]
fn denials_say_why() {
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
fn unmapping_frees_nothing_before_every_cpu_has_forgotten_it() {
    let mut world = world(3);
    (0..3).for_each(|cpu| {
        assert_eq!(
            touch(&mut world, cpu, 0, cpu, Access::Write, 7),
            Some(Outcome::ZeroFill)
        )
    });
    (0..3).for_each(|cpu| {
        (0..3).for_each(|page| assert_eq!(touch(&mut world, cpu, 0, page, Access::Read, 0), None))
    });
    world
        .step(Op::Unmap {
            cpu: 0,
            process: 0,
            page: 1,
            count: 1,
        })
        .unwrap();
    (0..3).for_each(|cpu| {
        assert_eq!(
            touch(&mut world, cpu, 0, 1, Access::Read, 0),
            Some(Outcome::Denied)
        )
    });
    // All of the 2 MiB: the table goes as well.
    let dropped = world.processes[0]
        .space
        .unmap(&world.mem, va(0), va(4))
        .unwrap();
    (0..4).for_each(|page| drop(world.processes[0].pages.0.remove(&page)));
    assert_eq!((dropped.dropped, dropped.freed), (2, 2));
    world.check().unwrap();
    world.finish().unwrap();
}

#[test]
fn code_is_cleaned_once_and_again_after_it_was_written() {
    let mut world = world(1);
    world
        .map(
            0,
            1,
            1,
            RX,
            Back::File {
                file: 0,
                from: 0,
                shared: false,
            },
        )
        .unwrap();
    assert_eq!(
        touch(&mut world, 0, 0, 1, Access::Exec, 0),
        Some(Outcome::Exec)
    );
    assert_eq!(world.mem.mmu.syncs.get(), 1);
    // The same frame in a second place is clean already.
    world
        .map(
            0,
            2,
            1,
            RX,
            Back::File {
                file: 0,
                from: 0,
                shared: false,
            },
        )
        .unwrap();
    assert_eq!(
        touch(&mut world, 0, 0, 2, Access::Exec, 0),
        Some(Outcome::Exec)
    );
    assert_eq!(world.mem.mmu.syncs.get(), 1);
    // The kernel writes the file.
    world
        .step(Op::FileWrite {
            cpu: 0,
            file: 0,
            page: 0,
            value: 1,
        })
        .unwrap();
    world
        .map(
            0,
            3,
            1,
            RX,
            Back::File {
                file: 0,
                from: 0,
                shared: false,
            },
        )
        .unwrap();
    touch(&mut world, 0, 0, 3, Access::Exec, 0);
    assert_eq!(world.mem.mmu.syncs.get(), 2);
    world.finish().unwrap();
}

#[test]
fn a_page_is_never_writable_and_executable_at_once() {
    let mut world = world(2);
    world.map(0, 1, 1, RWX, Back::Anonymous).unwrap();
    for round in 1..4 {
        let outcome = write(&mut world, 0, 1, round);
        assert_eq!(
            outcome,
            Some(if round == 1 {
                Outcome::ZeroFill
            } else {
                Outcome::CowReuse
            })
        );
        assert_eq!(
            touch(&mut world, 1, 0, 1, Access::Exec, 0),
            Some(Outcome::Exec)
        );
        assert_eq!(world.mem.mmu.syncs.get(), u64::from(round));
    }
    world.finish().unwrap();
}

#[test]
fn the_stack_grows_to_its_limit_and_keeps_clear_of_what_is_below() {
    let mut world = World::new(1, 160, 1, None);
    let top = USER_END - (64 << 20);
    let stack = |start| Mapping {
        start,
        end: top,
        prot: RW,
        shared: false,
        backing: Backing::Anonymous,
        region: Region::Stack,
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
                ..stack_of(free)
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

fn stack_of(start: u64) -> Mapping {
    let backing = Backing::Anonymous;
    Mapping {
        start,
        end: start + PAGE_SIZE,
        prot: RW,
        shared: false,
        backing,
        region: Region::Mmap,
    }
}

/// Many processes, more than ASIDs, take turns on all CPUs, each with its own byte at one address.
fn take_turns(omit: Option<crate::sim::Site>) -> Result<World, String> {
    let mut world = World::new(3, 400, 1, omit);
    for process in 0..20 {
        if process > 0 {
            let space = AddressSpace::new(&world.mem).map_err(|error| error.to_string())?;
            world.adopt(space);
        }
        world.map(process, 1, 1, RW, Back::Anonymous)?;
        world.access(process, process, 1, 0, Access::Write, process as u8)?;
        world.check()?;
    }
    for round in 0..60 {
        let read = world.access(round / 7, round % 20, 1, 0, Access::Read, 0);
        // The broken rule, if there is one, says more than the wrong byte.
        if let Err(error) = world.check().and(read.map(|_| ())) {
            std::mem::forget(world);
            return Err(error);
        }
    }
    Ok(world)
}

#[test]
fn more_address_spaces_than_asids_take_turns() {
    let world = take_turns(None).unwrap();
    assert_eq!(world.mem.asids.bits(), 3);
    assert!(
        world.mem.asids.generation() >= 8,
        "each number is handed out again and again"
    );
    world.finish().unwrap();
}

#[test]
fn a_rollover_without_its_flush_is_reported() {
    let world = take_turns(None).unwrap();
    let sites = world.mem.mmu.sites.borrow().clone();
    world.finish().unwrap();
    let site = sites.into_keys().find(|site| site.what == "TLBI VMALLE1");
    let error = take_turns(site).map(std::mem::forget).unwrap_err();
    assert!(error.starts_with("Asid: "), "{error}");
}

#[test]
fn what_runs_during_rollovers_keeps_its_number() {
    let mut world = World::new(3, 400, 1, None);
    for _ in 0..12 {
        let space = AddressSpace::new(&world.mem).unwrap();
        world.adopt(space);
    }
    let number = |world: &World, process: usize| world.processes[process].space.root().asid();
    world.run(0, 0);
    world.run(1, 1);
    let before = (number(&world, 0), number(&world, 1));
    let generation = world.mem.asids.generation();
    for turn in 0..40 {
        world.run(2, 2 + turn % 10);
        world.check().unwrap();
        let taken = number(&world, 2 + turn % 10);
        assert!(taken != before.0 && taken != before.1 && taken != 0);
    }
    assert!(world.mem.asids.generation() >= generation + 3);
    // On another CPU as well.
    world.run(2, 0);
    world.run(2, 1);
    assert_eq!((number(&world, 0), number(&world, 1)), before);
    world.finish().unwrap();
}

#[test]
fn the_end_of_an_address_space_frees_its_number_without_a_rollover() {
    let mut world = World::new(1, 160, 1, None);
    for _ in 0..40 {
        let space = AddressSpace::new(&world.mem).unwrap();
        world.adopt(space);
        world.run(0, 1);
        exit(&mut world, 1);
    }
    assert_eq!(world.mem.asids.generation(), 1);
    world.finish().unwrap();
}

#[test]
fn ranges_from_programs_are_checked() {
    let mut world = World::new(1, 160, 1, None);
    let mem = &world.mem;
    let space = &mut world.processes[0].space;
    let bad = [
        (0, PAGE_SIZE),
        (0x10_0001, 0x10_2000),
        (0x10_0000, 0x10_0001),
        (0x10_0000, 0x10_0000),
        (USER_END - PAGE_SIZE, USER_END + PAGE_SIZE),
        (u64::MAX - PAGE_SIZE + 1, 0),
    ];
    for (start, end) in bad {
        let mapping = Mapping {
            end,
            ..stack_of_unchecked(start)
        };
        assert_eq!(
            space.map(mem, mapping),
            Err(MapError::Invalid),
            "{start:#x}..{end:#x}"
        );
        if start != 0 {
            assert_eq!(space.unmap(mem, start, end), Err(MapError::Invalid));
            assert_eq!(space.protect(mem, start, end, RW), Err(MapError::Invalid));
        }
    }
    assert_eq!(
        space.protect(mem, 0x10_0000, 0x10_1000, RW),
        Err(MapError::NotMapped)
    );
    for len in [0, 1, USER_END, USER_END + PAGE_SIZE, !(PAGE_SIZE - 1)] {
        assert_eq!(space.find_free(len, 0), None, "{len:#x}");
    }
    world.finish().unwrap();
}

fn stack_of_unchecked(start: u64) -> Mapping {
    Mapping {
        end: 0,
        ..Mapping {
            start,
            ..stack_of(0x10_0000)
        }
    }
}

#[test]
fn mappings_split_and_merge() {
    let mut world = world(1);
    assert_eq!(world.processes[0].space.mappings().len(), 1);
    protect(&mut world, 0, 3, Prot::READ);
    assert_eq!(world.processes[0].space.mappings().len(), 3);
    protect(&mut world, 0, 3, RW);
    assert_eq!(world.processes[0].space.mappings().len(), 1);
    world
        .step(Op::Unmap {
            cpu: 0,
            process: 0,
            page: 3,
            count: 2,
        })
        .unwrap();
    assert_eq!(world.processes[0].space.mappings().len(), 2);
    world.map(0, 3, 2, RW, Back::Anonymous).unwrap();
    assert_eq!(world.processes[0].space.mappings().len(), 1);
    world.finish().unwrap();
}

#[test]
fn eager_fork_leaves_nothing_to_copy() {
    let mut world = world(2);
    (0..4).for_each(|page| assert_eq!(write(&mut world, 0, page, 3), Some(Outcome::ZeroFill)));
    world.fork(0, ForkMode::Eager).unwrap();
    for process in [0, 1] {
        (0..4).for_each(|page| assert_eq!(write(&mut world, process, page, process as u8), None));
    }
    world.finish().unwrap();
}

/// Two processes that share the tables of the first 2 MiB (pages 0 to 3, all of them written) and
/// the second (pages 4 to 7, one of them).
fn shared(cpus: usize) -> World {
    let mut world = world(cpus);
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
fn the_first_write_below_a_shared_table_copies_the_table_then_the_page() {
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
fn a_child_that_left_gives_the_table_back_with_one_fault() {
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
fn the_last_owner_of_a_table_does_not_get_frames_that_a_copy_of_it_maps() {
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
fn unmapping_and_protecting_part_of_a_shared_table_touch_only_the_caller() {
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
fn unmapping_part_of_a_shared_table_can_run_out_of_memory_and_changes_nothing() {
    let mut world = shared(1);
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
fn a_saturated_table_counter_fails_the_fork_and_nothing_else() {
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
fn a_classic_fork_of_a_shared_table_leaves_nothing_writable() {
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
fn small_tables_are_copied_even_if_tables_are_shared() {
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
