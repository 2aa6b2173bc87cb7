//! Views of a trace that other programs show: flame graphs, timelines, tables.

pub mod args;
mod flame;
mod html;
pub mod output;
mod perfetto;
mod timeline;

use std::path::Path;

use args::{
    ExportArgs, ExportFormat, FlameArgs, FlameFormat, HtmlArgs, TimelineArgs, ViewArgs, Weight,
};

use crate::analysis::stream::{self, State};
use crate::analysis::symbols::Symbols;
use crate::report::args::ListFormat;
use crate::report::faults::{self, Lister};
use crate::report::filter::{Chosen, Filter};
use crate::report::{self, filter::FilterArgs};
use crate::report::{code, warn, with_input, with_trace};

use wire::event::Outcome;

use flame::{Flame, Stacks};
use html::Collector;
use timeline::Timeline;

impl ViewArgs {
    fn symbols(&self) -> Symbols {
        Symbols::new(self.symbols.search_path())
    }

    fn filter(&self) -> Filter<'_> {
        Filter::new(&self.filter)
    }

    /// What every command says of the trace at its end, and its exit code.
    fn end(&self, state: &State, symbols: &Symbols) -> u8 {
        warn(state, symbols);
        code(state, self.input.strict, false)
    }

    fn flame(
        &self,
        by: Weight,
        lines: bool,
        format: FlameFormat,
        diff: Option<&Path>,
    ) -> anyhow::Result<u8> {
        let read = |path: &Path| -> anyhow::Result<(Stacks, u8)> {
            with_trace(path, |input| {
                // Of this trace only: file ids are each trace's own.
                let mut symbols = self.symbols();
                let mut flame = Flame::new(self.filter(), by, &mut symbols);
                let state = stream::read(input, &mut flame)?;
                let stacks = flame.finish(&state.machine, lines);
                Ok((stacks, self.end(&state, &symbols)))
            })
        };
        let before = diff.map(read).transpose()?;
        let (stacks, code) = read(&self.input.path()?)?;
        let before = before.as_ref().map(|(stacks, _)| stacks);
        let mut out = self.output.text()?;
        match format {
            FlameFormat::Folded => flame::folded(before, &stacks, &mut out)?,
            FlameFormat::Svg => flame::svg(before, &stacks, by, &mut out)?,
        }
        out.keep()?;
        Ok(code)
    }

    fn timeline(&self) -> anyhow::Result<u8> {
        with_input(&self.input, |input| {
            let mut out = self.output.binary()?;
            let mut symbols = self.symbols();
            let mut timeline = Timeline::new(self.filter(), &mut symbols, &mut out);
            let state = stream::read(input, &mut timeline)?;
            timeline.finish(&state)?;
            out.keep()?;
            Ok(self.end(&state, &symbols))
        })
    }

    fn table(&self, format: Option<ListFormat>) -> anyhow::Result<u8> {
        with_input(&self.input, |input| {
            let mut symbols = self.symbols();
            let mut out = match format {
                Some(_) => self.output.text()?,
                None => self.output.seekable()?,
            };
            let list = match format {
                Some(format) => faults::Output::text(format, &mut out)?,
                None => faults::Output::parquet(out.file()?)?,
            };
            let mut lister = Lister::new(self.filter(), None, &mut symbols, list);
            let state = stream::read(input, &mut lister)?;
            lister.finish()?;
            out.keep()?;
            Ok(self.end(&state, &symbols))
        })
    }
}

impl FlameArgs {
    /// `flame`.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is no trace.
    pub fn run(&self) -> anyhow::Result<u8> {
        let diff = self.diff.as_deref();
        self.view.flame(self.by, self.lines, self.format, diff)
    }
}

impl HtmlArgs {
    /// `html`.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is no trace.
    pub fn run(&self) -> anyhow::Result<u8> {
        with_input(&self.input, |input| {
            let mut out = self.output.text()?;
            let copies = FilterArgs {
                outcome: vec![Outcome::CowCopy, Outcome::TableUnshare],
                ..FilterArgs::default()
            };
            let path = self.symbols.search_path();
            let mut symbols = Symbols::new(path.clone());
            let mut chosen_by = Symbols::new(path);
            let filter = || Filter::new(&self.filter);
            let flame = Flame::new(Filter::new(&copies), Weight::Count, &mut symbols);
            let collectors = (flame, (report::Parts::default(), Collector::default()));
            let mut observers = Chosen::new(filter(), &mut chosen_by, collectors);
            let state = stream::read(input, &mut observers)?;
            let (flame, (parts, page)) = observers.observer;
            let stacks = flame.finish(&state.machine, false);
            let mut picture = Vec::new();
            if !stacks.is_empty() {
                flame::svg(None, &stacks, Weight::Count, &mut picture)?;
            }
            let flame = (!picture.is_empty()).then_some(&picture[..]);
            let report = parts.json(&state, &mut symbols, self.top, &filter())?;
            page.write(&state, &mut symbols, report, flame, &mut out)?;
            out.keep()?;
            warn(&state, &symbols);
            Ok(code(&state, self.input.strict, false))
        })
    }
}

impl TimelineArgs {
    /// `timeline`.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is no trace.
    pub fn run(&self) -> anyhow::Result<u8> {
        self.view.timeline()
    }
}

impl ExportArgs {
    /// `export`.
    ///
    /// # Errors
    /// When reading or writing fails, or the input is no trace.
    pub fn run(&self) -> anyhow::Result<u8> {
        let view = &self.view;
        match self.format {
            ExportFormat::Jsonl => view.table(Some(ListFormat::Jsonl)),
            ExportFormat::Csv => view.table(Some(ListFormat::Csv)),
            ExportFormat::Parquet => view.table(None),
            ExportFormat::Perfetto => view.timeline(),
            ExportFormat::Folded => view.flame(Weight::Count, false, FlameFormat::Folded, None),
        }
    }
}
