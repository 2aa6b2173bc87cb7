//! Ends by a signal, in the way that the argument says.
//!
//! `read`, `write`, `exec`, `null` and `stack` end by SIGSEGV (11), `undefined` by SIGILL (4),
//! `align` by SIGBUS (7). A program that survives says so and exits with 1.
#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;
use user::linux::PROT_READ;
use user::memory::Pages;
use user::{Args, OrFail, fail};

user::program!(
    main,
    "usage: crash read|write|exec|null|undefined|stack|align"
);

fn main(args: Args) {
    let words = args.words();
    let [how] = *words else { args.usage() };
    match how {
        "read" => reads_an_unmapped_page(),
        "write" => writes_a_read_only_page(),
        "exec" => executes_a_data_page(),
        "null" => reads_address_zero(),
        "undefined" => executes_an_undefined_instruction(),
        "stack" => {
            black_box(recurses_for_ever(1));
        }
        "align" => loads_exclusive_across_16_bytes(),
        _ => args.usage(),
    }
    fail!("survived '{how}'");
}

#[inline(never)]
fn reads_an_unmapped_page() {
    let page = Pages::map(1).or_fail("mapping a page");
    page.write(0, 1);
    page.unmap().or_fail("unmapping it");
    page.read(0);
}

#[inline(never)]
fn writes_a_read_only_page() {
    let page = Pages::map(1).or_fail("mapping a page");
    page.write(0, 1);
    page.protect(PROT_READ).or_fail("protecting it");
    page.write(0, 2);
}

/// The page holds a `ret`, so if data were executable this would return.
#[inline(never)]
fn executes_a_data_page() {
    const RET: u64 = 0xd65f_03c0;
    let page = Pages::map(1).or_fail("mapping a page");
    page.write(0, RET);
    // SAFETY: a function that does nothing, if it can be executed at all.
    unsafe { core::mem::transmute::<usize, extern "C" fn()>(page.address(0))() }
}

/// In assembly, because in Rust the compiler may assume that this never happens.
#[inline(never)]
fn reads_address_zero() {
    // SAFETY: a load has no effect if it survives.
    unsafe { asm!("ldr {0}, [{0}]", inout(reg) 0usize => _, options(nostack, readonly)) }
}

#[inline(never)]
fn executes_an_undefined_instruction() {
    // SAFETY: UDF is undefined in every version of the architecture: it changes nothing.
    unsafe { asm!("udf #0", options(nostack, nomem)) }
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the crash")]
fn recurses_for_ever(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurses_for_ever(depth + 1) + frame[depth as usize % 64]
}

/// Ordinary loads may be unaligned; exclusive ones may not, least of all across 16 bytes (FEAT_LSE2
/// allows less).
#[inline(never)]
fn loads_exclusive_across_16_bytes() {
    let page = Pages::map(1).or_fail("mapping a page");
    page.write(0, 1);
    // SAFETY: reads from a mapped page.
    unsafe {
        asm!("ldxr {value}, [{address}]", "clrex", value = out(reg) _, address = in(reg) page.address(0) + 15,
            options(nostack, readonly));
    }
}
