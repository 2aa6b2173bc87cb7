//! The checker of the translation rules, in the kernel itself: feature `checks`.
//!
//! All that a trace with `trace=mmu` tells `cowscope check` is told to the same checker here, as it
//! happens and in one order for all CPUs, whatever is traced. At the first broken rule the kernel
//! panics: with the event, the rule, the page and the CPU, and who it was that did it.
//!
//! An eighth of RAM is the checker's. It must not allocate from the kernel's heap, whose growth is
//! events: so what the CPU that runs it allocates comes from there. When 7/8 of it are full, the
//! checker forgets all that it knows and learns anew, as `cowscope check` does where events are
//! missing; how often is in what it logs at the end. It has its own stack, too.

mod heap;
pub mod inject;

use crate::arch::{self, cpu};
use crate::process::options;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::cell::UnsafeCell;
use core::fmt;
use memory::{Lock, Rank};
use model::checker::{At, Checker, Event, Violation, of_trace};
use wire::event;

/// Events told with a violation, at most: the last ones of that CPU among so many of all.
const CONTEXT: usize = 8;
const REMEMBERED: usize = 32;

/// What it knows of the machine.
struct Online {
    checker: Checker,
    /// Events so far.
    events: u64,
    recent: VecDeque<(At, Event)>,
}

static CHECKER: Lock<Option<Box<Online>>> = Lock::new(Rank::Checker, None);

const STACK_SIZE: usize = 64 * 1024;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only who holds `CHECKER` runs on it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

/// Begins to check. Once, at boot, before there are processes.
pub fn start() {
    inject::start(options::options().inject.as_deref());
    let room = match inject::room() {
        0 => arch::mmu::memory().frames.total() * memory::PAGE_SIZE / 8,
        bytes => bytes,
    };
    if !heap::take(room) {
        defmt::error!("there is no memory for the checker: nothing is checked");
        return;
    }
    let mut checker = CHECKER.lock();
    heap::inside(|| {
        *checker = Some(Box::new(Online {
            checker: Checker::new(1),
            events: 0,
            recent: VecDeque::with_capacity(REMEMBERED),
        }));
    });
}

/// An event and what became of it, on the way to the checker's stack and back.
struct Told<'a> {
    online: &'a mut Online,
    event: &'a event::Event,
}

/// Checks an event.
///
/// # Panics
/// If it breaks a rule.
pub fn tell(event: &event::Event) {
    let mut checker = CHECKER.lock();
    let Some(online) = checker.as_deref_mut() else {
        return;
    };
    let mut told = Told { online, event };
    let top = STACK.0.get().addr() + STACK_SIZE;
    // SAFETY: the stack is the lock's, which is held, and interrupts are masked.
    heap::inside(|| unsafe { cpu::on_stack(top, &mut told, check) });
    let online = told.online;
    if let Some(violation) = online.checker.violations().first() {
        panic!("{}", Report { online, violation });
    }
}

extern "C" fn check(told: &mut Told<'_>) {
    let Told { online, event } = told;
    online.events += 1;
    if heap::is_full() {
        online.checker.lost();
    }
    let at = At {
        position: online.events,
        time: arch::time::now(),
        cpu: cpu::id() as u8,
    };
    of_trace(event, |event| {
        if online.recent.len() == REMEMBERED {
            online.recent.pop_front();
        }
        online.recent.push_back((at, event));
        online.checker.event(at, event);
    });
}

/// Says how much was checked. No other CPU runs any more.
pub fn end() {
    let checker = CHECKER.lock();
    let Some(online) = checker.as_deref() else {
        return;
    };
    let (events, counts) = (online.events, *online.checker.counts());
    drop(checker);
    defmt::info!(
        "checked {=u64} events, no rule is broken: {=u64} descriptor writes, {=u64} barriers, \
         {=u64} TLBIs, {=u64} operations, {=u64} frames; its memory was full {=u64} times",
        events,
        counts.descriptors + counts.kernel_pages,
        counts.barriers,
        counts.tlbis,
        counts.operations,
        counts.frames,
        counts.losses,
    );
}

/// A broken rule, for the panic.
struct Report<'a> {
    online: &'a Online,
    violation: &'a Violation,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violation = self.violation;
        write!(f, "translation rule {violation}; CPU {}", violation.at.cpu)?;
        write!(f, "\nThe last events of this CPU:")?;
        let recent = self.online.recent.iter();
        let here = recent.filter(|(at, _)| at.cpu == violation.at.cpu);
        let skipped = here.clone().count().saturating_sub(CONTEXT);
        here.skip(skipped)
            .try_for_each(|(at, event)| write!(f, "\n  #{} {event}", at.position))
    }
}
