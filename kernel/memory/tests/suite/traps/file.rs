//! Pages of files, private and shared.

use memory::{Access, Denial, ForkMode, Outcome, Prot};

use crate::program::Back;
use crate::traps::{FILE, FILE_SHARED, RW, read, world, write};

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
