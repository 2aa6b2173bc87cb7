//! `cowscope top`: a live view of a machine that runs.

mod model;
mod screen;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};

use crate::analysis::stream::Stream;
use crate::analysis::symbols::Symbols;
use crate::exit::Exit;
use crate::interrupt;
use crate::paths;
use crate::report::args::SymbolArgs;
use crate::report::filter::{Chosen, Filter, FilterArgs};
use crate::report::follow::{Follow, Next};
use crate::report::{finish, summary_text::loss_line};

use model::Model;
use screen::Around;

/// How long a key may have to wait.
const KEYS: Duration = Duration::from_millis(50);
/// Lines of output that are kept for the screen.
const CONSOLE_MAX: usize = 200;

const EXAMPLES: &str = "\
Examples:
  cowscope top -- store 4096                   boot a machine with a program, and watch it
  cowscope top --run '--cpus 4' -- prefork     the same, with other options of `run`
  cowscope run -o x.cow -- ./server & cowscope top x.cow
  cowscope top                                 the trace of the last run, as it is written";

/// `cowscope top`
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    /// The trace that is being written [default: that of the last run]
    #[arg(value_name = "FILE", conflicts_with = "program")]
    pub input: Option<PathBuf>,
    /// Where the ELF files are.
    #[command(flatten)]
    pub symbols: SymbolArgs,

    /// Which faults.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Keep the trace of PROGRAM in this file
    #[arg(short, long, value_name = "FILE", requires = "program")]
    pub output: Option<PathBuf>,
    /// Overwrite that file
    #[arg(short, long, requires = "output")]
    pub force: bool,
    /// Options of `run` for PROGRAM's machine, divided by blanks: --run '--cpus 4 --fork eager'
    #[arg(
        long,
        value_name = "OPTIONS",
        requires = "program",
        allow_hyphen_values = true
    )]
    pub run: Vec<String>,
    /// Seconds from one picture to the next
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = parse_seconds)]
    pub interval: Duration,
    /// How many processes and source lines to show
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub top: usize,

    /// A program to run, as with `run`, and its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("not a number of seconds above 0".to_owned()),
    }
}

/// `cowscope top`
///
/// # Errors
/// When the machine cannot be started, reading or drawing fails, or the input is no trace.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    interrupt::watch();
    let on_screen = io::stdout().is_terminal() && io::stdin().is_terminal();
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut symbols = args.symbols.clone();
    let (path, machine) = match args.program.first() {
        None => {
            let last = || paths::last_trace();
            let path = args.input.clone().map_or_else(last, Ok)?;
            (path, None)
        }
        Some(program) => {
            let path = match &args.output {
                Some(path) => path.clone(),
                None => folder.path().join("top.cow"),
            };
            if Path::new(program).is_file() {
                symbols.elf.push(program.into());
            }
            let machine = Machine::start(args, &path, on_screen)?;
            (path, Some(machine))
        }
    };
    let name = match args.program.is_empty() {
        true => path.display().to_string(),
        false => args.program.join(" "),
    };
    // Two of them, as one is in use while the trace is read.
    let mut chosen_by = Symbols::new(symbols.search_path());
    let mut top = Top {
        args,
        name,
        follow: Follow::new(&path),
        stream: Stream::new(),
        model: Chosen::new(Filter::new(&args.filter), &mut chosen_by, Model::default()),
        symbols: Symbols::new(symbols.search_path()),
        machine,
        over: None,
        paused: false,
    };
    let looked = match on_screen {
        true => top.on_screen(),
        false => top.in_text(),
    };
    let Top {
        stream,
        machine,
        mut model,
        ..
    } = top;
    let code = machine.map(Machine::stop).transpose()?;
    looked?;
    match code {
        // Its own words say why there is nothing to see.
        Some(code) if stream.state().frames == 0 => Ok(ExitCode::from(code)),
        code => {
            let state = stream.finish(&mut model);
            finish(state.with_context(|| path.display().to_string()))?;
            Ok(code.map_or(Exit::Ok.into(), ExitCode::from))
        }
    }
}

/// A machine that runs for us.
struct Machine {
    child: Child,
    console: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Machine {
    fn start(args: &TopArgs, trace: &Path, on_screen: bool) -> Result<Self> {
        let tool = std::env::current_exe().context("cannot tell where cowscope is")?;
        let mut command = Command::new(tool);
        command
            .args(["run", "--quiet", "--no-report", "-o"])
            .arg(trace);
        if args.force {
            command.arg("--force");
        }
        command.args(
            args.run
                .iter()
                .flat_map(|options| options.split_whitespace()),
        );
        command.arg("--").args(&args.program).stdin(Stdio::null());
        if on_screen {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        // Ctrl-C is ours to pass on.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("cannot start cowscope run")?;
        let console = Arc::default();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|out| Box::new(out) as _),
            child.stderr.take().map(|err| Box::new(err) as _),
        ];
        let streams = streams.into_iter().flatten();
        let readers = streams.map(|stream| {
            let console = Arc::clone(&console);
            std::thread::spawn(move || keep_lines(stream, &console))
        });
        Ok(Machine {
            readers: readers.collect(),
            child,
            console,
        })
    }

    fn console(&self) -> Vec<String> {
        let lines = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends it, if it has not ended by itself; its exit status.
    fn stop(mut self) -> Result<u8> {
        if !self.has_ended()? {
            #[cfg(unix)]
            // SAFETY: a child of ours that has not been waited for.
            unsafe {
                libc::kill(self.child.id() as i32, libc::SIGINT);
            }
            #[cfg(not(unix))]
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        for reader in self.readers {
            // It only copies lines.
            let _ = reader.join();
        }
        let lines = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines.iter() {
            println!("{line}");
        }
        Ok(status.code().map_or(Exit::Failed as u8, |code| code as u8))
    }
}

fn keep_lines(stream: impl Read, console: &Mutex<VecDeque<String>>) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Some(Ok(line)) = lines.next() {
        let line: String = String::from_utf8_lossy(&line)
            .chars()
            .filter(|letter| !letter.is_control())
            .collect();
        let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
        if console.len() == CONSOLE_MAX {
            console.pop_front();
        }
        console.push_back(line);
    }
}

struct Top<'a> {
    args: &'a TopArgs,
    name: String,
    follow: Follow,
    stream: Stream,
    model: Chosen<'a, Model>,
    symbols: Symbols,
    machine: Option<Machine>,
    /// There is nothing more to come, and why.
    over: Option<&'static str>,
    paused: bool,
}

impl Top<'_> {
    /// Reads until `end`, or until there is nothing at the moment.
    fn read(&mut self, chunk: &mut [u8], end: Instant) -> Result<()> {
        while self.over.is_none() && Instant::now() < end {
            // Asked before reading: what it wrote before it ended is there then.
            let ended = match &mut self.machine {
                Some(machine) => machine.has_ended()?,
                None => false,
            };
            match self.follow.next(chunk)? {
                Next::Bytes(len) => self.stream.take(&chunk[..len], &mut self.model),
                Next::End => self.over = Some("nobody writes it any more"),
                Next::Nothing if ended => self.over = Some("ended"),
                Next::Nothing => break,
            }
            if self.stream.state().ended.is_some() {
                self.over = Some("ended");
            }
        }
        Ok(())
    }

    fn status(&self) -> &'static str {
        match self.over {
            Some(why) => why,
            None if self.paused => "paused",
            None if self.stream.state().frames == 0 => "waiting",
            None => "running",
        }
    }

    /// What is missing so far; empty: nothing.
    fn loss(&self) -> String {
        let state = self.stream.state();
        let mut losses = state.losses.clone();
        losses.no_end = self.over.is_some() && state.ended.is_none();
        if !losses.any() {
            return String::new();
        }
        let events = state.machine.events.iter().sum();
        let line = loss_line(&losses, state.frames, events);
        anstream::adapter::strip_str(&line).to_string()
    }

    /// Plain text, once in each interval and at the end.
    fn in_text(&mut self) -> Result<()> {
        let mut out = anstream::AutoStream::auto(io::stdout().lock());
        let mut chunk = vec![0; 256 * 1024];
        let mut due = Instant::now() + self.args.interval;
        loop {
            self.read(&mut chunk, due)?;
            let over = self.over.is_some() || interrupt::requested();
            if over || Instant::now() >= due {
                if self.stream.state().frames > 0 {
                    let view = self.model.observer.view(
                        self.stream.state(),
                        &mut self.symbols,
                        self.args.top,
                    );
                    let loss = self.loss();
                    let text = screen::text(
                        &view,
                        &Around {
                            source: &self.name,
                            status: self.status(),
                            loss: &loss,
                            console: &[],
                        },
                    );
                    out.write_all(text.as_bytes())?;
                    out.flush()?;
                }
                due = Instant::now() + self.args.interval;
            }
            if over {
                return Ok(());
            }
            std::thread::sleep(KEYS);
        }
    }

    fn on_screen(&mut self) -> Result<()> {
        let mut terminal = ratatui::try_init().context("cannot draw on this terminal")?;
        let result = self.draw_until_quit(&mut terminal);
        ratatui::try_restore().context("cannot give the terminal back")?;
        result
    }

    fn draw_until_quit(&mut self, terminal: &mut DefaultTerminal) -> Result<()> {
        let mut chunk = vec![0; 256 * 1024];
        let mut due = Instant::now();
        let mut drawn_over = false;
        loop {
            self.read(&mut chunk, Instant::now() + KEYS)?;
            let over = self.over.is_some();
            if (!self.paused && Instant::now() >= due && !drawn_over) || over && !drawn_over {
                self.draw(terminal)?;
                drawn_over = over;
                due = Instant::now() + self.args.interval;
            }
            if interrupt::requested() {
                return Ok(());
            }
            while event::poll(if over { KEYS * 4 } else { KEYS / 10 })? {
                match event::read()? {
                    Input::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c') if key.modifiers == KeyModifiers::CONTROL => {
                            return Ok(());
                        }
                        KeyCode::Char('p' | ' ') => {
                            self.paused = !self.paused;
                            self.draw(terminal)?;
                        }
                        _ => {}
                    },
                    Input::Resize(..) => self.draw(terminal)?,
                    _ => {}
                }
            }
        }
    }

    fn draw(&mut self, terminal: &mut DefaultTerminal) -> Result<()> {
        let state = self.stream.state();
        let view = self
            .model
            .observer
            .view(state, &mut self.symbols, self.args.top);
        let console = self.machine.as_ref().map(Machine::console);
        let loss = self.loss();
        let around = Around {
            source: &self.name,
            status: self.status(),
            loss: &loss,
            console: console.as_deref().unwrap_or_default(),
        };
        terminal.draw(|frame| screen::draw(frame, &view, &around))?;
        Ok(())
    }
}
