//! Page faults: from the abort to the address space and back, with an event for each.

use super::space::Space;
use super::thread::{Current, Thread};
use super::{scheduler, signal::Info};
use crate::arch::{
    self,
    trap::{Abort, TrapFrame},
};
use crate::fs::regular;
use crate::trace;
use linux_raw_sys::general::{
    BUS_ADRALN, BUS_ADRERR, BUS_OBJERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGKILL, SIGSEGV,
};
use memory::{Denial, Handled, Outcome as Done, Request};
use wire::event::{self, Event, Fault, Origin, Outcome};

/// After this many faults at one place that all changed nothing, something is wrong.
const MAX_SPURIOUS: u32 = 16;

/// The last spurious fault of a thread.
#[derive(Clone, Copy, Default)]
pub struct Repeat {
    pc: u64,
    addr: u64,
    count: u32,
    /// When it had been handled: the low bits of the counter.
    end: u32,
}

/// Handles a fault of the current thread that is not recorded, if it is a common one. False: it is
/// `handle`'s, and nothing was done that it would not do again.
///
/// All that a common fault costs is in this function, and nothing that has to be in memory.
#[inline(always)]
pub fn handle_common(thread: &Current, abort: &Abort) -> bool {
    // What is recorded does not get here from the vectors, but for what only the checker sees.
    if cfg!(feature = "checks") || thread.process.has_threads() || !abort.page_fault {
        return false;
    }
    let Some(space) = thread.space() else {
        return false;
    };
    let request = Request {
        addr: abort.addr,
        access: access(abort),
    };
    let mut inner = space.lock();
    let outcome = match inner.map.fault_common(arch::mmu::memory(), request) {
        Ok(handled) => handled.outcome,
        Err(rare) => space.fault_rarely(&mut inner, request, rare),
    };
    drop(inner);
    // Nothing has changed, and this may have to be counted, or tried, once more.
    !matches!(outcome, Done::Spurious | Done::Denied | Done::OutOfMemory)
}

/// Handles a fault of the current thread; `frame` is what the user's registers were. `Err`: the
/// signal that it earns.
#[inline(never)]
pub fn handle(
    thread: &Thread,
    frame: &TrapFrame,
    abort: Abort,
    origin: Origin,
) -> Result<(), Info> {
    let taken = Taken {
        thread,
        frame,
        abort,
        origin,
        tlbis: arch::mmu::tlbi_count(),
    };
    taken.handle()?;
    #[cfg(feature = "checks")]
    for _ in 0..crate::check::inject::repeats() {
        taken.handle()?;
    }
    #[cfg(feature = "checks")]
    if origin == Origin::User {
        crate::check::inject::hang();
    }
    Ok(())
}

/// A fault that was taken.
struct Taken<'a> {
    thread: &'a Thread,
    frame: &'a TrapFrame,
    abort: Abort,
    origin: Origin,
    /// This CPU's count before.
    tlbis: u64,
}

impl Taken<'_> {
    fn handle(&self) -> Result<(), Info> {
        let Abort { addr, esr, .. } = self.abort;
        let Some(space) = self.thread.space() else {
            return Err(Info::fault(SIGSEGV, SEGV_MAPERR, addr));
        };
        self.thread.usage.count_fault();
        if !self.abort.page_fault {
            self.record(space, Outcome::Fatal, None);
            return Err(Info::fault(SIGBUS, other_code(esr), addr));
        }
        if self.thread.process.has_threads() {
            let mut told = None;
            let beside = space.fault_beside(self.request(), |handled| {
                told = self.tell(space, handled);
            });
            if let Some(handled) = beside {
                return self.end(space, handled, told);
            }
        }
        let mut inner = space.lock();
        let handled = space.fault(&mut inner, self.request());
        let told = self.tell(space, &handled);
        drop(inner);
        self.end(space, handled, told)
    }

    fn request(&self) -> Request {
        Request {
            addr: self.abort.addr,
            access: access(&self.abort),
        }
    }

    /// Puts it on record, while the lock keeps others from changing what it tells of; what it is
    /// called there. `None`: not yet, since it may go better the next time.
    fn tell(&self, space: &Space, handled: &Handled) -> Option<Outcome> {
        (handled.outcome != Done::OutOfMemory).then(|| self.tell_all(space, handled))
    }

    fn tell_all(&self, space: &Space, handled: &Handled) -> Outcome {
        let mut outcome = translate(handled.outcome);
        if outcome == Outcome::Spurious && repeats(self.thread, self.frame.pc, self.abort.addr) {
            outcome = Outcome::Fatal;
        }
        if trace::enabled(trace::FAULT) {
            self.record(space, outcome, Some(*handled));
        }
        outcome
    }

    /// After the address space was unlocked: for want of memory, once more if there is some then.
    fn end(&self, space: &Space, mut handled: Handled, told: Option<Outcome>) -> Result<(), Info> {
        let outcome = match told {
            Some(outcome) => outcome,
            None if regular::reclaim() => {
                let mut inner = space.lock();
                handled = space.fault(&mut inner, self.request());
                self.tell_all(space, &handled)
            }
            // Nothing has changed.
            None => self.tell_all(space, &handled),
        };
        match outcome {
            Outcome::Denied | Outcome::OutOfMemory | Outcome::Fatal => {
                return Err(refusal(outcome, handled.denial, self.abort.addr));
            }
            Outcome::Spurious => {
                let last = self.thread.spurious().get();
                let end = arch::time::now() as u32;
                self.thread.spurious().set(Repeat { end, ..last });
            }
            _ => {}
        }
        Ok(())
    }

    fn record(&self, space: &Space, outcome: Outcome, handled: Option<Handled>) {
        let tlbis = arch::mmu::tlbi_count() - self.tlbis;
        let Abort {
            addr, esr, access, ..
        } = self.abort;
        // Before the walk: what tracing costs is not the fault's.
        let cost = arch::time::cycles().wrapping_sub(self.abort.entry_cycles) as u32;
        trace::emit(Event::Fault(Fault {
            outcome,
            access,
            origin: self.origin,
            pid: self.thread.process.pid,
            space: space.serial,
            asid: space.root.asid(),
            cost,
            pc: self.frame.pc,
            addr,
            esr: esr as u32,
            old: handled.map_or(0, |handled| handled.old),
            new: handled.map_or(0, |handled| handled.new),
            refs: handled.map_or(0, |handled| handled.refs),
            refs_after: handled.map_or(0, |handled| handled.refs_after),
            tlbis: tlbis as u8,
            stack: trace::stack::of(self.frame),
        }));
    }
}

/// The signal of a fault that was not resolved.
#[cold]
fn refusal(outcome: Outcome, denial: Option<Denial>, addr: u64) -> Info {
    match (outcome, denial) {
        (Outcome::OutOfMemory, _) => Info::kernel(SIGKILL),
        (Outcome::Fatal, _) => Info::fault(SIGBUS, BUS_OBJERR, addr),
        (_, Some(Denial::PastEnd)) => Info::fault(SIGBUS, BUS_ADRERR, addr),
        (_, Some(Denial::Forbidden)) => Info::fault(SIGSEGV, SEGV_ACCERR, addr),
        (_, Some(Denial::Unmapped) | None) => Info::fault(SIGSEGV, SEGV_MAPERR, addr),
    }
}

/// BUS_* of an abort that is no page fault.
fn other_code(esr: u64) -> u32 {
    /// ESR_EL1.DFSC of an alignment fault.
    const ALIGNMENT: u64 = 0x21;
    if esr & 0x3f == ALIGNMENT {
        BUS_ADRALN
    } else {
        BUS_OBJERR
    }
}

fn access(abort: &Abort) -> memory::Access {
    match abort.access {
        event::Access::Read => memory::Access::Read,
        event::Access::Write => memory::Access::Write,
        event::Access::Exec => memory::Access::Exec,
    }
}

fn translate(outcome: Done) -> Outcome {
    match outcome {
        Done::Spurious => Outcome::Spurious,
        Done::ZeroFill => Outcome::ZeroFill,
        Done::ZeroPage => Outcome::ZeroPage,
        Done::CowCopy => Outcome::CowCopy,
        Done::CowZero => Outcome::CowZero,
        Done::CowReuse => Outcome::CowReuse,
        Done::TableUnshare => Outcome::TableUnshare,
        Done::TableReuse => Outcome::TableReuse,
        Done::SharedWrite => Outcome::SharedWrite,
        Done::FileRead => Outcome::FileRead,
        Done::FileCopy => Outcome::FileCopy,
        Done::Exec => Outcome::Exec,
        Done::StackGrow => Outcome::StackGrow,
        Done::Denied => Outcome::Denied,
        Done::OutOfMemory => Outcome::OutOfMemory,
    }
}

/// Whether this spurious fault is one too many of a row at the same place. If the process has other
/// threads, those that come after the instruction has been done are no row: while they fork eagerly,
/// the same page may be in the way again and again.
fn repeats(thread: &Thread, pc: u64, addr: u64) -> bool {
    /// An instruction that is not done faults again at once.
    const AT_ONCE_MICROSECONDS: u64 = 5;
    let last = thread.spurious().get();
    let since = (arch::time::now() as u32).wrapping_sub(last.end);
    let same = last.pc == pc && last.addr == addr;
    let at_once = u64::from(since) * 1_000_000 < AT_ONCE_MICROSECONDS * arch::time::hz();
    let row = same && (at_once || !thread.process.has_threads());
    let count = if row { last.count + 1 } else { 1 };
    thread.spurious().set(Repeat {
        pc,
        addr,
        count,
        end: last.end,
    });
    count > MAX_SPURIOUS
}

/// Runs `f`, in which an access to user memory that is not there fails at once.
pub fn without_faults(f: impl FnOnce()) {
    let cpu = scheduler::cpu();
    cpu.no_faults.set(true);
    f();
    cpu.no_faults.set(false);
}
