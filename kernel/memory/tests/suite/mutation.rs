//! Each barrier, TLBI, change of a reference count and write-protection of the crate, and each time
//! that it zeroes, copies or cleans a frame, is left out in turn, and the suite must notice: a random program fails, or a test of a trap does.
//!
//! Nothing is listed here. The places are those that `memory::mutate` met while programs and traps
//! ran, and `source` finds all there are.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use memory::mutate::{self, Met, Site};

use crate::program::{Program, Programs};
use crate::random::run_on;
use crate::sim::{self, leaving_out};
use crate::source;
use crate::traps;

/// Programs that may notice.
const PROGRAMS: usize = 800;

/// Machines that each is tried on, before nothing has noticed.
const MACHINES: u64 = 4;

/// What may notice: a program on so many CPUs, or a trap.
enum Case {
    Program(Program, usize),
    Trap(&'static str, fn()),
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

impl Case {
    /// What goes wrong on one machine of several, if anything does.
    fn fails(&self, machine: u64) -> Option<String> {
        static QUIET: Once = Once::new();
        QUIET.call_once(|| {
            let loud = take_hook();
            set_hook(Box::new(move |info| {
                if !EXPECTED.get() {
                    loud(info);
                }
            }));
        });
        EXPECTED.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| match self {
            Case::Program(program, cpus) => run_on(machine, program, *cpus).map(drop),
            Case::Trap(_, trap) => {
                trap();
                Ok(())
            }
        }));
        EXPECTED.set(false);
        match result {
            Ok(result) => result.err(),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Some(format!("panic: {}", text.unwrap_or("?")))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Case::Program(program, cpus) => format!("program {:x} on {cpus} CPUs", program.seed),
            Case::Trap(name, _) => (*name).into(),
        }
    }
}

fn cases() -> Vec<Case> {
    let programs = Programs::new(100..200, 9).take(PROGRAMS);
    // A missing broadcast needs several CPUs; a spurious fault is only forbidden with one.
    let programs = (0..)
        .zip(programs)
        .map(|(number, program)| Case::Program(program, [3, 1, 3, 2][number % 4]));
    let traps = traps::all()
        .into_iter()
        .map(|(name, trap)| Case::Trap(name, trap));
    programs.chain(traps).collect()
}

#[test]
fn whatever_is_left_out_is_noticed() {
    let cases = cases();
    // By place, the cases that execute it.
    let mut places: BTreeMap<Site, (Met, Vec<usize>)> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        mutate::record();
        let failed = case.fails(0);
        let met = mutate::recorded();
        assert_eq!(failed, None, "{}", case.name());
        for (site, met) in met {
            let (sum, executing) = places.entry(site).or_default();
            sum.times += met.times;
            sum.to_leave_out += met.to_leave_out;
            if met.to_leave_out > 0 {
                executing.push(index);
            }
        }
    }
    let missing = source::not_among(places.keys());
    assert!(
        missing.is_empty(),
        "never executed by any test:\n{}",
        missing.join("\n")
    );
    let mut missed = Vec::new();
    let mut tried = 0;
    let mut by_checker = 0;
    for (site, (met, executing)) in &places {
        // The suite's own frames, which are not the crate's.
        if met.to_leave_out == 0 || !site.file.contains("src") {
            continue;
        }
        tried += 1;
        let name = format!("{}:{}:{} {}", site.file, site.line, site.column, site.what);
        let notices = |(count, (machine, index)): (usize, (u64, &usize))| {
            let error = leaving_out(Some(*site), || cases[*index].fails(machine))?;
            Some((count + 1, *index, error))
        };
        let tries = || {
            let on = |machine| executing.iter().map(move |at| (machine, at));
            (0..MACHINES).flat_map(on).enumerate()
        };
        // What breaks a rule of the translation system the checker has to name,
        if ["DMB", "DSB", "TLBI"]
            .iter()
            .any(|name| site.what.starts_with(name))
        {
            by_checker += 1;
            let named = |(.., error): &(usize, usize, String)| error.contains("the checker says ");
            match tries().filter_map(notices).find(named) {
                Some((count, index, error)) => {
                    println!("{name}: case {count}, {}: {error}", cases[index].name());
                }
                None => missed.push(format!("{name}: the checker names nothing")),
            }
        }
        // and everything must be noticed without it.
        sim::set_deaf(true);
        let found = tries().find_map(notices);
        sim::set_deaf(false);
        match found {
            Some((count, index, error)) => {
                println!("{name}: case {count}, {}: {error}", cases[index].name());
            }
            None => missed.push(format!(
                "{name} (executed {} times by {} cases)",
                met.to_leave_out,
                executing.len()
            )),
        }
    }
    println!("{tried} places, {by_checker} of them barriers and TLBIs");
    assert!(by_checker > 20);
    assert!(
        missed.is_empty(),
        "left out, and nothing noticed:\n{}",
        missed.join("\n")
    );
}
