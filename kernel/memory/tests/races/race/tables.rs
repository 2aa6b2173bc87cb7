//! Level 3 tables that address spaces share after a fork: no lock is common to their owners.

use super::{finds, holds};
use crate::sync::Bug;
use crate::tables::L3_SPAN;
use crate::world::{BASE, Space, World, check_counts, check_empty, join, on_cpu, page, world};
use crate::{Backing, ForkMode};

/// A program with two pages, and so many children that share its table.
fn family<const N: usize>() -> (World, [Space; N]) {
    let mem = world(48);
    let first = Space::new(&mem, Backing::Anonymous);
    first.write(page(0), 0, 7);
    first.write(page(1), 0, 8);
    let mut all = vec![first];
    while all.len() < N {
        all.push(all[0].fork(ForkMode::SharedTables));
    }
    let all = all.try_into().unwrap_or_else(|_| unreachable!("N of them"));
    (mem, all)
}

/// Ends the survivors, and looks for what is lost.
fn finish(mem: &World, spaces: impl IntoIterator<Item = Space>) {
    spaces.into_iter().for_each(Space::end);
    check_empty(mem);
}

/// All owners of a table write at the same time.
fn unshare_against_unshare<const N: usize>() {
    let (mem, spaces) = family::<N>();
    let mut cpu = 0;
    let threads = spaces.map(|space| {
        cpu += 1;
        let value = cpu as u64;
        on_cpu(cpu, move || {
            space.write(page(0), 1, value);
            space
        })
    });
    let spaces = threads.map(join);
    for (space, value) in spaces.iter().zip(1..) {
        assert_eq!(space.read(page(0), 0), 7);
        assert_eq!(space.read(page(0), 1), value, "another's store");
        assert_eq!(space.read(page(1), 0), 8);
    }
    check_counts(&mem, &spaces.each_ref(), &[]);
    finish(&mem, spaces);
}

#[test]
fn unshare_against_unshare_holds() {
    holds(unshare_against_unshare::<2>);
    holds(unshare_against_unshare::<3>);
}

#[test]
fn unshare_against_unshare_finds_a_lost_count() {
    finds(Bug::TornSub, unshare_against_unshare::<2>);
    finds(Bug::TornAdd, unshare_against_unshare::<2>);
}

/// One owner ends while the other writes.
fn exit_against_unshare() {
    let (mem, [parent, child]) = family::<2>();
    let exit = on_cpu(1, move || child.end());
    let unshare = on_cpu(2, move || {
        parent.write(page(0), 1, 1);
        parent.write(page(1), 1, 2);
        parent
    });
    join(exit);
    let parent = join(unshare);
    assert_eq!([0, 1].map(|word| parent.read(page(0), word)), [7, 1]);
    assert_eq!([0, 1].map(|word| parent.read(page(1), word)), [8, 2]);
    check_counts(&mem, &[&parent], &[]);
    finish(&mem, [parent]);
}

#[test]
fn exit_against_unshare_holds() {
    holds(exit_against_unshare);
}

#[test]
fn exit_against_unshare_finds_a_lost_count() {
    finds(Bug::TornSub, exit_against_unshare);
}

/// All owners end.
fn exit_against_exit() {
    let (mem, spaces) = family::<3>();
    let mut cpu = 0;
    let threads = spaces.map(|space| {
        cpu += 1;
        on_cpu(cpu, move || space.end())
    });
    let [..] = threads.map(join);
    finish(&mem, []);
}

#[test]
fn exit_against_exit_holds() {
    holds(exit_against_exit);
}

#[test]
fn exit_against_exit_finds_a_lost_count() {
    let said = finds(Bug::TornSub, exit_against_exit);
    assert!(said.contains("lost") || said.contains("twice"), "{said}");
}

/// A child forks, and so shares the table once more, while its parent ends and a sister writes.
fn share_against_exit_and_unshare() {
    let (mem, [parent, child, sister]) = family::<3>();
    let exit = on_cpu(1, move || parent.end());
    let share = on_cpu(2, move || {
        let grandchild = child.fork(ForkMode::SharedTables);
        grandchild.write(page(0), 1, 1);
        [child, grandchild]
    });
    let unshare = on_cpu(3, move || {
        sister.write(page(0), 1, 2);
        sister
    });
    join(exit);
    let [child, grandchild] = join(share);
    let sister = join(unshare);
    for (space, value) in [(&child, 0), (&grandchild, 1), (&sister, 2)] {
        assert_eq!(space.read(page(0), 0), 7);
        assert_eq!(space.read(page(0), 1), value, "another's store");
        assert_eq!(space.read(page(1), 0), 8);
    }
    check_counts(&mem, &[&child, &grandchild, &sister], &[]);
    finish(&mem, [child, grandchild, sister]);
}

#[test]
fn share_against_exit_and_unshare_holds() {
    holds(share_against_exit_and_unshare);
}

#[test]
fn share_against_exit_and_unshare_finds_a_lost_count() {
    finds(Bug::TornSub, share_against_exit_and_unshare);
    finds(Bug::TornAdd, share_against_exit_and_unshare);
}

/// One owner unmaps all of the table, while the other, whose own it may be by then, empties it.
fn unmap_against_unmap() {
    let (mem, [parent, child]) = family::<2>();
    let all = on_cpu(1, move || {
        parent.unmap(BASE, BASE + L3_SPAN);
        parent
    });
    let part = on_cpu(2, move || {
        child.unmap(page(0), page(1));
        child
    });
    let (parent, child) = (join(all), join(part));
    assert_eq!(parent.resident(), 0, "pages of a table that was another's");
    assert_eq!(child.resident(), 1);
    assert_eq!(child.read(page(1), 0), 8);
    check_counts(&mem, &[&parent, &child], &[]);
    finish(&mem, [parent, child]);
}

#[test]
fn unmap_against_unmap_holds() {
    holds(unmap_against_unmap);
}

#[test]
fn unmap_against_unmap_finds_a_lost_count() {
    finds(Bug::TornSub, unmap_against_unmap);
}
