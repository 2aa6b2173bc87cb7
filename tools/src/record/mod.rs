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
    let source = open(args, &progress)?;
    let recording = Recording {
        name: args.source.to_string(),
        output: &output,
        // A file is read to its end, which may hold more than one boot.
        stop_at_end: args.source.path().is_none(),
        report: (!args.no_report).then(SymbolArgs::default),
        story: false,
        shower: Shower::new(&progress),
        progress: &progress,
    };
    recording.follow(source)
}

/// Opens the source; with `--wait`, as soon as it is there.
fn open(args: &RecordArgs, progress: &Progress) -> Result<Source> {
    progress.step(&format!("waiting for {}", args.source));
    loop {
        match args.source.open(args.baud) {
            Err(_) if args.wait && !interrupt::requested() => std::thread::sleep(REFRESH),
            opened => return opened,
        }
    }
}

/// A stream being recorded.
pub struct Recording<'a> {
    /// What it comes from, for people.
    pub name: String,
    /// Where it goes.
    pub output: &'a Output,
    /// Whether the machine's end is the stream's.
    pub stop_at_end: bool,
    /// Whether there is a report, and which ELF files it looks at.
    pub report: Option<SymbolArgs>,
    /// The program is the demonstration.
    pub story: bool,
    /// Shows what comes.
    pub shower: Shower<'a>,
    /// Shows how much came.
    pub progress: &'a Progress,
}

impl Recording<'_> {
    /// Records the stream to its end.
    pub fn follow(mut self, mut source: Source) -> Result<ExitCode> {
        let mut file = self.output.create()?;
        let path = self.output.path();
        let progress = self.progress;
        progress.step(&format!("recording {} into {}", self.name, path.display()));
        let mut watch = Watch::new();
        let mut buffer = vec![0; 64 << 10];
        let mut shown = Instant::now();
        let mut losses = Losses::default();
        loop {
            match source.receive(&mut buffer)? {
                Received::Bytes(n) => {
                    let why = || format!("cannot write {}", path.display());
                    file.write_all(&buffer[..n]).with_context(why)?;
                    watch.take(&buffer[..n], |what| self.shower.show(what));
                }
                Received::Nothing => {}
                Received::Unplugged => progress.warn(&format!(
                    "{} is gone: waiting for it to come back (Ctrl-C ends the recording)",
                    self.name
                )),
                Received::Plugged => progress.note(&format!("{} is back", self.name)),
                Received::End => break,
            }
            if interrupt::requested() || self.stop_at_end && watch.end().is_some() {
                break;
            }
            if shown.elapsed() >= REFRESH {
                let summary = watch.progress();
                progress.state(&summary.to_string());
                if let Some(text) = losses.news(&summary) {
                    progress.warn(&text);
                }
                shown = Instant::now();
            }
        }
        watch.finish(|what| self.shower.show(what));
        self.shower.finish();
        progress.finish();
        file.flush()
            .with_context(|| format!("cannot write {}", path.display()))?;

        let summary = watch.progress();
        progress.note(&format!("{}: {summary}", path.display()));
        if let Some(major) = watch.foreign_version() {
            return Err(unreadable(format!(
                "the stream is of version {major} of the wire, and this tool speaks version {}: build \
                 the tool and the kernel from the same source",
                wire::MAJOR
            )));
        }
        if summary.counts.frames == 0 {
            return Err(unreadable(format!(
                "there was no frame in what {} sent: is it the right port and baud rate, and does a \
                 Cowscope kernel run there?",
                self.name
            )));
        }
        let Some(symbols) = &self.report else {
            return Ok(Exit::Ok.into());
        };
        let mut out = anstream::AutoStream::auto(std::io::stdout().lock());
        let code = report(path, symbols, self.story, &mut out);
        report::finish(code).map(ExitCode::from)
    }
}

/// What was lost so far, told as it grows: at once, and then each time it has doubled.
#[derive(Default)]
struct Losses {
    told: u64,
}

impl Losses {
    fn news(&mut self, summary: &Summary) -> Option<String> {
        let counts = &summary.counts;
        let lost = summary.dropped + counts.missing + counts.corrupt_bytes;
        if lost == 0 || lost < self.told.saturating_mul(2) || lost == self.told {
            return None;
        }
        self.told = lost;
        Some(format!(
            "lost so far: {} events dropped by the machine, {} frames and {} bytes by the line",
            summary.dropped, counts.missing, counts.corrupt_bytes
        ))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_as_they_grow() {
        let mut losses = Losses::default();
        let mut summary = Watch::new().progress();
        assert_eq!(losses.news(&summary), None);
        let mut told = Vec::new();
        for dropped in 0..100 {
            summary.dropped = dropped;
            if losses.news(&summary).is_some() {
                told.push(dropped);
            }
        }
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64]);
        summary.counts.missing = 200;
        assert!(losses.news(&summary).unwrap().contains("200 frames"));
    }
}
