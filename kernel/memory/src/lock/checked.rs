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
    /// Who holds it: CPU, and where it was taken.
    holder: spin::Mutex<Option<(usize, Place)>>,
}

impl Order {
    /// The place of a lock of a rank.
    pub const fn new(rank: Rank) -> Order {
        Order {
            rank,
            holder: spin::Mutex::new(None),
        }
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

    /// Waits for the lock, but not for ever.
    ///
    /// # Panics
    /// If another CPU holds it for longer than anybody should: the two wait for each other, or
    /// somebody forgot to unlock.
    #[track_caller]
    pub(super) fn wait<G>(&self, try_lock: impl Fn() -> Option<G>, lock: impl FnOnce() -> G) -> G {
        if sync::PATIENCE == 0 {
            return lock();
        }
        let mut patience = sync::PATIENCE;
        while patience > 0 {
            patience -= 1;
            if let Some(guard) = try_lock() {
                return guard;
            }
            core::hint::spin_loop();
        }
        let (rank, place) = (self.rank, Location::caller());
        match self.holder.try_lock().as_deref() {
            Some(Some((cpu, since))) => {
                panic!("waited too long for {rank:?} at {place}: CPU {cpu} holds it since {since}")
            }
            _ => panic!("waited too long for {rank:?} at {place}"),
        }
    }

    /// The lock was taken.
    #[track_caller]
    pub fn taken(&self) {
        let place = Location::caller();
        sync::with_held(|held| held.push(self.rank, place));
        *self.holder.lock() = Some((sync::cpu(), place));
    }

    /// The lock is about to be released.
    pub fn left(&self) {
        *self.holder.lock() = None;
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
