//! Text that is made up while it is read: of all that a file would say, the window that was asked for.

use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// Takes text, and keeps what lies in the window.
pub struct Window {
    /// Bytes still to be left out.
    skip: u64,
    bytes: Vec<u8>,
    room: usize,
}

impl Window {
    /// `room` bytes from `offset` on.
    pub fn new(offset: u64, room: usize) -> Result<Window, Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
        Ok(Window {
            skip: offset,
            bytes,
            room,
        })
    }

    /// What was kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Nothing more is wanted.
    pub fn is_full(&self) -> bool {
        self.bytes.len() == self.room
    }

    /// Takes bytes that need not be text. An error means that nothing more is wanted.
    pub fn push(&mut self, bytes: &[u8]) -> fmt::Result {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        let wanted = &bytes[skipped as usize..];
        let count = wanted.len().min(self.room - self.bytes.len());
        self.bytes.extend_from_slice(&wanted[..count]);
        if self.is_full() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

impl Write for Window {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}
