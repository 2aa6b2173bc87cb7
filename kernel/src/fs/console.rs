//! The console's input: bytes from the wire's other direction, for whoever reads the console.
//!
//! A plain channel of bytes with an end: what makes a terminal of it (lines, echo, signals) belongs
//! between [`read`] and the system calls.
//!
//! On the line the bytes are as they are, with Telnet's commands for the rest (RFC 854): 255 is written
//! twice, and 255 236 is the end of the input (RFC 1184).
//!
//! Nothing is taken from the UART that there is no room for, so that the sender has to wait: QEMU does,
//! as its UART then tells it. A real line without flow control can overrun; then a warning says so.
//!
//! The UART interrupts when it has something and there is room for it. Where that interrupt cannot be
//! had, it is looked at at each tick, and while there is nothing to do.

use super::buffer::Buffer;
use super::tty;
use crate::arch::time;
use crate::driver::{interrupt, uart};
use crate::process::options::options;
use crate::process::scheduler::WaitQueue;
use crate::process::thread;
use crate::syscall::errno::Errno;
use memory::{Lock, Rank};

/// Bytes that may wait for a reader.
const CAPACITY: usize = 4096;
/// Telnet's "interpret as command".
const COMMAND: u8 = 255;
/// Telnet's "end of file".
const END: u8 = 236;
/// Without an interrupt, how long the idle loop looks for more before it sleeps until the next tick, in
/// parts of a second: who sends much has the next bytes ready soon after the last.
const PATIENCE: u64 = 500;

struct Input {
    ring: [u8; CAPACITY],
    head: usize,
    len: usize,
    /// The last byte was [`COMMAND`], and what it means is yet to come.
    command: bool,
    ended: bool,
    /// The UART interrupts.
    listening: bool,
    /// When the last byte came.
    last: u64,
    readers: WaitQueue,
}

static INPUT: Lock<Input> = Lock::new(
    Rank::Waiting,
    Input {
        ring: [0; CAPACITY],
        head: 0,
        len: 0,
        command: false,
        ended: false,
        listening: false,
        last: 0,
        readers: WaitQueue::new(),
    },
);

impl Input {
    /// Takes what the UART has, while there is room.
    fn receive(&mut self) {
        let before = (self.len, self.ended);
        while self.len < CAPACITY
            && let Some(byte) = uart::wire_uart().try_get()
        {
            self.last = time::now();
            match (core::mem::take(&mut self.command), byte) {
                (false, COMMAND) => self.command = true,
                (true, END) => self.ended = true,
                (true, COMMAND) | (false, _) => self.put(byte),
                // No command of ours.
                (true, _) => {}
            }
        }
        if (self.len, self.ended) != before {
            self.readers.wake_all();
        }
        self.listen();
    }

    /// Asks for the UART's interrupt while there is room.
    fn listen(&mut self) {
        let wanted = self.len < CAPACITY;
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

/// How many bytes can be read without waiting; none: the input has ended.
pub fn available() -> Option<usize> {
    let mut input = INPUT.lock();
    input.receive();
    (input.len > 0 || options().input && !input.ended).then_some(input.len)
}

/// Takes what has been received: at the UART's interrupt, at each tick.
pub fn receive() {
    if !options().input {
        return;
    }
    let mut input = INPUT.lock();
    let before = (input.len, input.ended);
    input.receive();
    let news = (input.len, input.ended) != before;
    drop(input);
    if news {
        tty::watchers().notify(tty::ready());
    }
}

/// There is nothing to do: looks for input where no interrupt tells of it. True if more is likely to
/// come soon, for somebody who waits for it.
pub fn idle() -> bool {
    if !options().input || interrupt::has_uart() {
        return false;
    }
    let mut input = INPUT.lock();
    input.receive();
    !input.readers.is_empty() && time::now() - input.last < time::hz() / PATIENCE
}
