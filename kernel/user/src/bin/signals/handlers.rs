//! Handlers: faults, registers, stacks, and frames that are spoiled.

use super::{COUNT, FIRST, FRAME, PC, install, me, note, raise, restore, show, status};
use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;
use user::linux::*;
use user::memory::Pages;
use user::process;
use user::signal::{self, Action, Context, Info, Stack};
use user::{OrFail, println};

/// Notes the fault, and steps over the instruction.
extern "C" fn step_over(signal: u32, info: &mut Info, context: &mut Context) {
    note(signal, info, context);
    context.pc += 4;
}

fn show_fault(what: &str, address: usize) {
    let here = FIRST.load(Relaxed) as usize == address;
    let at_instruction = FIRST.load(Relaxed) == PC.load(Relaxed);
    show(what);
    println!("at the address: {here}, at the instruction: {at_instruction}");
}

pub fn faults() {
    for signal in [SIGSEGV, SIGBUS, SIGILL, SIGTRAP] {
        signal::set_action(signal, &Action::call(step_over, SA_SIGINFO)).or_fail("rt_sigaction");
    }
    let pages = Pages::map(2).or_fail("mmap");
    pages.write(0, 1);
    pages.part(0, 1).protect(PROT_READ).or_fail("mprotect");
    pages.part(1, 1).unmap().or_fail("munmap");
    let (read_only, unmapped) = (pages.address(0), pages.address(1));
    // SAFETY: neither access succeeds; the handler goes on behind it.
    unsafe {
        asm!("str xzr, [{}]", in(reg) read_only + 8, options(nostack));
        show_fault("write to a read-only page", read_only + 8);
        asm!("ldr {0}, [{0}]", inout(reg) unmapped + 16 => _, options(nostack));
        show_fault("read from nowhere", unmapped + 16);
        asm!("ldr {0}, [{0}]", inout(reg) 0usize => _, options(nostack));
        show_fault("null", 0);
    }
    // SAFETY: UDF and BRK change nothing but what the handler notes.
    unsafe {
        asm!("udf #0", options(nostack));
        show_fault("undefined", 0);
        asm!("brk #7", options(nostack));
        show_fault("breakpoint", 0);
    }
    for signal in [SIGSEGV, SIGBUS, SIGILL, SIGTRAP] {
        restore(signal);
    }
}

/// Destroys what a handler may, and more.
extern "C" fn destroy(_: u32, _: &mut Info, context: &mut Context) {
    let found = context.records[..2] == [0x4650_8001, 528];
    COUNT.fetch_add(found.into(), Relaxed);
    // SAFETY: the registers are declared as changed.
    unsafe {
        asm!(
            "movi v0.16b, #0xff", "movi v8.16b, #0xff", "movi v31.16b, #0xff",
            "msr fpcr, xzr", "msr fpsr, xzr",
            out("v0") _, out("v8") _, out("v31") _, options(nostack, nomem)
        );
    }
}

pub fn keeps_registers() {
    signal::set_action(SIGUSR1, &Action::call(destroy, SA_SIGINFO)).or_fail("rt_sigaction");
    let (low, middle, high, control, flags, kept): (u64, u64, u64, u64, u64, u64);
    // SAFETY: a system call that touches no memory, between loads and stores of registers that are
    // declared as changed.
    unsafe {
        asm!(
            "mov x9, #0x1111", "dup v0.2d, x9",
            "mov x9, #0x2222", "dup v8.2d, x9",
            "mov x9, #0x3333", "dup v31.2d, x9",
            "mov x9, #0x400000", "msr fpcr, x9", // round to +infinity
            "mov x9, #0x4444",
            "mov x10, #1",
            "cmp x10, #1", // Z and C
            "svc #0",
            "mrs {flags}, nzcv",
            "mov {kept}, x9",
            "mrs {control}, fpcr",
            "msr fpcr, xzr",
            "mov {low}, v0.d[1]", "mov {middle}, v8.d[1]", "mov {high}, v31.d[1]",
            low = out(reg) low, middle = out(reg) middle, high = out(reg) high,
            control = out(reg) control, flags = out(reg) flags, kept = out(reg) kept,
            in("x8") __NR_kill as usize,
            inlateout("x0") me() as usize => _,
            in("x1") SIGUSR1 as usize,
            out("x9") _, out("x10") _, out("v0") _, out("v8") _, out("v31") _,
            options(nostack)
        );
    }
    println!(
        "after the handler ({} with its record): {low:x} {middle:x} {high:x} {control:x} {flags:x} {kept:x}",
        COUNT.swap(0, Relaxed)
    );
    restore(SIGUSR1);
}

pub fn alternate_stack() {
    const PAGES: usize = 4;
    let pages = Pages::map(PAGES).or_fail("mmap");
    let stack = Stack {
        address: pages.address(0),
        flags: 0,
        pad: 0,
        size: PAGES * 4096,
    };
    // SAFETY: the pages are nobody else's.
    let query = || unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
    // SAFETY: as above; a stack that is refused is not used.
    let change = |stack: &Stack| unsafe { signal::alternate_stack(Some(stack)) };
    println!("flags without one: {}", query().flags);
    println!(
        "too small: {:?}",
        change(&Stack {
            size: 2000,
            ..stack
        })
    );
    println!("wrong flags: {:?}", change(&Stack { flags: 64, ..stack }));
    change(&stack).or_fail("sigaltstack");
    let now = query();
    let same = (now.address, now.flags, now.size) == (stack.address, 0, stack.size);
    println!("as it was set: {same}");

    extern "C" fn look(signal: u32, info: &mut Info, context: &mut Context) {
        note(signal, info, context);
        // SAFETY: only asks; and a change is refused while the stack is in use.
        let (now, change) = unsafe {
            let now = signal::alternate_stack(None).or_fail("sigaltstack");
            (now, signal::alternate_stack(Some(&now)))
        };
        println!("in the handler: flags {}, {:?}", now.flags, change.err());
        println!("in its context: flags {}", context.stack.flags);
    }
    let inside = || (stack.address..stack.address + stack.size).contains(&FRAME.load(Relaxed));
    signal::set_action(SIGUSR1, &Action::call(look, SA_SIGINFO | SA_ONSTACK)).or_fail("sigaction");
    raise(SIGUSR1);
    println!("on the stack: {}, flags after: {}", inside(), query().flags);
    install(SIGUSR1, 0);
    raise(SIGUSR1);
    println!("without SA_ONSTACK on the stack: {}", inside());
    // A stack overflow can be handled on another stack only.
    let status = status(|| {
        extern "C" fn leave(_: u32, _: &mut Info, _: &mut Context) {
            process::exit(77)
        }
        signal::set_action(SIGSEGV, &Action::call(leave, SA_ONSTACK | SA_SIGINFO))
            .or_fail("sigaction");
        // SAFETY: nothing returns from here.
        unsafe { asm!("mov sp, {}", "str xzr, [sp]", in(reg) 0x10000_usize, options(noreturn)) }
    });
    println!("a stack that is gone: {status:#x}");
    change(&Stack {
        flags: SS_DISABLE,
        ..Stack::default()
    })
    .or_fail("sigaltstack");
    println!("flags when disabled: {}", query().flags);
    restore(SIGUSR1);
    COUNT.store(0, Relaxed);
}

pub fn forced() {
    let fault = || {
        // SAFETY: a load has no effect if it survives.
        unsafe { asm!("ldr {0}, [{0}]", inout(reg) 0usize => _, options(nostack, readonly)) }
    };
    let blocked = status(|| {
        install(SIGSEGV, 0);
        signal::block(u64::MAX).or_fail("mask");
        fault();
    });
    println!("a fault that is blocked: {blocked:#x}");
    let ignored = status(|| {
        signal::set_action(SIGSEGV, &Action::IGNORE).or_fail("sigaction");
        fault();
    });
    println!("a fault that is ignored: {ignored:#x}");
    let again = status(|| {
        // Returns to the same instruction, which faults again, with the default action.
        install(SIGSEGV, SA_RESETHAND);
        fault();
    });
    println!("a fault that goes on: {again:#x}");
    let no_stack = status(|| {
        install(SIGUSR1, 0);
        // SAFETY: nothing returns from here.
        unsafe {
            asm!("mov sp, {}", "svc #0", in(reg) 0x10000_usize, in("x8") __NR_kill as usize,
                in("x0") me() as usize, in("x1") SIGUSR1 as usize, options(noreturn))
        }
    });
    println!("a frame that has no place: {no_stack:#x}");
}

extern "C" fn spoil(_: u32, _: &mut Info, context: &mut Context) {
    match COUNT.load(Relaxed) {
        // EL1, a masked interrupt, AArch32.
        0 => context.pstate |= 5,
        1 => context.pstate |= 0x80,
        2 => context.pstate |= 0x10,
        // Records: no FP, one of a wrong size, an unknown one, a list without an end.
        3 => context.records[..4].fill(0),
        4 => context.records[1] = 512,
        5 => context.records[0] = 0x1234_5678,
        6 => context.records[132..].fill(0x4553_5201),
        _ => {}
    }
}

pub fn bad_frames() {
    for how in 0..8 {
        let status = status(|| {
            COUNT.store(how, Relaxed);
            signal::set_action(SIGUSR1, &Action::call(spoil, SA_SIGINFO)).or_fail("sigaction");
            raise(SIGUSR1);
        });
        println!("frame {how}: {status:#x}");
    }
    COUNT.store(0, Relaxed);
    for (what, sp) in [
        ("nowhere", 0x10000_usize),
        ("the kernel's", 0xffff_ff80_0000_0000),
        ("odd", 9),
    ] {
        let status = status(|| {
            // SAFETY: nothing returns from here.
            unsafe {
                asm!("mov sp, {}", "svc #0", in(reg) sp,
                    in("x8") __NR_rt_sigreturn as usize, options(noreturn))
            }
        });
        println!("a frame that is {what}: {status:#x}");
    }
}
