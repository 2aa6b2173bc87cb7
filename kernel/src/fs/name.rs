//! Names that the kernel makes up, such as `pipe:[7]`.

use core::fmt::{self, Write};
use core::ops::Deref;

/// A short name. It needs no memory, whose want would be a panic in `format!`.
pub struct MadeUp {
    bytes: [u8; 32],
    len: usize,
}

impl MadeUp {
    /// A name; the end of a longer one is cut off.
    pub fn new(name: fmt::Arguments<'_>) -> MadeUp {
        let mut made = MadeUp {
            bytes: [0; 32],
            len: 0,
        };
        // The error is that it was cut off.
        let _ = made.write_fmt(name);
        made
    }
}

impl Write for MadeUp {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = part.len().min(room.len());
        room[..len].copy_from_slice(&part.as_bytes()[..len]);
        self.len += len;
        if len == part.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

impl Deref for MadeUp {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
