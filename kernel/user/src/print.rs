//! Text on fd 1 and 2, and how a program fails.

use crate::{Errno, Result, file, process};
use core::fmt::{self, Arguments, Write};
use core::panic::Location;

/// Collects the pieces of one message, so that it is (up to its size) one `write`.
///
/// It lives on the stack for the length of one call: a buffer that outlived the call would be
/// copied by fork and its text printed twice.
struct Buffer {
    fd: i32,
    bytes: [u8; 256],
    used: usize,
    result: Result<()>,
}

impl Buffer {
    fn flush(&mut self) {
        let pending = &self.bytes[..core::mem::take(&mut self.used)];
        if self.result.is_ok() {
            self.result = file::write_all(self.fd, pending);
        }
    }
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Writes a message to `fd`. If that fails for fd 1, the program fails: output is its result.
pub fn print(fd: i32, message: Arguments<'_>) {
    let mut buffer = Buffer {
        fd,
        bytes: [0; 256],
        used: 0,
        result: Ok(()),
    };
    // A `Display` may fail by its own will; `write_str` never does.
    let formatted = buffer.write_fmt(message).is_ok();
    buffer.flush();
    if fd == 1 && (buffer.result.is_err() || !formatted) {
        process::exit(1);
    }
}

/// Prints to fd 1.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::print(1, format_args!($($argument)*)) };
}

/// Prints a line to fd 1.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::print(1, format_args!("{}\n", format_args!($($argument)*))) };
}

/// Prints a line to fd 2.
#[macro_export]
macro_rules! eprintln {
    ($($argument:tt)*) => { $crate::print(2, format_args!("{}\n", format_args!($($argument)*))) };
}

/// Ends the program with a message on fd 2 and exit code 1.
#[track_caller]
#[cold]
pub fn fail(message: Arguments<'_>) -> ! {
    let here = Location::caller();
    eprintln!(
        "failed (pid {}, {}:{}): {message}",
        process::getpid(),
        here.file(),
        here.line()
    );
    process::exit(1)
}

/// Ends the program with a message on fd 2 and exit code 1.
#[macro_export]
macro_rules! fail {
    ($($argument:tt)*) => { $crate::fail(format_args!($($argument)*)) };
}

/// Ends the program with a message unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($argument:tt)*) => { if !$condition { $crate::fail!($($argument)*) } };
}

/// For results that must be good for the program to go on.
pub trait OrFail<T> {
    /// The value; or the program fails, saying what it was doing.
    fn or_fail(self, doing: &str) -> T;
}

impl<T> OrFail<T> for core::result::Result<T, Errno> {
    #[track_caller]
    fn or_fail(self, doing: &str) -> T {
        match self {
            Ok(value) => value,
            Err(errno) => fail(format_args!("{doing}: {errno}")),
        }
    }
}
