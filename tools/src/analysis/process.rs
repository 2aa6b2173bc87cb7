//! What is known of each process, and what it did.

use serde::Serialize;
use wire::event::{Fault, Outcome, Refused, Space};

use super::space::Code;

/// Number, sum and extremes of a cost in cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// How many.
    pub count: u64,
    /// Cycles, all together.
    pub cycles: u64,
    /// The least.
    pub min: u32,
    /// The most.
    pub max: u32,
}

impl Cost {
    /// One more.
    pub fn add(&mut self, cycles: u32) {
        self.min = if self.count == 0 {
            cycles
        } else {
            self.min.min(cycles)
        };
        self.max = self.max.max(cycles);
        self.count += 1;
        self.cycles += u64::from(cycles);
    }

    /// All of `other` too.
    pub fn merge(&mut self, other: &Cost) {
        if other.count > 0 {
            self.min = if self.count == 0 {
                other.min
            } else {
                self.min.min(other.min)
            };
        }
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.cycles += other.cycles;
    }

    /// Cycles each, on average.
    pub fn mean(&self) -> Option<u64> {
        (self.count > 0).then(|| (self.cycles + self.count / 2) / self.count)
    }
}

/// Faults by outcome.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    by_outcome: [Cost; Outcome::ALL.len()],
}

impl Faults {
    /// One more.
    pub fn add(&mut self, fault: &Fault) {
        self.by_outcome[fault.outcome as usize].add(fault.cost);
    }

    /// All of `other` too.
    pub fn merge(&mut self, other: &Faults) {
        for (mine, theirs) in self.by_outcome.iter_mut().zip(&other.by_outcome) {
            mine.merge(theirs);
        }
    }

    /// Those with one outcome.
    pub fn of(&self, outcome: Outcome) -> Cost {
        self.by_outcome[outcome as usize]
    }

    /// Outcomes that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, Cost)> + '_ {
        Outcome::ALL
            .into_iter()
            .zip(self.by_outcome)
            .filter(|(_, cost)| cost.count > 0)
    }

    /// All of them.
    pub fn total(&self) -> Cost {
        let mut total = Cost::default();
        self.by_outcome.iter().for_each(|cost| total.merge(cost));
        total
    }
}

/// What one process did, as counts.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// Faults by outcome.
    pub faults: Faults,
    /// Forks it made, and what they cost.
    pub forks: Cost,
    /// Private pages its forks shared.
    pub shared: u64,
    /// Private pages its eager forks copied at once.
    pub copied_at_fork: u64,
    /// Writes that broke the sharing a fork had made (its own or its parent's): the debt it paid.
    pub debt: Cost,
    /// Programs it executed.
    pub execs: u64,
    /// Times the scheduler gave it a CPU.
    pub switches: u64,
    /// Threads that it had beside its first.
    pub threads: u64,
}

impl Activity {
    /// All of `other` too.
    pub fn merge(&mut self, other: &Activity) {
        self.faults.merge(&other.faults);
        self.forks.merge(&other.forks);
        self.debt.merge(&other.debt);
        self.shared += other.shared;
        self.copied_at_fork += other.copied_at_fork;
        self.execs += other.execs;
        self.switches += other.switches;
        self.threads += other.threads;
    }

    /// Cycles it could not run because the kernel handled its faults and forks.
    pub fn stall(&self) -> u64 {
        self.faults.total().cycles + self.forks.cycles
    }
}

/// A signal that killed a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Signal number.
    pub signal: u8,
    /// The instruction.
    pub pc: u64,
    /// Where in its program that is.
    pub code: Option<Code>,
    /// The address.
    pub address: u64,
}

/// A system call the kernel lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its number.
    pub number: u32,
    /// How often it was called.
    pub count: u64,
    /// The return address of the first call.
    pub pc: u64,
    /// Where in its program that is.
    pub code: Option<Code>,
}

/// A system call that failed for want of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the kernel said of the first one.
    pub first: Refused,
    /// How often it was refused.
    pub count: u64,
    /// Where in its program the first call is.
    pub code: Option<Code>,
    /// Its callers, innermost first.
    pub callers: Vec<Code>,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its parent, if known.
    pub parent: Option<u32>,
    /// Its name, once the kernel has said it.
    pub name: String,
    /// The address space it uses.
    pub space: Space,
    /// File id of its program, if known.
    pub file: Option<u32>,
    /// The one it has if it was made by vfork and has not executed anything yet: its parent's.
    pub borrowed: bool,
    /// Counter ticks at its beginning; `None` if that is not in the trace.
    pub started: Option<u64>,
    /// Counter ticks at its end, and its wait status.
    pub ended: Option<(u64, u32)>,
    /// The signal that killed it.
    pub killed: Option<Kill>,
    /// System calls it wanted and did not get, by number, in the order of their first use.
    pub missing: Vec<Missing>,
    /// System calls that were refused memory, by number, in the order of their first refusal.
    pub refusals: Vec<Refusal>,
    /// What it did.
    pub activity: Activity,
}

/// At most this many different system calls that failed are told apart per process.
const CALLS_MAX: usize = 512;

impl Process {
    /// A process of which only its id is known.
    pub fn new(pid: u32, space: Space) -> Self {
        Process {
            pid,
            parent: None,
            name: String::new(),
            space,
            file: None,
            borrowed: false,
            started: None,
            ended: None,
            killed: None,
            missing: Vec::new(),
            refusals: Vec::new(),
            activity: Activity::default(),
        }
    }

    /// It called something the kernel does not have.
    pub fn missing(&mut self, number: u32, pc: u64, code: Option<Code>) {
        if let Some(known) = self
            .missing
            .iter_mut()
            .find(|missing| missing.number == number)
        {
            known.count += 1;
        } else if self.missing.len() < CALLS_MAX {
            self.missing.push(Missing {
                number,
                count: 1,
                pc,
                code,
            });
        }
    }

    /// One of its calls was refused memory.
    pub fn refused(&mut self, event: &Refused, code: Option<Code>, callers: Vec<Code>) {
        let mut known = self.refusals.iter_mut();
        if let Some(known) = known.find(|known| known.first.number == event.number) {
            known.count += 1;
        } else if self.refusals.len() < CALLS_MAX {
            self.refusals.push(Refusal {
                first: *event,
                count: 1,
                code,
                callers,
            });
        }
    }
}
