//! Where in a program something happened: taken down when it happens, named at the end.

use serde::Serialize;
use wire::event::{Fault, Space};

use crate::analysis::fork::Fork;
use crate::analysis::machine::Machine;
use crate::analysis::process::Refusal;
use crate::analysis::space::Code;
use crate::analysis::symbols::{SourceFrame, Symbols, short_name};

/// An instruction, and what the program's own symbols say of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Place {
    /// The instruction's address.
    pub pc: u64,
    /// The function that contains the instruction, and the line in it: of the instruction, or of
    /// the call that was inlined. If it is one of a language's own libraries, its nearest caller
    /// that is not.
    pub source: Option<SourceFrame>,
    /// The innermost function inlined there, if any, or the library function called.
    pub via: Option<SourceFrame>,
    /// All source frames, innermost first: inlined ones, then the callers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<SourceFrame>,
    #[serde(skip)]
    code: Option<Code>,
    #[serde(skip)]
    callers: Vec<Code>,
    /// Functions that a reader does not look for: what called them counts.
    #[serde(skip)]
    beyond: &'static [&'static str],
}

/// What C libraries and runtimes call between a program and a system call: those that fork, and
/// those that map memory.
const CALL_WRAPPERS: &[&str] = &[
    "syscall",
    "mmap",
    "mmap64",
    "__mmap",
    "mprotect",
    "__mprotect",
    "mremap",
    "__mremap",
    "brk",
    "sbrk",
    "__sbrk",
    "fork",
    "_Fork",
    "__fork",
    "__libc_fork",
    "arch_fork",
    "vfork",
    "__vfork",
    "vfork_call",
    "clone",
    "__clone",
    "__clone_internal",
    "__arch_clone",
];

impl Place {
    /// An instruction of an address space.
    pub fn new(machine: &Machine, space: Space, pc: u64) -> Place {
        Place::of_code(pc, machine.code(space, pc))
    }

    /// An instruction that was located before.
    pub fn of_code(pc: u64, code: Option<Code>) -> Place {
        Place {
            pc,
            code,
            ..Place::default()
        }
    }

    /// The instruction of a fault, with its callers.
    pub fn of_fault(machine: &Machine, fault: &Fault) -> Place {
        let mut place = Place::new(machine, fault.space, fault.pc);
        place.callers = machine.callers(fault.space, &fault.stack);
        place
    }

    /// The caller of a fork: the function that wanted it, not what wraps the system call.
    pub fn of_fork(fork: &Fork) -> Place {
        Place {
            callers: fork.callers.clone(),
            beyond: CALL_WRAPPERS,
            ..Place::of_code(fork.event.pc, fork.code)
        }
    }

    /// The caller of a system call that was refused memory, likewise.
    pub fn of_refusal(refusal: &Refusal) -> Place {
        Place {
            callers: refusal.callers.clone(),
            beyond: CALL_WRAPPERS,
            ..Place::of_code(refusal.first.pc, refusal.code)
        }
    }

    /// Looks the names up.
    pub fn resolve(&mut self, machine: &Machine, symbols: &mut Symbols) {
        let Some(code) = self.code else { return };
        self.stack.clear();
        let mut innermost: Option<SourceFrame> = None;
        let returns = self.callers.iter().map(|caller| (*caller, true));
        for (code, call) in [(code, false)].into_iter().chain(returns) {
            let frames = symbols.frames(&machine.files, code, call);
            let mut own = frames.iter().filter(|frame| {
                !frame.is_runtime() && !self.beyond.contains(&frame.name().as_str())
            });
            if self.source.is_none() {
                // Of what was inlined into one another, the outermost is the function that a
                // reader knows, and the innermost says what it did there.
                self.via = own.clone().next().cloned();
                self.source = own.next_back().cloned();
                innermost = innermost.or_else(|| frames.first().cloned());
            }
            self.stack.extend_from_slice(&frames);
        }
        if self.source.is_none() {
            self.source = innermost.take();
        }
        if self.via == self.source {
            // A library function that was called, not inlined, is worth a word.
            self.via = innermost.filter(|frame| Some(frame) != self.source.as_ref());
        }
    }

    /// `function (file:line)` and what was inlined there, or the address.
    pub fn text(&self) -> String {
        match (&self.source, &self.via) {
            (Some(source), Some(via)) => {
                format!("{} > {}", source.short(), short_name(&via.function))
            }
            (Some(source), None) => source.short(),
            (None, _) => format!("{:#x}", self.pc),
        }
    }
}

/// A program as reports name it: its file's name, or what else is known.
pub fn program_name(machine: &Machine, pid: u32) -> String {
    let Some(process) = machine.process(pid) else {
        return String::new();
    };
    if !process.name.is_empty() {
        return process.name.clone();
    }
    let space = machine.spaces.get(&process.space);
    let file = space.and_then(|space| machine.files.get(&space.program?));
    file.map_or_else(String::new, |file| {
        file.path
            .rsplit('/')
            .next()
            .unwrap_or(&file.path)
            .to_owned()
    })
}
