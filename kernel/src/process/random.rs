//! Random bytes for programs: ChaCha, seeded at boot. With `seed=` they are the same in every run.

use memory::{Lock, Rank};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use spin::LazyLock;

static GENERATOR: LazyLock<Lock<ChaCha12Rng>> = LazyLock::new(|| {
    let seed = super::options::options()
        .seed
        .unwrap_or_else(crate::board::entropy);
    Lock::new(Rank::Random, ChaCha12Rng::seed_from_u64(seed))
});

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    GENERATOR.lock().fill_bytes(bytes);
}

/// A random number.
pub fn number() -> u64 {
    GENERATOR.lock().next_u64()
}
