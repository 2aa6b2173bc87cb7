//! All by which CPUs meet: atomics and mutexes come from here. The race tests (`tests/races`) put
//! another file in this one's place, in which each operation is a point where the next one may be
//! another thread's.

pub(crate) use core::hint::spin_loop;
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
pub(crate) use spin::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(any(debug_assertions, feature = "checks"))]
pub use held::number_cpus_by;
#[cfg(any(debug_assertions, feature = "checks"))]
pub(crate) use held::{with_held, with_held_of};

/// What this CPU has of its own: in the kernel by its number.
#[cfg(all(target_os = "none", any(debug_assertions, feature = "checks")))]
mod held {
    use crate::lock::Held;

    static NUMBER: spin::Once<fn() -> usize> = spin::Once::new();
    static HELD: [spin::Mutex<Held>; 16] = [const { spin::Mutex::new(Held::new()) }; 16];

    /// Tells how a CPU finds its number (below 16), for the checks. Once, at boot.
    pub fn number_cpus_by(number: fn() -> usize) {
        NUMBER.call_once(|| number);
    }

    /// `None`: it is too early for checks.
    pub fn with_held<R>(f: impl FnOnce(&mut Held) -> R) -> Option<R> {
        let number = NUMBER.get()?;
        Some(f(&mut HELD[number()].lock()))
    }

    /// Another CPU's, unless it is changing right now.
    pub fn with_held_of(cpu: usize, f: impl FnOnce(&Held)) {
        if let Some(held) = HELD.get(cpu).and_then(spin::Mutex::try_lock) {
            f(&held);
        }
    }
}

/// On the host a thread is a CPU.
#[cfg(all(not(target_os = "none"), any(debug_assertions, feature = "checks")))]
mod held {
    extern crate std;

    use crate::lock::Held;
    use core::cell::RefCell;

    std::thread_local! {
        static HELD: RefCell<Held> = const { RefCell::new(Held::new()) };
    }

    /// The checks need no number on the host.
    pub fn number_cpus_by(_: fn() -> usize) {}

    /// `None`: the thread is about to end.
    pub fn with_held<R>(f: impl FnOnce(&mut Held) -> R) -> Option<R> {
        HELD.try_with(|held| f(&mut held.borrow_mut())).ok()
    }

    /// A thread's are its own alone.
    pub fn with_held_of(_: usize, _: impl FnOnce(&Held)) {}
}
