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
use user::linux::{
    __NR_clone, __NR_getppid, __NR_wait4, PROT_NONE, PROT_READ, PROT_WRITE, SA_SIGINFO, SIGCHLD,
    SIGSEGV,
};
use user::memory::{self, PAGE_SIZE, Pages};
use user::process;
use user::signal::{self, Action, Context, Info};
use user::{Args, OrFail, println, syscall};

user::program!(main, "usage: cost [ROUNDS]   (default: 101)");

const MOST_ROUNDS: usize = 512;
/// Pages of mmap, munmap and mprotect.
const PAGES: usize = 64;
/// Pages of a MiB.
const MIB: usize = (1 << 20) / PAGE_SIZE;
/// Rounds of what takes millions of instructions on Linux, at most.
const FEW_ROUNDS: usize = 9;

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
    heap(&bench);
    signals(&bench);
    let bench = Bench {
        rounds: bench.rounds.min(FEW_ROUNDS),
        ..bench
    };
    large(&bench);
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

fn heap(bench: &Bench) {
    // SAFETY: nothing is given back.
    let brk = |end| unsafe { memory::brk(end) }.or_fail("brk");
    let mut first = [0; MOST_ROUNDS];
    // From a page's start on.
    let mut end = brk(brk(0).next_multiple_of(PAGE_SIZE));
    let grow = bench.median(|round| {
        let start = counter();
        let new = brk(end + PAGE_SIZE);
        let grown = counter();
        // SAFETY: brk has mapped this page.
        unsafe { (end as *mut u64).write_volatile(1) };
        first[round] = counter() - grown;
        end = new;
        grown - start
    });
    println!("brk growth by a page {grow}");
    println!("first touch of it {}", bench.median(|round| first[round]));
}

/// Goes on behind the access. The word in the page above tells when this was entered: a static one
/// would be a writable segment, and dearer to fork.
extern "C" fn skip(_: u32, info: &mut Info, context: &mut Context) {
    let entered = counter();
    // SAFETY: `signals` has mapped that page.
    unsafe {
        (info.first as *mut u64)
            .byte_add(PAGE_SIZE)
            .write_volatile(entered)
    };
    context.pc += 4;
}

fn signals(bench: &Bench) {
    let before = signal::set_action(SIGSEGV, &Action::call(skip, SA_SIGINFO)).or_fail("sigaction");
    let pages = Pages::map(2).or_fail("mmap");
    pages.part(0, 1).protect(PROT_NONE).or_fail("mprotect");
    pages.write(1, 0);
    let mut back = [0; MOST_ROUNDS];
    let there = bench.median(|round| {
        let start = counter();
        pages.write(0, 1);
        back[round] = counter() - start;
        pages.read(1) - start
    });
    println!("SIGSEGV to a handler {there}");
    println!("the same and back {}", bench.median(|round| back[round]));
    pages.unmap().or_fail("munmap");
    signal::set_action(SIGSEGV, &before).or_fail("sigaction");
}

/// fork, and how the parent waits, with nothing around the system calls.
#[inline(always)]
fn raw_fork() -> usize {
    // SAFETY: the child has its own memory.
    unsafe { syscall(__NR_clone, [SIGCHLD as usize, 0, 0, 0, 0]) }.or_fail("fork")
}

fn processes(bench: &Bench, args: &Args) {
    let (fork, whole) = forks(bench, || {});
    println!("fork in the parent {fork}");
    println!("fork + exit + wait {whole}");
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

/// Processes with much memory.
fn large(bench: &Bench) {
    for mib in [1, 16, 64, 256] {
        let pages = Pages::map(mib * MIB).or_fail("mmap");
        touch(pages);
        let (fork, whole) = forks(bench, || {});
        println!("fork with {mib} MiB touched {fork}, + exit + wait {whole}");
        if mib == 16 {
            let (_, whole) = forks(bench, || touch(pages.part(0, 4 * MIB)));
            println!("fork, 1024 pages written by the child, exit, wait {whole}");
        }
        pages.unmap().or_fail("munmap");
    }
    let ended = Pages::map_shared(1).or_fail("mmap");
    let exit = bench.median(|_| {
        let child = process::fork_child(|| {
            touch(Pages::map(64 * MIB).or_fail("mmap"));
            ended.write(0, counter());
            0
        });
        process::expect_success(child.or_fail("fork"));
        counter() - ended.read(0)
    });
    println!("exit with 64 MiB touched, to wait {exit}");
    ended.unmap().or_fail("munmap");
}

/// What a fork costs the parent, and it with all until the child, which does something, is waited for.
fn forks(bench: &Bench, child_does: impl Fn()) -> (u64, u64) {
    let mut whole = [0; MOST_ROUNDS];
    let fork = bench.median(|round| {
        let start = counter();
        let child = raw_fork();
        if child == 0 {
            child_does();
            process::exit(0);
        }
        let forked = counter();
        // SAFETY: no status is wanted.
        unsafe { syscall(__NR_wait4, [child, 0, 0, 0]) }.or_fail("wait4");
        whole[round] = counter() - start;
        forked - start
    });
    (fork, bench.median(|round| whole[round]))
}
