//! What a machine must have: found, or installed. Says what it installs, and asks nothing.

pub mod apt;
mod complete;
pub mod debian;
pub mod firmware;
pub mod linux;
pub mod packages;
pub mod qemu;
pub mod rust;
pub mod sources;
pub mod version;

pub use qemu::Qemu;
pub use rust::Toolchain;
pub use version::Version;
