//! The Raspberry Pi's own devices, by way of [`Registers`].

pub mod gpio;
pub mod led;
pub mod mailbox;
pub mod mini;
pub mod pl011;
pub mod power;
#[cfg(test)]
mod testing;

/// A device's registers, 32 bits each, by their offsets in bytes.
pub trait Registers {
    /// Reads one.
    fn read(&self, offset: u64) -> u32;
    /// Writes one.
    fn write(&self, offset: u64, value: u32);
    /// Lets so many microseconds pass.
    fn wait(&self, microseconds: u64);
}

/// Waits until `ready` says so, so many microseconds at most; what it said last.
fn wait_for(
    registers: &impl Registers,
    microseconds: u64,
    mut ready: impl FnMut(&dyn Fn(u64) -> u32) -> bool,
) -> bool {
    let read = |offset| registers.read(offset);
    for _ in 0..microseconds {
        if ready(&read) {
            return true;
        }
        registers.wait(1);
    }
    ready(&read)
}
