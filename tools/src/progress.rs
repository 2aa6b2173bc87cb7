//! Progress on stderr. A spinner with a line of text on a terminal; elsewhere one plain line per
//! step, so that a log of CI tells what was done. `--quiet` silences both.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress goes.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// Progress on stderr, or nothing at all.
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet }
    }

    /// Whether a spinner owns the last line of the terminal.
    pub fn is_drawn(&self) -> bool {
        self.bar.as_ref().is_some_and(|bar| !bar.is_finished())
    }

    /// A step begins: worth a line in a log.
    pub fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if !self.quiet => eprintln!("cowscope: {text}"),
            None => {}
        }
    }

    /// The state of the present step: of interest only as long as it lasts.
    pub fn state(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Something the user should know afterwards as well, such as what was installed.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.suspend(|| eprintln!("cowscope: {text}"));
        }
    }

    /// Something is wrong, but work goes on. Shown even when quiet.
    pub fn warn(&self, text: &str) {
        self.suspend(|| eprintln!("cowscope: warning: {text}"));
    }

    /// Runs `f`, which writes to the terminal, with the spinner out of the way.
    pub fn suspend<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }

    /// Removes the spinner.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Inputs shorter than this are read in less than a second.
const SHORT: u64 = 8 << 20;

/// `input` of `len` bytes, with a bar on stderr until its end, if that is a terminal.
pub fn reading(input: File, len: u64) -> Box<dyn Read> {
    if len < SHORT || !std::io::stderr().is_terminal() {
        return Box::new(input);
    }
    let bar = ProgressBar::new(len);
    if let Ok(style) = ProgressStyle::with_template(
        "{wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left",
    ) {
        bar.set_style(style);
    }
    Box::new(Reading { input, bar })
}

/// An input whose bar goes with it.
struct Reading {
    input: File,
    bar: ProgressBar,
}

impl Read for Reading {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let len = self.input.read(bytes)?;
        match len {
            // What follows writes to the terminal.
            0 => self.bar.finish_and_clear(),
            len => self.bar.inc(len as u64),
        }
        Ok(len)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
