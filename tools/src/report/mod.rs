//! Reports: what the analysis found, for people and for programs.
//!
//! Data goes to standard output, everything else to standard error. For exit codes see
//! [`crate::exit`]: a finding is that the kernel's counts and its events differ.

mod advice;
pub mod args;
mod costs;
pub(crate) mod decay;
pub mod diff;
mod dump;
mod explain;
pub(crate) mod faults;
pub mod filter;
pub mod follow;
pub(crate) mod lines;
pub(crate) mod memory;
mod parquet;
mod phases;
pub(crate) mod place;
mod row;
mod story;
mod story_text;
mod summary;
pub(crate) mod summary_text;
pub(crate) mod text;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::Context;
use args::{DumpArgs, ExplainArgs, FaultsArgs, InputArgs, MemoryArgs, ReportArgs, ReportFormat};

use wire::event::Record;

use crate::analysis::machine::Change;
use crate::analysis::stream::{self, Incompatible, State};
use crate::analysis::symbols::{SearchPath, Symbols};
use crate::exit::{self, Exit};
use crate::progress;
use filter::{Chosen, Filter, FilterArgs};

/// What a report should hold.
#[derive(Clone, Debug)]
pub struct Options {
    /// For people or for programs.
    pub format: ReportFormat,
    /// Begin with the story.
    pub story: bool,
    /// Lines, processes and forks listed.
    pub top: usize,
    /// Loss is an error.
    pub strict: bool,
    /// Where programs' ELF files are.
    pub symbols: SearchPath,
    /// Which faults and processes.
    pub filter: FilterArgs,
}

/// What a report is made of, on the way through a trace.
#[derive(Default)]
pub(crate) struct Parts {
    lines: lines::Lines,
    decay: decay::Decay,
    copies: phases::Copies,
}

impl Parts {
    /// The report without the story, as JSON.
    pub(crate) fn json(
        self,
        state: &State,
        symbols: &mut Symbols,
        top: usize,
        filter: &Filter<'_>,
    ) -> anyhow::Result<serde_json::Value> {
        let report = summary::report(state, None, self, symbols, top, filter);
        let mut value = serde_json::to_value(&report)?;
        let loss = summary_text::loss_line(&report.losses, report.frames, report.events);
        value["loss_line"] = anstream::adapter::strip_str(&loss).to_string().into();
        Ok(value)
    }
}

impl stream::Observer for Parts {
    fn after(&mut self, state: &State, cpu: u8, record: &Record, change: &Change) {
        self.lines.after(state, cpu, record, change);
        self.decay.after(state, cpu, record, change);
        self.copies.after(state, cpu, record, change);
    }

    fn restart(&mut self) {
        *self = Parts::default();
    }
}

/// Reads a trace and writes the report. Styles are ANSI escapes: strip them where they are not wanted.
///
/// # Errors
/// When reading or writing fails, or the input is [`Incompatible`].
pub fn run_to(input: &mut dyn Read, options: &Options, out: &mut dyn Write) -> anyhow::Result<u8> {
    write_report(options, out, |observer| stream::read(input, observer))
}

/// What looks at a trace for a report.
type ForReport<'a> = (story::Story, Chosen<'a, Parts>);

fn write_report(
    options: &Options,
    out: &mut dyn Write,
    read: impl FnOnce(&mut ForReport<'_>) -> io::Result<State>,
) -> anyhow::Result<u8> {
    let filter = || Filter::new(&options.filter);
    // Two of them, as one is in use while the trace is read.
    let mut chosen_by = Symbols::new(options.symbols.clone());
    let parts = Chosen::new(filter(), &mut chosen_by, Parts::default());
    let mut observers = (story::Story::default(), parts);
    let state = read(&mut observers)?;
    let (story, parts) = (observers.0, observers.1.observer);
    let mut symbols = Symbols::new(options.symbols.clone());
    let evidence = options
        .story
        .then(|| story.finish(&state.machine, &mut symbols));
    let steps = evidence
        .as_ref()
        .map(|evidence| (story_text::steps(evidence, &state), evidence));
    let report = summary::report(&state, steps, parts, &mut symbols, options.top, &filter());
    match options.format {
        ReportFormat::Text => {
            out.write_all(summary_text::render(&report, options.top).as_bytes())?
        }
        ReportFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(code(&state, options.strict, true))
}

pub(crate) fn code(state: &State, strict: bool, checked: bool) -> u8 {
    let exit = if strict && state.losses.any() {
        Exit::Lossy
    } else if checked && state.machine.checks.total().differed > 0 {
        Exit::Finding
    } else {
        Exit::Ok
    };
    exit as u8
}

/// Gives an input that is no trace the exit code of its own.
/// Says of a trace of another version that it is the input that is wrong.
///
/// # Errors
/// The one that was given.
pub fn finish<T>(result: anyhow::Result<T>) -> anyhow::Result<T> {
    result.map_err(|error| {
        let incompatible = error.chain().any(|cause| {
            let io = cause.downcast_ref::<io::Error>();
            io.is_some_and(|io| io.get_ref().is_some_and(|inner| inner.is::<Incompatible>()))
        });
        if incompatible {
            exit::unreadable(format!("{error:#}"))
        } else {
            error
        }
    })
}

/// Runs `work` on the input.
pub(crate) fn with_input(
    args: &InputArgs,
    work: impl FnOnce(&mut dyn Read) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    with_trace(&args.path()?, work)
}

/// The same for what is written while it is read: on a terminal that tells itself how far it is.
fn with_input_listed(
    args: &InputArgs,
    work: impl FnOnce(&mut dyn Read) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    with_reader(&args.path()?, !io::stdout().is_terminal(), work)
}

/// Runs `work` on a trace; `-` is standard input.
pub(crate) fn with_trace<T>(
    path: &Path,
    work: impl FnOnce(&mut dyn Read) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_reader(path, true, work)
}

fn with_reader<T>(
    path: &Path,
    bar: bool,
    work: impl FnOnce(&mut dyn Read) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let name = path.display();
    let mut input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin().lock())
    } else if path.is_dir() {
        return Err(exit::unreadable(format!("{name} is a directory")));
    } else {
        let unreadable = |error| exit::unreadable(format!("cannot open {name}: {error}"));
        let file = File::open(path).map_err(unreadable)?;
        match file.metadata() {
            Ok(about) if bar => progress::reading(file, about.len()),
            _ => Box::new(file),
        }
    };
    finish(work(&mut *input).with_context(|| name.to_string()))
}

impl ReportArgs {
    /// `report`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn run(&self) -> anyhow::Result<u8> {
        let options = Options {
            format: self.format,
            story: self.story,
            top: self.top,
            strict: self.input.strict,
            symbols: self.symbols.search_path(),
            filter: self.filter.clone(),
        };
        let path = self.input.path()?;
        if self.follow && path != Path::new("-") {
            let mut out = anstream::AutoStream::auto(io::stdout().lock());
            let read = |observer: &mut ForReport<'_>| follow::read(&path, observer);
            let result = write_report(&options, &mut out, read);
            return finish(result.with_context(|| path.display().to_string()));
        }
        with_input(&self.input, |input| {
            let mut out = anstream::AutoStream::auto(io::stdout().lock());
            run_to(input, &options, &mut out)
        })
    }
}

impl FaultsArgs {
    /// `faults`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn run(&self) -> anyhow::Result<u8> {
        with_input_listed(&self.input, |input| {
            self.run_to(input, &mut BufWriter::new(io::stdout().lock()))
        })
    }

    /// The same, to any output.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is [`Incompatible`].
    pub fn run_to(&self, input: &mut dyn Read, out: &mut dyn Write) -> anyhow::Result<u8> {
        let mut symbols = Symbols::new(self.symbols.search_path());
        let out = faults::Output::text(self.format, out)?;
        let filter = Filter::new(&self.filter);
        let mut lister = faults::Lister::new(filter, self.limit, &mut symbols, out);
        let state = stream::read(input, &mut lister)?;
        lister.finish()?;
        warn(&state, &symbols);
        Ok(code(&state, self.input.strict, false))
    }
}

/// What a listing keeps off its output.
pub(crate) fn warn(state: &State, symbols: &Symbols) {
    for problem in symbols.problems() {
        eprintln!("note: {problem}");
    }
    let events = state.machine.events.iter().sum();
    let line = summary_text::loss_line(&state.losses, state.frames, events);
    let _ = writeln!(anstream::stderr(), "{line}");
}

impl ExplainArgs {
    /// `explain`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn run(&self) -> anyhow::Result<u8> {
        with_input(&self.input, |input| {
            let mut out = anstream::AutoStream::auto(io::stdout().lock());
            self.run_to(input, &mut out)
        })
    }

    /// The same, to any output.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is [`Incompatible`].
    pub fn run_to(&self, input: &mut dyn Read, out: &mut dyn Write) -> anyhow::Result<u8> {
        let (pid, address) = self.page;
        let mut life = explain::Life::new(pid, address);
        let state = stream::read(input, &mut life)?;
        let known = life.known();
        let page = address & !(crate::analysis::descriptor::PAGE_SIZE - 1);
        let mut symbols = Symbols::new(self.symbols.search_path());
        let (entries, left_out) = life.finish(&state.machine, &mut symbols);
        match self.format {
            ReportFormat::Text => {
                let text = explain::render(pid, page, &entries, left_out, &state);
                out.write_all(text.as_bytes())?;
                for problem in symbols.problems() {
                    writeln!(out, "Note: {problem}")?;
                }
                let events = state.machine.events.iter().sum();
                writeln!(
                    out,
                    "\n{}",
                    summary_text::loss_line(&state.losses, state.frames, events)
                )?;
            }
            ReportFormat::Json => {
                serde_json::to_writer_pretty(
                    &mut *out,
                    &explain::json(pid, page, &entries, &state),
                )?;
                writeln!(out)?;
            }
        }
        out.flush()?;
        if !known {
            anyhow::bail!(exit::usage(format!("no process {pid} in the trace")));
        }
        Ok(code(&state, self.input.strict, false))
    }
}

impl MemoryArgs {
    /// `memory`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn run(&self) -> anyhow::Result<u8> {
        with_input(&self.input, |input| {
            let mut out = anstream::AutoStream::auto(io::stdout().lock());
            self.run_to(input, &mut out)
        })
    }

    /// The same, to any output.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is [`Incompatible`].
    pub fn run_to(&self, input: &mut dyn Read, out: &mut dyn Write) -> anyhow::Result<u8> {
        let mut memory = memory::Memory::new(self.at.clone());
        let state = stream::read(input, &mut memory)?;
        let mut moments = memory.finish(&state);
        match self.format {
            ReportFormat::Text => {
                let text = memory::render(&moments, &self.pid, self.mappings, &state);
                out.write_all(text.as_bytes())?;
                let events = state.machine.events.iter().sum();
                let line = summary_text::loss_line(&state.losses, state.frames, events);
                writeln!(out, "{line}")?;
            }
            ReportFormat::Json => {
                for moment in &mut moments {
                    let wanted = |pid| self.pid.is_empty() || self.pid.contains(&pid);
                    moment.processes.retain(|usage| wanted(usage.pid));
                }
                let value = serde_json::json!({
                    "schema_version": summary::SCHEMA_VERSION,
                    "page_bytes": crate::analysis::descriptor::PAGE_SIZE,
                    "moments": moments,
                    "losses": state.losses,
                });
                serde_json::to_writer_pretty(&mut *out, &value)?;
                writeln!(out)?;
            }
        }
        out.flush()?;
        Ok(code(&state, self.input.strict, false))
    }
}

impl DumpArgs {
    /// `dump`.
    ///
    /// # Errors
    /// When writing fails.
    pub fn run(&self) -> anyhow::Result<u8> {
        with_input_listed(&self.input, |input| {
            self.run_to(
                input,
                &mut BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            )
        })
    }

    /// The same, to any output.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is [`Incompatible`].
    pub fn run_to(&self, input: &mut dyn Read, out: &mut dyn Write) -> anyhow::Result<u8> {
        let mut symbols = Symbols::new(self.symbols.search_path());
        let mut dump = dump::Dump::new(out, &mut symbols, Filter::new(&self.filter));
        let state = stream::read(input, &mut dump)?;
        dump.finish()?;
        warn(&state, &symbols);
        Ok(code(&state, self.input.strict, false))
    }
}
