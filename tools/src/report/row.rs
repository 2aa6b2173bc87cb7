//! A fault as a flat row, for programs.

use serde::{Serialize, Serializer};
use wire::event::{Access, Fault, Origin, Record};

use super::filter::Mapped;
use super::place::Place;
use super::text::micros;
use crate::analysis::descriptor::{Descriptor, PAGE_SIZE};
use crate::analysis::machine::Change;
use crate::analysis::stream::State;

/// One fault. Addresses and descriptors are hexadecimal in text.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    /// Microseconds since the first event.
    pub time_us: f64,
    /// The CPU.
    pub cpu: u8,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name, if it is not the first of its process and has been told of.
    pub thread: Option<&'a str>,
    /// The process's program.
    pub name: &'a str,
    /// Serial number of the address space.
    pub space: u32,
    /// Its ASID.
    pub asid: u16,
    /// What was done.
    pub outcome: &'static str,
    /// read, write or exec.
    pub access: &'static str,
    /// user or kernel.
    pub origin: &'static str,
    /// The address.
    #[serde(serialize_with = "hex")]
    pub address: u64,
    /// What is mapped there: a file's path, or heap, stack, mmap and so on.
    pub mapping: Option<&'a str>,
    /// The address in it: bytes from the start of the file, or of the mapping.
    #[serde(serialize_with = "hex_or_none")]
    pub mapping_offset: Option<u64>,
    /// The instruction.
    #[serde(serialize_with = "hex")]
    pub pc: u64,
    /// Its function.
    pub function: Option<&'a str>,
    /// Its source file.
    pub file: Option<&'a str>,
    /// Its line.
    pub line: Option<u32>,
    /// ESR_EL1.
    #[serde(serialize_with = "hex")]
    pub esr: u64,
    /// The leaf descriptor before.
    #[serde(serialize_with = "hex")]
    pub old: u64,
    /// And after.
    #[serde(serialize_with = "hex")]
    pub new: u64,
    /// The frame before.
    #[serde(serialize_with = "hex_or_none")]
    pub old_frame: Option<u64>,
    /// And after.
    #[serde(serialize_with = "hex_or_none")]
    pub new_frame: Option<u64>,
    /// References to the old frame before.
    pub references: u32,
    /// And after.
    pub references_after: u32,
    /// Pids that map the old frame at this address, as rebuilt, after the fault.
    pub sharers: String,
    /// TLB invalidations.
    pub tlbis: u8,
    /// Cycles.
    pub cost_cycles: u32,
    /// The fork whose sharing this broke: its child's pid.
    pub broke_fork_of: Option<u32>,
}

impl<'a> Row<'a> {
    /// The row of a fault that the machine has just gone through, `time` ticks after the first event.
    pub fn new(
        state: &'a State,
        (time, record): (u64, &Record),
        fault: &Fault,
        change: &Change,
        (name, place): (&'a str, &'a Place),
    ) -> Row<'a> {
        let machine = &state.machine;
        let hz = state.about.as_ref().map_or(1, |about| about.counter_hz);
        let (old, new) = (Descriptor(fault.old), Descriptor(fault.new));
        let mapped = Mapped::of(machine, fault);
        let sharers: Vec<String> = if old.valid() {
            let spaces = machine.sharers(old.frame(), fault.addr / PAGE_SIZE * PAGE_SIZE);
            let pids = spaces.into_iter().flat_map(|space| machine.users(space));
            pids.map(|pid| pid.to_string()).collect()
        } else {
            Vec::new()
        };
        let source = place.source.as_ref();
        Row {
            time_us: micros(time, hz),
            cpu: record.cpu,
            pid: fault.pid,
            tid: record.tid,
            thread: machine.thread_name(fault.pid, record.tid),
            name,
            space: fault.space,
            asid: fault.asid,
            outcome: fault.outcome.name(),
            access: access_name(fault.access),
            origin: match fault.origin {
                Origin::Kernel => "kernel",
                Origin::User => "user",
            },
            address: fault.addr,
            mapping: mapped.map(|mapped| mapped.path.unwrap_or(mapped.region)),
            mapping_offset: mapped.map(|mapped| mapped.offset),
            pc: fault.pc,
            function: source.map(|source| source.function.as_str()),
            file: source.and_then(|source| source.file.as_deref()),
            line: source.and_then(|source| source.line),
            esr: u64::from(fault.esr),
            old: fault.old,
            new: fault.new,
            old_frame: old.valid().then(|| old.frame()),
            new_frame: new.valid().then(|| new.frame()),
            references: fault.refs,
            references_after: fault.refs_after,
            sharers: sharers.join(" "),
            tlbis: fault.tlbis,
            cost_cycles: fault.cost,
            broke_fork_of: machine.forks.get(change.fork).map(|fork| fork.event.child),
        }
    }
}

/// An access, as options and reports name it.
pub const fn access_name(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::Exec => "exec",
    }
}

fn hex<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:#x}"))
}

fn hex_or_none<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => hex(number, serializer),
        None => serializer.serialize_none(),
    }
}
