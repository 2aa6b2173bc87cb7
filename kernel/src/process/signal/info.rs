//! What a signal tells of its cause: `siginfo_t`.

use crate::arch::uaccess::{self, Fault};
use crate::process::{Process, thread::current, usage};
use alloc::collections::VecDeque;
use linux_raw_sys::general::{SI_KERNEL, SI_TIMER, SI_USER};

/// Bytes of a `siginfo_t`. The kernel's own use is [`Info`]; the rest is zero.
pub const SIZE: usize = 128;

/// The beginning of a `siginfo_t`: everything that Linux ever fills in.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Info {
    /// si_signo.
    pub signal: u32,
    /// si_errno.
    pub error: i32,
    /// si_code.
    pub code: i32,
    /// Padding.
    pub pad: u32,
    /// Offsets 16 to 48: what it is depends on signal and code.
    pub fields: [u64; 4],
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Info {
    /// From the kernel (SI_KERNEL): about nobody.
    pub fn kernel(signal: u32) -> Info {
        Info {
            signal,
            code: SI_KERNEL as i32,
            ..Info::default()
        }
    }

    /// From the current process, with kill, tkill and the like.
    pub fn from_current(signal: u32, code: i32) -> Info {
        let thread = current();
        Info {
            signal,
            code,
            fields: [pair(thread.process.pid, thread.process.real_uid()), 0, 0, 0],
            ..Info::default()
        }
    }

    /// As the kernel sends one on behalf of the current process: SIGPIPE.
    pub fn by_current(signal: u32) -> Info {
        Info::from_current(signal, SI_USER as i32)
    }

    /// A fault at `addr`.
    pub fn fault(signal: u32, code: u32, addr: u64) -> Info {
        Info {
            signal,
            code: code as i32,
            fields: [addr, 0, 0, 0],
            ..Info::default()
        }
    }

    /// News of a child: `code` is CLD_*, `status` its exit code or a signal.
    pub fn child(signal: u32, child: &Process, code: u32, status: u32) -> Info {
        let used = usage::of_process(child);
        Info {
            signal,
            code: code as i32,
            fields: [
                pair(child.pid, child.real_uid()),
                status.into(),
                usage::user_hz(used.user),
                usage::user_hz(used.system),
            ],
            ..Info::default()
        }
    }

    /// The timer (timer_create) that it is of: si_tid.
    pub fn timer(&self) -> Option<u32> {
        (self.code == SI_TIMER).then_some(self.fields[0] as u32)
    }

    /// si_addr.
    pub fn addr(&self) -> u64 {
        self.fields[0]
    }

    /// The bytes, without what is always zero.
    pub fn bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        let words = [
            pair(self.signal, self.error as u32),
            pair(self.code as u32, self.pad),
            self.fields[0],
            self.fields[1],
            self.fields[2],
            self.fields[3],
        ];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Writes all of a `siginfo_t`.
    pub fn write(&self, addr: u64) -> Result<(), Fault> {
        let bytes = self.bytes();
        uaccess::write(addr, &bytes)?;
        uaccess::zero(addr.wrapping_add(bytes.len() as u64), SIZE - bytes.len())
    }
}

/// Signals that were sent and not yet taken.
#[derive(Default)]
pub struct Queue {
    /// A bit for each.
    set: u64,
    /// In order of sending: at most one of each signal below 32, any number of the others.
    infos: VecDeque<Info>,
}

impl Queue {
    /// A bit for each signal in it.
    pub fn set(&self) -> u64 {
        self.set
    }

    /// Enters one. Whether its `info` was kept: there may be no memory for it, and then the signal
    /// is sent all the same. Signals below 32 are there once or not at all.
    pub fn push(&mut self, info: Info) -> bool {
        let bit = super::bit(info.signal);
        // A timer has one signal at most that waits; it counts how often it would have been sent.
        let again = |old: &&mut Info| old.timer().is_some() && old.timer() == info.timer();
        if let Some(old) = self.infos.iter_mut().find(again) {
            let overruns = (old.fields[0] >> 32) + (info.fields[0] >> 32) + 1;
            old.fields[0] = pair(old.fields[0] as u32, overruns.min(i32::MAX as u64) as u32);
            return true;
        }
        if info.signal < super::FIRST_REAL_TIME && self.set & bit != 0 {
            return true;
        }
        self.set |= bit;
        let room = self.infos.try_reserve(1).is_ok();
        if room {
            self.infos.push_back(info);
        }
        room
    }

    /// Takes the first of `signal` out.
    pub fn take(&mut self, signal: u32) -> Option<Info> {
        let bit = super::bit(signal);
        if self.set & bit == 0 {
            return None;
        }
        let at = self.infos.iter().position(|info| info.signal == signal);
        let info = at.and_then(|at| self.infos.remove(at));
        if !self.infos.iter().any(|info| info.signal == signal) {
            self.set &= !bit;
        }
        if self.infos.is_empty() {
            // Its memory may be the last of the heap, which cannot shrink then.
            self.infos = VecDeque::new();
        }
        // Without an info it is Linux's for a signal whose info found no memory.
        Some(info.unwrap_or(Info {
            signal,
            code: SI_USER as i32,
            ..Info::default()
        }))
    }

    /// Takes out all that are in `signals`.
    pub fn discard(&mut self, signals: u64) {
        if self.set & signals != 0 {
            self.set &= !signals;
            self.infos
                .retain(|info| super::bit(info.signal) & signals == 0);
        }
    }
}
