//! The kernel's own list of system calls.

use std::collections::BTreeSet;

/// The names of all system calls of the kernel, as its dispatcher has them.
pub fn system_calls() -> BTreeSet<&'static str> {
    let dispatcher = include_str!("../../kernel/src/syscall/mod.rs");
    let names = dispatcher.split("nr::__NR_").skip(1);
    names
        .filter_map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
        })
        .collect()
}
