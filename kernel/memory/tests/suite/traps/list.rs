//! The traps of `translation-and-cow.md` section 4 and `peer-kernels.md` section 3, and the tests that
//! fall into them if the core does. Those of the core are here; those of the kernel around it are
//! tests of booted machines, in the package `tests`.
//!
//! Not here: pinned pages (`PageAnonExclusive`): nothing pins pages; what the kernel holds for a
//! moment is counted. A hardware dirty bit lost at fork (Redis 8124): hardware never writes our
//! descriptors, since `descriptor` has no way to set DBM, and sets AF in every leaf. CVE-2025-10263 (a
//! broadcast TLBI that completes too early on some cores): no repetition of TLBIs is built in.

use std::fs;
use std::path::Path;

use super::{asid, commit, fault, file, fork, mapping, protect, remap, table};

/// A test and its name.
type Test = (&'static str, fn());

/// Test functions and their names.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($test)), $module::$test)),*]
    };
}

struct Trap {
    /// Who fell into it, and how.
    what: &'static str,
    tests: &'static [Test],
    /// Of booted machines: file and function.
    booted: &'static [(&'static str, &'static str)],
}

const fn core(what: &'static str, tests: &'static [Test]) -> Trap {
    Trap {
        what,
        tests,
        booted: &[],
    }
}

const TRAPS: &[Trap] = &[
    Trap {
        what: "Redox 7f409d46: a futex keyed by physical address loses wake-ups after a copy",
        tests: &[],
        booted: &[("threads.rs", "as_on_linux")],
    },
    Trap {
        what: "CVE-2016-5195 Dirty COW: write intent dropped on a retry, after MADV_DONTNEED",
        tests: tests![
            fault::a_write_retried_after_its_page_was_dropped_is_a_write_again,
            file::a_private_file_page_is_copied_at_the_first_write_and_never_written_back,
            remap::madvise_against_a_write_never_reaches_the_file,
        ],
        booted: &[],
    },
    core(
        "CVE-2022-2590: exclusivity inferred from bits of the descriptor",
        tests![
            fault::a_frame_that_somebody_else_holds_is_copied_not_reused,
            table::the_last_owner_of_a_table_does_not_get_frames_that_a_copy_of_it_maps,
        ],
    ),
    core(
        "CVE-2020-29374: reused by the number of mappings, with a reference of the kernel's left",
        tests![fault::a_frame_that_somebody_else_holds_is_copied_not_reused],
    ),
    core(
        "Fork tearing: eager copies before the flush",
        tests![fork::an_eager_copy_is_not_torn_by_another_thread],
    ),
    core(
        "Fork flushes once, before the lock goes, and also when it fails; both sides are protected \
         (Asterinas 531, 563)",
        tests![
            fork::fork_flushes_the_parent_once,
            fork::both_sides_of_a_fork_are_write_protected_and_each_gets_its_own,
            fork::a_saturated_counter_fails_the_fork_and_nothing_else,
        ],
    ),
    core(
        "CVE-2018-18281, CVE-2021-29626, Linux 60bae7370896, Uros 385: freed, or its lock let go, \
         before the flush",
        tests![
            mapping::unmapping_frees_nothing_before_every_cpu_has_forgotten_it,
            remap::mremap_flushes_before_anything_is_used_again,
        ],
    ),
    core(
        "CVE-2021-4002, CVE-2025-38084, CVE-2025-38085, CVE-2026-23100: shared page tables",
        tests![
            table::the_first_write_below_a_shared_table_copies_the_table_then_the_page,
            table::unmapping_and_protecting_part_of_a_shared_table_touch_only_the_caller,
            table::a_child_that_left_gives_the_table_back_with_one_fault,
            table::the_others_leave_while_a_table_is_copied,
            table::discarding_all_of_a_shared_table_leaves_it_to_the_others,
            remap::a_shared_table_moves_whole,
            remap::moving_and_discarding_can_run_out_of_memory_and_change_nothing,
            remap::a_move_that_finds_one_of_two_tables_gives_it_back,
        ],
    ),
    core(
        "CVE-2019-11487, CVE-2016-0728, tgoskits 1991: counters that wrap",
        tests![
            fork::a_saturated_counter_fails_the_fork_and_nothing_else,
            table::a_saturated_table_counter_fails_the_fork_and_nothing_else,
            table::a_table_whose_copy_fails_half_way_keeps_its_counts,
            fork::three_hundred_children_share_one_page,
        ],
    ),
    core(
        "mprotect of a COW page to read-only and back (moss; Nanvix 3177, 3178)",
        tests![
            protect::protecting_a_cow_page_and_back_does_not_make_it_writable,
            protect::protection_is_gone_from_every_cpu_when_the_call_returns,
        ],
    ),
    core(
        "VM_MAYWRITE: a file that was opened to read becomes writable by way of mprotect",
        tests![protect::what_must_not_be_written_stays_so_when_it_is_split_moved_and_forked],
    ),
    core(
        "Two threads fault on one page",
        tests![fault::two_threads_that_fault_on_one_page_get_one_frame],
    ),
    core(
        "Fork again of a COW page (Nanvix 2512)",
        tests![
            fork::a_cow_page_forked_again_stays_writable_for_all,
            table::a_classic_fork_of_a_shared_table_leaves_nothing_writable,
            table::the_last_owner_of_a_table_does_not_get_pages_that_were_forked_one_by_one,
        ],
    ),
    Trap {
        what: "vfork and CLONE_VM: shared memory and stack, nothing protected",
        tests: &[],
        booted: &[
            ("programs", "the_programs_that_check_themselves"),
            ("story", "child_first_on_virt"),
        ],
    },
    core(
        "Private pages of files: seen until written, never written back; not zero for being clean \
         (tinykvm 84)",
        tests![
            file::a_private_file_page_is_copied_at_the_first_write_and_never_written_back,
            file::a_page_past_the_end_of_its_file_is_a_bus_error,
        ],
    ),
    core(
        "MAP_SHARED across fork (Asterinas 959)",
        tests![file::a_shared_mapping_stays_shared_and_is_not_protected_by_fork],
    ),
    core(
        "The zero page",
        tests![fault::the_zero_page_is_replaced_not_written],
    ),
    Trap {
        what: "The kernel writes a program's COW pages (Zeke 91, duckOS 61, tgoskits 909, MentOS 397)",
        tests: tests![fault::the_kernel_writes_a_cow_page_by_the_same_rules],
        booted: &[("programs", "the_programs_that_check_themselves")],
    },
    core(
        "Spurious faults that are no error (moss; zephyr 115708)",
        tests![
            fault::two_threads_that_fault_on_one_page_get_one_frame,
            fault::a_copied_page_is_another_one_on_every_cpu,
        ],
    ),
    Trap {
        what: "Out of memory in a COW fault, a fork, a table (Asterinas 3161, 3162)",
        tests: tests![
            fault::a_copy_that_runs_out_of_frames_leaves_the_page_shared,
            fault::a_fault_that_runs_out_of_frames_changes_nothing,
            fault::a_stack_that_cannot_grow_leaves_no_table_behind,
            fork::fork_survives_running_out_of_frames_at_every_allocation,
            table::unmapping_part_of_a_shared_table_can_run_out_of_memory_and_changes_nothing,
        ],
        booted: &[
            (
                "programs",
                "out_of_memory_kills_the_process_and_nobody_else",
            ),
            ("exhaust", "the_kernel_survives_and_forgets"),
        ],
    },
    Trap {
        what: "Fork bomb",
        tests: &[],
        booted: &[("programs", "a_fork_bomb_meets_a_limit_and_is_over")],
    },
    Trap {
        what: "Overcommit: a fork promises more than there is, and a store finds out",
        tests: tests![
            commit::a_fork_that_could_not_be_kept_is_refused_before_anything_changes,
            commit::no_write_to_what_is_charged_runs_out_of_memory,
            commit::the_kernel_is_refused_what_was_promised,
            commit::a_stack_is_charged_as_it_grows,
            commit::a_private_file_page_that_the_cache_has_no_frame_for_is_as_clean_as_any,
        ],
        booted: &[(
            "commit",
            "a_fork_is_refused_if_what_it_shares_could_not_be_written_twice",
        )],
    },
    core(
        "Stack growth next to another mapping",
        tests![fault::the_stack_grows_to_its_limit_and_keeps_clear_of_what_is_below],
    ),
    core(
        "Page-table pages used again as pages of users, walk caches and all",
        tests![
            table::a_freed_table_is_in_no_walk_cache_when_its_frame_becomes_a_page,
            mapping::unmapping_frees_nothing_before_every_cpu_has_forgotten_it,
        ],
    ),
    core(
        "Local invalidation where others run (OSv 1475, zephyr 97887, Asterinas 862, 3651), and a new \
         page before the old one is gone (OpenBSD, NetBSD, FreeBSD D14347)",
        tests![
            fault::a_copied_page_is_another_one_on_every_cpu,
            protect::protection_is_gone_from_every_cpu_when_the_call_returns,
        ],
    ),
    core(
        "The last owner's broadcast, which nobody needs (Linux 6.19)",
        tests![fault::the_last_owner_writes_in_place_with_a_local_tlbi_only],
    ),
    core(
        "ASIDs used again without a flush, or handed out twice (zephyr 113559, 113569; phoenix-rtos 352)",
        tests![
            asid::a_rollover_without_its_flush_is_reported,
            asid::more_address_spaces_than_asids_take_turns,
            asid::what_runs_during_rollovers_keeps_its_number,
            asid::the_end_of_an_address_space_frees_its_number_without_a_rollover,
        ],
    ),
    core(
        "TLBIs of an address, or with bits of it in the wrong place (Unikraft 1149, zephyr 115708)",
        tests![asid::a_tlbi_names_a_page_by_its_number_and_nothing_else],
    ),
    core(
        "Instruction caches (managarm 772, CRIU 2689, elfuse 24)",
        tests![
            protect::code_is_cleaned_once_and_again_after_it_was_written,
            protect::code_that_an_eager_fork_makes_writable_again_is_cleaned_again,
            file::a_file_that_is_cut_off_has_zeros_there_and_is_cleaned_again,
            file::pages_that_are_cut_off_are_given_back_and_zero_where_they_are_mapped,
            file::code_that_is_written_through_a_shared_mapping_is_cleaned_where_it_is_mapped_next,
            protect::a_page_is_never_writable_and_executable_at_once,
        ],
    ),
    core(
        "Ranges and accesses that programs make up",
        tests![
            mapping::ranges_from_programs_are_checked,
            remap::bad_places,
            fault::denials_say_why,
        ],
    ),
    core(
        "Modes and sizes of fork",
        tests![
            fork::eager_fork_leaves_nothing_to_copy,
            fork::small_tables_are_copied_even_if_tables_are_shared,
            mapping::mappings_split_and_merge,
        ],
    ),
];

/// The tests of the core, each once.
pub fn all() -> Vec<Test> {
    let mut all: Vec<Test> = TRAPS.iter().flat_map(|trap| trap.tests).copied().collect();
    all.sort_by_key(|(name, _)| *name);
    all.dedup_by_key(|(name, _)| *name);
    all
}

/// The core's tests exist, or this would not compile.
#[test]
fn every_trap_has_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tests");
    for trap in TRAPS {
        assert!(
            trap.tests.len() + trap.booted.len() > 0,
            "{}: no test",
            trap.what
        );
        for (file, test) in trap.booted {
            let path = tests.join(file).with_extension("rs");
            let text = fs::read_to_string(&path).unwrap_or_default();
            let found = text.contains(&format!("#[test]\nfn {test}()"));
            assert!(found, "{}: no test {test} in {}", trap.what, path.display());
        }
    }
}
