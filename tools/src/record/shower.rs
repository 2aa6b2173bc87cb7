//! Shows what comes while it is recorded: programs' output where they sent it, a machine's own words
//! on stderr.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use defmt_decoder::Table;

use super::Shown;
use crate::analysis::symbols::Linked;
use crate::machine::terminal;
use crate::progress::Progress;

/// Which of the kernel's log lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// None
    Off,
    /// Only errors
    Error,
    /// And warnings
    Warn,
    /// And what is worth knowing
    Info,
    /// All that the kernel was built with
    Trace,
}

impl LogLevel {
    /// From the word in a log frame. A line without a level is one that was asked for.
    fn of(word: Option<&str>) -> Self {
        match word {
            None | Some("error") => Self::Error,
            Some("warn") => Self::Warn,
            Some("info") => Self::Info,
            Some(_) => Self::Trace,
        }
    }
}

/// Shows what comes.
pub struct Shower<'a> {
    progress: &'a Progress,
    out: Channel,
    err: Channel,
    /// The terminal itself, opened when it is needed; none: it cannot be.
    terminal: Option<Option<File>>,
    logs: Option<(Box<Table>, LogLevel)>,
    symbols: Symbols,
}

/// The functions of the kernel, for its last words, which have addresses in them.
enum Symbols {
    /// Of no kernel that we know.
    None,
    /// Of this file, which nobody needed yet.
    Of(PathBuf),
    Loaded(Box<Linked>),
}

/// One of our own output streams.
struct Channel {
    held: Vec<u8>,
    /// Its reader went away, which is no reason to stop recording.
    gone: bool,
}

/// A line without an end is shown when it is this long.
const HOLD: usize = 4096;

impl<'a> Shower<'a> {
    /// Shows it between the lines of `progress`.
    pub fn new(progress: &'a Progress) -> Self {
        let channel = || Channel {
            held: Vec::new(),
            gone: false,
        };
        Self {
            progress,
            out: channel(),
            err: channel(),
            terminal: None,
            logs: None,
            symbols: Symbols::None,
        }
    }

    /// And where the addresses are that this kernel speaks of.
    pub fn with_symbols(mut self, kernel: &Path) -> Self {
        self.symbols = Symbols::Of(kernel.to_owned());
        self
    }

    /// And the log lines of this kernel, down to a level. Their text is in its ELF file; a file
    /// without any is no error, as one may boot any kernel.
    pub fn with_logs(mut self, kernel: &[u8], level: LogLevel) -> Self {
        if level > LogLevel::Off
            && let Ok(Some(table)) = Table::parse(kernel)
        {
            self.logs = Some((Box::new(table), level));
        }
        self
    }

    /// Shows something.
    pub fn show(&mut self, what: Shown<'_>) {
        match what {
            // What the terminal echoes while neither output stream is one.
            Shown::Console { fd: 0, bytes } => self.echo(bytes),
            Shown::Console { fd: 2, bytes } => self.err.take(bytes, io::stderr(), self.progress),
            Shown::Console { bytes, .. } => self.out.take(bytes, io::stdout(), self.progress),
            Shown::Text(text) => self.words(text),
            Shown::Log(bytes) => self.log(bytes),
        }
    }

    fn log(&mut self, bytes: &[u8]) {
        let Some((table, least)) = &self.logs else {
            return;
        };
        // One that cannot be decoded is the report's to tell of.
        let Ok((frame, _)) = table.decode(bytes) else {
            return;
        };
        let level = frame.level().map(|level| level.as_str());
        if LogLevel::of(level) <= *least {
            let line = format!("kernel: {}\n", frame.display(false));
            self.say(&line);
        }
    }

    /// A line of the kernel outside of all frames.
    fn words(&mut self, line: &str) {
        // All addresses of the kernel begin so.
        if !line.contains("0xffffffff") {
            return self.say(line);
        }
        if let Symbols::Of(path) = &self.symbols {
            self.symbols = match Linked::load(path) {
                Some(linked) => Symbols::Loaded(Box::new(linked)),
                None => Symbols::None,
            };
        }
        match &self.symbols {
            Symbols::Loaded(linked) => self.say(&linked.annotate(line)),
            _ => self.say(line),
        }
    }

    /// Words that are not the program's.
    fn say(&mut self, text: &str) {
        let text = match terminal::is_raw() && io::stderr().is_terminal() {
            true => text.replace('\n', "\r\n"),
            false => text.to_owned(),
        };
        self.err.take(text.as_bytes(), io::stderr(), self.progress);
    }

    fn echo(&mut self, bytes: &[u8]) {
        let open = || File::options().write(true).open("/dev/tty").ok();
        if let Some(terminal) = self.terminal.get_or_insert_with(open) {
            // Who went away sees nothing.
            let _ = terminal.write_all(bytes);
        }
    }

    /// Shows what was held back.
    pub fn finish(&mut self) {
        self.out.flush(io::stdout(), self.progress);
        self.err.flush(io::stderr(), self.progress);
    }
}

impl Channel {
    /// Whole lines only, since a spinner is drawn over the last line of the terminal.
    fn take(&mut self, bytes: &[u8], stream: impl Write, progress: &Progress) {
        self.held.extend_from_slice(bytes);
        let ready = match self.held.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.held.len() >= HOLD || !progress.is_drawn() => self.held.len(),
            None => return,
        };
        let rest = self.held.split_off(ready);
        self.write(stream, progress);
        self.held = rest;
    }

    fn flush(&mut self, stream: impl Write, progress: &Progress) {
        if !self.held.is_empty() {
            self.write(stream, progress);
            self.held.clear();
        }
    }

    fn write(&mut self, mut stream: impl Write, progress: &Progress) {
        if !self.gone {
            let written =
                progress.suspend(|| stream.write_all(&self.held).and_then(|()| stream.flush()));
            self.gone = written.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_goes_away_stops_nothing() {
        struct Closed(usize);
        impl Write for &mut Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let progress = Progress::new(true);
        let mut closed = Closed(0);
        let mut channel = Channel {
            held: Vec::new(),
            gone: false,
        };
        channel.take(b"one\n", &mut closed, &progress);
        channel.take(b"two\n", &mut closed, &progress);
        assert_eq!(closed.0, 1);
        assert!(channel.held.is_empty());
    }

    #[test]
    fn levels_are_in_order() {
        let level = |word| LogLevel::of(Some(word));
        assert!(level("error") < level("warn") && level("warn") < level("info"));
        assert!(level("info") < level("debug"));
        assert_eq!(LogLevel::of(None), LogLevel::Error);
    }

    #[test]
    fn nothing_is_lost_or_doubled() {
        let progress = Progress::new(true);
        let mut shown = Vec::new();
        let mut channel = Channel {
            held: Vec::new(),
            gone: false,
        };
        for piece in ["a", "b\nc", "", "d\n", "e"] {
            channel.take(piece.as_bytes(), &mut shown, &progress);
        }
        channel.flush(&mut shown, &progress);
        assert_eq!(shown, b"ab\ncd\ne");
    }
}
