//! How fast traces are read: a sweep of copy-on-write faults, about a million events.
//!
//! `cargo run --release -p tools --example report_speed`
//!
//! With a file and a number of forks (120 without) it writes the trace, to be read by other means:
//! 22,500 are 1 GiB.

#[allow(dead_code)]
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/support/sweeps.rs"]
mod sweeps;

use std::io::{self, Write};
use std::time::Instant;

use clap::Parser;
use sweeps::sweeps;
use tools::analysis::stream;
use tools::report::args::{DumpArgs, FaultsArgs, ReportFormat};
use tools::report::{Options, run_to};

const PAGES: u64 = 4096;

#[derive(Parser)]
struct Dump {
    #[command(flatten)]
    args: DumpArgs,
}

#[derive(Parser)]
struct Faults {
    #[command(flatten)]
    args: FaultsArgs,
}

fn trace(forks: usize) -> Vec<u8> {
    let mut kernel = sweeps(PAGES, forks);
    kernel.resident(1);
    kernel.end()
}

/// Nanoseconds this thread has been on a CPU: on a shared machine the wall clock says little.
fn on_cpu() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split_whitespace().next()?.parse().ok()
}

fn time(what: &str, events: u64, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (start, before) = (Instant::now(), on_cpu());
    work()?;
    let seconds = match (before, on_cpu()) {
        (Some(before), Some(after)) => (after - before) as f64 / 1e9,
        _ => start.elapsed().as_secs_f64(),
    };
    println!(
        "{what:<22} {seconds:.3} s  {:.2} M events/s",
        events as f64 / seconds / 1e6
    );
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    if let Some(file) = arguments.next() {
        let forks = arguments.next().map_or(Ok(120), |forks| forks.parse())?;
        return Ok(std::fs::write(file, trace(forks))?);
    }
    let trace = trace(120);
    let state = stream::read(&mut trace.as_slice(), &mut ())?;
    let events: u64 = state.machine.events.iter().sum();
    println!(
        "{events} events in {} bytes: {:.2} each",
        trace.len(),
        trace.len() as f64 / events as f64
    );
    let input = || trace.as_slice();
    time("decode only", events, || {
        let (mut deframer, mut bytes, mut seen) = (wire::Deframer::new(), input(), 0);
        while let Some(item) = deframer.next(&mut bytes) {
            if let wire::Item::Frame(envelope) = item
                && let wire::Body::Batch(batch) = envelope.body
            {
                seen += batch.records().filter(Result::is_ok).count() as u64;
            }
        }
        anyhow::ensure!(seen == events, "{seen} events");
        Ok(())
    })?;
    time("rebuild the machine", events, || {
        stream::read(&mut input(), &mut ())?;
        Ok(())
    })?;
    for story in [false, true] {
        let options = Options {
            format: ReportFormat::Text,
            story,
            top: 10,
            strict: true,
            symbols: Default::default(),
            filter: Default::default(),
        };
        time(
            if story { "report --story" } else { "report" },
            events,
            || run_to(&mut input(), &options, &mut io::sink()).map(drop),
        )?;
    }
    let sink = || io::BufWriter::with_capacity(1 << 16, io::sink());
    let dump = Dump::parse_from(["dump", "-"]).args;
    time("dump", events, || {
        dump.run_to(&mut input(), &mut sink()).map(drop)
    })?;
    let faults = Faults::parse_from(["faults", "-"]).args;
    time("faults", events, || {
        faults.run_to(&mut input(), &mut sink()).map(drop)
    })?;
    io::stdout().flush()?;
    Ok(())
}
