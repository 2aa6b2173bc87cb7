//! The analysis: from bytes to what happened, in one pass.
//!
//! `stream` turns bytes into events and counts what is missing; `machine` rebuilds the machine
//! from the events; `symbols` finds function and source line of an instruction in the programs'
//! own ELF files.

pub mod check;
pub mod descriptor;
pub mod footprint;
pub mod fork;
pub mod frames;
mod layout;
pub mod loss;
pub mod machine;
pub mod overlap;
pub mod process;
pub mod space;
pub mod stream;
pub mod symbols;
