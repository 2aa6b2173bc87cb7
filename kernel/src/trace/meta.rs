//! What the numbers in events stand for: processes and files, told when they appear and again in
//! rotation.

use super::ring::next_time;
use crate::fs::label::{self, Label};
use crate::process::{Process, table};
use alloc::{collections::VecDeque, sync::Arc};
use memory::{Lock, Rank};
use wire::frame::{self, MAX_CONTENT};

/// How many `Meta`s may wait for their place in the stream.
const MAX: usize = 256;

/// Those that wait, in the order of their times.
static WAITING: Lock<VecDeque<(u64, Meta)>> = Lock::new(Rank::Metas, VecDeque::new());

/// Gets the room for them.
pub fn allocate() {
    // Before the lock, which comes after the heap's.
    let room = VecDeque::with_capacity(MAX);
    *WAITING.lock() = room;
}

/// Gives a `Meta` its place among the events. False: there is no room.
pub fn push(meta: Meta) -> bool {
    let mut waiting = WAITING.lock();
    let room = waiting.len() < waiting.capacity();
    if room {
        // Under the lock: the queue is in order, and who has seen a later time sees it.
        waiting.push_back((next_time(), meta));
    }
    room
}

/// The time of the first one that waits.
pub fn first() -> u64 {
    WAITING.lock().front().map_or(u64::MAX, |(time, _)| *time)
}

/// Takes it out.
pub fn pop() -> Option<Meta> {
    WAITING.lock().pop_front().map(|(_, meta)| meta)
}

/// A `Meta` on its way to the stream.
#[derive(Clone)]
pub enum Meta {
    /// A process as it was then.
    Process(ProcessMeta),
    /// A file of the tree.
    File(Arc<Label>),
    /// A thread that is not the first of its process.
    Thread {
        /// Its process.
        pid: u32,
        /// Its number.
        tid: u32,
        /// Its name, padded with NUL.
        name: [u8; 16],
    },
}

/// What is told of a process.
#[derive(Clone, Copy)]
pub struct ProcessMeta {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its address space: serial number, frame of the root table, ASID.
    pub space: (u32, u64, u16),
    /// File id of its program.
    pub file: u32,
    /// Its name, padded with NUL.
    pub name: [u8; 16],
}

/// Lends what the `Meta` looks like on the wire.
pub fn with_wire(meta: &Meta, f: impl FnOnce(frame::Meta<'_>)) {
    match meta {
        Meta::Process(process) => {
            let (space, root, asid) = process.space;
            let name = short(&process.name);
            f(frame::Meta::Process {
                pid: process.pid,
                parent: process.parent,
                space,
                root,
                asid,
                file: process.file,
                name,
            });
        }
        Meta::Thread { pid, tid, name } => f(frame::Meta::Thread {
            pid: *pid,
            tid: *tid,
            name: short(name),
        }),
        Meta::File(label) => {
            // A path that is too long loses its front.
            let path = &label.path;
            let path = &path[path.len().saturating_sub(MAX_CONTENT)..];
            f(frame::Meta::File {
                id: label.id,
                path: text(path),
                build_id: &label.build_id,
            });
        }
    }
}

/// A name that is padded with NUL.
fn short(name: &[u8; 16]) -> &str {
    let len = name.iter().position(|&byte| byte == 0);
    text(&name[..len.unwrap_or(name.len())])
}

/// The beginning of `bytes` that is text.
fn text(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    }
}

/// What the rotation tells of.
pub enum Subject {
    /// A process.
    Process(Arc<Process>),
    /// A file.
    File(Arc<Label>),
}

/// Where the rotation is.
pub enum Rotation {
    /// Waits for the next period.
    Done,
    /// The processes after this pid are next.
    Processes(u32),
    /// The files after this id are next.
    Files(u32),
}

impl Rotation {
    /// Whom to tell of next.
    pub fn next(&mut self) -> Option<Subject> {
        if let Rotation::Processes(after) = *self {
            match table::next(after) {
                Some(process) => {
                    *self = Rotation::Processes(process.pid);
                    return Some(Subject::Process(process));
                }
                None => *self = Rotation::Files(0),
            }
        }
        if let Rotation::Files(after) = *self {
            if let Some(label) = label::next(after) {
                *self = Rotation::Files(label.id);
                return Some(Subject::File(label));
            }
            *self = Rotation::Done;
        }
        None
    }
}
