//! Requests to the Raspberry Pi's firmware (its wiki: "Mailbox property interface").

use super::{Registers, wait_for};

const READ: u64 = 0x00;
const STATUS: u64 = 0x18;
const WRITE: u64 = 0x20;
const FULL: u32 = 1 << 31;
const EMPTY: u32 = 1 << 30;
/// From the ARM cores to the firmware, with an answer.
const PROPERTIES: u32 = 8;
/// The firmware answers within microseconds, or milliseconds where clocks change.
const PATIENCE: u64 = 500_000;

const ANSWERED: u32 = 0x8000_0000;

/// The PL011s' clock.
const UART_CLOCK: u32 = 2;

/// A message with one tag, which the firmware overwrites with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Message([u32; 16]);

impl Message {
    /// Of a tag with these values, in a buffer of at least `answer` words.
    const fn new(tag: u32, values: &[u32], answer: usize) -> Self {
        let words = if answer > values.len() {
            answer
        } else {
            values.len()
        };
        let mut message = [0; 16];
        message[0] = 64;
        message[2] = tag;
        message[3] = words as u32 * 4;
        let mut index = 0;
        while index < values.len() {
            message[5 + index] = values[index];
            index += 1;
        }
        Self(message)
    }

    /// What version the firmware is: the time it was built, in seconds since 1970.
    pub const fn firmware() -> Self {
        Self::new(0x0000_0001, &[], 1)
    }

    /// What board this is: its revision code.
    pub const fn revision() -> Self {
        Self::new(0x0001_0002, &[], 1)
    }

    /// What RAM the ARM cores have (the first part of it): start and size.
    pub const fn memory() -> Self {
        Self::new(0x0001_0005, &[], 2)
    }

    /// What the PL011s' clock is: number, and Hz.
    pub const fn uart_clock() -> Self {
        Self::new(0x0003_0002, &[UART_CLOCK], 2)
    }

    /// Sets it: number, Hz, and not to leave the turbo mode as it is.
    pub const fn set_uart_clock(hz: u32) -> Self {
        Self::new(0x0003_8002, &[UART_CLOCK, hz, 0], 2)
    }

    /// What a core's clock is now, measured: number, and Hz.
    pub const fn cpu_clock() -> Self {
        Self::new(0x0003_0047, &[3], 2)
    }

    /// Sets one of the firmware's pins.
    pub const fn set_pin(pin: u32, high: bool) -> Self {
        Self::new(0x0003_8041, &[pin, high as u32], 2)
    }

    /// Its words.
    pub fn words(&self) -> &[u32; 16] {
        &self.0
    }

    /// The same, to be overwritten.
    pub fn words_mut(&mut self) -> &mut [u32; 16] {
        &mut self.0
    }

    /// The answer's first `N` words, if there is an answer to this tag.
    pub fn answer<const N: usize>(&self) -> Option<[u32; N]> {
        let len = self.0[4];
        let answered = self.0[1] == ANSWERED && len & ANSWERED != 0;
        if !answered || (len & !ANSWERED) < N as u32 * 4 {
            return None;
        }
        self.0[5..].first_chunk().copied()
    }
}

/// Hands the message at a bus address to the firmware, and waits until it gives it back. Whoever
/// calls this sees to the caches.
pub fn exchange(mailbox: &impl Registers, bus_address: u32) -> bool {
    let word = bus_address & !0xf | PROPERTIES;
    if !wait_for(mailbox, PATIENCE, |read| read(STATUS) & FULL == 0) {
        return false;
    }
    mailbox.write(WRITE, word);
    // What is for somebody else, or was left of an earlier request, is thrown away.
    wait_for(mailbox, PATIENCE, |read| {
        read(STATUS) & EMPTY == 0 && read(READ) == word
    })
}

/// Where the firmware sees a physical address of the first GiB: past its own caches.
pub fn bus_address(physical: u64) -> Option<u32> {
    (physical < 0x4000_0000).then_some(physical as u32 | 0xc000_0000)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn messages() {
        let message = Message::set_uart_clock(48_000_000);
        assert_eq!(
            message.words()[..8],
            [64, 0, 0x38002, 12, 0, 2, 48_000_000, 0]
        );
        assert_eq!(align_of::<Message>(), 64);
        assert_eq!(size_of::<Message>(), 64);
    }

    #[test]
    fn answers() {
        let mut message = Message::uart_clock();
        assert_eq!(message.answer::<2>(), None, "not yet");
        message.0[1] = ANSWERED;
        assert_eq!(message.answer::<2>(), None, "it does not know the tag");
        message.0[4] = ANSWERED | 8;
        message.0[6] = 48_000_000;
        assert_eq!(message.answer(), Some([2, 48_000_000]));
        assert_eq!(message.answer::<3>(), None, "shorter than that");
    }

    #[test]
    fn exchanges() {
        let mailbox = Fake::with(&[(READ, 0xc000_1008)]);
        assert!(exchange(&mailbox, 0xc000_1000));
        assert_eq!(*mailbox.writes.borrow(), [(WRITE, 0xc000_1008)]);
        assert!(!exchange(&mailbox, 0xc000_2000), "that is not its answer");
        assert!(!exchange(&Fake::with(&[(STATUS, FULL)]), 0xc000_1000));
        assert!(!exchange(&Fake::with(&[(STATUS, EMPTY)]), 0xc000_1000));
        assert_eq!(bus_address(0x20_0040), Some(0xc020_0040));
        assert_eq!(bus_address(0x4000_0000), None);
    }
}
