//! What the pages of a range cost, and whom: what Linux's smaps tells.

use core::convert::Infallible;

use crate::descriptor::{Content, Leaf};
use crate::frame::{Kind, PAGE_SIZE};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use crate::tables::for_chunks;

/// Pages that valid leaves map, the zero page not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of them.
    pub resident: u64,
    /// This address space's share of them, in bytes times 2^[`Usage::SHIFT`].
    pub proportional: u64,
    /// Mapped by others as well, and unchanged since they came from the file.
    pub shared_clean: u64,
    /// Mapped by others as well, and written.
    pub shared_dirty: u64,
    /// Mapped by nobody else, and unchanged since they came from the file.
    pub private_clean: u64,
    /// Mapped by nobody else, and written.
    pub private_dirty: u64,
    /// The share of what was written.
    pub proportional_dirty: u64,
    /// Private memory.
    pub anonymous: u64,
}

impl Usage {
    /// Binary places of the shares (Linux's PSS_SHIFT).
    pub const SHIFT: u32 = 12;

    /// Adds another range's.
    pub fn add(&mut self, other: &Usage) {
        self.resident += other.resident;
        self.proportional += other.proportional;
        self.shared_clean += other.shared_clean;
        self.shared_dirty += other.shared_dirty;
        self.private_clean += other.private_clean;
        self.private_dirty += other.private_dirty;
        self.proportional_dirty += other.proportional_dirty;
        self.anonymous += other.anonymous;
    }
}

impl AddressSpace {
    /// What a range uses. A page is shared by the tables that map it, and each of these by its
    /// parents: along the path the references say how many share it, and the shares of all of them
    /// add up to the page.
    pub fn usage<M: Mmu>(&self, mem: &Memory<M>, start: u64, end: u64) -> Usage {
        let mut usage = Usage::default();
        let mmu = &mem.mmu;
        let Ok(()) = for_chunks::<M, Infallible>(mmu, self.root, start, end, |chunk| {
            let parents = match chunk.table.is_shared() {
                true => u64::from(mem.frames.refs(chunk.table.frame()).max(1)),
                false => 1,
            };
            for (_, slot) in chunk.pages() {
                let Some(leaf) = Leaf::from_bits(slot.read(mmu)) else {
                    continue;
                };
                if !leaf.counted() {
                    continue;
                }
                let frame = leaf.frame();
                // The cache's own reference maps nothing.
                let held = u32::from(mem.frames.kind(frame) == Kind::Cache);
                let tables = mem.frames.refs(frame).saturating_sub(held).max(1);
                let sharers = u64::from(tables) * parents;
                let share = (PAGE_SIZE << Usage::SHIFT) / sharers;
                let anonymous = leaf.content() == Content::Anon;
                let dirty = anonymous || mem.frames.written(frame);
                usage.resident += 1;
                usage.proportional += share;
                usage.anonymous += u64::from(anonymous);
                if dirty {
                    usage.proportional_dirty += share;
                }
                *match (sharers > 1, dirty) {
                    (true, false) => &mut usage.shared_clean,
                    (true, true) => &mut usage.shared_dirty,
                    (false, false) => &mut usage.private_clean,
                    (false, true) => &mut usage.private_dirty,
                } += 1;
            }
            Ok(())
        });
        usage
    }
}
