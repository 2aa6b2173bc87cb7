//! Limits on memory, in children.

use super::{HERE, RW, call};
use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::process;
use user::{Errno, OrFail, println};

const MEGABYTE: usize = 1 << 20;

fn limit(resource: u32, bytes: usize) {
    let limit = [bytes, bytes];
    call(
        __NR_prlimit64,
        [0, resource as usize, limit.as_ptr() as usize, 0],
    )
    .or_fail("prlimit64");
}

fn try_map(at: usize, len: usize, prot: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: nothing is there.
    let mapped = unsafe {
        memory::mmap(
            at,
            len,
            prot,
            flags | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    mapped.map(drop)
}

fn in_child(what: &str, child: impl FnOnce()) {
    let pid = process::fork_child(|| {
        child();
        0
    });
    let (_, status) = process::wait_raw(pid.or_fail("fork"), 0).or_fail("wait4");
    println!("{what}: status {status:#x}");
}

pub fn all() {
    in_child("address space", || {
        limit(RLIMIT_AS, 64 * MEGABYTE);
        println!(
            "too much: {:?}",
            try_map(HERE, 65 * MEGABYTE, RW, MAP_PRIVATE)
        );
        println!("shared: {:?}", try_map(HERE, 65 * MEGABYTE, RW, MAP_SHARED));
        println!(
            "nobody's: {:?}",
            try_map(HERE, 65 * MEGABYTE, PROT_NONE, MAP_PRIVATE)
        );
        println!(
            "enough: {:?}",
            try_map(HERE, 32 * MEGABYTE, RW, MAP_PRIVATE)
        );
        println!(
            "again: {:?}",
            try_map(HERE + 64 * MEGABYTE, 32 * MEGABYTE, RW, MAP_PRIVATE)
        );
        let remap = [HERE, 32 * MEGABYTE, 65 * MEGABYTE, MREMAP_MAYMOVE as usize];
        println!("larger: {:?}", call(__NR_mremap, remap));
        println!(
            "a child: {:?}",
            process::fork_child(|| 0).map(process::wait)
        );
    });
    in_child("data", || {
        limit(RLIMIT_DATA, 8 * MEGABYTE);
        println!(
            "too much: {:?}",
            try_map(HERE, 9 * MEGABYTE, RW, MAP_PRIVATE)
        );
        println!("shared: {:?}", try_map(HERE, 9 * MEGABYTE, RW, MAP_SHARED));
        println!(
            "read-only: {:?}",
            try_map(HERE + 64 * MEGABYTE, 9 * MEGABYTE, PROT_READ, MAP_PRIVATE)
        );
        // SAFETY: no object is in these pages.
        let pages = unsafe { Pages::at(HERE + 64 * MEGABYTE, 9 * MEGABYTE / PAGE_SIZE) };
        println!("then writable: {:?}", pages.protect(RW));
        // SAFETY: asks.
        let start = unsafe { memory::brk(0) }.or_fail("brk");
        // SAFETY: nothing is there.
        let end = unsafe { memory::brk(start + 9 * MEGABYTE) }.or_fail("brk");
        println!("the heap grew: {}", end != start);
    });
    in_child("stack", || {
        limit(RLIMIT_STACK, MEGABYTE / 2);
        let local = 0u8;
        let here = &raw const local as usize;
        // SAFETY: stack that nobody has used yet.
        let touch = |depth: usize| unsafe { ((here - depth) as *mut u8).write_volatile(1) };
        touch(300 << 10);
        println!("not too deep");
        touch(600 << 10);
        println!("too deep");
    });
    in_child("locked", || {
        limit(RLIMIT_MEMLOCK, 4 * PAGE_SIZE);
        call(__NR_setresuid, [1000, 1000, 1000]).or_fail("setresuid");
        try_map(HERE, MEGABYTE, RW, MAP_PRIVATE).or_fail("mmap");
        println!("four: {:?}", call(__NR_mlock, [HERE, 4 * PAGE_SIZE]));
        println!(
            "one more to lock: {:?}",
            call(__NR_mlock, [HERE + 8 * PAGE_SIZE, PAGE_SIZE])
        );
        println!(
            "all to lock: {:?}",
            call(__NR_mlockall, [MCL_CURRENT as usize])
        );
    });
}
