//! What system calls and page faults cost, in instructions.
//!
//! It counts with the virtual counter, so it needs a machine whose counter ticks once per
//! instruction: QEMU with `-icount shift=0,sleep=off` and a CPU with `cntfrq=1000000000`. Elsewhere
//! the numbers are ticks of the counter. Each is the median of ROUNDS rounds; the reading of the
//! counter is subtracted. The same file runs on Linux.
#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;
use user::file::{self, Pipe};
use user::linux::{__NR_clone, __NR_getppid, __NR_wait4, PROT_READ, PROT_WRITE, SIGCHLD};
use user::memory::Pages;
use user::process;
use user::{Args, OrFail, println, syscall};

user::program!(main, "usage: cost [ROUNDS]   (default: 101)");

const MOST_ROUNDS: usize = 512;
/// Pages of mmap, munmap and mprotect.
const PAGES: usize = 64;

/// The counter, read in order.
#[inline(always)]
fn counter() -> u64 {
    let count;
    // SAFETY: reads a register that EL0 may read.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack)) };
    count
}

struct Bench {
    rounds: usize,
    /// What two readings of the counter cost.
    empty: u64,
}

impl Bench {
    /// The median of what `one` measures.
    #[inline(always)]
    fn median(&self, mut one: impl FnMut(usize) -> u64) -> u64 {
        let mut samples = [0; MOST_ROUNDS];
        let samples = &mut samples[..self.rounds];
        for (round, sample) in samples.iter_mut().enumerate() {
            *sample = one(round).saturating_sub(self.empty);
        }
        samples.sort_unstable();
        samples[self.rounds / 2]
    }

    #[inline(always)]
    fn time(&self, mut f: impl FnMut()) -> u64 {
        self.median(|_| {
            let start = counter();
            f();
            counter() - start
        })
    }
}

fn main(args: Args) {
    let rounds = match *args.words() {
        [] => 101,
        [rounds] => args.number::<usize>(rounds).clamp(1, MOST_ROUNDS),
        _ => args.usage(),
    };
    let mut bench = Bench { rounds, empty: 0 };
    bench.empty = bench.time(|| {});
    println!("reading the counter {}", bench.empty);
    calls(&bench);
    pipes(&bench);
    faults(&bench);
    mappings(&bench);
    processes(&bench, &args);
}

fn calls(bench: &Bench) {
    let null = bench.time(|| {
        // SAFETY: touches no memory.
        let _ = black_box(unsafe { syscall(__NR_getppid, []) });
    });
    println!("null system call {null}");
    println!("sched_yield alone {}", bench.time(process::sched_yield));
    let stop = file::pipe2(file::O_NONBLOCK).or_fail("pipe2");
    let other = process::fork_child(|| {
        while file::read(stop.reader, &mut [0]).is_err() {
            for _ in 0..100 {
                process::sched_yield();
            }
        }
        0
    })
    .or_fail("fork");
    // Each round goes to the other process and back: two switches.
    let yields = bench.time(process::sched_yield) / 2;
    file::write_all(stop.writer, b"!").or_fail("stopping");
    process::expect_success(other);
    println!("sched_yield between two processes, each {yields}");
}

fn pipes(bench: &Bench) {
    let pipe = file::pipe2(0).or_fail("pipe2");
    let mut byte = [0u8];
    let own = bench.time(|| {
        let _ = black_box(file::write(pipe.writer, &byte));
        let _ = black_box(file::read(pipe.reader, &mut byte));
    });
    println!("pipe write + read {own}");
    let there = file::pipe2(0).or_fail("pipe2");
    let back = file::pipe2(0).or_fail("pipe2");
    let child = process::fork_child(|| {
        let mut byte = [0u8];
        close(there.writer);
        while file::read(there.reader, &mut byte) == Ok(1) {
            let _ = file::write(back.writer, &byte);
        }
        0
    })
    .or_fail("fork");
    let round = bench.time(|| {
        let _ = black_box(file::write(there.writer, &byte));
        let _ = black_box(file::read(back.reader, &mut byte));
    });
    println!("pipe round trip between two processes {round}");
    for Pipe { reader, writer } in [pipe, there, back] {
        close(reader);
        close(writer);
    }
    process::expect_success(child);
}

fn close(fd: file::Fd) {
    file::close(fd).or_fail("closing");
}

fn faults(bench: &Bench) {
    // The first of them pay for translation tables: the median does not.
    let pages = Pages::map(3 * bench.rounds).or_fail("mmap");
    let write = |page: usize| {
        let start = counter();
        pages.write(page, 1);
        counter() - start
    };
    println!("zero-fill write fault {}", bench.median(write));
    let read = bench.median(|round| {
        let start = counter();
        let _ = black_box(pages.read(bench.rounds + round));
        counter() - start
    });
    println!("read fault of the zero page {read}");
    let after = bench.median(|round| write(bench.rounds + round));
    println!("write after that {after}");
    let hold = file::pipe2(0).or_fail("pipe2");
    let child = process::fork_child(|| {
        close(hold.writer);
        let _ = file::read(hold.reader, &mut [0]);
        0
    })
    .or_fail("fork");
    println!("COW copy {}", bench.median(write));
    close(hold.writer);
    process::expect_success(child);
    close(hold.reader);
    println!(
        "COW reuse {}",
        bench.median(|round| write(bench.rounds + round))
    );
    pages.unmap().or_fail("munmap");
}

fn mappings(bench: &Bench) {
    let mut unmapping = [0; MOST_ROUNDS];
    let mut whole = [0; MOST_ROUNDS];
    let map = bench.median(|round| {
        let start = counter();
        let pages = Pages::map(PAGES).or_fail("mmap");
        let mapped = counter();
        touch(pages);
        let touched = counter();
        pages.unmap().or_fail("munmap");
        let end = counter();
        unmapping[round] = end - touched;
        whole[round] = end - start;
        mapped - start
    });
    println!("mmap of {PAGES} pages {map}");
    println!(
        "munmap of {PAGES} touched pages {}",
        bench.median(|round| unmapping[round])
    );
    println!(
        "mmap, touch, munmap of {PAGES} pages {}",
        bench.median(|round| whole[round])
    );
    let pages = Pages::map(PAGES).or_fail("mmap");
    let mut loosen = [0; MOST_ROUNDS];
    let mut writes = [0; MOST_ROUNDS];
    let tighten = bench.median(|round| {
        touch(pages);
        let start = counter();
        pages.protect(PROT_READ).or_fail("mprotect");
        let tight = counter();
        pages.protect(PROT_READ | PROT_WRITE).or_fail("mprotect");
        let loose = counter();
        touch(pages);
        loosen[round] = loose - tight;
        writes[round] = counter() - loose;
        tight - start
    });
    println!("mprotect of {PAGES} pages, read-only {tighten}");
    println!(
        "mprotect of {PAGES} pages, writable {}",
        bench.median(|round| loosen[round])
    );
    println!(
        "{PAGES} writes after that {}",
        bench.median(|round| writes[round])
    );
    pages.unmap().or_fail("munmap");
}

#[inline(never)]
fn touch(pages: Pages) {
    for page in 0..pages.count() {
        pages.write(page, 1);
    }
}

/// fork, and how the parent waits, with nothing around the system calls.
#[inline(always)]
fn raw_fork() -> usize {
    // SAFETY: the child has its own memory.
    unsafe { syscall(__NR_clone, [SIGCHLD as usize, 0, 0, 0, 0]) }.or_fail("fork")
}

fn processes(bench: &Bench, args: &Args) {
    let mut whole = [0; MOST_ROUNDS];
    let fork = bench.median(|round| {
        let start = counter();
        let child = raw_fork();
        if child == 0 {
            process::exit(0);
        }
        let forked = counter();
        // SAFETY: no status is wanted.
        unsafe { syscall(__NR_wait4, [child, 0, 0, 0]) }.or_fail("wait4");
        whole[round] = counter() - start;
        forked - start
    });
    println!("fork in the parent {fork}");
    println!("fork + exit + wait {}", bench.median(|round| whole[round]));
    let exec = bench.time(|| {
        let child = process::fork_child(|| {
            process::exec(c"/bin/true", &[c"true"], args.envp);
            127
        });
        process::expect_success(child.or_fail("fork"));
    });
    println!("fork + exec + wait {exec}");
    let exec = bench.time(|| {
        let child = process::vfork(|| {
            process::exec(c"/bin/true", &[c"true"], args.envp);
            127
        });
        process::expect_success(child.or_fail("vfork"));
    });
    println!("vfork + exec + wait {exec}");
}
