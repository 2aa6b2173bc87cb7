//! The events, with absolute values: what the kernel puts in its rings and what the tools get
//! back. On the wire they travel delta-coded in batches.
//!
//! Units, everywhere: times are counter ticks (CNTVCT_EL0, frequency in the hello), costs are
//! cycles (PMCCNTR_EL0; guest instructions under QEMU's `-icount`), addresses are bytes,
//! frames are frame numbers (physical address >> 12).
//!
//! Variants and fields are append-only: a shipped variant is never edited or moved.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// CPUs that a stream can tell apart.
pub const MAX_CPUS: usize = 16;

/// One event of one CPU, as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Schema)]
pub struct Record {
    /// CNTVCT_EL0 when the event was recorded, or a little more: no two events of a machine have
    /// the same time, and the order of times is the order in which they were recorded.
    pub time: u64,
    /// The CPU, below [`MAX_CPUS`].
    pub cpu: u8,
    /// The thread that was running (0 before the first one, or in the idle loop).
    pub tid: u32,
    /// What happened.
    pub event: Event,
}

/// A serial number for an address space. Never reused, unlike an ASID.
pub type Space = u32;

/// How an address space is copied by fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum ForkMode {
    /// Every private page is write-protected and its descriptor copied.
    Classic,
    /// The last-level tables are shared, write-protected by APTable[1] of the level-2 descriptor.
    SharedTables,
    /// Every private page is copied at once.
    Eager,
    /// `vfork`: nothing is copied, parent and child use one address space.
    Vfork,
}

/// What the fault handler did. `reference/translation-and-cow.md` 5.5 names the cases.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Schema,
)]
pub enum Outcome {
    /// The walk already permits the access (C0).
    Spurious,
    /// Write to an empty anonymous page: a zeroed frame (C3).
    ZeroFill,
    /// Read of an empty anonymous page: the zero page, read-only (C2).
    ZeroPage,
    /// Write to a shared frame: copied to a new one (C5).
    CowCopy,
    /// Write to the zero page: a new zeroed frame in its place (C5z).
    CowZero,
    /// Write by the last owner: made writable in place (C4).
    CowReuse,
    /// Write below a shared last-level table: the table was copied (C1b), and then the leaf case.
    TableUnshare,
    /// Write below a last-level table of which this is the last owner (C1a).
    TableReuse,
    /// Write to a shared mapping: made writable in place (C6).
    SharedWrite,
    /// Read of a file page: the page-cache frame (C3f).
    FileRead,
    /// First access to a private file page is a write: copied from the page cache (C3g).
    FileCopy,
    /// Instruction fetch of a file page (C7).
    Exec,
    /// The stack mapping grew, then a zero fill (C12).
    StackGrow,
    /// No mapping, or the mapping forbids the access: the process is killed (C13).
    Denied,
    /// No frame was to be had: the process is killed (C8).
    OutOfMemory,
    /// Any other abort of user code (alignment, external, TLB conflict): the process is killed (C10).
    Fatal,
}

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Outcome; 16] = [
        Outcome::Spurious,
        Outcome::ZeroFill,
        Outcome::ZeroPage,
        Outcome::CowCopy,
        Outcome::CowZero,
        Outcome::CowReuse,
        Outcome::TableUnshare,
        Outcome::TableReuse,
        Outcome::SharedWrite,
        Outcome::FileRead,
        Outcome::FileCopy,
        Outcome::Exec,
        Outcome::StackGrow,
        Outcome::Denied,
        Outcome::OutOfMemory,
        Outcome::Fatal,
    ];

    /// The name used in reports, filters and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Spurious => "spurious",
            Outcome::ZeroFill => "zero-fill",
            Outcome::ZeroPage => "zero-page",
            Outcome::CowCopy => "cow-copy",
            Outcome::CowZero => "cow-zero",
            Outcome::CowReuse => "cow-reuse",
            Outcome::TableUnshare => "table-unshare",
            Outcome::TableReuse => "table-reuse",
            Outcome::SharedWrite => "shared-write",
            Outcome::FileRead => "file-read",
            Outcome::FileCopy => "file-copy",
            Outcome::Exec => "exec",
            Outcome::StackGrow => "stack-grow",
            Outcome::Denied => "denied",
            Outcome::OutOfMemory => "out-of-memory",
            Outcome::Fatal => "fatal",
        }
    }
}

/// What the access that faulted wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum Access {
    /// A load.
    Read,
    /// A store (`WnR && !CM`).
    Write,
    /// An instruction fetch.
    Exec,
}

/// Who accessed: the program, or the kernel on its behalf (a system call's buffer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum Origin {
    /// EL0.
    User,
    /// EL1, by LDTR/STTR at the user's address.
    Kernel,
}

/// The most return addresses a fault carries.
pub const STACK_DEPTH: usize = 8;

/// The user's return addresses at a fault, innermost first, from its frame records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub struct Stack {
    /// How many of `pcs` are valid.
    pub depth: u8,
    /// Return addresses; zero beyond `depth`.
    pub pcs: [u64; STACK_DEPTH],
}

/// A page fault, handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Schema)]
pub struct Fault {
    /// What was done.
    pub outcome: Outcome,
    /// What the access wanted.
    pub access: Access,
    /// Who accessed.
    pub origin: Origin,
    /// Process.
    pub pid: u32,
    /// Address space.
    pub space: Space,
    /// The ASID that tagged the access.
    pub asid: u16,
    /// Cycles from the exception's entry to the end of its handling.
    pub cost: u32,
    /// The faulting instruction (of the program; for a kernel access, the SVC's return address).
    pub pc: u64,
    /// FAR_EL1.
    pub addr: u64,
    /// ESR_EL1, the low 32 bits.
    pub esr: u32,
    /// The leaf descriptor before (0: none).
    pub old: u64,
    /// The leaf descriptor after (0: none).
    pub new: u64,
    /// References to the old frame before: the tables that map it, plus transient holds. 0: not counted.
    pub refs: u32,
    /// References to the old frame after.
    pub refs_after: u32,
    /// TLBI instructions issued while handling it.
    pub tlbis: u8,
    /// The user's call stack.
    pub stack: Stack,
}

/// A fork, done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Fork {
    /// How.
    pub mode: ForkMode,
    /// The process that forked.
    pub parent: u32,
    /// The new process.
    pub child: u32,
    /// The parent's address space.
    pub parent_space: Space,
    /// The child's address space; the parent's own for vfork.
    pub child_space: Space,
    /// Private pages now shared between the two.
    pub shared: u32,
    /// Leaf descriptors of the parent that were write-protected.
    pub protected: u32,
    /// Leaf descriptors written in the child's own tables.
    pub leaves: u32,
    /// Pages copied at once.
    pub copied: u32,
    /// Translation tables allocated for the child (root included).
    pub tables: u32,
    /// Last-level tables shared between the two.
    pub tables_shared: u32,
    /// Cycles the whole call took in the parent.
    pub cost: u32,
    /// The return address of the system call.
    pub pc: u64,
    /// The caller's call stack.
    pub stack: Stack,
}

/// A system call failed for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Refused {
    /// Process.
    pub pid: u32,
    /// The system call's number.
    pub number: u32,
    /// Pages that it wanted to be promised, tables included. 0: a frame for the kernel's own use.
    pub pages: u64,
    /// Pages that could have been promised.
    pub left: u64,
    /// Its return address.
    pub pc: u64,
    /// The caller's call stack.
    pub stack: Stack,
}

/// What backs a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Backing {
    /// Zero-filled memory.
    Anonymous,
    /// A file: its id (see [`crate::frame::Meta::File`]) and the offset in bytes of the mapping's start.
    File {
        /// File id.
        file: u32,
        /// Offset of the mapping's first byte in the file.
        offset: u64,
    },
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum Region {
    /// A segment of the program.
    Program,
    /// The break.
    Heap,
    /// The stack, which grows down.
    Stack,
    /// `mmap`.
    Mmap,
    /// The kernel's signal trampoline.
    Vdso,
}

/// A mapping, made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Map {
    /// Address space.
    pub space: Space,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// PROT_READ 1 | PROT_WRITE 2 | PROT_EXEC 4.
    pub prot: u8,
    /// MAP_SHARED.
    pub shared: bool,
    /// What backs it.
    pub backing: Backing,
    /// What it is for.
    pub region: Region,
}

/// TLB maintenance by operation (`reference/translation-and-cow.md` 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum TlbiOp {
    /// VALE1: leaf of (VA, ASID), this CPU.
    Vale1,
    /// VAE1: leaf and walk cache of (VA, ASID), this CPU.
    Vae1,
    /// VALE1IS.
    Vale1Is,
    /// VAE1IS.
    Vae1Is,
    /// VAALE1IS: leaf of VA, all ASIDs.
    Vaale1Is,
    /// VAAE1IS: leaf and walk cache of VA, all ASIDs.
    Vaae1Is,
    /// ASIDE1IS: everything of one ASID.
    Aside1Is,
    /// VMALLE1: everything, this CPU.
    Vmalle1,
    /// VMALLE1IS: everything, all CPUs.
    Vmalle1Is,
}

/// A barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum Barrier {
    /// DMB ISHST: data before descriptor.
    DmbIshst,
    /// DSB ISHST.
    DsbIshst,
    /// DSB NSHST.
    DsbNshst,
    /// DSB ISH.
    DsbIsh,
    /// DSB NSH.
    DsbNsh,
    /// ISB.
    Isb,
}

/// What the kernel did to the contents of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum Contents {
    /// Filled it with zeros, or with a copy of another.
    Stored,
    /// May have changed some of it, or only looked.
    Lent,
    /// Made what it holds visible to instruction fetch.
    Fetchable,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Schema)]
pub enum Event {
    /// An address space came to life: its root table and its ASID.
    SpaceNew {
        /// Serial number.
        space: Space,
        /// Frame of the root table.
        root: u64,
        /// ASID.
        asid: u16,
    },
    /// An address space is about to be torn down; all its mappings and references go with it.
    SpaceEnd {
        /// Serial number.
        space: Space,
        /// The ASID it gives back.
        asid: u16,
        /// References dropped (leaves that were valid; the zero page not counted).
        dropped: u32,
        /// Private frames freed because this was the last reference.
        freed: u32,
        /// Translation tables freed, root included.
        tables: u32,
        /// Cycles.
        cost: u32,
    },
    /// A process was made by the kernel itself (`/init`).
    Spawn {
        /// Process.
        pid: u32,
        /// Its address space.
        space: Space,
    },
    /// A fork, vfork or clone that made a process.
    Fork(Fork),
    /// A program was loaded into a process.
    Exec {
        /// Process.
        pid: u32,
        /// The address space it had.
        old_space: Space,
        /// The address space it has now.
        space: Space,
        /// File id of the program.
        file: u32,
        /// Cycles.
        cost: u32,
    },
    /// A process ended.
    Exit {
        /// Process.
        pid: u32,
        /// Its address space.
        space: Space,
        /// Wait status as Linux encodes it.
        status: u32,
    },
    /// A parent collected an ended process.
    Reap {
        /// The ended process.
        pid: u32,
        /// Who collected it.
        by: u32,
    },
    /// A mapping was made (or grew: same start or same end).
    Map(Map),
    /// A range was unmapped.
    Unmap {
        /// Address space.
        space: Space,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// References dropped (the zero page not counted).
        dropped: u32,
        /// Private frames freed because this was the last reference.
        freed: u32,
    },
    /// The protection of a range was changed.
    Protect {
        /// Address space.
        space: Space,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// PROT_READ 1 | PROT_WRITE 2 | PROT_EXEC 4.
        prot: u8,
        /// Leaf descriptors that lost a permission.
        tightened: u32,
    },
    /// A page fault.
    Fault(Fault),
    /// The scheduler gave the CPU to another thread.
    Switch {
        /// Who ran (0: idle).
        from: u32,
        /// Who runs now (0: idle).
        to: u32,
        /// Address space that is active now (0: the reserved one).
        space: Space,
        /// TTBR0_EL1 as written: ASID << 48 | root.
        ttbr0: u64,
        /// TLBI instructions this CPU has issued since boot.
        tlbis: u64,
    },
    /// What an address space maps, counted by the kernel: the tools compare it with what they rebuilt.
    Resident {
        /// Address space.
        space: Space,
        /// Valid leaves that map anonymous (or privately copied) frames.
        anon: u32,
        /// Valid leaves that map page-cache frames.
        file: u32,
        /// Valid leaves that map the zero page.
        zero: u32,
    },
    /// A system call the kernel does not have.
    Unimplemented {
        /// Process.
        pid: u32,
        /// Its number.
        number: u32,
        /// Return address.
        pc: u64,
    },
    /// A process was killed by a signal.
    Killed {
        /// Process.
        pid: u32,
        /// Signal number.
        signal: u8,
        /// The instruction.
        pc: u64,
        /// The address, for a fault.
        addr: u64,
    },
    /// A descriptor was written (`trace=mmu`).
    Descriptor {
        /// Frame of the table.
        table: u64,
        /// Index in the table.
        index: u16,
        /// Level, 1 to 3.
        level: u8,
        /// Before.
        old: u64,
        /// After.
        new: u64,
    },
    /// A barrier (`trace=mmu`).
    Barrier(Barrier),
    /// A TLB invalidation (`trace=mmu`).
    Tlbi {
        /// Which.
        op: TlbiOp,
        /// Its register operand (0 for the forms without one).
        operand: u64,
    },
    /// TTBR0_EL1 was written (`trace=mmu`).
    Ttbr0 {
        /// The value.
        value: u64,
    },
    /// A frame was taken from the allocator, or given back (`trace=mmu`).
    Frame {
        /// Frame number.
        frame: u64,
        /// True: given back.
        freed: bool,
    },
    /// An address space is about to run with another ASID: the numbers were used up, and handed
    /// out anew.
    AsidNew {
        /// Serial number.
        space: Space,
        /// The ASID from now on.
        asid: u16,
        /// How often the numbers have been handed out: 1 since boot, and one more each time.
        generation: u64,
    },
    /// The kernel did something to a frame's contents (`trace=mmu`).
    Contents {
        /// Frame number.
        frame: u64,
        /// What.
        what: Contents,
    },
    /// A page of the kernel's own half was mapped or unmapped (`trace=mmu`).
    KernelPage {
        /// Virtual address.
        va: u64,
        /// Its descriptor before.
        old: u64,
        /// After.
        new: u64,
    },
    /// The fork that is under way shares last-level tables. The `Fork` event follows.
    TablesShared {
        /// The parent's address space.
        parent_space: Space,
        /// The child's, which the fork makes.
        child_space: Space,
        /// The first byte that the first table maps.
        start: u64,
        /// One past the last byte that the last table maps: the tables in between are all of
        /// those that exist.
        end: u64,
    },
    /// An address space took a shared last-level table for its own outside a fault: a system call
    /// was about to change something below it. Also in a fault, if its outcome is none of the table's.
    TableOwned {
        /// Address space.
        space: Space,
        /// The first byte that the table maps.
        start: u64,
        /// True: by a copy. False: the others had gone.
        copied: bool,
    },
    /// The pages of a range were dropped, and its mappings stay (`madvise`).
    Discard {
        /// Address space.
        space: Space,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// References dropped (the zero page not counted).
        dropped: u32,
        /// Private frames freed because this was the last reference.
        freed: u32,
    },
    /// A range moved with its pages (`mremap`). What was mapped at its new place went before, by
    /// an `Unmap` of its own; what grew, or stays at the old place without its pages, is mapped by a `Map` afterwards.
    Move {
        /// Address space.
        space: Space,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Where the first byte is now.
        to: u64,
    },
    /// A thread was made that is not the first of its process.
    ThreadStart {
        /// Process.
        pid: u32,
        /// Its number.
        tid: u32,
        /// The thread that made it.
        by: u32,
    },
    /// A thread ended, and others of its process have not. Also for the number that a thread had
    /// which is the process's first since exec.
    ThreadExit {
        /// Process.
        pid: u32,
        /// Its number.
        tid: u32,
    },
    /// A page that had been copied, compared with what it was then, when its frame was freed or the
    /// machine ended (boot argument `amplification`).
    Amplification {
        /// Frame number, of the copy.
        frame: u64,
        /// False: the machine ended, and the page was still there.
        freed: bool,
        /// False: there was no memory to keep the page as it was, and nothing is known.
        kept: bool,
        /// Bytes that differ, up to 4096.
        bytes: u16,
        /// Lines of 64 bytes in which one differs, up to 64.
        lines: u8,
    },
    /// A system call was refused memory (ENOMEM), and what could be given up was not enough.
    Refused(Refused),
}

/// The kinds of event that losses are counted by.
pub const KINDS: usize = 31;

impl Event {
    /// The event's kind, an index below [`KINDS`], for loss counts.
    pub const fn kind(&self) -> usize {
        match self {
            Event::SpaceNew { .. } => 0,
            Event::SpaceEnd { .. } => 1,
            Event::Spawn { .. } => 2,
            Event::Fork(_) => 3,
            Event::Exec { .. } => 4,
            Event::Exit { .. } => 5,
            Event::Reap { .. } => 6,
            Event::Map(_) => 7,
            Event::Unmap { .. } => 8,
            Event::Protect { .. } => 9,
            Event::Fault(_) => 10,
            Event::Switch { .. } => 11,
            Event::Resident { .. } => 12,
            Event::Unimplemented { .. } => 13,
            Event::Killed { .. } => 14,
            Event::Descriptor { .. } => 15,
            Event::Barrier(_) => 16,
            Event::Tlbi { .. } => 17,
            Event::Ttbr0 { .. } => 18,
            Event::Frame { .. } => 19,
            Event::AsidNew { .. } => 20,
            Event::Contents { .. } => 21,
            Event::KernelPage { .. } => 22,
            Event::TablesShared { .. } => 23,
            Event::TableOwned { .. } => 24,
            Event::Discard { .. } => 25,
            Event::Move { .. } => 26,
            Event::ThreadStart { .. } => 27,
            Event::ThreadExit { .. } => 28,
            Event::Amplification { .. } => 29,
            Event::Refused(_) => 30,
        }
    }
}

/// The names of the kinds, by [`Event::kind`].
pub const KIND_NAMES: [&str; KINDS] = [
    "space-new",
    "space-end",
    "spawn",
    "fork",
    "exec",
    "exit",
    "reap",
    "map",
    "unmap",
    "protect",
    "fault",
    "switch",
    "resident",
    "unimplemented",
    "killed",
    "descriptor",
    "barrier",
    "tlbi",
    "ttbr0",
    "frame",
    "asid-new",
    "contents",
    "kernel-page",
    "tables-shared",
    "table-owned",
    "discard",
    "move",
    "thread-start",
    "thread-exit",
    "amplification",
    "refused",
];
