//! What the numbers in events stand for: processes and files, told when they appear and again in
//! rotation.

use crate::fs::tree::{self, Content, Node};
use crate::process::{Process, table};
use wire::frame::{self, MAX_CONTENT};

/// A `Meta` on its way to the stream.
pub enum Meta {
    /// A process as it was then.
    Process(ProcessMeta),
    /// A file of the tree.
    File(&'static Node),
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
            let len = process
                .name
                .iter()
                .position(|&byte| byte == 0)
                .unwrap_or(process.name.len());
            let (space, root, asid) = process.space;
            let name = text(&process.name[..len]);
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
        Meta::File(node) => {
            let mut buf = [0; MAX_CONTENT];
            let build_id = match &node.content {
                Content::Regular(file) => file.build_id().unwrap_or(&[]),
                _ => &[],
            };
            f(frame::Meta::File {
                id: node.id,
                path: text(node.path(&mut buf)),
                build_id,
            });
        }
    }
}

/// The beginning of `bytes` that is text.
fn text(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    }
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
    /// The next `Meta` to tell again.
    pub fn next(&mut self) -> Option<Meta> {
        if let Rotation::Processes(after) = *self {
            match table::next(after) {
                Some(process) => {
                    *self = Rotation::Processes(process.pid);
                    return Some(Meta::Process(Process::meta(&process)));
                }
                None => *self = Rotation::Files(0),
            }
        }
        if let Rotation::Files(after) = *self {
            if let Some(node) = tree::next_mapped(after) {
                *self = Rotation::Files(node.id);
                return Some(Meta::File(node));
            }
            *self = Rotation::Done;
        }
        None
    }
}
