//! A pseudo-terminal with a program in it, and somebody who types and looks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long anything may take: many others may use this machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program in a terminal of its own.
pub struct Terminal {
    ours: File,
    theirs: File,
    child: Child,
    seen: Vec<u8>,
    /// What of `seen` was looked at.
    looked: usize,
}

fn check(result: libc::c_int) -> libc::c_int {
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}

impl Terminal {
    /// Starts it, in a window of so many rows and columns.
    pub fn new(mut command: Command, size: (u16, u16)) -> Self {
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: two descriptors that are ours then, and nothing else is asked for.
        let (ours, theirs) = unsafe {
            check(libc::openpty(
                &mut ours,
                &mut theirs,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            ));
            check(libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC));
            check(libc::fcntl(theirs, libc::F_SETFD, libc::FD_CLOEXEC));
            (File::from_raw_fd(ours), File::from_raw_fd(theirs))
        };
        resize(&ours, size);
        let stream = || theirs.try_clone().expect("a copy of the terminal");
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: two bare system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the program starts");
        // SAFETY: our own descriptor.
        unsafe {
            check(libc::fcntl(
                ours.as_raw_fd(),
                libc::F_SETFL,
                libc::O_NONBLOCK,
            ))
        };
        Self {
            ours,
            theirs,
            child,
            seen: Vec::new(),
            looked: 0,
        }
    }

    /// Types.
    pub fn send(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).expect("it is typed");
    }

    /// Waits until `text` is shown, behind what was waited for before; returns what is before it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let fresh = String::from_utf8_lossy(&self.seen[self.looked..]).into_owned();
            if let Some(at) = fresh.find(text) {
                self.looked += at + text.len();
                return fresh[..at].to_owned();
            }
            let ended = self.child.try_wait().expect("its state").is_some();
            if !self.read() && (ended || Instant::now() > end) {
                panic!("{text:?} is not shown: {:?}", self.screen());
            }
        }
    }

    /// All that was shown.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Takes what is shown; whether there was something.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.ours.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.seen.extend_from_slice(&buffer[..count]);
                true
            }
            _ => {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        }
    }

    /// Gives the window another size.
    pub fn resize(&self, size: (u16, u16)) {
        resize(&self.ours, size);
    }

    /// How the terminal is set up: input, output and local flags.
    pub fn settings(&self) -> [u32; 3] {
        // SAFETY: zeros are a `termios`, and tcgetattr fills it in.
        let settings = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            check(libc::tcgetattr(self.theirs.as_raw_fd(), &mut settings));
            settings
        };
        [settings.c_iflag, settings.c_oflag, settings.c_lflag]
    }

    /// Sends the program a signal.
    pub fn kill(&self, signal: libc::c_int) {
        // SAFETY: a child of ours that has not been waited for.
        check(unsafe { libc::kill(self.child.id() as i32, signal) });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            self.read();
            if let Some(status) = self.child.try_wait().expect("its state") {
                while self.read() {}
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {:?}", self.screen());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &File, (rows, columns): (u16, u16)) {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a `winsize`.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) });
}
