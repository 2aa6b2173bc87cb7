//! Our own terminal while a program of the guest has it: raw, so that every key reaches the program, and
//! as it was before once we end, however that is.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Once, OnceLock};

use anyhow::{Context, Result};

use crate::interrupt;

/// Ctrl-]: the next key is for us.
const ESCAPE: u8 = 0x1d;
/// After that, what ends the machine.
const LEAVE: u8 = b'q';
/// How to leave, for people.
pub const HINT: &str = "the terminal is the program's now; Ctrl-] q ends the machine";

/// How it was set up before.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();
/// It is raw, or was when we were stopped.
static RAW: AtomicBool = AtomicBool::new(false);
/// Where a signal handler writes to when the window may have another size.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Standard input is a terminal, and ours to read.
pub struct Raw(());

impl Raw {
    /// Makes it raw until this is dropped.
    pub fn new() -> Result<Self> {
        let mut settings = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills in all of it, unless it fails.
        if unsafe { libc::tcgetattr(0, settings.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot read the terminal's settings");
        }
        // SAFETY: it did not fail.
        BEFORE.get_or_init(|| unsafe { settings.assume_init() });
        install();
        RAW.store(true, Ordering::SeqCst);
        if !set_raw() {
            let error = io::Error::last_os_error();
            RAW.store(false, Ordering::SeqCst);
            return Err(error).context("cannot make the terminal raw");
        }
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether a line on it needs a carriage return.
pub fn is_raw() -> bool {
    RAW.load(Ordering::SeqCst)
}

/// As it was before. Safe in a signal handler.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst) {
        set_before();
    }
}

fn set_before() {
    if let Some(before) = BEFORE.get() {
        // SAFETY: a `termios` that the system gave us.
        unsafe { libc::tcsetattr(0, libc::TCSADRAIN, before) };
    }
}

fn set_raw() -> bool {
    BEFORE.get().is_some_and(|before| {
        let mut raw = *before;
        // SAFETY: a `termios` that the system gave us, and its copy.
        unsafe {
            libc::cfmakeraw(&mut raw);
            libc::tcsetattr(0, libc::TCSADRAIN, &raw) == 0
        }
    })
}

/// Rows and columns of the window.
pub fn size() -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ fills in a `winsize`, and zeros are one as well.
    let size = unsafe {
        if libc::ioctl(0, libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
            return None;
        }
        size.assume_init()
    };
    (size.ws_row != 0 && size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}

/// Signals that end us without a word: the terminal is put right first. SIGINT, SIGTERM and SIGHUP are
/// `interrupt`'s.
const DEADLY: [libc::c_int; 7] = [
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGALRM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

extern "C" fn die(signal: libc::c_int) {
    restore();
    // SAFETY: both are async-signal-safe, and the default action is the end.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

extern "C" fn stop(_: libc::c_int) {
    // It stays ours to make raw again.
    if is_raw() {
        set_before();
    }
    // SAFETY: async-signal-safe.
    unsafe { libc::raise(libc::SIGSTOP) };
}

extern "C" fn go_on(_: libc::c_int) {
    if is_raw() {
        set_raw();
    }
    resized(0);
}

extern "C" fn resized(_: libc::c_int) {
    let fd = WAKE.load(Ordering::SeqCst);
    // SAFETY: one byte that is there; a pipe that is full has been told already.
    unsafe { libc::write(fd, [0_u8].as_ptr().cast(), 1) };
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handlers = DEADLY
            .iter()
            .map(|&signal| (signal, die as extern "C" fn(libc::c_int)))
            .chain([
                (libc::SIGTSTP, stop as extern "C" fn(libc::c_int)),
                (libc::SIGCONT, go_on),
                (libc::SIGWINCH, resized),
            ]);
        for (signal, handler) in handlers {
            // SAFETY: the handlers do what is async-signal-safe alone; zeros are an empty mask.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}

/// What comes of waiting for a key.
pub enum Typed<'a> {
    /// Bytes for the program.
    Bytes(&'a [u8]),
    /// The window may have another size.
    Resized,
    /// Nothing more will come.
    End,
}

/// What is typed, without what is for us.
pub struct Keys {
    wake: [libc::c_int; 2],
    /// Ctrl-] was the last key.
    escaped: bool,
    kept: Vec<u8>,
}

impl Keys {
    /// From now on the window's changes are noted, too.
    pub fn new() -> Result<Self> {
        let mut wake = [0; 2];
        // SAFETY: room for two descriptors.
        if unsafe { libc::pipe(wake.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot make a pipe");
        }
        for fd in wake {
            // SAFETY: a descriptor of ours.
            unsafe {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
            }
        }
        WAKE.store(wake[1], Ordering::SeqCst);
        Ok(Self {
            wake,
            escaped: false,
            kept: Vec::new(),
        })
    }

    /// Waits for the next.
    pub fn wait(&mut self) -> Typed<'_> {
        loop {
            let poll = |fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            let mut files = [poll(0), poll(self.wake[0])];
            // SAFETY: two entries.
            if unsafe { libc::poll(files.as_mut_ptr(), 2, -1) } < 0 {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Typed::End;
            }
            let mut buffer = [0; 1024];
            if files[1].revents != 0 {
                read(self.wake[0], &mut buffer);
                return Typed::Resized;
            }
            match read(0, &mut buffer) {
                None => continue,
                Some(0) => return Typed::End,
                Some(count) => {
                    if self.take(&buffer[..count]) {
                        interrupt::request();
                    }
                    return Typed::Bytes(&self.kept);
                }
            }
        }
    }

    /// Keeps what is the program's. Whether the user wants to leave.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let mut leave = false;
        self.kept.clear();
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, LEAVE) => leave = true,
                (true, ESCAPE) | (false, _) => self.kept.push(byte),
                (true, _) => self.kept.extend([ESCAPE, byte]),
            }
        }
        leave
    }
}

/// How many bytes were read; none: try again.
fn read(fd: libc::c_int, buffer: &mut [u8]) -> Option<usize> {
    // SAFETY: a buffer of ours and its length.
    let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    match usize::try_from(count) {
        Ok(count) => Some(count),
        Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => None,
        Err(_) => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_ours() {
        let mut keys = Keys {
            wake: [-1; 2],
            escaped: false,
            kept: Vec::new(),
        };
        let mut all = |pieces: &[&[u8]]| {
            let (mut kept, mut leave) = (Vec::new(), false);
            for piece in pieces {
                leave |= keys.take(piece);
                kept.extend_from_slice(&keys.kept);
            }
            (kept, leave)
        };
        assert_eq!(all(&[b"a\x1d", b"\x1db"]), (b"a\x1db".to_vec(), false));
        assert_eq!(all(&[b"\x1dx\x03"]), (b"\x1dx\x03".to_vec(), false));
        assert_eq!(all(&[b"\x1d", b"q"]), (Vec::new(), true));
    }
}
