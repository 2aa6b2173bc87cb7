//! Copy-on-write of single pages.

use super::{finds, holds};
use crate::sync::Bug;
use crate::world::{Space, check_counts, check_empty, end, join, on_cpu, page, world};
use crate::{Backing, ForkMode};
use std::sync::Arc;

/// Two threads of one program write to a page that its child has too.
fn cow_against_cow_in_one_space() {
    let mem = world(32);
    let parent = Arc::new(Space::new(&mem, Backing::Anonymous));
    parent.write(page(0), 0, 7);
    let child = parent.fork(ForkMode::Classic);
    // This CPU's TLB has the page as well.
    assert_eq!(parent.read(page(0), 0), 7);
    let threads: Vec<_> = (1..3)
        .map(|cpu| {
            let parent = parent.clone();
            on_cpu(cpu, move || {
                assert_eq!(parent.read(page(0), 0), 7);
                parent.write(page(0), cpu, cpu as u64);
                assert_eq!(parent.read(page(0), cpu), cpu as u64);
            })
        })
        .collect();
    threads.into_iter().for_each(join);
    for cpu in 1..3 {
        assert_eq!(parent.read(page(0), cpu), cpu as u64, "a store is lost");
        assert_eq!(child.read(page(0), cpu), 0, "the child sees the parent's");
    }
    check_counts(&mem, &[&parent, &child], &[]);
    child.end();
    end(parent);
    check_empty(&mem);
}

#[test]
fn cow_against_cow_in_one_space_holds() {
    holds(cow_against_cow_in_one_space);
}

#[test]
fn cow_against_cow_in_one_space_finds_a_stale_tlb() {
    let said = finds(Bug::DeafCpus, cow_against_cow_in_one_space);
    assert!(said.contains("left: 0"), "{said}");
}

#[test]
fn cow_against_cow_in_one_space_finds_two_at_one_leaf() {
    finds(Bug::NoTurns, cow_against_cow_in_one_space);
}

/// Threads of one program write to pages of their own, and to one that nobody has written, while
/// another unmaps what none of them uses.
fn fault_against_fault_and_unmap() {
    let mem = world(40);
    let space = Arc::new(Space::new(&mem, Backing::Anonymous));
    space.write(page(8), 0, 8);
    let mut threads: Vec<_> = (1..3)
        .map(|cpu| {
            let space = space.clone();
            on_cpu(cpu, move || {
                space.write(page(cpu as u64), 0, cpu as u64);
                space.write(page(0), cpu, cpu as u64);
            })
        })
        .collect();
    threads.push({
        let space = space.clone();
        on_cpu(3, move || space.unmap(page(8), page(9)))
    });
    threads.into_iter().for_each(join);
    for cpu in 1..3 {
        assert_eq!(space.read(page(cpu as u64), 0), cpu as u64);
        assert_eq!(space.read(page(0), cpu), cpu as u64, "a store is lost");
    }
    assert_eq!(space.resident(), 3, "pages are miscounted");
    check_counts(&mem, &[&space], &[]);
    end(space);
    check_empty(&mem);
}

#[test]
fn fault_against_fault_and_unmap_holds() {
    holds(fault_against_fault_and_unmap);
}

#[test]
fn fault_against_fault_and_unmap_finds_two_at_one_leaf() {
    finds(Bug::NoTurns, fault_against_fault_and_unmap);
}

/// Threads of one program fill pages of different tables.
fn fault_against_fault_in_two_tables() {
    const TABLE: u64 = 512;
    let mem = world(32);
    let space = Arc::new(Space::of(&mem, Backing::Anonymous, 2));
    space.write(page(0), 0, 1);
    space.write(page(TABLE), 0, 1);
    let threads = [1, 2].map(|cpu| {
        let space = space.clone();
        on_cpu(cpu as usize, move || {
            for number in 1..3 {
                space.write(page((cpu - 1) * TABLE + number), 0, cpu);
            }
        })
    });
    let [..] = threads.map(join);
    assert_eq!(space.resident(), 6, "pages are miscounted");
    check_counts(&mem, &[&space], &[]);
    end(space);
    check_empty(&mem);
}

#[test]
fn fault_against_fault_in_two_tables_holds() {
    holds(fault_against_fault_in_two_tables);
}

#[test]
fn fault_against_fault_in_two_tables_finds_a_lost_count() {
    let said = finds(Bug::TornAdd, fault_against_fault_in_two_tables);
    assert!(said.contains("miscounted"), "{said}");
}

/// Parent and child write to their common page. Either may be the last owner.
fn cow_against_cow_in_two_spaces() {
    let mem = world(32);
    let parent = Space::new(&mem, Backing::Anonymous);
    parent.write(page(0), 0, 7);
    let child = parent.fork(ForkMode::Classic);
    let threads = [(1, parent), (2, child)].map(|(cpu, space)| {
        on_cpu(cpu, move || {
            space.write(page(0), 1, cpu as u64);
            space
        })
    });
    let [parent, child] = threads.map(join);
    for (space, value) in [(&parent, 1), (&child, 2)] {
        assert_eq!(space.read(page(0), 0), 7);
        assert_eq!(space.read(page(0), 1), value, "the other's store");
    }
    check_counts(&mem, &[&parent, &child], &[]);
    parent.end();
    child.end();
    check_empty(&mem);
}

#[test]
fn cow_against_cow_in_two_spaces_holds() {
    holds(cow_against_cow_in_two_spaces);
}

#[test]
fn cow_against_cow_in_two_spaces_finds_a_lost_count() {
    let said = finds(Bug::TornSub, cow_against_cow_in_two_spaces);
    assert!(
        said.contains("lost") || said.contains("references"),
        "{said}"
    );
}

/// A thread forks while another one writes to one page and then to another: the child has a state
/// that the parent had at one moment, and keeps it.
fn fork_against_fault(mode: ForkMode) {
    let mem = world(40);
    let parent = Arc::new(Space::new(&mem, Backing::Anonymous));
    parent.write(page(0), 0, 0);
    parent.write(page(1), 0, 0);
    let writer = {
        let parent = parent.clone();
        on_cpu(1, move || {
            for value in 1..4 {
                parent.write(page(0), 0, value);
                parent.write(page(1), 0, value);
            }
        })
    };
    let forker = {
        let parent = parent.clone();
        on_cpu(2, move || {
            let child = parent.fork(mode);
            let seen = [0, 1].map(|number| child.read(page(number), 0));
            (child, seen)
        })
    };
    let (child, seen) = join(forker);
    join(writer);
    let later = [0, 1].map(|number| child.read(page(number), 0));
    assert_eq!(
        seen, later,
        "the child sees what the parent wrote after the fork"
    );
    let ahead = seen[0].wrapping_sub(seen[1]);
    assert!(
        ahead <= 1,
        "the parent was never in the child's state: {seen:?}"
    );
    assert_eq!([0, 1].map(|number| parent.read(page(number), 0)), [3, 3]);
    check_counts(&mem, &[&parent, &child], &[]);
    child.end();
    end(parent);
    check_empty(&mem);
}

fn classic_fork_against_fault() {
    fork_against_fault(ForkMode::Classic);
}

fn shared_fork_against_fault() {
    fork_against_fault(ForkMode::SharedTables);
}

fn eager_fork_against_fault() {
    fork_against_fault(ForkMode::Eager);
}

#[test]
fn fork_against_fault_holds() {
    holds(classic_fork_against_fault);
    holds(shared_fork_against_fault);
    holds(eager_fork_against_fault);
}

#[test]
fn fork_against_fault_finds_a_stale_tlb() {
    for race in [
        classic_fork_against_fault,
        shared_fork_against_fault,
        eager_fork_against_fault,
    ] {
        let said = finds(Bug::DeafCpus, race);
        let right = ["after the fork", "never in", "left: ["];
        assert!(right.iter().any(|part| said.contains(part)), "{said}");
    }
}
