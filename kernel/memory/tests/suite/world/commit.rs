//! The accounts, recomputed from what there is.

use std::collections::BTreeSet;
use std::sync::Arc;

use memory::{Access, AddressSpace, Backing, Frame, Kind, PAGE_SIZE, Prot, mutate};

use super::{FIRST, Result, World};
use crate::oracle::{GROUP, va};

/// What an address space may need in the worst case: counted block by block.
fn worst_case(space: &AddressSpace) -> u64 {
    let mut pages = 1;
    let mut tables = BTreeSet::new();
    for mapping in space.mappings().iter().filter(|mapping| mapping.charged) {
        for va in (mapping.start..mapping.end).step_by(PAGE_SIZE as usize) {
            pages += u64::from(!mapping.shared);
            tables.insert((3, va >> 21));
            tables.insert((2, va >> 30));
        }
    }
    pages + tables.len() as u64
}

impl World {
    /// A fault may fail for want of memory: there is none, and nobody has promised any.
    pub(super) fn may_starve(&self, process: usize, page: usize, access: Access) -> bool {
        let mappings = self.processes[process].space.mappings();
        let promised = mappings.iter().any(|mapping| {
            (mapping.start..mapping.end).contains(&va(page)) && mapping.charged && !mapping.shared
        });
        let refused = mutate::refused_since(self.shortage.began);
        let kept = self.strict && promised && access == Access::Write;
        refused || (self.shortage.any() && !kept) || self.may_not_grow(process, page, access)
    }

    /// A stack that has to grow for this may be refused it: as much cannot be promised.
    fn may_not_grow(&self, process: usize, page: usize, access: Access) -> bool {
        /// What a group's pages need in all, tables included.
        const MOST: u64 = GROUP as u64 + 3;
        let frames = &self.mem.frames;
        let reserve = frames.total() / 64;
        self.strict
            && self.processes[process].pages.grows(page, access)
            && frames.available() < reserve + MOST
    }

    pub(super) fn check_commit(&self) -> Result {
        let frames = &self.mem.frames;
        let mut total = 0;
        let mut shared = BTreeSet::new();
        for process in &self.processes {
            let space = &process.space;
            if let Some(mapping) = space
                .mappings()
                .iter()
                .find(|mapping| mapping.prot.contains(Prot::WRITE) && !mapping.charged)
            {
                return Err(format!("{mapping:?} is writable and not charged"));
            }
            let worst = worst_case(space);
            if space.charged() != worst {
                return Err(format!(
                    "an address space is charged for {} pages, and may need {worst}",
                    space.charged()
                ));
            }
            total += worst;
            for mapping in space.mappings() {
                if let Backing::File { cache, .. } = &mapping.backing
                    && shared.insert(Arc::as_ptr(cache))
                {
                    total += cache.charged();
                }
            }
        }
        if frames.committed() != total {
            return Err(format!(
                "{} pages are charged, and may be needed: {total}",
                frames.committed()
            ));
        }
        let in_use = (FIRST..FIRST + frames.total())
            .map(Frame::new)
            .filter(|frame| !matches!(frames.kind(*frame), Kind::Unused | Kind::Free))
            .filter(|frame| frames.serves_charge(*frame))
            .count() as u64;
        let available = i128::from(frames.free_count()) + i128::from(in_use) - i128::from(total);
        if self.strict && i128::from(frames.available()) != available {
            return Err(format!(
                "{} frames are said to be available, but {} are free, {in_use} serve a charge, {total} are charged",
                frames.available(),
                frames.free_count()
            ));
        }
        Ok(())
    }
}
