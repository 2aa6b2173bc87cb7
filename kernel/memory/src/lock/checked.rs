//! The checks of debug builds: what each CPU (on the host: each thread) holds, and since where.

use core::panic::Location;

use super::Rank;
use crate::sync;

type Place = &'static Location<'static>;

/// Locks that a CPU holds at most at a time.
const DEPTH: usize = 12;

/// The locks that a CPU holds, in the order of taking.
pub(crate) struct Held {
    locks: [Option<(Rank, Place)>; DEPTH],
}

impl Held {
    pub const fn new() -> Held {
        Held {
            locks: [None; DEPTH],
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Rank, Place)> {
        self.locks.iter().flatten().copied()
    }

    fn push(&mut self, rank: Rank, place: Place) {
        match self.locks.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some((rank, place)),
            None => panic!("more than {DEPTH} locks are held"),
        }
    }

    fn remove(&mut self, rank: Rank) {
        let of_rank = |slot: &&mut Option<(Rank, Place)>| slot.is_some_and(|lock| lock.0 == rank);
        if let Some(slot) = self.locks.iter_mut().rev().find(of_rank) {
            *slot = None;
        }
    }
}

/// A lock's place in the order.
#[derive(Debug)]
pub struct Order {
    rank: Rank,
}

impl Order {
    /// The place of a lock of a rank.
    pub const fn new(rank: Rank) -> Order {
        Order { rank }
    }

    /// Before the lock is waited for.
    ///
    /// # Panics
    /// If this CPU holds a lock of the same rank or of one further down the order.
    #[track_caller]
    pub fn check(&self) {
        let late = sync::with_held(|held| held.iter().find(|lock| lock.0 >= self.rank));
        if let Some((rank, place)) = late.flatten() {
            panic!(
                "lock order: {:?} is taken at {}, but {rank:?} has been held since {place}",
                self.rank,
                Location::caller(),
            );
        }
    }

    /// Takes the lock, waiting if it must.
    #[inline(always)]
    pub fn wait<G>(&self, try_lock: impl Fn() -> Option<G>, lock: impl FnOnce() -> G) -> G {
        match try_lock() {
            Some(guard) => guard,
            None => super::contended(self.rank, try_lock, lock),
        }
    }

    /// The lock was taken.
    #[track_caller]
    pub fn taken(&self) {
        let place = Location::caller();
        sync::with_held(|held| held.push(self.rank, place));
    }

    /// The lock is about to be released.
    pub fn left(&self) {
        sync::with_held(|held| held.remove(self.rank));
    }
}

pub use sync::number_cpus_by;

/// Panics if this CPU holds a lock: before it sleeps, or runs another thread.
#[track_caller]
pub fn assert_none_held() {
    let held = sync::with_held(|held| held.iter().next());
    if let Some((rank, place)) = held.flatten() {
        panic!("{rank:?}, taken at {place}, is held across a switch");
    }
}

/// What a CPU holds, in the order of taking, and since where; for when it goes on no more.
pub fn for_each_held(cpu: usize, mut f: impl FnMut(Rank, Place)) {
    sync::with_held_of(cpu, |held| {
        held.iter().for_each(|(rank, place)| f(rank, place))
    });
}
