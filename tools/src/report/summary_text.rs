//! The report for a terminal.

use std::fmt::Write as _;

use wire::event::{KIND_NAMES, Outcome};

use super::decay::{bars, sparkline};
use super::lines::Changed;
use super::story_text;
use super::summary::{ActivityReport, ForkReport, ProcessReport, Report};
use super::text::{
    BAD, DIM, GOOD, HEAD, bytes, count, plural, signal_name, styled, table, wait_status,
};
use crate::analysis::loss::Losses;

/// Findings listed in full.
const FINDINGS_MAX: usize = 10;
/// Columns of a terminal that is not too narrow.
const WIDTH: usize = 100;
/// Processes whose copies are shown over time.
const PHASES_MAX: usize = 6;

/// The whole report.
pub fn render(report: &Report, top: usize) -> String {
    let mut text = header(report);
    if let Some(steps) = &report.story {
        text.push('\n');
        text.push_str(&story_text::render(steps));
    }
    failures(&mut text, report);
    advice(&mut text, report);
    processes(&mut text, report, top);
    forks(&mut text, report);
    lines(&mut text, report);
    locks(&mut text, report, top);
    phases(&mut text, report);
    if report.story.is_none()
        && let Some(costs) = &report.costs
    {
        let _ = writeln!(
            text,
            "\n{HEAD}Costs, in cycles{HEAD:#}\n{}",
            costs.trim_end()
        );
    }
    text.push('\n');
    checks(&mut text, report);
    for note in &report.notes {
        let _ = writeln!(text, "{} {note}", styled(DIM, "Note:"));
    }
    let _ = writeln!(
        text,
        "{}",
        loss_line(&report.losses, report.frames, report.events)
    );
    text
}

fn header(report: &Report) -> String {
    let mut text = String::new();
    let Some(about) = &report.machine else {
        let _ = writeln!(
            text,
            "{HEAD}Trace of an unknown machine{HEAD:#} (no hello in it)"
        );
        return text;
    };
    let cpu = report.cpu.as_deref().unwrap_or("unknown CPU");
    let _ = writeln!(
        text,
        "{HEAD}{}{HEAD:#}: {} x {cpu}, {} RAM, {}-bit ASIDs, counter {} MHz",
        about.board,
        about.cpus,
        bytes(about.ram_bytes),
        about.asid_bits,
        about.counter_hz as f64 / 1e6
    );
    let build = &about.kernel_build_id[..about.kernel_build_id.len().min(12)];
    let _ = writeln!(
        text,
        "kernel {build}, trace={}, {}, fork={}{}",
        about.trace,
        if about.lossless {
            "lossless (a full ring blocks)".to_owned()
        } else {
            format!(
                "drops when a ring of {} is full",
                plural(about.ring, "event")
            )
        },
        about.fork,
        if about.bootargs.is_empty() {
            String::new()
        } else {
            format!("; {}", about.bootargs)
        }
    );
    let ended = match &report.ended {
        Some(ended) => format!("; ended with code {}", ended.code),
        None => String::new(),
    };
    let _ = writeln!(
        text,
        "{:.3} s, {} in {}{ended}",
        report.duration_seconds,
        plural(report.events, "event"),
        plural(report.frames, "frame")
    );
    if let Some(memory) = &report.memory {
        let _ = writeln!(
            text,
            "free frames: {} at first, {} at last, of {}",
            count(memory.free_frames_first),
            count(memory.free_frames),
            count(memory.total_frames)
        );
    }
    text
}

/// What keeps a program from running comes first.
fn failures(text: &mut String, report: &Report) {
    for process in &report.processes {
        for missing in &process.missing_syscalls {
            let name = missing
                .name
                .map_or(String::new(), |name| format!(" ({name})"));
            let _ = writeln!(
                text,
                "{} pid {} ({}) wanted system call {}{name}, {}, at {}",
                styled(BAD, "Missing:"),
                process.pid,
                process.name,
                missing.number,
                plural(missing.count, "time"),
                missing.place.text()
            );
        }
        for refusal in &process.refusals {
            let call = refusal
                .name
                .map_or(format!("system call {}", refusal.number), str::to_owned);
            let wanted = match refusal.pages {
                0 => "the kernel had no frame of its own for it".to_owned(),
                pages => format!(
                    "{} asked for, {} left",
                    plural(pages, "page"),
                    count(refusal.left)
                ),
            };
            let _ = writeln!(
                text,
                "{} pid {} ({}): no memory for {call}, {}; {wanted}, at {}",
                styled(BAD, "Refused:"),
                process.pid,
                process.name,
                plural(refusal.count, "time"),
                refusal.place.text()
            );
        }
        if let Some(killed) = &process.killed {
            let exhausted = process.activity.faults_of(&[Outcome::OutOfMemory]) > 0;
            let why = match signal_name(killed.signal).as_str() {
                "SIGKILL" if exhausted => ", since no frame was left",
                _ => "",
            };
            let _ = writeln!(
                text,
                "{} pid {} ({}) by {} at {}, address {:#x}{why}",
                styled(BAD, "Killed:"),
                process.pid,
                process.name,
                signal_name(killed.signal),
                killed.place.text(),
                killed.address
            );
        }
    }
}

fn advice(text: &mut String, report: &Report) {
    if report.advice.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{HEAD}Findings, by cost{HEAD:#}");
    for (number, advice) in report.advice.iter().enumerate() {
        let _ = writeln!(
            text,
            "{}. {}\n   {}\n   {} {}",
            number + 1,
            advice.place.text(),
            wrapped(&advice.what, 3),
            styled(DIM, "instead:"),
            wrapped(&advice.instead, 12)
        );
    }
}

/// The text in lines of at most [`WIDTH`] columns, of which the first begins at column `indent` and the
/// others are indented as far.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            let _ = write!(lines, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

const ZERO: [Outcome; 4] = [
    Outcome::ZeroFill,
    Outcome::ZeroPage,
    Outcome::CowZero,
    Outcome::StackGrow,
];
const FILE: [Outcome; 3] = [Outcome::FileRead, Outcome::FileCopy, Outcome::Exec];
const COPY: [Outcome; 2] = [Outcome::CowCopy, Outcome::TableUnshare];
const REUSE: [Outcome; 2] = [Outcome::CowReuse, Outcome::TableReuse];

fn activity_cells(activity: &ActivityReport) -> Vec<String> {
    let of = |outcomes: &[Outcome]| activity.faults_of(outcomes);
    let named = of(&ZERO) + of(&FILE) + of(&COPY) + of(&REUSE);
    let mut cells = vec![activity.faults_total.count];
    cells.extend([of(&ZERO), of(&FILE), of(&COPY), of(&REUSE)]);
    cells.push(activity.faults_total.count - named);
    cells.extend([activity.forks.count, activity.pages_shared]);
    cells.extend([activity.debt.cycles, activity.stall_cycles]);
    cells.into_iter().map(count).collect()
}

/// The name of a process, and how many threads it had if it was not just one.
fn with_threads(process: &ProcessReport) -> String {
    match process.activity.threads {
        0 => process.name.clone(),
        others => format!("{} ({})", process.name, plural(others + 1, "thread")),
    }
}

fn processes(text: &mut String, report: &Report, top: usize) {
    if report.processes.is_empty() {
        return;
    }
    let heading = [
        "pid", "name", "parent", "faults", "zero", "file", "copy", "reuse", "other", "forks",
        "shared", "debt", "stall", "end",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    // The busiest, in the order of their beginning.
    let mut shown: Vec<_> = report.processes.iter().enumerate().collect();
    shown.sort_by_key(|(_, process)| std::cmp::Reverse(process.activity.stall_cycles));
    shown.truncate(top.max(10));
    shown.sort_by_key(|(index, _)| *index);
    let hidden = report.processes.len() - shown.len();
    for (_, process) in shown {
        let mut row = vec![process.pid.to_string(), with_threads(process)];
        row.push(
            process
                .parent
                .map_or("?".to_owned(), |parent| parent.to_string()),
        );
        row.extend(activity_cells(&process.activity));
        row.push(match process.status {
            Some(status) => wait_status(status),
            None => "alive".to_owned(),
        });
        rows.push(row);
    }
    if let Some((number, activity)) = &report.other_processes {
        let mut row = vec![
            "...".to_owned(),
            format!("{} more", count(*number)),
            String::new(),
        ];
        row.extend(activity_cells(activity));
        rows.push(row);
    }
    let _ = writeln!(text, "\n{HEAD}Processes{HEAD:#}");
    text.push_str(&table(&rows, &[1, 13], ""));
    if hidden > 0 {
        let _ = writeln!(
            text,
            "{}",
            styled(DIM, format!("and {hidden} that did less (see --top)"))
        );
    }
    let legend = "faults by outcome: zero-filled, of files, copied, reused by the last owner, others; \
                  shared: pages\nits forks shared; debt: cycles of first writes after a fork; \
                  stall: cycles in faults and forks";
    for line in legend.lines() {
        let _ = writeln!(text, "{}", styled(DIM, line));
    }
}

fn forks(text: &mut String, report: &Report) {
    if report.forks.is_empty() {
        return;
    }
    let heading = [
        "time",
        "fork",
        "mode",
        "shared",
        "tables",
        "cycles",
        "child",
        "parent",
        "reused",
        "debt",
        "still shared, until",
        "at",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for fork in &report.forks {
        rows.push(fork_row(fork));
    }
    let _ = writeln!(
        text,
        "\n{HEAD}Forks, by what they cost then and later{HEAD:#} (copies by whom)"
    );
    text.push_str(&table(&rows, &[1, 2, 10, 11], ""));
    let hidden = report.fork_count as usize - report.forks.len();
    if hidden > 0 {
        let _ = writeln!(
            text,
            "{}",
            styled(DIM, format!("and {hidden} that cost less (see --top)"))
        );
    }
}

fn fork_row(fork: &ForkReport) -> Vec<String> {
    let reused = fork.by_child.reuses.count
        + fork.by_parent.reuses.count
        + fork.by_parent_after.reuses.count
        + fork.by_others.reuses.count;
    vec![
        format!("{:.3} ms", fork.seconds * 1e3),
        format!("{} > {}", fork.parent, fork.child),
        fork.mode.to_owned(),
        count(fork.shared),
        count(fork.tables),
        count(fork.cost),
        count(fork.by_child.copies.count),
        count(fork.by_parent.copies.count + fork.by_parent_after.copies.count),
        count(reused),
        count(fork.debt_cycles),
        sharing(fork),
        fork.place
            .source
            .as_ref()
            .map_or_else(|| fork.place.text(), |source| source.short()),
    ]
}

/// How sharing went away until the child left, and how it did.
fn sharing(fork: &ForkReport) -> String {
    let curve = sparkline(&fork.sharing);
    let curve = curve.map(|(line, left)| format!("{line} {left}%"));
    [curve.as_deref(), fork.child_gone_by]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

fn lines(text: &mut String, report: &Report) {
    if report.lines.is_empty() {
        return;
    }
    let compared = report.amplification.is_some();
    let mut heading = vec!["copies", "reuses", "cycles", "each"];
    if compared {
        heading.push("changed");
    }
    heading.push("line that broke sharing");
    let place = heading.len() - 1;
    let mut rows: Vec<Vec<String>> = vec![heading.into_iter().map(str::to_owned).collect()];
    for line in &report.lines {
        let all = line.total();
        let mut row = vec![
            count(line.copies.count),
            count(line.reuses.count),
            count(all.cycles),
            all.mean().map(count).unwrap_or_default(),
        ];
        if compared {
            row.push(changed(&line.changed));
        }
        row.push(line.place.text());
        rows.push(row);
    }
    let _ = writeln!(text, "\n{HEAD}Who breaks copy-on-write{HEAD:#}");
    text.push_str(&table(&rows, &[place], ""));
    if report.copied_bytes > 0 {
        let sentence = format!(
            "copied: {}; with pages of 2 MiB the same writes would have copied {}",
            bytes(report.copied_bytes),
            bytes(report.copied_bytes_with_2mib_pages)
        );
        let _ = writeln!(text, "{}", styled(DIM, sentence));
    }
    let Some(all) = report.amplification else {
        return;
    };
    let legend =
        "changed: of each copied page, bytes that differed when it was freed or at the end";
    let _ = writeln!(text, "{}", styled(DIM, legend));
    for (what, changed) in [
        ("by writes after a fork", all.writes),
        ("of files", all.files),
        ("by eager forks", all.others),
    ] {
        if changed.pages + changed.unknown == 0 {
            continue;
        }
        let pages = changed.pages.max(1) as f64;
        let mut sentence = format!(
            "{} copied {what}: {:.1} bytes of each had changed, in {:.1} of 64 lines; {} not at all",
            plural(changed.pages, "page"),
            changed.bytes as f64 / pages,
            changed.lines as f64 / pages,
            count(changed.unchanged)
        );
        if changed.unknown > 0 {
            let unknown = plural(changed.unknown, "page");
            let _ = write!(sentence, "; {unknown} not compared, for want of memory");
        }
        let _ = writeln!(text, "{}", wrapped(&sentence, 0));
    }
}

/// Bytes of a copied page that changed, on average.
fn changed(changed: &Changed) -> String {
    match changed.pages {
        0 => String::new(),
        pages => format!("{:.1} B", changed.bytes as f64 / pages as f64),
    }
}

/// When processes broke sharing.
fn phases(text: &mut String, report: &Report) {
    if report.phases.is_empty() {
        return;
    }
    let heading = [
        "pid",
        "name",
        "copies",
        "start",
        "steady",
        "exit",
        "over its life",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for phases in report.phases.iter().take(PHASES_MAX) {
        let mut processes = report.processes.iter();
        let process = processes.find(|process| process.pid == phases.pid);
        let mut row = vec![
            phases.pid.to_string(),
            process.map_or(String::new(), |process| process.name.clone()),
            count(phases.all()),
        ];
        row.extend(phases.start_steady_exit().map(count));
        row.push(bars(&phases.copies));
        rows.push(row);
    }
    let _ = writeln!(
        text,
        "\n{HEAD}When they copied{HEAD:#} (first tenth of a life, in between, last tenth)"
    );
    text.push_str(&table(&rows, &[1, 6], ""));
}

/// Where CPUs waited for each other.
fn locks(text: &mut String, report: &Report, top: usize) {
    if report.locks.is_empty() {
        return;
    }
    let heading = ["waits", "attempts", "together", "longest", "lock"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for waits in report.locks.iter().take(top) {
        rows.push(vec![
            count(waits.waits),
            count(waits.attempts),
            super::text::span(waits.ticks, report.hz),
            super::text::span(waits.longest, report.hz),
            waits.lock.clone(),
        ]);
    }
    let _ = writeln!(text, "\n{HEAD}Locks that CPUs waited for{HEAD:#}");
    text.push_str(&table(&rows, &[4], ""));
}

fn checks(text: &mut String, report: &Report) {
    let sum = |pick: fn(&crate::analysis::check::Tally) -> u64| -> u64 {
        report.checks.iter().map(|(_, tally)| pick(tally)).sum()
    };
    let agreed = sum(|tally| tally.agreed);
    let (differed, unknown) = (sum(|tally| tally.differed), sum(|tally| tally.unknown));
    let verdict = if differed > 0 {
        styled(
            BAD,
            format!("{} of {} differ", count(differed), count(agreed + differed)),
        )
    } else if agreed > 0 {
        styled(GOOD, format!("all {} agree", count(agreed)))
    } else {
        "nothing to compare".to_owned()
    };
    let unknown = match unknown {
        0 => String::new(),
        unknown => format!(
            ", {} unknown (after a loss or a late start)",
            count(unknown)
        ),
    };
    let concurrent = match sum(|tally| tally.concurrent) {
        0 => String::new(),
        concurrent => format!(", {} while another CPU changed the same", count(concurrent)),
    };
    let _ = writeln!(
        text,
        "Checks of the kernel's counts against the events: {verdict}{unknown}{concurrent}"
    );
    for finding in report.findings.iter().take(FINDINGS_MAX) {
        let at = finding
            .address
            .map_or(String::new(), |address| format!(", {address:#x}"));
        let time = finding.time.saturating_sub(report.start);
        let _ = writeln!(
            text,
            "  {} space {}{at}, {}:\n    kernel: {}\n    trace:  {}",
            finding.subject.name(),
            finding.space,
            super::text::span(time, report.hz),
            finding.kernel,
            finding.trace
        );
    }
    let more = (differed as usize).saturating_sub(FINDINGS_MAX.min(report.findings.len()));
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
}

/// One line, the last of every report: what is missing.
pub fn loss_line(losses: &Losses, frames: u64, events: u64) -> String {
    let mut parts = Vec::new();
    if losses.frames_lost > 0 {
        parts.push(format!("{} lost", plural(losses.frames_lost, "frame")));
    }
    if let Some(lost) = losses
        .events_lost
        .as_ref()
        .filter(|lost| lost.iter().any(|&n| n > 0))
    {
        let sum: u64 = lost.iter().sum();
        parts.push(format!(
            "{} lost on the line{}",
            plural(sum, "event"),
            by_kind(lost)
        ));
    } else if losses.frames_lost > 0 {
        parts.push("the number of events in them unknown".to_owned());
    }
    if losses.events_dropped > 0 {
        let dropped = plural(losses.events_dropped, "event");
        parts.push(format!(
            "{dropped} dropped by the kernel{}",
            by_kind(&losses.dropped_by_kind)
        ));
    }
    if losses.corrupt > 0 {
        let first = losses.places.first();
        parts.push(format!(
            "{} of {} bytes damaged{}, {}",
            plural(losses.corrupt, "piece"),
            count(losses.corrupt_bytes),
            first.map_or(String::new(), |p| format!(
                " (the first at byte {}: {})",
                p.offset, p.damage
            )),
            plural(losses.resyncs, "resync")
        ));
    }
    if losses.unknown_frames > 0 {
        parts.push(format!(
            "{} of another version",
            plural(losses.unknown_frames, "frame")
        ));
    }
    if losses.unreadable_events > 0 {
        parts.push(format!(
            "{} unreadable",
            plural(losses.unreadable_events, "event")
        ));
    }
    if losses.reboots > 0 {
        parts.push(format!(
            "{}; this is the last machine",
            plural(losses.reboots, "reboot")
        ));
    }
    if losses.late_start {
        parts.push("begins after the machine's start".to_owned());
    }
    if losses.no_end {
        parts.push("stops before the machine's end".to_owned());
    }
    let total = format!("{}, {}", plural(frames, "frame"), plural(events, "event"));
    if parts.is_empty() {
        format!("Loss: {}; {total} from start to end", styled(GOOD, "none"))
    } else {
        format!("Loss: {} ({total} read)", styled(BAD, parts.join("; ")))
    }
}

fn by_kind(counts: &[u64]) -> String {
    let named = KIND_NAMES
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0);
    let parts: Vec<String> = named
        .map(|(name, number)| format!("{name} {}", count(*number)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}
