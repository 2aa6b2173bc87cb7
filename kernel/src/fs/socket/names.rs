//! The names of sockets: files, and abstract ones.

use super::Socket;
use crate::fs::node::{Content, Node};
use crate::fs::tree::Entry;
use crate::syscall::errno::Errno;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use memory::{Lock, Rank};

/// A name as `struct sockaddr_un` has it after the family: a path with its NUL, or a NUL and an
/// abstract name. Shared by all messages from there.
pub type Name = Arc<Vec<u8>>;

/// A name, and where it leads from.
#[derive(Clone)]
pub struct Bound {
    /// The name.
    pub name: Name,
    /// The file, if it is a path.
    pub entry: Option<Arc<Entry>>,
}

/// The socket that a file leads to, while there is one.
pub struct Place(Lock<Option<Weak<Socket>>>);

impl Place {
    /// None.
    pub const fn none() -> Place {
        Place(Lock::new(Rank::Labels, None))
    }

    /// This one.
    pub fn of(socket: &Arc<Socket>) -> Place {
        Place(Lock::new(Rank::Labels, Some(Arc::downgrade(socket))))
    }
}

/// Abstract names.
static ABSTRACT: Lock<Vec<(Name, Weak<Socket>)>> = Lock::new(Rank::Labels, Vec::new());

/// The socket with a file's name. ECONNREFUSED if there is none.
pub fn at(node: &Node) -> Result<Arc<Socket>, Errno> {
    let Content::Socket(place) = &node.content else {
        return Err(Errno::ECONNREFUSED);
    };
    let socket = place.0.lock().as_ref().and_then(Weak::upgrade);
    socket.ok_or(Errno::ECONNREFUSED)
}

/// The socket with an abstract name.
pub fn abstract_one(name: &[u8]) -> Result<Arc<Socket>, Errno> {
    let names = ABSTRACT.lock();
    let found = names.iter().find(|(known, _)| **known == name);
    found
        .and_then(|(_, socket)| socket.upgrade())
        .ok_or(Errno::ECONNREFUSED)
}

/// Gives a socket an abstract name. EADDRINUSE if another one has it.
pub fn claim(name: Name, socket: &Arc<Socket>) -> Result<(), Errno> {
    let mut names = ABSTRACT.lock();
    if names.iter().any(|(known, _)| *known == name) {
        return Err(Errno::EADDRINUSE);
    }
    names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    names.push((name, Arc::downgrade(socket)));
    Ok(())
}

/// An abstract name that nobody has: a NUL and five digits.
pub fn any() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
    alloc::format!("\0{number:05x}").into_bytes()
}

/// The name's socket goes. (A file stays until somebody removes it.)
pub fn forget(name: &Bound, socket: &Socket) {
    if name.entry.is_some() {
        return;
    }
    let mut gone = None;
    let mut names = ABSTRACT.lock();
    let own = |(_, known): &(Name, Weak<Socket>)| core::ptr::eq(known.as_ptr(), socket);
    if let Some(place) = names.iter().position(own) {
        gone = Some(names.swap_remove(place));
    }
    drop(names);
    drop(gone);
}
