//! The host side of Cowscope: build, boot, record, decode, explain.
//!
//! The binary `cowscope` is a thin layer over this library, and the machine tests use it as well.

pub mod analysis;
pub mod boot;
pub mod card;
pub mod check;
pub mod cli;
pub mod doctor;
pub mod exit;
pub mod image;
pub mod interrupt;
pub mod machine;
pub mod manual;
pub mod paths;
pub mod payload;
pub mod progress;
pub mod record;
pub mod report;
pub mod run;
pub mod serial;
pub mod setup;
pub mod top;
pub mod view;
