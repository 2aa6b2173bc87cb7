//! Forks, and who paid for them later.

use rustc_hash::FxHashMap;
use wire::event::{self, ForkMode, Outcome};

use super::process::Cost;
use super::space::{Code, ForkId};

/// First writes to pages a fork shared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    /// They had to copy.
    pub copies: Cost,
    /// They were made by the last owner: no copy.
    pub reuses: Cost,
    /// They copied a shared table.
    pub table_copies: Cost,
    /// They took a shared table over as its last owner.
    pub table_reuses: Cost,
}

impl Writes {
    fn slot(&mut self, outcome: Outcome) -> Option<&mut Cost> {
        match outcome {
            Outcome::CowCopy => Some(&mut self.copies),
            Outcome::CowReuse => Some(&mut self.reuses),
            Outcome::TableUnshare => Some(&mut self.table_copies),
            Outcome::TableReuse => Some(&mut self.table_reuses),
            _ => None,
        }
    }

    /// All of them.
    pub fn total(&self) -> Cost {
        let mut total = self.copies;
        for cost in [&self.reuses, &self.table_copies, &self.table_reuses] {
            total.merge(cost);
        }
        total
    }

    /// All of `other` too.
    pub fn merge(&mut self, other: &Writes) {
        self.copies.merge(&other.copies);
        self.reuses.merge(&other.reuses);
        self.table_copies.merge(&other.table_copies);
        self.table_reuses.merge(&other.table_reuses);
    }
}

/// When a child gave its share back, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// `execve`, at this time.
    Exec(u64),
    /// Its end, at this time.
    Exit(u64),
}

/// A fork and its consequences.
#[derive(Clone, Debug)]
pub struct Fork {
    /// Its serial number in this trace.
    pub id: ForkId,
    /// When.
    pub time: u64,
    /// What the kernel said of it.
    pub event: event::Fork,
    /// Private pages below the tables that it shared whole, as rebuilt: the kernel does not look.
    pub below: u32,
    /// Where in the parent's program the call is.
    pub code: Option<Code>,
    /// Its callers, innermost first.
    pub callers: Vec<Code>,
    /// First writes by the parent while the child still had its share.
    pub parent: Writes,
    /// First writes by the parent after the child had gone.
    pub parent_after: Writes,
    /// First writes by the child.
    pub child: Writes,
    /// First writes by others (children's children).
    pub others: Writes,
    /// When the child gave its share back.
    pub parting: Option<Parting>,
    /// References the child dropped then, by the kernel's count.
    pub dropped: Option<u32>,
    /// Faults of the child before it parted (0 until then).
    pub child_faults: u64,
}

impl Fork {
    /// Private pages that parent and child both have since, shared or copied.
    pub fn pages(&self) -> u32 {
        self.event.shared + self.event.copied + self.below
    }

    /// Private pages that the two share, one by one or by whole tables.
    pub fn pages_shared(&self) -> u32 {
        self.event.shared + self.below
    }

    /// Everything paid after the fork itself.
    pub fn debt(&self) -> Writes {
        let mut all = self.parent;
        for writes in [&self.parent_after, &self.child, &self.others] {
            all.merge(writes);
        }
        all
    }
}

/// Costs of one way to fork.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModeTotals {
    /// Forks, and what they cost themselves.
    pub forks: Cost,
    /// Pages shared, those below shared tables included.
    pub shared: u64,
    /// Leaf descriptors of parents that were write-protected.
    pub protected: u64,
    /// Leaf descriptors written for children.
    pub leaves: u64,
    /// Pages copied at once.
    pub copied: u64,
    /// Tables allocated.
    pub tables: u64,
    /// Tables shared.
    pub tables_shared: u64,
    /// What was paid later.
    pub debt: Writes,
}

/// At most this many forks are remembered one by one; what older ones cost until they were
/// forgotten is in the totals.
const LIVE_MAX: usize = 4096;

/// All forks.
#[derive(Debug, Default)]
pub struct Forks {
    live: FxHashMap<ForkId, Fork>,
    by_child: FxHashMap<u32, ForkId>,
    by_space: FxHashMap<event::Space, ForkId>,
    last: ForkId,
    totals: [ModeTotals; 4],
}

impl Forks {
    /// A fork happened.
    pub fn add(
        &mut self,
        time: u64,
        event: &event::Fork,
        code: Option<Code>,
        callers: Vec<Code>,
    ) -> ForkId {
        self.last += 1;
        let id = self.last;
        let totals = &mut self.totals[event.mode as usize];
        totals.forks.add(event.cost);
        totals.shared += u64::from(event.shared);
        totals.protected += u64::from(event.protected);
        totals.leaves += u64::from(event.leaves);
        totals.copied += u64::from(event.copied);
        totals.tables += u64::from(event.tables);
        totals.tables_shared += u64::from(event.tables_shared);
        let fork = Fork {
            id,
            time,
            event: *event,
            below: 0,
            code,
            callers,
            parent: Writes::default(),
            parent_after: Writes::default(),
            child: Writes::default(),
            others: Writes::default(),
            parting: None,
            dropped: None,
            child_faults: 0,
        };
        self.live.insert(id, fork);
        self.by_child.insert(event.child, id);
        if event.child_space != event.parent_space {
            self.by_space.insert(event.child_space, id);
        }
        if let Some(old) = id.checked_sub(LIVE_MAX as u32)
            && let Some(old) = self.live.remove(&old)
        {
            // A pid may have been used again since; an address space's number is not.
            if self.by_child.get(&old.event.child) == Some(&old.id) {
                self.by_child.remove(&old.event.child);
            }
            self.by_space.remove(&old.event.child_space);
        }
        id
    }

    /// So many private pages are below the tables that fork `id` shared.
    pub fn set_below(&mut self, id: ForkId, below: u32) {
        if let Some(fork) = self.live.get_mut(&id) {
            fork.below = below;
            self.totals[fork.event.mode as usize].shared += u64::from(below);
        }
    }

    /// A page or table that fork `id` shared was written for the first time, in address space `space`.
    pub fn pay(&mut self, id: ForkId, space: event::Space, outcome: Outcome, cycles: u32) {
        let Some(fork) = self.live.get_mut(&id) else {
            return;
        };
        let writes = match space {
            _ if space == fork.event.child_space => &mut fork.child,
            _ if space != fork.event.parent_space => &mut fork.others,
            _ if fork.parting.is_some() => &mut fork.parent_after,
            _ => &mut fork.parent,
        };
        let debt = &mut self.totals[fork.event.mode as usize].debt;
        for writes in [writes, debt] {
            if let Some(cost) = writes.slot(outcome) {
                cost.add(cycles);
            }
        }
    }

    /// A child gave its share back. Only the first time counts.
    /// `faults`: those it had until then.
    pub fn part(&mut self, pid: u32, parting: Parting, faults: u64) {
        if let Some(fork) = self.of_child_mut(pid)
            && fork.parting.is_none()
        {
            (fork.parting, fork.child_faults) = (Some(parting), faults);
        }
    }

    /// An address space is gone.
    pub fn space_end(&mut self, space: event::Space, dropped: u32) {
        if let Some(id) = self.by_space.remove(&space)
            && let Some(fork) = self.live.get_mut(&id)
        {
            fork.dropped = Some(dropped);
        }
    }

    fn of_child_mut(&mut self, pid: u32) -> Option<&mut Fork> {
        self.live.get_mut(self.by_child.get(&pid)?)
    }

    /// The fork that made process `pid`.
    pub fn of_child(&self, pid: u32) -> Option<&Fork> {
        self.live.get(self.by_child.get(&pid)?)
    }

    /// A fork, if it is still remembered.
    pub fn get(&self, id: ForkId) -> Option<&Fork> {
        self.live.get(&id)
    }

    /// The remembered forks, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Fork> {
        let first = self.last.saturating_sub(LIVE_MAX as u32) + 1;
        (first..=self.last).filter_map(|id| self.live.get(&id))
    }

    /// How many there were.
    pub fn count(&self) -> u32 {
        self.last
    }

    /// Totals by mode.
    pub fn totals(&self, mode: ForkMode) -> &ModeTotals {
        &self.totals[mode as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_forks_are_forgotten_but_counted() {
        let mut forks = Forks::default();
        for child in 0..LIVE_MAX as u32 + 10 {
            let event = event::Fork {
                mode: ForkMode::Classic,
                parent: 1,
                child: child + 2,
                parent_space: 1,
                child_space: child + 2,
                shared: 3,
                protected: 0,
                leaves: 0,
                copied: 0,
                tables: 0,
                tables_shared: 0,
                cost: 5,
                pc: 0,
                stack: event::Stack::default(),
            };
            forks.add(u64::from(child), &event, None, Vec::new());
        }
        assert_eq!(forks.iter().count(), LIVE_MAX);
        assert!(forks.of_child(2).is_none() && forks.of_child(12).is_some());
        assert_eq!(
            forks.totals(ForkMode::Classic).forks.count,
            LIVE_MAX as u64 + 10
        );
        assert_eq!(
            forks.totals(ForkMode::Classic).shared,
            3 * (LIVE_MAX as u64 + 10)
        );
    }
}
