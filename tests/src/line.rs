//! Serial lines that are none: pseudo-terminals, and a relay that loses and damages bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A pseudo-terminal: what is written to the device comes out of the other end, as it is.
#[derive(Debug)]
pub struct Pty {
    /// The other end.
    pub master: File,
    /// The device, kept open: it is there as long as this is.
    _device: OwnedFd,
    /// Its name.
    pub path: PathBuf,
}

impl Pty {
    /// A new one.
    pub fn new() -> Self {
        let (mut master, mut device) = (-1, -1);
        // SAFETY: all zeros are a valid termios, which `cfmakeraw` then fills; the pointers are good
        // for the calls, and no name or size is asked for. The descriptors are ours.
        unsafe {
            let mut raw: libc::termios = std::mem::zeroed();
            libc::cfmakeraw(&mut raw);
            let none = std::ptr::null_mut();
            let made = libc::openpty(&mut master, &mut device, none, &raw, std::ptr::null());
            assert_eq!(
                made,
                0,
                "no pseudo-terminal: {}",
                io::Error::last_os_error()
            );
            let name = std::fs::read_link(format!("/proc/self/fd/{device}"));
            Self {
                master: File::from_raw_fd(master),
                _device: OwnedFd::from_raw_fd(device),
                path: name.expect("the device has a name"),
            }
        }
    }
}

impl Default for Pty {
    fn default() -> Self {
        Self::new()
    }
}

/// How a direction of a relay is disturbed.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// One byte in so many is lost, and as many have a bit turned over.
    pub one_in: u32,
    /// Nothing is, after so many bytes.
    pub until: u64,
}

/// What a relay did.
#[derive(Clone, Debug, Default)]
pub struct Damage(Arc<AtomicU64>);

impl Damage {
    /// Bytes lost or turned over.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Copies bytes, some of them not or not as they were, until either end is gone.
pub fn relay(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    noise: Noise,
    seed: u64,
) -> Damage {
    let damage = Damage::default();
    let count = Arc::clone(&damage.0);
    thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut passed = 0u64;
        let mut buffer = [0; 4096];
        while let Ok(n) = from.read(&mut buffer)
            && n > 0
        {
            let mut out = Vec::with_capacity(n);
            for &byte in &buffer[..n] {
                passed += 1;
                match random.u32(..noise.one_in) {
                    0 if passed < noise.until => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    1 if passed < noise.until => {
                        count.fetch_add(1, Ordering::Relaxed);
                        out.push(byte ^ 1 << random.u8(..8));
                    }
                    _ => out.push(byte),
                }
            }
            if to.write_all(&out).is_err() {
                break;
            }
        }
    });
    damage
}

/// Connects to a socket that is about to be there.
#[track_caller]
pub fn connect(path: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return socket,
            Err(error) if start.elapsed() > Duration::from_secs(60) => {
                panic!("{}: {error}", path.display())
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
