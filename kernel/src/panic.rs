//! Panics: plain text on the wire (text between frames is allowed there), then the end.

use crate::arch::{cpu, layout, secondary, trap, trap::TrapFrame};
use crate::board;
use crate::driver::{exit, uart};
use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The machine's exit code after a panic.
const EXIT_CODE: i32 = 101;

/// How long the other cores have to leave the kernel, microseconds. Those that do not, and wait for
/// a lock, say nothing.
const PATIENCE: u64 = 100_000;

/// The core that panics, plus one; 0: none.
static PANICKING: AtomicUsize = AtomicUsize::new(0);

/// Stops a core that would speak on the wire while another one panics.
#[inline]
pub fn be_silent() {
    let panicking = PANICKING.load(Ordering::Relaxed);
    if panicking != 0 && panicking != cpu::id() + 1 {
        secondary::stop();
    }
}

/// A second panic says nothing more: whatever it would print with is what failed. Nor does one on
/// another core.
fn begin() -> uart::Text<'static> {
    let me = cpu::id() + 1;
    match PANICKING.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => secondary::stop_others(PATIENCE),
        Err(other) if other == me => exit(EXIT_CODE),
        Err(_) => secondary::stop(),
    }
    let mut text = uart::Text(uart::wire_uart());
    // Ends a frame that was cut off, so that the tools see text.
    uart::wire_uart().put(0);
    let _ = text.write_str("\n");
    text
}

/// The end of a machine that panicked: on a Raspberry Pi the LED tells of it first.
fn end() -> ! {
    if let Some(board) = board::try_board()
        && !board.has_argument("semihosting")
    {
        uart::wire_uart().flush();
        board::signal_panic(board);
    }
    exit(EXIT_CODE)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut text = begin();
    let (esr, far) = trap::syndrome();
    // The port cannot fail.
    let _ = writeln!(
        text,
        "kernel {info}\nCPU {}, ESR {esr:#x} FAR {far:#x} (of the last exception)",
        cpu::id()
    );
    let fp: u64;
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) fp, options(nomem, nostack)) };
    backtrace(&mut text, fp);
    end()
}

/// An exception that nobody can handle.
pub fn exception(what: &str, frame: &TrapFrame, esr: u64, far: u64) -> ! {
    let mut text = begin();
    let _ = writeln!(text, "kernel panic: {what}, on CPU {}", cpu::id());
    let _ = writeln!(
        text,
        "pc  {:#018x} sp  {:#018x} pstate {:#x}\nesr {esr:#x} (class {:#x}) far {far:#018x}",
        frame.pc,
        frame.sp,
        frame.pstate,
        esr >> 26,
    );
    for (index, value) in frame.x.iter().enumerate() {
        let end = if index % 4 == 3 { "\n" } else { " " };
        let _ = write!(text, "x{index:<2} {value:#018x}{end}");
    }
    let _ = text.write_str("\n");
    backtrace(&mut text, frame.x[29]);
    end()
}

/// Return addresses by the frame records, as far as they stay in one mapped stack.
fn backtrace(text: &mut impl Write, mut fp: u64) {
    let stack = |at: u64| {
        (layout::boot_stack()..layout::image_end()).contains(&at) || layout::STACKS.contains(&at)
    };
    for _ in 0..16 {
        // Both halves of a record lie in the upper half of a stack's slot, or nothing does.
        if !stack(fp) || !fp.is_multiple_of(16) || fp & 1 << 14 == 0 {
            return;
        }
        // SAFETY: an aligned pair inside a stack; at worst it holds stale values, which the test
        // above rejects or which end at the guard.
        let [next, lr] = unsafe { (fp as *const [u64; 2]).read_volatile() };
        if lr == 0 {
            return;
        }
        let _ = writeln!(text, "  called from {lr:#018x}");
        if next <= fp {
            return;
        }
        fp = next;
    }
}
