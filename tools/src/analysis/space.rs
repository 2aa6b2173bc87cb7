//! Address spaces as events describe them: mappings, last-level tables, leaves.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use wire::event::{Backing, Map, Outcome, Region, Space};

use super::descriptor::{Descriptor, LEAVES, Ttbr0};

/// Serial number of a fork in this trace, from 1; 0 is "no fork".
pub type ForkId = u32;

/// How a leaf came to map its frame. Fork does not change it: the frame is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// It maps nothing, and nothing is known to have mapped anything.
    #[default]
    Empty,
    /// A fault's outcome.
    Fault(Outcome),
    /// An eager fork copied it: the child's frame is not in the trace.
    Copied,
    /// Not seen to be made: the kernel named it in a later event.
    Adopted,
}

/// One page of one address space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaf {
    /// The descriptor: as the kernel reported it, or as fork's rules make it from that.
    pub descriptor: Descriptor,
    /// The instruction whose fault made it map its frame.
    pub pc: u64,
    /// The newest fork that shared this page and whose sharing no write has resolved yet.
    pub fork: ForkId,
    /// How it came to map its frame.
    pub how: How,
    /// The descriptor follows from rules; no event has carried its exact bits.
    pub inferred: bool,
}

impl Leaf {
    /// Whether it maps something.
    pub fn valid(&self) -> bool {
        self.descriptor.valid()
    }

    /// The frame whose references this leaf counts in; `None` for the zero page.
    pub fn counted_frame(&self) -> Option<u64> {
        (self.valid() && !self.descriptor.zero()).then(|| self.descriptor.frame())
    }
}

/// Index of a table in [`Tables`].
pub type TableId = u32;

/// A last-level translation table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Address spaces that use it.
    pub parents: u32,
    /// The newest fork that shared it as a whole (0: none).
    pub fork: ForkId,
    /// Its 512 pages.
    pub leaves: Box<[Leaf; LEAVES as usize]>,
}

/// All last-level tables alive.
#[derive(Debug, Default)]
pub struct Tables {
    tables: Vec<Table>,
    free: Vec<TableId>,
}

impl Tables {
    /// An empty table with one parent.
    pub fn add(&mut self) -> TableId {
        if let Some(id) = self.free.pop() {
            let table = &mut self.tables[id as usize];
            (table.parents, table.fork) = (1, 0);
            return id;
        }
        self.push(Table {
            parents: 1,
            fork: 0,
            leaves: Box::new([Leaf::default(); LEAVES as usize]),
        })
    }

    /// A copy of a table, with one parent.
    pub fn duplicate(&mut self, id: TableId) -> TableId {
        let copy = self.add();
        // Two different tables: `add` gives one that nobody uses.
        if let Ok([from, to]) = self.tables.get_disjoint_mut([id as usize, copy as usize]) {
            to.leaves.copy_from_slice(&*from.leaves);
        }
        copy
    }

    fn push(&mut self, table: Table) -> TableId {
        self.tables.push(table);
        (self.tables.len() - 1) as TableId
    }

    /// Forgets a table that has no parents left.
    pub fn remove(&mut self, id: TableId) {
        *self.tables[id as usize].leaves = [Leaf::default(); LEAVES as usize];
        self.free.push(id);
    }

    /// The table.
    pub fn get(&self, id: TableId) -> &Table {
        &self.tables[id as usize]
    }

    /// The table.
    pub fn get_mut(&mut self, id: TableId) -> &mut Table {
        &mut self.tables[id as usize]
    }
}

/// A mapping: what the program asked for, whether pages are there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// PROT_READ 1 | PROT_WRITE 2 | PROT_EXEC 4.
    pub prot: u8,
    /// MAP_SHARED.
    pub shared: bool,
    /// What backs it.
    pub backing: Backing,
    /// What it is for.
    pub region: Region,
}

impl Mapping {
    /// Its part within `start..end`, with the file offset moved along.
    fn cut(&self, start: u64, end: u64) -> Option<Mapping> {
        let (from, to) = (self.start.max(start), self.end.min(end));
        let backing = match self.backing {
            Backing::File { file, offset } => Backing::File {
                file,
                offset: offset.wrapping_add(from.wrapping_sub(self.start)),
            },
            other => other,
        };
        (from < to).then_some(Mapping {
            start: from,
            end: to,
            backing,
            ..*self
        })
    }
}

/// Where an instruction is in a program, independent of where the program was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A byte offset in the file that backs the mapping.
    Offset(u64),
    /// Bytes above the lowest segment of the program.
    Image(u64),
    /// An address as it was linked (nothing is known of where the program was loaded).
    Linked(u64),
}

/// An instruction of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code {
    /// File id.
    pub file: u32,
    /// Where in it.
    pub place: Place,
}

/// One address space.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    /// Serial number.
    pub id: Space,
    /// Its root table and ASID; `None` if its beginning is not in the trace.
    pub ttbr0: Option<Ttbr0>,
    /// Whether every event since its beginning was seen.
    pub certain: bool,
    /// File id of the program it runs.
    pub program: Option<u32>,
    /// Last-level tables by address / 2 MiB.
    pub slots: FxHashMap<u64, TableId>,
    /// Mappings by start.
    pub mappings: BTreeMap<u64, Mapping>,
}

impl AddressSpace {
    /// An address space without anything in it.
    pub fn new(id: Space, ttbr0: Option<Ttbr0>, certain: bool) -> Self {
        AddressSpace {
            id,
            ttbr0,
            certain,
            program: None,
            slots: FxHashMap::default(),
            mappings: BTreeMap::new(),
        }
    }

    /// The mapping that contains `address`.
    pub fn mapping(&self, address: u64) -> Option<&Mapping> {
        let (_, mapping) = self.mappings.range(..=address).next_back()?;
        (address < mapping.end).then_some(mapping)
    }

    /// A mapping was made, or grew.
    pub fn map(&mut self, map: &Map) {
        // What overlaps is the mapping that grew, or what MAP_FIXED replaced: cut it away.
        self.unmap(map.start, map.end);
        let mapping = Mapping {
            start: map.start,
            end: map.end,
            prot: map.prot,
            shared: map.shared,
            backing: map.backing,
            region: map.region,
        };
        self.mappings.insert(map.start, mapping);
    }

    /// Forgets `start..end` of the mappings.
    pub fn unmap(&mut self, start: u64, end: u64) {
        self.split(start, end, |_| None);
    }

    /// Changes the protection of `start..end`.
    pub fn protect(&mut self, start: u64, end: u64, prot: u8) {
        self.split(start, end, |part| Some(Mapping { prot, ..part }));
    }

    /// `start..end` of the mappings is at `to` from now on.
    pub fn remap(&mut self, start: u64, end: u64, to: u64) {
        let inside = self.mappings.range(..end).map(|(_, mapping)| *mapping);
        let parts: Vec<Mapping> = inside.filter_map(|m| m.cut(start, end)).collect();
        self.unmap(start, end);
        for part in parts {
            let at = |address: u64| address.wrapping_sub(start).wrapping_add(to);
            let moved = Mapping {
                start: at(part.start),
                end: at(part.end),
                region: Region::Mmap,
                ..part
            };
            self.unmap(moved.start, moved.end);
            self.mappings.insert(moved.start, moved);
        }
    }

    fn split(&mut self, start: u64, end: u64, change: impl Fn(Mapping) -> Option<Mapping>) {
        let touched: Vec<Mapping> = self
            .mappings
            .range(..end)
            .rev()
            .map(|(_, mapping)| *mapping)
            .take_while(|mapping| mapping.end > start)
            .collect();
        for mapping in touched {
            self.mappings.remove(&mapping.start);
            let changed = mapping.cut(start, end).and_then(&change);
            for part in [mapping.cut(0, start), changed, mapping.cut(end, u64::MAX)] {
                self.mappings.extend(part.map(|part| (part.start, part)));
            }
        }
    }

    /// Which instruction of which file `pc` is.
    pub fn code(&self, pc: u64) -> Option<Code> {
        if let Some(mapping) = self.mapping(pc)
            && let Backing::File { file, offset } = mapping.backing
        {
            return Some(Code {
                file,
                place: Place::Offset(offset + (pc - mapping.start)),
            });
        }
        let file = self.program?;
        let lowest = self.mappings.values().find(|m| m.region == Region::Program);
        let place = match lowest {
            Some(mapping) => Place::Image(pc.wrapping_sub(mapping.start)),
            None => Place::Linked(pc),
        };
        Some(Code { file, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(start: u64, end: u64, backing: Backing) -> Map {
        Map {
            space: 1,
            start,
            end,
            prot: 3,
            shared: false,
            backing,
            region: Region::Mmap,
        }
    }

    #[test]
    fn mappings_split_and_grow() {
        let mut space = AddressSpace::new(1, None, true);
        space.map(&map(
            0x1000,
            0x9000,
            Backing::File {
                file: 4,
                offset: 0x2000,
            },
        ));
        space.unmap(0x3000, 0x5000);
        let left = space.mapping(0x2fff).expect("the part below");
        assert_eq!((left.start, left.end), (0x1000, 0x3000));
        assert!(space.mapping(0x3000).is_none() && space.mapping(0x4fff).is_none());
        let right = *space.mapping(0x5000).expect("the part above");
        assert_eq!(
            right.backing,
            Backing::File {
                file: 4,
                offset: 0x6000
            }
        );
        space.protect(0x6000, 0x7000, 1);
        assert_eq!(space.mapping(0x6000).map(|m| m.prot), Some(1));
        assert_eq!(space.mapping(0x7000).map(|m| m.prot), Some(3));
        let place = space.code(0x8010).map(|code| code.place);
        assert_eq!(place, Some(Place::Offset(0x9010)));

        space.map(&map(0x20_0000, 0x20_2000, Backing::Anonymous));
        space.map(&map(0x1f_f000, 0x20_2000, Backing::Anonymous));
        assert_eq!(space.mapping(0x20_1000).map(|m| m.start), Some(0x1f_f000));
        assert_eq!(space.mappings.len(), 5);
    }
}
