//! A lock that several may hold, as long as none of them changes the value.

use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut};

use super::{Order, Rank};
use crate::sync;

/// A value behind a spin lock that has a place in the order, and that is held by one who may change
/// the value, or by any number who may not.
pub struct RwLock<T> {
    order: Order,
    value: sync::RwLock<T>,
}

/// The value, for its only holder, until it is dropped.
#[must_use = "a guard that is dropped at once locks nothing"]
pub struct WriteGuard<'a, T> {
    order: &'a Order,
    // Dropped after `drop` has run, as with `Guard`.
    value: sync::RwLockWriteGuard<'a, T>,
}

/// The value, which nobody changes until it is dropped.
#[must_use = "a guard that is dropped at once locks nothing"]
pub struct ReadGuard<'a, T> {
    order: &'a Order,
    value: sync::RwLockReadGuard<'a, T>,
}

impl<T> RwLock<T> {
    /// A lock of a rank.
    pub const fn new(rank: Rank, value: T) -> RwLock<T> {
        RwLock {
            order: Order::new(rank),
            value: sync::RwLock::new(value),
        }
    }

    /// Waits until nobody else holds it.
    #[cfg_attr(any(debug_assertions, feature = "checks"), track_caller)]
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        self.order.check();
        let value = match self.value.try_write() {
            Some(value) => value,
            None => self.wait_to_write(),
        };
        self.order.taken();
        WriteGuard {
            order: &self.order,
            value,
        }
    }

    /// First keeps those out who come later, or there would always be a reader.
    #[cold]
    fn wait_to_write(&self) -> sync::RwLockWriteGuard<'_, T> {
        let intent = self.order.wait(
            || self.value.try_upgradeable_read(),
            || self.value.upgradeable_read(),
        );
        let intent = Cell::new(Some(intent));
        self.order.wait(
            || match intent.take()?.try_upgrade() {
                Ok(value) => Some(value),
                Err(still) => {
                    intent.set(Some(still));
                    None
                }
            },
            || intent.take().expect("nobody has written yet").upgrade(),
        )
    }

    /// Waits until nobody holds it who may change the value, or waits to.
    #[cfg_attr(any(debug_assertions, feature = "checks"), track_caller)]
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.order.check();
        let value = self
            .order
            .wait(|| self.value.try_read(), || self.value.read());
        self.order.taken();
        ReadGuard {
            order: &self.order,
            value,
        }
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

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.order.left();
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.order.left();
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
