//! Mapping and unmapping.

use memory::{Access, MapError, Mapping, Outcome, PAGE_SIZE, Prot, USER_END};

use crate::oracle::va;
use crate::program::{Back, Op};
use crate::traps::{RW, page_at, protect, touch, world};
use crate::world::World;

#[test]
pub fn unmapping_frees_nothing_before_every_cpu_has_forgotten_it() {
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
pub fn ranges_from_programs_are_checked() {
    let mut world = World::new(1, 160, 1);
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
            ..unchecked(start)
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

fn unchecked(start: u64) -> Mapping {
    Mapping {
        end: 0,
        ..Mapping {
            start,
            ..page_at(0x10_0000)
        }
    }
}

#[test]
pub fn mappings_split_and_merge() {
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
