//! Panics: plain text on the wire (text between frames is allowed there), then the end.

use crate::arch::{cpu, secondary, trap, trap::TrapFrame, unwind};
use crate::board;
use crate::driver::{exit, uart};
use crate::process::scheduler;
use crate::watchdog;
use core::fmt::{self, Write};
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
    backtrace(&mut text, frame_pointer());
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

/// Return addresses by the frame records.
fn backtrace(text: &mut impl Write, frame: u64) {
    unwind::from_frame(frame, |address| {
        let _ = writeln!(text, "  called from {address:#018x}");
    });
}

/// Some CPU makes no progress: tells what all of them do, and ends the machine.
pub fn hang(why: fmt::Arguments<'_>) -> ! {
    let mut text = begin();
    let _ = writeln!(text, "kernel hang: {why}");
    for number in 0..secondary::online() {
        let _ = tell(&mut text, number);
    }
    end()
}

/// What a CPU does. They have stopped, or hang.
fn tell(text: &mut impl Write, number: usize) -> fmt::Result {
    write!(text, "CPU {number} ")?;
    let frame = watchdog::whereabouts(text, number)?;
    // SAFETY: it goes on no more, or is this one.
    let thread = unsafe { scheduler::running(number) };
    match thread {
        None => writeln!(text, "\n  no thread")?,
        Some(thread) => {
            // SAFETY: written when the thread entered the kernel, or before it began.
            let user = unsafe { thread.user_frame().read_volatile() };
            writeln!(
                text,
                "\n  thread {} of process {}, whose program is at {:#x}, with {} in x8",
                thread.tid(),
                thread.process.pid,
                user.pc,
                user.x[8]
            )?;
        }
    }
    if let Some(frame) = frame {
        backtrace(text, frame);
    } else if number == cpu::id() {
        backtrace(text, frame_pointer());
    } else if !watchdog::answered(number) {
        let stack = match thread {
            Some(thread) => thread.kernel_stack(),
            None => scheduler::local(number).first_stack(),
        };
        text.write_str("  by what is on its stack, where some may be over:\n")?;
        let mut rows = 0;
        unwind::rows(stack, |address, begins| {
            if begins {
                rows += 1;
            }
            // The port cannot fail.
            if begins && rows > 1 {
                let _ = text.write_str("  or, if the first of those are over:\n");
            }
            let _ = writeln!(text, "  called from {address:#018x}");
        });
    }
    Ok(())
}

#[inline(always)]
fn frame_pointer() -> u64 {
    let frame: u64;
    // SAFETY: reads the frame pointer.
    unsafe { core::arch::asm!("mov {}, x29", out(reg) frame, options(nomem, nostack)) };
    frame
}
