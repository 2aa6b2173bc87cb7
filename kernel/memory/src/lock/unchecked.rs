//! Nothing is recorded, and nothing costs anything.

use super::Rank;

/// A lock's place in the order.
#[derive(Debug)]
pub struct Order;

impl Order {
    /// The place of a lock of a rank.
    #[inline]
    pub const fn new(_: Rank) -> Order {
        Order
    }

    /// Before the lock is waited for.
    #[inline(always)]
    pub fn check(&self) {}

    #[inline(always)]
    pub(super) fn wait<G>(&self, _: impl Fn() -> Option<G>, lock: impl FnOnce() -> G) -> G {
        lock()
    }

    /// The lock was taken.
    #[inline(always)]
    pub fn taken(&self) {}

    /// The lock is about to be released.
    #[inline(always)]
    pub fn left(&self) {}
}

/// Tells how a CPU finds its number (below 16), for the checks. Once, at boot.
#[inline(always)]
pub fn number_cpus_by(_: fn() -> usize) {}

/// Panics if this CPU holds a lock: before it sleeps, or runs another thread.
#[inline(always)]
pub fn assert_none_held() {}
