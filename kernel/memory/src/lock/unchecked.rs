//! Nothing is recorded, and nothing costs anything.

use core::panic::Location;

use super::Rank;

/// A lock's place in the order, for who has to wait.
#[derive(Debug)]
pub struct Order(Rank);

impl Order {
    /// The place of a lock of a rank.
    #[inline]
    pub const fn new(rank: Rank) -> Order {
        Order(rank)
    }

    /// Before the lock is waited for.
    #[inline(always)]
    pub fn check(&self) {}

    /// Takes the lock, waiting if it must.
    #[inline(always)]
    pub fn wait<G>(&self, try_lock: impl Fn() -> Option<G>, lock: impl FnOnce() -> G) -> G {
        match try_lock() {
            Some(guard) => guard,
            None => super::contended(self.0, try_lock, lock),
        }
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

/// What a CPU holds: nobody knows.
#[inline(always)]
pub fn for_each_held(_: usize, _: impl FnMut(Rank, &'static Location<'static>)) {}
