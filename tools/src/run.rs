//! `cowscope run`: from source to an explained trace.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cli::RunArgs;
use crate::exit::{Exit, usage};
use crate::image::Guest;
use crate::interrupt;
use crate::machine::terminal::{self, Keys, Raw};
use crate::machine::{self, Board, BootArgs, Ended, Ending, Hardware, Input, Limits, Setup};
use crate::payload::{Payload, boot_arguments};
use crate::progress::Progress;
use crate::record::{self, LogLevel, Output, REFRESH, Shower, Watch};
use crate::report::args::SymbolArgs;
use crate::setup::qemu;

/// The seed of `--deterministic`, unless the user has another.
const SEED: u64 = 1;

/// `cowscope run`
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    // What is wrong with the command line is said before anything is built.
    let hardware = Hardware::with(
        args.board,
        args.cpu.as_deref(),
        args.cpus,
        args.memory,
        args.gic,
    )?;
    let output = Output::choose(args.output.as_deref(), args.force)?;
    let seed = args.payload.seed.or(args.deterministic.then_some(SEED));
    let mut bootargs = kernel_arguments(args, seed)?;
    if !args.deterministic {
        // The machine has no clock of the day.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bootargs.set("time", now.unwrap_or_default().as_secs())?;
    }

    let progress = Progress::new(args.quiet);
    let qemu = qemu::prepare(args.qemu.as_deref(), &progress)?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let Payload {
        built,
        kernel,
        mut guest,
        root,
    } = Payload::build(&args.payload, folder.path(), &progress)?;
    if std::io::stdin().is_terminal()
        && root.is_some()
        && let Ok(terminal) = std::env::var("TERM")
    {
        guest.set_default("TERM", &terminal);
    }
    let input = input(&guest, folder.path(), &mut bootargs)?;
    let interactive = input.is_some() && std::io::stdin().is_terminal();
    guest.boot(&mut bootargs, hardware.board)?;
    let archive = guest.root.archive();
    fits(archive.len() as u64, &hardware)?;
    let initrd = folder.path().join("initramfs.cpio");
    std::fs::write(&initrd, archive)
        .with_context(|| format!("cannot write {}", initrd.display()))?;

    let setup = Setup {
        qemu: qemu.path,
        bootargs: bootargs.line(hardware.board)?,
        hardware,
        kernel,
        initrd,
        tree: None,
        wire: output.path().to_owned(),
        input: input.as_ref().map(|input| input.path().to_owned()),
        deterministic: if args.deterministic { seed } else { None },
    };
    // Held until the report is done: nobody else writes this file in the meantime.
    let _file = output.create()?;
    interrupt::watch();
    let mut raw = None;
    match &input {
        Some(input) if interactive => {
            progress.step(&format!("booting {}", args.board));
            progress.finish();
            progress.note(terminal::HINT);
            input.feed_terminal(Keys::new()?, output.path())?;
            raw = Some(Raw::new()?);
        }
        Some(input) => input.feed(std::io::stdin(), output.path())?,
        None => {}
    }
    let mut watch = Watch::new();
    let limits = Limits {
        total: args.timeout.map(Duration::from_secs),
        silence: (args.silence > 0).then(|| Duration::from_secs(args.silence)),
    };
    // A kernel without log lines, or none that we know of, has nothing to show.
    let elf = std::fs::read(&built.kernel).unwrap_or_default();
    // What was checked, the kernel says in its log.
    let log = match args.payload.checks {
        true => args.log.max(LogLevel::Info),
        false => args.log,
    };
    let shower = Shower::new(&progress)
        .with_logs(&elf, log)
        .with_symbols(&built.kernel);
    let ended = boot(&setup, limits, &mut watch, shower, &progress)?;
    drop(raw);
    progress.note(&format!(
        "{} ran for {:.1} s: {} in {}",
        args.board,
        ended.elapsed.as_secs_f64(),
        watch.progress(),
        output.path().display()
    ));
    progress.finish();
    let verdict = verdict(&ended, &watch, limits, &progress);
    let frames = watch.progress().counts.frames;
    let found = match args.no_report || frames == 0 {
        true => Exit::Ok as u8,
        false => {
            let symbols = SymbolArgs {
                elf: [built.kernel]
                    .into_iter()
                    .chain(guest.elves.clone())
                    .collect(),
                elf_dir: root.into_iter().collect(),
            };
            report(args, output.path(), &symbols, &guest)?
        }
    };
    // A program that did well, and a trace that contradicts itself: that is worth a status.
    let code = verdict?;
    Ok(ExitCode::from(if code == 0 { found } else { code }))
}

/// Writes the report where it was asked for: with a program of the user's, standard output is the
/// program's alone.
fn report(args: &RunArgs, trace: &Path, symbols: &SymbolArgs, guest: &Guest) -> Result<u8> {
    let write = |out: &mut dyn Write| record::report(trace, symbols, guest.is_story, out);
    let to_stdout = || {
        let mut out = anstream::AutoStream::auto(std::io::stdout().lock());
        // The programs printed on the same terminal. Who closed it will be noticed below.
        let _ = writeln!(out);
        write(&mut out)
    };
    let result = match args.report.as_deref() {
        Some(path) if path != Path::new("-") => {
            let why = || format!("cannot write {}", path.display());
            let file = std::fs::File::create(path).with_context(why)?;
            write(&mut anstream::StripStream::new(file)).with_context(why)
        }
        None if guest.is_foreign => {
            let mut out = anstream::AutoStream::auto(std::io::stderr().lock());
            let _ = writeln!(out);
            write(&mut out)
        }
        _ => to_stdout(),
    };
    crate::report::finish(result)
}

/// Tells the kernel and QEMU where the console's input comes from: for a program of the user's, from
/// our standard input.
fn input(guest: &Guest, dir: &Path, bootargs: &mut BootArgs) -> Result<Option<Input>> {
    if !guest.is_foreign {
        return Ok(None);
    }
    let terminals = [
        std::io::stdin().is_terminal(),
        std::io::stdout().is_terminal(),
        std::io::stderr().is_terminal(),
    ];
    let which = ["0", "1", "2"].into_iter().zip(terminals);
    let which: String = which.filter_map(|(fd, is)| is.then_some(fd)).collect();
    bootargs.set("terminal", which)?;
    if terminals[0]
        && let Some((rows, columns)) = terminal::size()
    {
        bootargs.set("window", format!("{rows}x{columns}"))?;
    }
    if !machine::may_read() {
        return Ok(None);
    }
    // Keys are few; all else may be long.
    bootargs.flag(if terminals[0] { "input" } else { "input=bulk" });
    Input::new(dir).map(Some)
}

/// The boot loader leaves the archive in RAM, and files are read from there: half is for programs.
fn fits(bytes: u64, hardware: &Hardware) -> Result<()> {
    let most = hardware.memory.in_mebibytes() / 2;
    if bytes.div_ceil(1 << 20) <= most {
        return Ok(());
    }
    let size = bytes as f64 / f64::from(1 << 20);
    let advice = match hardware.board {
        Board::Virt => format!(
            "--memory {}M",
            bytes.div_ceil(1 << 20).next_power_of_two() * 4
        ),
        board => format!("--board virt, as {board} cannot have more"),
    };
    Err(usage(format!(
        "the root file system has {size:.0} MiB, and only half of the machine's RAM ({most} MiB) is \
         for it: leave files out, or {advice}"
    )))
}

/// Boots the machine and follows it to its end.
fn boot(
    setup: &Setup,
    limits: Limits,
    watch: &mut Watch,
    mut shower: Shower<'_>,
    progress: &Progress,
) -> Result<Ended> {
    if !terminal::is_raw() {
        progress.step(&format!("booting {}", setup.hardware.board));
    }
    let mut shown = Instant::now();
    let ended = machine::run(setup, limits, |bytes| {
        watch.take(bytes, |what| shower.show(what));
        if shown.elapsed() >= REFRESH && !terminal::is_raw() {
            progress.state(&format!("{}: {}", setup.hardware.board, watch.progress()));
            shown = Instant::now();
        }
        Ok(())
    })?;
    watch.finish(|what| shower.show(what));
    shower.finish();
    Ok(ended)
}

/// The exit status: the program's, if the machine came to a proper end.
fn verdict(ended: &Ended, watch: &Watch, limits: Limits, progress: &Progress) -> Result<u8> {
    let said = match ended.stderr.as_str() {
        "" => String::new(),
        stderr => format!("\nQEMU says:\n{stderr}"),
    };
    let seconds = |limit: Option<Duration>| limit.unwrap_or_default().as_secs();
    match (ended.ending, watch.end()) {
        (Ending::Exited(status), Some(end)) => {
            let code = end.code as u8;
            if status != i32::from(code) {
                progress.warn(&format!(
                    "the kernel says {code} and QEMU's exit status is {status}"
                ));
            }
            Ok(code)
        }
        (Ending::Exited(status), None) if watch.progress().counts.bytes == 0 => {
            bail!("QEMU ended with status {status}, and the kernel never said a word{said}")
        }
        (Ending::Exited(status), None) => bail!(
            "the machine stopped (QEMU's status {status}) before its first program ended: see what \
             the kernel said above{said}"
        ),
        (Ending::Killed(signal), _) => bail!("QEMU was killed by signal {signal}{said}"),
        (Ending::TimedOut, _) => {
            progress.warn(&format!(
                "ended after {} s (--timeout){said}",
                seconds(limits.total)
            ));
            Ok(Exit::TimedOut as u8)
        }
        (Ending::Silent, _) => {
            progress.warn(&format!(
                "the machine hangs: it has sent nothing for {} s (--silence){said}",
                seconds(limits.silence)
            ));
            Ok(Exit::TimedOut as u8)
        }
        (Ending::Interrupted, _) => Ok(Exit::Interrupted as u8),
    }
}

/// The kernel's own boot arguments.
fn kernel_arguments(args: &RunArgs, seed: Option<u64>) -> Result<BootArgs> {
    let mut boot = BootArgs::new();
    boot.flag("semihosting");
    boot_arguments(&args.payload, seed, &mut boot)?;
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::exit::status;
    use clap::Parser;

    fn arguments(line: &str) -> RunArgs {
        let words = ["cowscope", "run"]
            .into_iter()
            .chain(line.split_whitespace());
        match Cli::parse_from(words).command {
            Some(Command::Run(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn boot_line(line: &str) -> Result<String> {
        let args = arguments(line);
        let seed = args.payload.seed.or(args.deterministic.then_some(SEED));
        kernel_arguments(&args, seed)?.line(args.board)
    }

    #[test]
    fn a_root_that_is_too_large() {
        let why = |board, mebibytes: u64| {
            let fits = fits(mebibytes << 20, &Hardware::of(board));
            fits.err().map(|error| error.to_string())
        };
        assert_eq!(why(Board::Virt, 512), None);
        assert!(why(Board::Virt, 513).unwrap().contains("--memory 4096M"));
        assert!(why(Board::Raspi3b, 600).unwrap().contains("--board virt"));
    }

    #[test]
    fn options_reach_the_kernel() {
        assert_eq!(boot_line("").unwrap(), "semihosting");
        assert_eq!(
            boot_line(
                "--trace mmu --lossless --ring 64 --fork eager --amplification --asid-bits 4 --deterministic"
            )
            .unwrap(),
            "semihosting trace=mmu lossless ring=64 fork=eager amplification asid_bits=4 seed=1"
        );
        assert_eq!(
            boot_line("--deterministic --seed 7 --append console=uart1 --append a=b").unwrap(),
            "semihosting seed=7 console=uart1 a=b"
        );
        assert_eq!(
            status(&boot_line("--ring 0").unwrap_err()),
            Some(Exit::Usage)
        );
    }

    fn ended(ending: Ending) -> Ended {
        Ended {
            ending,
            stderr: "oops".into(),
            elapsed: Duration::ZERO,
            bytes: 0,
        }
    }

    fn watch_of(code: i32) -> Watch {
        use wire::frame::{Body, End, Envelope, MAX_FRAME, encode};
        let none = [0; wire::event::KINDS];
        let end = End {
            code,
            time: 0,
            free_frames: 0,
            emitted: none,
            dropped: none,
            frames_sent: 1,
        };
        let mut buffer = [0; MAX_FRAME];
        let n = encode(&Envelope::new(0, 0, Body::End(end)), &mut buffer).unwrap();
        let mut watch = Watch::new();
        watch.take(&buffer[..n], |_| {});
        watch
    }

    #[test]
    fn verdicts() {
        let progress = Progress::new(true);
        let judge =
            |ending, watch: &Watch| verdict(&ended(ending), watch, Limits::default(), &progress);
        let nothing = Watch::new();
        assert_eq!(judge(Ending::Exited(139), &watch_of(139)).unwrap(), 139);
        // Without semihosting QEMU's status is 0.
        assert_eq!(judge(Ending::Exited(0), &watch_of(7)).unwrap(), 7);
        assert_eq!(judge(Ending::TimedOut, &nothing).unwrap(), 124);
        assert_eq!(judge(Ending::Silent, &nothing).unwrap(), 124);
        assert_eq!(judge(Ending::Interrupted, &nothing).unwrap(), 130);
        for ending in [Ending::Exited(0), Ending::Exited(1), Ending::Killed(11)] {
            let error = judge(ending, &nothing).unwrap_err();
            assert_eq!(status(&error), Some(Exit::Failed));
            assert!(error.to_string().contains("oops"), "{error}");
        }
    }
}
