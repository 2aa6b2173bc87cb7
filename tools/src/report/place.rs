//! Where in a program something happened: taken down when it happens, named at the end.

use serde::Serialize;
use wire::event::{Fault, Space, Stack};

use crate::analysis::machine::Machine;
use crate::analysis::space::Code;
use crate::analysis::symbols::{SourceFrame, Symbols};

/// An instruction, and what the program's own symbols say of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Place {
    /// The instruction's address.
    pub pc: u64,
    /// Function, file and line: of the instruction, or of the nearest caller in the program if
    /// the instruction is in a library of the language.
    pub source: Option<SourceFrame>,
    /// The library function, if `source` is its caller.
    pub via: Option<String>,
    /// All source frames, innermost first: inlined ones, then the callers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<SourceFrame>,
    #[serde(skip)]
    code: Option<Code>,
    #[serde(skip)]
    callers: Vec<Code>,
}

impl Place {
    /// An instruction of an address space.
    pub fn new(machine: &Machine, space: Space, pc: u64) -> Place {
        let code = machine.spaces.get(&space).and_then(|space| space.code(pc));
        Place {
            pc,
            code,
            ..Place::default()
        }
    }

    /// The instruction of a fault, with its callers.
    pub fn of_fault(machine: &Machine, fault: &Fault) -> Place {
        let mut place = Place::new(machine, fault.space, fault.pc);
        place.callers = callers(machine, fault.space, &fault.stack);
        place
    }

    /// Looks the names up.
    pub fn resolve(&mut self, machine: &Machine, symbols: &mut Symbols) {
        let Some(code) = self.code else { return };
        self.stack = symbols.frames(&machine.files, code, false).to_vec();
        for caller in &self.callers {
            self.stack
                .extend_from_slice(&symbols.frames(&machine.files, *caller, true));
        }
        let own = self.stack.iter().position(|frame| !frame.is_runtime());
        let at = own.unwrap_or(0);
        self.source = self.stack.get(at).cloned();
        self.via = (at > 0).then(|| self.stack[at - 1].function.clone());
    }

    /// `function (file:line)`, or the address.
    pub fn text(&self) -> String {
        match (&self.source, &self.via) {
            (Some(source), Some(via)) => format!("{}, in {via}", source.short()),
            (Some(source), None) => source.short(),
            (None, _) => format!("{:#x}", self.pc),
        }
    }
}

fn callers(machine: &Machine, space: Space, stack: &Stack) -> Vec<Code> {
    let Some(space) = machine.spaces.get(&space) else {
        return Vec::new();
    };
    let pcs = stack.pcs.iter().take(usize::from(stack.depth));
    pcs.filter_map(|pc| space.code(*pc)).collect()
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
