//! What changes many pages at once: fork, unmapping, protection, the end of an address space.

use std::ops::Range;

use wire::event::{self, Fault, ForkMode, Outcome, Space};

use super::check::{Spot, Subject};
use super::descriptor::{LEAVES, PAGE_SIZE};
use super::machine::Machine;
use super::overlap::{Object, Overlap};
use super::process::Process;
use super::space::{AddressSpace, ForkId, How, Leaf, TableId};

/// Leaves of one address space by class.
#[derive(Clone, Copy, Debug, Default)]
struct Classes {
    anon: u32,
    file: u32,
    zero: u32,
    shared: u32,
}

/// References that went away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    dropped: u32,
    freed: u32,
    /// A frame was among them whose references the trace cannot count.
    unknown: bool,
}

/// The tables of a parent, each with its address / 2 MiB, those that a fork shares first, and how
/// many these are; it copies the others leaf by leaf. `sharing`: what the kernel said of the forks
/// of this parent.
fn shared_tables(
    fork: &event::Fork,
    parent: &AddressSpace,
    sharing: &[(Space, Range<u64>)],
) -> (usize, Vec<(u64, TableId)>) {
    let tables = parent.slots.iter().map(|(slot, id)| (*slot, *id));
    let is_shared = |(slot, _): &(u64, TableId)| {
        let told = |(child, range): &(Space, Range<u64>)| {
            *child == fork.child_space && range.contains(&(slot * LEAVES * PAGE_SIZE))
        };
        sharing.iter().any(told)
    };
    let (mut shared, copied): (Vec<_>, Vec<_>) = tables.partition(is_shared);
    let count = shared.len();
    shared.extend(copied);
    (count, shared)
}

impl Machine {
    /// Valid leaves of an address space: anonymous, of files, of the zero page.
    pub fn resident(&self, space: Space) -> [u32; 3] {
        let classes = self
            .spaces
            .get(&space)
            .map(|space| self.classes(space.slots.values().copied()))
            .unwrap_or_default();
        let Classes {
            anon, file, zero, ..
        } = classes;
        [anon, file, zero]
    }

    /// Anonymous pages of an address space: mapped by it alone, and mapped by others too.
    pub fn private_and_shared(&self, space: &AddressSpace) -> (u32, u32) {
        let (mut private, mut shared) = (0, 0);
        for id in space.slots.values() {
            let table = self.tables.get(*id);
            for leaf in table
                .leaves
                .iter()
                .filter(|leaf| leaf.descriptor.anonymous())
            {
                let references = leaf
                    .counted_frame()
                    .map_or(1, |f| self.frames.references(f));
                if table.parents > 1 || references > 1 {
                    shared += 1;
                } else {
                    private += 1;
                }
            }
        }
        (private, shared)
    }

    fn classes(&self, tables: impl Iterator<Item = TableId>) -> Classes {
        let mut classes = Classes::default();
        for table in tables {
            for leaf in self
                .tables
                .get(table)
                .leaves
                .iter()
                .filter(|leaf| leaf.valid())
            {
                let descriptor = leaf.descriptor;
                classes.zero += u32::from(descriptor.zero());
                classes.anon += u32::from(descriptor.anonymous());
                classes.file += u32::from(descriptor.file());
                classes.shared += u32::from(descriptor.shared());
            }
        }
        classes
    }

    pub(super) fn fork(&mut self, time: u64, fork: &event::Fork) {
        let code = self.code(fork.parent_space, fork.pc);
        let callers = self.callers(fork.parent_space, &fork.stack);
        let id = self.forks.add(time, fork, code, callers);
        let parent = self.process_mut(fork.parent, fork.parent_space);
        parent.activity.forks.add(fork.cost);
        parent.activity.shared += u64::from(fork.shared);
        parent.activity.copied_at_fork += u64::from(fork.copied);
        let (name, file) = (parent.name.clone(), parent.file);
        let mut child = Process::new(fork.child, fork.child_space);
        (child.parent, child.started) = (Some(fork.parent), Some(time));
        (child.name, child.file) = (name, file);
        child.borrowed = fork.mode == ForkMode::Vfork;
        self.start(child);
        if fork.child_space == fork.parent_space {
            return;
        }
        let Some(parent) = self.spaces.remove(&fork.parent_space) else {
            // Nothing of the parent was ever seen, so nothing is known of its copy either.
            self.space_mut(fork.child_space).certain = false;
            return;
        };
        let mut child = self
            .spaces
            .remove(&fork.child_space)
            .unwrap_or_else(|| AddressSpace::new(fork.child_space, None, false));
        child.certain &= parent.certain;
        child.program = parent.program;
        child.mappings.clone_from(&parent.mappings);
        if self.faults_traced {
            let spot = Spot {
                time,
                space: fork.child_space,
                address: None,
            };
            self.copy_pages(spot, fork, id, &parent, &mut child);
        }
        self.spaces.insert(fork.parent_space, parent);
        self.spaces.insert(fork.child_space, child);
    }

    fn copy_pages(
        &mut self,
        spot: Spot,
        fork: &event::Fork,
        id: ForkId,
        parent: &AddressSpace,
        child: &mut AddressSpace,
    ) {
        let sharing = self.sharing.remove(&fork.parent_space).unwrap_or_default();
        let (shared, tables) = shared_tables(fork, parent, &sharing);
        let (shared, copied_tables) = tables.split_at(shared);
        for (slot, table) in shared {
            let shared = self.tables.get_mut(*table);
            (shared.parents, shared.fork) = (shared.parents + 1, id);
            self.overlap.change(Object::Table(*table));
            child.slots.insert(*slot, *table);
        }
        let below = self.classes(shared.iter().map(|(_, table)| *table));
        let below = below.anon + below.file - below.shared;
        self.forks.set_below(id, below);
        self.process_mut(fork.parent, fork.parent_space)
            .activity
            .shared += u64::from(below);
        let classes = self.classes(copied_tables.iter().map(|(_, table)| *table));
        let leaves = classes.anon + classes.file + classes.zero;
        let private_files = classes.file - classes.shared;
        let copied = if fork.mode == ForkMode::Eager {
            classes.anon
        } else {
            0
        };
        let rebuilt = [leaves, classes.anon + private_files - copied, copied];
        let said = [fork.leaves, fork.shared, fork.copied];
        let known = parent.certain;
        self.checks.compare(
            Subject::Fork,
            spot,
            said,
            known.then_some(rebuilt),
            |counts| {
                let [leaves, shared, copied] = counts;
                format!(
                    "{leaves} descriptors for the child, {shared} pages shared, {copied} copied"
                )
            },
        );
        if leaves != fork.leaves {
            child.certain = false;
        }
        for (slot, table) in copied_tables {
            let copy = match fork.mode {
                ForkMode::Eager => self.copy_table_eagerly(*slot, *table, fork.pc, parent),
                _ => self.copy_table(*table, id),
            };
            child.slots.insert(*slot, copy);
        }
    }

    /// Copies a table for a child: both map the same frames, private ones read-only.
    fn copy_table(&mut self, table: TableId, id: ForkId) -> TableId {
        for leaf in self
            .tables
            .get_mut(table)
            .leaves
            .iter_mut()
            .filter(|leaf| leaf.valid())
        {
            let forked = leaf.descriptor.forked();
            leaf.inferred |= forked != leaf.descriptor;
            leaf.descriptor = forked;
            if forked.anonymous() {
                leaf.fork = id;
            }
            if let Some(frame) = leaf.counted_frame() {
                self.frames.acquire(frame);
            }
        }
        self.tables.duplicate(table)
    }

    /// The same for an eager fork, which gives the child frames of its own.
    fn copy_table_eagerly(
        &mut self,
        slot: u64,
        table: TableId,
        pc: u64,
        parent: &AddressSpace,
    ) -> TableId {
        const WRITE: u8 = 2;
        let copy = self.tables.duplicate(table);
        for index in 0..LEAVES as usize {
            let ours = &mut self.tables.get_mut(table).leaves[index];
            if !ours.valid() {
                continue;
            }
            let before = ours.descriptor;
            let (mut mine, mut theirs) = (before.forked(), *ours);
            theirs.descriptor = mine;
            if before.anonymous() {
                let address = (slot * LEAVES + index as u64) * PAGE_SIZE;
                let prot = parent.mapping(address).map_or(0, |mapping| mapping.prot);
                let alone = ours
                    .counted_frame()
                    .is_none_or(|frame| self.frames.references(frame) == 1);
                if prot & WRITE != 0 {
                    theirs.descriptor = before.written();
                    if alone {
                        mine = before.written();
                    }
                }
                let descriptor = theirs.descriptor.at(self.frames.stand_in());
                theirs = Leaf {
                    fork: 0,
                    pc,
                    how: How::Copied,
                    descriptor,
                    ..theirs
                };
            }
            ours.inferred |= mine != before;
            ours.descriptor = mine;
            theirs.inferred = true;
            if let Some(frame) = theirs.counted_frame() {
                self.frames.acquire(frame);
            }
            self.tables.get_mut(copy).leaves[index] = theirs;
        }
        copy
    }

    /// A fault that first had to do with a shared table. Returns the fork that had shared it.
    pub(super) fn table_fault(&mut self, fault: &Fault) -> ForkId {
        let slot = fault.addr / PAGE_SIZE / LEAVES;
        let table = self
            .spaces
            .get(&fault.space)
            .and_then(|space| space.slots.get(&slot));
        let Some(table) = table.copied() else {
            return 0;
        };
        match fault.outcome {
            Outcome::TableUnshare => self.unshare(fault.space, slot),
            // Another CPU has left the table to this one, and is about to tell.
            Outcome::TableReuse if self.tables.get(table).parents > 1 => {
                self.unshare(fault.space, slot)
            }
            Outcome::TableReuse => std::mem::take(&mut self.tables.get_mut(table).fork),
            _ => 0,
        }
    }

    /// Gives an address space its own copy of a shared table. Returns the fork that had shared it.
    fn unshare(&mut self, space: Space, slot: u64) -> ForkId {
        let Some(table) = self
            .spaces
            .get(&space)
            .and_then(|space| space.slots.get(&slot))
        else {
            return 0;
        };
        let table = *table;
        let fork = self.tables.get(table).fork;
        // In the kernel its copy was under way, and its leaves lost their rights, before this event.
        self.overlap.change(Object::Table(table));
        if self.tables.get(table).parents < 2 {
            self.copied_by_two(table);
            self.tables.get_mut(table).fork = 0;
            return fork;
        }
        let shared = self.tables.get_mut(table);
        for leaf in shared
            .leaves
            .iter_mut()
            .filter(|leaf| leaf.descriptor.anonymous())
        {
            if leaf.descriptor.shared() {
                continue;
            }
            leaf.fork = fork;
            (leaf.descriptor, leaf.inferred) = (leaf.descriptor.forked(), true);
        }
        shared.parents -= 1;
        if shared.parents == 1 {
            shared.fork = 0;
        }
        let copy = self.tables.duplicate(table);
        for leaf in self.tables.get(copy).leaves.iter() {
            if let Some(frame) = leaf.counted_frame() {
                self.frames.acquire(frame);
            }
        }
        if let Some(space) = self.spaces.get_mut(&space) {
            space.slots.insert(slot, copy);
        }
        fork
    }

    /// The kernel may have copied a table that has one owner by now: while another CPU did so too,
    /// or ended its address space. For a moment there was one reference more to each frame, and
    /// what was copied is protected.
    fn copied_by_two(&mut self, table: TableId) {
        if !self.overlap.possible() {
            return;
        }
        for leaf in self.tables.get_mut(table).leaves.iter_mut() {
            if let Some(frame) = leaf.counted_frame() {
                let frame = self.frames.known(frame).unwrap_or(frame);
                self.overlap.change(Object::Frame(frame));
                leaf.inferred = true;
            }
        }
    }

    /// The last-level tables of an address space that `range` touches, and the leaves it covers.
    fn covered(&self, space: Space, range: &Range<u64>) -> Vec<(u64, Range<usize>)> {
        let Some(space) = self.spaces.get(&space) else {
            return Vec::new();
        };
        let (first, last) = (range.start / PAGE_SIZE, range.end.div_ceil(PAGE_SIZE));
        let part = |slot: u64| {
            let base = slot.wrapping_mul(LEAVES);
            let from = first.saturating_sub(base).min(LEAVES) as usize;
            let to = last.saturating_sub(base).min(LEAVES) as usize;
            (from < to).then_some((slot, from..to))
        };
        let slots = first / LEAVES..last.div_ceil(LEAVES);
        if slots.end.saturating_sub(slots.start) < space.slots.len() as u64 {
            slots
                .filter(|slot| space.slots.contains_key(slot))
                .filter_map(part)
                .collect()
        } else {
            space.slots.keys().copied().filter_map(part).collect()
        }
    }

    pub(super) fn unmap(
        &mut self,
        time: u64,
        space: Space,
        range: Range<u64>,
        dropped: u32,
        freed: u32,
    ) {
        self.discard(time, space, range.clone(), dropped, freed);
        self.space_mut(space).unmap(range.start, range.end);
    }

    /// The pages of a range are gone; the mappings stay.
    pub(super) fn discard(
        &mut self,
        time: u64,
        space: Space,
        range: Range<u64>,
        dropped: u32,
        freed: u32,
    ) {
        let mut total = Dropped::default();
        for (slot, leaves) in self.covered(space, &range) {
            self.drop_part(space, slot, leaves, &mut total);
        }
        let spot = Spot {
            time,
            space,
            address: Some(range.start),
        };
        self.check_dropped(spot, dropped, freed, total);
    }

    /// Drops part of a table. From one that others share the kernel takes nothing: it lets go of the
    /// table, if that served nothing else, or has made it its own before.
    fn drop_part(&mut self, space: Space, slot: u64, part: Range<usize>, total: &mut Dropped) {
        let Some(id) = self.table(space, slot) else {
            return;
        };
        let table = self.tables.get(id);
        let leaves = table.leaves.iter().enumerate();
        let outside = leaves.filter(|(index, leaf)| leaf.valid() && !part.contains(index));
        if outside.count() > 0 {
            self.unshare(space, slot);
            if let Some(id) = self.table(space, slot) {
                self.drop_leaves(id, part, total);
            }
            return;
        }
        if table.parents > 1 {
            let leaves = table.leaves[part].iter();
            let counted = leaves.filter(|leaf| leaf.valid() && !leaf.descriptor.zero());
            total.dropped += counted.count() as u32;
        }
        self.drop_table(id, total);
        self.space_mut(space).slots.remove(&slot);
    }

    /// The last-level table of an address space for an address / 2 MiB.
    fn table(&self, space: Space, slot: u64) -> Option<TableId> {
        self.spaces.get(&space)?.slots.get(&slot).copied()
    }

    /// An address space took a shared table for its own outside a fault.
    pub(super) fn table_owned(&mut self, space: Space, start: u64, copied: bool) {
        let slot = start / PAGE_SIZE / LEAVES;
        if copied {
            self.unshare(space, slot);
        } else if let Some(table) = self.table(space, slot) {
            self.tables.get_mut(table).fork = 0;
        }
    }

    /// A range has moved: tables go whole where the kernel moves them so, else leaf by leaf.
    pub(super) fn move_pages(&mut self, space: Space, range: Range<u64>, to: u64) {
        for (slot, part) in self.covered(space, &range) {
            let page = slot * LEAVES + part.start as u64;
            let target = to / PAGE_SIZE + (page - range.start / PAGE_SIZE);
            if part.len() as u64 == LEAVES && target.is_multiple_of(LEAVES) {
                let slots = &mut self.space_mut(space).slots;
                if let Some(table) = slots.remove(&slot) {
                    slots.insert(target / LEAVES, table);
                }
                continue;
            }
            self.unshare(space, slot);
            let Some(from) = self.table(space, slot) else {
                continue;
            };
            for index in part.clone() {
                let leaf = std::mem::take(&mut self.tables.get_mut(from).leaves[index]);
                if leaf.valid() {
                    let page = target + (index - part.start) as u64;
                    let table = self.table(space, page / LEAVES).unwrap_or_else(|| {
                        let table = self.tables.add();
                        self.space_mut(space).slots.insert(page / LEAVES, table);
                        table
                    });
                    self.tables.get_mut(table).leaves[(page % LEAVES) as usize] = leaf;
                }
            }
        }
        self.space_mut(space).remap(range.start, range.end, to);
    }

    fn check_dropped(&mut self, spot: Spot, dropped: u32, freed: u32, total: Dropped) {
        let known = self.certain(spot.space) && !total.unknown;
        let trace = (known && !self.uncertain).then_some((total.dropped, total.freed));
        let show = |&(dropped, freed): &(u32, u32)| {
            format!("{dropped} references dropped, {freed} frames freed")
        };
        // What the event at hand has changed so far is what it dropped.
        let frames = &self.frames.changed;
        let objects = |overlap: &Overlap| {
            let mut objects = overlap.changes();
            objects.extend(frames.iter().map(|frame| Object::Frame(*frame)));
            objects
        };
        self.checks.compare_shared(
            Subject::Drop,
            spot,
            ((dropped, freed), trace),
            (&mut self.overlap, objects),
            show,
        );
    }

    fn drop_leaves(&mut self, table: TableId, leaves: Range<usize>, total: &mut Dropped) {
        for leaf in &mut self.tables.get_mut(table).leaves[leaves] {
            let leaf = std::mem::take(leaf);
            if !leaf.valid() || leaf.descriptor.zero() {
                continue;
            }
            total.dropped += 1;
            match leaf.counted_frame().map(|frame| self.frames.release(frame)) {
                // The page cache keeps its frames.
                Some(Some(0)) => total.freed += u32::from(leaf.descriptor.anonymous()),
                Some(Some(_)) => {}
                Some(None) | None => total.unknown = true,
            }
        }
    }

    fn drop_table(&mut self, table: TableId, total: &mut Dropped) {
        self.overlap.change(Object::Table(table));
        let parents = &mut self.tables.get_mut(table).parents;
        *parents -= 1;
        if *parents == 0 {
            self.drop_leaves(table, 0..LEAVES as usize, total);
            self.tables.remove(table);
        }
    }

    pub(super) fn space_end(&mut self, time: u64, space: Space, dropped: u32, freed: u32) {
        if let Some(total) = self.drop_pages(space) {
            self.check_dropped(
                Spot {
                    time,
                    space,
                    address: None,
                },
                dropped,
                freed,
                total,
            );
        }
        self.forks.space_end(space, dropped);
        self.spaces.remove(&space);
    }

    /// Forgets an address space that is gone without an event.
    pub(super) fn drop_space(&mut self, space: Space) {
        self.drop_pages(space);
        self.spaces.remove(&space);
    }

    fn drop_pages(&mut self, space: Space) -> Option<Dropped> {
        let tables = std::mem::take(&mut self.spaces.get_mut(&space)?.slots);
        let mut total = Dropped::default();
        for table in tables.into_values() {
            self.drop_table(table, &mut total);
        }
        Some(total)
    }

    pub(super) fn protect(&mut self, space: Space, start: u64, end: u64, prot: u8) {
        self.space_mut(space).protect(start, end, prot);
        for (slot, leaves) in self.covered(space, &(start..end)) {
            let Some(table) = self.table(space, slot) else {
                continue;
            };
            // The kernel has made those its own in which a leaf loses a right.
            if self.tables.get(table).parents > 1 {
                continue;
            }
            for leaf in &mut self.tables.get_mut(table).leaves[leaves] {
                if leaf.valid() {
                    let tightened = leaf.descriptor.tightened(prot);
                    leaf.inferred |= tightened != leaf.descriptor;
                    leaf.descriptor = tightened;
                }
            }
        }
    }
}
