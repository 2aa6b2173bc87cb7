//! The story in words: one paragraph of evidence per step.

use std::fmt::Write as _;

use super::story::{Chain, Evidence, Exec, Switches, Vfork, Write};
use super::text::{BAD, DIM, GOOD, HEAD, MARK, count, plural, protection, span, styled, table};
use crate::analysis::descriptor::{Descriptor, PAGE_SIZE, Syndrome, Ttbr0};
use crate::analysis::fork::{Fork, Parting, Writes};
use crate::analysis::process::Cost;
use crate::analysis::stream::{State, mode_name};
use serde::Serialize;

/// One step: whether the trace shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Its number in the story.
    pub number: u8,
    /// What it claims.
    pub claim: String,
    /// Whether the evidence supports the claim; `None`: not seen, or the trace cannot tell.
    pub holds: Option<bool>,
    /// The evidence, in lines.
    #[serde(skip)]
    pub lines: String,
}

/// The steps, in order.
pub fn steps(evidence: &Evidence, state: &State) -> Vec<Step> {
    let chain = evidence.chain.as_ref();
    vec![
        step(
            1,
            chain.map(one_page),
            "A process maps a page and writes it",
            "a fork after which one of the two wrote",
        ),
        step(
            2,
            chain.map(forked),
            "fork: two roots, two ASIDs, one frame, nobody may write",
            "a fork after which one of the two wrote",
        ),
        step(
            3,
            evidence
                .switches
                .as_ref()
                .map(|s| switched(s, evidence, state)),
            "A switch writes TTBR0_EL1 and flushes nothing",
            "two processes that ran in turns",
        ),
        step(
            4,
            chain.map(copied),
            "A write to a shared page copies it",
            "a write to a page that fork had shared",
        ),
        step(
            5,
            chain.and_then(|chain| reused(chain, evidence)),
            "The last owner writes in place",
            "a write by the last owner of a frame",
        ),
        step(
            6,
            evidence.exec.as_ref().map(exec),
            "A child that execs gives its share back: the parent copies nothing",
            "a parent that wrote after its child's execve",
        ),
        step(
            7,
            evidence.vfork.as_ref().map(vfork),
            "vfork shares everything: no table, no protection, no fault",
            "a vfork",
        ),
        step(
            8,
            super::costs::costs(evidence, state),
            "What it costs",
            "a fault or a fork",
        ),
    ]
}

/// The steps for a terminal.
pub fn render(steps: &[Step]) -> String {
    let mut text = format!("{HEAD}The story of copy-on-write, as this trace shows it{HEAD:#}\n\n");
    for step in steps {
        let mark = match step.holds {
            Some(true) => styled(GOOD, "✓"),
            Some(false) => styled(BAD, "✗"),
            None => styled(DIM, "-"),
        };
        let _ = writeln!(text, "{mark} {HEAD}{}. {}{HEAD:#}", step.number, step.claim);
        let _ = writeln!(text, "{}", step.lines);
    }
    text
}

/// A claim, its evidence, and whether the one supports the other.
pub(super) struct Shown {
    pub(super) claim: String,
    pub(super) lines: String,
    pub(super) holds: Option<bool>,
}

fn step(number: u8, shown: Option<Shown>, claim: &str, needs: &str) -> Step {
    match shown {
        Some(Shown {
            claim,
            lines,
            holds,
        }) => Step {
            number,
            claim,
            holds,
            lines,
        },
        None => Step {
            number,
            claim: claim.to_owned(),
            holds: None,
            lines: format!(
                "     {}\n",
                styled(DIM, format!("not seen in this trace; it takes {needs}"))
            ),
        },
    }
}

/// A line of evidence.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => {
        let _ = writeln!($text, "     {}", format_args!($($arguments)*));
    };
}
pub(super) use line;

fn descriptor(bits: u64) -> String {
    format!("{bits:#018x}  {}", Descriptor(bits))
}

fn name(pid: u32, name: &str) -> String {
    if name.is_empty() {
        format!("pid {pid}")
    } else {
        format!("pid {pid} ({name})")
    }
}

fn one_page(chain: &Chain) -> Shown {
    let mut lines = String::new();
    let parent = &chain.parent;
    let ttbr0 = match parent.ttbr0 {
        Some(ttbr0) => format!(
            "TTBR0 {:#018x}: root {:#x}, ASID {}",
            ttbr0.0,
            ttbr0.root(),
            ttbr0.asid()
        ),
        None => "its root table is not in the trace".to_owned(),
    };
    line!(lines, "A = {:<22} {ttbr0}", name(parent.pid, &parent.name));
    let mapping = match chain.origins.mapping {
        Some((region, prot, start, end)) => format!(
            "{region} {}, {} of {:#x}-{end:#x}",
            protection(prot),
            if end - start == PAGE_SIZE {
                "all"
            } else {
                "a page"
            },
            start
        ),
        None => "its mapping is not in the trace".to_owned(),
    };
    line!(
        lines,
        "V = {} {mapping}",
        styled(MARK, format!("{:<22}", format!("{:#x}", chain.page)))
    );
    let made = match chain.origins.outcome {
        Some(outcome) => format!("{outcome} at {}", chain.origins.place.text()),
        None => "there before the trace began".to_owned(),
    };
    line!(
        lines,
        "F = {} {made}",
        styled(MARK, format!("{:<22}", format!("frame {:#x}", chain.frame)))
    );
    Shown {
        claim: "A maps a page at V; V translates to frame F".to_owned(),
        lines,
        holds: Some(true),
    }
}

fn fork_line(fork: &Fork) -> String {
    let event = &fork.event;
    let by_tables = match event.tables_shared {
        0 => String::new(),
        tables => format!(
            " ({} by {} under APTable[1])",
            count(fork.below),
            plural(tables, "table")
        ),
    };
    format!(
        "{} shared{by_tables}, {} write-protected, {}, {} cycles",
        plural(fork.pages_shared(), "page"),
        count(event.protected),
        plural(event.tables, "table"),
        count(event.cost)
    )
}

fn forked(chain: &Chain) -> Shown {
    let mut lines = String::new();
    let child = &chain.child;
    line!(
        lines,
        "{} forks B = {}",
        chain.fork_place.text(),
        name(child.pid, &child.name)
    );
    line!(
        lines,
        "{}: {}",
        mode_name(chain.fork.event.mode),
        fork_line(&chain.fork)
    );
    let heading = ["", "root", "ASID", "V maps", "descriptor of V"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let (ours, theirs) = chain.forked;
    for (who, party, bits) in [("A", &chain.parent, ours), ("B", child, theirs)] {
        let (root, asid) = match party.ttbr0 {
            Some(ttbr0) => (format!("{:#x}", ttbr0.root()), ttbr0.asid().to_string()),
            None => ("?".to_owned(), "?".to_owned()),
        };
        let frame = format!("{:#x}", Descriptor(bits).frame());
        rows.push(vec![who.to_owned(), root, asid, frame, descriptor(bits)]);
    }
    lines.push_str(&table(&rows, &[4], "     "));
    let (a, b) = (chain.parent.ttbr0, child.ttbr0);
    let distinct = a
        .zip(b)
        .is_some_and(|(a, b)| a.root() != b.root() && a.asid() != b.asid());
    let (ours, theirs) = (Descriptor(ours), Descriptor(theirs));
    let same = ours.frame() == theirs.frame() && !ours.writable() && !theirs.writable();
    Shown {
        claim: "A forks B: two roots, two ASIDs, one frame, and nobody may write".to_owned(),
        lines,
        holds: Some(distinct && same),
    }
}

fn switched(switches: &Switches, evidence: &Evidence, state: &State) -> Shown {
    let mut lines = String::new();
    let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
    let start = state.machine.period.map_or(0, |period| period.0);
    let parties = evidence
        .chain
        .as_ref()
        .map(|chain| [("A", chain.parent.space), ("B", chain.child.space)]);
    let who = |space| {
        let known = parties
            .into_iter()
            .flatten()
            .find(|(_, known)| *known == space);
        known.map_or_else(|| format!("space {space}"), |(letter, _)| letter.to_owned())
    };
    let heading = [
        "time",
        "to",
        "TTBR0_EL1 written",
        "root",
        "ASID",
        "TLBIs so far",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for index in 0..3 {
        let ttbr0 = Ttbr0(switches.ttbr0[index]);
        rows.push(vec![
            span(switches.times[index].saturating_sub(start), hz),
            who(switches.spaces[index]),
            format!("{:#018x}", ttbr0.0),
            format!("{:#x}", ttbr0.root()),
            ttbr0.asid().to_string(),
            count(switches.tlbis[index]),
        ]);
    }
    lines.push_str(&table(&rows, &[1, 2], "     "));
    let moved = switches.moved();
    let others = switches.unexplained();
    let of = format!("({} in the trace)", plural(evidence.switch_count, "switch"));
    if moved == 0 {
        line!(
            lines,
            "no TLB invalidation between the first and the last {of}"
        );
    } else {
        line!(
            lines,
            "{} between them: {} by page faults, {} in {} {of}",
            plural(moved, "TLBI"),
            switches.by_faults,
            others,
            plural(switches.other_calls, "other call")
        );
    }
    Shown {
        claim: "The scheduler switches A, B, A: one register write, no TLB flush".to_owned(),
        lines,
        // A call in between may have needed them: then this says nothing of the switch.
        holds: (others == 0 || switches.other_calls == 0).then_some(others == 0),
    }
}

fn write_lines(lines: &mut String, write: &Write) {
    line!(lines, "{} at {:#x}", write.place.text(), write.place.pc);
    line!(
        lines,
        "FAR {:#x}  ESR {:#x}: {}",
        write.address,
        write.esr,
        Syndrome(write.esr)
    );
    line!(lines, "before  {}", descriptor(write.descriptors.0));
    line!(lines, "after   {}", descriptor(write.descriptors.1));
}

fn roles(chain: &Chain) -> (&'static str, &'static str) {
    if chain.child_first {
        ("B", "A")
    } else {
        ("A", "B")
    }
}

fn copied(chain: &Chain) -> Shown {
    let mut lines = String::new();
    let (writer, other) = roles(chain);
    let write = &chain.copy;
    write_lines(&mut lines, write);
    let (from, to) = write.frames;
    line!(
        lines,
        "F -> G  {} -> {}   references to F {} -> {}   {}, {} cycles",
        styled(MARK, format!("{from:#x}")),
        styled(MARK, format!("{to:#x}")),
        write.references.0,
        write.references.1,
        plural(write.tlbis, "TLBI"),
        count(write.cost)
    );
    line!(
        lines,
        "{other} still maps V to F: {}",
        descriptor(chain.other_after)
    );
    let other_before = if chain.child_first {
        chain.forked.0
    } else {
        chain.forked.1
    };
    let holds = from != to
        && Descriptor(write.descriptors.1).writable()
        && chain.other_after == other_before
        && write.references.0 >= 2;
    Shown {
        claim: format!("{writer} writes V: F is shared, so {writer} gets a copy, G"),
        lines,
        holds: Some(holds),
    }
}

fn reused(chain: &Chain, evidence: &Evidence) -> Option<Shown> {
    let (writer, other) = roles(chain);
    let write = chain.reuse.as_ref()?;
    let mut lines = String::new();
    write_lines(&mut lines, write);
    let unchanged = Descriptor(write.descriptors.0).same_translation(Descriptor(chain.other_after));
    line!(
        lines,
        "F stays {}   references {} -> {}   {}, {} cycles{}",
        styled(MARK, format!("{:#x}", write.frames.1)),
        write.references.0,
        write.references.1,
        plural(write.tlbis, "TLBI"),
        count(write.cost),
        percent(write.cost, chain.copy.cost)
            .map_or(String::new(), |p| format!(", {p} of the copy"))
    );
    if !unchanged {
        line!(
            lines,
            "{}",
            styled(
                BAD,
                format!("{other}'s descriptor was not the one that fork left")
            )
        );
    }
    if let Some(reverse) = &evidence.reverse
        && let Some(second) = &reverse.reuse
    {
        let (first, _) = roles(reverse);
        line!(
            lines,
            "{}",
            styled(
                DIM,
                format!(
                    "the other way round, too: at {:#x} {} copied first, {:#x} -> {:#x}; then reuse of {:#x}",
                    reverse.page,
                    if first == "A" {
                        "the parent"
                    } else {
                        "the child"
                    },
                    reverse.copy.frames.0,
                    reverse.copy.frames.1,
                    second.frames.1
                )
            )
        );
    }
    let holds = unchanged && write.frames.0 == write.frames.1 && write.references.0 == 1;
    Some(Shown {
        claim: format!(
            "{other}'s entry was not touched by {writer}'s write; as the last owner it writes in place"
        ),
        lines,
        holds: Some(holds),
    })
}

fn percent(part: u32, whole: u32) -> Option<String> {
    (whole > 0).then(|| format!("{:.0} %", f64::from(part) * 100.0 / f64::from(whole)))
}

pub(super) fn writes(writes: &Writes) -> String {
    let mut parts = vec![plural(writes.copies.count, "copy")];
    let named = [
        (writes.reuses, "reuse"),
        (writes.table_copies, "table copy"),
        (writes.table_reuses, "table reuse"),
    ];
    parts.extend(
        named
            .iter()
            .filter(|(cost, _)| cost.count > 0)
            .map(|(c, n)| plural(c.count, n)),
    );
    parts.join(", ")
}

fn exec(exec: &Exec) -> Shown {
    let mut lines = String::new();
    let fork = &exec.fork;
    line!(
        lines,
        "{} forked {}: {}",
        name(exec.parent.pid, &exec.parent.name),
        name(exec.child.pid, &exec.child.name),
        fork_line(fork)
    );
    line!(
        lines,
        "before the exec: {} by the child, {} by the parent",
        writes(&fork.child),
        writes(&fork.parent)
    );
    if let Some(dropped) = fork.dropped {
        line!(
            lines,
            "execve: the child dropped {}",
            plural(dropped, "reference")
        );
    }
    let after = &fork.parent_after;
    line!(
        lines,
        "after it, first writes of the parent: {}{}",
        styled(MARK, writes(after)),
        mean(&after.reuses).map_or(String::new(), |mean| format!(" ({mean} cycles each)")),
    );
    line!(lines, "the first of them at {}", exec.first.text());
    Shown {
        claim: "A child that execs gives its share back: the parent's writes copy nothing"
            .to_owned(),
        lines,
        holds: Some(after.copies.count == 0 && after.reuses.count > 0),
    }
}

fn vfork(vfork: &Vfork) -> Shown {
    let mut lines = String::new();
    let event = &vfork.fork.event;
    line!(
        lines,
        "{} vforks pid {} at {}",
        name(vfork.parent.pid, &vfork.parent.name),
        event.child,
        vfork.place.text()
    );
    line!(
        lines,
        "{}, {} write-protected, {} written, {} cycles; B runs in {}",
        plural(event.tables, "table"),
        plural(event.protected, "page"),
        plural(event.leaves, "descriptor"),
        count(event.cost),
        if event.child_space == event.parent_space {
            "A's space"
        } else {
            "a space of its own"
        }
    );
    let parting = match vfork.fork.parting {
        Some(Parting::Exec(_)) => "until its execve",
        Some(Parting::Exit(_)) => "until its exit",
        None => "so far",
    };
    line!(
        lines,
        "page faults of the child {parting}: {}",
        count(vfork.fork.child_faults)
    );
    let holds = event.tables == 0
        && event.protected == 0
        && event.leaves == 0
        && event.child_space == event.parent_space
        && vfork.fork.child_faults == 0;
    Shown {
        claim: "vfork shares everything: no table, no protection, no fault".to_owned(),
        lines,
        holds: Some(holds),
    }
}

pub(super) fn mean(cost: &Cost) -> Option<String> {
    cost.mean().map(count)
}
