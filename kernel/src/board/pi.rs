//! A Raspberry Pi's own devices: the serial line's pins, clock and rate, and the activity LED. The
//! sequences are `boards::pi`'s; here are the addresses.

use crate::arch::{cpu, table, time};
use crate::driver::uart;
use boards::pi::{Registers, gpio, led, mailbox, mailbox::Message, mini, pl011};
use boards::{Board, Serial, Soc};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Mapped registers.
pub struct Mapped(u64);

impl Mapped {
    /// Maps them, for good.
    pub fn new(physical: u64, len: u64) -> Option<Self> {
        table::map_device(physical, len).ok().map(Self)
    }
}

impl Registers for Mapped {
    fn read(&self, offset: u64) -> u32 {
        // SAFETY: registers of a device that is mapped for good, within what was mapped: the offsets
        // are constants of the device's driver.
        unsafe { ((self.0 + offset) as *const u32).read_volatile() }
    }

    fn write(&self, offset: u64, value: u32) {
        // SAFETY: as in `read`; of these devices only the mailbox reaches memory, a buffer that is
        // handed over for it.
        unsafe { ((self.0 + offset) as *mut u32).write_volatile(value) }
    }

    fn wait(&self, microseconds: u64) {
        time::delay(microseconds);
    }
}

/// The clock that `config.txt` asks for, and that gives every usual rate up to 3,000,000 baud.
const UART_CLOCK: u32 = 48_000_000;
/// The rate of a port that nobody set up.
const BAUD: u32 = 115_200;

/// The message in the firmware's hands: its own cache line, in the image, which lies in the first
/// GiB, where the firmware reaches it.
struct Buffer(UnsafeCell<Message>);

// SAFETY: `ask` uses it while BUSY is held, and nobody else does.
unsafe impl Sync for Buffer {}

static BUFFER: Buffer = Buffer(UnsafeCell::new(Message::firmware()));
static BUSY: AtomicBool = AtomicBool::new(false);
/// The mailbox's and the pins' mapped registers; 0: not there.
static MAILBOX: AtomicU64 = AtomicU64::new(0);
static PINS: AtomicU64 = AtomicU64::new(0);

fn mapped(at: &AtomicU64) -> Option<Mapped> {
    let at = at.load(Ordering::Acquire);
    (at != 0).then_some(Mapped(at))
}

/// Asks the firmware; its answer, if there is one.
fn ask(message: Message) -> Option<Message> {
    let registers = mapped(&MAILBOX)?;
    let at = BUFFER.0.get() as u64;
    let bus = mailbox::bus_address(table::image_physical(at))?;
    if BUSY.swap(true, Ordering::Acquire) {
        return None;
    }
    // SAFETY: BUSY is ours. The firmware writes to it past our caches: our own copy is thrown out of
    // them before it does, and again before it is read.
    let answer = unsafe {
        BUFFER.0.get().write_volatile(message);
        cpu::clean_to_memory(at, size_of::<Message>() as u64);
        let answered = mailbox::exchange(&registers, bus);
        cpu::clean_to_memory(at, size_of::<Message>() as u64);
        answered.then(|| BUFFER.0.get().read_volatile())
    };
    BUSY.store(false, Ordering::Release);
    answer
}

/// Sets up what the firmware of a Raspberry Pi leaves to us: the header's pins for the PL011 and its
/// clock, and the mini UART where it is used. `baud`: the rate of the wire, if the boot arguments
/// have one; else it stays as the boot loader has it.
pub fn prepare(board: &Board, baud: Option<u32>) {
    // A Pi 5's debug UART is the firmware's, with divisors for a clock that device trees get wrong.
    if !matches!(board.soc, Soc::Bcm2837 | Soc::Bcm2711) {
        return;
    }
    for (physical, len, at) in [(board.mailbox, 0x40, &MAILBOX), (board.gpio, 0x100, &PINS)] {
        if let Some(registers) = physical.and_then(|at| Mapped::new(at, len)) {
            at.store(registers.0, Ordering::Release);
        }
    }
    for serial in [Some(board.wire), board.console].into_iter().flatten() {
        if let Serial::Mini(at) = serial {
            start_mini(at, board.soc);
        }
    }
    if let Serial::Pl011(at) = board.wire
        && let Some(uart) = Mapped::new(at, 0x48)
    {
        if let Some(pins) = mapped(&PINS) {
            gpio::serial_pins(&pins, board.soc);
        }
        if baud.is_some() || !uart::was_running() {
            let wanted = baud.unwrap_or(BAUD);
            let divisor = pl011::Divisor::new(uart_clock(), wanted);
            pl011::start(&uart, divisor);
            if divisor.is_none() {
                defmt::warn!("no divisor gives {=u32} baud: the rate stays", wanted);
            }
        }
    }
}

/// Sets the PL011s' clock; what it is then.
fn uart_clock() -> u32 {
    let set = ask(Message::set_uart_clock(UART_CLOCK)).and_then(|message| message.answer::<2>());
    match set {
        Some([_, hz]) if hz != 0 => hz,
        _ => UART_CLOCK,
    }
}

fn start_mini(at: u64, soc: Soc) {
    let (Some(aux), Some(uart)) = (
        Mapped::new(at - mini::ENABLES_BEFORE, 4),
        Mapped::new(at, 0x2c),
    ) else {
        return;
    };
    mini::enable(&aux);
    let (pi3, pi4) = mini::CORE_CLOCK;
    let clock = if soc == Soc::Bcm2711 { pi4 } else { pi3 };
    mini::start(&uart, clock, BAUD);
}

/// Flashes the activity LED for a panic, a few times over: for whoever has no serial line.
pub fn signal_panic(board: &Board) {
    const TIMES: usize = 3;
    let (Some(led), Some(pins)) = (board.led, mapped(&PINS)) else {
        return;
    };
    led::prepare(led, &pins);
    for (on, microseconds) in (0..TIMES).flat_map(|_| led::panic_code()) {
        led::switch(led, &pins, on);
        if let Some(request) = led::request(led, on) {
            ask(request);
        }
        time::delay(microseconds);
    }
}
