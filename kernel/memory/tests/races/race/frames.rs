//! The frame allocator.

use super::holds;
use crate::world::{check_empty, join, on_cpu, world};

/// Three CPUs take all frames there are, twice. Each finds its share.
fn allocate_against_allocate() {
    const SHARE: usize = 11;
    let mem = world(3 * SHARE + 1);
    let threads = [1, 2, 3].map(|cpu| {
        let mem = mem.clone();
        on_cpu(cpu, move || {
            for _ in 0..2 {
                let taken: Vec<_> = (0..SHARE)
                    .map(|_| mem.alloc().expect("a share is left"))
                    .collect();
                taken.into_iter().for_each(|frame| mem.free(frame));
            }
        })
    });
    let [..] = threads.map(join);
    check_empty(&mem);
}

#[test]
fn allocate_against_allocate_holds() {
    holds(allocate_against_allocate);
}
