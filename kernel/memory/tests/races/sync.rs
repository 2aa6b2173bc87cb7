//! In place of the crate's own `sync`: atomics and locks after each of which, and before, another
//! CPU may go on; and the bugs that the races must be able to find.

use crate::lock::Held;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

/// Only the kind and the flags of a frame: nobody decides by them what another CPU may do.
pub use std::sync::atomic::AtomicU8;

/// What is wrong with the machine, to see whether a race notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    None,
    /// Additions are a load and a store.
    TornAdd,
    /// Subtractions are a load and a store.
    TornSub,
    /// Swaps with 0 say that there was nothing: a rollover takes running CPUs for idle ones.
    BlindSwap,
    /// Swaps are a load and a store: two CPUs have the same list of free frames.
    TornSwap,
    /// TLBI VMALLE1 does nothing.
    StuckTlb,
    /// TLB invalidations do not reach other CPUs.
    DeafCpus,
    /// Whoever wants a turn at a table gets it.
    NoTurns,
}

thread_local! {
    /// Of this test: `shuttle` runs all CPUs of a race on the test's own thread.
    static BUG: Cell<Bug> = const { Cell::new(Bug::None) };
}

/// Sets what is wrong from now on, for this test.
pub fn plant(bug: Bug) {
    BUG.set(bug);
}

/// Whether this is what is wrong.
pub fn planted(bug: Bug) -> bool {
    BUG.get() == bug
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        pub struct $name(shuttle::sync::atomic::$name);

        impl $name {
            pub const fn new(value: $value) -> $name {
                $name(shuttle::sync::atomic::$name::new(value))
            }

            pub fn load(&self, _: Ordering) -> $value {
                self.0.load(Ordering::SeqCst)
            }

            pub fn store(&self, value: $value, _: Ordering) {
                self.0.store(value, Ordering::SeqCst);
            }

            fn torn(&self, bug: Bug, f: impl FnOnce($value) -> $value) -> Option<$value> {
                planted(bug).then(|| {
                    let before = self.0.load(Ordering::SeqCst);
                    self.0.store(f(before), Ordering::SeqCst);
                    before
                })
            }

            pub fn swap(&self, value: $value, _: Ordering) -> $value {
                if value == 0 && planted(Bug::BlindSwap) {
                    self.0.store(value, Ordering::SeqCst);
                    return 0;
                }
                self.torn(Bug::TornSwap, |_| value)
                    .unwrap_or_else(|| self.0.swap(value, Ordering::SeqCst))
            }

            pub fn fetch_add(&self, value: $value, _: Ordering) -> $value {
                self.torn(Bug::TornAdd, |before| before.wrapping_add(value))
                    .unwrap_or_else(|| self.0.fetch_add(value, Ordering::SeqCst))
            }

            pub fn fetch_sub(&self, value: $value, _: Ordering) -> $value {
                self.torn(Bug::TornSub, |before| before.wrapping_sub(value))
                    .unwrap_or_else(|| self.0.fetch_sub(value, Ordering::SeqCst))
            }

            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            pub fn fetch_max(&self, value: $value, _: Ordering) -> $value {
                self.0.fetch_max(value, Ordering::SeqCst)
            }

            pub fn fetch_min(&self, value: $value, _: Ordering) -> $value {
                self.0.fetch_min(value, Ordering::SeqCst)
            }

            pub fn fetch_update(
                &self,
                _: Ordering,
                _: Ordering,
                f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, f)
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                _: Ordering,
                _: Ordering,
            ) -> Result<$value, $value> {
                self.0
                    .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// The turns at a table.
#[derive(Debug, Default)]
pub struct AtomicBool(shuttle::sync::atomic::AtomicBool);

impl AtomicBool {
    pub const fn new(value: bool) -> AtomicBool {
        AtomicBool(shuttle::sync::atomic::AtomicBool::new(value))
    }

    pub fn swap(&self, value: bool, _: Ordering) -> bool {
        self.0.swap(value, Ordering::SeqCst) && !planted(Bug::NoTurns)
    }

    pub fn store(&self, value: bool, _: Ordering) {
        self.0.store(value, Ordering::SeqCst);
    }
}

pub use shuttle::hint::spin_loop;

pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

/// With the interface of the crate's own.
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> RwLock<T> {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().expect("no CPU has panicked")
    }

    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.0.try_read().ok()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().expect("no CPU has panicked")
    }

    /// An intent keeps nobody out here: `shuttle` lets everybody have a turn.
    pub fn try_upgradeable_read(&self) -> Option<Intent<'_, T>> {
        Some(Intent(self))
    }

    pub fn upgradeable_read(&self) -> Intent<'_, T> {
        Intent(self)
    }

    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("no CPU has panicked")
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().expect("no CPU has panicked")
    }
}

/// With the interface of `spin`'s.
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

pub type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("no CPU has panicked")
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().expect("no CPU has panicked")
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().expect("no CPU has panicked")
    }
}

shuttle::thread_local! {
    static HELD: RefCell<Held> = RefCell::new(Held::new());
    static CPU: Cell<usize> = Cell::new(0);
}

pub fn number_cpus_by(_: fn() -> usize) {}

/// The CPU that a thread is.
pub fn cpu() -> usize {
    CPU.with(Cell::get)
}

/// The calling thread is this CPU from now on.
pub fn be_cpu(number: usize) {
    CPU.with(|cpu| cpu.set(number));
}

/// The order of locks is checked here as well.
pub fn with_held<R>(f: impl FnOnce(&mut Held) -> R) -> Option<R> {
    HELD.try_with(|held| f(&mut held.borrow_mut())).ok()
}

/// A CPU's are its own alone.
pub fn with_held_of(_: usize, _: impl FnOnce(&Held)) {}

/// The intent to write.
pub struct Intent<'a, T>(&'a RwLock<T>);

impl<'a, T> Intent<'a, T> {
    pub fn try_upgrade(self) -> Result<RwLockWriteGuard<'a, T>, Self> {
        self.0.try_write().ok_or(self)
    }

    pub fn upgrade(self) -> RwLockWriteGuard<'a, T> {
        self.0.write()
    }
}
