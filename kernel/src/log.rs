//! The `defmt` logger: collects a frame, hands it to the trace.

use crate::arch::cpu;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Longest log frame, bytes.
const CAPACITY: usize = 512;

struct Buffer {
    bytes: [u8; CAPACITY],
    len: usize,
    overflowed: bool,
}

struct Logger {
    /// The CPU that logs, plus one; 0: none.
    taken: AtomicUsize,
    buffer: UnsafeCell<Buffer>,
}

// SAFETY: the buffer is used only between `acquire` and `release`, by whoever holds `taken`.
unsafe impl Sync for Logger {}

static LOGGER: Logger = Logger {
    taken: AtomicUsize::new(0),
    buffer: UnsafeCell::new(Buffer {
        bytes: [0; CAPACITY],
        len: 0,
        overflowed: false,
    }),
};

#[defmt::global_logger]
struct Global;

// SAFETY: `acquire` excludes other cores by spinning, and this core's interrupts are masked
// throughout the kernel. A value that logs while it is being logged would wait for itself: that is
// a bug in its `Format`, and it panics.
unsafe impl defmt::Logger for Global {
    fn acquire() {
        let me = cpu::id() + 1;
        while let Err(other) =
            LOGGER
                .taken
                .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            assert!(other != me, "logging inside of logging");
            cpu::relax();
        }
        // SAFETY: held since the line above.
        let buffer = unsafe { &mut *LOGGER.buffer.get() };
        buffer.len = 0;
        buffer.overflowed = false;
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: held since `acquire`.
        let buffer = unsafe { &*LOGGER.buffer.get() };
        let overflowed = buffer.overflowed;
        if !overflowed {
            crate::trace::log(&buffer.bytes[..buffer.len]);
        }
        LOGGER.taken.store(0, Ordering::Release);
        if overflowed {
            defmt::warn!("a log frame of more than {=usize} bytes is lost", CAPACITY);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: held since `acquire`. The raw encoding is the bytes as they are.
        let buffer = unsafe { &mut *LOGGER.buffer.get() };
        let end = buffer.len + bytes.len();
        match buffer.bytes.get_mut(buffer.len..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                buffer.len = end;
            }
            None => buffer.overflowed = true,
        }
    }
}

defmt::timestamp!("{=u64:us}", {
    let (now, hz) = (crate::arch::time::now(), crate::arch::time::hz().max(1));
    (u128::from(now) * 1_000_000 / u128::from(hz)) as u64
});

/// defmt's own panic (`defmt::panic!`, `unwrap!`): the message is in the log already.
#[defmt::panic_handler]
fn defmt_panic() -> ! {
    panic!("see the last log frame")
}
