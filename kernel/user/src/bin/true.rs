//! Does nothing, successfully.
#![no_std]
#![no_main]
user::program!(main, "");

fn main(_: user::Args) {}
