//! Device drivers.

pub mod gicv2;
pub mod interrupt;
pub mod power;
pub mod semihosting;
pub mod uart;

pub use power::exit;
