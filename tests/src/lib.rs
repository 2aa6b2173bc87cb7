//! Boots machines, runs programs, checks traces.
//!
//! A test says what it boots, and gets back what came of it:
//!
//! ```no_run
//! # use tests::{Board, Boot};
//! let run = Boot::on(Board::Virt).lossless().run(&["story", "child"]);
//! run.expect_status(0).expect_sound();
//! assert_eq!(run.stdout().lines().count(), 8);
//! ```
//!
//! Kernel and programs are built by the code that `cowscope run` uses. What a machine lacks is
//! installed by it too; when that fails, so does the test. The trace of a test that fails is left
//! below `target/`, and its place is named.

pub mod batch;
mod boot;
mod calls;
pub mod card;
pub mod line;
pub mod linux;
mod root;
mod run;
mod system;
pub mod terminal;
mod trace;
pub mod user_mode;

pub use boot::Boot;
pub use calls::system_calls;
pub use root::root;
pub use run::Run;
pub use system::{System, cowscope, system};
pub use tools::card::Model;
pub use tools::cli::{ForkMode, TraceLevel};
pub use tools::machine::{Board, Size};
pub use trace::{Frame, Trace};
