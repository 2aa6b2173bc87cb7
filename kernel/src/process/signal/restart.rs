//! System calls that a signal has interrupted: which are made again, and when (signal(7),
//! "Interruption of system calls and library functions by signal handlers").
//!
//! A call that a signal has woken returns EINTR, and what comes of it is decided here.

use super::{Action, Thread};
use crate::arch::trap::TrapFrame;
use crate::process::futex;
use crate::syscall::errno::Errno;
use linux_raw_sys::general::{
    self as nr, FUTEX_WAIT, FUTEX_WAIT_BITSET, SA_RESTART, TIMER_ABSTIME,
};

/// A sleep to go on with: it ends when it would have ended, not later by the time it was disturbed.
#[derive(Clone, Copy)]
pub struct Sleep {
    /// When it ends, in counter ticks.
    pub deadline: u64,
    /// Where the rest goes if it is interrupted; 0: nowhere.
    pub remaining: u64,
}

/// What restart_syscall goes on with.
#[derive(Clone, Copy)]
pub enum Restart {
    /// A sleep.
    Sleep(Sleep),
    /// FUTEX_WAIT with the same arguments, until this time in counter ticks.
    Futex(u64),
}

/// What Linux's error code inside the kernel would be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// EINTR, whatever happens.
    Never,
    /// ERESTARTSYS: made again unless a handler without SA_RESTART ran.
    Flag,
    /// ERESTARTNOHAND: made again unless a handler ran.
    NoHandler,
    /// ERESTART_RESTARTBLOCK: like NoHandler, but by restart_syscall.
    Block,
}

fn kind(number: u32, arguments: &[u64; 31]) -> Kind {
    match number {
        nr::__NR_nanosleep | nr::__NR_restart_syscall => Kind::Block,
        nr::__NR_clock_nanosleep if arguments[1] as u32 & TIMER_ABSTIME == 0 => Kind::Block,
        nr::__NR_clock_nanosleep | nr::__NR_rt_sigsuspend | nr::__NR_ppoll | nr::__NR_pselect6 => {
            Kind::NoHandler
        }
        nr::__NR_futex if arguments[3] != 0 => match arguments[1] as u32 & futex::COMMAND {
            // Its time is relative: to start over would be to sleep longer.
            FUTEX_WAIT => Kind::Block,
            FUTEX_WAIT_BITSET => Kind::NoHandler,
            _ => Kind::Never,
        },
        nr::__NR_read
        | nr::__NR_readv
        | nr::__NR_pread64
        | nr::__NR_preadv
        | nr::__NR_preadv2
        | nr::__NR_write
        | nr::__NR_writev
        | nr::__NR_pwrite64
        | nr::__NR_pwritev
        | nr::__NR_pwritev2
        | nr::__NR_openat
        | nr::__NR_openat2
        | nr::__NR_fcntl
        | nr::__NR_flock
        | nr::__NR_ioctl
        | nr::__NR_wait4
        | nr::__NR_waitid
        | nr::__NR_futex
        | nr::__NR_accept
        | nr::__NR_accept4
        | nr::__NR_connect
        | nr::__NR_recvfrom
        | nr::__NR_recvmsg
        | nr::__NR_sendto
        | nr::__NR_sendmsg
        | nr::__NR_sendfile
        | nr::__NR_splice
        | nr::__NR_tee
        | nr::__NR_vmsplice
        | nr::__NR_copy_file_range => Kind::Flag,
        _ => Kind::Never,
    }
}

/// A call that has returned EINTR, with the registers still as it was made with.
#[derive(Clone, Copy)]
pub struct Interrupted {
    number: u32,
    first: u64,
    kind: Kind,
}

impl Interrupted {
    /// From the registers of the call.
    pub fn new(frame: &TrapFrame) -> Interrupted {
        let number = frame.x[8] as u32;
        Interrupted {
            number,
            first: frame.x[0],
            kind: kind(number, &frame.x),
        }
    }

    /// A handler will run: makes the registers such that the call is made again after it, or has
    /// failed.
    pub fn handled(self, frame: &mut TrapFrame, action: &Action) {
        if self.kind == Kind::Flag && action.has(SA_RESTART) {
            self.again(frame);
        } else {
            fail(frame);
        }
    }

    /// No handler will run.
    pub fn not_handled(self, frame: &mut TrapFrame, thread: &Thread) {
        match self.kind {
            Kind::Never => fail(frame),
            Kind::Flag | Kind::NoHandler => self.again(frame),
            Kind::Block if thread.signals.own().restart.is_none() => fail(frame),
            Kind::Block => {
                self.again(frame);
                frame.x[8] = nr::__NR_restart_syscall.into();
            }
        }
    }

    fn again(self, frame: &mut TrapFrame) {
        const SVC: u64 = 4;
        frame.x[0] = self.first;
        frame.x[8] = self.number.into();
        frame.pc = frame.pc.wrapping_sub(SVC);
    }
}

fn fail(frame: &mut TrapFrame) {
    frame.x[0] = Errno::EINTR.register();
}
