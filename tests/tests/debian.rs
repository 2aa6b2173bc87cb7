//! The same programs on our kernel and on Debian's, each booted once in QEMU: what they print and how they
//! end must be the same.
//!
//! Where `qemu-aarch64` is as good as Linux, `oracle.rs` and `linux.rs` compare with that.

use tests::batch::Case;
use tests::linux::compare;

/// Programs of ours, with their arguments.
const PROGRAMS: &[&[&str]] = &[
    &["signals"],
    &["signals", "kernel"],
    &["jobs"],
    &["jobs", "kernel"],
    &["events"],
    &["files"],
    &["polls"],
    &["sockets"],
    &["filemaps"],
    &["limits"],
    &["splices"],
    &["syscalls"],
    &["mapping"],
    &["remap"],
    &["pipes"],
    &["proc"],
    &["vforks", "20"],
    &["threads"],
    &["fp"],
    &["isolation", "20", "16", "3"],
    &["crash", "read"],
    &["crash", "write"],
    &["crash", "exec"],
    &["crash", "null"],
    &["crash", "undefined"],
    &["crash", "stack"],
];

/// Lines that differ by design, and why.
fn differs(_case: &Case, _line: &str) -> bool {
    false
}

#[test]
fn programs() {
    let case = |words: &&[&str]| {
        let path: &'static str = format!("/bin/{}", words[0]).leak();
        Case::new(path, words)
    };
    let cases: Vec<_> = PROGRAMS.iter().map(case).collect();
    compare(&cases, &[], differs).expect_sound();
}
