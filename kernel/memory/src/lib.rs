//! Frames, translation tables, address spaces, copy-on-write, ASIDs.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
