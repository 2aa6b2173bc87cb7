//! Sending and receiving.

use super::garbage;
use super::message::{Message, Rights};
use super::{BUFFER, Credentials, DATAGRAMS, Kind, Patience, Phase, READ, Socket, State, WRITE};
use crate::fs::buffer::Buffer;
use crate::process::signal;
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use linux_raw_sys::general::{POLLIN, POLLOUT, SIGPIPE};
use memory::Guard;

/// Bytes of a stream that travel together.
const STEP: usize = 32 * 1024;

/// How something is sent.
#[derive(Default)]
pub struct Send {
    /// Without waiting for room.
    pub nonblocking: bool,
    /// Without SIGPIPE.
    pub quiet: bool,
    /// To whom, instead of the other end.
    pub to: Option<Arc<Socket>>,
    /// With these files.
    pub rights: Rights,
}

/// How something is received.
#[derive(Clone, Copy, Default)]
pub struct How {
    /// Without waiting for it.
    pub nonblocking: bool,
    /// It stays (MSG_PEEK).
    pub peek: bool,
    /// All that was asked for (MSG_WAITALL).
    pub all: bool,
    /// What was sent out of band (MSG_OOB): there is no such thing, as on Linux without
    /// CONFIG_AF_UNIX_OOB.
    pub urgent: bool,
}

/// What was received.
pub struct Received {
    /// Bytes that were put into the buffer.
    pub count: usize,
    /// Bytes of the packet.
    pub len: usize,
    /// The socket that sent it, whose name is the one that it has by now.
    pub from: Option<Arc<Socket>>,
    /// Files that came with it.
    pub rights: Rights,
    /// Who sent it.
    pub credentials: Credentials,
}

impl Received {
    fn nothing() -> Received {
        Received {
            count: 0,
            len: 0,
            from: None,
            rights: Rights::new(),
            credentials: Credentials::NOBODY,
        }
    }
}

impl Socket {
    /// Sends all of it, or as much as there is room for without waiting.
    pub fn send(self: &Arc<Socket>, from: &mut Buffer<'_>, send: Send) -> Result<usize, Errno> {
        let quiet = send.quiet;
        let result = match self.kind {
            Kind::Stream => self.send_stream(from, send),
            _ => self.send_packet(from, send),
        };
        if result == Err(Errno::EPIPE) && !quiet && self.kind == Kind::Stream {
            let info = signal::Info::by_current(SIGPIPE);
            signal::send_to_thread(&current().share(), info);
        }
        result
    }

    /// The other end, if something can be sent to it.
    fn receiver(&self) -> Result<Arc<Socket>, Errno> {
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if self.kind.connects() && state.phase != Phase::Connected {
            return Err(Errno::ENOTCONN);
        }
        if state.shut[WRITE] {
            return Err(Errno::EPIPE);
        }
        state.peer.clone().ok_or(Errno::ENOTCONN)
    }

    fn message(self: &Arc<Socket>, from: &mut Buffer<'_>, most: usize) -> Result<Message, Errno> {
        let mut message = Message::read(from, most)?;
        message.from = Some(self.clone());
        message.credentials = Credentials::current();
        Ok(message)
    }

    fn send_stream(
        self: &Arc<Socket>,
        from: &mut Buffer<'_>,
        mut send: Send,
    ) -> Result<usize, Errno> {
        let peer = self.receiver()?;
        let patience = Patience::new(self, WRITE, send.nonblocking)?;
        let mut done = 0;
        while from.left() > 0 {
            let mut message = match self.message(from, STEP) {
                Ok(message) => message,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            message.bring(core::mem::take(&mut send.rights));
            let len = message.len();
            let room = |state: &State| state.cost < BUFFER;
            match peer.deliver(message, &patience, room) {
                Ok(()) => done += len,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn send_packet(self: &Arc<Socket>, from: &mut Buffer<'_>, send: Send) -> Result<usize, Errno> {
        let peer = match send.to {
            Some(to) => to,
            None => self.receiver()?,
        };
        if self.state.lock().shut[WRITE] {
            return Err(Errno::EPIPE);
        }
        if from.left() > BUFFER - 32 {
            return Err(Errno::EMSGSIZE);
        }
        let mut message = self.message(from, usize::MAX)?;
        message.bring(send.rights);
        let len = message.len();
        let patience = Patience::new(self, WRITE, send.nonblocking)?;
        let result = match self.kind {
            Kind::Datagram => {
                // Between two that only have each other the count does not matter.
                let room = |state: &State| match &state.peer {
                    Some(peer) if Arc::ptr_eq(peer, self) => state.cost < BUFFER,
                    _ => state.queue.len() <= DATAGRAMS,
                };
                peer.deliver(message, &patience, room)
            }
            _ => {
                let room = |state: &State| state.cost < BUFFER;
                peer.deliver(message, &patience, room)
            }
        };
        if result == Err(Errno::ECONNREFUSED) {
            self.leave(&peer);
        }
        result.map(|()| len)
    }

    /// Where datagrams went is gone: what has come from there is forgotten as well, as on Linux.
    fn leave(&self, gone: &Arc<Socket>) {
        let mut state = self.state.lock();
        let Some(peer) = state.peer.take_if(|known| Arc::ptr_eq(known, gone)) else {
            return;
        };
        let queue = state.forget();
        drop(state);
        drop(peer);
        garbage::discard(queue);
    }

    /// Puts a message into this socket's queue.
    fn deliver(
        &self,
        message: Message,
        patience: &Patience,
        room: impl Fn(&State) -> bool,
    ) -> Result<(), Errno> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(match self.kind {
                    Kind::Datagram => Errno::ECONNREFUSED,
                    _ => Errno::EPIPE,
                });
            }
            if state.shut[READ] {
                return Err(Errno::EPIPE);
            }
            if room(&state) {
                break;
            }
            state = self.wait(state, patience, |state| &mut state.writers)?;
        }
        state.queue.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        state.bytes += message.len();
        state.cost += message.cost();
        state.queue.push_back(message);
        state.readers.wake_all();
        drop(state);
        self.watchers.notify(POLLIN);
        Ok(())
    }

    /// Receives; waits for the first byte or packet unless told otherwise.
    pub fn receive(&self, to: &mut Buffer<'_>, how: &How) -> Result<Received, Errno> {
        let mut received = Received::nothing();
        // Dropped without the lock: files that were sent may go with them.
        let mut read = alloc::vec::Vec::new();
        let (mut skip, mut told) = (0, 0);
        let patience = Patience::new(self, READ, how.nonblocking)?;
        let mut state = self.state.lock();
        match (self.kind, state.phase) {
            (Kind::Datagram, _) | (_, Phase::Connected) => {}
            (Kind::Stream, _) => return Err(Errno::EINVAL),
            (Kind::Packets, _) => return Err(Errno::ENOTCONN),
        }
        if how.urgent {
            return Err(Errno::EOPNOTSUPP);
        }
        let result = loop {
            if let Some(error) = state.error.take_if(|_| received.count == 0) {
                break Err(error);
            }
            let enough = match self.kind {
                Kind::Stream => {
                    self.take_bytes(&mut state, to, how, &mut received, &mut skip, &mut read)
                }
                _ => self.take_packet(&mut state, to, how, &mut received, &mut read),
            };
            match enough {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(_) if received.count > 0 => break Ok(()),
                Err(error) => break Err(error),
            }
            if state.shut[READ] || received.count > 0 && !how.all {
                break Ok(());
            }
            // Who waits for room may have what is still missing.
            if received.count > told {
                told = received.count;
                self.tell_of_room(state);
                state = self.state.lock();
                continue;
            }
            state = match self.wait(state, &patience, |state| &mut state.readers) {
                Ok(state) => state,
                Err(_) if received.count > 0 => return Ok(received),
                Err(error) => return Err(error),
            };
        };
        self.tell_of_room(state);
        drop(read);
        result.map(|()| received)
    }

    /// There may be room for those who wait for it, here or in poll.
    fn tell_of_room(&self, mut state: Guard<'_, State>) {
        state.writers.wake_all();
        let peer = state.peer.clone();
        drop(state);
        if let Some(peer) = peer {
            peer.watchers.notify(POLLOUT);
        }
    }

    /// Moves bytes of a stream: whether that is enough. Files end what is read together.
    fn take_bytes(
        &self,
        state: &mut State,
        to: &mut Buffer<'_>,
        how: &How,
        received: &mut Received,
        skip: &mut usize,
        read: &mut alloc::vec::Vec<Message>,
    ) -> Result<bool, Errno> {
        // Where the look begins that takes nothing away.
        let (mut index, mut ahead) = (0, if how.peek { *skip } else { 0 });
        read.try_reserve(state.queue.len())
            .map_err(|_| Errno::ENOMEM)?;
        while to.left() > 0 {
            let Some(message) = state.queue.get_mut(index) else {
                return Ok(false);
            };
            if how.peek && ahead >= message.len() {
                ahead -= message.len();
                index += 1;
                continue;
            }
            if !message.rights.is_empty() && received.count > 0 {
                return Ok(true);
            }
            let wanted = message.bytes(ahead).len().min(to.left());
            let count = to.put(message.bytes(ahead))?;
            if received.count == 0 {
                received.from = message.from.clone();
                received.credentials = message.credentials;
            }
            received.count += count;
            received.len = received.count;
            if how.peek {
                *skip += count;
                ahead += count;
                let brings = !message.rights.is_empty();
                if received.rights.is_empty() {
                    received.rights = copy(&message.rights)?;
                }
                if brings || count < wanted {
                    return Ok(true);
                }
                continue;
            }
            message.advance(count);
            let rights = core::mem::take(&mut message.rights);
            let (brings, is_over) = (!rights.is_empty(), message.len() == 0);
            if brings {
                received.rights = rights;
            }
            state.bytes -= count;
            if is_over && let Some(message) = state.queue.pop_front() {
                state.cost -= message.cost();
                read.push(message);
            }
            if brings || count < wanted {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Moves a packet: whether there was one.
    fn take_packet(
        &self,
        state: &mut State,
        to: &mut Buffer<'_>,
        how: &How,
        received: &mut Received,
        read: &mut alloc::vec::Vec<Message>,
    ) -> Result<bool, Errno> {
        let Some(message) = state.queue.front_mut() else {
            return Ok(false);
        };
        read.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        received.len = message.len();
        received.from = message.from.clone();
        received.credentials = message.credentials;
        let wanted = message.len().min(to.left());
        if how.peek {
            received.rights = copy(&message.rights)?;
            received.count = to.put(message.bytes(0))?;
            return if received.count < wanted {
                Err(Errno::EFAULT)
            } else {
                Ok(true)
            };
        }
        let result = to.put(message.bytes(0));
        received.rights = core::mem::take(&mut message.rights);
        state.bytes -= received.len;
        state.cost -= message.cost();
        // As on Linux a packet that cannot be written is lost.
        read.extend(state.queue.pop_front());
        match result? {
            count if count < wanted => Err(Errno::EFAULT),
            count => {
                received.count = count;
                Ok(true)
            }
        }
    }
}

fn copy(rights: &Rights) -> Result<Rights, Errno> {
    let mut copy = Rights::new();
    copy.try_reserve_exact(rights.len())
        .map_err(|_| Errno::ENOMEM)?;
    copy.extend_from_slice(rights);
    Ok(copy)
}
