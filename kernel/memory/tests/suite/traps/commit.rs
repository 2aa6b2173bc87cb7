//! Overcommit: what fork and mmap promise must be there when it is written, or be refused.

use std::sync::Arc;

use memory::{
    Access, AddressSpace, Backing, ForkMode, MapError, Mapping, Outcome, PAGE_BYTES, PAGE_SIZE,
    PageCache, Prot, Region, Request, Source, SpaceError, mutate,
};

use super::{RW, page_at, read, starvable, world, write};
use crate::oracle::{OFFSETS, va};
use crate::program::{Back, Op};
use crate::world::{STARVABLE, World};

/// One process with more than half of the machine in private, writable pages.
fn big(seed: u64) -> World {
    let mut world = World::new(1, 160, seed);
    let mapping = Mapping {
        end: va(0) + 90 * PAGE_SIZE,
        ..page_at(va(0))
    };
    world.processes[0].space.map(&world.mem, mapping).unwrap();
    world
}

#[test]
pub fn a_fork_that_could_not_be_kept_is_refused_before_anything_changes() {
    for mode in [ForkMode::Classic, ForkMode::SharedTables, ForkMode::Eager] {
        let mut world = big(1);
        let free = world.mem.frames.free_count();
        let committed = world.mem.frames.committed();
        let Err(SpaceError::Refused(refusal)) = world.processes[0].space.fork(&world.mem, mode)
        else {
            panic!("{mode:?}: not refused");
        };
        // The pages, the two tables they lie in, the level 2 table and the root.
        assert_eq!(refusal.pages, 94);
        assert!(refusal.left < 94);
        assert_eq!(world.mem.frames.free_count(), free);
        assert_eq!(world.mem.frames.committed(), committed);
        world.check().unwrap();
        world.finish().unwrap();
    }
}

#[test]
pub fn without_a_limit_the_same_fork_succeeds() {
    let mut world = big(1 | STARVABLE);
    let (child, _) = world.processes[0]
        .space
        .fork(&world.mem, ForkMode::Classic)
        .unwrap();
    world.adopt(child);
    assert_eq!(world.mem.frames.committed(), 2 * 94);
    world.check().unwrap();
    world.finish().unwrap();
}

/// The whole point: all that the kernel may have is taken, and every write still finds its frames,
/// tables and copies.
#[test]
pub fn no_write_to_what_is_charged_runs_out_of_memory() {
    for mode in [ForkMode::Classic, ForkMode::SharedTables, ForkMode::Eager] {
        let mut world = world(1);
        world.mem.share_from = 1;
        for page in 0..4 {
            write(&mut world, 0, page, 1);
        }
        for parent in [0, 0, 1] {
            world.fork(parent, mode).unwrap();
        }
        let mut taken = Vec::new();
        while let Some(frame) = world.mem.alloc() {
            taken.push(frame);
        }
        assert_eq!(world.mem.frames.available(), 0);
        assert!(world.mem.frames.free_count() > 0, "{mode:?}");
        for process in 0..4 {
            for page in 0..8 {
                write(&mut world, process, page, 9);
            }
        }
        // All was needed: the worst case was no more than that.
        assert_eq!(world.mem.frames.free_count(), 0, "{mode:?}");
        for frame in taken {
            world.mem.free(frame);
        }
        world.finish().unwrap();
    }
}

/// A frame with two owners is promised once more, not twice; the last owner needs none.
#[test]
pub fn the_end_of_a_sharer_gives_its_promise_back() {
    let mut world = world(1);
    write(&mut world, 0, 0, 1);
    let alone = world.mem.frames.available();
    world.fork(0, ForkMode::Classic).unwrap();
    assert!(world.mem.frames.available() < alone);
    super::exit(&mut world, 1);
    assert_eq!(world.mem.frames.available(), alone);
    assert_eq!(write(&mut world, 0, 0, 2), Some(Outcome::CowReuse));
    world.finish().unwrap();
}

/// As on Linux: memory that was writable stays charged, since its frames stay.
#[test]
pub fn making_memory_read_only_keeps_its_charge_and_raising_it_takes_one() {
    let mut world = World::new(1, 160, 1);
    world.map(0, 0, 8, Prot::READ, Back::Anonymous).unwrap();
    let before = world.mem.frames.committed();
    let space = &mut world.processes[0].space;
    space.protect(&world.mem, va(0), va(4), RW).unwrap();
    // Two tables more.
    assert_eq!(world.mem.frames.committed(), before + 4 + 2);
    space.protect(&world.mem, va(0), va(4), Prot::READ).unwrap();
    assert_eq!(world.mem.frames.committed(), before + 4 + 2);
    space.unmap(&world.mem, va(0), va(8)).unwrap();
    assert_eq!(world.mem.frames.committed(), before);
    world.processes[0].pages.0.clear();
    world.finish().unwrap();
}

#[test]
pub fn a_protection_that_cannot_be_charged_is_refused_and_changes_nothing() {
    let mut world = World::new(1, 160, 1);
    let mapping = Mapping {
        end: va(0) + 200 * PAGE_SIZE,
        prot: Prot::READ,
        ..page_at(va(0))
    };
    let space = &mut world.processes[0].space;
    space.map(&world.mem, mapping).unwrap();
    let end = va(0) + 200 * PAGE_SIZE;
    let refused = space.protect(&world.mem, va(0), end, RW);
    assert!(matches!(refused, Err(MapError::Refused(refusal)) if refusal.pages == 203));
    assert_eq!(space.mappings()[0].prot, Prot::READ);
    world.check().unwrap();
    world.finish().unwrap();
}

/// A stack is charged for what is mapped of it, so that many small processes fit; growth is charged
/// when it happens.
#[test]
pub fn a_stack_is_charged_as_it_grows() {
    let mut world = World::new(1, 160, 1);
    let top = va(0) + 64 * PAGE_SIZE;
    let mapping = Mapping {
        start: top - PAGE_SIZE,
        end: top,
        region: Region::Stack,
        ..page_at(va(0))
    };
    world.processes[0].space.map(&world.mem, mapping).unwrap();
    let before = world.mem.frames.committed();
    let grow = |world: &mut World, pages: u64| {
        let addr = top - pages * PAGE_SIZE;
        let access = Access::Write;
        let space = &mut world.processes[0].space;
        space.fault(&world.mem, Request { addr, access }).outcome
    };
    assert_eq!(grow(&mut world, 5), Outcome::StackGrow);
    assert_eq!(world.mem.frames.committed(), before + 4);
    let mut taken = Vec::new();
    while let Some(frame) = world.mem.alloc() {
        taken.push(frame);
    }
    assert_eq!(grow(&mut world, 6), Outcome::OutOfMemory);
    assert_eq!(world.mem.frames.committed(), before + 4);
    for frame in taken {
        world.mem.free(frame);
    }
    world.check().unwrap();
    world.finish().unwrap();
}

/// Shared memory is there once, however many share it: fork is charged for its tables only.
#[test]
pub fn shared_memory_is_charged_once() {
    let mut world = World::new(1, 160, 1);
    let root = world.mem.frames.committed();
    world.map(0, 0, 8, RW, Back::Shared).unwrap();
    assert_eq!(world.mem.frames.committed(), root + 8 + 3);
    write(&mut world, 0, 2, 1);
    world.fork(0, ForkMode::Classic).unwrap();
    assert_eq!(world.mem.frames.committed(), 2 * (root + 3) + 8);
    super::exit(&mut world, 0);
    assert_eq!(world.mem.frames.committed(), root + 3 + 8);
    super::exit(&mut world, 0);
    assert_eq!(world.mem.frames.committed(), 0);
    world.finish().unwrap();
}

/// The kernel's own frames never come out of what was promised.
#[test]
pub fn the_kernel_is_refused_what_was_promised() {
    let mut world = world(1);
    let promised = world.mem.frames.free_count() - world.mem.frames.available();
    // Eight pages, and the three tables they lack; the root exists.
    assert_eq!(promised, 11);
    world.step(Op::Starve { left: 0 }).unwrap();
    assert_eq!(world.mem.frames.free_count(), promised);
    assert_eq!(read(&mut world, 0, 0), Some(Outcome::ZeroPage));
    world.finish().unwrap();
    let mut world = starvable(1);
    world.step(Op::Starve { left: 0 }).unwrap();
    assert_eq!(world.mem.frames.free_count(), 0);
    world.finish().unwrap();
}

#[test]
pub fn a_new_address_space_is_charged_for_its_root() {
    let mut world = World::new(1, 160, 1);
    let before = world.mem.frames.committed();
    let space = AddressSpace::new(&world.mem).unwrap();
    assert_eq!(world.mem.frames.committed(), before + 1);
    world.adopt(space);
    world.finish().unwrap();
}

/// A file that ends before its page does.
struct Short;

impl Source for Short {
    fn fill(&self, _: u64, page: &mut [u8; PAGE_BYTES]) {
        page[0] = 5;
    }
}

/// The page cache may have no frame left for a private page, which was promised one. Past the end
/// of the file the page has zeros, and not what its frame held before.
#[test]
pub fn a_private_file_page_that_the_cache_has_no_frame_for_is_as_clean_as_any() {
    page_without_cache(None);
    (0..5).map(Some).for_each(page_without_cache);
}

/// `once`: not all frames are taken, but this allocation is refused, once.
fn page_without_cache(once: Option<u64>) {
    let mut world = world(1);
    let backing = Backing::File {
        cache: Arc::new(PageCache::new(9, PAGE_SIZE, Box::new(Short))),
        offset: 0,
    };
    let mapping = Mapping {
        backing,
        ..page_at(va(3))
    };
    // Whatever frame it gets has something in it.
    for page in 0..8 {
        for offset in 0..OFFSETS.len() {
            world.access(0, 0, page, offset, Access::Write, 7).unwrap();
        }
    }
    let unmap = Op::Unmap {
        cpu: 0,
        process: 0,
        page: 0,
        count: 7,
    };
    world.step(unmap).unwrap();
    // Where there are tables already.
    let space = &mut world.processes[0].space;
    space.map(&world.mem, mapping).unwrap();
    let mut taken = Vec::new();
    match once {
        Some(_) => mutate::refuse(once),
        None => taken.extend(std::iter::from_fn(|| world.mem.alloc())),
    }
    let space = &mut world.processes[0].space;
    let request = Request {
        addr: va(3),
        access: Access::Write,
    };
    let mut handled = space.fault(&world.mem, request);
    mutate::refuse(None);
    if once.is_some() && handled.outcome == Outcome::OutOfMemory {
        handled = space.fault(&world.mem, request);
    }
    assert_eq!(handled.outcome, Outcome::FileCopy, "{once:?}");
    world.mem.mmu.machine.borrow_mut().synchronise();
    for (offset, expected) in [(0, 5), (OFFSETS[1], 0)] {
        let mut byte = [9];
        let at = va(3) + offset;
        space.read(&world.mem, at, &mut byte).unwrap();
        assert_eq!(byte, [expected], "at {offset}");
    }
    taken.into_iter().for_each(|frame| world.mem.free(frame));
    world.finish().unwrap();
}
