//! Prints what the kernel handed over: arguments, environment, auxiliary vector.
//!
//! It prints only auxiliary values that are the same on every kernel with the same ABI, so that its
//! output can be compared with Linux's; of the others it checks what must hold. Takes every
//! argument as it is.
#![no_std]
#![no_main]

use core::ffi::CStr;
use user::auxvec::{
    AT_BASE, AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_EXECFN, AT_FLAGS, AT_GID, AT_PAGESZ,
    AT_PHDR, AT_PHENT, AT_PHNUM, AT_PLATFORM, AT_RANDOM, AT_SECURE, AT_UID,
};
use user::{Args, check, fail, println};

user::program!(main, "");

fn main(args: Args) {
    for (index, argument) in args.argv.enumerate() {
        println!("argv[{index}] = {argument:?}");
    }
    for (index, variable) in args.envp.enumerate() {
        println!("envp[{index}] = {variable:?}");
    }
    for (kind, name) in [
        (AT_PHDR, "AT_PHDR"),
        (AT_PHENT, "AT_PHENT"),
        (AT_PHNUM, "AT_PHNUM"),
        (AT_PAGESZ, "AT_PAGESZ"),
        (AT_BASE, "AT_BASE"),
        (AT_FLAGS, "AT_FLAGS"),
        (AT_ENTRY, "AT_ENTRY"),
        (AT_UID, "AT_UID"),
        (AT_EUID, "AT_EUID"),
        (AT_GID, "AT_GID"),
        (AT_EGID, "AT_EGID"),
        (AT_SECURE, "AT_SECURE"),
        (AT_CLKTCK, "AT_CLKTCK"),
    ] {
        match args.aux(kind) {
            Some(value) => println!("{name} = {value:#x}"),
            None => println!("{name} is missing"),
        }
    }
    println!("AT_PLATFORM = {:?}", string(&args, AT_PLATFORM));
    println!("AT_EXECFN = {:?}", string(&args, AT_EXECFN));
    check_random(&args);
    check_program_headers(&args);
}

fn string(args: &Args, kind: u32) -> &'static CStr {
    match args.aux(kind) {
        // SAFETY: this value is the address of a C string above the initial stack.
        Some(address) if address != 0 => unsafe { CStr::from_ptr(address as *const _) },
        _ => fail!("auxiliary value {kind} is missing"),
    }
}

/// AT_RANDOM points to 16 random bytes. All of them zero has a probability of 2^-128.
fn check_random(args: &Args) {
    let Some(address) = args.aux(AT_RANDOM) else {
        fail!("AT_RANDOM is missing")
    };
    // SAFETY: 16 bytes above the initial stack, which nobody writes.
    let bytes = unsafe { *(address as *const [u8; 16]) };
    check!(bytes != [0; 16], "AT_RANDOM is all zero");
}

/// AT_PHDR must point to this program's headers in memory: one of them, a PT_LOAD, covers the entry
/// point.
fn check_program_headers(args: &Args) {
    const PT_LOAD: u64 = 1;
    let (Some(table), Some(count), Some(entry)) =
        (args.aux(AT_PHDR), args.aux(AT_PHNUM), args.aux(AT_ENTRY))
    else {
        fail!("the auxiliary vector does not describe the program headers");
    };
    let covered = (0..count).any(|index| {
        // SAFETY: an Elf64_Phdr is seven 64-bit words, and the table lies in our read-only segment.
        let header = unsafe { *(table as *const [u64; 7]).add(index) };
        // Type and flags share the first word; then offset, virtual address, physical address, file
        // and memory size.
        let [kind, _, start, _, _, size, _] = header;
        kind & 0xffff_ffff == PT_LOAD && (start..start + size).contains(&(entry as u64))
    });
    check!(
        covered,
        "no program header at {table:#x} covers the entry point {entry:#x}"
    );
}
