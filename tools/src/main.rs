//! cowscope.
fn main() {}
