//! One description of a record's layout for both directions.
//!
//! The encoder and the decoder of [`crate::context`] are one function, generic over a [`Port`]:
//! a field is written from, or read into, the same place, so the two cannot disagree.

use serde::{Serialize, de::DeserializeOwned};

/// Why coding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// No room left (writing) or no bytes left (reading).
    End,
    /// A value this version does not know (reading).
    Unknown,
}

/// Where fields go to or come from. Values are postcard's: varints, zigzag for signed ones.
pub(crate) trait Port {
    /// Fields are read: what is predicted must be filled in by the caller.
    const READS: bool;

    fn field<T: Serialize + DeserializeOwned>(&mut self, value: &mut T) -> Result<(), Stop>;

    /// A value as its distance from `base`, which either side knows.
    fn delta(&mut self, value: &mut u64, base: u64) -> Result<(), Stop> {
        let mut distance = value.wrapping_sub(base) as i64;
        self.field(&mut distance)?;
        *value = base.wrapping_add(distance as u64);
        Ok(())
    }
}

/// Writes to a slice; what was written before [`Stop::End`] is to be forgotten by the caller.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Writer { buffer, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Port for Writer<'_> {
    const READS: bool = false;

    fn field<T: Serialize + DeserializeOwned>(&mut self, value: &mut T) -> Result<(), Stop> {
        let room = self.buffer.get_mut(self.len..).ok_or(Stop::End)?;
        self.len += postcard::to_slice(value, room)
            .map_err(|_| Stop::End)?
            .len();
        Ok(())
    }
}

/// Reads from a slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Reader { rest }
    }
}

impl Port for Reader<'_> {
    const READS: bool = true;

    fn field<T: Serialize + DeserializeOwned>(&mut self, value: &mut T) -> Result<(), Stop> {
        let (read, rest) = postcard::take_from_bytes(self.rest).map_err(|error| match error {
            // What serde says of a variant's number that the enum does not have.
            postcard::Error::SerdeDeCustom => Stop::Unknown,
            _ => Stop::End,
        })?;
        self.rest = rest;
        *value = read;
        Ok(())
    }
}
