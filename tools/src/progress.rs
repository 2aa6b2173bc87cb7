//! Progress on stderr. A spinner with a line of text on a terminal; elsewhere one plain line per
//! step, so that a log of CI tells what was done. `--quiet` silences both.

use std::io::IsTerminal;
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

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
