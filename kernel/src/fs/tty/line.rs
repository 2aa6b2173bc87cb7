//! The line discipline: what is typed becomes lines, an echo, and signals (termios(3); Linux's
//! drivers/tty/n_tty.c).
//!
//! Nothing here sleeps, sends or prints: whoever has the terminal's lock takes the echo and the signal
//! from here, and deals with them.

use alloc::vec::Vec;
use linux_raw_sys::general::{
    B38400, CREAD, CS8, ECHO, ECHOCTL, ECHOE, ECHOK, ECHOKE, ECHONL, HUPCL, ICANON, ICRNL, IEXTEN,
    IGNCR, IMAXBEL, INLCR, ISIG, ISTRIP, IUCLC, IUTF8, IXANY, IXON, NOFLSH, OCRNL, OLCUC, ONLCR,
    ONLRET, ONOCR, OPOST, SIGINT, SIGQUIT, SIGTSTP, TABDLY, VEOF, VEOL, VEOL2, VERASE, VINTR,
    VKILL, VLNEXT, VMIN, VQUIT, VREPRINT, VSTART, VSTOP, VSUSP, VTIME, VWERASE, XTABS, termios2,
};

/// Bytes of input that wait at most, the newline of a line included.
pub const CAPACITY: usize = 4096;
/// Columns from one tab stop to the next.
const TAB: usize = 8;
const BELL: u8 = 7;
/// A character of `c_cc` that is none (_POSIX_VDISABLE).
const DISABLED: u8 = 0;

/// How a terminal is set up at first: Linux's `tty_std_termios`.
pub const STANDARD: termios2 = termios2 {
    c_iflag: ICRNL | IXON,
    c_oflag: OPOST | ONLCR,
    c_cflag: B38400 | CS8 | CREAD | HUPCL,
    c_lflag: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
    c_line: 0,
    // INTR, QUIT, ERASE, KILL, EOF, TIME, MIN, SWTC, START, STOP, SUSP, EOL, REPRINT, DISCARD, WERASE,
    // LNEXT, EOL2: INIT_C_CC.
    c_cc: [
        3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0,
    ],
    c_ispeed: 38400,
    c_ospeed: 38400,
};

/// A terminal's input and the state of its line.
pub struct Line {
    /// How it is set up.
    pub settings: termios2,
    /// ^S has stopped the output.
    pub stopped: bool,
    bytes: [u8; CAPACITY],
    /// Bytes at which a read in canonical mode ends: newlines, and ends of file, which are not read.
    ends: [bool; CAPACITY],
    /// Counts of bytes ever: read, at the end of the last whole line, and received.
    tail: usize,
    lines: usize,
    head: usize,
    /// The next byte has no meaning of its own (^V).
    literal: bool,
    /// Where the cursor is, and where it was when the line began.
    column: usize,
    line_column: usize,
    echo: Vec<u8>,
    signal: Option<u32>,
}

impl Line {
    /// Nothing typed yet.
    pub const fn new(settings: termios2) -> Line {
        Line {
            settings,
            stopped: false,
            bytes: [0; CAPACITY],
            ends: [false; CAPACITY],
            tail: 0,
            lines: 0,
            head: 0,
            literal: false,
            column: 0,
            line_column: 0,
            echo: Vec::new(),
            signal: None,
        }
    }

    fn local(&self, flag: u32) -> bool {
        self.settings.c_lflag & flag != 0
    }

    fn input(&self, flag: u32) -> bool {
        self.settings.c_iflag & flag != 0
    }

    fn output(&self, flag: u32) -> bool {
        self.settings.c_oflag & flag != 0
    }

    /// Whether `byte` is the control character `which`.
    fn is(&self, byte: u8, which: u32) -> bool {
        byte != DISABLED && self.settings.c_cc[which as usize] == byte
    }

    /// VMIN of reads that do not wait for lines.
    pub fn least(&self) -> usize {
        self.settings.c_cc[VMIN as usize].into()
    }

    /// VTIME, in tenths of a second.
    pub fn patience(&self) -> u64 {
        self.settings.c_cc[VTIME as usize].into()
    }

    /// Reads give whole lines.
    pub fn is_canonical(&self) -> bool {
        self.local(ICANON)
    }

    /// Whether more can be received. While a line has no end yet it can: what does not fit is lost.
    pub fn has_room(&self) -> bool {
        self.head - self.tail < CAPACITY - 1 || self.is_canonical() && self.lines == self.tail
    }

    /// How many bytes a read would find.
    pub fn available(&self) -> usize {
        if !self.is_canonical() {
            return self.head - self.tail;
        }
        let bytes = (self.tail..self.lines).filter(|&at| {
            let at = at % CAPACITY;
            // An end of file is no byte.
            !(self.ends[at] && self.bytes[at] == DISABLED)
        });
        bytes.count()
    }

    /// Whether a read has something to do.
    pub fn is_ready(&self) -> bool {
        if self.is_canonical() {
            self.lines != self.tail
        } else {
            self.head != self.tail
        }
    }

    /// Whether poll tells so: with a VMIN that is not a matter of time, only when that much is there.
    pub fn is_ready_for_poll(&self) -> bool {
        if self.is_canonical() || self.patience() != 0 {
            return self.is_ready();
        }
        self.head - self.tail >= self.least().max(1)
    }

    /// The echo that has to be printed.
    pub fn take_echo(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.echo)
    }

    /// The signal that was typed, for the group in the foreground.
    pub fn take_signal(&mut self) -> Option<u32> {
        self.signal.take()
    }

    /// Forgets what was typed and not read.
    pub fn flush(&mut self) {
        self.tail = self.head;
        self.lines = self.head;
        self.ends = [false; CAPACITY];
        self.literal = false;
    }

    /// Sets it up in another way.
    pub fn set(&mut self, settings: termios2) {
        let changed = (self.settings.c_lflag ^ settings.c_lflag) & ICANON != 0;
        self.settings = settings;
        if changed {
            // What was typed so far is a line from here on, and can be read.
            self.ends = [false; CAPACITY];
            if self.is_canonical() && self.head != self.tail {
                self.ends[(self.head - 1) % CAPACITY] = true;
            }
            self.lines = self.head;
        }
        if !self.input(IXON) {
            self.stopped = false;
        }
    }

    /// One byte has been typed.
    pub fn receive(&mut self, byte: u8) {
        let mut byte = byte;
        if self.input(ISTRIP) {
            byte &= 0x7f;
        }
        if self.input(IUCLC) && self.local(IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal) {
            return self.add(byte);
        }
        if self.input(IXON) {
            if self.is(byte, VSTART) {
                self.stopped = false;
                return;
            }
            if self.is(byte, VSTOP) {
                self.stopped = true;
                return;
            }
        }
        if self.local(ISIG) {
            let signals = [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)];
            if let Some((_, signal)) = signals.into_iter().find(|&(at, _)| self.is(byte, at)) {
                return self.interrupt(byte, signal);
            }
        }
        if self.stopped && self.input(IXON) && self.input(IXANY) {
            self.stopped = false;
        }
        match byte {
            b'\r' if self.input(IGNCR) => return,
            b'\r' if self.input(ICRNL) => byte = b'\n',
            b'\n' if self.input(INLCR) => byte = b'\r',
            _ => {}
        }
        if self.is_canonical() && self.edit(byte) {
            return;
        }
        self.add(byte);
    }

    fn interrupt(&mut self, byte: u8, signal: u32) {
        if !self.local(NOFLSH) {
            self.flush();
            self.echo.clear();
        }
        self.stopped = false;
        if self.local(ECHO) {
            self.echo_visibly(byte);
        }
        self.signal = Some(signal);
    }

    /// What a byte does in canonical mode, if it is not just one more of the line.
    fn edit(&mut self, byte: u8) -> bool {
        let extended = self.local(IEXTEN);
        if self.is(byte, VERASE) || self.is(byte, VKILL) || extended && self.is(byte, VWERASE) {
            self.erase(byte);
        } else if extended && self.is(byte, VLNEXT) {
            self.literal = true;
            if self.local(ECHO) && self.local(ECHOCTL) {
                self.print(b"^\x08");
            }
        } else if extended && self.local(ECHO) && self.is(byte, VREPRINT) {
            self.reprint(byte);
        } else if byte == b'\n' {
            if self.local(ECHO) || self.local(ECHONL) {
                self.print(b"\n");
            }
            self.end_line(byte);
        } else if self.is(byte, VEOF) {
            self.end_line(DISABLED);
        } else if self.is(byte, VEOL) || extended && self.is(byte, VEOL2) {
            if self.local(ECHO) {
                self.echo_visibly(byte);
            }
            self.end_line(byte);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, byte: u8) {
        // There is always room for the end of a line: see `add`.
        if self.head - self.tail < CAPACITY {
            self.ends[self.head % CAPACITY] = true;
            self.bytes[self.head % CAPACITY] = byte;
            self.head += 1;
            self.lines = self.head;
        }
    }

    fn add(&mut self, byte: u8) {
        if self.head - self.tail >= CAPACITY - 1 {
            if self.input(IMAXBEL) {
                self.print(&[BELL]);
            }
            return;
        }
        if self.local(ECHO) {
            if self.lines == self.head {
                self.line_column = self.column;
            }
            // As part of a line it was typed literally.
            if byte == b'\n' && !self.is_canonical() {
                self.print(b"\n");
            } else {
                self.echo_visibly(byte);
            }
        }
        self.ends[self.head % CAPACITY] = false;
        self.bytes[self.head % CAPACITY] = byte;
        self.head += 1;
        if !self.is_canonical() {
            self.lines = self.head;
        }
    }

    fn reprint(&mut self, byte: u8) {
        self.echo_visibly(byte);
        self.print(b"\n");
        self.line_column = self.column;
        for at in self.lines..self.head {
            self.echo_visibly(self.bytes[at % CAPACITY]);
        }
    }

    fn erase(&mut self, byte: u8) {
        if self.head == self.lines {
            return;
        }
        let echo = self.local(ECHO);
        if self.is(byte, VKILL) && !(echo && self.local(ECHOK | ECHOKE) && self.local(ECHOE)) {
            self.head = self.lines;
            if echo {
                self.echo_visibly(byte);
                if self.local(ECHOK) {
                    self.print(b"\n");
                }
            }
            return;
        }
        if self.is(byte, VKILL) && !self.local(ECHOKE) {
            self.head = self.lines;
            self.echo_visibly(byte);
            self.print(b"\n");
            return;
        }
        let word = self.is(byte, VWERASE);
        let mut in_word = false;
        while self.head > self.lines {
            let mut at = self.head - 1;
            // All bytes of a character.
            while self.input(IUTF8) && is_continuation(self.bytes[at % CAPACITY]) {
                if at == self.lines {
                    return;
                }
                at -= 1;
            }
            let last = self.bytes[at % CAPACITY];
            if word {
                let part = last.is_ascii_alphanumeric() || last == b'_' || last >= 0x80;
                if !part && in_word {
                    break;
                }
                in_word |= part;
            }
            self.head = at;
            if echo {
                self.echo_erased(byte, last);
            }
            if self.is(byte, VERASE) {
                break;
            }
        }
    }

    /// `erased` is gone from the end of the line by `byte`.
    fn echo_erased(&mut self, byte: u8, erased: u8) {
        if self.is(byte, VERASE) && !self.local(ECHOE) {
            return self.echo_visibly(byte);
        }
        if erased == b'\t' {
            // Back to where the tab began.
            let mut column = self.line_column;
            for at in self.lines..self.head {
                column = self.column_after(column, self.bytes[at % CAPACITY]);
            }
            while self.column > column {
                self.print(b"\x08");
            }
            return;
        }
        let width = self.column_after(0, erased);
        for _ in 0..width {
            self.print(b"\x08 \x08");
        }
    }

    /// Where the cursor is after the echo of a byte.
    fn column_after(&self, column: usize, byte: u8) -> usize {
        match byte {
            b'\t' => (column / TAB + 1) * TAB,
            _ if byte.is_ascii_control() && self.local(ECHOCTL) => column + 2,
            _ if byte.is_ascii_control() || self.input(IUTF8) && is_continuation(byte) => column,
            _ => column + 1,
        }
    }

    fn echo_visibly(&mut self, byte: u8) {
        if byte.is_ascii_control() && byte != b'\t' && self.local(ECHOCTL) {
            self.print(&[b'^', byte ^ 0x40]);
        } else {
            self.print(&[byte]);
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        let mut echo = core::mem::take(&mut self.echo);
        self.process(bytes, &mut echo);
        self.echo = echo;
    }

    /// What is printed for `bytes` (OPOST and its like), appended to `to`. What there is no memory for
    /// is lost.
    pub fn process(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        // A tab is the most that one byte becomes.
        if to
            .try_reserve(bytes.len() + TAB * bytes.iter().filter(|&&b| b < b' ').count())
            .is_err()
        {
            return;
        }
        if !self.output(OPOST) {
            to.extend_from_slice(bytes);
            return;
        }
        for &byte in bytes {
            self.process_one(byte, to);
        }
    }

    fn process_one(&mut self, byte: u8, to: &mut Vec<u8>) {
        let mut byte = byte;
        match byte {
            b'\n' => {
                if self.output(ONLRET) {
                    self.column = 0;
                }
                if self.output(ONLCR) {
                    to.push(b'\r');
                    self.column = 0;
                }
            }
            b'\r' if self.output(ONOCR) && self.column == 0 => return,
            b'\r' if self.output(OCRNL) => {
                byte = b'\n';
                if self.output(ONLRET) {
                    self.column = 0;
                }
            }
            b'\r' => self.column = 0,
            b'\t' => {
                let spaces = TAB - self.column % TAB;
                self.column += spaces;
                if self.settings.c_oflag & TABDLY == XTABS {
                    to.extend(core::iter::repeat_n(b' ', spaces));
                    return;
                }
            }
            8 => self.column = self.column.saturating_sub(1),
            _ => {
                if self.output(OLCUC) {
                    byte = byte.to_ascii_uppercase();
                }
                if !(byte.is_ascii_control() || self.input(IUTF8) && is_continuation(byte)) {
                    self.column += 1;
                }
            }
        }
        to.push(byte);
    }

    /// Takes what a read of at most `len` bytes gets: in canonical mode no more than a line. Its end
    /// of file, if it has one, goes with it.
    pub fn take(&mut self, len: usize, to: &mut Vec<u8>) {
        let canonical = self.is_canonical();
        let end = if canonical { self.lines } else { self.head };
        let mut left = len;
        while self.tail < end {
            let at = self.tail % CAPACITY;
            let ends = canonical && self.ends[at];
            let byte = self.bytes[at];
            if ends && byte == DISABLED {
                self.tail += 1;
                return;
            }
            if left == 0 {
                return;
            }
            self.tail += 1;
            left -= 1;
            to.push(byte);
            if ends {
                return;
            }
        }
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}
