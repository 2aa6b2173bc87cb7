//! Where a stream can come from.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::exit::unreadable;
use crate::serial::Line;

/// A source, as a user writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// A file.
    File(PathBuf),
    /// `-`
    Stdin,
    /// `serial:DEVICE[@BAUD]`
    Serial {
        /// The device.
        device: String,
        /// Its speed, in bits per second.
        baud: Option<u32>,
    },
    /// `unix:PATH`
    Unix(PathBuf),
    /// `tcp:HOST:PORT`
    Tcp(String),
}

impl FromStr for SourceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let after = |prefix: &str| text.strip_prefix(prefix);
        if text.is_empty() {
            return Err("the source is empty".to_owned());
        }
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(rest) = after("serial:") {
            let (device, baud) = match rest.rsplit_once('@') {
                Some((device, baud)) => {
                    let baud: u32 = baud
                        .parse()
                        .map_err(|_| format!("`{baud}` is no baud rate, such as 921600"))?;
                    (device, Some(baud))
                }
                None => (rest, None),
            };
            if device.is_empty() || baud == Some(0) {
                return Err("write it like serial:/dev/ttyUSB0@921600".to_owned());
            }
            return Ok(Self::Serial {
                device: device.to_owned(),
                baud,
            });
        }
        if let Some(path) = after("unix:") {
            return match path {
                "" => Err("write it like unix:/run/wire.sock".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        if let Some(address) = after("tcp:") {
            let port = address.rsplit_once(':').and_then(|(host, port)| {
                (!host.is_empty())
                    .then(|| port.parse::<u16>().ok())
                    .flatten()
            });
            return match port {
                Some(_) => Ok(Self::Tcp(address.to_owned())),
                None => Err("write it like tcp:localhost:4444".to_owned()),
            };
        }
        Ok(Self::File(text.into()))
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
            Self::Serial {
                device,
                baud: Some(baud),
            } => write!(f, "{device} at {baud} baud"),
            Self::Serial { device, baud: None } => f.write_str(device),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// How long a read waits for a byte, so that Ctrl-C is heard in between.
const PATIENCE: Duration = Duration::from_millis(100);

impl SourceName {
    /// Opens it. A read that had to wait too long gives [`Received::Nothing`].
    pub fn open(&self, baud: u32) -> Result<Source> {
        let why = |error: &dyn fmt::Display| unreadable(format!("cannot open {self}: {error}"));
        let reader: Box<dyn Read + Send> = match self {
            Self::File(path) => Box::new(Pumped::new(File::open(path).map_err(|e| why(&e))?)),
            Self::Stdin => Box::new(Pumped::new(io::stdin())),
            Self::Serial { .. } | Self::Unix(_) | Self::Tcp(_) => {
                return Ok(Source::from_line(Line::open(self, self.rate(baud))?));
            }
        };
        Ok(Source {
            first: Vec::new(),
            end: End::Reader(reader),
        })
    }

    /// A serial port's rate: its own, or `baud`.
    pub fn rate(&self, baud: u32) -> u32 {
        match self {
            Self::Serial {
                baud: Some(own), ..
            } => *own,
            _ => baud,
        }
    }

    /// The file that is read, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }
}

/// An open source.
pub struct Source {
    /// What was read before.
    first: Vec<u8>,
    end: End,
}

enum End {
    Reader(Box<dyn Read + Send>),
    Line(Line),
}

/// A reader that cannot be told how long to wait, such as a pipe: read by a thread of its own,
/// which is left behind when nobody wants its bytes any more.
struct Pumped {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    taken: usize,
}

impl Pumped {
    fn new(mut reader: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = mpsc::sync_channel(4);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let chunk = match reader.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => Ok(buffer[..n].to_vec()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = chunk.is_err();
                if sender.send(chunk).is_err() || failed {
                    break;
                }
            }
        });
        Self {
            chunks,
            chunk: Vec::new(),
            taken: 0,
        }
    }
}

impl Read for Pumped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.chunk.len() {
            self.chunk = match self.chunks.recv_timeout(PATIENCE) {
                Ok(chunk) => chunk?,
                Err(RecvTimeoutError::Timeout) => return Err(ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            self.taken = 0;
        }
        let n = buffer.len().min(self.chunk.len() - self.taken);
        buffer[..n].copy_from_slice(&self.chunk[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
    /// The serial port is gone, and is waited for.
    Unplugged,
    /// It is back.
    Plugged,
}

impl Source {
    /// A line that is open already.
    pub fn from_line(line: Line) -> Self {
        Self {
            first: Vec::new(),
            end: End::Line(line),
        }
    }

    /// With what was read of it before.
    pub fn after(mut self, first: Vec<u8>) -> Self {
        self.first = first;
        self
    }

    /// Reads what is there.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Received> {
        if !self.first.is_empty() {
            let n = buffer.len().min(self.first.len());
            buffer[..n].copy_from_slice(&self.first[..n]);
            self.first.drain(..n);
            return Ok(Received::Bytes(n));
        }
        let reader = match &mut self.end {
            End::Line(line) => return line.receive(buffer),
            End::Reader(reader) => reader,
        };
        match reader.read(buffer) {
            Ok(0) => Ok(Received::End),
            Ok(n) => Ok(Received::Bytes(n)),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                    Ok(Received::Nothing)
                }
                _ => Err(error).context("cannot read the source"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let serial = |device: &str, baud| SourceName::Serial {
            device: device.into(),
            baud,
        };
        for (text, name) in [
            ("-", SourceName::Stdin),
            ("a.cow", SourceName::File("a.cow".into())),
            ("./tcp:x", SourceName::File("./tcp:x".into())),
            (
                "serial:/dev/ttyUSB0@921600",
                serial("/dev/ttyUSB0", Some(921_600)),
            ),
            ("serial:COM3", serial("COM3", None)),
            ("unix:/run/x", SourceName::Unix("/run/x".into())),
            (
                "tcp:localhost:4444",
                SourceName::Tcp("localhost:4444".into()),
            ),
            ("tcp:[::1]:4444", SourceName::Tcp("[::1]:4444".into())),
        ] {
            assert_eq!(text.parse(), Ok(name), "{text}");
        }
        for text in [
            "",
            "serial:",
            "serial:@9600",
            "serial:x@fast",
            "serial:x@0",
            "unix:",
            "tcp:4444",
            "tcp:h:99999",
            "tcp::1",
        ] {
            assert!(text.parse::<SourceName>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn sockets() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let name = SourceName::Tcp(listener.local_addr().unwrap().to_string());
        let mut source = name.open(0).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(source.receive(&mut buffer).unwrap(), Received::Nothing);
        peer.write_all(b"abc").unwrap();
        assert_eq!(source.receive(&mut buffer).unwrap(), Received::Bytes(3));
        drop(peer);
        assert_eq!(source.receive(&mut buffer).unwrap(), Received::End);
    }

    #[test]
    fn what_is_not_there_is_named() {
        for text in [
            "/nonexistent/x.cow",
            "unix:/nonexistent/s",
            "serial:/nonexistent/tty",
        ] {
            let Err(error) = text.parse::<SourceName>().unwrap().open(9600) else {
                panic!("{text}")
            };
            assert_eq!(
                crate::exit::status(&error),
                Some(crate::exit::Exit::Unreadable)
            );
            assert!(error.to_string().contains("/nonexistent/"), "{error}");
        }
    }
}
