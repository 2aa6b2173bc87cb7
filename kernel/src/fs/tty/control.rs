//! ioctl on the terminal (ioctl_tty(2)).

use super::{job, lock, output_stream};
use crate::arch::uaccess;
use crate::process::signal;
use crate::process::thread::current;
use crate::syscall::errno::Errno;
use crate::syscall::user;
use crate::trace;
use linux_raw_sys::general::{
    BOTHER, CBAUD, CBAUDEX, SIGTTOU, SIGWINCH, TCIFLUSH, TCIOFF, TCIOFLUSH, TCION, TCOFLUSH,
    TCOOFF, TCOON, VSTART, VSTOP, termios, termios2,
};
use linux_raw_sys::ioctl::{
    FIONREAD, TCFLSH, TCGETS, TCGETS2, TCSBRK, TCSBRKP, TCSETS, TCSETS2, TCSETSF, TCSETSF2,
    TCSETSW, TCSETSW2, TCXONC, TIOCCBRK, TIOCGETD, TIOCGPGRP, TIOCGSID, TIOCGWINSZ, TIOCNOTTY,
    TIOCOUTQ, TIOCSBRK, TIOCSCTTY, TIOCSETD, TIOCSPGRP, TIOCSTI, TIOCSWINSZ,
};

/// `struct winsize`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Winsize {
    rows: u16,
    columns: u16,
    pixels: [u16; 2],
}

impl Winsize {
    /// What is assumed until somebody says better.
    pub const UNKNOWN: Winsize = Winsize::new(24, 80);

    /// So many characters.
    pub const fn new(rows: u16, columns: u16) -> Winsize {
        Winsize {
            rows,
            columns,
            pixels: [0; 2],
        }
    }

    /// Changes it; whether it was another.
    pub fn set(&mut self, size: Winsize) -> bool {
        core::mem::replace(self, size) != size
    }
}

/// Speeds of CBAUD, from 0 and from 1 | CBAUDEX on.
const SPEEDS: [u32; 16] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400,
];
const HIGH_SPEEDS: [u32; 15] = [
    57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
    2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// The speed that `c_cflag` says; none: it is in a field of its own.
fn speed(control: u32) -> Option<u32> {
    match control & CBAUD {
        BOTHER => None,
        high if high & CBAUDEX != 0 => {
            let index = (high & !CBAUDEX) as usize;
            HIGH_SPEEDS.get(index.wrapping_sub(1)).copied()
        }
        low => SPEEDS.get(low as usize).copied(),
    }
}

/// Waits for nothing (output is sent at once), and sets it up anew.
fn set(argument: u64, second: bool, flush: bool) -> Result<u64, Errno> {
    job::check(SIGTTOU)?;
    let mut settings = lock().line.settings;
    if second {
        settings = user::read(argument)?;
    } else {
        let first: termios = user::read(argument)?;
        settings.c_iflag = first.c_iflag;
        settings.c_oflag = first.c_oflag;
        settings.c_cflag = first.c_cflag;
        settings.c_lflag = first.c_lflag;
        settings.c_line = first.c_line;
        settings.c_cc = first.c_cc;
    }
    if let Some(speed) = speed(settings.c_cflag) {
        (settings.c_ispeed, settings.c_ospeed) = (speed, speed);
    }
    // There is no other line discipline.
    settings.c_line = 0;
    {
        let mut terminal = lock();
        if flush {
            terminal.line.flush();
        }
        terminal.line.set(settings);
        // Reads may have become possible, and writes.
        terminal.readers.wake_all();
        terminal.writers.wake_all();
    }
    super::receive();
    super::watchers().notify(super::ready());
    Ok(0)
}

fn get(argument: u64) -> Result<u64, Errno> {
    let all = lock().line.settings;
    let first = termios {
        c_iflag: all.c_iflag,
        c_oflag: all.c_oflag,
        c_cflag: all.c_cflag,
        c_lflag: all.c_lflag,
        c_line: all.c_line,
        c_cc: all.c_cc,
    };
    user::write(argument, &first)?;
    Ok(0)
}

fn set_stopped(stopped: bool) {
    let mut terminal = lock();
    terminal.line.stopped = stopped;
    terminal.writers.wake_all();
    drop(terminal);
    super::watchers().notify(super::ready());
}

/// TCXONC: output stops or goes on, or the other end is told to.
fn flow(argument: u64) -> Result<u64, Errno> {
    job::check(SIGTTOU)?;
    let tell = |which: u32| {
        let byte = lock().line.settings.c_cc[which as usize];
        if byte != 0 {
            trace::console(output_stream(), &[byte]);
        }
    };
    match argument as u32 {
        TCOOFF => set_stopped(true),
        TCOON => set_stopped(false),
        TCIOFF => tell(VSTOP),
        TCION => tell(VSTART),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// TCFLSH: forgets what waits. Output never does.
fn flush(argument: u64) -> Result<u64, Errno> {
    job::check(SIGTTOU)?;
    match argument as u32 {
        TCIFLUSH | TCIOFLUSH => {
            lock().line.flush();
            super::receive();
        }
        TCOFLUSH => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn resize(argument: u64) -> Result<u64, Errno> {
    let size: Winsize = user::read(argument)?;
    let group = {
        let mut terminal = lock();
        if !terminal.size.set(size) {
            return Ok(0);
        }
        terminal.job.group
    };
    if group != 0 {
        signal::send_to_group(group, SIGWINCH);
    }
    Ok(0)
}

/// TIOCSTI: as if a byte had been typed. Root's alone, as with dev.tty.legacy_tiocsti=0.
fn type_in(argument: u64) -> Result<u64, Errno> {
    if !current().process.credentials.lock().is_root() {
        return Err(Errno::EIO);
    }
    let mut byte = [0];
    uaccess::read(&mut byte, argument)?;
    super::type_in(byte[0]);
    Ok(0)
}

/// ioctl.
pub fn ioctl(request: u32, argument: u64) -> Result<u64, Errno> {
    match request {
        TCGETS => get(argument),
        TCGETS2 => {
            let settings: termios2 = lock().line.settings;
            user::write(argument, &settings)?;
            Ok(0)
        }
        TCSETS | TCSETSW => set(argument, false, false),
        TCSETSF => set(argument, false, true),
        TCSETS2 | TCSETSW2 => set(argument, true, false),
        TCSETSF2 => set(argument, true, true),
        TIOCGWINSZ => {
            let size = lock().size;
            user::write(argument, &size)?;
            Ok(0)
        }
        TIOCSWINSZ => resize(argument),
        TIOCSCTTY => job::acquire(argument == 1).map(|()| 0),
        TIOCNOTTY => job::give_up().map(|()| 0),
        TIOCGPGRP => {
            let group = job::foreground()?;
            uaccess::write_u32(argument, group)?;
            Ok(0)
        }
        TIOCSPGRP => {
            match job::check(SIGTTOU) {
                Err(Errno::EIO) => return Err(Errno::ENOTTY),
                result => result?,
            }
            let group: u32 = user::read(argument)?;
            job::set_foreground(group as i32)?;
            Ok(0)
        }
        TIOCGSID => {
            let session = job::its_session()?;
            uaccess::write_u32(argument, session)?;
            Ok(0)
        }
        FIONREAD => {
            super::receive();
            let available = lock().line.available();
            uaccess::write_u32(argument, available as u32)?;
            Ok(0)
        }
        TIOCOUTQ => {
            uaccess::write_u32(argument, 0)?;
            Ok(0)
        }
        TCFLSH => flush(argument),
        TCXONC => flow(argument),
        // Breaks are sent nowhere, and all output has been sent.
        TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => {
            job::check(SIGTTOU)?;
            Ok(0)
        }
        TIOCGETD => {
            uaccess::write_u32(argument, 0)?;
            Ok(0)
        }
        TIOCSETD => match user::read::<u32>(argument)? {
            0 => Ok(0),
            _ => Err(Errno::EINVAL),
        },
        TIOCSTI => type_in(argument),
        _ => Err(Errno::ENOTTY),
    }
}
