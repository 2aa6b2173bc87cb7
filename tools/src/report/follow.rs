//! A trace that somebody else is still writing.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::analysis::stream::{Observer, State, Stream};
use crate::interrupt;
use crate::progress::Progress;
use crate::record::REFRESH;

/// How often it is looked for more.
const PAUSE: Duration = Duration::from_millis(50);
/// When nothing has come for so long, it is asked whether anybody still writes. A machine that lives says
/// hello every two seconds.
const QUIET: Duration = Duration::from_secs(5);
/// The same, if somebody had it locked before.
const QUIET_AFTER_LOCK: Duration = Duration::from_secs(1);

/// What there is of the trace, again and again.
pub struct Follow {
    path: PathBuf,
    file: Option<File>,
    read: u64,
    last: Instant,
    /// Somebody was seen to have it locked, as `run` and `record` do while they write.
    locked: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// Nothing more: nobody writes it.
    End,
}

impl Follow {
    /// The file may not be there yet.
    pub fn new(path: &Path) -> Self {
        Follow {
            path: path.to_owned(),
            file: None,
            read: 0,
            last: Instant::now(),
            locked: false,
        }
    }

    /// Whether the file was there.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Reads what there is now.
    ///
    /// # Errors
    /// When reading fails, or the file was overwritten meanwhile.
    pub fn next(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Next::Nothing),
                Err(error) => return Err(error),
            },
        };
        match file.read(buffer) {
            Ok(0) => {}
            Ok(len) => {
                self.read += len as u64;
                self.last = Instant::now();
                return Ok(Next::Bytes(len));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Next::Nothing),
            Err(error) => return Err(error),
        }
        let about = file.metadata()?;
        if about.is_file() && about.len() < self.read {
            return Err(io::Error::other("it was overwritten while it was read"));
        }
        let quiet = match self.locked {
            true => QUIET_AFTER_LOCK,
            false => QUIET,
        };
        if self.last.elapsed() < quiet {
            return Ok(Next::Nothing);
        }
        self.last = Instant::now();
        Ok(match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                self.locked = true;
                Next::Nothing
            }
            Ok(()) => {
                file.unlock()?;
                Next::End
            }
            // Not a file that can be locked.
            Err(TryLockError::Error(_)) => Next::End,
        })
    }
}

/// Reads a trace until the machine's last frame has come, or its writer has gone, or Ctrl-C.
pub(super) fn read(path: &Path, observer: &mut impl Observer) -> io::Result<State> {
    interrupt::watch();
    let progress = Progress::new(false);
    let name = path.display();
    progress.step(&format!("following {name}; Ctrl-C ends it"));
    let mut follow = Follow::new(path);
    let mut stream = Stream::new();
    let mut chunk = vec![0; 256 * 1024];
    let mut shown = Instant::now();
    while !interrupt::requested() && stream.state().ended.is_none() {
        match follow.next(&mut chunk)? {
            Next::Bytes(len) => stream.take(&chunk[..len], observer),
            Next::Nothing => std::thread::sleep(PAUSE),
            Next::End => break,
        }
        if shown.elapsed() >= REFRESH {
            let state = stream.state();
            let events: u64 = state.machine.events.iter().sum();
            progress.state(&format!(
                "{name}: {:.1} kB, {events} events; Ctrl-C ends it",
                state.bytes as f64 / 1000.0
            ));
            shown = Instant::now();
        }
    }
    progress.finish();
    if !follow.is_open() {
        return Err(io::ErrorKind::NotFound.into());
    }
    stream.finish(observer)
}
