//! A test for each trap that some kernel fell into; `list` says which is which. All of them on the
//! adversarial machine, whose report is part of every step.

mod asid;
mod commit;
mod fault;
mod file;
mod fork;
mod list;
mod mapping;
mod protect;
mod remap;
mod table;

pub use self::list::all;

use memory::{Access, Backing, Mapping, Outcome, PAGE_SIZE, Prot, Region};

use crate::program::{Back, Op};
use crate::world::{STARVABLE, World};

const RW: Prot = Prot::READ.union(Prot::WRITE);

const RX: Prot = Prot::READ.union(Prot::EXEC);

const RWX: Prot = RW.union(Prot::EXEC);

/// The first file, mapped privately.
const FILE: Back = Back::File {
    file: 0,
    from: 0,
    shared: false,
};
const FILE_SHARED: Back = Back::File {
    file: 0,
    from: 0,
    shared: true,
};

/// One process with eight anonymous pages.
fn world(cpus: usize) -> World {
    let mut world = World::new(cpus, 160, 1);
    world.map(0, 0, 8, RW, Back::Anonymous).unwrap();
    world
}

/// The same, on a machine that promises more than it has.
fn starvable(cpus: usize) -> World {
    let mut world = World::new(cpus, 160, 1 | STARVABLE);
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

/// An anonymous page.
fn page_at(start: u64) -> Mapping {
    let backing = Backing::Anonymous;
    Mapping {
        start,
        end: start + PAGE_SIZE,
        prot: RW,
        shared: false,
        may_write: true,
        backing,
        region: Region::Mmap,
        charged: false,
    }
}
