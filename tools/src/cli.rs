//! The command line of `cowscope`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::card::Model;
use crate::check::CheckArgs;
use crate::image::GuestFile;
use crate::machine::{Board, Size};
use crate::record::{LogLevel, SourceName};
use crate::report::args::{DumpArgs, ExplainArgs, FaultsArgs, MemoryArgs, ReportArgs};
use crate::report::diff::DiffArgs;
use crate::top::TopArgs;
use crate::view::args::{ExportArgs, FlameArgs, HtmlArgs, TimelineArgs};

/// Runs programs on a kernel that makes copy-on-write visible, and explains what it saw.
///
/// Without a command: `run`, of the demonstration on QEMU's `virt` machine.
#[derive(Debug, Parser)]
#[command(name = "cowscope", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const AFTER_HELP: &str = "\
Exit status: 0 all is well; 1 something was found (doctor misses something, a check failed); \
2 wrong command line; 3 an input cannot be read or is incompatible; 4 the trace is lossy or \
damaged (check, --strict). `run` ends with the program's own status (128+n when signal n killed it), or \
124 time-out, 125 cowscope itself failed (set-up, build, QEMU), 130 Ctrl-C.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build, boot, record and explain: one command from source to story
    Run(Box<RunArgs>),
    /// Make a card that a Raspberry Pi boots: kernel, programs, firmware
    Image(Box<ImageArgs>),
    /// Start a kernel on a board that has the chain loader on its card, and record its trace
    Boot(Box<LoadArgs>),
    /// Record a trace from a board or a machine that runs already
    Record(RecordArgs),
    /// Explain a trace: the story, the processes, who broke copy-on-write and at what cost
    Report(ReportArgs),
    /// Watch a machine while it runs: who copies how much, per process and source line
    Top(TopArgs),
    /// List page faults, one per line
    Faults(FaultsArgs),
    /// Tell the life of one page: every mapping, frame and descriptor it had, and why each changed
    Explain(ExplainArgs),
    /// Tell what each process used at any moment: resident, its share, its own (RSS, PSS, USS)
    Memory(MemoryArgs),
    /// Compare two traces, and fail if a number has grown too much
    Diff(DiffArgs),
    /// Draw a flame graph of page faults by call stack, or of what differs between two traces
    Flame(FlameArgs),
    /// Write the report as one HTML file: the sharing map through time, decay curves, flame graph
    Html(HtmlArgs),
    /// Write the trace as a timeline for Perfetto (ui.perfetto.dev)
    Timeline(TimelineArgs),
    /// Write the faults for other tools: JSON lines, CSV, Parquet, Perfetto, folded stacks
    Export(ExportArgs),
    /// Print every frame and event of a trace
    Dump(DumpArgs),
    /// Check a trace: Arm's translation rules, and the kernel's counts against its events
    Check(CheckArgs),
    /// Check what this machine has of all that is needed, and how to get the rest
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page of the tool, or of one of its commands
    Man(ManArgs),
    /// Run clippy on the kernel and the user programs, warnings being errors
    #[command(hide = true)]
    Lint(LintArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  cowscope run                                  the demonstration
  cowscope run --board raspi4b                  the same on a Raspberry Pi 4
  cowscope run --trace mmu -- sweep 4096        a program of ours, with every descriptor write
  cowscope run --deterministic -o a.cow         the same bytes every time
  cowscope run -- ./my-program --its-option     your own static Linux/arm64 program
  cowscope run --root DIR -- /bin/my-program    one with files of its own: DIR becomes /
  cowscope run --package dash,coreutils -- sh -c 'ls -l /bin | wc -l'
                                                programs of Debian
  cowscope run --package busybox-static -- sh   a shell in this terminal; Ctrl-] q ends the machine";

/// `cowscope run`
#[derive(Clone, Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// The machine
    #[arg(long, value_enum, default_value_t = Board::Virt)]
    pub board: Board,
    /// CPU model (virt only; see `qemu-system-aarch64 -cpu help`) [default: cortex-a72]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Number of CPUs [default: 1 on virt; the Raspberry Pis have 4]
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// RAM, such as 512M or 2G [default: what the board has; virt 1G]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Version of the interrupt controller (virt only) [default: 2]
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u8).range(2..=3))]
    pub gic: Option<u8>,

    /// Where the trace goes [default: target/cowscope/last.cow, overwritten by each run]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the output file
    #[arg(short, long)]
    pub force: bool,
    /// Count instructions instead of time, with fixed seeds: equal runs give equal traces
    #[arg(long)]
    pub deterministic: bool,
    /// End the machine after so many seconds
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<u64>,
    /// End the machine when it sends nothing at all for so many seconds; 0 waits forever
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    pub silence: u64,

    /// The QEMU to use [default: qemu-system-aarch64 from PATH, installed when missing]
    #[arg(long, value_name = "FILE", env = "COWSCOPE_QEMU")]
    pub qemu: Option<PathBuf>,

    /// Which of the kernel's log lines to show
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Warn)]
    pub log: LogLevel,
    /// Where the report goes; - is standard output [default: standard output for our own programs;
    /// standard error for yours, whose standard output is theirs alone]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Record only; print no report
    #[arg(long, conflicts_with = "report")]
    pub no_report: bool,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,

    /// What the machine boots.
    #[command(flatten)]
    pub payload: PayloadArgs,
}

/// What a machine boots: the kernel with its boot arguments, and the program with its files.
#[derive(Clone, Debug, Default, Args)]
pub struct PayloadArgs {
    /// What to record: life (of processes), faults as well, or all the MMU is told [default: faults]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub trace: Option<TraceLevel>,
    /// Wait for the wire instead of dropping events when it is slower than the program
    #[arg(long)]
    pub lossless: bool,
    /// Compare each copied page, when it is freed and at the end, with what it was when it was
    /// copied: how many bytes of it have changed. Takes a page of memory for each
    #[arg(long)]
    pub amplification: bool,
    /// Size of each CPU's event ring, in events [default: 16384]
    #[arg(long, value_name = "EVENTS")]
    pub ring: Option<u32>,

    /// How fork copies an address space, until a program chooses for itself [default: shared]
    #[arg(long, value_enum, value_name = "MODE")]
    pub fork: Option<ForkMode>,
    /// Use only so many bits of the ASID, so that it rolls over early
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub asid_bits: Option<u8>,
    /// Seed of everything random in the machine [default: random; 1 with --deterministic]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Build and boot the kernel that checks itself as it runs, at several times the cost: Arm's
    /// translation rules, as `check` does afterwards, and the order of locks. It panics at the first
    /// broken rule, and its log says how much it has checked
    #[arg(long, conflicts_with = "kernel")]
    pub checks: bool,
    /// Boot this kernel (ELF file or arm64 Image) instead of building one
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// More boot arguments for the kernel; can be repeated
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Put a file of this machine into the guest's root file system; can be repeated
    #[arg(long = "file", value_name = "HOST:GUEST")]
    pub files: Vec<GuestFile>,
    /// The directory that becomes / in the guest; PROGRAM is looked for in it
    #[arg(long, value_name = "DIR", conflicts_with = "packages")]
    pub root: Option<PathBuf>,
    /// Make the guest's root file system of this Debian package for arm64 and all it depends on,
    /// fetched through this machine's apt and kept below target/; can be repeated
    #[arg(long = "package", value_name = "NAME", value_delimiter = ',')]
    pub packages: Vec<String>,
    /// A variable of the program's environment; can be repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<String>,

    /// One of our programs by name, the path of your own Linux/arm64 ELF file, or a program of the
    /// guest's root file system; and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    pub program: Vec<String>,
}

/// `--trace`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceLevel {
    /// Nothing
    Off,
    /// Processes: fork, exec, exit
    Life,
    /// And every page fault, mapping and switch
    Faults,
    /// And every descriptor write, barrier, TLB invalidation and TTBR0 write
    Mmu,
}

impl TraceLevel {
    /// The kernel's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            TraceLevel::Off => "off",
            TraceLevel::Life => "life",
            TraceLevel::Faults => "faults",
            TraceLevel::Mmu => "mmu",
        }
    }
}

/// `--fork`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForkMode {
    /// Copy the tables page by page
    Classic,
    /// Share the last-level tables
    Shared,
    /// Copy every page at once
    Eager,
}

impl ForkMode {
    /// The kernel's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ForkMode::Classic => "classic",
            ForkMode::Shared => "shared",
            ForkMode::Eager => "eager",
        }
    }
}

const IMAGE_EXAMPLES: &str = "\
Examples:
  cowscope image --board pi4 -o sd.img          the demonstration, for a Raspberry Pi 4
  cowscope image --board pi3 --write /dev/sdX -- sweep 4096
  cowscope record serial:/dev/ttyUSB0           what the board then says";

/// `cowscope image`
#[derive(Clone, Debug, Args)]
#[command(after_help = IMAGE_EXAMPLES)]
pub struct ImageArgs {
    /// The Raspberry Pi
    #[arg(long, value_enum)]
    pub board: Model,
    /// The file of the image
    #[arg(short, long, value_name = "FILE", required_unless_present = "write")]
    pub output: Option<PathBuf>,
    /// Overwrite the file
    #[arg(short, long)]
    pub force: bool,
    /// Write the card itself: a removable device that is not mounted
    #[arg(long, value_name = "DEVICE", conflicts_with = "output")]
    pub write: Option<PathBuf>,
    /// Overwrite what is on the card without asking
    #[arg(long, requires = "write")]
    pub yes: bool,
    /// Put the chain loader on the card: it waits for `cowscope boot` to send the rest
    #[arg(long, conflicts_with_all = ["program", "root", "packages", "files", "environment", "append", "kernel"])]
    pub loader: bool,
    /// Firmware and device trees, such as the first partition of a card with Raspberry Pi OS
    /// [default: those of Debian's packages, fetched through this machine's apt and kept below
    /// target/]
    #[arg(long, value_name = "DIR")]
    pub firmware: Option<PathBuf>,
    /// Baud rate of the serial line
    #[arg(long, value_name = "N", default_value_t = 921_600)]
    pub baud: u32,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,

    /// What the machine boots.
    #[command(flatten)]
    pub payload: PayloadArgs,
}

const BOOT_EXAMPLES: &str = "\
Examples:
  cowscope image --board pi4 --loader --write /dev/sdX     once: the loader, on a card
  cowscope boot serial:/dev/ttyUSB0                        then: the demonstration, and its report
  cowscope boot serial:/dev/ttyUSB0@3000000 --trace mmu -- sweep 4096";

/// `cowscope boot`
#[derive(Clone, Debug, Args)]
#[command(after_help = BOOT_EXAMPLES)]
pub struct LoadArgs {
    /// serial:DEVICE[@BAUD], unix:PATH or tcp:HOST:PORT
    #[arg(value_name = "LINE")]
    pub line: SourceName,
    /// Baud rate to go on with after the loader has answered at 115200, unless the line names one
    #[arg(long, value_name = "N", env = "SERIAL_BAUD", default_value_t = 921_600)]
    pub baud: u32,
    /// Give the kernel this device tree instead of the one that the firmware gave the loader
    #[arg(long, value_name = "FILE")]
    pub device_tree: Option<PathBuf>,
    /// Where the trace goes [default: target/cowscope/last.cow, overwritten by each run]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the output file
    #[arg(short, long)]
    pub force: bool,
    /// Which of the kernel's log lines to show
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Warn)]
    pub log: LogLevel,
    /// Record only; print no report
    #[arg(long)]
    pub no_report: bool,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,

    /// What the machine boots.
    #[command(flatten)]
    pub payload: PayloadArgs,
}

const RECORD_EXAMPLES: &str = "\
Examples:
  cowscope record serial:/dev/ttyUSB0@921600 -o pi.cow
  cowscope record tcp:localhost:4444
  socat … - | cowscope record -";

/// `cowscope record`
#[derive(Clone, Debug, Args)]
#[command(after_help = RECORD_EXAMPLES)]
pub struct RecordArgs {
    /// FILE, - (standard input), serial:DEVICE[@BAUD], unix:PATH or tcp:HOST:PORT
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Where the trace goes [default: target/cowscope/last.cow, overwritten by each run]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the output file
    #[arg(short, long)]
    pub force: bool,
    /// Baud rate of a serial port, unless the source names one
    #[arg(long, value_name = "N", env = "SERIAL_BAUD", default_value_t = 921_600)]
    pub baud: u32,
    /// Wait until the source is there: until the adapter is plugged in
    #[arg(long)]
    pub wait: bool,
    /// Record only; print no report
    #[arg(long)]
    pub no_report: bool,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

/// `cowscope doctor`
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = DoctorFormat::Text)]
    pub format: DoctorFormat,
    /// Install what is missing
    #[arg(long)]
    pub fix: bool,
    /// Ask a board instead, by the chain loader on its card: what it is, how its firmware left it,
    /// and its device tree (with --format json all of it, to be sent to whoever can help)
    #[arg(long, value_name = "LINE", conflicts_with = "fix")]
    pub board: Option<SourceName>,
}

/// `doctor --format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// `cowscope completions`
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `cowscope man`
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// One command's page
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// `cowscope lint`
#[derive(Clone, Debug, Args)]
pub struct LintArgs {
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn program_arguments_are_the_programs() {
        let cli = Cli::parse_from([
            "cowscope", "run", "--cpus", "2", "--", "sweep", "--cpus", "9",
        ]);
        let Some(Command::Run(args)) = cli.command else {
            panic!("not run")
        };
        assert_eq!(args.cpus, Some(2));
        assert_eq!(args.payload.program, ["sweep", "--cpus", "9"]);
    }

    #[test]
    fn wrong_values_are_refused() {
        for args in [
            ["run", "--board", "raspi5"],
            ["run", "--memory", "lots"],
            ["run", "--gic", "4"],
            ["run", "--asid-bits", "17"],
            ["run", "--file", "nocolon"],
            ["record", "serial:", "-q"],
        ] {
            let line = ["cowscope"].into_iter().chain(args);
            assert!(Cli::try_parse_from(line).is_err(), "{args:?} was accepted");
        }
    }
}
