//! What processes use of memory: resident (RSS), their share of it (PSS), and what is theirs alone (USS),
//! as in Linux's `smaps_rollup`.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde::Serialize;
use wire::event::Space;

use super::descriptor::{LEAVES, PAGE_SIZE};
use super::machine::Machine;
use super::space::{AddressSpace, Leaf, Mapping};

/// Pages of an address space, or of a part of it. The zero page is no memory of anybody's, as on Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Footprint {
    /// Pages that are mapped.
    pub resident: u64,
    /// Each divided by the address spaces that map it.
    pub proportional: f64,
    /// Those that nobody else maps.
    pub unique: u64,
    /// Private pages of programs: not of a file, or copied from it.
    pub anonymous: u64,
    /// Pages of files and of shared mappings.
    pub file: u64,
    /// Where the zero page is mapped.
    pub zero: u64,
}

impl Footprint {
    fn add(&mut self, leaf: &Leaf, sharers: u32) {
        if leaf.descriptor.zero() {
            self.zero += 1;
            return;
        }
        self.resident += 1;
        self.proportional += 1.0 / f64::from(sharers.max(1));
        self.unique += u64::from(sharers <= 1);
        match leaf.descriptor.anonymous() {
            true => self.anonymous += 1,
            false => self.file += 1,
        }
    }

    /// All of `other` too.
    pub fn merge(&mut self, other: &Footprint) {
        self.resident += other.resident;
        self.proportional += other.proportional;
        self.unique += other.unique;
        self.anonymous += other.anonymous;
        self.file += other.file;
        self.zero += other.zero;
    }
}

/// How many address spaces map each frame.
pub struct Sharers(FxHashMap<u64, u32>);

impl Sharers {
    /// As it is now.
    pub fn of(machine: &Machine) -> Self {
        let mut sharers = FxHashMap::default();
        for space in machine.spaces.values() {
            for (_, leaf) in leaves(machine, space) {
                if let Some(frame) = frame(machine, leaf) {
                    *sharers.entry(frame).or_default() += 1;
                }
            }
        }
        Sharers(sharers)
    }

    /// What an address space uses, by the start of each mapping.
    pub fn by_mapping(
        &self,
        machine: &Machine,
        space: Space,
    ) -> BTreeMap<u64, (Option<Mapping>, Footprint)> {
        let mut parts: BTreeMap<u64, (Option<Mapping>, Footprint)> = BTreeMap::new();
        let Some(space) = machine.spaces.get(&space) else {
            return parts;
        };
        for (page, leaf) in leaves(machine, space) {
            let mapping = space.mapping(page * PAGE_SIZE);
            let start = mapping.map_or(0, |mapping| mapping.start);
            let (_, part) = parts
                .entry(start)
                .or_insert((mapping.copied(), Footprint::default()));
            let sharers = frame(machine, leaf).and_then(|frame| self.0.get(&frame));
            part.add(leaf, sharers.copied().unwrap_or(1));
        }
        parts
    }
}

fn frame(machine: &Machine, leaf: &Leaf) -> Option<u64> {
    let frame = leaf.counted_frame()?;
    Some(machine.frames.known(frame).unwrap_or(frame))
}

fn leaves<'a>(
    machine: &'a Machine,
    space: &'a AddressSpace,
) -> impl Iterator<Item = (u64, &'a Leaf)> {
    space.slots.iter().flat_map(|(slot, table)| {
        let leaves = machine.tables.get(*table).leaves.iter();
        let numbered = (slot * LEAVES..).zip(leaves);
        numbered.filter(|(_, leaf)| leaf.valid())
    })
}
