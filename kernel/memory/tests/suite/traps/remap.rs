//! Moving and discarding.

use memory::{Access, ForkMode, MapError, Outcome, PAGE_SIZE, Place, Remap, Remapped};

use super::{FILE, RW, read, starvable, touch, world, write};
use crate::oracle::va;
use crate::program::{Op, To};
use crate::world::World;

fn discard(world: &mut World, process: usize, page: usize, count: usize) {
    let cpu = 0;
    let op = Op::Discard {
        cpu,
        process,
        page,
        count,
    };
    world.step(op).unwrap();
}

fn remap(world: &mut World, process: usize, page: usize, count: usize, to: usize) {
    let op = Op::Remap {
        cpu: 0,
        process,
        page,
        count,
        new_count: count,
        to: To::Page(to),
    };
    world.step(op).unwrap();
}

/// CVE-2018-18281: other CPUs still hold the old place's entries when the pages have moved, and
/// what the frames hold belongs to the new place.
#[test]
pub fn mremap_flushes_before_anything_is_used_again() {
    let mut world = world(3);
    for cpu in 0..3 {
        touch(&mut world, cpu, 0, 1, Access::Write, 7);
    }
    remap(&mut world, 0, 1, 1, 9);
    for cpu in 0..3 {
        assert_eq!(
            touch(&mut world, cpu, 0, 1, Access::Read, 0),
            Some(Outcome::Denied)
        );
        assert_eq!(
            touch(&mut world, cpu, 0, 1, Access::Write, 9),
            Some(Outcome::Denied)
        );
        assert_eq!(
            touch(&mut world, cpu, 0, 9, Access::Write, 8),
            None,
            "no fault, no copy"
        );
    }
    world.finish().unwrap();
}

/// CVE-2016-5195 (Dirty COW): the kernel writes a private page of a file, which is dropped between
/// the steps of that. Whatever the order, the write ends in a copy.
#[test]
pub fn madvise_against_a_write_never_reaches_the_file() {
    let mut world = world(2);
    world.map(0, 0, 1, RW, FILE).unwrap();
    world.map(0, 2, 1, RW, FILE).unwrap();
    for value in 0..20 {
        if value % 3 > 0 {
            assert_eq!(read(&mut world, 0, 0), Some(Outcome::FileRead));
        }
        let (cpu, process, page) = (1, 0, 0);
        world
            .step(Op::KernelWrite {
                cpu,
                process,
                page,
                value,
            })
            .unwrap();
        if value % 2 > 0 {
            world.fork(0, ForkMode::SharedTables).unwrap();
            super::exit(&mut world, 1);
        }
        read(&mut world, 0, 2);
        discard(&mut world, 0, 0, 1);
    }
    world.finish().unwrap();
}

/// The table goes by its entry, and stays shared: nothing is copied, nothing else changes hands.
#[test]
pub fn a_shared_table_moves_whole() {
    [false, true].into_iter().for_each(move_shared_table);
}

/// `keep`: the old place stays mapped, and is empty.
fn move_shared_table(keep: bool) {
    let mut world = World::new(1, 2000, 1);
    world.mem.share_from = 1;
    let span = 512 * PAGE_SIZE;
    let (from, to) = (va(0) & !(span - 1), 0x1000_0000);
    let mapping = memory::Mapping {
        start: from + span,
        end: from + 2 * span,
        ..super::page_at(from + span)
    };
    let space = &mut world.processes[0].space;
    space.map(&world.mem, mapping).unwrap();
    let write = |space: &mut memory::AddressSpace, mem: &memory::Memory<_>, at: u64, value: u8| {
        space.write(mem, at, &[value]).unwrap();
    };
    write(space, &world.mem, from + span + 5, 1);
    let (mut child, _) = space.fork(&world.mem, ForkMode::SharedTables).unwrap();
    let free = world.mem.frames.free_count();
    let remap = Remap {
        start: from + span,
        len: span,
        new_len: span,
        place: Place::At(to),
        keep,
    };
    let done = child.remap(&world.mem, remap).unwrap();
    let moved = Remapped {
        start: to,
        cut: None,
        replaced: None,
        moved: span,
    };
    assert_eq!(done, moved);
    assert_eq!(world.mem.frames.free_count(), free);
    // Nothing is left of it where it was.
    world.adopt(child);
    world.check().unwrap();
    let mut child = world.processes.pop().unwrap().space;
    write(&mut child, &world.mem, to + 5, 2);
    let mut seen = [0];
    let space = &mut world.processes[0].space;
    space.read(&world.mem, from + span + 5, &mut seen).unwrap();
    assert_eq!(seen, [1], "the child wrote its own page");
    child.destroy(&world.mem);
    world.processes[0]
        .space
        .unmap(&world.mem, from + span, from + 2 * span)
        .unwrap();
    world.finish().unwrap();
}

#[test]
pub fn moving_and_discarding_can_run_out_of_memory_and_change_nothing() {
    for shared in [false, true] {
        let mut world = starvable(1);
        world.mem.share_from = 1;
        (0..3).for_each(|page| assert_eq!(write(&mut world, 0, page, 5), Some(Outcome::ZeroFill)));
        let mode = if shared {
            ForkMode::SharedTables
        } else {
            ForkMode::Classic
        };
        world.fork(0, mode).unwrap();
        world.step(Op::Starve { left: 0 }).unwrap();
        let space = &mut world.processes[1].space;
        let remap = Remap {
            start: va(0),
            len: 2 * PAGE_SIZE,
            new_len: 2 * PAGE_SIZE,
            place: Place::At(va(16)),
            keep: false,
        };
        assert_eq!(space.remap(&world.mem, remap), Err(MapError::OutOfMemory));
        let discarded = space.discard(&world.mem, va(0), va(2));
        assert_eq!(
            discarded.is_err(),
            shared,
            "only a shared table needs a copy"
        );
        if !shared {
            world.processes[1].pages.discard(0, 2);
        }
        assert_eq!(world.processes[1].space.mappings().len(), 1);
        (0..3).for_each(|page| assert_eq!(read(&mut world, 0, page), None));
        assert_eq!(read(&mut world, 1, 2), None);
        world.finish().unwrap();
    }
}

#[test]
pub fn a_move_that_finds_one_of_two_tables_gives_it_back() {
    let mut world = starvable(1);
    write(&mut world, 0, 0, 5);
    world.step(Op::Starve { left: 1 }).unwrap();
    let remap = Remap {
        start: va(0),
        len: PAGE_SIZE,
        new_len: PAGE_SIZE,
        place: Place::At(va(0) + (1 << 30)),
        keep: false,
    };
    let done = world.processes[0].space.remap(&world.mem, remap);
    assert_eq!(done, Err(MapError::OutOfMemory));
    assert_eq!(world.mem.frames.free_count(), 1);
    assert_eq!(read(&mut world, 0, 0), None);
    world.finish().unwrap();
}

/// No place grows into a neighbour, wraps around, or leaves user space.
#[test]
pub fn bad_places() {
    let mut world = world(1);
    let (space, mem) = (&mut world.processes[0].space, &world.mem);
    let remap = Remap {
        start: va(1),
        len: PAGE_SIZE,
        new_len: 2 * PAGE_SIZE,
        place: Place::Here,
        keep: false,
    };
    let end = memory::USER_END;
    let page = PAGE_SIZE;
    for (remap, error) in [
        (remap, MapError::NoRoom),
        (
            Remap {
                start: va(1) + 1,
                ..remap
            },
            MapError::Invalid,
        ),
        (Remap { len: 0, ..remap }, MapError::Invalid),
        (
            Remap {
                len: 0u64.wrapping_sub(page),
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                new_len: 0,
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                new_len: 1,
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                new_len: 0u64.wrapping_sub(page),
                ..remap
            },
            MapError::NoRoom,
        ),
        (
            Remap {
                new_len: end,
                place: Place::Anywhere,
                ..remap
            },
            MapError::NoRoom,
        ),
        (
            Remap {
                keep: true,
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                place: Place::At(0),
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                place: Place::At(end - page),
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                place: Place::At(0u64.wrapping_sub(page)),
                ..remap
            },
            MapError::Invalid,
        ),
        (
            Remap {
                start: va(12),
                ..remap
            },
            MapError::NotMapped,
        ),
        (
            Remap {
                len: 8 * page,
                new_len: 9 * page,
                ..remap
            },
            MapError::NotMapped,
        ),
    ] {
        assert_eq!(space.remap(mem, remap), Err(error), "{remap:?}");
    }
    assert_eq!(space.mappings().len(), 1);
    world.finish().unwrap();
}
