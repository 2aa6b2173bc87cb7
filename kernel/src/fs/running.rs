//! The program of a process, which nobody may write meanwhile.

use super::node::Content;
use super::tree::Entry;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;

/// A program that runs.
pub struct Program(Arc<Entry>);

impl Program {
    /// ETXTBSY if somebody may write it.
    pub fn new(entry: Arc<Entry>) -> Result<Program, Errno> {
        if let Content::Regular(file) = &entry.node.content {
            file.deny_writing()?;
        }
        Ok(Program(entry))
    }

    /// What it was started from.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Clone for Program {
    fn clone(&self) -> Program {
        // Nobody writes it, since it runs.
        let again = Program::new(self.0.clone());
        again.unwrap_or_else(|_| unreachable!("a running program is open for writing"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Content::Regular(file) = &self.0.node.content {
            file.allow_writing();
        }
    }
}
