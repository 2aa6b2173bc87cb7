//! The invariants of `translation-and-cow.md` 5.3, counted from the tables themselves.

use std::collections::BTreeMap;

use memory::descriptor::{Content, Leaf, Table, bits};
use memory::{AddressSpace, Frame, Kind, Mapping, Memory, Prot, Resident};

use super::Result;
use crate::sim::Sim;

/// Who maps what, counted from the tables themselves.
#[derive(Default)]
pub struct Census {
    /// Effectively writable leaves, and all leaves, of distinct tables, by frame.
    frames: BTreeMap<u64, (u32, u32)>,
    /// Parents by table, and how many of them write-protect it.
    tables: BTreeMap<u64, (u32, u32)>,
}

impl Census {
    /// A table, and whether it is met for the first time.
    fn table(&mut self, mem: &Memory<Sim>, frame: u64, read_only: bool) -> (Vec<u64>, bool) {
        let parents = self.tables.entry(frame).or_default();
        parents.0 += 1;
        parents.1 += u32::from(read_only);
        (mem.mmu.machine.borrow().table(frame), parents.0 == 1)
    }

    pub fn space(&mut self, mem: &Memory<Sim>, space: &AddressSpace) -> Result {
        let mut resident = Resident::default();
        for (i, entry) in self
            .table(mem, space.root().frame().number(), false)
            .0
            .into_iter()
            .enumerate()
        {
            let Some(l2) = entry_table(entry)? else {
                continue;
            };
            for (j, entry) in self
                .table(mem, l2.frame().number(), false)
                .0
                .into_iter()
                .enumerate()
            {
                let Some(l3) = entry_table(entry)? else {
                    continue;
                };
                let base = (i as u64) << 30 | (j as u64) << 21;
                let served = |m: &Mapping| m.start < base + (1 << 21) && m.end > base;
                if !space.mappings().iter().any(served) {
                    return Err(format!("the table for {base:#x} serves no mapping"));
                }
                let read_only = entry & bits::TABLE_READ_ONLY != 0;
                if read_only != l3.is_shared() {
                    return Err(format!("the table entry {entry:#x} is half shared"));
                }
                let charged = |m: &Mapping| served(m) && m.charged;
                let charged = space.mappings().iter().any(charged);
                let marked = mem.frames.serves_charge(l3.frame());
                if marked != charged && (marked || !read_only) {
                    return Err(format!(
                        "the table for {base:#x}: marked as charged = {marked}, charged = {charged}"
                    ));
                }
                let (entries, first) = self.table(mem, l3.frame().number(), read_only);
                for (k, entry) in entries.into_iter().enumerate() {
                    let Some(leaf) = Leaf::from_bits(entry) else {
                        if entry != 0 {
                            return Err(format!("{entry:#x} was broken and not released"));
                        }
                        continue;
                    };
                    self.leaf(
                        mem,
                        space,
                        base | (k as u64) << 12,
                        leaf,
                        read_only,
                        &mut resident,
                    )?;
                    if leaf.counted() {
                        let private = leaf.writable() && leaf.content() != Content::Shared;
                        let frame = self.frames.entry(leaf.frame().number()).or_default();
                        frame.0 += u32::from(private && !read_only);
                        frame.1 += u32::from(first);
                    }
                }
            }
        }
        if resident != space.resident() {
            return Err(format!(
                "{:?} is counted, {resident:?} is mapped",
                space.resident()
            ));
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        mem: &Memory<Sim>,
        space: &AddressSpace,
        va: u64,
        leaf: Leaf,
        read_only: bool,
        resident: &mut Resident,
    ) -> Result {
        let Some(mapping) = space
            .mappings()
            .iter()
            .find(|m| m.start <= va && va < m.end)
        else {
            return Err(format!("{va:#x} is a leaf, but not a mapping"));
        };
        let more = (leaf.writable() && !read_only && !mapping.prot.contains(Prot::WRITE))
            || (leaf.executable() && !mapping.prot.contains(Prot::EXEC))
            || (leaf.accessible() && mapping.prot == Prot::NONE);
        if more || leaf.cow() && leaf.writable() || leaf.executable() && leaf.writable() {
            return Err(format!(
                "{va:#x}: the leaf {:#x} grants more than {:?}",
                leaf.bits(),
                mapping.prot
            ));
        }
        let kind = match leaf.content() {
            Content::Anon => {
                resident.anon += 1;
                Kind::Anon
            }
            Content::File | Content::Shared => {
                resident.file += 1;
                Kind::Cache
            }
            Content::Zero => {
                resident.zero += 1;
                Kind::Zero
            }
        };
        if mem.frames.kind(leaf.frame()) != kind
            || mapping.shared != (leaf.content() == Content::Shared)
        {
            return Err(format!(
                "{va:#x}: the leaf {:#x} maps a frame of another kind",
                leaf.bits()
            ));
        }
        Ok(())
    }

    pub fn counts(&self, mem: &Memory<Sim>) -> Result {
        for (&frame, &(writable, leaves)) in &self.frames {
            let (refs, kind) = (
                mem.frames.refs(Frame::new(frame)),
                mem.frames.kind(Frame::new(frame)),
            );
            let expected = leaves + u32::from(kind == Kind::Cache);
            if refs != expected {
                return Err(format!(
                    "frame {frame:#x} has {refs} references, not {expected}"
                ));
            }
            if writable > 0 && refs != 1 {
                return Err(format!("frame {frame:#x} is writable and shared"));
            }
        }
        for (&table, &(parents, read_only)) in &self.tables {
            let (refs, kind) = (
                mem.frames.refs(Frame::new(table)),
                mem.frames.kind(Frame::new(table)),
            );
            if refs != parents || kind != Kind::Table {
                return Err(format!(
                    "table {table:#x}, a {kind:?}, has {refs} references, not {parents}"
                ));
            }
            if parents > 1 && read_only != parents {
                return Err(format!("table {table:#x} is shared and writable"));
            }
        }
        Ok(())
    }
}

fn entry_table(entry: u64) -> Result<Option<Table>> {
    match Table::from_bits(entry) {
        Some(table) => Ok(Some(table)),
        None if entry == 0 => Ok(None),
        None => Err(format!("the table {entry:#x} was broken and not released")),
    }
}
