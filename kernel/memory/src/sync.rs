//! All by which CPUs meet: atomics and mutexes come from here. The race tests (`tests/races`) put
//! another file in this one's place, in which each operation is a point where the next one may be
//! another thread's.

pub(crate) use core::hint::spin_loop;
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
pub(crate) use spin::{Mutex, MutexGuard};

#[cfg(any(debug_assertions, feature = "checks"))]
pub use held::number_cpus_by;
#[cfg(any(debug_assertions, feature = "checks"))]
pub(crate) use held::{PATIENCE, cpu, with_held};

/// What this CPU has of its own: in the kernel by its number.
#[cfg(all(target_os = "none", any(debug_assertions, feature = "checks")))]
mod held {
    use crate::lock::Held;

    /// Tries to take a lock before something must be wrong: many seconds.
    pub const PATIENCE: u64 = 1 << 28;

    static NUMBER: spin::Once<fn() -> usize> = spin::Once::new();
    static HELD: [spin::Mutex<Held>; 16] = [const { spin::Mutex::new(Held::new()) }; 16];

    /// Tells how a CPU finds its number (below 16), for the checks. Once, at boot.
    pub fn number_cpus_by(number: fn() -> usize) {
        NUMBER.call_once(|| number);
    }

    pub fn cpu() -> usize {
        NUMBER.get().map_or(0, |number| number())
    }

    /// `None`: it is too early for checks.
    pub fn with_held<R>(f: impl FnOnce(&mut Held) -> R) -> Option<R> {
        let number = NUMBER.get()?;
        Some(f(&mut HELD[number()].lock()))
    }
}

/// On the host a thread is a CPU.
#[cfg(all(not(target_os = "none"), any(debug_assertions, feature = "checks")))]
mod held {
    extern crate std;

    use crate::lock::Held;
    use core::cell::RefCell;

    /// For ever: a debugger may hold a thread as long as it wants.
    pub const PATIENCE: u64 = 0;

    std::thread_local! {
        static HELD: RefCell<Held> = const { RefCell::new(Held::new()) };
    }

    /// The checks need no number on the host.
    pub fn number_cpus_by(_: fn() -> usize) {}

    pub fn cpu() -> usize {
        0
    }

    /// `None`: the thread is about to end.
    pub fn with_held<R>(f: impl FnOnce(&mut Held) -> R) -> Option<R> {
        HELD.try_with(|held| f(&mut held.borrow_mut())).ok()
    }
}
