//! FP/SIMD registers belong to one process: they survive system calls, fork and preemption.
//!
//! Several processes load all 32 vector registers and FPCR with values of their own, then fork,
//! yield, or compute for a while so that the timer preempts them, and compare.
#![no_std]
#![no_main]

use core::arch::asm;
use user::linux::{__NR_clone, __NR_sched_yield, SIGCHLD};
use user::process::{self, Pid, Status};
use user::{Args, Errno, OrFail, check, println};

user::program!(main, "usage: fp");

const PROCESSES: u64 = 4;
const ROUNDS: u64 = 200;
/// Loop iterations between loading and comparing, in the rounds that do not yield.
const SPIN: usize = 500_000;

/// v0-v31, 16 bytes each, as pairs of words.
type Registers = [[u64; 2]; 32];

fn main(args: Args) {
    if !args.words().is_empty() {
        args.usage();
    }
    process::stay_on_one_cpu().or_fail("sched_setaffinity");
    survives_fork();
    let mut children = [0; PROCESSES as usize];
    for (number, child) in (1..).zip(&mut children) {
        *child = process::fork_child(|| survives_switches(number)).or_fail("fork");
    }
    for child in children {
        process::expect_success(child);
    }
    println!(
        "fp: registers kept across fork, and by {PROCESSES} processes across {ROUNDS} rounds of switches"
    );
}

fn survives_fork() {
    let mine = registers(99);
    let (result, seen, _) = run(&mine, 0, __NR_clone, SIGCHLD as usize, 0);
    if result == 0 {
        process::exit(if seen == mine { 0 } else { 3 });
    }
    check!(result > 0, "fork: {}", Errno(-result as u32));
    check!(seen == mine, "the parent's registers changed in fork");
    process::expect(result as Pid, Status::Exited(0));
}

fn survives_switches(process: u64) -> i32 {
    for round in 0..ROUNDS {
        let mine = registers(process * 1_000_000 + round);
        // FPCR.RMode, bits 23:22, another for each process.
        let control = (process & 3) << 22;
        let spin = if round % 10 == 0 { SPIN } else { 0 };
        let (_, seen, seen_control) = run(&mine, control, __NR_sched_yield, 0, spin);
        check!(
            seen == mine,
            "process {process}: registers changed in round {round}"
        );
        check!(
            seen_control == control,
            "process {process}: FPCR {seen_control:#x}, not {control:#x}"
        );
    }
    0
}

fn registers(seed: u64) -> Registers {
    core::array::from_fn(|n| [seed << 8 | n as u64, !(seed << 8 | n as u64)])
}

/// Loads FPCR and all vector registers, makes a system call, spins, and returns the call's result
/// and what the registers hold then. One block of assembly: in between, no compiled code may use
/// them.
fn run(
    registers: &Registers,
    control: u64,
    call: u32,
    argument: usize,
    spin: usize,
) -> (isize, Registers, u64) {
    let mut seen: Registers = [[0; 2]; 32];
    let result;
    let seen_control: u64;
    // SAFETY: reads `registers`, writes `seen`, restores FPCR, and names every register that it
    // changes. A child of the system call continues here with its own copy of the memory.
    unsafe {
        asm!(
            "mrs {old}, fpcr",
            "msr fpcr, {control}",
            "ldp q0, q1, [{from}]",
            "ldp q2, q3, [{from}, #32]",
            "ldp q4, q5, [{from}, #64]",
            "ldp q6, q7, [{from}, #96]",
            "ldp q8, q9, [{from}, #128]",
            "ldp q10, q11, [{from}, #160]",
            "ldp q12, q13, [{from}, #192]",
            "ldp q14, q15, [{from}, #224]",
            "ldp q16, q17, [{from}, #256]",
            "ldp q18, q19, [{from}, #288]",
            "ldp q20, q21, [{from}, #320]",
            "ldp q22, q23, [{from}, #352]",
            "ldp q24, q25, [{from}, #384]",
            "ldp q26, q27, [{from}, #416]",
            "ldp q28, q29, [{from}, #448]",
            "ldp q30, q31, [{from}, #480]",
            "svc #0",
            "cbz {spin}, 3f",
            "2: subs {spin}, {spin}, #1",
            "b.ne 2b",
            "3: stp q0, q1, [{to}]",
            "stp q2, q3, [{to}, #32]",
            "stp q4, q5, [{to}, #64]",
            "stp q6, q7, [{to}, #96]",
            "stp q8, q9, [{to}, #128]",
            "stp q10, q11, [{to}, #160]",
            "stp q12, q13, [{to}, #192]",
            "stp q14, q15, [{to}, #224]",
            "stp q16, q17, [{to}, #256]",
            "stp q18, q19, [{to}, #288]",
            "stp q20, q21, [{to}, #320]",
            "stp q22, q23, [{to}, #352]",
            "stp q24, q25, [{to}, #384]",
            "stp q26, q27, [{to}, #416]",
            "stp q28, q29, [{to}, #448]",
            "stp q30, q31, [{to}, #480]",
            "mrs {control}, fpcr",
            "msr fpcr, {old}",
            old = out(reg) _,
            control = inout(reg) control => seen_control,
            from = in(reg) registers.as_ptr(),
            to = in(reg) seen.as_mut_ptr(),
            spin = inout(reg) spin => _,
            in("x8") call as usize,
            inout("x0") argument as isize => result,
            in("x1") 0usize, in("x2") 0usize, in("x3") 0usize, in("x4") 0usize,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
            out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
            out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
            out("v29") _, out("v30") _, out("v31") _,
            options(nostack)
        );
    }
    (result, seen, seen_control)
}
