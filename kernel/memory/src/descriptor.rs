//! Translation table descriptors: stage 1, 4 KiB granule, 39-bit addresses (levels 1, 2, 3).
//!
//! Every user leaf is AF, nG, PXN, inner shareable, and never both writable and executable, nor
//! both writable and COW: [`Leaf`] has no way to say so.

use crate::frame::Frame;
use crate::mapping::Prot;

/// Descriptor bits. 55 to 58 are ignored by hardware and are ours.
pub mod bits {
    /// Valid.
    pub const VALID: u64 = 1 << 0;
    /// With `VALID`: a table at levels 1 and 2, a page at level 3.
    pub const TABLE_OR_PAGE: u64 = 1 << 1;
    /// AttrIndx 0. The kernel's MAIR_EL1 must have Normal, Write-Back memory at index 0.
    pub const ATTR_NORMAL: u64 = 0 << 2;
    /// AP\[1\]: EL0 may access.
    pub const EL0: u64 = 1 << 6;
    /// AP\[2\]: read-only.
    pub const READ_ONLY: u64 = 1 << 7;
    /// SH: inner shareable.
    pub const INNER_SHAREABLE: u64 = 0b11 << 8;
    /// AF. Always set: hardware never writes our descriptors, so a lock is enough.
    pub const ACCESSED: u64 = 1 << 10;
    /// nG: the TLB entry is tagged with the ASID.
    pub const NOT_GLOBAL: u64 = 1 << 11;
    /// PXN: never executable at EL1.
    pub const PXN: u64 = 1 << 53;
    /// UXN: not executable at EL0.
    pub const UXN: u64 = 1 << 54;
    /// Leaf: private and shared with somebody, so a write copies. For traces and checkers: the
    /// kernel itself decides by reference counts.
    pub const COW: u64 = 1 << 55;
    /// Leaf: the frame is private memory (not a page of a cache).
    pub const ANON: u64 = 1 << 56;
    /// Leaf: a MAP_SHARED mapping; fork leaves it as it is.
    pub const SHARED: u64 = 1 << 57;
    /// Leaf: the zero page; not counted.
    pub const SPECIAL: u64 = 1 << 58;
    /// Leaf: the three that say what its frame is.
    pub const CONTENT: u64 = ANON | SHARED | SPECIAL;
    /// Table: shared between address spaces.
    pub const TABLE_SHARED: u64 = 1 << 55;
    /// Table: APTable\[1\], nothing below may be written.
    pub const TABLE_READ_ONLY: u64 = 1 << 62;
    /// Output address.
    pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
}

use bits::*;

const CONTENT_SHIFT: u32 = CONTENT.trailing_zeros();

/// What a leaf's frame is: by the bits that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Content {
    /// A page of a cache, mapped privately.
    File = 0,
    /// Private memory of this address space, or of it and its relatives.
    Anon = (ANON >> CONTENT_SHIFT) as u8,
    /// A page of a cache, mapped MAP_SHARED.
    Shared = (SHARED >> CONTENT_SHIFT) as u8,
    /// The zero page.
    Zero = (SPECIAL >> CONTENT_SHIFT) as u8,
}

/// What EL0 may do through a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing (PROT_NONE); the frame stays.
    None,
    /// Read, and fetch instructions if `exec`. `cow`: a write would have to copy.
    Read {
        /// Executable.
        exec: bool,
        /// A write would have to copy.
        cow: bool,
    },
    /// Read and write.
    Write,
}

/// A valid level 3 descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf(u64);

impl Leaf {
    /// The leaf for a frame.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn new(frame: Frame, content: Content, rights: Rights) -> Leaf {
        let base = VALID
            | TABLE_OR_PAGE
            | ATTR_NORMAL
            | INNER_SHAREABLE
            | ACCESSED
            | NOT_GLOBAL
            | PXN
            | UXN
            | READ_ONLY;
        Leaf(base | (content as u64) << CONTENT_SHIFT | frame.addr()).with(rights)
    }

    /// The same frame with other rights.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn with(self, rights: Rights) -> Leaf {
        leave_out!("protection", when rights != Rights::Write, return self.with(Rights::Write));
        let cleared = (self.0 & !(EL0 | COW)) | READ_ONLY | UXN;
        Leaf(match rights {
            Rights::None => cleared,
            Rights::Write => (cleared & !READ_ONLY) | EL0,
            Rights::Read { exec, cow } => {
                let exec = if exec { UXN } else { 0 };
                let cow = if cow { COW } else { 0 };
                (cleared & !exec) | EL0 | cow
            }
        })
    }

    /// The same leaf, which EL0 may only read.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub(crate) fn read_only(self) -> Leaf {
        leave_out!("protection", return self.with(Rights::Write));
        debug_assert!(self.accessible());
        Leaf(self.0 | READ_ONLY | UXN)
    }

    /// A descriptor as read from a level 3 table; `None` if it is not valid.
    #[inline]
    pub const fn from_bits(descriptor: u64) -> Option<Leaf> {
        if descriptor & VALID == 0 {
            return None;
        }
        debug_assert!(
            descriptor & READ_ONLY != 0 || descriptor & COW == 0,
            "writable and COW"
        );
        Some(Leaf(descriptor))
    }

    /// The descriptor.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The frame it maps.
    #[inline]
    pub const fn frame(self) -> Frame {
        Frame::containing(self.0 & ADDRESS)
    }

    /// EL0 may write.
    #[inline]
    pub const fn writable(self) -> bool {
        self.0 & (READ_ONLY | EL0) == EL0
    }

    /// EL0 may read.
    #[inline]
    pub const fn accessible(self) -> bool {
        self.0 & EL0 != 0
    }

    /// EL0 may fetch instructions.
    #[inline]
    pub const fn executable(self) -> bool {
        self.0 & (UXN | EL0) == EL0
    }

    /// EL0 may read, and what else it may do is permitted.
    #[inline]
    pub(crate) const fn within(self, prot: Prot) -> bool {
        let write = if prot.contains(Prot::WRITE) {
            0
        } else {
            READ_ONLY
        };
        let exec = if prot.contains(Prot::EXEC) { 0 } else { UXN };
        let wanted = EL0 | write | exec;
        self.0 & wanted == wanted
    }

    /// A write would have to copy.
    #[inline]
    pub const fn cow(self) -> bool {
        self.0 & COW != 0
    }

    /// What the frame is.
    #[inline]
    pub const fn content(self) -> Content {
        if self.0 & SPECIAL != 0 {
            Content::Zero
        } else if self.0 & ANON != 0 {
            Content::Anon
        } else if self.0 & SHARED != 0 {
            Content::Shared
        } else {
            Content::File
        }
    }

    /// What the frame is, as a number below 8.
    #[inline]
    pub(crate) const fn content_bits(self) -> usize {
        ((self.0 & CONTENT) >> CONTENT_SHIFT) as usize
    }

    /// The frame's references are counted.
    #[inline]
    pub const fn counted(self) -> bool {
        self.0 & SPECIAL == 0
    }

    /// The same leaf as fork leaves it: a private writable page becomes read-only and COW, and so
    /// does a private read-only one (its frame has two owners now); all else stays.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn forked(self) -> Leaf {
        leave_out!("protection", when self.writable(), return self);
        if self.0 & SHARED != 0 || self.0 & EL0 == 0 {
            return self;
        }
        Leaf(self.0 | READ_ONLY | COW)
    }
}

/// A valid descriptor of level 1 or 2 that points to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table(u64);

impl Table {
    /// The descriptor of a table that belongs to one address space.
    #[inline]
    pub const fn new(table: Frame) -> Table {
        Table(table.addr() | VALID | TABLE_OR_PAGE)
    }

    /// The descriptor of a table that several address spaces share: nothing below may be written,
    /// whatever the leaves say.
    #[inline]
    #[cfg_attr(feature = "mutate", track_caller)]
    pub fn shared(table: Frame) -> Table {
        leave_out!(
            "protection",
            return Table(Table::new(table).0 | TABLE_SHARED)
        );
        Table(Table::new(table).0 | TABLE_SHARED | TABLE_READ_ONLY)
    }

    /// The table may have other parents.
    #[inline]
    pub const fn is_shared(self) -> bool {
        self.0 & TABLE_SHARED != 0
    }

    /// A descriptor as read; `None` if it is not valid.
    #[inline]
    pub const fn from_bits(descriptor: u64) -> Option<Table> {
        if descriptor & VALID == 0 {
            None
        } else {
            Some(Table(descriptor))
        }
    }

    /// The descriptor.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The table.
    #[inline]
    pub const fn frame(self) -> Frame {
        Frame::containing(self.0 & ADDRESS)
    }
}

/// What an entry was before `change` broke it. `None` if it is valid or empty.
#[inline]
pub(crate) const fn unbroken(descriptor: u64) -> Option<Leaf> {
    if descriptor & VALID == 0 && descriptor != 0 {
        Some(Leaf(descriptor | VALID))
    } else {
        None
    }
}
