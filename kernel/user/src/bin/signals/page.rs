//! Programs of the kernel: exec, and the page of code that every program gets.

use super::{install, raise};
use user::linux::*;
use user::process;
use user::signal::{self, Action, set};
use user::{Args, OrFail, check, fail, println, syscall};

/// Ignored stays ignored, a handler becomes the default, and what is blocked stays so, and waits.
pub fn exec_keeps_and_resets(args: &Args) {
    let child = process::fork_child(|| {
        install(SIGUSR1, 0);
        signal::set_action(SIGUSR2, &Action::IGNORE).or_fail("sigaction");
        signal::block(set(SIGTERM)).or_fail("mask");
        raise(SIGTERM);
        fail!("exec: {}", process::exec_self(args, &[c"after-exec"]))
    })
    .or_fail("fork");
    println!(
        "status {:#x}",
        process::wait_raw(child, 0).or_fail("wait4").1
    );
}

pub fn after_exec() {
    let handler = |signal| {
        signal::set_action(signal, &Action::DEFAULT)
            .or_fail("sigaction")
            .handler
    };
    println!("after exec: {} {}", handler(SIGUSR1), handler(SIGUSR2));
    println!("pending {:#x}", signal::pending().or_fail("rt_sigpending"));
    signal::unblock(set(SIGTERM)).or_fail("mask");
}

/// The vDSO is an ELF file with a symbol table that a hash table counts; without one, as in some releases
/// of Linux, its strings are behind it.
pub fn function_page(args: &Args) {
    let base = args.aux(user::auxvec::AT_SYSINFO_EHDR).unwrap_or(0);
    check!(base != 0, "there is no vDSO");
    let word = |at: usize| {
        // SAFETY: inside the page that the kernel has mapped, as its own tables say.
        unsafe { ((base + at) as *const u64).read_unaligned() as usize }
    };
    check!(word(0) as u32 == 0x464c_457f, "the vDSO is no ELF file");
    let segments = word(32);
    let dynamic = word(segments + 56 + 8);
    let find_tag = |wanted: usize| {
        (0..)
            .map(|n| dynamic + 16 * n)
            .take_while(|&at| word(at) != 0)
            .find(|&at| word(at) == wanted)
            .map(|at| word(at + 8))
    };
    let tag = |wanted| find_tag(wanted).unwrap_or_else(|| fail!("the vDSO has no tag {wanted}"));
    let (symbols, strings) = (tag(6), tag(5));
    let count = find_tag(4).map_or((strings - symbols) / 24, |hash| word(hash) >> 32);
    let find = |name: &core::ffi::CStr| {
        (1..count)
            .map(|n| symbols + 24 * n)
            .find(|&at| {
                let text = (base + strings + (word(at) as u32 as usize)) as *const _;
                // SAFETY: a string of the page's own table, which ends with NUL.
                unsafe { core::ffi::CStr::from_ptr(text) == name }
            })
            .map(|at| base + word(at + 8))
            .unwrap_or_else(|| fail!("the vDSO has no {name:?}"))
    };
    let _ = find(c"__kernel_rt_sigreturn");
    let address = find(c"__kernel_clock_gettime");
    // SAFETY: the function has this type.
    let gettime: extern "C" fn(u32, &mut [u64; 2]) -> i32 =
        unsafe { core::mem::transmute(address) };
    let call = |clock: u32| {
        let mut time = [0; 2];
        let result = gettime(clock, &mut time);
        check!(result == 0, "clock {clock}: {result}");
        time[0] * 1_000_000_000 + time[1]
    };
    let system = |clock: u32| {
        let mut time = [0u64; 2];
        // SAFETY: the kernel writes a timespec.
        unsafe {
            syscall(
                __NR_clock_gettime,
                [clock as usize, time.as_mut_ptr() as usize],
            )
        }
        .or_fail("clock_gettime");
        time[0] * 1_000_000_000 + time[1]
    };
    for clock in 0..8 {
        let times = [call(clock), system(clock), call(clock), system(clock)];
        check!(times.is_sorted(), "clock {clock} goes back: {times:?}");
    }
    let mut time = [0; 2];
    println!("a clock that is none: {}", gettime(99, &mut time));
    let address = find(c"__kernel_gettimeofday");
    // SAFETY: the function has this type.
    let gettimeofday: extern "C" fn(&mut [u64; 2], usize) -> i32 =
        unsafe { core::mem::transmute(address) };
    check!(gettimeofday(&mut time, 0) == 0, "gettimeofday");
    let now = system(0);
    let then = time[0] * 1_000_000_000 + time[1] * 1000;
    check!(
        then <= now && now - then < 60_000_000_000,
        "{then} is not {now}"
    );
    let address = find(c"__kernel_clock_getres");
    // SAFETY: the function has this type.
    let getres: extern "C" fn(u32, &mut [u64; 2]) -> i32 = unsafe { core::mem::transmute(address) };
    println!("resolution: {} {time:?}", getres(1, &mut time));
}
