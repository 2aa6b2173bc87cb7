//! Sockets of this machine (unix(7)): streams, datagrams, and sequences of packets.
//!
//! What is sent goes into the receiver's queue at once. A socket has one lock, and nobody holds two: who
//! sends looks at his own socket, lets go of it, and then looks at the other one.

pub mod connect;
pub mod garbage;
mod message;
mod names;
mod patience;
mod transfer;

pub use message::{Message, Rights};
use names::Bound;
pub use names::{Name, Place};
use patience::Patience;
pub use transfer::{How, Received, Send};

use super::buffer::Buffer;
use super::node::{Content, Node, next_id};
use super::special::{self, Special};
use super::watch::{Events, Watchers};
use super::{File, Object, SOCKET_DEVICE};
use crate::arch::heap;
use crate::fs::name::MadeUp;
use crate::process::scheduler::WaitQueue;
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::AtomicU64;
use linux_raw_sys::general::{
    O_RDWR, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM,
};
use linux_raw_sys::net::{SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use memory::{Guard, Lock, Rank};

/// Bytes that wait for a receiver, at most, with what they cost; and about the longest packet
/// (net.core.wmem_default).
pub const BUFFER: usize = 212_992;
/// Datagrams that wait for a receiver, before senders wait (net.unix.max_dgram_qlen).
const DATAGRAMS: usize = 10;

/// How a socket transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SOCK_STREAM: bytes, over a connection.
    Stream,
    /// SOCK_DGRAM: packets, without one.
    Datagram,
    /// SOCK_SEQPACKET: packets, over a connection.
    Packets,
}

impl Kind {
    /// As SOCK_*.
    pub fn number(self) -> u32 {
        match self {
            Kind::Stream => SOCK_STREAM,
            Kind::Datagram => SOCK_DGRAM,
            Kind::Packets => SOCK_SEQPACKET,
        }
    }

    /// Whether there are connections.
    pub fn connects(self) -> bool {
        self != Kind::Datagram
    }
}

/// Who is at the other end (`struct ucred`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Credentials {
    /// The process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Credentials {
    /// Nobody known.
    pub const NOBODY: Credentials = Credentials {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };

    /// Those of the current process.
    pub fn current() -> Credentials {
        let process = &current().process;
        let credentials = process.credentials.lock();
        Credentials {
            pid: process.pid,
            uid: credentials.uid.effective,
            gid: credentials.gid.effective,
        }
    }
}

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not connected, or needs no connection.
    Idle,
    /// It is one end.
    Connected,
    /// It waits for connections, so many at a time.
    Listening(usize),
}

struct State {
    phase: Phase,
    /// The other end, or where datagrams go.
    peer: Option<Arc<Socket>>,
    /// What has arrived.
    queue: VecDeque<Message>,
    /// Bytes of that.
    bytes: usize,
    /// What it takes of the kernel's memory, about.
    cost: usize,
    /// The other ends of connections that nobody has accepted.
    backlog: VecDeque<Arc<Socket>>,
    /// Nothing more arrives, or is sent.
    shut: [bool; 2],
    /// Its file is gone.
    closed: bool,
    /// What the next call is told.
    error: Option<Errno>,
    name: Option<Bound>,
    /// Who is at the other end.
    peer_credentials: Credentials,
    /// Who listens here.
    credentials: Credentials,
    /// SO_PASSCRED.
    tells_credentials: bool,
    /// Those who wait for something to arrive; and for room here.
    readers: WaitQueue,
    writers: WaitQueue,
}

impl State {
    /// Takes all that has arrived, to be dropped without the lock.
    fn forget(&mut self) -> VecDeque<Message> {
        (self.bytes, self.cost) = (0, 0);
        core::mem::take(&mut self.queue)
    }
}

/// The direction in which something arrives here.
pub const READ: usize = 0;
/// And that in which it is sent.
pub const WRITE: usize = 1;

/// A socket.
pub struct Socket {
    /// How it transfers.
    pub kind: Kind,
    /// How long to wait for something to arrive, and for room, microseconds (SO_RCVTIMEO,
    /// SO_SNDTIMEO); `u64::MAX`: as long as it takes.
    timeouts: [AtomicU64; 2],
    state: Lock<State>,
    watchers: Watchers,
}

/// The file of a socket. Dropping it closes the socket.
struct Open(Arc<Socket>);

impl Socket {
    /// A new one.
    pub fn new(kind: Kind) -> Result<Arc<Socket>, Errno> {
        let socket = heap::try_arc(Socket {
            kind,
            timeouts: [const { AtomicU64::new(u64::MAX) }; 2],
            state: Lock::new(
                Rank::Waiting,
                State {
                    phase: Phase::Idle,
                    peer: None,
                    queue: VecDeque::new(),
                    bytes: 0,
                    cost: 0,
                    backlog: VecDeque::new(),
                    shut: [false; 2],
                    closed: false,
                    error: None,
                    name: None,
                    peer_credentials: Credentials::NOBODY,
                    credentials: Credentials::NOBODY,
                    tells_credentials: false,
                    readers: WaitQueue::new(),
                    writers: WaitQueue::new(),
                },
            ),
            watchers: Watchers::new(),
        })
        .ok_or(Errno::ENOMEM)?;
        garbage::register(&socket)?;
        Ok(socket)
    }

    /// A file for it.
    pub fn file(socket: Arc<Socket>, flags: u32) -> Result<Arc<File>, Errno> {
        // Closed again if there is no memory for the rest.
        let open = Open(socket);
        let id = next_id();
        let (uid, gid) = {
            let caller = super::access::Caller::current();
            (caller.uid, caller.gid)
        };
        let content = Content::Socket(Place::none());
        let node = Node::with_id(id, SOCKET_DEVICE, content, 0o777, uid, gid)?;
        node.change(|attributes| attributes.links = 1);
        let name = MadeUp::new(format_args!("socket:[{id}]"));
        File::unnamed(special::object(open)?, node, &name, O_RDWR | flags)
    }

    /// The socket of a file. ENOTSOCK if it is none.
    pub fn of(file: &File) -> Result<&Arc<Socket>, Errno> {
        Socket::find(file).ok_or(Errno::ENOTSOCK)
    }

    fn find(file: &File) -> Option<&Arc<Socket>> {
        match &file.object {
            Object::Special(special) => special.downcast::<Open>().map(|open| &open.0),
            _ => None,
        }
    }

    /// Sleeps until somebody wakes the readers (or writers) of this socket: EAGAIN if that takes too
    /// long.
    fn wait<'a>(
        &'a self,
        state: Guard<'a, State>,
        patience: &Patience,
        queue: impl Fn(&mut State) -> &mut WaitQueue,
    ) -> Result<Guard<'a, State>, Errno> {
        if patience.is_over() {
            return Err(Errno::EAGAIN);
        }
        let state = WaitQueue::wait_unless(&self.state, state, queue, || patience.is_over());
        if current().interrupted() {
            return Err(patience.interrupted());
        }
        Ok(state)
    }

    /// Wakes all, and tells those who poll: something has changed.
    fn wake(&self, mut state: Guard<'_, State>, events: Events) {
        state.readers.wake_all();
        state.writers.wake_all();
        drop(state);
        self.watchers.notify(events);
    }

    /// What is told once: SO_ERROR.
    pub fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// Whether it waits for connections (SO_ACCEPTCONN).
    pub fn listens(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Listening(_))
    }

    /// Who is at the other end (SO_PEERCRED).
    pub fn peer_credentials(&self) -> Credentials {
        self.state.lock().peer_credentials
    }

    /// SO_PASSCRED.
    pub fn tells_credentials(&self) -> bool {
        self.state.lock().tells_credentials
    }

    /// Sets that.
    pub fn set_tells_credentials(&self, on: bool) {
        self.state.lock().tells_credentials = on;
    }

    /// Bytes that can be read; of the first packet, where there are packets (FIONREAD).
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        match self.kind {
            Kind::Stream | Kind::Packets => state.bytes,
            Kind::Datagram => state.queue.front().map_or(0, Message::len),
        }
    }

    /// shutdown(2): the one direction, the other, or both.
    pub fn shut(&self, read: bool, write: bool) {
        let mut state = self.state.lock();
        state.shut[READ] |= read;
        state.shut[WRITE] |= write;
        let peer = state.peer.clone().filter(|_| self.kind.connects());
        self.wake(state, POLLIN | POLLOUT | POLLHUP);
        if let Some(peer) = peer {
            let mut state = peer.state.lock();
            state.shut[READ] |= write;
            state.shut[WRITE] |= read;
            peer.wake(state, POLLIN | POLLOUT | POLLHUP);
        }
    }

    /// Its file goes, or nobody will ever accept it.
    fn close(&self) {
        let (peer, queue, backlog, name);
        {
            let mut state = self.state.lock();
            state.closed = true;
            state.shut = [true; 2];
            peer = state.peer.take();
            queue = state.forget();
            backlog = core::mem::take(&mut state.backlog);
            // Those who have its messages may still ask for it.
            name = state.name.clone();
            self.wake(state, POLLHUP | POLLIN | POLLOUT);
        }
        if let Some(name) = &name {
            names::forget(name, self);
        }
        if let Some(peer) = peer
            && self.kind.connects()
        {
            let mut state = peer.state.lock();
            state.shut = [true; 2];
            if !queue.is_empty() {
                state.error = Some(Errno::ECONNRESET);
            }
            peer.wake(state, POLLHUP | POLLIN | POLLOUT);
        }
        for waiting in backlog {
            let client = waiting.state.lock().peer.clone();
            if let Some(client) = client {
                client.state.lock().error = Some(Errno::ECONNRESET);
            }
            waiting.close();
        }
        // Without any lock: files that were sent may go with it.
        garbage::discard(queue);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
        garbage::collect();
    }
}

impl Special for Open {
    fn read(&self, to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        let how = How {
            nonblocking,
            ..How::default()
        };
        Ok(self.0.receive(to, &how)?.count)
    }

    fn write(&self, from: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
        let send = Send {
            nonblocking,
            ..Send::default()
        };
        self.0.send(from, send)
    }

    fn ready(&self) -> Events {
        let (mut events, peer);
        {
            let state = self.0.state.lock();
            events = self.0.readable(&state);
            peer = state.peer.clone();
            if matches!(state.phase, Phase::Listening(_)) {
                return events;
            }
        }
        // As Linux has it, while a quarter of the room is taken.
        let room = |peer: Arc<Socket>| peer.state.lock().cost * 4 <= BUFFER;
        if self.0.kind == Kind::Datagram || peer.is_none_or(room) {
            events |= POLLOUT | POLLWRNORM | POLLWRBAND;
        }
        events
    }

    fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }
}

impl Socket {
    fn readable(&self, state: &State) -> Events {
        let mut events = 0;
        if state.error.is_some() {
            events |= POLLERR;
        }
        if state.shut == [true; 2] {
            events |= POLLHUP;
        }
        if state.shut[READ] {
            events |= POLLRDHUP | POLLIN | POLLRDNORM;
        }
        if !state.queue.is_empty() || !state.backlog.is_empty() {
            events |= POLLIN | POLLRDNORM;
        }
        if self.kind.connects() && state.phase == Phase::Idle {
            events |= POLLHUP;
        }
        events
    }
}
