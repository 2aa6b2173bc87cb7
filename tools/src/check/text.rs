//! The check's report for people.

use std::fmt::Write;

use super::{Broken, Report, Translation, Verdict};
use crate::report::summary_text::loss_line;
use crate::report::text::{BAD, DIM, GOOD, HEAD, MARK, count, plural, span, styled};

/// Differences of the kernel's counts listed in full.
const FINDINGS: usize = 8;

pub fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    match &report.translation {
        Some(translation) => translation_rules(text, report, translation)?,
        None => {
            writeln!(
                text,
                "{} not checked: the trace has no MMU events. To record some:\n  cowscope run \
                 --trace mmu --lossless -o FILE",
                styled(HEAD, "Arm's translation rules:")
            )?;
        }
    }
    writeln!(text)?;
    counts(text, report)?;
    writeln!(
        text,
        "\n{}",
        loss_line(&report.losses, report.frames, report.events)
    )?;
    let verdict = match report.verdict {
        Verdict::Clean => styled(GOOD, "Clean: nothing was found."),
        Verdict::Violated => styled(BAD, "Violated: see above."),
        Verdict::Unknown => styled(
            BAD,
            "Unknown: nothing was found, but events are missing, and with them what they would \
             have shown.",
        ),
    };
    writeln!(text, "{verdict}")
}

fn translation_rules(
    text: &mut String,
    report: &Report,
    translation: &Translation,
) -> std::fmt::Result {
    let t = translation;
    let total: u64 = t.by_rule.iter().map(|(_, count)| count).sum();
    let verdict = if total == 0 {
        styled(GOOD, "no violation")
    } else {
        let rules: Vec<String> = t
            .by_rule
            .iter()
            .map(|(rule, count)| format!("{rule} {count}"))
            .collect();
        let all = format!("{} ({})", plural(total, "violation"), rules.join(", "));
        styled(BAD, all)
    };
    writeln!(
        text,
        "{} {verdict}",
        styled(HEAD, "Arm's translation rules:")
    )?;
    writeln!(
        text,
        "  checked: {}, {} of the kernel's own pages, {}, {}, {} of TTBR0_EL1,",
        plural(t.descriptors, "descriptor write"),
        count(t.kernel_pages),
        plural(t.barriers, "barrier"),
        plural(t.tlbis, "TLBI"),
        plural(t.ttbr0, "write"),
    )?;
    writeln!(
        text,
        "  {} taken or given back, {} filled or cleaned, {}, {} compared",
        plural(t.frames, "frame"),
        count(t.contents),
        plural(t.operations, "operation"),
        plural(t.references.0, "reference count"),
    )?;
    let unknown = [
        (
            t.references.1,
            "reference count",
            "of frames that were in use before the trace, or with several CPUs",
        ),
        (
            t.fetch_unknown,
            "executable page",
            "of frames that were in use before the trace",
        ),
        (t.late, "event", "that came after later ones"),
        (t.losses, "time", "anew after a loss or a restart"),
    ];
    for (number, noun, why) in unknown.iter().filter(|(number, ..)| *number > 0) {
        writeln!(text, "  not decided: {} {why}", plural(*number, noun))?;
    }
    let limits = styled(DIM, "what such a trace cannot show:");
    writeln!(text, "  {limits}")?;
    for (rule, limit) in &t.limits {
        writeln!(text, "    {}", styled(DIM, format!("{rule}: {limit}")))?;
    }
    for broken in &t.violations {
        writeln!(text)?;
        violation(text, report, broken)?;
    }
    let listed = t.violations.len() as u64;
    if total > listed {
        writeln!(text, "\n{} more (--all lists them)", count(total - listed))?;
    }
    Ok(())
}

fn violation(text: &mut String, report: &Report, broken: &Broken) -> std::fmt::Result {
    writeln!(
        text,
        "{} at event #{}, {} after the first, CPU {}",
        styled(BAD, format!("{} {}:", broken.rule, broken.name)),
        broken.event,
        span(broken.time.saturating_sub(report.start), report.counter_hz),
        broken.cpu
    )?;
    writeln!(text, "  event    {}", broken.what)?;
    writeln!(text, "  problem  {}", broken.problem)?;
    writeln!(text, "  missing  {}", broken.missing)?;
    if let Some(address) = broken.address {
        let owner = match (broken.space, broken.asid) {
            (_, None) => " of the kernel".to_owned(),
            (Some(space), Some(asid)) => format!(" of space {space} (ASID {asid})"),
            (None, Some(asid)) => format!(" of ASID {asid}"),
        };
        writeln!(
            text,
            "  page     {}{owner}",
            styled(MARK, format!("{address:#x}"))
        )?;
    }
    if let Some(frame) = broken.frame {
        writeln!(text, "  frame    {}", styled(MARK, format!("{frame:#x}")))?;
    }
    if let Some((table, index, level)) = broken.descriptor {
        writeln!(
            text,
            "  entry    {index} of the level {level} table {table:#x}"
        )?;
    }
    writeln!(text, "  rule     {}", broken.why)?;
    writeln!(text, "  source   {}", broken.reference)?;
    writeln!(text, "  {}", styled(DIM, "up to there, on that CPU:"))?;
    for (position, event) in &broken.context {
        writeln!(text, "    {}", styled(DIM, format!("#{position} {event}")))?;
    }
    Ok(())
}

fn counts(text: &mut String, report: &Report) -> std::fmt::Result {
    let sum = |pick: fn(&crate::analysis::check::Tally) -> u64| -> u64 {
        report.counts.iter().map(|(_, tally)| pick(tally)).sum()
    };
    let (agreed, differed) = (sum(|t| t.agreed), sum(|t| t.differed));
    let verdict = match differed {
        0 => styled(GOOD, format!("{} agree", plural(agreed, "comparison"))),
        _ => styled(
            BAD,
            format!("{} of {} differ", count(differed), count(agreed + differed)),
        ),
    };
    writeln!(
        text,
        "{} {verdict}",
        styled(HEAD, "The kernel's counts against its events:")
    )?;
    for (subject, tally) in &report.counts {
        let mut line = format!("  {}: {} agree", subject.name(), count(tally.agreed));
        if tally.differed > 0 {
            let _ = write!(line, ", {} differ", count(tally.differed));
        }
        if tally.unknown > 0 {
            let _ = write!(line, ", {} cannot be told", count(tally.unknown));
        }
        if tally.concurrent > 0 {
            let _ = write!(
                line,
                ", {} while another CPU changed the same",
                count(tally.concurrent)
            );
        }
        writeln!(text, "{line}")?;
    }
    for finding in report.findings.iter().take(FINDINGS) {
        let page = finding
            .address
            .map_or(String::new(), |address| format!(" page {address:#x}"));
        writeln!(
            text,
            "  {} {}: space {}{page}: the kernel says {}, the events {}",
            styled(BAD, finding.subject.name()),
            span(finding.time.saturating_sub(report.start), report.counter_hz),
            finding.space,
            finding.kernel,
            finding.trace
        )?;
    }
    Ok(())
}
