//! Random programs, with fixed seeds: the same on every run. A failing one is made
//! short, and told in words.
//!
//! Over a million operations in all, in programs of at least 200 steps, with as few ASIDs as can be.

use std::collections::BTreeMap;

use crate::program::{Program, Programs};
use crate::sim::{Site, leaving_out};
use crate::world::{World, story};

/// Frames of the machine: enough for what programs do, and few enough to be used again at once.
const FRAMES: usize = 320;

/// A machine for a program.
pub fn machine(program: &Program, cpus: usize) -> World {
    let mut world = World::new(cpus, FRAMES, program.seed);
    world.refuses = program.refused;
    world
}

/// Runs a program, and ends all that it leaves. What was met, outcome by outcome.
pub fn run(program: &Program, mut world: World) -> Result<BTreeMap<&'static str, u32>, String> {
    for (number, op) in program.ops.iter().enumerate() {
        let wrong = |error| format!("step {number}, {op:?}: {error}");
        world.step(*op).map_err(wrong)?;
    }
    let outcomes = std::mem::take(&mut world.outcomes);
    world.finish()?;
    Ok(outcomes)
}

/// What is left of a program fails on some machines only: so many are tried, with seeds so far apart:
/// a multiple of 24, to which other properties of machines and programs are bound.
const RETRIES: u64 = 10;
const SEEDS: u64 = 24;

/// Runs a program on one of several machines of a kind.
pub fn run_on(
    number: u64,
    program: &Program,
    cpus: usize,
) -> Result<BTreeMap<&'static str, u32>, String> {
    let seed = program.seed.wrapping_add(number * SEEDS);
    run(program, World::new(cpus, FRAMES, seed))
}

/// What a program without some of its steps says when it fails, and on which machine.
fn fails(mut program: Program, cpus: usize) -> Option<(String, Program)> {
    for _ in 0..RETRIES {
        if let Err(error) = run(&program, machine(&program, cpus)) {
            return Some((error, program));
        }
        program.seed = program.seed.wrapping_add(SEEDS);
    }
    None
}

/// A program that fails, without whatever it fails without.
fn shorten(error: String, program: Program, cpus: usize) -> (String, Program) {
    let mut best = (error, program);
    let mut count = best.1.ops.len() / 2;
    while count > 0 {
        let (mut at, before) = (0, best.1.ops.len());
        while at < best.1.ops.len() {
            let mut shorter = best.1.clone();
            shorter.ops.drain(at..(at + count).min(shorter.ops.len()));
            match fails(shorter, cpus) {
                Some(shorter) => best = shorter,
                None => at += count,
            }
        }
        if count > 1 || best.1.ops.len() == before {
            count /= 2;
        }
    }
    best
}

/// What programs meet, outcome by outcome, or how the first that fails does, made short.
pub fn explore(
    programs: impl Iterator<Item = Program>,
    cpus: usize,
) -> Result<BTreeMap<&'static str, u32>, String> {
    let mut seen: BTreeMap<&'static str, u32> = BTreeMap::new();
    for program in programs {
        match run(&program, machine(&program, cpus)) {
            Ok(met) => {
                for (name, count) in met {
                    *seen.entry(name).or_default() += count;
                }
            }
            Err(error) => {
                let (error, program) = shorten(error, program, cpus);
                let told = story(&program, machine(&program, cpus));
                return Err(format!(
                    "{error}\nOn {cpus} CPUs:\n{told}\nThe same for a test: {program:?}"
                ));
            }
        }
    }
    Ok(seen)
}

fn agree(cases: usize, cpus: usize, seed: u8) {
    let outcomes = explore(Programs::new(200..240, seed).take(cases), cpus);
    let outcomes = outcomes.unwrap_or_else(|failure| panic!("{failure}"));
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
        "stack-grow",
        "denied",
        "out-of-memory",
        "protect-denied",
        "table-unshare",
        "table-reuse",
        "discard",
        "populate",
        "populate-refused",
        "remap-move",
        "remap-keep",
        "remap-grow",
        "remap-shrink",
        "remap-anywhere",
        "remap-refused",
        "reclaim",
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
    agree(600, 1, 1);
}

#[test]
fn two_cpus() {
    agree(1_800, 2, 2);
}

#[test]
fn three_cpus() {
    agree(2_600, 3, 3);
}

/// Programs fail when fork does not write-protect; the first one, in words and in a few steps.
fn told_without_protection(programs: impl Fn(usize) -> Vec<Program>) -> String {
    memory::mutate::record();
    explore(programs(20).into_iter(), 2).unwrap();
    let forked = |site: &Site| site.file.ends_with("fork.rs") && site.what == "protection";
    let site = memory::mutate::recorded().into_keys().rfind(forked);
    let told = leaving_out(site, || explore(programs(100).into_iter(), 2))
        .expect_err("fork must write-protect");
    let steps = told.lines().filter(|line| line.starts_with("cpu"));
    assert!(steps.count() < 12, "{told}");
    told
}

fn expect_steps(told: &str, steps: &[&str]) {
    for what in steps {
        let mut lines = told.lines().filter(|line| line.starts_with("cpu"));
        assert!(lines.any(|line| line.contains(what)), "{what}: {told}");
    }
}

#[test]
fn a_failure_is_told_as_a_short_program() {
    let told = told_without_protection(|count| Programs::new(40..80, 4).take(count).collect());
    expect_steps(&told, &["mmap", "write", "fork"]);
    println!("{told}");
}

/// Programs whose memory is all stack.
#[test]
fn a_failure_on_a_stack_is_told_as_a_short_program() {
    let told = told_without_protection(|count| {
        let on_stacks = |mut program: Program| {
            use crate::program::Op::{Exit, Fork, Read, Stack, Write};
            let stays = |op: &_| {
                matches!(
                    op,
                    Stack { .. } | Write { .. } | Read { .. } | Fork { .. } | Exit { .. }
                )
            };
            program.ops.retain(stays);
            program
        };
        Programs::new(80..160, 5)
            .take(count)
            .map(on_stacks)
            .collect()
    });
    expect_steps(&told, &["a stack behind page", "write", "fork"]);
    println!("{told}");
}
