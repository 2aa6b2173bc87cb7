//! Clocks: what time it is.

use super::options;
use crate::arch::time;
use core::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// CLOCK_REALTIME when the counter was 0, in nanoseconds. The machine has no clock of the day: a
/// boot argument says when it was started, else it was 1970.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Sets the time of day by the boot argument, which says what it is about now.
pub fn init() {
    let at_boot = options::options().time.saturating_mul(SECOND);
    EPOCH.store(at_boot.saturating_sub(monotonic()), Ordering::Relaxed);
}

/// CLOCK_REALTIME when the counter was 0, in nanoseconds.
pub fn epoch() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// Nanoseconds since 1970.
pub fn realtime() -> u64 {
    epoch() + monotonic()
}

/// Nanoseconds since the counter was 0: since boot, or since power came on.
pub fn monotonic() -> u64 {
    from_ticks(time::now())
}

/// Counter ticks as nanoseconds, rounded down as the vDSO does.
pub fn from_ticks(ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(SECOND) / u128::from(time::hz())) as u64
}
