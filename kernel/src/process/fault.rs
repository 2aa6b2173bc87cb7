//! Page faults: from the abort to the address space and back, with an event for each.

use super::thread::{Current, Thread};
use super::{scheduler, signal::Info, space::Space};
use crate::arch::{
    self,
    trap::{Abort, TrapFrame},
};
use crate::fs::regular;
use crate::trace;
use linux_raw_sys::general::{
    BUS_ADRALN, BUS_ADRERR, BUS_OBJERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGKILL, SIGSEGV,
};
use memory::{Denial, Handled, Request};
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

/// Handles a fault of the current thread; `frame` is what the user's registers were. `Err`: the
/// signal that it earns.
#[inline(always)]
pub fn handle(
    thread: &Current,
    frame: &TrapFrame,
    abort: &Abort,
    origin: Origin,
) -> Result<(), Info> {
    handle_once(thread, frame, abort, origin)?;
    #[cfg(feature = "checks")]
    for _ in 0..crate::check::inject::repeats() {
        handle_once(thread, frame, abort, origin)?;
    }
    #[cfg(feature = "checks")]
    if origin == Origin::User {
        crate::check::inject::hang();
    }
    Ok(())
}

#[inline(always)]
fn handle_once(
    thread: &Current,
    frame: &TrapFrame,
    abort: &Abort,
    origin: Origin,
) -> Result<(), Info> {
    let Some(space) = thread.space() else {
        return Err(Info::fault(SIGSEGV, SEGV_MAPERR, abort.addr));
    };
    thread.usage.count_fault();
    let tlbis = arch::mmu::tlbi_count();
    if !abort.page_fault {
        record(
            thread,
            space,
            frame,
            abort.raw(),
            origin,
            Outcome::Fatal,
            None,
            tlbis,
        );
        return Err(Info::fault(SIGBUS, other_code(abort.esr), abort.addr));
    }
    let request = Request {
        addr: abort.addr,
        access: access(abort),
    };
    let mut outcome = Outcome::OutOfMemory;
    let mut tell = |handled: &Handled| {
        outcome = translate(handled.outcome);
        if outcome == Outcome::Spurious && repeats(thread, frame.pc, abort.addr) {
            outcome = Outcome::Fatal;
        }
        if trace::enabled(trace::FAULT) {
            record(
                thread,
                space,
                frame,
                abort.raw(),
                origin,
                outcome,
                Some(*handled),
                tlbis,
            );
        }
    };
    let mut handled = space.fault(request, |handled| {
        if handled.outcome != memory::Outcome::OutOfMemory {
            tell(handled);
        }
    });
    if handled.outcome == memory::Outcome::OutOfMemory {
        handled = reclaim(space, request, handled, &mut tell);
    }
    if outcome == Outcome::Spurious {
        let last = thread.spurious().get();
        let end = arch::time::now() as u32;
        thread.spurious().set(Repeat { end, ..last });
    }
    match outcome {
        Outcome::Denied | Outcome::OutOfMemory | Outcome::Fatal => {
            Err(refusal(outcome, handled.denial, abort.addr))
        }
        _ => Ok(()),
    }
}

/// Once more, if there is memory then.
#[cold]
#[inline(never)]
fn reclaim(
    space: &Space,
    request: Request,
    handled: Handled,
    tell: &mut dyn FnMut(&Handled),
) -> Handled {
    match regular::reclaim() {
        true => space.fault(request, tell),
        false => {
            // Nothing has changed.
            tell(&handled);
            handled
        }
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

#[cold]
#[allow(clippy::too_many_arguments)]
fn record(
    thread: &Thread,
    space: &Space,
    frame: &TrapFrame,
    (esr, addr, cycles): (u64, u64, u64),
    origin: Origin,
    outcome: Outcome,
    handled: Option<Handled>,
    tlbis: u64,
) {
    let abort = Abort::new(esr, addr, cycles);
    let tlbis = arch::mmu::tlbi_count() - tlbis;
    // Before the walk: what tracing costs is not the fault's.
    let cost = arch::time::cycles().wrapping_sub(abort.entry_cycles) as u32;
    trace::emit(Event::Fault(Fault {
        outcome,
        access: abort.access,
        origin,
        pid: thread.process.pid,
        space: space.serial,
        asid: space.root.asid(),
        cost,
        pc: frame.pc,
        addr: abort.addr,
        esr: abort.esr as u32,
        old: handled.map_or(0, |handled| handled.old),
        new: handled.map_or(0, |handled| handled.new),
        refs: handled.map_or(0, |handled| handled.refs),
        refs_after: handled.map_or(0, |handled| handled.refs_after),
        tlbis: tlbis as u8,
        stack: trace::stack::of(frame),
    }));
}

fn access(abort: &Abort) -> memory::Access {
    match abort.access {
        event::Access::Read => memory::Access::Read,
        event::Access::Write => memory::Access::Write,
        event::Access::Exec => memory::Access::Exec,
    }
}

fn translate(outcome: memory::Outcome) -> Outcome {
    use memory::Outcome as From;
    match outcome {
        From::Spurious => Outcome::Spurious,
        From::ZeroFill => Outcome::ZeroFill,
        From::ZeroPage => Outcome::ZeroPage,
        From::CowCopy => Outcome::CowCopy,
        From::CowZero => Outcome::CowZero,
        From::CowReuse => Outcome::CowReuse,
        From::TableUnshare => Outcome::TableUnshare,
        From::TableReuse => Outcome::TableReuse,
        From::SharedWrite => Outcome::SharedWrite,
        From::FileRead => Outcome::FileRead,
        From::FileCopy => Outcome::FileCopy,
        From::Exec => Outcome::Exec,
        From::StackGrow => Outcome::StackGrow,
        From::Denied => Outcome::Denied,
        From::OutOfMemory => Outcome::OutOfMemory,
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
