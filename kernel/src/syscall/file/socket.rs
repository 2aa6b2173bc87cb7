//! Sockets.

use super::super::errno::Errno;
use super::super::{Result, user};
use super::descriptor::install_pair;
use super::io::{self, transfer};
use super::{Fallible, file, install};
use crate::arch::uaccess;
use crate::fs::access::Caller;
use crate::fs::buffer::Buffer;
use crate::fs::socket::{
    BUFFER, Credentials, How, Kind, Name, READ, Received, Rights, Send, Socket, WRITE, connect,
    garbage,
};
use crate::fs::tree::Start;
use crate::fs::{Descriptor, File};
use crate::process::limits;
use crate::process::thread::current;
use alloc::sync::Arc;
use alloc::vec::Vec;
use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK, timeval};
use linux_raw_sys::net::{
    AF_UNIX, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK,
    MSG_TRUNC, MSG_WAITALL, SCM_CREDENTIALS, SCM_RIGHTS, SHUT_RD, SHUT_RDWR, SHUT_WR,
    SO_ACCEPTCONN, SO_DOMAIN, SO_ERROR, SO_PASSCRED, SO_PEERCRED, SO_PROTOCOL, SO_RCVBUF,
    SO_RCVTIMEO_NEW, SO_RCVTIMEO_OLD, SO_SNDBUF, SO_SNDTIMEO_NEW, SO_SNDTIMEO_OLD, SO_TYPE,
    SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET,
};

/// The longest address: a family, and 108 bytes.
const ADDRESS: usize = 110;
/// SOCK_MAX.
const TYPES: u32 = 11;
/// AF_UNSPEC.
const UNSPECIFIED: u16 = 0;
/// The most files in a message (SCM_MAX_FD).
const MOST_FILES: usize = 253;

/// The kind of a socket, and flags for its descriptor.
fn kind(domain: u32, kind: u32, protocol: u32) -> Fallible<(Kind, u32)> {
    let flags = kind & !0xf;
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    // There is no network.
    if domain != AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if kind & 0xf >= TYPES {
        return Err(Errno::EINVAL);
    }
    if protocol != 0 && protocol != AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let kind = match kind & 0xf {
        SOCK_STREAM => Kind::Stream,
        SOCK_DGRAM | SOCK_RAW => Kind::Datagram,
        SOCK_SEQPACKET => Kind::Packets,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    Ok((kind, flags))
}

/// socket(domain, type, protocol).
pub fn socket(domain: u32, how: u32, protocol: u32) -> Result {
    let (kind, flags) = kind(domain, how, protocol)?;
    let file = Socket::file(Socket::new(kind)?, flags & O_NONBLOCK)?;
    install(file, flags & O_CLOEXEC != 0, 0)
}

/// socketpair(domain, type, protocol, descriptors).
pub fn socketpair(domain: u32, how: u32, protocol: u32, addr: u64) -> Result {
    let (kind, flags) = kind(domain, how, protocol)?;
    let [first, second] = connect::pair(kind)?;
    let first = Socket::file(first, flags & O_NONBLOCK)?;
    let second = Socket::file(second, flags & O_NONBLOCK)?;
    install_pair(addr, [first, second], flags & O_CLOEXEC != 0)
}

/// An address that a program gives: its family and what follows. EINVAL if that is too long.
fn read_address(addr: u64, len: u64) -> Fallible<(u16, Vec<u8>)> {
    /// `struct sockaddr_storage`.
    const LONGEST: u64 = 128;
    let len = u64::from(len as u32);
    if len > LONGEST {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; LONGEST as usize];
    let bytes = &mut bytes[..len as usize];
    uaccess::read(bytes, addr)?;
    let [low, high, name @ ..] = bytes else {
        return Err(Errno::EINVAL);
    };
    if name.len() + 2 > ADDRESS {
        return Err(Errno::EINVAL);
    }
    let family = u16::from_le_bytes([*low, *high]);
    Ok((family, crate::fs::tree::copy(name)?))
}

/// Tells the program an address: as much as there is room for, and how long it is.
fn write_address(name: Option<&Name>, addr: u64, len: u64) -> Fallible<()> {
    let room: u32 = user::read(len)?;
    if (room as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; ADDRESS + 1];
    let name = name.map_or(&[][..], |name| name.as_slice());
    let whole = 2 + name.len();
    bytes[..2].copy_from_slice(&(AF_UNIX as u16).to_le_bytes());
    bytes[2..whole].copy_from_slice(name);
    uaccess::write(addr, &bytes[..whole.min(room as usize)])?;
    user::write(len, &(whole as u32))
}

/// Where the paths of the current process start, and its umask.
fn start() -> (Start, u32) {
    let process = &current().process;
    let (root, directory, umask) = {
        let state = process.state.lock();
        (state.root.clone(), state.directory.clone(), state.umask)
    };
    let caller = Caller::current();
    (
        Start {
            root,
            directory,
            caller,
        },
        umask,
    )
}

/// bind(fd, address, length).
pub fn bind(fd: u64, addr: u64, len: u64) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let (family, name) = read_address(addr, len)?;
    if u32::from(family) != AF_UNIX {
        return Err(Errno::EINVAL);
    }
    let (start, umask) = start();
    socket.bind(&start, umask, &name)?;
    Ok(0)
}

/// The socket that an address names.
fn find(family: u16, name: &[u8]) -> Fallible<Arc<Socket>> {
    if u32::from(family) != AF_UNIX || name.is_empty() {
        return Err(Errno::EINVAL);
    }
    connect::find(&start().0, name)
}

/// connect(fd, address, length).
pub fn connect(fd: u64, addr: u64, len: u64) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let (family, name) = read_address(addr, len)?;
    if family == UNSPECIFIED {
        socket.disconnect()?;
        return Ok(0);
    }
    let to = find(family, &name)?;
    socket.connect(&to, file.nonblocking())?;
    Ok(0)
}

/// listen(fd, backlog).
pub fn listen(fd: u64, backlog: u32) -> Result {
    Socket::of(&*file(fd)?)?.listen(backlog)?;
    Ok(0)
}

/// accept4(fd, address, length, flags).
pub fn accept4(fd: u64, addr: u64, len: u64, flags: u32) -> Result {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let accepted = socket.accept(file.nonblocking())?;
    let name = accepted.peer_name();
    // If it gets no descriptor it is closed with its file.
    let file = Socket::file(accepted, flags & O_NONBLOCK)?;
    if addr != 0 {
        write_address(name.unwrap_or_default().as_ref(), addr, len)?;
    }
    install(file, flags & O_CLOEXEC != 0, 0)
}

/// getsockname(fd, address, length).
pub fn getsockname(fd: u64, addr: u64, len: u64) -> Result {
    let name = Socket::of(&*file(fd)?)?.name();
    write_address(name.as_ref(), addr, len)?;
    Ok(0)
}

/// getpeername(fd, address, length).
pub fn getpeername(fd: u64, addr: u64, len: u64) -> Result {
    let name = Socket::of(&*file(fd)?)?.peer_name()?;
    write_address(name.as_ref(), addr, len)?;
    Ok(0)
}

/// shutdown(fd, how).
pub fn shutdown(fd: u64, how: u32) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    if how > SHUT_RDWR {
        return Err(Errno::EINVAL);
    }
    socket.shut(how != SHUT_WR, how != SHUT_RD);
    Ok(0)
}

/// The size of the buffers, which nobody changes.
const SIZE: u32 = BUFFER as u32;

/// getsockopt(fd, level, option, value, length).
pub fn getsockopt(fd: u64, level: u32, option: u32, addr: u64, len: u64) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let room: u32 = user::read(len)?;
    if (room as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; 16];
    let mut size = 4;
    let value = match option {
        SO_TYPE => socket.kind.number(),
        SO_DOMAIN => AF_UNIX,
        SO_PROTOCOL => 0,
        SO_ERROR => socket.take_error().map_or(0, |error| error.code().into()),
        SO_ACCEPTCONN => socket.listens().into(),
        SO_SNDBUF | SO_RCVBUF => SIZE,
        SO_PASSCRED => socket.tells_credentials().into(),
        SO_PEERCRED => {
            let credentials = socket.peer_credentials();
            size = 12;
            bytes[..size].copy_from_slice(&self::credentials(credentials));
            credentials.pid
        }
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW | SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW => {
            let timeout = socket.timeout(direction(option)).unwrap_or(0);
            size = 16;
            bytes[..8].copy_from_slice(&(timeout / 1_000_000).to_le_bytes());
            bytes[8..].copy_from_slice(&(timeout % 1_000_000).to_le_bytes());
            (timeout / 1_000_000) as u32
        }
        _ => return Err(Errno::ENOPROTOOPT),
    };
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    let size = size.min(room as usize);
    uaccess::write(addr, &bytes[..size])?;
    user::write(len, &(size as u32))?;
    Ok(0)
}

/// setsockopt(fd, level, option, value, length).
pub fn setsockopt(fd: u64, level: u32, option: u32, addr: u64, len: u64) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    if level != SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    if (len as u32) < 4 || (len as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let value: u32 = user::read(addr)?;
    match option {
        SO_PASSCRED => socket.set_tells_credentials(value != 0),
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW | SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW => {
            if (len as usize) < size_of::<timeval>() {
                return Err(Errno::EINVAL);
            }
            socket.set_timeout(direction(option), timeout(user::read(addr)?)?);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}

/// Which wait a timeout is for.
fn direction(option: u32) -> usize {
    match option {
        SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW => READ,
        _ => WRITE,
    }
}

/// A timeout in microseconds; none: 0, or more than anybody can wait. Before now it is not to wait.
fn timeout(time: timeval) -> Fallible<Option<u64>> {
    if !(0..1_000_000).contains(&time.tv_usec) {
        return Err(Errno::EDOM);
    }
    let Ok(seconds) = u64::try_from(time.tv_sec) else {
        return Ok(Some(0));
    };
    let microseconds = seconds.checked_mul(1_000_000);
    let microseconds = microseconds.and_then(|all| all.checked_add(time.tv_usec as u64));
    Ok(microseconds.filter(|&all| all > 0))
}

/// `struct ucred`.
fn credentials(of: Credentials) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (slot, id) in bytes.chunks_exact_mut(4).zip([of.pid, of.uid, of.gid]) {
        slot.copy_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn how_to_send(file: &File, flags: u32) -> Fallible<Send> {
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(Send {
        nonblocking: file.nonblocking() || flags & MSG_DONTWAIT != 0,
        quiet: flags & MSG_NOSIGNAL != 0,
        ..Send::default()
    })
}

/// To whom: for datagrams somebody else than the other end, and for the others nobody else.
fn receiver(socket: &Socket, addr: u64, len: u64) -> Fallible<Option<Arc<Socket>>> {
    if addr == 0 || len as u32 == 0 {
        return Ok(None);
    }
    let (family, name) = read_address(addr, len)?;
    if socket.kind == Kind::Stream {
        return Err(match socket.peer_name() {
            Ok(_) => Errno::EISCONN,
            Err(_) => Errno::EOPNOTSUPP,
        });
    }
    if socket.kind == Kind::Packets {
        // The address does not matter where there is a connection.
        return Ok(None);
    }
    let to = find(family, &name)?;
    if to.kind != socket.kind {
        return Err(Errno::EPROTOTYPE);
    }
    Ok(Some(to))
}

/// sendto(fd, buffer, length, flags, address, length).
pub fn sendto(fd: u64, addr: u64, len: u64, flags: u32, to: u64, to_len: u64) -> Result {
    let mut buffer = io::buffer(addr, transfer(len) as u64)?;
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let mut send = how_to_send(&file, flags)?;
    send.to = receiver(socket, to, to_len)?;
    Ok(socket.send(&mut buffer, send)? as u64)
}

fn how_to_receive(file: &File, flags: u32) -> How {
    How {
        nonblocking: file.nonblocking() || flags & MSG_DONTWAIT != 0,
        peek: flags & MSG_PEEK != 0,
        all: flags & MSG_WAITALL != 0,
        urgent: flags & MSG_OOB != 0,
    }
}

/// What the call returns: with MSG_TRUNC, how long the packet was.
fn received_len(socket: &Socket, received: &Received, flags: u32) -> u64 {
    match socket.kind {
        Kind::Datagram | Kind::Packets if flags & MSG_TRUNC != 0 => received.len as u64,
        _ => received.count as u64,
    }
}

/// recvfrom(fd, buffer, length, flags, address, length).
pub fn recvfrom(fd: u64, addr: u64, len: u64, flags: u32, from: u64, from_len: u64) -> Result {
    let mut buffer = io::buffer(addr, transfer(len) as u64)?;
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let received = socket.receive(&mut buffer, &how_to_receive(&file, flags))?;
    if from != 0 {
        write_sender(&received, from, from_len)?;
    }
    Ok(received_len(socket, &received, flags))
}

/// Who sent it: nothing at all if that one has no name.
fn write_sender(received: &Received, addr: u64, len: u64) -> Fallible<()> {
    let name = received.from.as_ref().and_then(|from| from.name());
    match &name {
        Some(_) => write_address(name.as_ref(), addr, len),
        None => {
            let room: u32 = user::read(len)?;
            if (room as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            user::write(len, &0_u32)
        }
    }
}

/// `struct msghdr`, padding spelled out.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Header {
    name: u64,
    name_len: u32,
    pad: u32,
    vector: u64,
    count: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    pad2: u32,
}

/// Where in it the length of the name is, that of the control data, and the flags.
const NAME_LEN: u64 = 8;
const CONTROL_LEN: u64 = 40;
const FLAGS: u64 = 48;
/// Bytes of a `struct cmsghdr`.
const CONTROL: u64 = 16;
/// Bytes that control data may have (net.core.optmem_max).
const MOST_CONTROL: u64 = 131_072;

fn header(addr: u64) -> Fallible<(Header, Buffer<'static>)> {
    let header: Header = user::read(addr)?;
    if header.count > 1024 {
        return Err(Errno::EMSGSIZE);
    }
    if (header.name_len as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    Ok((header, io::buffers(header.vector, header.count)?))
}

/// sendmsg(fd, message, flags).
pub fn sendmsg(fd: u64, addr: u64, flags: u32) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let (header, mut buffer) = header(addr)?;
    let mut send = how_to_send(&file, flags)?;
    if header.control_len > MOST_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    send.rights = control(&header)?;
    send.to = receiver(socket, header.name, u64::from(header.name_len))?;
    garbage::note(&send.rights);
    Ok(socket.send(&mut buffer, send)? as u64)
}

/// The files that a message is to bring. Credentials must be those of the sender, or it is root's.
fn control(header: &Header) -> Fallible<Rights> {
    let mut rights = Rights::new();
    let mut at = 0;
    while header.control != 0 && header.control_len - at >= CONTROL {
        let start = header.control.wrapping_add(at);
        let len: u64 = user::read(start)?;
        let level: u32 = user::read(start.wrapping_add(8))?;
        let kind: u32 = user::read(start.wrapping_add(12))?;
        if len < CONTROL || len > header.control_len - at {
            return Err(Errno::EINVAL);
        }
        let data = start.wrapping_add(CONTROL);
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                let count = ((len - CONTROL) / 4) as usize;
                if count + rights.len() > MOST_FILES {
                    return Err(Errno::EINVAL);
                }
                rights.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
                for index in 0..count as u64 {
                    let fd: u32 = user::read(data.wrapping_add(4 * index))?;
                    rights.push(super::any_file(fd.into())?);
                }
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => check_credentials(data, len - CONTROL)?,
            (SOL_SOCKET, _) => return Err(Errno::EINVAL),
            _ => {}
        }
        at += len.next_multiple_of(8);
        if at >= header.control_len {
            break;
        }
    }
    Ok(rights)
}

/// What a sender says of itself: root may say what it likes, but is told of as itself.
fn check_credentials(addr: u64, len: u64) -> Fallible<()> {
    if len != 12 {
        return Err(Errno::EINVAL);
    }
    let mut ids = [0; 3];
    for (index, id) in ids.iter_mut().enumerate() {
        *id = user::read::<u32>(addr.wrapping_add(4 * index as u64))?;
    }
    let process = &current().process;
    let credentials = process.credentials.lock();
    let known = |ids: &crate::process::credentials::Ids, id| {
        [ids.real, ids.effective, ids.saved].contains(&id)
    };
    let [pid, uid, gid] = ids;
    match pid == process.pid && known(&credentials.uid, uid) && known(&credentials.gid, gid) {
        true => Ok(()),
        false => Err(Errno::EPERM),
    }
}

/// recvmsg(fd, message, flags).
pub fn recvmsg(fd: u64, addr: u64, flags: u32) -> Result {
    let file = file(fd)?;
    let socket = Socket::of(&file)?;
    let (header, mut buffer) = header(addr)?;
    let mut received = socket.receive(&mut buffer, &how_to_receive(&file, flags))?;
    let mut said = flags & MSG_CMSG_CLOEXEC;
    if socket.kind != Kind::Stream && received.count < received.len {
        said |= MSG_TRUNC;
    }
    if header.name != 0 {
        write_sender(&received, header.name, addr.wrapping_add(NAME_LEN))?;
    }
    let mut control = Control {
        header: &header,
        used: 0,
        cut: false,
    };
    if socket.tells_credentials() {
        control.put(SCM_CREDENTIALS, &credentials(received.credentials))?;
    }
    let rights = core::mem::take(&mut received.rights);
    if !rights.is_empty() {
        control.put_files(rights, flags & MSG_CMSG_CLOEXEC != 0)?;
    }
    if control.cut {
        said |= MSG_CTRUNC;
    }
    let used = control.used;
    user::write(addr.wrapping_add(FLAGS), &said)?;
    user::write(addr.wrapping_add(CONTROL_LEN), &used)?;
    Ok(received_len(socket, &received, flags))
}

/// The control data that a receiver has room for.
struct Control<'a> {
    header: &'a Header,
    used: u64,
    cut: bool,
}

impl Control<'_> {
    /// Bytes that are left for data, behind a header.
    fn room(&self) -> u64 {
        let left = self.header.control_len - self.used.min(self.header.control_len);
        match self.header.control {
            0 => 0,
            _ => left.saturating_sub(CONTROL),
        }
    }

    fn put_header(&mut self, kind: u32, len: u64) -> Fallible<u64> {
        let start = self.header.control.wrapping_add(self.used);
        user::write(start, &(CONTROL + len))?;
        user::write(start.wrapping_add(8), &SOL_SOCKET)?;
        user::write(start.wrapping_add(12), &kind)?;
        let whole = (CONTROL + len).next_multiple_of(8);
        self.used = (self.used + whole).min(self.header.control_len);
        Ok(start.wrapping_add(CONTROL))
    }

    fn put(&mut self, kind: u32, data: &[u8]) -> Fallible<()> {
        if self.room() == 0 {
            self.cut = true;
            return Ok(());
        }
        let len = (data.len() as u64).min(self.room());
        self.cut |= len < data.len() as u64;
        let at = self.put_header(kind, len)?;
        uaccess::write(at, &data[..len as usize])?;
        Ok(())
    }

    /// Gives the files descriptors, as far as there is room to say which.
    fn put_files(&mut self, rights: Rights, close_on_exec: bool) -> Fallible<()> {
        let most = (self.room() / 4) as usize;
        self.cut |= rights.len() > most;
        let at = self
            .header
            .control
            .wrapping_add(self.used)
            .wrapping_add(CONTROL);
        let mut count = 0;
        for file in rights.into_iter().take(most) {
            let limit = limits::descriptors();
            let inserted = current().process.files.lock().insert(
                Descriptor {
                    file,
                    close_on_exec,
                },
                0,
                limit,
            );
            let Ok(fd) = inserted else {
                self.cut = true;
                break;
            };
            if let Err(error) = user::write(at.wrapping_add(4 * count), &(fd as u32)) {
                let undone = current().process.files.lock().remove(fd as u64);
                drop(undone);
                // As on Linux: those before it are there.
                self.cut = true;
                if count == 0 {
                    return Err(error);
                }
                break;
            }
            count += 1;
        }
        if count > 0 {
            self.put_header(SCM_RIGHTS, 4 * count)?;
        }
        Ok(())
    }
}
