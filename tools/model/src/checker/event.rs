//! What the checker is told, and how it answers.

use alloc::string::String;
use core::fmt;

use super::Rule;
use crate::{Barrier, Tlbi};

/// Where an event stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Its number in the stream.
    pub position: u64,
    /// Its time, in ticks; not interpreted.
    pub time: u64,
    /// The CPU it happened on, below 64.
    pub cpu: u8,
}

/// What happened. Frames and tables are frame numbers (physical address / 4096).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A descriptor of a user table was stored.
    Descriptor {
        /// Frame of the table.
        table: u64,
        /// Index in it, below 512.
        index: u16,
        /// Level, 1 to 3.
        level: u8,
        /// Before.
        old: u64,
        /// After.
        new: u64,
    },
    /// A page of the kernel's own half was mapped or unmapped.
    KernelPage {
        /// Virtual address.
        va: u64,
        /// Before.
        old: u64,
        /// After.
        new: u64,
    },
    /// A barrier was executed. `Isb` stands for any context synchronisation.
    Barrier(Barrier),
    /// A TLB invalidation was issued.
    Tlbi(Tlbi),
    /// TTBR0_EL1 was written: ASID in 63:48, root table below. ASID 0: no address space.
    Ttbr0(u64),
    /// A frame was taken from the allocator, or given back.
    Frame {
        /// The frame.
        frame: u64,
        /// Given back.
        freed: bool,
    },
    /// The kernel stored to a frame, or made it fit for instruction fetch.
    Contents {
        /// The frame.
        frame: u64,
        /// What it did.
        what: Contents,
    },
    /// An address space came to life.
    SpaceNew {
        /// Its serial number.
        space: u32,
        /// Frame of its root table.
        root: u64,
        /// Its ASID.
        asid: u16,
    },
    /// An address space is gone.
    SpaceEnd {
        /// Its serial number.
        space: u32,
    },
    /// The kernel counted the references to a frame, after an operation that changed them.
    References {
        /// The frame.
        frame: u64,
        /// What it counted.
        count: u32,
    },
    /// An operation of the kernel is over: its caller counts on what it did.
    Done(Operation),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Descriptor {
                table,
                index,
                level,
                old,
                new,
            } => write!(
                f,
                "STR level {level} table {table:#x}[{index}]: {old:#x} -> {new:#x}"
            ),
            Event::KernelPage { va, old, new } => {
                write!(f, "STR kernel page {va:#x}: {old:#x} -> {new:#x}")
            }
            Event::Barrier(barrier) => f.write_str(match barrier {
                Barrier::DmbIshst => "DMB ISHST",
                Barrier::DsbIshst => "DSB ISHST",
                Barrier::DsbNshst => "DSB NSHST",
                Barrier::DsbIsh => "DSB ISH",
                Barrier::DsbNsh => "DSB NSH",
                Barrier::Isb => "ISB",
            }),
            Event::Tlbi(op) => f.write_str(&super::stale::name(op)),
            Event::Ttbr0(value) => write!(
                f,
                "MSR TTBR0_EL1: ASID {}, root {:#x}",
                value >> 48,
                (value & super::bits::ADDRESS) >> 12
            ),
            Event::Frame { frame, freed } => {
                let what = if freed { "given back" } else { "taken" };
                write!(f, "frame {frame:#x} {what}")
            }
            Event::Contents { frame, what } => {
                let what = match what {
                    Contents::Stored => "stored to",
                    Contents::Lent => "lent to the kernel",
                    Contents::Fetchable => "made visible to instruction fetch",
                };
                write!(f, "frame {frame:#x} {what}")
            }
            Event::SpaceNew { space, root, asid } => {
                write!(f, "space {space} made: ASID {asid}, root {root:#x}")
            }
            Event::SpaceEnd { space } => write!(f, "space {space} ended"),
            Event::References { frame, count } => {
                write!(
                    f,
                    "the kernel counts {count} references to frame {frame:#x}"
                )
            }
            Event::Done(operation) => write!(f, "{operation}"),
        }
    }
}

/// What the kernel did to a frame's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Filled or copied it.
    Stored,
    /// May have changed some of it.
    Lent,
    /// Made what it holds visible to instruction fetch.
    Fetchable,
}

/// What the kernel did for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    /// `spurious`: the tables allowed the access, so it was a TLB that did not.
    Fault {
        va: u64,
        spurious: bool,
    },
    Fork,
    Map,
    Unmap,
    /// Dropping pages of mappings that stay.
    Discard,
    /// Moving a range.
    Move,
    Protect,
    Exec,
    Switch,
    End,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Fault { va, .. } => write!(f, "the return from the fault at {va:#x}"),
            Operation::Fork => f.write_str("the end of the fork"),
            Operation::Map => f.write_str("the end of the mmap"),
            Operation::Unmap => f.write_str("the end of the munmap"),
            Operation::Discard => f.write_str("the end of the madvise"),
            Operation::Move => f.write_str("the end of the mremap"),
            Operation::Protect => f.write_str("the end of the mprotect"),
            Operation::Exec => f.write_str("the end of the exec"),
            Operation::Switch => f.write_str("the switch to another thread"),
            Operation::End => f.write_str("the end of the address space"),
        }
    }
}

/// The page concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Serial number of the address space, if the stream named it.
    pub space: Option<u32>,
    /// ASID; `None` for the kernel's own half.
    pub asid: Option<u16>,
    /// Virtual address of the page, or of the first one that a table maps.
    pub va: u64,
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.space, self.asid) {
            (_, None) => write!(f, "kernel page {:#x}", self.va),
            (Some(space), Some(asid)) => {
                write!(f, "page {:#x} of space {space} (ASID {asid})", self.va)
            }
            (None, Some(asid)) => write!(f, "page {:#x} of ASID {asid}", self.va),
        }
    }
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The event that shows it.
    pub at: At,
    /// What that event is.
    pub event: String,
    /// The page, if one is concerned.
    pub page: Option<Page>,
    /// The frame, if one is concerned.
    pub frame: Option<u64>,
    /// The descriptor: table, index, level.
    pub descriptor: Option<(u64, u16, u8)>,
    /// What is wrong, in a sentence.
    pub what: String,
    /// What should have happened, and where.
    pub missing: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) at #{}, {}: {}",
            self.rule,
            self.rule.name(),
            self.at.position,
            self.event,
            self.what
        )?;
        if let Some(page) = self.page {
            write!(f, "; {page}")?;
        }
        if let Some(frame) = self.frame {
            write!(f, ", frame {frame:#x}")?;
        }
        write!(f, "; {}", self.missing)
    }
}
