//! Flame graphs: page faults by call stack.

use std::collections::BTreeMap;
use std::io::{self, Write};

use rustc_hash::FxHashMap;
use wire::event::{Event, Fault, Outcome, Record};

use super::args::Weight;
use crate::analysis::descriptor::{Descriptor, PAGE_SIZE};
use crate::analysis::machine::{Change, Machine};
use crate::analysis::space::{Code, Place};
use crate::analysis::stream::{Observer, State};
use crate::analysis::symbols::{SourceFrame, Symbols, short_name};
use crate::report::filter::Filter;
use crate::report::place::program_name;

/// Call stacks, outermost frame first and separated by semicolons, and how much happened there.
pub type Stacks = BTreeMap<String, u64>;

/// Stacks told apart; what comes later is counted as one.
const STACKS_MAX: usize = 1 << 18;

/// A stack, before its names are looked up.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    program: String,
    /// Innermost first; the first is the instruction, the others are return addresses.
    codes: Vec<Code>,
    /// The instruction, if its file is not known.
    pc: Option<u64>,
    outcome: Outcome,
}

/// Collects them.
pub struct Flame<'a> {
    filter: Filter<'a>,
    by: Weight,
    symbols: &'a mut Symbols,
    stacks: FxHashMap<Key, u64>,
    others: u64,
}

impl<'a> Flame<'a> {
    /// Before the first event.
    pub fn new(filter: Filter<'a>, by: Weight, symbols: &'a mut Symbols) -> Self {
        Flame {
            filter,
            by,
            symbols,
            stacks: FxHashMap::default(),
            others: 0,
        }
    }

    /// The stacks by name. `lines`: with source lines.
    pub fn finish(self, machine: &Machine, lines: bool) -> Stacks {
        let mut stacks = Stacks::new();
        for (key, weight) in self.stacks {
            let mut names = vec![key.outcome.name().to_owned()];
            names.extend(key.pc.map(|pc| format!("{pc:#x}")));
            for (at, code) in key.codes.iter().enumerate() {
                let frames = self.symbols.frames(&machine.files, *code, at > 0);
                match frames.is_empty() {
                    true => names.push(unnamed(machine, *code)),
                    false => names.extend(frames.iter().map(|frame| name(frame, lines))),
                }
            }
            names.push(key.program);
            names.reverse();
            *stacks.entry(names.join(";")).or_default() += weight;
        }
        if self.others > 0 {
            stacks.insert("(other stacks)".to_owned(), self.others);
        }
        stacks
    }

    fn weight(&self, fault: &Fault) -> u64 {
        match self.by {
            Weight::Count => 1,
            Weight::Bytes => frames_taken(fault) * PAGE_SIZE,
            Weight::Cost => fault.cost.into(),
        }
    }
}

/// Frames that a fault took, tables of its own included.
fn frames_taken(fault: &Fault) -> u64 {
    let (old, new) = (Descriptor(fault.old), Descriptor(fault.new));
    let other_frame = new.valid() && (!old.valid() || old.frame() != new.frame());
    match fault.outcome {
        Outcome::ZeroFill
        | Outcome::CowCopy
        | Outcome::CowZero
        | Outcome::FileCopy
        | Outcome::StackGrow => 1,
        Outcome::TableUnshare => 1 + u64::from(other_frame),
        _ => 0,
    }
}

/// A frame's name, in which the separator of frames may not occur.
fn name(frame: &SourceFrame, line: bool) -> String {
    let name = match line {
        true => frame.short(),
        false => short_name(&frame.function),
    };
    name.replace(';', ":")
}

/// Where an instruction is in its file, for want of a name.
fn unnamed(machine: &Machine, code: Code) -> String {
    let file = machine.files.get(&code.file);
    let path = file.map_or("?", |file| file.path.as_str());
    let name = path.rsplit('/').next().unwrap_or(path).replace(';', ":");
    let (Place::Offset(at) | Place::Image(at) | Place::Linked(at)) = code.place;
    format!("{name}+{at:#x}")
}

impl Observer for Flame<'_> {
    fn after(&mut self, state: &State, _cpu: u8, record: &Record, _change: &Change) {
        self.filter.see(record);
        let Event::Fault(fault) = &record.event else {
            return;
        };
        if !self.filter.wants(state, record, fault, self.symbols) {
            return;
        }
        let weight = self.weight(fault);
        if weight == 0 {
            return;
        }
        let machine = &state.machine;
        let code = machine.code(fault.space, fault.pc);
        let mut codes: Vec<Code> = code.into_iter().collect();
        codes.extend(machine.callers(fault.space, &fault.stack));
        let key = Key {
            program: program_name(machine, fault.pid).replace(';', ":"),
            codes,
            pc: code.is_none().then_some(fault.pc),
            outcome: fault.outcome,
        };
        let room = self.stacks.len() < STACKS_MAX;
        match self.stacks.get_mut(&key) {
            Some(sum) => *sum += weight,
            None if room => {
                self.stacks.insert(key, weight);
            }
            None => self.others += weight,
        }
    }

    fn restart(&mut self) {
        self.filter.restart();
        self.stacks.clear();
        self.others = 0;
    }
}

/// A line per stack; with `before`, the numbers of both.
pub fn folded(before: Option<&Stacks>, stacks: &Stacks, out: &mut dyn Write) -> io::Result<()> {
    lines(before, stacks).try_for_each(|line| writeln!(out, "{line}"))
}

fn lines<'a>(
    before: Option<&'a Stacks>,
    stacks: &'a Stacks,
) -> Box<dyn Iterator<Item = String> + 'a> {
    let Some(before) = before else {
        return Box::new(stacks.iter().map(|(stack, now)| format!("{stack} {now}")));
    };
    let gone = before
        .iter()
        .filter(|(stack, _)| !stacks.contains_key(*stack));
    let gone = gone.map(|(stack, before)| format!("{stack} {before} 0"));
    let here = stacks.iter().map(|(stack, now)| {
        let before = before.get(stack).copied().unwrap_or(0);
        format!("{stack} {before} {now}")
    });
    Box::new(gone.chain(here))
}

/// The picture. With `before`: what became more is red, what became less blue.
pub fn svg(
    before: Option<&Stacks>,
    stacks: &Stacks,
    by: Weight,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let mut lines: Vec<String> = lines(before, stacks).collect();
    if lines.is_empty() {
        anyhow::bail!(crate::exit::usage(
            "no fault to draw: none was chosen, or none took memory"
        ));
    }
    lines.sort_unstable();
    let mut options = inferno::flamegraph::Options::default();
    (options.title, options.count_name) = match by {
        Weight::Count => ("Page faults".to_owned(), "faults".to_owned()),
        Weight::Bytes => ("Memory taken by page faults".to_owned(), "bytes".to_owned()),
        Weight::Cost => ("Cycles in page faults".to_owned(), "cycles".to_owned()),
    };
    if before.is_some() {
        options.title += ", and what changed";
    }
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_both_numbers() {
        let stacks = |list: &[(&str, u64)]| -> Stacks {
            list.iter()
                .map(|(stack, n)| ((*stack).to_owned(), *n))
                .collect()
        };
        let (before, now) = (
            stacks(&[("a;b", 3), ("a;c", 1)]),
            stacks(&[("a;b", 5), ("a;d", 2)]),
        );
        let mut out = Vec::new();
        folded(Some(&before), &now, &mut out).expect("writes to memory do not fail");
        assert_eq!(out, b"a;c 1 0\na;b 3 5\na;d 0 2\n");
        out.clear();
        folded(None, &now, &mut out).expect("writes to memory do not fail");
        assert_eq!(out, b"a;b 5\na;d 2\n");
        out.clear();
        svg(Some(&before), &now, Weight::Count, &mut out).expect("there is something to draw");
        assert!(String::from_utf8_lossy(&out).contains("and what changed"));
        assert!(svg(None, &Stacks::new(), Weight::Count, &mut Vec::new()).is_err());
    }
}
