//! The races. Each is run as it is, and most with a bug planted in the machine, which they must
//! find.

mod asids;
mod files;
mod frames;
mod pages;
mod tables;

use crate::sync::{Bug, plant};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Schedules of each kind.
const RUNS: usize = 150;

fn run(scheduler: impl Scheduler + 'static, race: fn(), persistence: FailurePersistence) {
    let mut config = Config::new();
    config.stack_size = 128 << 10;
    config.failure_persistence = persistence;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(race);
}

fn run_all(race: fn(), persistence: FailurePersistence) {
    run(
        RandomScheduler::new_from_seed(1, RUNS),
        race,
        persistence.clone(),
    );
    // Few switches, at places chosen with care: what many random ones hardly ever leave in peace.
    run(PctScheduler::new_from_seed(2, 3, RUNS), race, persistence);
}

/// The race has no loser.
fn holds(race: fn()) {
    run_all(race, FailurePersistence::Print);
}

/// The race finds a bug. What it panics with, for a look at whether it is the right one.
fn finds(bug: Bug, race: fn()) -> String {
    plant(bug);
    let result = catch_unwind(AssertUnwindSafe(|| run_all(race, FailurePersistence::None)));
    plant(Bug::None);
    let payload = result.expect_err("the race does not notice the bug");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_default()
}
