//! Pages of files, private and shared.

use std::sync::Arc;

use memory::{
    Access, Backing, Denial, ForkMode, Outcome, PAGE_BYTES, PAGE_SIZE, PageCache, Prot, Request,
    Source,
};

use crate::program::Back;
use crate::traps::{FILE, FILE_SHARED, RW, RX, page_at, read, touch, world, write};

#[test]
pub fn a_shared_mapping_stays_shared_and_is_not_protected_by_fork() {
    for back in [Back::Shared, FILE_SHARED] {
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
pub fn a_private_file_page_is_copied_at_the_first_write_and_never_written_back() {
    let mut world = world(1);
    world.map(0, 1, 2, RW, FILE).unwrap();
    world.map(0, 4, 2, Prot::READ, FILE).unwrap();
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
pub fn a_page_past_the_end_of_its_file_is_a_bus_error() {
    let mut world = world(1);
    world.map(0, 1, 4, RW, FILE).unwrap();
    let handled = world.access(0, 0, 4, 0, Access::Read, 0).unwrap().unwrap();
    assert_eq!(
        (handled.outcome, handled.denial),
        (Outcome::Denied, Some(Denial::PastEnd))
    );
    world.finish().unwrap();
}

#[test]
pub fn a_file_that_is_cut_off_has_zeros_there_and_is_cleaned_again() {
    let mut world = world(1);
    world.map(0, 1, 1, RX, FILE).unwrap();
    touch(&mut world, 0, 0, 1, Access::Exec, 0);
    assert_eq!(world.executed("IC IVAU"), 1);
    world.cut_off(0, 1);
    for offset in 0..3 {
        world.access(0, 0, 1, offset, Access::Read, 0).unwrap();
    }
    world.map(0, 2, 1, RX, FILE).unwrap();
    touch(&mut world, 0, 0, 2, Access::Exec, 0);
    assert_eq!(world.executed("IC IVAU"), 2, "the frame was written");
    world.finish().unwrap();
}

#[test]
pub fn code_that_is_written_through_a_shared_mapping_is_cleaned_where_it_is_mapped_next() {
    let mut world = world(1);
    world.map(0, 1, 1, RX, FILE).unwrap();
    touch(&mut world, 0, 0, 1, Access::Exec, 0);
    world.map(0, 2, 1, RW, FILE_SHARED).unwrap();
    assert_eq!(write(&mut world, 0, 2, 7), Some(Outcome::SharedWrite));
    world.map(0, 3, 1, RX, FILE).unwrap();
    touch(&mut world, 0, 0, 3, Access::Exec, 0);
    assert_eq!(world.executed("IC IVAU"), 2);
    world.finish().unwrap();
}

#[test]
pub fn pages_that_are_cut_off_are_given_back_and_zero_where_they_are_mapped() {
    let mut world = world(1);
    let before = world.mem.frames.free_count();
    let cache = Arc::new(PageCache::zeroed(9, 3 * PAGE_SIZE));
    assert_eq!(
        cache.write(&world.mem, 0, &[7; 3 * PAGE_BYTES]),
        Ok(3 * PAGE_BYTES)
    );
    assert_eq!(world.mem.frames.free_count(), before - 3);
    cache.set_len(&world.mem, PAGE_SIZE + 10);
    assert_eq!(world.mem.frames.free_count(), before - 2);
    cache.grow(3 * PAGE_SIZE);
    let mut bytes = [1; 2];
    for (offset, expected) in [(9, 7), (PAGE_SIZE + 10, 0), (2 * PAGE_SIZE, 0)] {
        cache.read(&world.mem, offset, &mut bytes[..1]).unwrap();
        assert_eq!(bytes[0], expected, "at {offset}");
    }
    // Code that is mapped: what was cut off is zero there, and cleaned before it is executed again.
    let start = 1 << 30;
    let space = &mut world.processes[0].space;
    let mut mapping = page_at(start);
    mapping.prot = RX;
    mapping.backing = Backing::File {
        cache: cache.clone(),
        offset: 0,
    };
    space.map(&world.mem, mapping).unwrap();
    let fetch = Request {
        addr: start,
        access: Access::Exec,
    };
    assert!(space.fault(&world.mem, fetch).succeeded());
    cache.set_len(&world.mem, 0);
    space.read(&world.mem, start, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0]);
    let cleaned = world.executed("IC IVAU");
    let space = &mut world.processes[0].space;
    for prot in [Prot::READ, RX] {
        space
            .protect(&world.mem, start, start + PAGE_SIZE, prot)
            .unwrap();
    }
    assert_eq!(space.fault(&world.mem, fetch).outcome, Outcome::Exec);
    assert_eq!(world.executed("IC IVAU"), cleaned + 1);
    let space = &mut world.processes[0].space;
    space.unmap(&world.mem, start, start + PAGE_SIZE).unwrap();
    PageCache::release(cache, &world.mem);
    assert_eq!(world.mem.frames.free_count(), before);
    world.finish().unwrap();
}

#[test]
pub fn a_file_gives_up_only_pages_that_nobody_maps_and_nobody_wrote() {
    let mut world = world(1);
    let cache = Arc::new(PageCache::new(9, 4 * PAGE_SIZE, Box::new(Sevens)));
    let before = world.mem.frames.free_count();
    let start = 1 << 30;
    let mut mapping = page_at(start);
    mapping.end = start + 3 * PAGE_SIZE;
    mapping.prot = Prot::READ;
    mapping.backing = Backing::File {
        cache: cache.clone(),
        offset: 0,
    };
    let space = &mut world.processes[0].space;
    space.map(&world.mem, mapping).unwrap();
    let mut byte = [0];
    for page in 0..3 {
        space
            .read(&world.mem, start + page * PAGE_SIZE, &mut byte)
            .unwrap();
    }
    cache.write(&world.mem, PAGE_SIZE, &[8]).unwrap();
    cache
        .punch(&world.mem, 3 * PAGE_SIZE, 4 * PAGE_SIZE)
        .unwrap();
    assert_eq!(cache.reclaim(&world.mem), 0, "all are mapped");
    let space = &mut world.processes[0].space;
    space
        .unmap(&world.mem, start + PAGE_SIZE, start + 3 * PAGE_SIZE)
        .unwrap();
    assert_eq!(
        cache.reclaim(&world.mem),
        1,
        "one is mapped, one was written"
    );
    for (page, expected) in [(0, 7), (1, 8), (2, 7), (3, 0)] {
        cache.read(&world.mem, page * PAGE_SIZE, &mut byte).unwrap();
        assert_eq!(byte[0], expected, "page {page}");
    }
    let space = &mut world.processes[0].space;
    space.unmap(&world.mem, start, start + PAGE_SIZE).unwrap();
    PageCache::release(cache, &world.mem);
    // What the address space has kept are its tables.
    assert_eq!(world.mem.frames.free_count(), before);
    world.finish().unwrap();
}

/// A file of sevens.
struct Sevens;

impl Source for Sevens {
    fn fill(&self, _: u64, page: &mut [u8; PAGE_BYTES]) {
        page.fill(7);
    }
}
