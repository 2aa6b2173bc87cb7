//! Accesses of programs: served by any translation that the architecture allows.

use crate::cpu::{InFlight, Leaf};
use crate::machine::{Info, Machine, Rule};
use crate::{Access, PAGE};
use alloc::vec::Vec;

/// Why an access did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address.
    pub va: u64,
    /// The kind of fault.
    pub kind: FaultKind,
}

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No translation.
    Translation,
    /// A translation that forbids the access.
    Permission,
}

/// Software bit 57: the page is shared on purpose, and other processes may look at any time.
const SHARED: u64 = 1 << 57;

/// Software bit 56: the frame is a process's own.
const ANON: u64 = 1 << 56;

impl Machine {
    fn translate(&mut self, cpu: usize, va: u64, access: Access) -> Result<Leaf, Fault> {
        let fault = |kind| Fault { va, kind };
        let context = self.cpus[cpu]
            .context
            .ok_or(fault(FaultKind::Translation))?;
        let page = va / PAGE as u64;
        let hits: Vec<Leaf> = self.cpus[cpu]
            .leaves
            .iter()
            .filter(|leaf| leaf.page == page && leaf.asid.is_none_or(|asid| asid == context.asid))
            .copied()
            .collect();
        let mut leaf = None;
        if hits.is_empty() || self.rng.chance(25) {
            leaf = self.walk(cpu, context, va);
        }
        if leaf.is_none() && !hits.is_empty() {
            leaf = Some(hits[self.rng.below(hits.len())]);
        }
        let leaf = leaf.ok_or(fault(FaultKind::Translation))?;
        let allowed = match access {
            Access::Read => leaf.readable,
            Access::Write => leaf.writable,
            Access::Exec => leaf.executable,
        };
        if !allowed {
            return Err(fault(FaultKind::Permission));
        }
        if !self.allocated(leaf.frame) {
            let detail = format!(
                "CPU {cpu} accesses {va:#x} in frame {:#x}, which is free",
                leaf.frame
            );
            self.violate(Rule::FreedFrame, detail);
        }
        Ok(leaf)
    }

    /// A load of one byte.
    pub fn load(&mut self, cpu: usize, va: u64) -> Result<u8, Fault> {
        self.steps();
        let leaf = self.translate(cpu, va, Access::Read)?;
        let offset = va as usize % PAGE;
        // Programs synchronise: a store that one of them made, another one sees.
        for other in 0..self.cpus.len() {
            self.land(other, |store| {
                store.leaf.frame == leaf.frame && store.offset == offset
            });
        }
        let own = self.cpus[cpu]
            .stores
            .iter()
            .rev()
            .find_map(|store| store.what.byte(leaf.frame, offset));
        Ok(own.unwrap_or_else(|| self.byte_in_memory(leaf.frame, offset)))
    }

    /// A store of one byte.
    pub fn store_byte(&mut self, cpu: usize, va: u64, value: u8) -> Result<(), Fault> {
        self.steps();
        let leaf = self.translate(cpu, va, Access::Write)?;
        let offset = va as usize % PAGE;
        for other in 0..self.cpus.len() {
            self.land(other, |store| {
                store.leaf.frame == leaf.frame && store.offset == offset
            });
        }
        self.cpus[cpu].in_flight.push(InFlight {
            leaf,
            offset,
            value,
        });
        if leaf.value & SHARED != 0 || self.rng.chance(30) {
            self.land(cpu, |_| true);
        }
        Ok(())
    }

    /// An instruction fetch.
    pub fn fetch(&mut self, cpu: usize, va: u64) -> Result<(), Fault> {
        self.steps();
        let leaf = self.translate(cpu, va, Access::Exec)?;
        let info = self.index(leaf.frame).map(|index| &self.info[index]);
        // Code that others change through a mapping or file of their own is for them to clean
        // (IC IVAU); private code, and the first contents of any, are for the kernel.
        let private = leaf.value & ANON != 0;
        let stale = |info: &Info| info.clean < info.born || private && info.clean != info.version;
        if info.is_some_and(stale) {
            let detail = format!(
                "CPU {cpu} fetches from {va:#x}, frame {:#x}, which was not cleaned",
                leaf.frame
            );
            self.violate(Rule::Icache, detail);
        }
        Ok(())
    }

    /// Programs have synchronised with each other: what they stored is visible to all.
    pub fn synchronise(&mut self) {
        for cpu in 0..self.cpus.len() {
            self.land(cpu, |_| true);
        }
    }

    fn byte_in_memory(&self, frame: u64, offset: usize) -> u8 {
        self.index(frame).map_or(0, |index| self.ram[index][offset])
    }

    /// Stores that were under way reach memory, in order.
    pub(crate) fn land(&mut self, cpu: usize, mut which: impl FnMut(&InFlight) -> bool) {
        let (landing, waiting): (Vec<_>, Vec<_>) = core::mem::take(&mut self.cpus[cpu].in_flight)
            .into_iter()
            .partition(|store| which(store));
        self.cpus[cpu].in_flight = waiting;
        for InFlight {
            leaf,
            offset,
            value,
        } in landing
        {
            // Behind this CPU's earlier stores to the same place.
            let stores = &self.cpus[cpu].stores;
            if let Some(index) = stores
                .iter()
                .rposition(|store| store.what.frame() == leaf.frame)
            {
                self.drain_until(cpu, index);
            }
            match self.index(leaf.frame) {
                Some(index) if self.info[index].allocated => {
                    self.ram[index][offset] = value;
                    self.info[index].version += 1;
                }
                _ => {
                    let detail = format!("a store lands in frame {:#x}, which is free", leaf.frame);
                    self.violate(Rule::FreedFrame, detail);
                }
            }
        }
    }
}
