//! How two processes take turns: a byte through a pipe, one pipe each way.

use crate::fail;
use crate::file::{self, Fd, Pipe};
use crate::print::OrFail;

/// Two pipes between a parent and a child, made before the fork. Each side then takes its ends, and
/// closes the other's: so that if one process dies, the other does not wait for it forever.
pub struct Conversation {
    to_child: Pipe,
    to_parent: Pipe,
}

impl Conversation {
    /// Makes the pipes.
    pub fn new() -> Self {
        Self {
            to_child: file::pipe2(0).or_fail("making a pipe"),
            to_parent: file::pipe2(0).or_fail("making a pipe"),
        }
    }

    /// The parent's side.
    pub fn parent_side(self) -> Side {
        file::close(self.to_child.reader).or_fail("closing a pipe");
        file::close(self.to_parent.writer).or_fail("closing a pipe");
        Side {
            from: self.to_parent.reader,
            to: self.to_child.writer,
        }
    }

    /// The child's side.
    pub fn child_side(self) -> Side {
        file::close(self.to_child.writer).or_fail("closing a pipe");
        file::close(self.to_parent.reader).or_fail("closing a pipe");
        Side {
            from: self.to_child.reader,
            to: self.to_parent.writer,
        }
    }
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new()
    }
}

/// One side of a conversation.
pub struct Side {
    from: Fd,
    to: Fd,
}

impl Side {
    /// Lets the other side go on.
    pub fn tell(&self) {
        file::write_all(self.to, b".").or_fail("writing to the other process");
    }

    /// Waits until the other side has told.
    pub fn wait(&self) {
        let mut byte = [0];
        if file::read(self.from, &mut byte).or_fail("reading from the other process") == 0 {
            fail(format_args!("the other process ended too early"));
        }
    }

    /// Closes this side.
    pub fn close(self) {
        file::close(self.from).or_fail("closing a pipe");
        file::close(self.to).or_fail("closing a pipe");
    }
}
