//! What came of a boot.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use defmt_decoder::Table;
use serde_json::Value;
use tools::analysis::stream::{self, State};
use tools::paths;
use tools::report::args::ReportFormat;
use tools::report::{self, Options};

use crate::trace::Trace;

/// A machine that ran to its end.
pub struct Run {
    /// The trace, as recorded.
    pub bytes: Vec<u8>,
    /// The trace, taken apart.
    pub trace: Trace,
    kernel: PathBuf,
    state: OnceCell<State>,
}

impl Run {
    pub(crate) fn new(bytes: Vec<u8>, trace: Trace, kernel: PathBuf) -> Self {
        Self {
            bytes,
            trace,
            kernel,
            state: OnceCell::new(),
        }
    }

    /// The exit status of the first program.
    pub fn status(&self) -> i32 {
        self.trace.end.as_ref().map_or(-1, |end| end.code)
    }

    /// What programs wrote to their standard output.
    pub fn stdout(&self) -> &str {
        str::from_utf8(&self.trace.stdout).expect("programs print text")
    }

    /// And to their standard error.
    pub fn stderr(&self) -> &str {
        str::from_utf8(&self.trace.stderr).expect("programs print text")
    }

    /// The machine, as the tool rebuilds it from the trace.
    pub fn state(&self) -> &State {
        self.state.get_or_init(|| {
            stream::read(&mut &self.bytes[..], &mut ()).expect("the tool reads the trace")
        })
    }

    /// What `cowscope report --story --format json` says.
    pub fn report(&self) -> Value {
        let options = Options {
            format: ReportFormat::Json,
            story: true,
            top: 10,
            strict: false,
            symbols: report::args::SymbolArgs::default().search_path(),
            filter: Default::default(),
        };
        let mut out = Vec::new();
        report::run_to(&mut &self.bytes[..], &options, &mut out).expect("there is a report");
        serde_json::from_slice(&out).expect("the report is JSON")
    }

    /// The kernel's log, line by line.
    pub fn logs(&self) -> Vec<String> {
        logs(&self.trace, &self.kernel).unwrap_or_else(|error| vec![format!("{error:#}")])
    }

    /// Fails unless the first program ended with this.
    #[track_caller]
    pub fn expect_status(&self, status: i32) -> &Self {
        assert_eq!(self.status(), status, "the program's exit status");
        self
    }

    /// Fails if anything is missing from the trace, if the kernel's counts and the events differ,
    /// or if events could not be compared with them.
    #[track_caller]
    pub fn expect_sound(&self) -> &Self {
        self.expect_whole();
        let checks = &self.state().machine.checks;
        let total = checks.total();
        assert!(total.agreed > 0, "nothing was compared");
        assert_eq!(
            total.differed,
            0,
            "the kernel and its events differ: {:#?}",
            checks.findings()
        );
        assert_eq!(total.unknown, 0, "the trace could not tell");
        self
    }

    /// Fails if anything is missing from the trace.
    #[track_caller]
    pub fn expect_whole(&self) -> &Self {
        let losses = &self.state().losses;
        assert!(!losses.any(), "{losses:#?}");
        self
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", describe(&self.bytes, &self.trace, &self.kernel));
        }
    }
}

/// For a failure: the ends of what was said, and where the trace was put.
pub(crate) fn describe(bytes: &[u8], trace: &Trace, kernel: &Path) -> String {
    let saved = match save(bytes) {
        Ok(path) => path.display().to_string(),
        Err(error) => format!("lost ({error:#})"),
    };
    let logs = logs(trace, kernel).unwrap_or_else(|error| vec![format!("{error:#}")]);
    format!(
        "--- standard output\n{}\n--- standard error\n{}\n--- kernel log\n{}\n--- outside of frames\n{}\n\
         --- the trace is {saved}",
        tail(&String::from_utf8_lossy(&trace.stdout)),
        tail(&String::from_utf8_lossy(&trace.stderr)),
        tail(&logs.join("\n")),
        tail(&trace.text),
    )
}

fn tail(text: &str) -> String {
    const LINES: usize = 20;
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Puts a trace below `target/`, named after the test.
fn save(bytes: &[u8]) -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let folder = paths::own()?.join("failed");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", "-");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("{test}-{number}.cow"));
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn logs(trace: &Trace, kernel: &Path) -> Result<Vec<String>> {
    let elf = std::fs::read(kernel).context("cannot read the kernel")?;
    let table = Table::parse(&elf)?.context("the kernel has no log strings")?;
    let line = |frame: &Vec<u8>| match table.decode(frame) {
        Ok((line, _)) => line.display(false).to_string(),
        Err(error) => format!("a log frame that cannot be decoded: {error}"),
    };
    Ok(trace.logs.iter().map(line).collect())
}
