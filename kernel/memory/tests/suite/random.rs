//! Random programs, with fixed seeds: the same on every run. A failing one is shrunk and printed.

use std::collections::BTreeMap;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use crate::program::{Program, programs};
use crate::sim::Site;
use crate::world::World;

/// Frames of the machine: enough for what programs do, and few enough to be used again at once.
const FRAMES: usize = 160;

/// Runs a program to its end, with the number of CPUs that it asks for by its seed.
pub fn run(program: &Program, cpus: usize, omit: Option<Site>) -> Result<World, String> {
    let mut world = World::new(cpus, FRAMES, program.seed, omit);
    for (number, op) in program.ops.iter().enumerate() {
        if let Err(error) = world.step(*op) {
            // Its caches were never released, and say so when they are dropped.
            std::mem::forget(world);
            return Err(format!("step {number}, {op:?}: {error}"));
        }
    }
    Ok(world)
}

pub fn runner(cases: u32, seed: u8) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    TestRunner::new_with_rng(
        config,
        TestRng::from_seed(RngAlgorithm::XorShift, &[seed; 16]),
    )
}

fn explore(cases: u32, cpus: usize, seed: u8) {
    let mut outcomes: BTreeMap<&'static str, u32> = BTreeMap::new();
    let seen = std::cell::RefCell::new(&mut outcomes);
    let result = runner(cases, seed).run(&programs(80), |program| {
        let world =
            run(&program, cpus, None).map_err(proptest::test_runner::TestCaseError::fail)?;
        for (name, count) in &world.outcomes {
            *seen.borrow_mut().entry(name).or_default() += count;
        }
        world
            .finish()
            .map_err(proptest::test_runner::TestCaseError::fail)
    });
    if let Err(error) = result {
        match error {
            TestError::Fail(why, program) => {
                panic!("{why}\nseed {}\n{:#?}", program.seed, program.ops)
            }
            TestError::Abort(why) => panic!("{why}"),
        }
    }
    // A generator that never reaches a case proves nothing about it.
    let mut expected = vec![
        "zero-fill",
        "zero-page",
        "cow-copy",
        "cow-zero",
        "cow-reuse",
        "shared-write",
        "file-read",
        "file-copy",
        "exec",
        "denied",
        "out-of-memory",
        "table-unshare",
        "table-reuse",
        "rollover",
    ];
    if cpus > 1 {
        expected.push("spurious");
    }
    for name in expected {
        assert!(
            outcomes.get(name).is_some_and(|count| *count >= 10),
            "{name} was hardly met: {outcomes:?}"
        );
    }
}

#[test]
fn one_cpu() {
    explore(2_000, 1, 1);
}

#[test]
fn three_cpus() {
    explore(6_000, 3, 2);
}
