//! Spin locks, and the order in which they are taken.

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::sync::{Mutex, MutexGuard};

#[cfg(any(debug_assertions, feature = "checks"))]
#[path = "lock/checked.rs"]
mod order;
#[cfg(not(any(debug_assertions, feature = "checks")))]
#[path = "lock/unchecked.rs"]
mod order;
#[path = "lock/shared.rs"]
mod shared;

#[cfg(any(debug_assertions, feature = "checks"))]
pub(crate) use order::Held;
pub use order::{Order, assert_none_held, for_each_held, number_cpus_by};
pub use shared::{ReadGuard, RwLock, WriteGuard};

/// How a CPU waits for a lock that another one holds: it calls the function it is given, which tries
/// to take the lock, until that says that it has.
pub type Waiting = fn(Rank, &mut dyn FnMut() -> bool);

/// Until it is set, and on the host, who waits spins.
static WAITING: spin::Once<Waiting> = spin::Once::new();

/// Says how to wait for locks of all ranks. Once, at boot.
pub fn wait_by(waiting: Waiting) {
    WAITING.call_once(|| waiting);
}

/// The lock is not free. Out of the way of those that are.
#[cold]
#[inline(never)]
fn contended<G>(rank: Rank, try_lock: impl Fn() -> Option<G>, lock: impl FnOnce() -> G) -> G {
    let mut guard = None;
    if let Some(waiting) = WAITING.get() {
        waiting(rank, &mut || {
            guard = try_lock();
            guard.is_some()
        });
    }
    guard.unwrap_or_else(lock)
}

/// The order of all locks of the kernel: while one is held, only those below it may be taken, and
/// never a second one of the same rank. What keeps two CPUs from waiting for each other is that
/// both go down this list.
///
/// Debug builds, and kernels with the feature `checks`, panic where a lock is taken out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rank {
    /// What the trace tells of again and again.
    Rotation,
    /// The position of an open file: held while the program's memory is read and written.
    FilePosition,
    /// The contents of a file: held while the program's memory is read.
    FileWriting,
    /// The tree of files: held for a lookup or a change of names.
    Tree,
    /// A process's file descriptors.
    Descriptors,
    /// The process table: pids and families.
    Processes,
    /// What of a process changes with exec.
    Process,
    /// What a process does on signals, and those that wait for it.
    Signals,
    /// Signals that wait for a thread.
    ThreadSignals,
    /// Who a process is.
    Credentials,
    /// The limits of a process.
    Limits,
    /// The timers of a process.
    Timers,
    /// The timers that run.
    Alarms,
    /// What processes have used.
    Usage,
    /// The entries of a directory.
    Directory,
    /// Where an entry is.
    Name,
    /// The attributes of a file.
    Attributes,
    /// The files that the trace knows.
    Labels,
    /// The terminal, which takes from the console.
    Terminal,
    /// What threads wait for, with the queue of those that do: a pipe, the time.
    Waiting,
    /// Who watches an object.
    Watchers,
    /// What a thread in poll, or an epoll, has been told.
    Ready,
    /// Threads that are ready.
    RunQueue,
    /// An address space: held for a whole fault or fork, by several faults of threads. Above it lies
    /// what may touch the program's memory while it is held; below it, what a fault needs.
    Space,
    /// The leaves of a level 3 table, where several have its address space's lock to read.
    Table,
    /// The files of the initramfs: held while memory is reclaimed of them.
    Archived,
    /// The pages of a file: held while one is filled.
    PageCache,
    /// The ASIDs.
    Asids,
    /// The slots of kernel stacks.
    Stacks,
    /// The kernel's heap, which grows by frames that it maps.
    Heap,
    /// The kernel's own translation tables, whose changes are events.
    KernelTables,
    /// What the checker of the translation rules knows, with the feature `checks`: it is told of
    /// every event.
    Checker,
    /// The stream of the trace: any event may end up there, so all that emits events lies above.
    Output,
    /// What numbers in the trace stand for, on the way to it.
    Metas,
    /// The free frames that no CPU has to itself. (Those that it has are behind a lock of another kind,
    /// which is taken before this one and under which no other is: see `free`.)
    Frames,
    /// The random numbers.
    Random,
}

impl Rank {
    /// How many there are; as numbers, they are below that.
    pub const COUNT: usize = Rank::Random as usize + 1;
}

/// A value behind a spin lock that has a place in the order.
///
/// The kernel takes locks with interrupts masked only, and never sleeps with one held.
pub struct Lock<T> {
    order: Order,
    value: Mutex<T>,
}

/// The value, until it is dropped.
#[must_use = "a guard that is dropped at once locks nothing"]
pub struct Guard<'a, T> {
    order: &'a Order,
    // Dropped after `Guard::drop` has run: the lock is off the record before others can take it.
    value: MutexGuard<'a, T>,
}

impl<T> Lock<T> {
    /// A lock of a rank.
    pub const fn new(rank: Rank, value: T) -> Lock<T> {
        Lock {
            order: Order::new(rank),
            value: Mutex::new(value),
        }
    }

    /// Waits until nobody else holds it.
    #[cfg_attr(any(debug_assertions, feature = "checks"), track_caller)]
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.order.check();
        let value = self
            .order
            .wait(|| self.value.try_lock(), || self.value.lock());
        self.order.taken();
        Guard {
            order: &self.order,
            value,
        }
    }

    /// Takes it if nobody holds it. Whoever never waits cannot wait for ever: any order is right.
    #[cfg_attr(any(debug_assertions, feature = "checks"), track_caller)]
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let value = self.value.try_lock()?;
        self.order.taken();
        Some(Guard {
            order: &self.order,
            value,
        })
    }

    /// The value, of a lock that nobody else can see.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// The value, without its lock.
    #[inline]
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.order.left();
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
