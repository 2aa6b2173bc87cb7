//! Does nothing, and fails: exit code 1.
#![no_std]
#![no_main]
user::program!(main, "");

fn main(_: user::Args) -> i32 {
    1
}
