//! What forks and faults cost: the last step of the story.

use std::fmt::Write as _;

use wire::event::ForkMode;

use super::story::Evidence;
use super::story_text::{Shown, line, mean, writes};
use super::text::{DIM, count, plural, styled, table};
use crate::analysis::process::{Cost, Faults};
use crate::analysis::stream::{State, mode_name};

fn cost_row(name: &str, cost: &Cost, pages: Option<u64>) -> Vec<String> {
    let each = pages
        .filter(|pages| *pages > 0)
        .map(|pages| format!("{:.0}", cost.cycles as f64 / pages as f64));
    vec![
        name.to_owned(),
        count(cost.count),
        mean(cost).unwrap_or_default(),
        count(cost.min),
        count(cost.max),
        count(cost.cycles),
        each.unwrap_or_default(),
    ]
}

/// What forks and faults cost, all processes together.
pub fn cost_table(state: &State) -> Option<String> {
    let machine = &state.machine;
    let heading = [
        "",
        "times",
        "cycles each",
        "least",
        "most",
        "together",
        "per page",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for mode in [
        ForkMode::Classic,
        ForkMode::SharedTables,
        ForkMode::Eager,
        ForkMode::Vfork,
    ] {
        let totals = machine.forks.totals(mode);
        if totals.forks.count > 0 {
            let name = match mode {
                ForkMode::Vfork => "vfork".to_owned(),
                mode => format!("fork ({})", mode_name(mode)),
            };
            rows.push(cost_row(
                &name,
                &totals.forks,
                Some(totals.shared + totals.copied),
            ));
        }
    }
    let mut faults = Faults::default();
    faults.merge(&machine.ended_others.1.faults);
    for process in machine.processes.values().chain(&machine.ended) {
        faults.merge(&process.activity.faults);
    }
    for (outcome, cost) in faults.iter() {
        rows.push(cost_row(outcome.name(), &cost, None));
    }
    (rows.len() > 1).then(|| table(&rows, &[], "     "))
}

pub(super) fn costs(evidence: &Evidence, state: &State) -> Option<Shown> {
    let mut lines = cost_table(state)?;
    line!(
        lines,
        "{}",
        styled(
            DIM,
            "cycles of PMCCNTR_EL0; on QEMU: guest instructions if --deterministic, else host time"
        )
    );
    if let Some((fork, place)) = &evidence.largest {
        let event = &fork.event;
        line!(
            lines,
            "The largest fork, at {}, shared {}{}{}: {} cycles{}.",
            place.text(),
            plural(fork.pages_shared(), "page"),
            match event.tables_shared {
                0 => String::new(),
                tables => format!(
                    " ({} of them by {})",
                    count(fork.below),
                    plural(tables, "table")
                ),
            },
            match event.copied {
                0 => String::new(),
                copied => format!(" and copied {}", count(copied)),
            },
            count(event.cost),
            per_page(event.cost, fork.pages())
        );
        for (who, paid) in [
            ("the child", fork.child),
            ("the parent", fork.parent),
            ("the parent, the child gone,", fork.parent_after),
            ("others", fork.others),
        ] {
            let total = paid.total();
            if total.count > 0 {
                line!(
                    lines,
                    "Later {who} paid for {}: {} cycles.",
                    writes(&paid),
                    count(total.cycles)
                );
            }
        }
        let debt = fork.debt().total().cycles;
        if event.cost > 0 && debt > 0 {
            let times = debt as f64 / f64::from(event.cost);
            line!(
                lines,
                "The debt came to {times:.1} times what the fork itself had cost."
            );
        }
    }
    let claim = "What it costs, at the fork and at each first write after it".to_owned();
    Some(Shown {
        claim,
        lines,
        holds: Some(true),
    })
}

fn per_page(cost: u32, pages: u32) -> String {
    if pages == 0 {
        return String::new();
    }
    format!(", {:.0} per page", f64::from(cost) / f64::from(pages))
}
