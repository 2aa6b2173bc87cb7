//! More address spaces than ASIDs.

use memory::{Access, AddressSpace, Tlbi, mutate};

use crate::program::Back;
use crate::sim::leaving_out;
use crate::traps::{RW, exit};
use crate::world::World;

/// Many processes, more than ASIDs, take turns on all CPUs, each with its own byte at one address.
fn take_turns() -> Result<World, String> {
    let mut world = World::new(3, 400, 1);
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
        world.check().and(read.map(|_| ()))?;
    }
    Ok(world)
}

#[test]
pub fn more_address_spaces_than_asids_take_turns() {
    let world = take_turns().unwrap();
    assert_eq!(world.mem.asids.bits(), 3);
    assert!(
        world.mem.asids.generation() >= 8,
        "each number is handed out again and again"
    );
    world.finish().unwrap();
}

#[test]
pub fn a_rollover_without_its_flush_is_reported() {
    mutate::record();
    let world = take_turns().unwrap();
    world.finish().unwrap();
    let site = mutate::recorded()
        .into_keys()
        .find(|site| site.what == "TLBI VMALLE1");
    let error = leaving_out(site, || take_turns().map(drop)).unwrap_err();
    assert!(error.starts_with("Asid: "), "{error}");
}

#[test]
pub fn what_runs_during_rollovers_keeps_its_number() {
    let mut world = World::new(3, 400, 1);
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
pub fn the_end_of_an_address_space_frees_its_number_without_a_rollover() {
    let mut world = World::new(1, 160, 1);
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
pub fn a_tlbi_names_a_page_by_its_number_and_nothing_else() {
    let va = 0x7f_1234_5678;
    let (page, asid) = (0x7f_1234_5678 >> 12, 0xabcd);
    for op in [
        Tlbi::Vale1 { va, asid },
        Tlbi::Vae1 { va, asid },
        Tlbi::Vale1Is { va, asid },
        Tlbi::Vae1Is { va, asid },
    ] {
        assert_eq!(op.operand(), 0xabcd << 48 | page, "{op:?}");
    }
    for op in [Tlbi::Vaale1Is { va }, Tlbi::Vaae1Is { va }] {
        assert_eq!(op.operand(), page, "{op:?}");
    }
    // Of a kernel's address the sign bits stay out of the TTL hint and the ASID.
    let va = 0xffff_ffff_8123_4000;
    assert_eq!(Tlbi::Vaale1Is { va }.operand(), 0xfff_fff8_1234);
    assert_eq!(Tlbi::Aside1Is { asid }.operand(), 0xabcd << 48);
}
