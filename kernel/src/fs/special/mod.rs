//! Files that are no files: what eventfd, timerfd, signalfd, epoll and socket make.

pub mod epoll;
pub mod event;
pub mod signals;
pub mod timer;

use super::buffer::Buffer;
use super::node::{Content, Node, next_id};
use super::watch::{Events, Watchers};
use super::{ANONYMOUS_DEVICE, File, Object};
use crate::arch::heap;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use core::any::Any;

/// One of them.
pub trait Special: Any + Send + Sync {
    /// `read(2)`; EINVAL unless it says otherwise.
    fn read(&self, _to: &mut Buffer<'_>, _nonblocking: bool) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// `write(2)`; EINVAL unless it says otherwise.
    fn write(&self, _from: &mut Buffer<'_>, _nonblocking: bool) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// What poll says.
    fn ready(&self) -> Events;

    /// Those who watch it.
    fn watchers(&self) -> &Watchers;
}

impl dyn Special {
    /// As what it really is.
    pub fn downcast<T: Special>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// An object for a file.
pub fn object(special: impl Special) -> Result<Object, Errno> {
    let special = heap::try_box(special).ok_or(Errno::ENOMEM)?;
    Ok(Object::Special(special))
}

/// A file of an object without a name; `kind` is what /proc shows, such as `[eventfd]`.
pub fn file(special: impl Special, kind: &str, flags: u32) -> Result<Arc<File>, Errno> {
    let content = Content::Anonymous;
    let node = Node::with_id(next_id(), ANONYMOUS_DEVICE, content, 0o600, 0, 0)?;
    node.change(|attributes| attributes.links = 1);
    let name = alloc::format!("anon_inode:{kind}");
    File::unnamed(object(special)?, node, name.as_bytes(), flags)
}
