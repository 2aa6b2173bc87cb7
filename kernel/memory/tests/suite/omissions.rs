//! Each barrier and each TLBI of the crate is left out in turn, and the suite must notice.
//!
//! The call sites are found by running programs; nothing has to be listed here but what cannot be
//! noticed, with the reason.

use std::collections::BTreeMap;

use proptest::strategy::{Strategy, ValueTree};

use crate::program::programs;
use crate::random::{run, runner};
use crate::sim::Site;

/// How many programs may pass before an omission counts as unnoticed.
const PATIENCE: u32 = 3_000;

/// Operations whose absence this model cannot show, by module and what is executed, and why.
const INVISIBLE: [(&str, &str, &str); 1] = [(
    "change.rs",
    "DsbNshst",
    "of forget_local: the descriptor it waits for was stored by another CPU, before that one gave up \
     the lock, so this CPU has nothing of its own to complete; it is there for the day that changes",
)];

fn sites() -> BTreeMap<Site, u64> {
    let mut all: BTreeMap<Site, u64> = BTreeMap::new();
    let mut runner = runner(1, 3);
    for _ in 0..300 {
        let program = programs(80)
            .new_tree(&mut runner)
            .expect("a program")
            .current();
        let world = run(&program, 3, None).unwrap_or_else(|error| panic!("{error}"));
        for (site, count) in world.mem.mmu.sites.borrow().iter() {
            *all.entry(site.clone()).or_default() += count;
        }
        world.finish().unwrap_or_else(|error| panic!("{error}"));
    }
    all
}

/// The first program that notices that a site is left out: how many it took, and what it said.
fn noticed(site: &Site) -> Option<(u32, String)> {
    let mut runner = runner(1, 4);
    for tries in 1..=PATIENCE {
        let program = programs(80)
            .new_tree(&mut runner)
            .expect("a program")
            .current();
        // With one CPU and with several: a missing broadcast needs several, a spurious fault is
        // only forbidden with one.
        let cpus = if tries % 4 == 0 { 1 } else { 3 };
        match run(&program, cpus, Some(site.clone())) {
            Ok(world) => {
                if let Err(error) = world.finish() {
                    return Some((tries, error));
                }
            }
            Err(error) => return Some((tries, error)),
        }
    }
    None
}

#[test]
fn every_omission_is_noticed() {
    let sites = sites();
    assert!(sites.len() >= 12, "{sites:?}");
    let mut invisible = INVISIBLE.to_vec();
    let mut missed = Vec::new();
    for (site, executed) in sites {
        let name = format!("{}:{} {}", site.file, site.line, site.what);
        if let Some((tries, error)) = noticed(&site) {
            println!("{name} ({executed}): program {tries}: {error}");
            continue;
        }
        let known =
            |(file, what, _): &(&str, &str, &str)| site.file.ends_with(file) && site.what == *what;
        match invisible.iter().position(known) {
            Some(at) => println!(
                "{name} ({executed}): cannot be noticed: {}",
                invisible.remove(at).2
            ),
            None => missed.push(name),
        }
    }
    assert!(
        missed.is_empty(),
        "left out, and nothing noticed:\n{}",
        missed.join("\n")
    );
}
