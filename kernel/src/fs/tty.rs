//! The terminal.

use super::buffer::Buffer;
use super::console;
use super::watch::{Events, Watchers};
use crate::arch::uaccess;
use crate::process::options::options;
use crate::syscall::errno::Errno;
use crate::syscall::user;
use crate::trace;
use linux_raw_sys::general::{POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use linux_raw_sys::ioctl::{FIONREAD, TCGETS, TIOCGWINSZ};

static WATCHERS: Watchers = Watchers::new();

/// Reads what was typed.
pub fn read(to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
    console::read(to, nonblocking)
}

/// Writes to the console, as descriptor `fd` of the first process.
pub fn write(fd: u8, from: &mut Buffer<'_>) -> Result<usize, Errno> {
    let stream = if fd == 2 { 2 } else { 1 };
    let mut done = 0;
    while from.left() > 0 {
        let mut bytes = [0; super::CHUNK];
        let len = bytes.len().min(from.left());
        match from.take(&mut bytes[..len]) {
            Ok(count) => {
                trace::console(stream, &bytes[..count]);
                done += count;
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// `struct winsize`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Winsize {
    rows: u16,
    columns: u16,
    pixels: [u16; 2],
}

/// ioctl: where the user's descriptor is a terminal, the console is one as far as asking goes.
pub fn ioctl(fd: u8, request: u32, argument: u64) -> Result<u64, Errno> {
    match request {
        FIONREAD => {
            uaccess::write_u32(argument, console::available().unwrap_or(0) as u32)?;
            Ok(0)
        }
        _ if !options().terminals[usize::from(fd)] => Err(Errno::ENOTTY),
        TCGETS => {
            /// `struct termios` of the system call: four words of flags, the line, 19 characters.
            const TERMIOS: usize = 36;
            let mut bytes = [0; TERMIOS];
            // Input: ICRNL. Output: OPOST, ONLCR. Control: B38400, CS8, CREAD. Local: ISIG, ICANON, ECHO.
            for (field, flags) in bytes.chunks_exact_mut(4).zip([0o400_u32, 0o5, 0o277, 0o13]) {
                field.copy_from_slice(&flags.to_le_bytes());
            }
            uaccess::write(argument, &bytes)?;
            Ok(0)
        }
        TIOCGWINSZ => {
            user::write(
                argument,
                &Winsize {
                    rows: 24,
                    columns: 80,
                    pixels: [0; 2],
                },
            )?;
            Ok(0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// What poll says.
pub fn ready() -> Events {
    let writable = POLLOUT | POLLWRNORM;
    match console::available() {
        Some(0) => writable,
        Some(_) => POLLIN | POLLRDNORM | writable,
        None => POLLIN | POLLRDNORM | POLLHUP | writable,
    }
}

/// Those who watch it.
pub fn watchers() -> &'static Watchers {
    &WATCHERS
}
