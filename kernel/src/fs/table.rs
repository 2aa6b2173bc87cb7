//! A process's descriptors.

use super::File;
use crate::syscall::errno::Errno;
use alloc::{sync::Arc, vec::Vec};

/// A descriptor: a file and whether exec closes it.
#[derive(Clone)]
pub struct Descriptor {
    /// The file.
    pub file: Arc<File>,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

impl Descriptor {
    /// Closes it, for the current process: the process's locks of the file go with it, whatever
    /// other descriptors it has.
    pub fn close(self) {
        self.file.drop_process_locks();
    }
}

/// A process's descriptors.
#[derive(Default)]
pub struct FileTable {
    slots: Vec<Option<Descriptor>>,
}

impl FileTable {
    /// The file behind `fd`.
    pub fn get(&self, fd: u64) -> Result<Arc<File>, Errno> {
        self.descriptor(fd)
            .map(|descriptor| descriptor.file.clone())
    }

    /// The descriptor `fd`.
    pub fn descriptor(&self, fd: u64) -> Result<&Descriptor, Errno> {
        self.slots
            .get(number(fd)?)
            .and_then(Option::as_ref)
            .ok_or(Errno::EBADF)
    }

    /// The descriptor `fd`, to change.
    pub fn descriptor_mut(&mut self, fd: u64) -> Result<&mut Descriptor, Errno> {
        self.slots
            .get_mut(number(fd)?)
            .and_then(Option::as_mut)
            .ok_or(Errno::EBADF)
    }

    /// The first descriptor that is in use from `from` on.
    pub fn next(&self, from: usize) -> Option<(usize, &Descriptor)> {
        let slots = self.slots.iter().enumerate().skip(from);
        slots
            .filter_map(|(fd, slot)| Some((fd, slot.as_ref()?)))
            .next()
    }

    /// The lowest number that is not in use.
    pub fn lowest_free(&self) -> usize {
        self.free_from(0)
    }

    fn free_from(&self, min: usize) -> usize {
        let fd = (min..self.slots.len()).find(|&fd| self.slots[fd].is_none());
        fd.unwrap_or(self.slots.len().max(min))
    }

    /// Gives `descriptor` the lowest free number that is at least `min`. EMFILE if it is not below
    /// `limit`.
    pub fn insert(
        &mut self,
        descriptor: Descriptor,
        min: usize,
        limit: usize,
    ) -> Result<usize, Errno> {
        let fd = self.free_from(min);
        if fd >= limit {
            return Err(Errno::EMFILE);
        }
        self.replace(fd, descriptor)?;
        Ok(fd)
    }

    /// Puts `descriptor` at `fd`; returns what was there, to be dropped without the table's lock.
    pub fn replace(
        &mut self,
        fd: usize,
        descriptor: Descriptor,
    ) -> Result<Option<Descriptor>, Errno> {
        if fd >= self.slots.len() {
            self.slots
                .try_reserve(fd + 1 - self.slots.len())
                .map_err(|_| Errno::ENOMEM)?;
            self.slots.resize(fd + 1, None);
        }
        Ok(self.slots[fd].replace(descriptor))
    }

    /// Takes `fd` out.
    pub fn remove(&mut self, fd: u64) -> Result<Descriptor, Errno> {
        self.slots
            .get_mut(number(fd)?)
            .and_then(Option::take)
            .ok_or(Errno::EBADF)
    }

    /// A copy for a forked child.
    pub fn try_clone(&self) -> Result<FileTable, Errno> {
        let mut slots = Vec::new();
        slots
            .try_reserve_exact(self.slots.len())
            .map_err(|_| Errno::ENOMEM)?;
        slots.extend_from_slice(&self.slots);
        Ok(FileTable { slots })
    }

    /// Takes out one descriptor that exec closes.
    pub fn take_close_on_exec(&mut self) -> Option<Descriptor> {
        let closes = |slot: &&mut Option<Descriptor>| {
            slot.as_ref()
                .is_some_and(|descriptor| descriptor.close_on_exec)
        };
        self.slots.iter_mut().find(closes)?.take()
    }

    /// Closes all, for the current process, which ends.
    pub fn close_all(self) {
        for descriptor in self.slots.into_iter().flatten() {
            descriptor.close();
        }
    }
}

/// Descriptors are 32-bit numbers, whatever the upper half of the register says.
fn number(fd: u64) -> Result<usize, Errno> {
    usize::try_from(fd as u32 as i32).map_err(|_| Errno::EBADF)
}
