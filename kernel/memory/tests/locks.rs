//! The order of locks, as debug builds check it.

use memory::{Lock, Rank, RwLock};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

static SPACE: Lock<u32> = Lock::new(Rank::Space, 1);
static FRAMES: Lock<u32> = Lock::new(Rank::Frames, 2);

/// What a panic says.
fn complaint(f: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(f)).err()?;
    payload.downcast_ref::<String>().cloned()
}

#[test]
fn down_the_order_is_allowed_and_up_again_after_release() {
    for _ in 0..2 {
        let space = SPACE.lock();
        let frames = FRAMES.lock();
        assert_eq!(*space + *frames, 3);
        // In this order too: nobody waits at a release.
        drop(space);
        drop(frames);
    }
    drop(FRAMES.lock());
    drop(SPACE.lock());
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds check")]
fn up_the_order_panics_with_both_names_and_places() {
    let frames = Lock::new(Rank::Frames, ());
    let space = Lock::new(Rank::Space, ());
    let held = frames.lock();
    let line = line!() + 1;
    let said = complaint(|| drop(space.lock())).expect("an inversion is noticed");
    assert!(said.contains("Space is taken at"), "{said}");
    assert!(said.contains("Frames has been held since"), "{said}");
    assert!(said.contains(&format!("locks.rs:{line}:")), "{said}");
    assert!(said.contains(&format!("locks.rs:{}:", line - 2)), "{said}");
    drop(held);
    // The lock that was not taken is free, and nothing is left on the record.
    drop(space.lock());
    memory::lock::assert_none_held();
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds check")]
fn two_locks_of_one_rank_panic() {
    let (one, two) = (Lock::new(Rank::Space, 1), Lock::new(Rank::Space, 2));
    let held = one.lock();
    let said = complaint(|| drop(two.lock())).expect("two address spaces at a time");
    assert!(said.contains("Space has been held since"), "{said}");
    assert_eq!(*held, 1);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds check")]
fn a_lock_across_a_switch_panics() {
    let lock = Lock::new(Rank::Waiting, ());
    let held = lock.lock();
    let said = complaint(memory::lock::assert_none_held).expect("held across a switch");
    assert!(said.contains("Waiting, taken at"), "{said}");
    drop(held);
    memory::lock::assert_none_held();
}

#[test]
fn trying_is_allowed_in_any_order() {
    let (inner, outer) = (Lock::new(Rank::Frames, ()), Lock::new(Rank::Space, ()));
    let held = inner.lock();
    let tried = outer.try_lock().expect("nobody holds it");
    assert!(outer.try_lock().is_none());
    drop(held);
    drop(tried);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only debug builds check")]
fn readers_are_on_the_record_as_well() {
    let (frames, space) = (Lock::new(Rank::Frames, ()), RwLock::new(Rank::Space, ()));
    let held = space.read();
    let said = complaint(|| drop(space.read())).expect("one rank, one lock");
    assert!(said.contains("Space has been held since"), "{said}");
    drop(held);
    let held = frames.lock();
    let said = complaint(|| drop(space.write())).expect("an inversion is noticed");
    assert!(said.contains("Frames has been held since"), "{said}");
    drop(held);
    memory::lock::assert_none_held();
}

#[test]
fn a_writer_excludes_readers_and_is_not_kept_waiting() {
    let value = Arc::new(RwLock::new(Rank::Space, (0_u32, 0_u32)));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (value, done) = (value.clone(), done.clone());
            std::thread::spawn(move || {
                // There is always one: a writer that did not keep others out would never begin.
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let value = value.read();
                    assert_eq!(value.0, value.1, "half of a change is seen");
                }
            })
        })
        .collect();
    for _ in 0..500 {
        let mut value = value.write();
        value.0 += 1;
        std::hint::black_box(&mut value);
        value.1 += 1;
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(*value.read(), (500, 500));
}

#[test]
fn a_lock_excludes() {
    let count = Arc::new(Lock::new(Rank::Waiting, 0_u32));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let count = count.clone();
            std::thread::spawn(move || {
                for _ in 0..10_000 {
                    let mut count = count.lock();
                    let seen = *count;
                    std::hint::black_box(&mut count);
                    *count = seen + 1;
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*count.lock(), 40_000);
}
