//! What a signal's handler finds: registers, siginfo_t, the frame with its records; and what its changes
//! do. A line per case; Linux must print the same.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::process;
use user::signal::{self, Action, Context, Info, Stack, set};
use user::{Args, OrFail, Result, println, syscall};

user::program!(main, "usage: frames");

const RW: u32 = PROT_READ | PROT_WRITE;
/// Where the pages are that faults are made in.
const HERE: usize = 0x10_0000_0000;
const FPSIMD_MAGIC: u32 = 0x4650_8001;
const ESR_MAGIC: u32 = 0x4553_5201;

fn main(args: Args) {
    if args.argv.count() != 1 {
        args.usage();
    }
    registers();
    // First of those that fault: Linux keeps what it knows of a fault for the frames that follow.
    records();
    faults();
    instructions();
    made();
    changes();
    nested();
    stacks();
    senders();
}

fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the arguments name memory of this program's that no Rust object lies in, or none.
    unsafe { syscall(number, arguments) }
}

fn install(signal: u32, handler: signal::Handler, flags: u32) {
    signal::set_action(signal, &Action::call(handler, flags | SA_SIGINFO)).or_fail("sigaction");
}

fn raise(signal: u32) {
    signal::kill(process::getpid(), signal).or_fail("kill");
}

/// x0, x1, x2, sp, x29 and x30, as the handler was entered.
static ENTRY: [AtomicUsize; 6] = [const { AtomicUsize::new(0) }; 6];

/// A handler that takes them down.
#[unsafe(naked)]
extern "C" fn take_down(_: u32, _: &mut Info, _: &mut Context) {
    naked_asm!(
        "adrp x9, {entry}",
        "add x9, x9, :lo12:{entry}",
        "stp x0, x1, [x9]",
        "mov x10, sp",
        "stp x2, x10, [x9, #16]",
        "stp x29, x30, [x9, #32]",
        "ret",
        entry = sym ENTRY,
    )
}

fn registers() {
    install(SIGUSR1, take_down, 0);
    let before: usize;
    // SAFETY: a system call; the stack pointer is only looked at.
    unsafe {
        asm!("mov {sp}, sp", "svc #0", sp = out(reg) before, in("x8") __NR_kill as usize,
            inlateout("x0") process::getpid() as usize => _, in("x1") SIGUSR1 as usize);
    }
    let [x0, x1, x2, sp, x29, x30] = [0, 1, 2, 3, 4, 5].map(|n| ENTRY[n].load(Relaxed));
    println!("x0 {x0}, sp aligned {}", sp.is_multiple_of(16));
    println!("siginfo at {}, ucontext at {}", x1 - sp, x2 - sp);
    println!(
        "frame record at {}, of {} bytes",
        x29 - sp,
        before.wrapping_sub(sp)
    );
    // SAFETY: the frame is still on the stack, below all that is in use; and the page of x30 is code.
    let (record, code) = unsafe { (*(x29 as *const [usize; 2]), *(x30 as *const [u32; 2])) };
    println!(
        "it returns to {:x?}, a caller's record: {}",
        code,
        record[1] != 0
    );
}

/// What the last fault was.
static FAULT: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];

extern "C" fn note(signal: u32, info: &mut Info, context: &mut Context) {
    let esr = context.records[132..]
        .chunks(4)
        .take_while(|r| r[0] != 0)
        .find(|r| r[0] == ESR_MAGIC);
    let esr = esr.map_or(0, |record| {
        u64::from(record[2]) | u64::from(record[3]) << 32
    });
    let facts = [
        signal.into(),
        info.code as u64,
        info.first,
        esr,
        context.fault_address,
        context.pc,
        info.error as u64,
    ];
    for (fact, value) in FAULT.iter().zip(facts) {
        fact.store(value, Relaxed);
    }
    // Behind the instruction; or, where that cannot be read, to who called it.
    context.pc = match info.first == context.pc && signal != SIGILL && signal != SIGTRAP {
        true => context.x[30],
        false => context.pc + 4,
    };
}

fn show(what: &str) {
    let [signal, code, address, esr, fault, pc, error] =
        [0, 1, 2, 3, 4, 5, 6].map(|n| FAULT[n].swap(0, Relaxed));
    let shown = match address {
        _ if address == pc && pc != 0 => "the instruction",
        _ => "",
    };
    match shown {
        "" => println!(
            "{what}: signal {signal}, code {}, error {error}, address {address:#x}, esr {esr:#x}, fault {fault:#x}",
            code as i32
        ),
        shown => println!(
            "{what}: signal {signal}, code {}, error {error}, address: {shown}, esr {esr:#x}, fault: {}",
            code as i32,
            fault == pc
        ),
    }
}

fn map(at: usize, count: usize, prot: u32) -> Pages {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    // SAFETY: nothing is there.
    unsafe { memory::mmap(at, count * PAGE_SIZE, prot, flags, -1, 0) }.or_fail("mmap");
    // SAFETY: nobody else knows of them.
    unsafe { Pages::at(at, count) }
}

fn load(what: &str, address: usize) {
    // SAFETY: a load, or a fault that is stepped over.
    unsafe { asm!("ldrb {0:w}, [{1}]", out(reg) _, in(reg) address, options(nostack)) };
    show(what);
}

fn store(what: &str, address: usize) {
    // SAFETY: a store to pages without Rust objects, or a fault that is stepped over.
    unsafe { asm!("strb wzr, [{0}]", in(reg) address, options(nostack)) };
    show(what);
}

fn jump(what: &str, address: usize) {
    // SAFETY: a fault, which the handler leaves by x30.
    unsafe { asm!("blr {0}", in(reg) address, out("x30") _, clobber_abi("C")) };
    show(what);
}

fn faults() {
    for signal in [SIGSEGV, SIGBUS, SIGILL, SIGTRAP] {
        install(signal, note, 0);
    }
    let pages = map(HERE, 4, RW);
    load("nothing", HERE);
    load("not mapped", HERE + 5 * PAGE_SIZE + 3);
    store("a store there", HERE + 5 * PAGE_SIZE + 3);
    load("null", 0);
    load("almost null", 0x123);
    pages.part(0, 1).protect(PROT_READ).or_fail("mprotect");
    load("read-only, read", HERE + 1);
    store("read-only, written", HERE + 1);
    pages.write(1, 7);
    pages.part(1, 2).protect(PROT_NONE).or_fail("mprotect");
    load("nobody's", HERE + PAGE_SIZE + 1);
    store("nobody's, a store", HERE + PAGE_SIZE + 1);
    load("nobody's, never touched", HERE + 2 * PAGE_SIZE + 1);
    load("the kernel's", 0xffff_8000_0000_0000);
    load("the kernel's end", 0xffff_ffff_ffff_f000);
    load("between", 0x00f0_0000_0000_0000);
    store("code", (faults as *const () as usize) & !3);
    jump("data", HERE + 3 * PAGE_SIZE);
    jump("no code", HERE + 5 * PAGE_SIZE);
    jump("null", 0);
    jump("odd code", HERE + 5 * PAGE_SIZE + 2);
    // SAFETY: faults, which are stepped over.
    unsafe {
        asm!("ldxr {0}, [{1}]", out(reg) _, in(reg) HERE + 3 * PAGE_SIZE + 1, options(nostack));
        show("an exclusive load that is not aligned");
        asm!("ldar {0}, [{1}]", out(reg) _, in(reg) HERE + 3 * PAGE_SIZE + 4, options(nostack));
        show("an acquiring load that is not aligned");
        asm!("dc zva, {0}", in(reg) HERE + 64, options(nostack));
        show("dc zva to a read-only page");
        asm!("ldp {0}, {1}, [{2}]", out(reg) _, out(reg) _, in(reg) HERE + 4 * PAGE_SIZE - 8, options(nostack));
        show("a pair that straddles the end");
        asm!("mov x9, sp", "add x10, x9, #1", "mov sp, x10", "ldr x10, [sp]", "mov sp, x9",
            out("x9") _, out("x10") _);
    }
    pages.unmap().or_fail("munmap");
}

fn instructions() {
    // SAFETY: all of them end in the handler, which steps over them.
    unsafe {
        asm!("udf #0", options(nostack));
        show("undefined");
        asm!("brk #0x123", options(nostack));
        show("breakpoint");
        asm!("hvc #0", options(nostack));
        show("hvc");
        asm!("smc #0", options(nostack));
        show("smc");
        asm!("mrs {0}, sctlr_el1", out(reg) _, options(nostack));
        show("a system register");
        asm!("msr ttbr0_el1, xzr", options(nostack));
        show("a write to one");
        asm!("msr daifset, #2", options(nostack));
        show("masking interrupts");
        asm!("tlbi vmalle1", options(nostack));
        show("tlbi");
        asm!("dc civac, {0}", in(reg) ENTRY.as_ptr(), options(nostack));
        show("dc civac");
        asm!("dc cvac, {0}", in(reg) ENTRY.as_ptr(), options(nostack));
        show("dc cvac");
        asm!("ic iallu", options(nostack));
        show("ic iallu");
        asm!("hlt #0", options(nostack));
        show("hlt");
        asm!("eret", options(nostack));
        show("eret");
        asm!(".inst 0x04a0e3e0", options(nostack)); // cntb x0: SVE
        show("sve");
    }
}

/// Code that is made, and made again in another page, as a compiler at run time does it.
fn made() {
    let pages = map(HERE, 2, RW);
    for number in 0..2u64 {
        let page = pages.part(number as usize, 1);
        // mov w0, #number; ret
        page.write(0, 0xd65f_03c0_5280_0000 | number << 5);
        let start = page.address(0);
        // SAFETY: maintains the page that was just written.
        unsafe {
            asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) start, options(nostack));
        }
        show("maintenance");
        page.protect(PROT_READ | PROT_EXEC).or_fail("mprotect");
        // SAFETY: it is code now.
        let function: extern "C" fn() -> u64 = unsafe { core::mem::transmute(start) };
        println!("made: {}", function());
    }
    pages.unmap().or_fail("munmap");
}

/// The records of a frame, in order, as the handler found them.
extern "C" fn list(signal: u32, _: &mut Info, context: &mut Context) {
    println!("records at signal {signal}:");
    let mut at = 0;
    loop {
        let (magic, size) = (context.records[at], context.records[at + 1] as usize);
        println!("  {magic:#x}, {size} bytes");
        if magic == FPSIMD_MAGIC {
            let words = &context.records[at + 2..];
            println!("  fpsr {:#x}, fpcr {:#x}", words[0], words[1]);
            println!(
                "  v0 {:x?}, v9 {:x?}, v31 {:x?}",
                &words[2..6],
                &words[38..42],
                &words[126..130]
            );
        }
        if magic == 0 || size == 0 {
            break;
        }
        at += size / 4;
    }
    println!(
        "flags {:#x}, link {:#x}, mask {:#x}",
        context.head[0], context.head[1], context.mask
    );
    println!(
        "stack flags {}, size {}",
        context.stack.flags, context.stack.size
    );
    println!("x3 {:#x}, x28 {:#x}", context.x[3], context.x[28]);
    // SSBS is a matter of what the kernel thinks of Spectre.
    println!("pstate {:#x}", context.pstate & !0x1000);
    if signal != SIGUSR1 {
        context.pc += 4;
    }
}

fn records() {
    install(SIGUSR1, list, 0);
    install(SIGSEGV, list, 0);
    signal::block(set(SIGUSR2)).or_fail("mask");
    for fault in [0usize, 1] {
        // SAFETY: a call, or a load that is stepped over, with registers that are declared.
        unsafe {
            asm!(
                "mov x9, #0x1234", "dup v0.2d, x9",
                "mov x9, #0x5678", "dup v9.4s, w9",
                "mov x9, #0x9abc", "dup v31.8h, w9",
                "mov x9, #0x01000000", "msr fpcr, x9",
                "mov x9, #0x10", "msr fpsr, x9",
                "cmp x9, x9",
                "cbnz {fault}, 1f",
                "svc #0", "b 2f",
                "1: ldr x9, [x3]",
                "2: msr fpcr, xzr",
                fault = in(reg) fault,
                in("x8") __NR_kill as usize,
                inlateout("x0") process::getpid() as usize => _,
                in("x1") SIGUSR1 as usize, in("x3") 0x40usize, in("x28") 0x2828usize,
                out("x9") _, out("v0") _, out("v9") _, out("v31") _,
            );
        }
    }
    signal::set_mask(0).or_fail("mask");
}

/// Changes registers of all kinds.
extern "C" fn change(_: u32, _: &mut Info, context: &mut Context) {
    context.x[0] = 0x1111;
    context.x[9] = 0x9999;
    context.pstate = 0x6000_0000;
    context.mask = set(SIGUSR2);
    // v0, fpsr and fpcr.
    context.records[2] = 0x08;
    context.records[3] = 0x0080_0000;
    context.records[4] = 0x4242;
}

fn changes() {
    install(SIGUSR1, change, 0);
    let (x0, x9, flags, v0, fpcr, fpsr): (usize, usize, u64, u64, u64, u64);
    // SAFETY: a call, with registers that are declared.
    unsafe {
        asm!(
            "movi v0.2d, #0",
            "svc #0",
            "mrs {flags}, nzcv", "mrs {fpcr}, fpcr", "mrs {fpsr}, fpsr", "mov {v0}, v0.d[0]",
            "msr fpcr, xzr",
            flags = out(reg) flags, fpcr = out(reg) fpcr, fpsr = out(reg) fpsr, v0 = out(reg) v0,
            in("x8") __NR_kill as usize,
            inlateout("x0") process::getpid() as usize => x0,
            in("x1") SIGUSR1 as usize, out("x9") x9, out("v0") _,
        );
    }
    println!("changed: {x0:#x} {x9:#x} {flags:#x} v0 {v0:#x} {fpcr:#x} {fpsr:#x}");
    println!("the mask: {:#x}", signal::set_mask(0).or_fail("mask"));
}

static DEPTH: AtomicUsize = AtomicUsize::new(0);

extern "C" fn deeper(signal: u32, _: &mut Info, context: &mut Context) {
    let depth = DEPTH.fetch_add(1, Relaxed);
    println!(
        "depth {depth}: signal {signal}, mask before {:#x}, now {:#x}",
        context.mask,
        signal::block(0).or_fail("mask")
    );
    match depth {
        0 => raise(SIGUSR2),
        1 => raise(SIGUSR1),
        2 => {
            raise(SIGUSR1);
            raise(SIGALRM);
        }
        _ => {}
    }
    println!("back in {depth}");
}

fn nested() {
    for (signal, mask, flags) in [
        (SIGUSR1, 0, SA_NODEFER),
        (SIGUSR2, set(SIGALRM), 0),
        (SIGALRM, 0, SA_RESETHAND),
    ] {
        let action = Action {
            mask,
            ..Action::call(deeper, SA_SIGINFO | flags)
        };
        signal::set_action(signal, &action).or_fail("sigaction");
    }
    raise(SIGUSR1);
    println!("depths: {}", DEPTH.load(Relaxed));
    // Several that wait: the lowest first, each in the frame of the one before.
    for signal in [SIGUSR1, SIGUSR2] {
        install(signal, order, 0);
    }
    for signal in [34, 40, 64] {
        install(signal, order, SA_NODEFER);
    }
    let all = set(SIGUSR1) | set(SIGUSR2) | set(34) | set(40) | set(64);
    signal::block(all).or_fail("mask");
    for (signal, value) in [
        (64, 1),
        (40, 2),
        (SIGUSR2, 3),
        (40, 4),
        (34, 5),
        (SIGUSR1, 6),
        (40, 7),
    ] {
        signal::queue(process::getpid(), signal, value).or_fail("rt_sigqueueinfo");
    }
    signal::unblock(all).or_fail("mask");
}

extern "C" fn order(signal: u32, info: &mut Info, _: &mut Context) {
    println!("signal {signal}, value {}, code {}", info.second, info.code);
}

extern "C" fn where_am_i(_: u32, _: &mut Info, context: &mut Context) {
    let local = 0u8;
    let on = |stack: usize| (stack..stack + 4 * PAGE_SIZE).contains(&(&raw const local as usize));
    // SAFETY: asks.
    let now = unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
    println!(
        "on the stack: {}, its flags {:#x}, in the frame {:#x}, size {}",
        on(HERE),
        now.flags,
        context.stack.flags,
        now.size
    );
    let depth = DEPTH.fetch_add(1, Relaxed);
    if depth == 0 {
        raise(SIGUSR2);
    }
}

fn stacks() {
    const SS_AUTODISARM: u32 = 1 << 31;
    let pages = map(HERE, 4, RW);
    install(SIGUSR1, where_am_i, SA_ONSTACK);
    install(SIGUSR2, where_am_i, SA_ONSTACK);
    for flags in [0, SS_AUTODISARM, SS_ONSTACK] {
        DEPTH.store(0, Relaxed);
        let stack = Stack {
            address: HERE,
            flags,
            pad: 0,
            size: 4 * PAGE_SIZE,
        };
        // SAFETY: the pages are for this.
        let set = unsafe { signal::alternate_stack(Some(&stack)) };
        println!("flags {flags:#x}: {:?}", set.map(|_| ()));
        raise(SIGUSR1);
        // SAFETY: asks.
        let after = unsafe { signal::alternate_stack(None) }.or_fail("sigaltstack");
        println!("after: flags {:#x}, size {}", after.flags, after.size);
        let none = Stack {
            flags: SS_DISABLE,
            ..Stack::default()
        };
        // SAFETY: it is given back.
        unsafe { signal::alternate_stack(Some(&none)) }.or_fail("sigaltstack");
    }
    // One that is too small for a frame, though not for sigaltstack.
    let stack = Stack {
        address: HERE,
        flags: 0,
        pad: 0,
        size: 5 << 10,
    };
    // SAFETY: the pages are for this.
    let small = unsafe { signal::alternate_stack(Some(&stack)) };
    println!("5 KiB: {:?}", small.map(|_| ()));
    pages.part(0, 1).protect(PROT_READ).or_fail("mprotect");
    let child = process::fork_child(|| {
        raise(SIGUSR1);
        0
    });
    let (_, status) = process::wait_raw(child.or_fail("fork"), 0).or_fail("wait4");
    println!("one that cannot be written: {status:#x}");
    let none = Stack {
        flags: SS_DISABLE,
        ..Stack::default()
    };
    // SAFETY: it is given back.
    unsafe { signal::alternate_stack(Some(&none)) }.or_fail("sigaltstack");
    pages.unmap().or_fail("munmap");
}

extern "C" fn sender(signal: u32, info: &mut Info, _: &mut Context) {
    let mine = info.pid() == process::getpid();
    println!(
        "signal {signal}: signo {}, errno {}, code {}, from me: {mine}, uid {}, value {:#x}",
        info.signal,
        info.error,
        info.code,
        info.first >> 32,
        info.second
    );
}

fn senders() {
    for signal in [SIGUSR1, SIGALRM, SIGVTALRM, SIGPIPE, SIGURG, 42] {
        install(signal, sender, 0);
    }
    raise(SIGUSR1);
    let me = process::getpid();
    let tid = user::thread::gettid();
    user::thread::kill(me, tid, SIGUSR1).or_fail("tgkill");
    call(__NR_tkill, [tid as usize, 42]).or_fail("tkill");
    signal::queue(me, 42, 0xdead_beef_0123).or_fail("rt_sigqueueinfo");
    let mut info = Info::default();
    (info.signal, info.code, info.error, info.second) = (42, -60, 7, 9);
    info.first = 0x1111_2222_3333_4444;
    let info = (&raw const info) as usize;
    println!(
        "own code: {:?}",
        call(__NR_rt_sigqueueinfo, [me as usize, 42, info])
    );
    println!(
        "to a thread: {:?}",
        call(
            __NR_rt_tgsigqueueinfo,
            [me as usize, tid as usize, 42, info]
        )
    );
    let timer = [0u64, 0, 0, 1000];
    call(
        __NR_setitimer,
        [ITIMER_REAL as usize, timer.as_ptr() as usize, 0],
    )
    .or_fail("setitimer");
    let _ = user::time::sleep(5_000_000_000);
    let pipe = user::file::pipe2(0).or_fail("pipe");
    user::file::close(pipe.reader).or_fail("close");
    println!("no reader: {:?}", user::file::write(pipe.writer, b"x"));
    let child = process::fork_child(|| i32::from(signal::kill(me, SIGUSR1).is_err()));
    process::expect_success(child.or_fail("fork"));
}
