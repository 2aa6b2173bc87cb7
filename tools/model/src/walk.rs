//! Translation table walks, by the adversary's and by the checker's eyes.

use crate::PAGE;
use crate::cpu::{Context, Leaf, Table, What, bits, prefix};
use crate::machine::{Machine, Rule};
use alloc::vec::Vec;

impl Machine {
    /// A walk on a CPU with its current context, which caches what it finds. `None`: it faults.
    pub(crate) fn walk(&mut self, cpu: usize, context: Context, va: u64) -> Option<Leaf> {
        let Context {
            asid,
            root,
            pairing,
        } = context;
        // It may start from any table entry that is cached, or from the root.
        let mut starts: Vec<(u8, u64, bool)> = self.cpus[cpu]
            .tables
            .iter()
            .filter(|table| table.asid == asid && table.prefix == prefix(va, table.level))
            .map(|table| (table.level + 1, table.frame, table.read_only))
            .collect();
        starts.push((1, root, false));
        let start = self.rng.below(starts.len());
        let (mut level, mut table, mut read_only) = starts[start];
        loop {
            if !self.allocated(table) {
                let detail = format!(
                    "CPU {cpu} walks {va:#x} through frame {table:#x}, which is not a live table"
                );
                self.violate(Rule::WildWalk, detail);
                return None;
            }
            let at = table * PAGE as u64 + (prefix(va, level) % 512) * 8;
            let value = self.walker_reads(cpu, at);
            if value & bits::VALID == 0 {
                return None;
            }
            let frame = (value & bits::ADDRESS) / PAGE as u64;
            if level == 3 {
                return self.found(cpu, context, va, at, value, read_only);
            }
            read_only |= value & bits::AP_TABLE_READ_ONLY != 0;
            let prefix = prefix(va, level);
            self.cpus[cpu].cache_table(Table {
                asid,
                level,
                prefix,
                frame,
                read_only,
                at,
                pairing,
            });
            (level, table) = (level + 1, frame);
        }
    }

    fn found(
        &mut self,
        cpu: usize,
        context: Context,
        va: u64,
        at: u64,
        value: u64,
        read_only: bool,
    ) -> Option<Leaf> {
        // An entry without AF faults and is not cached.
        if value & bits::ACCESSED == 0 {
            return None;
        }
        let leaf = decode(context, va, at, value, read_only);
        if !self.allocated(leaf.frame) {
            let detail = format!(
                "CPU {cpu} walks {va:#x} to frame {:#x}, which is free",
                leaf.frame
            );
            self.violate(Rule::WildWalk, detail);
            return None;
        }
        let early = self.cpus.iter().enumerate().any(|(other, that)| {
            let whole =
                |what: &What| matches!(what, What::Frame { frame, .. } if *frame == leaf.frame);
            other != cpu && that.stores.iter().any(|store| whole(&store.what))
        });
        if early {
            let detail = format!(
                "CPU {cpu} reaches frame {:#x} before its contents",
                leaf.frame
            );
            self.violate(Rule::DataBeforeDescriptor, detail);
        }
        self.cpus[cpu].cache_leaf(leaf);
        Some(leaf)
    }

    /// A descriptor as a walker reads it: from memory or, if it likes, from a store of its own CPU
    /// that is still on its way.
    fn walker_reads(&mut self, cpu: usize, at: u64) -> u64 {
        let stores = &self.cpus[cpu].stores;
        let own: Vec<usize> = (0..stores.len())
            .filter(|&index| stores[index].what.word(at).is_some())
            .collect();
        // After a DSB NSHST it must.
        let must = own.iter().rposition(|&index| stores[index].local);
        let least = must.map_or(0, |at| at + 1);
        let choice = least + self.rng.below(own.len() + 1 - least);
        if choice > 0 {
            self.drain_until(cpu, own[choice - 1]);
        }
        let frame = at / PAGE as u64;
        let whole = |what: &What| matches!(what, What::Frame { frame: f, .. } if *f == frame);
        if self
            .cpus
            .iter()
            .any(|that| that.stores.iter().any(|store| whole(&store.what)))
        {
            let detail = format!("CPU {cpu} walks through table {frame:#x} before it was cleared");
            self.violate(Rule::DataBeforeDescriptor, detail);
        }
        self.word_in_memory(at)
    }

    /// A speculative walk.
    pub(crate) fn speculate(&mut self, cpu: usize, va: u64) {
        if let Some(context) = self.cpus[cpu].context {
            self.walk(cpu, context, va);
        }
    }

    /// What the tables say now, as the owner of the kernel's lock sees them.
    pub(crate) fn look_up(&self, root: u64, va: u64) -> Option<Leaf> {
        let mut table = root;
        let mut read_only = false;
        for level in 1..=3 {
            let at = table * PAGE as u64 + (prefix(va, level) % 512) * 8;
            let value = self.word(at);
            if value & bits::VALID == 0 {
                return None;
            }
            if level == 3 {
                let context = Context {
                    asid: 0,
                    root,
                    pairing: 0,
                };
                return Some(decode(context, va, at, value, read_only));
            }
            read_only |= value & bits::AP_TABLE_READ_ONLY != 0;
            table = (value & bits::ADDRESS) / PAGE as u64;
        }
        None
    }
}

fn decode(context: Context, va: u64, at: u64, value: u64, read_only: bool) -> Leaf {
    let el0 = value & bits::EL0 != 0;
    Leaf {
        asid: (value & bits::NOT_GLOBAL != 0).then_some(context.asid),
        page: va / PAGE as u64,
        frame: (value & bits::ADDRESS) / PAGE as u64,
        readable: el0,
        writable: el0 && value & bits::READ_ONLY == 0 && !read_only,
        executable: el0 && value & bits::UXN == 0,
        at,
        value,
        root: context.root,
        pairing: context.pairing,
    }
}
