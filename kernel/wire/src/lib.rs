//! Cowscope's wire: what the kernel says, and how it is put on a serial line.
//!
//! ```text
//! stream   :=  ( text | 0x00 frame 0x00 )*
//! frame    :=  COBS( payload ++ CRC-32C of the payload, little endian )
//! payload  :=  postcard( frame::Envelope )
//! ```
//!
//! [`event`] holds the events with absolute values, as the kernel records them and as the tools
//! read them. [`batch`] packs a run of them, delta-coded, so that a batch decodes alone.
//! [`frame`] wraps batches and everything else; [`deframe`] takes any bytes and finds the frames,
//! the text and the damage in them.
//!
//! What is shipped is never edited: enums get new variants at their end, a body's type may get new
//! fields at its end, and everything else is a new major version ([`MAJOR`]). The golden vectors in
//! `tests/golden.rs` fail when an encoding changes.
#![no_std]
#![forbid(unsafe_code)]

pub mod batch;
mod codec;
mod context;
pub mod deframe;
mod descriptor;
pub mod event;
mod faults;
pub mod frame;
mod kinds;

pub use deframe::{Deframer, Item};
pub use frame::{Body, Envelope};

/// Raised when an old decoder would misread the stream; it is every payload's first byte.
///
/// It stays below 9 (tab), so that no frame begins like text: [`deframe`] counts on it.
pub const MAJOR: u8 = 1;

/// Raised when variants or fields are added that an old decoder can skip.
pub const MINOR: u8 = 1;
