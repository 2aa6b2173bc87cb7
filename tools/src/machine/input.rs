//! The console's input: our standard input, sent down the wire's other direction.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::terminal::{self, Keys, Typed};

/// Telnet's "interpret as command" and "end of file" (RFC 854, RFC 1184); the kernel's
/// `fs/console.rs` has the other end.
const COMMAND: u8 = 255;
const END: u8 = 236;
/// Telnet's begin and end of what belongs to an option.
const BEGIN: u8 = 250;
const FINISH: u8 = 240;
/// An option of our own: so many bytes are in the second pipe.
const BULK: u8 = 200;

/// The way into a machine. QEMU takes from it only what the guest's UART has room for, and the
/// pipe holds little: so that whoever writes waits for the program that reads.
#[derive(Debug)]
pub struct Input {
    path: PathBuf,
    pipe: File,
    /// What is long: QEMU reads it by semihosting.
    bulk: File,
}

/// Where the second pipe is, if the first one is at `input`.
pub(super) fn bulk_path(input: &Path) -> PathBuf {
    input.with_extension("bulk")
}

/// A named pipe. Both of its ends are kept open: QEMU's opening it waits for nobody, and its end is ours
/// to tell.
fn make_pipe(path: &Path) -> Result<File> {
    use std::os::unix::ffi::OsStrExt;
    let name =
        std::ffi::CString::new(path.as_os_str().as_bytes()).context("a path with a zero in it")?;
    // SAFETY: a C string that lives longer than the call.
    if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot make the pipe {}", path.display()));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

impl Input {
    /// Named pipes in `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let path = dir.join("input");
        let pipe = make_pipe(&path)?;
        let bulk = make_pipe(&bulk_path(&path))?;
        Ok(Self { path, pipe, bulk })
    }

    /// What QEMU opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends all of `source`, and its end, while the machine runs, whose bytes go to `wire`. Whatever
    /// the program does not read stays in the pipe.
    pub fn feed(&self, mut source: impl Read + Send + 'static, wire: &Path) -> Result<()> {
        let mut pipe = self.pipe.try_clone().context("cannot use the pipe")?;
        let mut bulk = self.bulk.try_clone().context("cannot use the pipe")?;
        let wire = wire.to_owned();
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || {
                wait_for(&wire)?;
                copy(&mut source, &mut pipe, &mut bulk)
            })
            .context("cannot start a thread")?;
        Ok(())
    }

    /// Sends what is typed in our terminal, and how large its window is.
    pub fn feed_terminal(&self, mut keys: Keys, wire: &Path) -> Result<()> {
        let mut pipe = self.pipe.try_clone().context("cannot use the pipe")?;
        let wire = wire.to_owned();
        thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                wait_for(&wire)?;
                loop {
                    let sent = match keys.wait() {
                        Typed::Bytes(bytes) => escaped(bytes),
                        Typed::Resized => match terminal::size() {
                            Some(size) => window(size),
                            None => continue,
                        },
                        Typed::End => break,
                    };
                    pipe.write_all(&sent).ok()?;
                }
                pipe.write_all(&[COMMAND, END]).ok()
            })
            .context("cannot start a thread")?;
        Ok(())
    }
}

/// Telnet's "window size" (RFC 1073), for so many rows and columns.
fn window((rows, columns): (u16, u16)) -> Vec<u8> {
    const WINDOW: u8 = 31;
    let size = [columns.to_be_bytes(), rows.to_be_bytes()].concat();
    let begin = [COMMAND, BEGIN, WINDOW];
    [&begin[..], &escaped(&size), &[COMMAND, FINISH]].concat()
}

/// As bytes are on the line.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        sent.push(byte);
        if byte == COMMAND {
            sent.push(COMMAND);
        }
    }
    sent
}

/// Waits until the machine has said something: before that its UART is not set up, and would lose
/// what comes. None: it never will, as its file is gone.
fn wait_for(wire: &Path) -> Option<()> {
    while wire.metadata().ok()?.len() == 0 {
        thread::sleep(Duration::from_millis(2));
    }
    Some(())
}

/// Copies to the end: few bytes by the line, many by the other pipe, of which the line tells. An input that
/// cannot be read ends there, as it would for any program; nobody misses what a machine that has ended does
/// not take.
fn copy(source: &mut impl Read, pipe: &mut impl Write, bulk: &mut impl Write) -> Option<()> {
    /// What QEMU's UART takes at once.
    const FEW: usize = 16;
    let mut buffer = [0; 16 * 1024];
    loop {
        let bytes = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => &buffer[..count],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if bytes.len() <= FEW {
            pipe.write_all(&escaped(bytes)).ok()?;
            continue;
        }
        bulk.write_all(bytes).ok()?;
        let count = escaped(&(bytes.len() as u16).to_be_bytes());
        let told = [&[COMMAND, BEGIN, BULK], &count[..], &[COMMAND, FINISH]].concat();
        pipe.write_all(&told).ok()?;
    }
    pipe.write_all(&[COMMAND, END]).ok()
}

/// Whether our standard input may be read. In a terminal it is the foreground's alone: another one
/// that reads is stopped.
pub fn may_read() -> bool {
    // SAFETY: neither takes a pointer.
    unsafe { libc::isatty(0) == 0 || libc::tcgetpgrp(0) == libc::getpgrp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_their_end() {
        let sent_of = |mut bytes: &[u8]| {
            let (mut sent, mut bulk) = (Vec::new(), Vec::new());
            copy(&mut bytes, &mut sent, &mut bulk).unwrap();
            (sent, bulk)
        };
        let (sent, bulk) = sent_of(b"a\xff\x00b");
        assert_eq!(
            (&sent[..], &bulk[..]),
            (&b"a\xff\xff\x00b\xff\xec"[..], &[][..])
        );
        assert_eq!(sent_of(b""), (vec![COMMAND, END], vec![]));
        // How many there are is escaped as well.
        let (sent, bulk) = sent_of(&[7; 255]);
        assert_eq!(sent, b"\xff\xfa\xc8\x00\xff\xff\xff\xf0\xff\xec");
        assert_eq!(bulk, [7; 255]);
    }

    #[test]
    fn window_sizes() {
        assert_eq!(
            window((24, 255)),
            [255, 250, 31, 0, 255, 255, 0, 24, 255, 240]
        );
    }

    #[test]
    fn a_pipe_that_nobody_has_opened_yet() {
        let dir = tempfile::tempdir().unwrap();
        let input = Input::new(dir.path()).unwrap();
        let wire = dir.path().join("wire");
        File::create(&wire).unwrap();
        input.feed(&b"hello"[..], &wire).unwrap();
        let mut reader = File::open(input.path()).unwrap();
        std::fs::write(&wire, "first words").unwrap();
        let mut got = [0; 7];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello\xff\xec");
    }
}
