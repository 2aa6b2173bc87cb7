//! One CPU: what it has cached, what it has stored but not published, what it has asked for.

use crate::{PAGE, Scope, Tlbi};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Descriptor bits.
pub(crate) mod bits {
    pub const VALID: u64 = 1;
    pub const EL0: u64 = 1 << 6;
    pub const READ_ONLY: u64 = 1 << 7;
    pub const INNER_SHAREABLE: u64 = 0b11 << 8;
    pub const ACCESSED: u64 = 1 << 10;
    pub const NOT_GLOBAL: u64 = 1 << 11;
    pub const PXN: u64 = 1 << 53;
    pub const UXN: u64 = 1 << 54;
    pub const SOFTWARE: u64 = 0xf << 55;
    pub const AP_TABLE_READ_ONLY: u64 = 1 << 62;
    pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
}

/// What TTBR0_EL1 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub asid: u16,
    pub root: u64,
    /// Which pairing of root and ASID: see [`Machine::pairings`](crate::Machine).
    pub pairing: u32,
}

/// A cached leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// `None`: global.
    pub asid: Option<u16>,
    pub page: u64,
    pub frame: u64,
    /// Permissions of the walk as a whole, tables included.
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// Where the descriptor was read.
    pub at: u64,
    pub value: u64,
    pub root: u64,
    pub pairing: u32,
}

/// A cached table entry (walk cache).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub asid: u16,
    /// Of the entry: 1 or 2.
    pub level: u8,
    /// The address bits that select it.
    pub prefix: u64,
    /// The table it leads to.
    pub frame: u64,
    /// Some APTable\[1\] on the way here was set.
    pub read_only: bool,
    pub at: u64,
    pub pairing: u32,
}

/// A store of this CPU that others need not see yet.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// Stores of a later epoch are ordered after it.
    pub epoch: u32,
    /// This CPU's own walker sees it (DSB NSHST).
    pub local: bool,
    pub what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Descriptor { at: u64, value: u64 },
    Frame { frame: u64, bytes: Box<[u8; PAGE]> },
    Bytes { frame: u64, bytes: Vec<(usize, u8)> },
}

impl What {
    pub fn frame(&self) -> u64 {
        match self {
            What::Descriptor { at, .. } => at / PAGE as u64,
            What::Frame { frame, .. } | What::Bytes { frame, .. } => *frame,
        }
    }

    /// Two stores to one location are never reordered.
    pub fn overlaps(&self, other: &What) -> bool {
        match (self, other) {
            (What::Descriptor { at: a, .. }, What::Descriptor { at: b, .. }) => a == b,
            _ => self.frame() == other.frame(),
        }
    }

    /// The 8 bytes at a physical address, if this store writes them all.
    pub fn word(&self, at: u64) -> Option<u64> {
        match self {
            What::Descriptor { at: here, value } => (*here == at).then_some(*value),
            What::Frame { frame, bytes } if *frame == at / PAGE as u64 => {
                let offset = at as usize % PAGE;
                let word = bytes[offset..offset + 8].try_into().expect("8 bytes");
                Some(u64::from_le_bytes(word))
            }
            _ => None,
        }
    }

    /// The byte at an offset of a frame, if this store writes it.
    pub fn byte(&self, of: u64, offset: usize) -> Option<u8> {
        match self {
            What::Frame { frame, bytes } if *frame == of => Some(bytes[offset]),
            What::Bytes { frame, bytes } if *frame == of => bytes
                .iter()
                .rev()
                .find(|(at, _)| *at == offset)
                .map(|(_, byte)| *byte),
            _ => None,
        }
    }
}

/// An invalidation that has been issued and not been waited for.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub op: Tlbi,
    /// CPUs on which it has not acted yet, a bit each.
    pub todo: u32,
}

/// A user's store that was translated and has not reached memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub leaf: Leaf,
    pub offset: usize,
    pub value: u8,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    pub context: Option<Context>,
    pub leaves: Vec<Leaf>,
    pub tables: Vec<Table>,
    pub stores: Vec<Store>,
    pub pending: Vec<Pending>,
    pub in_flight: Vec<InFlight>,
    pub epoch: u32,
    /// It has read descriptors, and executed no DSB since.
    pub unordered: bool,
}

impl Cpu {
    /// A TLB invalidation acts here.
    pub fn invalidate(&mut self, scope: Scope) {
        self.leaves.retain(|leaf| !matches_leaf(scope, leaf));
        self.tables.retain(|table| !matches_table(scope, table));
    }

    /// A TLB invalidation acts here, and the walks of the current address space that it undid happen
    /// again at once.
    pub fn invalidate_and_refetch(&mut self, scope: Scope) {
        let context = self.context;
        let running = |asid| context.is_some_and(|context| asid == Some(context.asid));
        self.leaves
            .retain(|leaf| !matches_leaf(scope, leaf) || running(leaf.asid));
        self.tables
            .retain(|table| !matches_table(scope, table) || running(Some(table.asid)));
    }

    pub fn cache_leaf(&mut self, leaf: Leaf) {
        if !self.leaves.contains(&leaf) {
            self.leaves.push(leaf);
        }
    }

    pub fn cache_table(&mut self, table: Table) {
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
    }
}

pub(crate) fn matches_leaf(scope: Scope, leaf: &Leaf) -> bool {
    match scope {
        Scope::Leaf { va, asid } | Scope::Page { va, asid } => {
            leaf.page == va / PAGE as u64
                && (asid.is_none() || leaf.asid.is_none() || leaf.asid == asid)
        }
        Scope::Asid(asid) => leaf.asid == Some(asid),
        Scope::All => true,
    }
}

fn matches_table(scope: Scope, table: &Table) -> bool {
    match scope {
        Scope::Leaf { .. } => false,
        Scope::Page { va, asid } => {
            table.prefix == prefix(va, table.level) && asid.is_none_or(|asid| asid == table.asid)
        }
        Scope::Asid(asid) => table.asid == asid,
        Scope::All => true,
    }
}

/// The address bits that select an entry of a level.
pub(crate) fn prefix(va: u64, level: u8) -> u64 {
    va >> (39 - 9 * u32::from(level))
}
