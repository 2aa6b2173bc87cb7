//! Cowscope's wire: what the kernel says, and how it is put on a serial line.
//!
//! [`event`] holds the events with absolute values, as the kernel records them and as the tools
//! read them.
#![no_std]
#![forbid(unsafe_code)]

pub mod event;
