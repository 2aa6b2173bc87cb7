//! What travels: bytes, and the open files that are sent with them.

use super::{Credentials, Socket};
use crate::fs::File;
use crate::fs::buffer::Buffer;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Files that are sent (SCM_RIGHTS).
pub type Rights = Vec<Arc<File>>;

/// A packet, or some bytes of a stream.
pub struct Message {
    bytes: Vec<u8>,
    start: usize,
    /// The sender.
    pub from: Option<Arc<Socket>>,
    /// Files that come with it.
    pub rights: Rights,
    /// Who sent it.
    pub credentials: Credentials,
    /// How many files came with it, even when they have been taken.
    files: usize,
}

impl Message {
    /// Takes up to `most` bytes from the sender: EFAULT if they are not all there.
    pub fn read(from: &mut Buffer<'_>, most: usize) -> Result<Message, Errno> {
        let len = most.min(from.left());
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        if from.take(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        Ok(Message {
            bytes,
            start: 0,
            from: None,
            rights: Vec::new(),
            credentials: Credentials::NOBODY,
            files: 0,
        })
    }

    /// Sends files with it.
    pub fn bring(&mut self, rights: Rights) {
        self.files = rights.len();
        self.rights = rights;
    }

    /// What it takes of the kernel's memory, about: as on Linux small messages are not for nothing.
    pub fn cost(&self) -> usize {
        const OWN: usize = 512;
        OWN + self.bytes.len() + size_of::<Arc<File>>() * self.files
    }

    /// Bytes that are left.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Them, after the first `skip`.
    pub fn bytes(&self, skip: usize) -> &[u8] {
        &self.bytes[(self.start + skip).min(self.bytes.len())..]
    }

    /// Takes some away.
    pub fn advance(&mut self, count: usize) {
        self.start += count;
    }
}
