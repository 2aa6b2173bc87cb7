//! A line to a board, in both directions: a serial port, or a socket that stands for one.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serialport::SerialPort;

use crate::exit::{unreadable, usage};
use crate::record::{Received, SourceName};

/// How long a read waits for a byte, so that Ctrl-C is heard in between.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a write may make no progress at all.
const STUCK: Duration = Duration::from_secs(10);
/// How often a port that was unplugged is looked for.
const RETRY: Duration = Duration::from_millis(250);

/// A line.
pub struct Line {
    end: End,
}

enum End {
    Port(Port),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
    Tcp(TcpStream),
}

/// A serial port, which may be unplugged and come back.
struct Port {
    device: String,
    baud: u32,
    /// None while it is unplugged.
    port: Option<Box<dyn SerialPort>>,
}

impl Port {
    fn open(device: &str, baud: u32) -> serialport::Result<Self> {
        let port = serialport::new(device, baud).timeout(PATIENCE).open()?;
        Ok(Self {
            device: device.to_owned(),
            baud,
            port: Some(port),
        })
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some(port) = &mut self.port else {
            std::thread::sleep(RETRY);
            return match Self::open(&self.device, self.baud) {
                Ok(new) => {
                    *self = new;
                    Received::Plugged
                }
                Err(_) => Received::Nothing,
            };
        };
        match port.read(buffer) {
            Ok(n) if n > 0 => Received::Bytes(n),
            Err(error) if is_patience(&error) => Received::Nothing,
            // Pulled out, or the peer of a pseudo-terminal is gone.
            _ => {
                self.port = None;
                Received::Unplugged
            }
        }
    }
}

fn is_patience(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock
    )
}

impl Line {
    /// Opens it. `baud` is a serial port's rate.
    pub fn open(name: &SourceName, baud: u32) -> Result<Self> {
        let why = |error: &dyn fmt::Display| unreadable(format!("cannot open {name}: {error}"));
        let end = match name {
            SourceName::Serial { device, .. } => {
                End::Port(Port::open(device, baud).map_err(|error| {
                    unreadable(format!("cannot open {name}: {error}{}", hint(&error)))
                })?)
            }
            #[cfg(unix)]
            SourceName::Unix(path) => {
                let socket = std::os::unix::net::UnixStream::connect(path).map_err(|e| why(&e))?;
                socket
                    .set_read_timeout(Some(PATIENCE))
                    .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
                    .map_err(|e| why(&e))?;
                End::Unix(socket)
            }
            #[cfg(not(unix))]
            SourceName::Unix(_) => return Err(why(&"this system has no Unix sockets")),
            SourceName::Tcp(address) => {
                let socket = connect(address).map_err(|e| why(&e))?;
                socket
                    .set_read_timeout(Some(PATIENCE))
                    .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
                    .and_then(|()| socket.set_nodelay(true))
                    .map_err(|e| why(&e))?;
                End::Tcp(socket)
            }
            SourceName::File(_) | SourceName::Stdin => {
                return Err(usage(format!(
                    "{name} has one direction, and a board is to be talked to: name a line, such as \
                     serial:/dev/ttyUSB0"
                )));
            }
        };
        Ok(Self { end })
    }

    /// Reads what is there.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Received> {
        let read = match &mut self.end {
            End::Port(port) => return Ok(port.receive(buffer)),
            #[cfg(unix)]
            End::Unix(socket) => socket.read(buffer),
            End::Tcp(socket) => socket.read(buffer),
        };
        match read {
            Ok(0) => Ok(Received::End),
            Ok(n) => Ok(Received::Bytes(n)),
            Err(error) if is_patience(&error) => Ok(Received::Nothing),
            // The peer is gone: what came is a trace all the same.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                Ok(Received::End)
            }
            Err(error) => Err(error).context("cannot read the line"),
        }
    }

    /// Sends bytes.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        let mut progress = Instant::now();
        while !bytes.is_empty() {
            let written = match &mut self.end {
                End::Port(Port {
                    port: Some(port), ..
                }) => port.write(bytes),
                End::Port(_) => Err(ErrorKind::NotConnected.into()),
                #[cfg(unix)]
                End::Unix(socket) => socket.write(bytes),
                End::Tcp(socket) => socket.write(bytes),
            };
            match written {
                Ok(n) => {
                    bytes = &bytes[n..];
                    progress = Instant::now();
                }
                Err(error) if is_patience(&error) => {
                    if progress.elapsed() > STUCK {
                        bail!("the line takes no bytes: is the other end switched on?");
                    }
                }
                Err(error) => return Err(error).context("cannot write to the line"),
            }
        }
        Ok(())
    }

    /// Changes a serial port's rate, when all that was sent has left. Sockets have none.
    pub fn set_rate(&mut self, baud: u32) -> Result<()> {
        if let End::Port(port) = &mut self.end {
            port.baud = baud;
            if let Some(open) = &mut port.port {
                let why = || format!("{} cannot have {baud} baud", port.device);
                open.flush().with_context(why)?;
                open.set_baud_rate(baud).with_context(why)?;
            }
        }
        Ok(())
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "no such host");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(10)) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn hint(error: &serialport::Error) -> &'static str {
    match error.kind() {
        serialport::ErrorKind::Io(ErrorKind::PermissionDenied) => {
            " (on Linux the port belongs to a group, often `dialout`: sudo usermod -aG dialout $USER, \
             and log in again)"
        }
        serialport::ErrorKind::NoDevice => {
            " (is the adapter plugged in? Is another program using it?)"
        }
        _ => "",
    }
}
