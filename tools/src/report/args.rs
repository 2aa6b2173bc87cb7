//! The command line of what reads traces.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wire::event::Outcome;

use super::filter::FilterArgs;
use super::memory::At;
use crate::analysis::symbols::SearchPath;
use crate::setup::debian;

/// Output of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document with a `schema_version`.
    Json,
}

/// Output of listings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document with a `schema_version`.
    Json,
    /// A JSON value per line; the first holds the `schema_version`.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
}

/// Where the programs' ELF files are.
#[derive(Args, Clone, Debug, Default)]
pub struct SymbolArgs {
    /// An ELF file to take function names and source lines from (may be repeated)
    #[arg(long = "elf", value_name = "FILE")]
    pub elf: Vec<PathBuf>,

    /// A directory of such files, found by build id (may be repeated), or the root file system of a
    /// guest; what this tool has built or unpacked here is always searched
    #[arg(
        long = "elf-dir",
        value_name = "DIR",
        env = "COWSCOPE_ELF_DIR",
        value_delimiter = ':'
    )]
    pub elf_dir: Vec<PathBuf>,
}

impl SymbolArgs {
    /// The search path: what was named, then what the tool has built here.
    pub fn search_path(&self) -> SearchPath {
        let mut directories = self.elf_dir.clone();
        directories.extend(built_directories());
        SearchPath {
            files: self.elf.clone(),
            directories,
            roots: self
                .elf_dir
                .iter()
                .cloned()
                .chain(debian::roots())
                .collect(),
        }
    }
}

/// The directories in which the ELF files lie that this tool has built.
fn built_directories() -> Vec<PathBuf> {
    let Ok(root) = crate::paths::image_target() else {
        return Vec::new();
    };
    let targets = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut directories: Vec<PathBuf> = targets
        .map(|target| target.path().join("image"))
        .filter(|directory| directory.is_dir())
        .collect();
    directories.sort();
    directories
}

/// Input of everything that reads a trace.
#[derive(Args, Clone, Debug)]
pub struct InputArgs {
    /// The trace: a file, or - for standard input [default: that of the last run]
    #[arg(value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Exit with 4 if anything is missing from the trace or damaged
    #[arg(long)]
    pub strict: bool,
}

impl InputArgs {
    /// The trace's path.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        match &self.input {
            Some(path) => Ok(path.clone()),
            None => crate::paths::last_trace(),
        }
    }
}

/// `report`: the story, the processes, the costs.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// Which faults, in what is told of source lines and of when they were; and which processes.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Go on as the trace is written by somebody else, to its end or to Ctrl-C
    #[arg(long)]
    pub follow: bool,

    /// Begin with the story: evidence for each step of copy-on-write, as far as the trace has it
    #[arg(long)]
    pub story: bool,

    /// How many source lines, processes and forks to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// `faults`: one line per page fault.
#[derive(Args, Clone, Debug)]
pub struct FaultsArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// Which faults.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Stop after so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ListFormat,
}

/// `explain`: the life of one page.
#[derive(Args, Clone, Debug)]
#[command(allow_missing_positional = true)]
pub struct ExplainArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,

    /// The page: PID:ADDRESS, e.g. 2:0x400000
    #[arg(value_name = "PID:ADDRESS", value_parser = parse_page)]
    pub page: (u32, u64),

    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// `memory`: RSS, PSS and USS of each process at any moment.
#[derive(Args, Clone, Debug)]
pub struct MemoryArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,

    /// When: a time after the first event (5ms), `peak` (when most frames were in use, within a
    /// sixteenth) or `end`; may be repeated
    #[arg(long, value_name = "TIME", value_delimiter = ',', default_value = "peak", value_parser = parse_at)]
    pub at: Vec<At>,

    /// Only of these processes (may be repeated)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,

    /// By mapping, too
    #[arg(long)]
    pub mappings: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
}

/// `dump`: every frame and event, one line each.
#[derive(Args, Clone, Debug)]
pub struct DumpArgs {
    /// The trace.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// Which faults; everything else is listed in any case.
    #[command(flatten)]
    pub filter: FilterArgs,
}

pub(super) fn parse_outcome(text: &str) -> Result<Outcome, String> {
    let mut all = Outcome::ALL.into_iter();
    all.find(|outcome| outcome.name() == text).ok_or_else(|| {
        let names = Outcome::ALL.map(Outcome::name);
        format!("not an outcome; they are: {}", names.join(", "))
    })
}

fn parse_number(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.map_err(|error| format!("{text:?}: {error}"))
}

/// `START-END`, `START+LENGTH`, `START-`, `-END`; `None` if there is no separator.
fn parse_range(
    text: &str,
    number: impl Fn(&str) -> Result<u64, String>,
) -> Option<Result<Range<u64>, String>> {
    let at = text.find(['-', '+'])?;
    let (start, end) = (&text[..at], &text[at + 1..]);
    let range = || {
        let start = if start.is_empty() { 0 } else { number(start)? };
        let end = match end {
            "" => u64::MAX,
            end if text.as_bytes()[at] == b'+' => start.saturating_add(number(end)?),
            end => number(end)?,
        };
        if start < end {
            Ok(start..end)
        } else {
            Err("the range is empty".to_owned())
        }
    };
    Some(range())
}

pub(super) fn parse_addresses(text: &str) -> Result<Range<u64>, String> {
    parse_range(text, parse_number).unwrap_or_else(|| {
        let page = parse_number(text)? & !4095;
        Ok(page..page.saturating_add(4096))
    })
}

/// Nanoseconds.
fn parse_time(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 4] = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let mut units = UNITS.iter();
    let unit = units.find_map(|(name, scale)| Some((text.strip_suffix(name)?, scale)));
    let (number, scale) =
        unit.ok_or_else(|| format!("{text:?}: a time has a unit: s, ms, us, ns"))?;
    let value: f64 = number
        .parse()
        .map_err(|error| format!("{text:?}: {error}"))?;
    if value.is_finite() && value >= 0.0 {
        Ok((value * scale) as u64)
    } else {
        Err(format!("{text:?} is not a time"))
    }
}

pub(super) fn parse_times(text: &str) -> Result<Range<u64>, String> {
    let none = || Err("not a range of times: 1s-2s, 1s+5ms, 5s-".to_owned());
    parse_range(text, parse_time).unwrap_or_else(none)
}

fn parse_at(text: &str) -> Result<At, String> {
    match text {
        "peak" => Ok(At::Peak),
        "end" => Ok(At::End),
        time => parse_time(time).map(At::Time),
    }
}

fn parse_page(text: &str) -> Result<(u32, u64), String> {
    let (pid, address) = text
        .split_once(':')
        .ok_or("not PID:ADDRESS, e.g. 2:0x400000")?;
    let pid = pid.parse().map_err(|error| format!("{pid:?}: {error}"))?;
    Ok((pid, parse_number(address)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_addresses("0x1234"), Ok(0x1000..0x2000));
        assert_eq!(parse_addresses("0x1000-0x3000"), Ok(0x1000..0x3000));
        assert_eq!(parse_addresses("0x1000+8192"), Ok(0x1000..0x3000));
        assert!(parse_addresses("0x3000-0x1000").is_err());
        assert_eq!(parse_times("1.5ms-2s"), Ok(1_500_000..2_000_000_000));
        assert_eq!(parse_times("5s-"), Ok(5_000_000_000..u64::MAX));
        assert_eq!(parse_times("-20us"), Ok(0..20_000));
        assert!(parse_times("5").is_err() && parse_times("1-2").is_err());
        assert_eq!(parse_page("7:0x40_0000"), Ok((7, 0x40_0000)));
        assert!(parse_page("7").is_err());
        assert!(parse_outcome("cow-copy").is_ok() && parse_outcome("copy").is_err());
    }
}
