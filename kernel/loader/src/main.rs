//! The chain loader: lies on a Raspberry Pi's card as `kernel8.img`, takes a kernel, its root file
//! system and its device tree from the serial line, and starts it. `cowscope boot` is at the other
//! end; the crate `chain` is what they say to each other.
//!
//! It runs on one core at the level the firmware starts it at, with MMU and data cache off: what it
//! writes is in RAM, as if the firmware had put it there.
#![no_std]
#![no_main]

mod facts;
mod machine;
mod port;

use boards::{Board, Handed};
use chain::{Answer, Collected, Collector, Here, MAX_BYTES, MAX_FRAME, Numbered, Request, Why};
use core::arch::global_asm;
use core::fmt::Write;
use facts::Facts;
use port::Port;

global_asm!(include_str!("head.s"));

unsafe extern "C" {
    static __start: u8;
    static __end: u8;
    fn leave(entry: u64, tree: u64) -> !;
}

/// RAM that every board has, if nobody says more: a Zero 2 W's, less what the GPU takes.
const LEAST_RAM: u64 = 448 << 20;
/// The largest device tree that is kept: Raspberry Pi's have 80 KiB with overlays.
const TREE: usize = 256 << 10;
/// Microseconds between two calls for a host.
const CALL: u64 = 3_000_000;

/// Large, and there is one of each.
struct Memory {
    tree: [u8; TREE],
    collector: Collector,
    scratch: [u8; MAX_FRAME],
    frame: [u8; MAX_FRAME],
}

static mut MEMORY: Memory = Memory {
    tree: [0; TREE],
    collector: Collector::new(),
    scratch: [0; MAX_FRAME],
    frame: [0; MAX_FRAME],
};

/// The loader's own memory.
fn own() -> [u64; 2] {
    [&raw const __start as u64, &raw const __end as u64]
}

/// `handed`: the firmware's x0. `loaded_at`: where it put the loader.
#[unsafe(no_mangle)]
extern "C" fn loader_main(handed: u64, loaded_at: u64) -> ! {
    let memory = &raw mut MEMORY;
    // SAFETY: entered once, by one core; nobody else has the address.
    let memory = unsafe { &mut *memory };
    let tree = keep_tree(handed, &mut memory.tree);
    let (soc, serial) = boards::guess(loaded_at, machine::midr());
    let mut board = Board::new(soc, serial);
    if tree.is_empty() || board.read_tree(tree, handed..handed + 1).is_err() {
        board = Board::new(soc, serial);
        board.without_tree(None);
    }
    let facts = Facts::look(&board, handed, loaded_at);
    let port = Port::open(&board);
    let mut loader = Loader {
        ram_end: ram_end(&board),
        tree,
        facts,
        port,
        scratch: &mut memory.scratch,
        frame: &mut memory.frame,
    };
    loader.serve(&mut memory.collector)
}

/// The end of the RAM that begins at 0.
fn ram_end(board: &Board) -> u64 {
    let first = board.ram.iter().find(|range| range.start < 1 << 20);
    first.map_or(0, |range| range.end).max(LEAST_RAM)
}

/// Copies the tree to where nothing overwrites it.
fn keep_tree(handed: u64, place: &'static mut [u8; TREE]) -> &'static [u8] {
    if handed == 0 || !handed.is_multiple_of(8) {
        return &[];
    }
    // SAFETY: x0 of a boot protocol is 0, or the address of a tree or of ATAGs, in RAM; aligned.
    let words = unsafe { (handed as *const [u32; 2]).read_volatile() };
    let Handed::Tree(range) = Handed::of(handed, words) else {
        return &[];
    };
    let len = (range.end - range.start) as usize;
    if len > TREE {
        return &[];
    }
    for (index, byte) in place[..len].iter_mut().enumerate() {
        // SAFETY: within the tree, by its own length, in RAM that is not ours: the place is.
        *byte = unsafe { ((handed as usize + index) as *const u8).read_volatile() };
    }
    &place[..len]
}

struct Loader<'a> {
    ram_end: u64,
    tree: &'static [u8],
    facts: Facts,
    port: Port,
    scratch: &'a mut [u8; MAX_FRAME],
    frame: &'a mut [u8; MAX_FRAME],
}

impl Loader<'_> {
    /// Answers until it is told to go.
    fn serve(&mut self, collector: &mut Collector) -> ! {
        let mut called = None;
        // When something sensible last came.
        let mut heard = machine::now();
        loop {
            let Some(byte) = self.port.try_get() else {
                // Less than a FIFO takes to fill at the highest rate (16 bytes at 3,000,000 baud are
                // 53 us), and long enough for QEMU to fill it, which is busy with every access.
                machine::wait(10);
                let now = machine::now();
                if self.port.is_raised() && machine::passed(heard, now) > chain::RATE_TRIAL {
                    self.port.back();
                }
                if !self.port.is_raised()
                    && machine::passed(heard, now) > CALL
                    && called.is_none_or(|then| machine::passed(then, now) > CALL)
                {
                    called = Some(now);
                    let _ = self.port.write_str(
                        "\r\nCowscope's loader waits here: cowscope boot serial:DEVICE\r\n",
                    );
                }
                continue;
            };
            match collector.take(byte) {
                Some(Collected::Message(message)) => {
                    if let Some(Numbered { number, body }) = chain::decode(message) {
                        heard = machine::now();
                        called = Some(heard);
                        self.answer(number, body);
                    }
                }
                Some(Collected::Damaged(_)) => self.say(0, Answer::Damaged),
                None => {}
            }
        }
    }

    fn say(&mut self, number: u16, body: Answer<'_>) {
        let message = Numbered { number, body };
        // Every answer is shorter than a frame's most.
        if let Ok(n) = chain::encode(&message, self.scratch, self.frame) {
            for &byte in &self.frame[..n] {
                self.port.put(byte);
            }
        }
    }

    fn answer(&mut self, number: u16, request: Request<'_>) {
        let refused = Answer::Refused;
        match request {
            Request::Hello => {
                let here = Here {
                    version: chain::VERSION,
                    midr: machine::midr(),
                    level: machine::level(),
                    tree: self.tree.len() as u32,
                    own: own(),
                    rates: self.port.has_rates(),
                };
                self.say(number, Answer::Here(here));
            }
            Request::Baud { baud } => match self.port.rate(baud) {
                Some((divisor, baud)) => {
                    self.say(number, Answer::Baud { baud });
                    self.port.raise(divisor);
                }
                None => self.say(number, refused(Why::Baud)),
            },
            Request::Tree { offset } => {
                let tree = self.tree;
                let rest = tree.get(offset as usize..).unwrap_or(&[]);
                let bytes = &rest[..rest.len().min(MAX_BYTES)];
                let total = tree.len() as u32;
                match bytes {
                    [] => self.say(number, refused(Why::Nothing)),
                    bytes => self.say(number, Answer::Tree { total, bytes }),
                }
            }
            Request::Fact { index } => match self.facts.get(index) {
                Some((name, value)) => self.say(number, Answer::Fact { name, value }),
                None => self.say(number, refused(Why::Nothing)),
            },
            Request::Write { address, bytes } => {
                if !chain::may_write(address, bytes.len() as u64, own(), self.ram_end) {
                    return self.say(number, refused(Why::Address));
                }
                machine::store(address, bytes);
                self.say(number, Answer::Written);
            }
            Request::Check { address, len } => {
                if !chain::may_write(address, len, own(), self.ram_end) {
                    return self.say(number, refused(Why::Address));
                }
                let crc = machine::checksum(address, len);
                self.say(number, Answer::Checked { crc });
            }
            Request::Go { entry, tree } => {
                if !chain::may_write(entry, 64, own(), self.ram_end) {
                    return self.say(number, refused(Why::Address));
                }
                self.say(number, Answer::Going);
                self.port.flush();
                // SAFETY: the host says that there is a kernel. This is the end of us.
                unsafe { leave(entry, tree) }
            }
        }
    }
}

/// An exception: says so, and waits for the power to be switched off.
#[unsafe(no_mangle)]
extern "C" fn loader_exception(esr: u64, elr: u64, far: u64) -> ! {
    let mut port = Port::again();
    let _ = writeln!(
        port,
        "\r\nCowscope's loader failed: exception, ESR {esr:#x} at {elr:#x}, FAR {far:#x}\r"
    );
    machine::halt()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let mut port = Port::again();
    let _ = writeln!(port, "\r\nCowscope's loader failed: {info}\r");
    machine::halt()
}
