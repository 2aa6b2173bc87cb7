//! What the checker reads of a descriptor: stage 1, 4 KiB granule, 39-bit addresses.
//!
//! Bits 55 to 58 are ignored by hardware. Three of them are a convention of the kernels that are
//! checked, needed to tell private memory from memory that is shared on purpose.

pub const VALID: u64 = 1;
pub const EL0: u64 = 1 << 6;
pub const READ_ONLY: u64 = 1 << 7;
pub const NOT_GLOBAL: u64 = 1 << 11;
pub const DBM: u64 = 1 << 51;
pub const PXN: u64 = 1 << 53;
pub const UXN: u64 = 1 << 54;
pub const SOFTWARE: u64 = 0xf << 55;
pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Table: nothing below may be written.
pub const TABLE_READ_ONLY: u64 = 1 << 62;
/// Convention: a page of private memory, not of a file's cache.
pub const ANON: u64 = 1 << 56;
/// Convention: a MAP_SHARED page.
pub const SHARED: u64 = 1 << 57;
/// Convention: the zero page, which is not counted.
pub const SPECIAL: u64 = 1 << 58;

pub const fn valid(descriptor: u64) -> bool {
    descriptor & VALID != 0
}

pub const fn frame(descriptor: u64) -> u64 {
    (descriptor & ADDRESS) >> 12
}

/// Bits of the virtual address below an entry of a level.
pub const fn shift(level: u8) -> u32 {
    39 - 9 * level as u32
}

/// What EL0 may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

impl Rights {
    /// Of a leaf; `read_only`: a table above forbids writing.
    pub const fn of(leaf: u64, read_only: bool) -> Rights {
        let user = leaf & EL0 != 0;
        Rights {
            read: user,
            write: user && leaf & READ_ONLY == 0 && !read_only,
            exec: user && leaf & UXN == 0,
        }
    }

    /// Some of these are not among `others`.
    pub const fn exceed(self, others: Rights) -> bool {
        self.read && !others.read || self.write && !others.write || self.exec && !others.exec
    }

    /// The rights that these have beyond `others`.
    pub fn beyond(self, others: Rights) -> &'static str {
        match (
            self.read && !others.read,
            self.write && !others.write,
            self.exec && !others.exec,
        ) {
            (true, ..) => "to access",
            (_, true, true) => "to write and execute",
            (_, true, _) => "to write",
            (_, _, true) => "to execute",
            _ => "none",
        }
    }
}

/// A private page that the leaf itself lets EL0 write.
pub const fn private_writable(leaf: u64) -> bool {
    valid(leaf) && leaf & (EL0 | READ_ONLY | SHARED) == EL0
}

/// A valid leaf lost the right to write, and nothing else but software's bits changed.
pub const fn only_write_protected(before: u64, after: u64) -> bool {
    valid(before) && (before ^ after) & !SOFTWARE == READ_ONLY && after & READ_ONLY != 0
}

/// May change in a valid leaf in place.
pub const LEAF_CHANGEABLE: u64 = EL0 | READ_ONLY | DBM | PXN | UXN | SOFTWARE;
