//! Machines: what they can be, how QEMU is told, and running one to its end.

mod board;
mod bootargs;
mod input;
mod process;
mod qemu;
pub mod terminal;

pub use board::{Board, Hardware, Size};
pub use bootargs::BootArgs;
pub use input::{Input, may_read};
pub use process::{Ended, Ending, Limits, run};
pub use qemu::Setup;
