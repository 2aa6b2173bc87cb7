//! Why something could not be done.

use core::fmt;

use crate::commit::Refusal;
use crate::frame::Saturated;

/// No frame, or no heap, was to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Why an address space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// No frame or heap (ENOMEM).
    OutOfMemory,
    /// A frame has as many references as can be counted (ENOMEM).
    TooManyReferences,
    /// More than can be promised (ENOMEM).
    Refused(Refusal),
}

/// Why fork failed. The parent is as it was, but for pages that now take one more fault each.
pub type ForkError = SpaceError;

/// Why mappings could not be changed. Nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The range is empty, not page-aligned, or not in user space (EINVAL).
    Invalid,
    /// The range, or its beginning, is not mapped (ENOMEM; EFAULT of mremap).
    NotMapped,
    /// It must not become writable (EACCES).
    Denied,
    /// It does not fit where it may go (ENOMEM).
    NoRoom,
    /// No frame or heap, or too many mappings (ENOMEM).
    OutOfMemory,
    /// More than can be promised (ENOMEM).
    Refused(Refusal),
}

impl From<Refusal> for SpaceError {
    fn from(refusal: Refusal) -> Self {
        SpaceError::Refused(refusal)
    }
}

impl From<Refusal> for MapError {
    fn from(refusal: Refusal) -> Self {
        MapError::Refused(refusal)
    }
}

impl From<OutOfMemory> for SpaceError {
    fn from(_: OutOfMemory) -> Self {
        SpaceError::OutOfMemory
    }
}

impl From<Saturated> for SpaceError {
    fn from(_: Saturated) -> Self {
        SpaceError::TooManyReferences
    }
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        MapError::OutOfMemory
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { pages, left } = self;
        write!(f, "{pages} pages are more than can be promised: {left}")
    }
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpaceError::OutOfMemory => f.write_str("out of memory"),
            SpaceError::TooManyReferences => f.write_str("a frame has too many references"),
            SpaceError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MapError::Invalid => f.write_str("not a page-aligned range of user space"),
            MapError::NotMapped => f.write_str("not mapped"),
            MapError::Denied => f.write_str("must not become writable"),
            MapError::NoRoom => f.write_str("no room for it"),
            MapError::OutOfMemory => f.write_str("out of memory"),
            MapError::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl core::error::Error for OutOfMemory {}
impl core::error::Error for SpaceError {}
impl core::error::Error for MapError {}
