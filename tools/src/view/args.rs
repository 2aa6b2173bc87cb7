//! The command line of views.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output::OutputArgs;
use crate::report::args::{InputArgs, SymbolArgs};
use crate::report::filter::FilterArgs;

/// What a view reads, chooses and writes.
#[derive(Args, Clone, Debug)]
pub struct ViewArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,
    /// Which faults.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Where it goes.
    #[command(flatten)]
    pub output: OutputArgs,
}

const FLAME_EXAMPLES: &str = "\
Examples:
  cowscope flame -o copies.svg --outcome cow-copy       who copies pages
  cowscope flame -o cost.svg --by cost --pid 3          what all faults of process 3 cost
  cowscope flame --format folded | grep server          for other tools, such as speedscope
  cowscope flame after.cow --diff before.cow -o d.svg   what became more (red) and less (blue)";

/// `flame`: a flame graph of page faults by call stack.
#[derive(Args, Clone, Debug)]
#[command(after_help = FLAME_EXAMPLES)]
pub struct FlameArgs {
    /// What it reads and writes.
    #[command(flatten)]
    pub view: ViewArgs,

    /// What the widths are
    #[arg(long, value_enum, default_value_t)]
    pub by: Weight,

    /// Show what differs from this trace
    #[arg(long, value_name = "TRACE")]
    pub diff: Option<PathBuf>,

    /// Tell apart the lines of a function
    #[arg(long)]
    pub lines: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: FlameFormat,
}

/// `flame --by`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Weight {
    /// How many faults
    #[default]
    Count,
    /// Memory that they took
    Bytes,
    /// Cycles
    Cost,
}

/// `flame --format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FlameFormat {
    /// A picture for a browser, in one file
    #[default]
    Svg,
    /// A line per stack: frames separated by semicolons, and the number (two, with --diff)
    Folded,
}

/// `timeline`: the trace for Perfetto (ui.perfetto.dev opens it): a track per CPU and thread with
/// the faults and forks on it, and per process its shared and private pages.
#[derive(Args, Clone, Debug)]
pub struct TimelineArgs {
    /// What it reads and writes.
    #[command(flatten)]
    pub view: ViewArgs,
}

/// `html`: the whole report as one file for a browser, which needs no network: the sharing map of
/// all address spaces through time, decay curves, flame graph, the life of each page.
#[derive(Args, Clone, Debug)]
pub struct HtmlArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,
    /// Which faults.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Where it goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// How many source lines and forks to show
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub top: usize,
}

/// `export`: the faults in a format of other tools.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// What it reads and writes.
    #[command(flatten)]
    pub view: ViewArgs,

    /// Which
    #[arg(long, value_enum)]
    pub format: ExportFormat,
}

/// `export --format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A JSON object per fault and line; the first line holds the `schema_version`
    Jsonl,
    /// Comma-separated values with a header, a line per fault
    Csv,
    /// An Apache Parquet file, a row per fault
    Parquet,
    /// As `timeline`
    Perfetto,
    /// As `flame --format folded`: faults by call stack
    Folded,
}
