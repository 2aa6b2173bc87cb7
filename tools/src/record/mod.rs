//! Records a stream: its bytes as they are, into a file that `report` reads.

mod output;
mod shower;
mod source;
mod watch;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cli::RecordArgs;
use crate::exit::{Exit, unreadable, usage};
use crate::interrupt;
use crate::progress::Progress;
use crate::report;
use crate::report::args::{ReportFormat, SymbolArgs};
use crate::report::filter::FilterArgs;

pub use output::Output;
pub use shower::{LogLevel, Shower};
pub use source::{Received, Source, SourceName};
pub use watch::{Shown, Summary, Watch};

/// How often the counts are shown.
pub(crate) const REFRESH: Duration = Duration::from_millis(250);

/// How many source lines, processes and forks a report lists.
const TOP: usize = 10;

/// `cowscope record`
pub fn run(args: &RecordArgs) -> Result<ExitCode> {
    interrupt::watch();
    let output = Output::choose(args.output.as_deref(), args.force)?;
    if args.source.path().is_some_and(|source| output.is(source)) {
        return Err(usage(format!(
            "{} cannot be recorded into itself: to read a trace, use `cowscope report`",
            output.path().display()
        )));
    }
    let progress = Progress::new(args.quiet);
    let mut source = args.source.open(args.baud)?;
    let mut file = output.create()?;
    progress.step(&format!(
        "recording {} into {}",
        args.source,
        output.path().display()
    ));

    // A file is read to its end, which may hold more than one boot.
    let stop_at_end = args.source.path().is_none();
    let mut watch = Watch::new();
    let mut shower = Shower::new(&progress);
    let mut buffer = vec![0; 64 << 10];
    let mut shown = Instant::now();
    loop {
        match source.receive(&mut buffer)? {
            Received::Bytes(n) => {
                let why = || format!("cannot write {}", output.path().display());
                file.write_all(&buffer[..n]).with_context(why)?;
                watch.take(&buffer[..n], |what| shower.show(what));
            }
            Received::Nothing => {}
            Received::End => break,
        }
        if interrupt::requested() || stop_at_end && watch.end().is_some() {
            break;
        }
        if shown.elapsed() >= REFRESH {
            progress.state(&watch.progress().to_string());
            shown = Instant::now();
        }
    }
    watch.finish(|what| shower.show(what));
    shower.finish();
    progress.finish();
    file.flush()
        .with_context(|| format!("cannot write {}", output.path().display()))?;

    let summary = watch.progress();
    progress.note(&format!("{}: {summary}", output.path().display()));
    if let Some(major) = watch.foreign_version() {
        return Err(unreadable(format!(
            "the stream is of version {major} of the wire, and this tool speaks version {}: build the \
             tool and the kernel from the same source",
            wire::MAJOR
        )));
    }
    if summary.counts.frames == 0 {
        return Err(unreadable(format!(
            "there was no frame in what {} sent: is it the right port and baud rate, and does a \
             Cowscope kernel run there?",
            args.source
        )));
    }
    if args.no_report {
        return Ok(Exit::Ok.into());
    }
    let mut out = anstream::AutoStream::auto(std::io::stdout().lock());
    let code = report(output.path(), &SymbolArgs::default(), false, &mut out);
    report::finish(code).map(ExitCode::from)
}

/// Reports on a trace that was just recorded. Programs' ELF files are looked for as `symbols` says.
pub fn report(trace: &Path, symbols: &SymbolArgs, story: bool, out: &mut dyn Write) -> Result<u8> {
    let options = report::Options {
        format: ReportFormat::Text,
        story,
        top: TOP,
        strict: false,
        symbols: symbols.search_path(),
        filter: FilterArgs::default(),
    };
    let mut file = File::open(trace).with_context(|| format!("cannot read {}", trace.display()))?;
    report::run_to(&mut file, &options, out)
}
