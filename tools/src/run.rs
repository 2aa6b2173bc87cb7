//! `cowscope run`: from source to an explained trace.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::RunArgs;
use crate::exit::{Exit, unreadable, usage};
use crate::image::{self, Built, Initramfs};
use crate::interrupt;
use crate::machine::{self, BootArgs, Ended, Ending, Hardware, Limits, Setup};
use crate::progress::Progress;
use crate::record::{self, Output, REFRESH, Shower, Watch};
use crate::setup::{qemu, rust};

/// A file of the host that a program should find in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// Its path here.
    pub host: PathBuf,
    /// Its path there.
    pub guest: String,
}

impl FromStr for GuestFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':') {
            Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok(Self {
                host: host.into(),
                guest: guest.to_owned(),
            }),
            _ => Err("write it like ./data.bin:/etc/data.bin".to_owned()),
        }
    }
}

/// The program of ours that is the demonstration.
const STORY: &str = "story";

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
    let seed = args.seed.or(args.deterministic.then_some(SEED));
    let mut bootargs = kernel_arguments(args, seed)?;

    let progress = Progress::new(args.quiet);
    let qemu = qemu::prepare(args.qemu.as_deref(), &progress)?;
    let toolchain = rust::prepare(&progress)?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let (built, kernel) = match &args.kernel {
        Some(kernel) => {
            let programs = image::build_programs(&toolchain, &progress)?;
            let image = image::foreign_kernel(kernel, folder.path())?;
            (
                Built {
                    kernel: kernel.clone(),
                    programs,
                },
                image,
            )
        }
        None => {
            let built = image::build(&toolchain, &progress)?;
            let image = image::kernel_image(&built.kernel)?;
            (built, image)
        }
    };
    let mut root = image::root(&built.programs)?;
    add_files(&mut root, &args.files)?;
    let program = program(&mut root, &args.program, &built)?;
    bootargs.program(&program.words)?;
    let initrd = folder.path().join("initramfs.cpio");
    std::fs::write(&initrd, root.archive())
        .with_context(|| format!("cannot write {}", initrd.display()))?;

    let setup = Setup {
        qemu: qemu.path,
        bootargs: bootargs.line(hardware.board)?,
        hardware,
        kernel,
        initrd,
        wire: output.path().to_owned(),
        deterministic: if args.deterministic { seed } else { None },
    };
    // Held until the report is done: nobody else writes this file in the meantime.
    let _file = output.create()?;
    interrupt::watch();
    let mut watch = Watch::new();
    let limits = Limits {
        total: args.timeout.map(Duration::from_secs),
        silence: (args.silence > 0).then(|| Duration::from_secs(args.silence)),
    };
    // A kernel without log lines, or none that we know of, has nothing to show.
    let elf = std::fs::read(&built.kernel).unwrap_or_default();
    let shower = Shower::new(&progress).with_logs(&elf, args.log);
    let ended = boot(&setup, limits, &mut watch, shower, &progress)?;
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
            let elves: Vec<_> = [built.kernel].into_iter().chain(program.file).collect();
            // The programs printed on the same terminal. Who closed it will be noticed below.
            let _ = writeln!(std::io::stdout());
            record::report(output.path(), &elves, program.is_story)?
        }
    };
    // A program that did well, and a trace that contradicts itself: that is worth a status.
    let code = verdict?;
    Ok(ExitCode::from(if code == 0 { found } else { code }))
}

/// Boots the machine and follows it to its end.
fn boot(
    setup: &Setup,
    limits: Limits,
    watch: &mut Watch,
    mut shower: Shower<'_>,
    progress: &Progress,
) -> Result<Ended> {
    progress.step(&format!("booting {}", setup.hardware.board));
    let mut shown = Instant::now();
    let ended = machine::run(setup, limits, |bytes| {
        watch.take(bytes, |what| shower.show(what));
        if shown.elapsed() >= REFRESH {
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
    if let Some(level) = args.trace {
        boot.set("trace", level.as_str())?;
    }
    if args.lossless {
        boot.flag("lossless");
    }
    if let Some(ring) = args.ring {
        if ring == 0 {
            return Err(usage("--ring 0: a ring holds at least one event"));
        }
        boot.set("ring", ring)?;
    }
    if let Some(mode) = args.fork {
        boot.set("fork", mode.as_str())?;
    }
    if let Some(bits) = args.asid_bits {
        boot.set("asid_bits", bits)?;
    }
    if let Some(seed) = seed {
        boot.set("seed", seed)?;
    }
    for words in &args.append {
        boot.raw(words)?;
    }
    Ok(boot)
}

fn add_files(root: &mut Initramfs, files: &[GuestFile]) -> Result<()> {
    for file in files {
        let contents = std::fs::read(&file.host)
            .map_err(|error| unreadable(format!("cannot read {}: {error}", file.host.display())))?;
        root.file(&file.guest, contents)
            .map_err(|error| usage(format!("--file: {error}")))?;
    }
    Ok(())
}

/// The program to run.
struct Program {
    /// The arguments of `/init`: what it is called in the guest, and its own arguments.
    words: Vec<String>,
    /// The user's file, if it is none of ours.
    file: Option<PathBuf>,
    /// It is the demonstration.
    is_story: bool,
}

/// Finds the program that the user wants. One of their own is put into the guest.
fn program(root: &mut Initramfs, words: &[String], built: &Built) -> Result<Program> {
    let Some((name, arguments)) = words.split_first() else {
        return Ok(Program {
            words: Vec::new(),
            file: None,
            is_story: true,
        });
    };
    let is_story = name == STORY;
    if built.programs.contains_key(name) || root.has_file(name) {
        return Ok(Program {
            words: words.to_vec(),
            file: None,
            is_story,
        });
    }
    let file = PathBuf::from(name);
    let called = add_program(root, &file, built)?;
    let words = [&[called], arguments].concat();
    Ok(Program {
        words,
        file: Some(file),
        is_story: false,
    })
}

fn add_program(root: &mut Initramfs, file: &Path, built: &Built) -> Result<String> {
    let shown = file.display();
    let elf = std::fs::read(file).map_err(|error| {
        let ours: Vec<_> = built.programs.keys().map(String::as_str).collect();
        let ours = ours.join(", ");
        unreadable(format!(
            "cannot read the program {shown}: {error} (our own are: {ours})"
        ))
    })?;
    image::check_program(&elf)
        .map_err(|error| unreadable(format!("cannot run {shown}: {error}")))?;
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| anyhow!("{shown}: the name of a program must be text"))?;
    // Apart from ours, whatever its name is.
    let guest = format!("/usr/bin/{name}");
    root.file(&guest, elf)?;
    Ok(guest)
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
        let seed = args.seed.or(args.deterministic.then_some(SEED));
        kernel_arguments(&args, seed)?.line(args.board)
    }

    #[test]
    fn options_reach_the_kernel() {
        assert_eq!(boot_line("").unwrap(), "semihosting");
        assert_eq!(
            boot_line(
                "--trace mmu --lossless --ring 64 --fork eager --asid-bits 4 --deterministic"
            )
            .unwrap(),
            "semihosting trace=mmu lossless ring=64 fork=eager asid_bits=4 seed=1"
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

    #[test]
    fn guest_files() {
        let file = |host: &str, guest: &str| GuestFile {
            host: host.into(),
            guest: guest.into(),
        };
        assert_eq!("a:/b".parse(), Ok(file("a", "/b")));
        assert_eq!("c:/x:/b".parse(), Ok(file("c:/x", "/b")));
        for text in ["a", "a:", ":/b", "a:b"] {
            assert!(text.parse::<GuestFile>().is_err(), "{text}");
        }
    }

    #[test]
    fn programs() {
        let dir = tempfile::tempdir().unwrap();
        let built = Built {
            kernel: "k".into(),
            programs: [("story".to_owned(), "s".into())].into(),
        };
        let mut root = Initramfs::new();
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let mut run = |list: &[&str]| program(&mut root, &words(list), &built);

        let nothing = run(&[]).unwrap();
        assert!(nothing.words.is_empty() && nothing.is_story);
        let story = run(&["story", "parent"]).unwrap();
        assert_eq!(story.words, ["story", "parent"]);
        assert!(story.is_story && story.file.is_none());
        let error = run(&["stroy"]).err().unwrap();
        assert_eq!(status(&error), Some(Exit::Unreadable));
        assert!(error.to_string().contains("our own are: story"), "{error}");

        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let error = run(&[script.to_str().unwrap()]).err().unwrap();
        assert!(error.to_string().contains("no ELF"), "{error}");
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
