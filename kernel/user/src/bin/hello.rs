//! Prints one line.
#![no_std]
#![no_main]
user::program!(main, "usage: hello");

fn main(args: user::Args) {
    if !args.words().is_empty() {
        args.usage();
    }
    user::println!("hello, world");
}
