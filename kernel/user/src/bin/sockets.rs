//! What sockets of this machine answer, a line per case: streams, datagrams, packets; names; files and
//! credentials that travel; ends that close. Run on Linux and here, it must print the same.
#![no_std]
#![no_main]

use core::fmt::Display;
use user::file::{self, Fd};
use user::linux::*;
use user::net::*;
use user::process::{self, Fork};
use user::{Args, OrFail, Result, fail, ioctl, println, signal, syscall, text::Text, time};

user::program!(main, "usage: sockets");

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    let own = Text::new(format_args!("/tmp/sockets-{}", process::getpid()));
    let path = own.as_c_str().as_ptr() as usize;
    call(__NR_mkdirat, [AT_FDCWD as usize, path, 0o755]).or_fail("mkdir");
    call(__NR_chdir, [path]).or_fail("chdir");
    signal::set_action(SIGPIPE, &signal::Action::IGNORE).or_fail("sigaction");
    making();
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        pairs(kind);
        ends(kind);
        waiting(kind);
    }
    streams();
    packets();
    names();
    connections();
    datagrams();
    files_that_travel();
    credentials();
    between_processes();
    timeouts();
    timed_waits();
    urgent();
    for name in [c"socket", c"one", c"two", c"file"] {
        let _ = call(
            __NR_unlinkat,
            [AT_FDCWD as usize, name.as_ptr() as usize, 0],
        );
    }
    show(
        "the directory is empty again",
        call(
            __NR_unlinkat,
            [AT_FDCWD as usize, path, AT_REMOVEDIR as usize],
        ),
    );
}

/// What the program prints of a case.
fn show(case: impl Display, result: Result<usize>) {
    match result {
        Ok(value) => println!("{case}: {value}"),
        Err(errno) => println!("{case}: {errno}"),
    }
}

/// A system call that only touches what its arguments name.
fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the callers below pass strings and buffers of their own.
    unsafe { syscall(number, arguments) }
}

fn socket(domain: u32, kind: u32, protocol: usize) -> Result<usize> {
    call(__NR_socket, [domain as usize, kind as usize, protocol])
}

fn made(kind: u32) -> Fd {
    socket(AF_UNIX, kind, 0).or_fail("socket") as Fd
}

fn pair(kind: u32) -> [Fd; 2] {
    let mut ends = [0; 2];
    let to = ends.as_mut_ptr() as usize;
    call(__NR_socketpair, [AF_UNIX as usize, kind as usize, 0, to]).or_fail("socketpair");
    ends
}

fn close(fds: &[Fd]) {
    for &fd in fds {
        file::close(fd).or_fail("close");
    }
}

/// An address: a family, a name, and how long it is.
#[repr(C)]
struct Address {
    family: u16,
    name: [u8; 108],
    len: usize,
}

impl Address {
    fn new(name: &[u8]) -> Address {
        let mut address = Address {
            family: AF_UNIX as u16,
            name: [0; 108],
            len: 2 + name.len(),
        };
        address.name[..name.len()].copy_from_slice(name);
        address
    }

    fn at(&self) -> usize {
        (&raw const self.family) as usize
    }

    fn name(&self) -> &[u8] {
        &self.name[..self.len.saturating_sub(2).min(108)]
    }
}

fn bind(fd: Fd, to: &Address) -> Result<usize> {
    call(__NR_bind, [fd as usize, to.at(), to.len])
}

fn connect(fd: Fd, to: &Address) -> Result<usize> {
    call(__NR_connect, [fd as usize, to.at(), to.len])
}

fn listen(fd: Fd, backlog: usize) -> Result<usize> {
    call(__NR_listen, [fd as usize, backlog])
}

fn accept(fd: Fd, flags: u32) -> Result<usize> {
    call(__NR_accept4, [fd as usize, 0, 0, flags as usize])
}

fn send(fd: Fd, bytes: &[u8], flags: u32) -> Result<usize> {
    send_to(fd, bytes, flags, None)
}

fn send_to(fd: Fd, bytes: &[u8], flags: u32, to: Option<&Address>) -> Result<usize> {
    let (address, len) = to.map_or((0, 0), |to| (to.at(), to.len));
    let from = bytes.as_ptr() as usize;
    call(
        __NR_sendto,
        [fd as usize, from, bytes.len(), flags as usize, address, len],
    )
}

fn receive(fd: Fd, buffer: &mut [u8], flags: u32) -> Result<usize> {
    let (to, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    call(__NR_recvfrom, [fd as usize, to, len, flags as usize, 0, 0])
}

/// What comes, as text.
fn show_received(case: impl Display, fd: Fd, most: usize, flags: u32) {
    let mut buffer = [0; 64];
    match receive(fd, &mut buffer[..most], flags | MSG_DONTWAIT) {
        Ok(len) => {
            let text = core::str::from_utf8(&buffer[..len.min(most)]).unwrap_or("?");
            println!("{case}: {len} {text:?}");
        }
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn option(fd: Fd, which: u32) -> Result<usize> {
    let (mut value, mut len) = (0u32, 4u32);
    let arguments = [
        fd as usize,
        SOL_SOCKET as usize,
        which as usize,
        (&raw mut value) as usize,
        (&raw mut len) as usize,
    ];
    call(__NR_getsockopt, arguments)?;
    Ok(value as usize)
}

fn show_name(case: impl Display, number: u32, fd: Fd) {
    let mut address = Address::new(b"");
    let mut len = 110u32;
    let (to, room) = (address.at(), (&raw mut len) as usize);
    address.family = 0;
    match call(number, [fd as usize, to, room]) {
        Ok(_) => {
            address.len = len as usize;
            let family = address.family;
            let name = core::str::from_utf8(address.name()).unwrap_or("?");
            println!("{case}: family {family}, {len} bytes, {name:?}");
        }
        Err(errno) => println!("{case}: {errno}"),
    }
}

fn poll(fd: Fd) -> Result<usize> {
    let asked = POLLIN | POLLOUT | POLLRDHUP | POLLRDNORM | POLLWRNORM;
    let mut entry = fd as u32 as u64 | u64::from(asked) << 32;
    let timeout = [0u64; 2];
    let (at, timeout) = ((&raw mut entry) as usize, timeout.as_ptr() as usize);
    call(__NR_ppoll, [at, 1, timeout, 0, 0])?;
    Ok((entry >> 48) as usize)
}

fn making() {
    for (case, result) in [
        ("no such family", socket(99, SOCK_STREAM, 0)),
        ("no such type", socket(AF_UNIX, 9, 0)),
        ("type 11", socket(AF_UNIX, 11, 0)),
        ("SOCK_RDM", socket(AF_UNIX, SOCK_RDM, 0)),
        ("bad flags", socket(AF_UNIX, SOCK_STREAM | 1 << 16, 0)),
        ("another protocol", socket(AF_UNIX, SOCK_STREAM, 6)),
    ] {
        show(case, result);
    }
    let fd = made(SOCK_RAW);
    show("SOCK_RAW is", option(fd, SO_TYPE));
    show("its domain", option(fd, SO_DOMAIN));
    show("its protocol", option(fd, SO_PROTOCOL));
    show("its error", option(fd, SO_ERROR));
    show("an option that is none", option(fd, 9999));
    show("seek", call(__NR_lseek, [fd as usize, 0, 0]));
    show("fsync", call(__NR_fsync, [fd as usize]));
    show("shutdown 3", call(__NR_shutdown, [fd as usize, 3]));
    let flags = call(__NR_fcntl, [fd as usize, F_GETFL as usize]);
    show("flags", flags.map(|flags| flags & 0o7777));
    close(&[fd]);
    let null = file::open(c"/dev/null", O_RDWR).or_fail("open");
    show("listen on a file", listen(null, 1));
    show("send to a file", send(null, b"x", 0));
    show("send nowhere", send(77, b"x", 0));
    close(&[null]);
}

fn pairs(kind: u32) {
    let [one, two] = pair(kind);
    show(format_args!("{kind}: send"), send(one, b"hello", 0));
    show(format_args!("{kind}: write"), file::write(one, b" world"));
    show(format_args!("{kind}: send nothing"), send(one, b"", 0));
    let mut waiting = 0u32;
    let arguments = [
        two as usize,
        ioctl::FIONREAD as usize,
        (&raw mut waiting) as usize,
    ];
    show(
        format_args!("{kind}: FIONREAD"),
        call(__NR_ioctl, arguments).map(|_| waiting as usize),
    );
    show_received(format_args!("{kind}: peek"), two, 3, MSG_PEEK);
    show_received(format_args!("{kind}: peek all"), two, 20, MSG_PEEK);
    show_received(format_args!("{kind}: receive 3"), two, 3, 0);
    show_received(format_args!("{kind}: receive"), two, 20, 0);
    show_received(format_args!("{kind}: receive"), two, 20, 0);
    show_received(format_args!("{kind}: receive"), two, 20, 0);
    show(format_args!("{kind}: send long"), send(two, b"packet", 0));
    show_received(format_args!("{kind}: truncated"), one, 2, MSG_TRUNC);
    show_received(format_args!("{kind}: rest"), one, 20, 0);
    show(
        format_args!("{kind}: to somebody else"),
        send_to(one, b"x", 0, Some(&Address::new(b"\0nobody-here"))),
    );
    show_name(format_args!("{kind}: name"), __NR_getsockname, one);
    show_name(format_args!("{kind}: peer"), __NR_getpeername, one);
    show(
        format_args!("{kind}: connect"),
        connect(one, &Address::new(b"\0nobody-here")),
    );
    show(format_args!("{kind}: listen"), listen(one, 1));
    show(format_args!("{kind}: accept"), accept(one, 0));
    close(&[one, two]);
}

fn ends(kind: u32) {
    let [one, two] = pair(kind);
    show(format_args!("{kind}: poll"), poll(one));
    send(one, b"last", 0).or_fail("send");
    show(format_args!("{kind}: poll with something"), poll(two));
    show(
        format_args!("{kind}: shutdown"),
        call(__NR_shutdown, [one as usize, SHUT_WR as usize]),
    );
    show(
        format_args!("{kind}: send after it"),
        send(one, b"x", MSG_NOSIGNAL),
    );
    show(format_args!("{kind}: poll after it"), poll(one));
    show(format_args!("{kind}: poll of the other"), poll(two));
    show_received(format_args!("{kind}: what is left"), two, 20, 0);
    show_received(format_args!("{kind}: then"), two, 20, 0);
    show(format_args!("{kind}: the other way"), send(two, b"back", 0));
    show_received(format_args!("{kind}: arrives"), one, 20, 0);
    close(&[one, two]);

    let [one, two] = pair(kind);
    send(one, b"last words", 0).or_fail("send");
    close(&[one]);
    show(format_args!("{kind}: poll of who is left"), poll(two));
    show(
        format_args!("{kind}: send to who is gone"),
        send(two, b"x", MSG_NOSIGNAL),
    );
    show_received(format_args!("{kind}: last words"), two, 20, 0);
    show_received(format_args!("{kind}: and then"), two, 20, 0);
    show_name(
        format_args!("{kind}: peer that is gone"),
        __NR_getpeername,
        two,
    );
    close(&[two]);

    let [one, two] = pair(kind);
    send(one, b"unread", 0).or_fail("send");
    close(&[two]);
    show(format_args!("{kind}: poll with unread"), poll(one));
    show(format_args!("{kind}: error"), option(one, SO_ERROR));
    show_received(format_args!("{kind}: receive"), one, 20, 0);
    show(format_args!("{kind}: send"), send(one, b"x", MSG_NOSIGNAL));
    close(&[one]);

    let [one, two] = pair(kind);
    let read = SHUT_RD as usize;
    show(
        format_args!("{kind}: shutdown of reading"),
        call(__NR_shutdown, [one as usize, read]),
    );
    show(format_args!("{kind}: poll"), poll(one));
    show(
        format_args!("{kind}: send to it"),
        send(two, b"x", MSG_NOSIGNAL),
    );
    show(
        format_args!("{kind}: send from it"),
        send(one, b"x", MSG_NOSIGNAL),
    );
    close(&[one, two]);
}

/// Who waits is woken: for something to read, for room, for the end.
fn waiting(kind: u32) {
    let [one, two] = pair(kind);
    let child = child(|| {
        file::close(two).or_fail("close");
        let mut buffer = [0; 16];
        let len = receive(one, &mut buffer, 0).or_fail("receive");
        show(format_args!("{kind}: a child received"), Ok(len));
        send(one, b"answer", 0).or_fail("send");
    });
    file::close(one).or_fail("close");
    send(two, b"question", 0).or_fail("send");
    let mut buffer = [0; 16];
    show(
        format_args!("{kind}: answered"),
        receive(two, &mut buffer, 0),
    );
    process::expect_success(child);
    close(&[two]);
}

fn child(f: impl FnOnce()) -> i32 {
    match process::fork().or_fail("fork") {
        Fork::Child => {
            f();
            process::exit(0)
        }
        Fork::Parent(pid) => pid,
    }
}

fn streams() {
    let [one, two] = pair(SOCK_STREAM);
    let child = child(|| {
        file::close(two).or_fail("close");
        let bytes = [7; 4096];
        for _ in 0..256 {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let sent = send(one, rest, 0).or_fail("send");
                rest = &rest[sent..];
            }
        }
    });
    file::close(one).or_fail("close");
    let (mut all, mut buffer) = (0, [0; 5000]);
    let mut right = true;
    loop {
        match receive(two, &mut buffer, MSG_WAITALL).or_fail("receive") {
            0 => break,
            len => {
                all += len;
                right &= buffer[..len].iter().all(|&byte| byte == 7);
            }
        }
    }
    process::expect_success(child);
    show("a megabyte", Ok(all));
    show("is right", Ok(right.into()));
    close(&[two]);

    let [one, two] = pair(SOCK_STREAM | O_NONBLOCK);
    let bytes = [1; 1000];
    let full = loop {
        match send(one, &bytes, 0) {
            Ok(_) => {}
            Err(errno) => break errno,
        }
    };
    show("a full stream", Err(full));
    show(
        "cannot be written",
        poll(one).map(|events| events & POLLOUT as usize),
    );
    let mut room = [0; 4000];
    while receive(two, &mut room, 0).is_ok() {}
    show(
        "then it can",
        poll(one).map(|events| events & POLLOUT as usize),
    );
    close(&[one, two]);

    let lonely = made(SOCK_STREAM);
    show("send without a connection", send(lonely, b"x", 0));
    show_received("receive without one", lonely, 10, 0);
    show("poll without one", poll(lonely));
    show_name("name without one", __NR_getsockname, lonely);
    show_name("peer without one", __NR_getpeername, lonely);
    show(
        "shutdown without one",
        call(__NR_shutdown, [lonely as usize, SHUT_RDWR as usize]),
    );
    show("poll after that", poll(lonely));
    close(&[lonely]);
}

fn packets() {
    let [one, two] = pair(SOCK_SEQPACKET);
    for text in ["first", "second", "third"] {
        send(one, text.as_bytes(), 0).or_fail("send");
    }
    for most in [20, 2, 20, 20] {
        show_received("a packet", two, most, 0);
    }
    close(&[one, two]);
    let [one, two] = pair(SOCK_DGRAM);
    let large = [0; 300_000];
    show("too large", send(one, &large, MSG_DONTWAIT));
    for number in 0..20 {
        if let Err(errno) = send(one, b"datagram", MSG_DONTWAIT) {
            println!("datagram {number}: {errno}");
            break;
        }
    }
    close(&[one, two]);
    let lonely = made(SOCK_SEQPACKET);
    show("send without a connection", send(lonely, b"x", 0));
    show_received("receive without one", lonely, 10, 0);
    close(&[lonely]);
}

fn names() {
    let fd = made(SOCK_STREAM);
    show(
        "no name",
        bind(
            fd,
            &Address {
                len: 1,
                ..Address::new(b"socket")
            },
        ),
    );
    show(
        "too long",
        bind(
            fd,
            &Address {
                len: 111,
                ..Address::new(b"socket")
            },
        ),
    );
    show(
        "much too long",
        bind(
            fd,
            &Address {
                len: 200,
                ..Address::new(b"socket")
            },
        ),
    );
    show(
        "another family",
        bind(
            fd,
            &Address {
                family: 2,
                ..Address::new(b"socket")
            },
        ),
    );
    show("nowhere", bind(fd, &Address::new(b"no/such/socket")));
    show("there already", bind(fd, &Address::new(b".")));
    show("bind", bind(fd, &Address::new(b"socket")));
    show("bind again", bind(fd, &Address::new(b"other")));
    show_name("its name", __NR_getsockname, fd);
    let two = made(SOCK_STREAM);
    show("the same name", bind(two, &Address::new(b"socket")));
    show("nobody listens", connect(two, &Address::new(b"socket")));
    show("nobody is there", connect(two, &Address::new(b"missing")));
    show("no socket", connect(two, &Address::new(b".")));
    show(
        "open it",
        file::open(c"socket", O_RDWR).map(|fd| fd as usize),
    );
    // SAFETY: a structure of integers.
    let mut status: stat = unsafe { core::mem::zeroed() };
    let name = c"socket".as_ptr() as usize;
    let to = (&raw mut status) as usize;
    call(__NR_newfstatat, [AT_FDCWD as usize, name, to, 0]).or_fail("stat");
    show("its type", Ok((status.st_mode & S_IFMT) as usize));
    call(__NR_fstat, [fd as usize, to]).or_fail("fstat");
    show("the socket's type and rights", Ok(status.st_mode as usize));
    close(&[fd]);
    show("its socket is gone", connect(two, &Address::new(b"socket")));
    show("the name is not", bind(two, &Address::new(b"socket")));
    close(&[two]);

    let fd = made(SOCK_STREAM);
    show(
        "abstract",
        bind(fd, &Address::new(b"\0abstract-of-sockets")),
    );
    show_name("its name", __NR_getsockname, fd);
    let two = made(SOCK_STREAM);
    show("taken", bind(two, &Address::new(b"\0abstract-of-sockets")));
    show(
        "longer",
        bind(two, &Address::new(b"\0abstract-of-sockets\0")),
    );
    close(&[fd, two]);
    let fd = made(SOCK_STREAM);
    show(
        "free again",
        bind(fd, &Address::new(b"\0abstract-of-sockets")),
    );
    close(&[fd]);
    let fd = made(SOCK_DGRAM);
    show("any name", bind(fd, &Address::new(b"")));
    let mut address = Address::new(b"");
    let mut len = 110u32;
    let to = (address.at(), (&raw mut len) as usize);
    call(__NR_getsockname, [fd as usize, to.0, to.1]).or_fail("getsockname");
    address.len = len as usize;
    show("its length", Ok(address.name().len()));
    close(&[fd]);
}

fn connections() {
    let own = Address::new(b"one");
    let listener = made(SOCK_STREAM);
    show("listen without a name", listen(listener, 1));
    bind(listener, &own).or_fail("bind");
    show("accept without listening", accept(listener, 0));
    show("listen", listen(listener, 1));
    show("listens", option(listener, SO_ACCEPTCONN));
    show("listen again", listen(listener, 1));
    show("poll", poll(listener));
    call(
        __NR_fcntl,
        [listener as usize, F_SETFL as usize, O_NONBLOCK as usize],
    )
    .or_fail("fcntl");
    show("nobody comes", accept(listener, 0));
    show("send to a listener", send(listener, b"x", 0));
    show_received("receive from one", listener, 4, 0);
    show("connect a listener", connect(listener, &own));
    let clients = [(); 3].map(|()| made(SOCK_STREAM | O_NONBLOCK));
    for client in clients {
        show("connect", connect(client, &own));
    }
    show("connect again", connect(clients[0], &own));
    show("poll", poll(listener));
    show("early", send(clients[0], b"early", 0));
    let server = accept(listener, O_CLOEXEC).or_fail("accept") as Fd;
    show(
        "accepted, closes on exec",
        call(__NR_fcntl, [server as usize, F_GETFD as usize]),
    );
    show_received("early", server, 20, 0);
    show_name("the client's name", __NR_getpeername, server);
    show_name("the server's own", __NR_getsockname, server);
    show_name(
        "the server's, from the client",
        __NR_getpeername,
        clients[0],
    );
    show("to the client", send(server, b"welcome", 0));
    show_received("welcome", clients[0], 20, 0);
    let packets = made(SOCK_SEQPACKET);
    show("another type", connect(packets, &own));
    close(&[packets, listener]);
    show("poll, not accepted", poll(clients[1]));
    show_received("not accepted", clients[1], 20, 0);
    show_received("and again", clients[1], 20, 0);
    show_received("accepted", server, 20, 0);
    close(&clients);
    show_received("accepted, and gone", server, 20, 0);
    close(&[server]);
}

fn datagrams() {
    let (first, second) = (Address::new(b"\0sockets-first"), Address::new(b"two"));
    let [one, two] = [made(SOCK_DGRAM), made(SOCK_DGRAM)];
    bind(one, &first).or_fail("bind");
    show("to nobody", send(two, b"x", 0));
    show("to one", send_to(two, b"no name", 0, Some(&first)));
    bind(two, &second).or_fail("bind");
    show("to one", send_to(two, b"with a name", 0, Some(&first)));
    for _ in 0..2 {
        let mut from = Address::new(b"");
        let (mut len, mut buffer) = (110u32, [0; 32]);
        let arguments = [
            one as usize,
            buffer.as_mut_ptr() as usize,
            32,
            0,
            from.at(),
            (&raw mut len) as usize,
        ];
        let count = call(__NR_recvfrom, arguments).or_fail("recvfrom");
        from.len = len as usize;
        let text = core::str::from_utf8(&buffer[..count]).unwrap_or("?");
        let name = core::str::from_utf8(from.name()).unwrap_or("?");
        println!("received {text:?}, from {len} bytes {name:?}");
    }
    show("connect", connect(two, &first));
    show("send", send(two, b"connected", 0));
    show_received("arrives", one, 20, 0);
    show_name("peer", __NR_getpeername, two);
    let nobody = Address {
        family: 0,
        ..Address::new(b"")
    };
    show("disconnect", connect(two, &nobody));
    show("send", send(two, b"x", 0));
    show("connect", connect(two, &first));
    close(&[one]);
    show("who is gone", send(two, b"x", 0));
    show("and again", send(two, b"x", 0));
    show("nobody has it", send_to(two, b"x", 0, Some(&first)));
    let stream = made(SOCK_STREAM);
    show("another type", connect(stream, &second));
    close(&[two, stream]);
}

/// `struct msghdr`, and a `struct cmsghdr` with room behind it.
#[repr(C)]
struct Message {
    name: usize,
    name_len: usize,
    vector: usize,
    count: usize,
    control: usize,
    control_len: usize,
    flags: usize,
}

/// Sends one byte with files, or whatever else.
fn send_control(fd: Fd, kind: u32, data: &[u32]) -> Result<usize> {
    let byte = b'm';
    let vector = [(&raw const byte) as usize, 1];
    let mut control = [0u32; 36];
    let len = 16 + 4 * data.len();
    control[0] = len as u32;
    control[2] = SOL_SOCKET;
    control[3] = kind;
    control[4..4 + data.len()].copy_from_slice(data);
    let message = Message {
        name: 0,
        name_len: 0,
        vector: vector.as_ptr() as usize,
        count: 1,
        control: control.as_ptr() as usize,
        control_len: len,
        flags: 0,
    };
    call(
        __NR_sendmsg,
        [fd as usize, (&raw const message) as usize, 0],
    )
}

/// Receives it: flags, bytes of control data, and what the first one has.
fn receive_control(fd: Fd, room: usize) -> Result<(u32, usize, [u32; 8])> {
    let mut bytes = [0; 8];
    let vector = [bytes.as_mut_ptr() as usize, 8];
    let mut control = [0u32; 32];
    let mut message = Message {
        name: 0,
        name_len: 0,
        vector: vector.as_ptr() as usize,
        count: 1,
        control: control.as_mut_ptr() as usize,
        control_len: room,
        flags: 0,
    };
    let arguments = [
        fd as usize,
        (&raw mut message) as usize,
        MSG_DONTWAIT as usize,
    ];
    call(__NR_recvmsg, arguments)?;
    let mut data = [0; 8];
    data.copy_from_slice(&control[..8]);
    Ok((message.flags as u32, message.control_len, data))
}

fn files_that_travel() {
    let [one, two] = pair(SOCK_STREAM);
    let flags = (O_CREAT | O_RDWR) as usize;
    let name = c"file".as_ptr() as usize;
    let sent = call(__NR_openat, [AT_FDCWD as usize, name, flags, 0o600]).or_fail("open") as Fd;
    file::write_all(sent, b"contents").or_fail("write");
    show("send a file", send_control(one, SCM_RIGHTS, &[sent as u32]));
    close(&[sent]);
    send(one, b"more", 0).or_fail("send");
    let (flags, len, data) = receive_control(two, 32).or_fail("recvmsg");
    println!("flags {flags:#x}, {len} bytes, {:?}", &data[..4]);
    let received = data[4] as Fd;
    show(
        "where it was",
        call(__NR_lseek, [received as usize, 0, SEEK_CUR as usize]),
    );
    show("the lowest number", Ok(usize::from(received == sent)));
    close(&[received]);
    show_received("what follows", two, 20, 0);

    show("send a bad one", send_control(one, SCM_RIGHTS, &[77]));
    show("send something else", send_control(one, 99, &[1]));
    show(
        "send two",
        send_control(one, SCM_RIGHTS, &[one as u32, two as u32]),
    );
    let (flags, len, data) = receive_control(two, 20).or_fail("recvmsg");
    println!(
        "room for one: flags {flags:#x}, {len} bytes, {:?}",
        &data[..4]
    );
    close(&[data[4] as Fd]);
    show("send one", send_control(one, SCM_RIGHTS, &[one as u32]));
    let (flags, len, _) = receive_control(two, 0).or_fail("recvmsg");
    println!("room for none: flags {flags:#x}, {len} bytes");
    show("send one", send_control(one, SCM_RIGHTS, &[one as u32]));
    show_received("read it without files", two, 20, 0);
    // Sockets that have each other, and that nobody else has any more.
    for _ in 0..3 {
        let [one, two] = pair(SOCK_DGRAM);
        send_control(one, SCM_RIGHTS, &[one as u32, two as u32]).or_fail("sendmsg");
        send_control(two, SCM_RIGHTS, &[one as u32]).or_fail("sendmsg");
        close(&[one, two]);
    }
    close(&[one, two]);
}

fn credentials() {
    let [one, two] = pair(SOCK_STREAM);
    let (mut ids, mut len) = ([0u32; 3], 12u32);
    let arguments = [
        one as usize,
        SOL_SOCKET as usize,
        SO_PEERCRED as usize,
        ids.as_mut_ptr() as usize,
        (&raw mut len) as usize,
    ];
    call(__NR_getsockopt, arguments).or_fail("getsockopt");
    show(
        "the other end is this process",
        Ok(usize::from(ids[0] == process::getpid() as u32)),
    );
    show("its length", Ok(len as usize));
    close(&[one, two]);
}

/// A server in one process, clients in others.
fn between_processes() {
    let own = Address::new(b"\0sockets-server");
    let listener = made(SOCK_SEQPACKET);
    bind(listener, &own).or_fail("bind");
    listen(listener, 8).or_fail("listen");
    let clients = [1u8, 2, 3].map(|number| {
        child(|| {
            let fd = made(SOCK_SEQPACKET);
            connect(fd, &own).or_fail("connect");
            send(fd, &[number; 9], 0).or_fail("send");
            let mut answer = [0; 16];
            match receive(fd, &mut answer, 0).or_fail("receive") {
                3 if answer[0] == 2 * number => {}
                len => fail(format_args!("{len} bytes, {answer:?}")),
            }
        })
    });
    let mut sum = 0;
    for _ in clients {
        let fd = accept(listener, 0).or_fail("accept") as Fd;
        let mut buffer = [0; 16];
        let len = receive(fd, &mut buffer, 0).or_fail("receive");
        sum += len * usize::from(buffer[0]);
        send(fd, &[2 * buffer[0]; 3], 0).or_fail("send");
        close(&[fd]);
    }
    for client in clients {
        process::expect_success(client);
    }
    show("served", Ok(sum));
    close(&[listener]);
}

/// `struct timeval` of an option, set.
fn set_timeout(fd: Fd, which: u32, seconds: i64, microseconds: i64) -> Result<usize> {
    let time = [seconds, microseconds];
    let (level, at) = (SOL_SOCKET as usize, time.as_ptr() as usize);
    call(
        __NR_setsockopt,
        [fd as usize, level, which as usize, at, 16],
    )
}

fn show_timeout(case: &str, fd: Fd, which: u32) {
    let (mut time, mut len) = ([-1i64; 2], 16u32);
    let (at, room) = (time.as_mut_ptr() as usize, (&raw mut len) as usize);
    let level = SOL_SOCKET as usize;
    let result = call(
        __NR_getsockopt,
        [fd as usize, level, which as usize, at, room],
    );
    let [seconds, microseconds] = time;
    show(
        format_args!("{case}: {seconds} s {microseconds} us, {len} bytes"),
        result,
    );
}

const TIMEOUTS: [(&str, u32); 2] = [("receive", SO_RCVTIMEO), ("send", SO_SNDTIMEO)];

/// SO_RCVTIMEO and SO_SNDTIMEO as values.
fn timeouts() {
    for (name, which) in TIMEOUTS {
        let fd = made(SOCK_STREAM);
        println!("timeout to {name}");
        show_timeout("at first", fd, which);
        for (case, seconds, microseconds) in [
            ("short", 0, 20_000),
            ("long", 3, 500_000),
            ("too many microseconds", 1, 1_000_000),
            ("less than none", 1, -1),
            ("before now", -5, 0),
            ("none", 0, 0),
            ("for ever", i64::MAX, 0),
        ] {
            show(case, set_timeout(fd, which, seconds, microseconds));
            show_timeout("then", fd, which);
        }
        let set = |at: usize, len: usize| {
            let level = SOL_SOCKET as usize;
            call(
                __NR_setsockopt,
                [fd as usize, level, which as usize, at, len],
            )
        };
        let time = [1i64, 0];
        show("half of one", set(time.as_ptr() as usize, 8));
        show("nowhere", set(0, 16));
        close(&[fd]);
    }
}

/// Whether a call waited for 20 ms: Linux counts ticks, the first of which may soon be over.
fn timed(case: impl Display, call: impl FnOnce() -> Result<usize>) {
    let start = time::now().or_fail("clock_gettime");
    let result = call();
    let passed = time::now().or_fail("clock_gettime") - start;
    let waited = if passed >= 12_000_000 {
        "waited"
    } else {
        "at once"
    };
    show(format_args!("{case}, {waited}"), result);
}

extern "C" fn nothing(_: u32, _: &mut signal::Info, _: &mut signal::Context) {}

/// What they do.
fn timed_waits() {
    let mut buffer = [0; 8192];
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        let [one, two] = pair(kind);
        println!("timed waits, type {kind}");
        for (_, which) in TIMEOUTS {
            set_timeout(one, which, 0, 20_000).or_fail("setsockopt");
        }
        timed("receive", || receive(one, &mut buffer, 0));
        timed("read", || file::read(one, &mut buffer));
        timed("without waiting", || {
            receive(one, &mut buffer, MSG_DONTWAIT)
        });
        timed("the other end, which has none", || {
            receive(two, &mut buffer, MSG_DONTWAIT)
        });
        send(two, b"here", 0).or_fail("send");
        timed("what is there", || receive(one, &mut buffer, 0));
        let mut sent = 0;
        while send(one, &buffer[..4096], MSG_DONTWAIT).is_ok() {
            sent += 1;
        }
        println!("sent something: {}", sent > 0);
        timed("send", || send(one, &buffer[..4096], 0));
        timed("write", || file::write(one, &buffer[..4096]));
        set_timeout(one, SO_RCVTIMEO, -1, 0).or_fail("setsockopt");
        timed("before now", || receive(one, &mut buffer, 0));
        close(&[one, two]);
    }
    let [one, two] = pair(SOCK_STREAM);
    set_timeout(one, SO_RCVTIMEO, 0, 20_000).or_fail("setsockopt");
    send(two, b"some", 0).or_fail("send");
    timed("all, and some is there", || {
        receive(one, &mut buffer[..8], MSG_WAITALL)
    });
    // A handler that restarts calls, but not those that end by themselves.
    signal::set_action(SIGALRM, &signal::Action::call(nothing, SA_RESTART)).or_fail("sigaction");
    set_timeout(one, SO_RCVTIMEO, 20, 0).or_fail("setsockopt");
    let interval = [0u64, 0, 0, 30_000];
    let at = interval.as_ptr() as usize;
    call(__NR_setitimer, [ITIMER_REAL as usize, at, 0]).or_fail("setitimer");
    timed("interrupted", || receive(one, &mut buffer, 0));
    close(&[one, two]);

    let listener = made(SOCK_STREAM);
    let own = Address::new(b"\0sockets-timed");
    bind(listener, &own).or_fail("bind");
    listen(listener, 0).or_fail("listen");
    set_timeout(listener, SO_RCVTIMEO, 0, 20_000).or_fail("setsockopt");
    timed("accept", || accept(listener, 0));
    let clients = [(); 2].map(|()| made(SOCK_STREAM));
    for client in clients {
        set_timeout(client, SO_SNDTIMEO, 0, 20_000).or_fail("setsockopt");
    }
    timed("connect", || connect(clients[0], &own));
    timed("connect where nobody accepts", || connect(clients[1], &own));
    close(&clients);
    close(&[listener]);
    all_of_much();
}

/// What is more than fits between two is received as one, while the sender waits for room.
fn all_of_much() {
    const MUCH: usize = 1 << 20;
    let [one, two] = pair(SOCK_STREAM);
    let memory = user::memory::Pages::map(MUCH / 4096).or_fail("mapping pages");
    let at = memory.address(0);
    match process::fork().or_fail("fork") {
        Fork::Child => {
            let sent = call(__NR_sendto, [two as usize, at, MUCH, 0, 0, 0]).or_fail("send");
            process::exit(i32::from(sent != MUCH))
        }
        Fork::Parent(child) => {
            let flags = MSG_WAITALL as usize;
            show(
                "all of much",
                call(__NR_recvfrom, [one as usize, at, MUCH, flags, 0, 0]),
            );
            process::expect_success(child);
        }
    }
    close(&[one, two]);
}

/// Nothing travels out of band here.
fn urgent() {
    for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
        let [one, two] = pair(kind);
        show("urgent", send(one, b"x", MSG_OOB));
        show_received("urgent", two, 1, MSG_OOB);
        close(&[one, two]);
    }
    let lonely = made(SOCK_STREAM);
    show_received("urgent from nobody", lonely, 1, MSG_OOB);
    close(&[lonely]);
}
