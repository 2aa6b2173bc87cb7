//! Rights that are lost, and code that is written.

use memory::{Access, ForkMode, MapError, Outcome, PAGE_SIZE, Prot};

use crate::oracle::va;
use crate::program::{Back, Op, To};
use crate::traps::{FILE, RW, RWX, RX, protect, read, touch, world, write};
use crate::world::World;

#[test]
pub fn protecting_a_cow_page_and_back_does_not_make_it_writable() {
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
pub fn protection_is_gone_from_every_cpu_when_the_call_returns() {
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
pub fn code_is_cleaned_once_and_again_after_it_was_written() {
    let mut world = world(1);
    world.map(0, 1, 1, RX, FILE).unwrap();
    assert_eq!(
        touch(&mut world, 0, 0, 1, Access::Exec, 0),
        Some(Outcome::Exec)
    );
    assert_eq!(world.executed("IC IVAU"), 1);
    // The same frame in a second place is clean already.
    world.map(0, 2, 1, RX, FILE).unwrap();
    assert_eq!(
        touch(&mut world, 0, 0, 2, Access::Exec, 0),
        Some(Outcome::Exec)
    );
    assert_eq!(world.executed("IC IVAU"), 1);
    // The kernel writes the file.
    world
        .step(Op::FileWrite {
            cpu: 0,
            file: 0,
            page: 0,
            value: 1,
        })
        .unwrap();
    world.map(0, 3, 1, RX, FILE).unwrap();
    touch(&mut world, 0, 0, 3, Access::Exec, 0);
    assert_eq!(world.executed("IC IVAU"), 2);
    world.finish().unwrap();
}

#[test]
pub fn a_page_is_never_writable_and_executable_at_once() {
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
        assert_eq!(world.executed("IC IVAU"), u64::from(round));
    }
    world.finish().unwrap();
}

#[test]
pub fn code_that_an_eager_fork_makes_writable_again_is_cleaned_again() {
    let mut world = world(1);
    world.map(0, 1, 1, RWX, Back::Anonymous).unwrap();
    write(&mut world, 0, 1, 1);
    touch(&mut world, 0, 0, 1, Access::Exec, 0);
    protect(&mut world, 0, 1, RW);
    world.fork(0, ForkMode::Eager).unwrap();
    assert_eq!(write(&mut world, 0, 1, 2), None);
    protect(&mut world, 0, 1, RWX);
    touch(&mut world, 0, 0, 1, Access::Exec, 0);
    assert_eq!(world.executed("IC IVAU"), 2);
    world.finish().unwrap();
}

/// A shared mapping of a file that was opened to read stays without writes, whatever becomes of it;
/// what is like it but for that does not merge with it.
#[test]
pub fn what_must_not_be_written_stays_so_when_it_is_split_moved_and_forked() {
    let mut world = World::new(1, 160, 1);
    let file = |from| Back::File {
        file: 1,
        from,
        shared: true,
    };
    // Pages 0 to 2 may be written, 3 to 5 may not: see `World::map`.
    world.map(0, 0, 3, RW, file(0)).unwrap();
    world.map(0, 3, 3, Prot::READ, file(3)).unwrap();
    let protect_all = |world: &mut World, process, prot: Prot| {
        let op = Op::Protect {
            cpu: 0,
            process,
            page: 0,
            count: 6,
            prot: prot.bits(),
        };
        world.step(op).unwrap();
    };
    let mappings = |world: &World, process: usize| {
        let list = world.processes[process].space.mappings().iter();
        list.map(|m| (m.len() / PAGE_SIZE, m.prot, m.may_write))
            .collect::<Vec<_>>()
    };
    let apart = [(3, Prot::READ, true), (3, Prot::READ, false)];
    protect_all(&mut world, 0, Prot::READ);
    assert_eq!(mappings(&world, 0), apart);
    // The first half becomes writable, the second stops it.
    protect_all(&mut world, 0, RW);
    assert_eq!(mappings(&world, 0), [(3, RW, true), apart[1]]);
    protect_all(&mut world, 0, Prot::READ);

    // Split and merged again, forked, and moved.
    protect(&mut world, 0, 4, Prot::NONE);
    assert_eq!(mappings(&world, 0)[2], (1, Prot::NONE, false));
    protect(&mut world, 0, 4, Prot::READ);
    assert_eq!(mappings(&world, 0), apart);
    world.fork(0, ForkMode::SharedTables).unwrap();
    assert_eq!(mappings(&world, 1), apart);
    let op = Op::Remap {
        cpu: 0,
        process: 1,
        page: 3,
        count: 3,
        new_count: 4,
        to: To::Page(8),
    };
    world.step(op).unwrap();
    assert_eq!(mappings(&world, 1), [apart[0], (4, Prot::READ, false)]);
    let space = &mut world.processes[1].space;
    let end = va(8) + 4 * PAGE_SIZE;
    let denied = space.protect(&world.mem, va(8), end, RW);
    assert_eq!(denied, Err(MapError::Denied));
    world.finish().unwrap();
}
