//! The boot arguments: Linux-style words on the kernel command line.

use alloc::{string::String, vec::Vec};
use spin::Once;
use wire::event::ForkMode;

/// How much is traced. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No events.
    Off,
    /// Process life and mappings.
    Life,
    /// Also page faults and thread switches.
    Faults,
    /// Also descriptor writes, barriers, TLB invalidations, TTBR0 writes and frames.
    Mmu,
}

/// What the boot arguments say.
pub struct Options {
    /// `init=`: the first program.
    pub init: String,
    /// What follows `--`: its arguments.
    pub arguments: Vec<String>,
    /// `user=NAME=VALUE`: its environment.
    pub environment: Vec<String>,
    /// `trace=`.
    pub level: Level,
    /// `lossless`: block when the wire is slower than the events.
    pub lossless: bool,
    /// `ring=`: events per CPU.
    pub ring: usize,
    /// `fork=`: how fork copies an address space, until a process chooses for itself.
    pub fork: ForkMode,
    /// `seed=`: for random numbers; the board's when absent.
    pub seed: Option<u64>,
    /// `time=`: seconds since 1970 now; 0 if nobody says.
    pub time: u64,
    /// `console=uart1`: console text goes to the second UART.
    pub second_console: bool,
    /// `input`: somebody sends what programs read from the console.
    pub input: bool,
    /// `input=bulk`: and what is long comes by a file that the emulator reads.
    pub bulk: bool,
    /// `terminal=`: which of the first process's descriptors are terminals, such as `012`, which is the
    /// default; the others look like pipes.
    pub terminals: [bool; 3],
    /// `window=ROWSxCOLUMNS`: the size of the terminal at first.
    pub window: Option<(u16, u16)>,
    /// `stacks=off` clears it: user call stacks in fault events.
    pub stacks: bool,
    /// `watchdog=`: so many seconds without progress of a CPU are a hang; 0: nobody watches.
    pub watchdog: u64,
    /// `amplification`: how much of each copied page changes.
    pub amplification: bool,
    /// `inject=`: see `check::inject`.
    #[cfg(feature = "checks")]
    pub inject: Option<String>,
    /// Words that mean nothing to the kernel.
    pub unknown: Vec<String>,
}

static OPTIONS: Once<Options> = Once::new();

/// The options; the defaults before [`init`].
pub fn options() -> &'static Options {
    OPTIONS.call_once(|| parse(""))
}

/// Reads the command line, once.
pub fn init(line: &str) -> &'static Options {
    OPTIONS.call_once(|| parse(line))
}

/// `overcommit=`: whether memory is promised that may not be there. The numbers are those of Linux's
/// vm.overcommit_memory: 2, the default, refuses what cannot be kept; 1 refuses nothing, and faults
/// may fail. 0 is a guess there, which this kernel does not make: it is reported as unknown.
pub fn overcommits(line: &str) -> bool {
    let words = line.split_ascii_whitespace();
    let values = words
        .take_while(|word| *word != "--")
        .filter_map(|word| word.strip_prefix("overcommit="));
    values.filter_map(overcommit).last().unwrap_or(false)
}

fn overcommit(value: &str) -> Option<bool> {
    match value {
        "1" => Some(true),
        "2" => Some(false),
        _ => None,
    }
}

fn parse(line: &str) -> Options {
    let mut options = Options {
        init: String::from("/init"),
        arguments: Vec::new(),
        environment: Vec::new(),
        level: Level::Faults,
        lossless: false,
        ring: 16384,
        fork: ForkMode::SharedTables,
        seed: None,
        time: 0,
        second_console: false,
        input: false,
        bulk: false,
        terminals: [true; 3],
        window: None,
        stacks: true,
        watchdog: 20,
        amplification: false,
        #[cfg(feature = "checks")]
        inject: None,
        unknown: Vec::new(),
    };
    let mut words = words(line).into_iter();
    for word in words.by_ref() {
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        let known = match name {
            "--" if word == "--" => break,
            "init" => set(&mut options.init, Some(value.into())),
            "trace" => set(&mut options.level, level(value)),
            "lossless" => set(&mut options.lossless, Some(true)),
            "ring" => set(
                &mut options.ring,
                value.parse().ok().filter(|&events| events > 0),
            ),
            "fork" => set(&mut options.fork, fork_mode(value)),
            "seed" => set(&mut options.seed, number(value).map(Some)),
            "time" => set(&mut options.time, number(value)),
            "console" => set(&mut options.second_console, Some(value == "uart1")),
            "input" => {
                options.bulk = value == "bulk";
                set(
                    &mut options.input,
                    (value.is_empty() || options.bulk).then_some(true),
                )
            }
            "terminal" => set(
                &mut options.terminals,
                Some(['0', '1', '2'].map(|fd| value.contains(fd))),
            ),
            "window" => set(&mut options.window, window(value).map(Some)),
            #[cfg(feature = "checks")]
            "inject" => set(&mut options.inject, Some(Some(value.into()))),
            "watchdog" => set(
                &mut options.watchdog,
                value.parse().ok().filter(|&seconds| seconds < 1 << 20),
            ),
            "amplification" => set(&mut options.amplification, Some(true)),
            "stacks" => set(&mut options.stacks, Some(value != "off")),
            "user" => {
                options.environment.push(value.into());
                true
            }
            // Set before there was memory for options: see `overcommits`.
            "overcommit" => overcommit(value).is_some(),
            // The board's and the memory's own.
            "asid_bits" | "baud" | "maxcpus" | "semihosting" => true,
            _ => false,
        };
        if !known {
            options.unknown.push(word);
        }
    }
    options.arguments = words.collect();
    options
}

/// Sets `target` if there is a value; whether there was.
fn set<T>(target: &mut T, value: Option<T>) -> bool {
    value.map(|value| *target = value).is_some()
}

fn level(name: &str) -> Option<Level> {
    Some(match name {
        "off" => Level::Off,
        "life" => Level::Life,
        "faults" => Level::Faults,
        "mmu" => Level::Mmu,
        _ => return None,
    })
}

fn fork_mode(name: &str) -> Option<ForkMode> {
    Some(match name {
        "classic" => ForkMode::Classic,
        "shared" => ForkMode::SharedTables,
        "eager" => ForkMode::Eager,
        _ => return None,
    })
}

fn window(text: &str) -> Option<(u16, u16)> {
    let (rows, columns) = text.split_once('x')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Splits at blanks; double quotes group, and are dropped.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            _ if character.is_ascii_whitespace() && !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}
