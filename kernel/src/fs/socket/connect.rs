//! How sockets find each other.

use super::names::{self, Bound, Name, Place};
use super::{Credentials, Kind, Patience, Phase, READ, Socket, WRITE, garbage};
use crate::arch::heap;
use crate::fs::access::{self, Caller};
use crate::fs::change;
use crate::fs::node::{Content, Node};
use crate::fs::tree::{self, Start};
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{POLLIN, POLLOUT, W_OK};

/// The most connections that wait (net.core.somaxconn).
const BACKLOG: usize = 4096;

/// A path, up to its NUL; none if the name is abstract.
fn path(name: &[u8]) -> Option<&[u8]> {
    let len = name.iter().position(|&byte| byte == 0);
    Some(&name[..len.unwrap_or(name.len())]).filter(|path| !path.is_empty())
}

fn shared(name: Vec<u8>) -> Result<Name, Errno> {
    heap::try_arc(name).ok_or(Errno::ENOMEM)
}

/// The socket that a name leads to, for somebody who wants to write to it.
pub fn find(start: &Start, name: &[u8]) -> Result<Arc<Socket>, Errno> {
    let Some(path) = path(name) else {
        return names::abstract_one(name);
    };
    let entry = tree::lookup(start, path, true)?;
    access::check(&entry.node, &start.caller, W_OK)?;
    names::at(&entry.node)
}

/// Two sockets that are connected.
pub fn pair(kind: Kind) -> Result<[Arc<Socket>; 2], Errno> {
    let sockets = [Socket::new(kind)?, Socket::new(kind)?];
    let credentials = Credentials::current();
    for (own, other) in [(0, 1), (1, 0)] {
        let mut state = sockets[own].state.lock();
        state.peer = Some(sockets[other].clone());
        state.phase = Phase::Connected;
        state.peer_credentials = credentials;
    }
    Ok(sockets)
}

impl Socket {
    /// bind(2), to what follows the family in the address: a path, an abstract name, or nothing, which
    /// means any abstract name.
    pub fn bind(self: &Arc<Socket>, start: &Start, umask: u32, name: &[u8]) -> Result<(), Errno> {
        if name.is_empty() && self.state.lock().name.is_some() {
            return Ok(());
        }
        if self.state.lock().name.is_some() {
            return Err(Errno::EINVAL);
        }
        let bound = match path(name) {
            Some(path) => {
                let at = tree::walk(start, path, false)?;
                let Caller { uid, gid, .. } = start.caller;
                let content = Content::Socket(Place::of(self));
                let node = Node::new(content, 0o777 & !umask, uid, gid)?;
                let entry =
                    change::create(&at, &start.caller, node).map_err(|error| match error {
                        Errno::EEXIST => Errno::EADDRINUSE,
                        error => error,
                    })?;
                let mut name = tree::copy(path)?;
                name.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                name.push(0);
                Bound {
                    name: shared(name)?,
                    entry: Some(entry),
                }
            }
            None if name.is_empty() => loop {
                let name = shared(names::any())?;
                match names::claim(name.clone(), self) {
                    Err(Errno::EADDRINUSE) => {}
                    result => {
                        result?;
                        break Bound { name, entry: None };
                    }
                }
            },
            None => {
                let name = shared(tree::copy(name)?)?;
                names::claim(name.clone(), self)?;
                Bound { name, entry: None }
            }
        };
        let mut state = self.state.lock();
        if state.name.is_some() {
            drop(state);
            names::forget(&bound, self);
            return Err(Errno::EINVAL);
        }
        state.name = Some(bound);
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> Option<Name> {
        let state = self.state.lock();
        state.name.as_ref().map(|bound| bound.name.clone())
    }

    /// That of the other end. ENOTCONN if there is none.
    pub fn peer_name(&self) -> Result<Option<Name>, Errno> {
        let peer = self.state.lock().peer.clone().ok_or(Errno::ENOTCONN)?;
        Ok(peer.name())
    }

    /// listen(2).
    pub fn listen(&self, backlog: u32) -> Result<(), Errno> {
        if !self.kind.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        let credentials = Credentials::current();
        let mut state = self.state.lock();
        if state.name.is_none() || !matches!(state.phase, Phase::Idle | Phase::Listening(_)) {
            return Err(Errno::EINVAL);
        }
        // Negative is as much as there may be, as on Linux.
        state.phase = Phase::Listening((backlog as usize).min(BACKLOG));
        state.credentials = credentials;
        state.writers.wake_all();
        Ok(())
    }

    /// connect(2), to a socket that was found by its name.
    pub fn connect(self: &Arc<Socket>, to: &Arc<Socket>, nonblocking: bool) -> Result<(), Errno> {
        if to.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.kind == Kind::Datagram {
            self.send_to(Some(to.clone()));
            return Ok(());
        }
        let patience = Patience::new(self, WRITE, nonblocking)?;
        let (theirs, name) = to.wait_for_room(&patience)?;
        let other = Socket::new(self.kind)?;
        let own = Credentials::current();
        {
            let mut state = other.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(self.clone());
            state.peer_credentials = own;
            // The accepted end has the listener's name.
            state.name = name;
        }
        {
            let mut state = self.state.lock();
            match state.phase {
                Phase::Idle => {}
                Phase::Connected => return Err(Errno::EISCONN),
                Phase::Listening(_) => return Err(Errno::EINVAL),
            }
            state.phase = Phase::Connected;
            state.peer = Some(other.clone());
            state.peer_credentials = theirs;
        }
        if let Err(error) = to.add_to_backlog(other) {
            let mut state = self.state.lock();
            state.phase = Phase::Idle;
            let peer = state.peer.take();
            drop(state);
            drop(peer);
            return Err(error);
        }
        self.watchers.notify(POLLOUT);
        Ok(())
    }

    /// Waits until one more connection may wait here: who listens, and the name.
    fn wait_for_room(&self, patience: &Patience) -> Result<(Credentials, Option<Bound>), Errno> {
        let mut state = self.state.lock();
        loop {
            let Phase::Listening(limit) = state.phase else {
                return Err(Errno::ECONNREFUSED);
            };
            if state.closed || state.shut[READ] {
                return Err(Errno::ECONNREFUSED);
            }
            if state.backlog.len() <= limit {
                return Ok((state.credentials, state.name.clone()));
            }
            state = self.wait(state, patience, |state| &mut state.writers)?;
        }
    }

    /// A connection waits here.
    fn add_to_backlog(&self, other: Arc<Socket>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.closed || state.shut[READ] {
            return Err(Errno::ECONNREFUSED);
        }
        state.backlog.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        state.backlog.push_back(other);
        state.readers.wake_all();
        drop(state);
        self.watchers.notify(POLLIN);
        Ok(())
    }

    /// Where datagrams go from now on. What has come from elsewhere is forgotten.
    fn send_to(&self, to: Option<Arc<Socket>>) {
        let mut state = self.state.lock();
        let before = core::mem::replace(&mut state.peer, to);
        let changed = match (&before, &state.peer) {
            (Some(before), Some(peer)) => !Arc::ptr_eq(before, peer),
            (before, _) => before.is_some(),
        };
        let queue = match changed {
            true => state.forget(),
            false => Default::default(),
        };
        drop(state);
        drop(before);
        garbage::discard(queue);
    }

    /// Where datagrams went is forgotten (AF_UNSPEC).
    pub fn disconnect(&self) -> Result<(), Errno> {
        if self.kind.connects() {
            return Err(Errno::EINVAL);
        }
        self.send_to(None);
        Ok(())
    }

    /// accept(2).
    pub fn accept(&self, nonblocking: bool) -> Result<Arc<Socket>, Errno> {
        if !self.kind.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        let patience = Patience::new(self, READ, nonblocking)?;
        let mut state = self.state.lock();
        loop {
            if !matches!(state.phase, Phase::Listening(_)) || state.shut[READ] {
                return Err(Errno::EINVAL);
            }
            if let Some(accepted) = state.backlog.pop_front() {
                state.writers.wake_all();
                return Ok(accepted);
            }
            if patience.is_over() {
                return Err(Errno::EAGAIN);
            }
            if current().interrupted() {
                return Err(patience.interrupted());
            }
            state = self.wait(state, &patience, |state| &mut state.readers)?;
        }
    }
}
