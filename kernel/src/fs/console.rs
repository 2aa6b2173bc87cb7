//! The console's input: bytes from the wire's other direction, for whoever reads the console.
//!
//! A plain channel of bytes with an end. Where the tool's standard input is a terminal, [`tty`] takes
//! them from here and makes lines, echo and signals of them.
//!
//! On the line the bytes are as they are, with Telnet's commands for the rest (RFC 854): 255 is written
//! twice, 255 236 is the end of the input (RFC 1184), and 255 250 31, two times two bytes and 255 240
//! say how many columns and rows the terminal has (RFC 1073).
//!
//! An emulator's UART takes a few bytes at a time, and a megabyte takes most of a minute. What is long comes by a file
//! of the host's instead, which the emulator reads for us, where the boot arguments say `input=bulk`: 255 250
//! 200, two bytes and 255 240 say on the line how much more there is now. It is read before anything that follows.
//!
//! Nothing is taken from the UART that there is no room for, so that the sender has to wait: QEMU does,
//! as its UART then tells it. A real line without flow control can overrun; then a warning says so.
//!
//! The UART interrupts when it has something and there is room for it. Where that interrupt cannot be
//! had, it is looked at at each tick, and while there is nothing to do.

use super::buffer::Buffer;
use super::tty;
use super::watch::{Events, Watchers};
use crate::arch::time;
use crate::driver::semihosting::File;
use crate::driver::{interrupt, uart};
use crate::process::options::options;
use crate::process::scheduler::WaitQueue;
use crate::process::thread;
use crate::syscall::errno::Errno;
use crate::trace;
use linux_raw_sys::general::{POLLHUP, POLLIN, POLLRDNORM};
use memory::{Lock, Rank};

/// Bytes that may wait for a reader.
const CAPACITY: usize = 16384;
/// Telnet's "interpret as command".
const COMMAND: u8 = 255;
/// Telnet's "end of file".
const END: u8 = 236;
/// Telnet's begin and end of what belongs to an option, and the option "window size".
const BEGIN: u8 = 250;
const FINISH: u8 = 240;
const WINDOW: u8 = 31;
/// Our own option (none of Telnet's has this number): so many bytes are in the host's file.
const BULK: u8 = 200;
/// Without an interrupt, how long the idle loop looks for more before it sleeps until the next tick, in
/// parts of a second: who sends much has the next bytes ready soon after the last.
const PATIENCE: u64 = 500;

static WATCHERS: Watchers = Watchers::new();

struct Input {
    ring: [u8; CAPACITY],
    head: usize,
    len: usize,
    decoder: Decoder,
    /// Rows and columns, if somebody has said so since the last look.
    window: Option<(u16, u16)>,
    ended: bool,
    /// Bytes of the host's file that are still to be read, and the file once it has been opened.
    owed: usize,
    file: Option<File>,
    /// The UART interrupts.
    listening: bool,
    /// When the last byte came.
    last: u64,
    readers: WaitQueue,
}

/// Where on the line we are.
enum Decoder {
    /// Between bytes.
    Plain,
    /// The last byte was [`COMMAND`], and what it means is yet to come.
    Command,
    /// In what belongs to an option: its number and the first bytes, how many there were, and whether
    /// the last one was [`COMMAND`].
    Option([u8; 5], usize, bool),
}

static INPUT: Lock<Input> = Lock::new(
    Rank::Waiting,
    Input {
        ring: [0; CAPACITY],
        head: 0,
        len: 0,
        decoder: Decoder::Plain,
        window: None,
        ended: false,
        owed: 0,
        file: None,
        listening: false,
        last: 0,
        readers: WaitQueue::new(),
    },
);

impl Input {
    /// Takes what the UART has, while there is room.
    fn receive(&mut self) {
        let before = (self.len, self.ended);
        loop {
            if self.owed > 0 {
                self.take_owed();
            }
            if self.owed > 0 || self.len == CAPACITY {
                break;
            }
            let Some(byte) = uart::wire_uart().try_get() else {
                break;
            };
            self.last = time::now();
            self.decode(byte);
        }
        if (self.len, self.ended) != before {
            self.readers.wake_all();
        }
        self.listen();
    }

    /// Takes from the host's file what there is room for: it is there, so that nobody waits.
    fn take_owed(&mut self) {
        if self.file.is_none() && options().bulk {
            self.file = File::named_by_command_line();
        }
        let Some(file) = self.file else {
            defmt::error!("console input is lost: there is no file to read it from");
            self.owed = 0;
            return;
        };
        while self.owed > 0 && self.len < CAPACITY {
            let start = (self.head + self.len) % CAPACITY;
            let end = if start < self.head {
                self.head
            } else {
                CAPACITY
            };
            let count = self.owed.min(end - start);
            match file.read(&mut self.ring[start..start + count]) {
                0 => {
                    defmt::error!(
                        "console input is lost: its file is {=usize} bytes short",
                        self.owed
                    );
                    self.owed = 0;
                }
                count => {
                    self.owed -= count;
                    self.len += count;
                }
            }
        }
    }

    fn decode(&mut self, byte: u8) {
        match (&mut self.decoder, byte) {
            (Decoder::Plain, COMMAND) => self.decoder = Decoder::Command,
            (Decoder::Plain, _) => self.put(byte),
            (Decoder::Command, BEGIN) => self.decoder = Decoder::Option([0; 5], 0, false),
            (Decoder::Command, _) => {
                self.decoder = Decoder::Plain;
                match byte {
                    COMMAND => self.put(byte),
                    END => self.ended = true,
                    // No command of ours.
                    _ => {}
                }
            }
            (Decoder::Option(_, _, command @ false), COMMAND) => *command = true,
            (&mut Decoder::Option(bytes, count, true), FINISH) => {
                self.decoder = Decoder::Plain;
                match (bytes, count) {
                    ([WINDOW, w1, w0, h1, h0], 5) => {
                        let size = [[h1, h0], [w1, w0]].map(u16::from_be_bytes);
                        self.window = Some((size[0], size[1]));
                    }
                    ([BULK, high, low, ..], 3) => {
                        self.owed += usize::from(u16::from_be_bytes([high, low]));
                    }
                    _ => {}
                }
            }
            (Decoder::Option(bytes, count, command), _) => {
                *command = false;
                if let Some(slot) = bytes.get_mut(*count) {
                    *slot = byte;
                }
                *count = count.saturating_add(1);
            }
        }
    }

    /// Asks for the UART's interrupt while there is room.
    fn listen(&mut self) {
        let wanted = self.len < CAPACITY && self.owed == 0;
        if self.listening != wanted {
            self.listening = wanted;
            uart::wire_uart().listen(wanted);
        }
    }

    fn put(&mut self, byte: u8) {
        // After the end nobody reads.
        if !self.ended {
            self.ring[(self.head + self.len) % CAPACITY] = byte;
            self.len += 1;
        }
    }

    /// Moves what fits.
    fn take(&mut self, to: &mut Buffer<'_>) -> Result<usize, Errno> {
        let count = to.left().min(self.len);
        let first = count.min(CAPACITY - self.head);
        let mut done = to.put(&self.ring[self.head..self.head + first])?;
        if done == first {
            done += to.put(&self.ring[..count - first]).unwrap_or(0);
        }
        self.head = (self.head + done) % CAPACITY;
        self.len -= done;
        self.listen();
        Ok(done)
    }
}

/// Reads what there is; waits for the first byte unless `nonblocking`. 0 is the end of the input, which
/// is at once if the machine was not told that somebody sends any.
pub fn read(to: &mut Buffer<'_>, nonblocking: bool) -> Result<usize, Errno> {
    if to.left() == 0 || !options().input {
        return Ok(0);
    }
    let mut input = INPUT.lock();
    loop {
        input.receive();
        if input.len > 0 {
            return input.take(to);
        }
        if input.ended {
            return Ok(0);
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        input = WaitQueue::wait(&INPUT, input, |input| &mut input.readers);
        if thread::current().interrupted() {
            return Err(Errno::EINTR);
        }
    }
}

/// Writes to the tool's stream `number`.
pub fn write(number: u8, from: &mut Buffer<'_>) -> Result<usize, Errno> {
    let stream = if number == 2 { 2 } else { 1 };
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

/// Takes one byte, for the terminal.
pub fn take() -> Option<u8> {
    let mut input = INPUT.lock();
    if input.len == 0 {
        input.receive();
    }
    if input.len == 0 {
        return None;
    }
    let byte = input.ring[input.head];
    input.head = (input.head + 1) % CAPACITY;
    input.len -= 1;
    input.listen();
    Some(byte)
}

/// The size of the terminal's window (rows and columns), if it was told since the last time.
pub fn take_window() -> Option<(u16, u16)> {
    INPUT.lock().window.take()
}

/// Whether all that will ever come has been taken.
pub fn has_ended() -> bool {
    let input = INPUT.lock();
    input.len == 0 && input.ended
}

/// How many bytes can be read without waiting; none: the input has ended.
pub fn available() -> Option<usize> {
    let mut input = INPUT.lock();
    input.receive();
    (input.len > 0 || options().input && !input.ended).then_some(input.len)
}

/// What poll says of the console's input as a plain stream.
pub fn ready() -> Events {
    match available() {
        Some(0) => 0,
        Some(_) => POLLIN | POLLRDNORM,
        None => POLLHUP,
    }
}

/// Those who watch the plain stream.
pub fn watchers() -> &'static Watchers {
    &WATCHERS
}

/// Takes what has been received: at the UART's interrupt, at each tick.
pub fn receive() {
    if !options().input {
        return;
    }
    let mut input = INPUT.lock();
    let before = (input.len, input.ended);
    input.receive();
    let news = (input.len, input.ended) != before || input.window.is_some();
    drop(input);
    if options().terminals[0] {
        if news {
            tty::receive();
        }
    } else if news {
        WATCHERS.notify(ready());
    }
}

/// There is nothing to do: looks for input where no interrupt tells of it. True if more is likely to
/// come soon, for somebody who waits for it.
pub fn idle() -> bool {
    if !options().input || interrupt::has_uart() {
        return false;
    }
    receive();
    time::now() - INPUT.lock().last < time::hz() / PATIENCE
}
