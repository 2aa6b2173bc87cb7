//! One boot of one machine.

use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tools::cli::{ForkMode, TraceLevel};
use tools::image::{self, Entry, Variant};
use tools::machine::{self, Board, BootArgs, Ending, Hardware, Input, Limits, Setup, Size};

use crate::batch;
use crate::run::{self, Run};
use crate::system::{kernel, system};
use crate::trace::Trace;

/// Far more than any test takes on a machine that is not busy.
pub(crate) const TIME: Duration = Duration::from_secs(400);

/// What to boot, and how.
#[derive(Clone, Debug)]
pub struct Boot {
    hardware: Hardware,
    args: BootArgs,
    deterministic: Option<u64>,
    files: Vec<(String, Entry)>,
    root: Option<PathBuf>,
    input: Option<Vec<u8>>,
    variant: Variant,
}

impl Boot {
    /// A board as it comes.
    pub fn on(board: Board) -> Self {
        let mut args = BootArgs::new();
        args.flag("semihosting");
        Self {
            hardware: Hardware::of(board),
            args,
            deterministic: None,
            files: Vec::new(),
            root: None,
            input: None,
            variant: Variant::Plain,
        }
    }

    /// With the kernel that checks itself.
    pub fn checks(mut self) -> Self {
        self.variant = Variant::Checks;
        self
    }

    /// With another CPU.
    pub fn cpu(mut self, model: &str) -> Self {
        model.clone_into(&mut self.hardware.cpu);
        self
    }

    /// With so many CPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.hardware.cpus = cpus;
        self
    }

    /// With so much RAM.
    pub fn memory(mut self, mebibytes: u64) -> Self {
        self.hardware.memory = Size::mebibytes(mebibytes);
        self
    }

    /// With another version of the interrupt controller.
    pub fn gic(mut self, version: u8) -> Self {
        self.hardware.gic = version;
        self
    }

    /// Entered at EL2.
    pub fn el2(mut self) -> Self {
        self.hardware.el2 = true;
        self
    }

    /// With a full ring that blocks instead of dropping.
    pub fn lossless(self) -> Self {
        self.append("lossless")
    }

    /// With a ring of so many events.
    pub fn ring(self, events: u32) -> Self {
        self.append(&format!("ring={events}"))
    }

    /// With this much in the trace.
    pub fn trace(self, level: TraceLevel) -> Self {
        self.append(&format!("trace={}", level.as_str()))
    }

    /// With this fork.
    pub fn fork(self, mode: ForkMode) -> Self {
        self.append(&format!("fork={}", mode.as_str()))
    }

    /// With this seed for all that is random, instead of a new one at each boot.
    pub fn seed(self, seed: u64) -> Self {
        self.append(&format!("seed={seed}"))
    }

    /// Counting instructions instead of time.
    pub fn deterministic(mut self, seed: u64) -> Self {
        self.deterministic = Some(seed);
        self.seed(seed)
    }

    /// With more boot arguments.
    pub fn append(mut self, words: &str) -> Self {
        self.args.raw(words).expect("boot arguments");
        self
    }

    /// With an executable file in the guest.
    pub fn file(self, path: &str, contents: Vec<u8>) -> Self {
        self.entry(path, Entry::File(0o755, contents))
    }

    /// With anything in the guest.
    pub fn entry(mut self, path: &str, entry: Entry) -> Self {
        self.files.push((path.to_owned(), entry));
        self
    }

    /// With this directory as the root file system; our programs are in `/.cowscope/bin`.
    pub fn root(mut self, dir: &Path) -> Self {
        self.root = Some(dir.to_owned());
        self.append("init=/.cowscope/init")
    }

    /// Where a program of ours is in the guest.
    pub fn place_of(&self, program: &str) -> String {
        match self.root {
            Some(_) => format!("/.cowscope/bin/{program}"),
            None => format!("/bin/{program}"),
        }
    }

    /// With this as the console's input.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = Some(bytes.to_vec());
        self
    }

    /// Runs a program (the first word) with its arguments, until the machine ends.
    ///
    /// Panics unless the kernel ended the machine by itself, with all that is known of why.
    #[track_caller]
    pub fn run(self, words: &[&str]) -> Run {
        let place = Location::caller();
        match self.try_run(words) {
            Ok(run) => run,
            Err(error) => panic!("{words:?}, booted at {place}: {error:#}"),
        }
    }

    fn try_run(mut self, words: &[&str]) -> Result<Run> {
        let system = system();
        let kernel = kernel(self.variant);
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut root = match &self.root {
            Some(dir) => batch::image(dir, &system.built)?,
            None => image::root(&system.built.programs)?,
        };
        for (path, entry) in self.files {
            root.insert(path.as_bytes(), entry)?;
        }
        let initrd = folder.path().join("initramfs.cpio");
        std::fs::write(&initrd, root.archive()).context("cannot write the initramfs")?;
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.args.program(&words)?;
        let input = match &self.input {
            Some(_) => {
                self.args.flag("input=bulk");
                Some(Input::new(folder.path())?)
            }
            None => None,
        };
        let setup = Setup {
            qemu: system.qemu.clone(),
            bootargs: self.args.line(self.hardware.board)?,
            hardware: self.hardware,
            kernel: kernel.image,
            initrd,
            tree: None,
            wire: folder.path().join("trace.cow"),
            input: input.as_ref().map(|input| input.path().to_owned()),
            deterministic: self.deterministic,
        };
        if let (Some(input), Some(bytes)) = (&input, self.input) {
            std::fs::File::create(&setup.wire).context("cannot write the trace")?;
            input.feed(std::io::Cursor::new(bytes), &setup.wire)?;
        }
        let limits = Limits {
            total: Some(TIME),
            silence: None,
        };
        let mut bytes = Vec::new();
        let ended = machine::run(&setup, limits, |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })?;
        let trace = Trace::decode(&bytes);
        let code = trace.end.as_ref().map(|end| end.code);
        match ended.ending {
            Ending::Exited(status) if code == Some(status) => {
                Ok(Run::new(bytes, trace, kernel.elf))
            }
            ending => anyhow::bail!(
                "{ending:?} after {:.0} s, and the kernel's last word is {code:?}\nQEMU: {:?}\n\
                 QEMU says: {}\n{}",
                ended.elapsed.as_secs_f64(),
                setup.command(),
                ended.stderr,
                run::describe(&bytes, &trace, &kernel.elf)
            ),
        }
    }
}
