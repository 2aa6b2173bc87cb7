//! C strings made of numbers, without a heap.

use core::ffi::CStr;
use core::fmt::{self, Write};

/// A C string of up to 31 bytes.
pub struct Text {
    bytes: [u8; 32],
    used: usize,
}

impl Text {
    /// What `value` displays as; longer text is cut off.
    pub fn new(value: impl fmt::Display) -> Self {
        let mut text = Self {
            bytes: [0; 32],
            used: 0,
        };
        // Fails when the text is full, which is when it is cut off.
        let _ = write!(text, "{value}");
        text
    }

    /// The string.
    pub fn as_c_str(&self) -> &CStr {
        // The last byte is always NUL.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() - 1 {
                return Err(fmt::Error);
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}
