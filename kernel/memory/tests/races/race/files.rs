//! Page caches, which all address spaces share.

use super::{finds, holds};
use crate::sync::Bug;
use crate::world::{Space, check_counts, check_empty, join, on_cpu, page, world};
use crate::{Backing, PAGE_BYTES, PAGE_SIZE, PageCache, Source};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const PAGES: u64 = 2;

/// Each page is filled with its number plus one, once.
struct Counted(Arc<AtomicU32>);

impl Source for Counted {
    fn fill(&self, offset: u64, page: &mut [u8; PAGE_BYTES]) {
        self.0.fetch_add(1, Ordering::Relaxed);
        // A disk takes its time.
        shuttle::thread::yield_now();
        page.fill((offset / PAGE_SIZE) as u8 + 1);
    }
}

fn content(page: u64) -> u64 {
    u64::from_le_bytes([page as u8 + 1; 8])
}

/// Programs read the same pages of a file for the first time.
fn fill_against_fill() {
    let mem = world(40);
    let fills = Arc::new(AtomicU32::new(0));
    let source = Box::new(Counted(fills.clone()));
    let cache = PageCache::new(1, PAGES * PAGE_SIZE, source);
    // Not dropped when the race is lost.
    let cache = ManuallyDrop::new(Arc::new(cache));
    let backing = || Backing::File {
        cache: (*cache).clone(),
        offset: 0,
    };
    let spaces = [1, 2].map(|cpu| (cpu, Space::new(&mem, backing())));
    let threads = spaces.map(|(cpu, space)| {
        on_cpu(cpu, move || {
            for number in 0..PAGES {
                assert_eq!(space.read(page(number), 5), content(number));
            }
            space.write(page(0), 0, cpu as u64);
            space
        })
    });
    let [one, two] = threads.map(join);
    assert_eq!(
        u64::from(fills.load(Ordering::Relaxed)),
        PAGES,
        "filled twice"
    );
    assert_eq!((one.read(page(0), 0), two.read(page(0), 0)), (1, 2));
    check_counts(&mem, &[&one, &two], &[(&cache, PAGES)]);
    drop(ManuallyDrop::into_inner(cache));
    // The last one out gives the cache's own frames back.
    let ends = [(1, one), (2, two)].map(|(cpu, space)| on_cpu(cpu, move || space.end()));
    let [..] = ends.map(join);
    check_empty(&mem);
}

#[test]
fn fill_against_fill_holds() {
    holds(fill_against_fill);
}

#[test]
fn fill_against_fill_finds_a_lost_count() {
    // References are added under the cache's lock, and dropped without it.
    finds(Bug::TornSub, fill_against_fill);
}
