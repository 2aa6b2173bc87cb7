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
    &["accounts"],
    &["caches"],
    &["families"],
    &["frames"],
    &["sleeps"],
    &["crash", "read"],
    &["crash", "write"],
    &["crash", "exec"],
    &["crash", "null"],
    &["crash", "undefined"],
    &["crash", "stack"],
];

/// What differs by design: the program, how its lines begin, and why.
const DIFFERENT: &[(&str, &[&str], &str)] = &[
    (
        "families",
        &["found:"],
        "of children that have ended, the last is found first, at once however many there are",
    ),
    (
        "families",
        &["shared", "sister:"],
        "of clone, there are fork, vfork and threads: not CLONE_FILES, CLONE_FS or CLONE_PARENT alone",
    ),
    (
        "frames",
        &["nobody's:", "nobody's, a store:"],
        "a page that nobody may use is there: the processor calls that a lack of rights, where Linux's is \
         none",
    ),
    (
        "accounts",
        &[
            "shared, inherited:",
            "shared with a child:",
            "a file, inherited:",
        ],
        "fork shares tables, or copies all of them: pages that are shared anyhow are there at once",
    ),
    (
        "accounts",
        &["together, or not:", "the last:"],
        "there is no anon_vma: neighbours become one mapping whatever was written to them",
    ),
    (
        "accounts",
        &["advised:"],
        "advice on reading ahead and on core dumps has no effect, and is not kept",
    ),
    (
        "accounts",
        &[
            "locked:",
            "not locked:",
            "locked, in a child:",
            "more locked:",
            "advice on it:",
            "unlocked:",
            "one more to lock:",
            "all to lock:",
        ],
        "mlock has no effect: nothing is ever swapped out",
    ),
    (
        "accounts",
        &["shared with a parent:"],
        "whether a page was written is known of the page, not of each mapping of it",
    ),
    (
        "accounts",
        &["the other, in a child:"],
        "a page's shares are those of the tables that map it, each split by those who share the table",
    ),
    (
        "accounts",
        &["fork advice:"],
        "MADV_DONTFORK and MADV_WIPEONFORK are refused",
    ),
];

fn differs(case: &Case, line: &str) -> bool {
    let program = case.arguments[0].as_str();
    let begins = |starts: &[&str]| starts.iter().any(|start| line.starts_with(start));
    DIFFERENT
        .iter()
        .any(|(name, starts, _)| *name == program && begins(starts))
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
