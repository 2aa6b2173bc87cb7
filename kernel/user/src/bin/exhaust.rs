//! Uses up the memory of the kernel itself, and then asks for more, in every way there is.
//!
//! A chain of processes fills pipes until the kernel says ENOMEM. At that edge, and again after each
//! of STEPS pages has been given back, every system call that needs memory is made: each may
//! succeed or fail with ENOMEM, EAGAIN or EMFILE, but nothing else, and the machine must live. A
//! process that cannot have a page of its own is killed (SIGKILL), which is right too.
//! With 0 STEPS the calls are made once, with memory for all: for comparison. HELPERS are more
//! processes that make all these calls at the edge, over and over: what one CPU has found to be
//! free, another one may take.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use user::file::{self, Pipe};
use user::linux::{
    __NR_dup, __NR_nanosleep, MAP_ANONYMOUS, MAP_PRIVATE, O_NONBLOCK, PROT_NONE, PROT_READ, SIGHUP,
    SIGKILL,
};
use user::memory::{Pages, mmap};
use user::process::{self, Status};
use user::{Args, Errno, OrFail, check, fail, println, syscall};

user::program!(main, "usage: exhaust STEPS [HELPERS]");

/// More descriptors than a process may have.
const DESCRIPTORS: usize = 1024;
/// What a pipe holds.
const PIPE: usize = 64 << 10;
/// Processes that fill pipes: more than any machine here has memory for.
const CHAIN: usize = 200;
/// Of processes that make the calls as well.
const MOST_HELPERS: usize = 16;
/// Left of a process's descriptors for what it tries at the edge.
const SPARE: usize = 16;

/// What is counted, in shared memory.
struct Counts {
    big: &'static AtomicU64,
    small: &'static AtomicU64,
    worked: &'static AtomicU64,
    refused: &'static AtomicU64,
    killed: &'static AtomicU64,
    reached: &'static AtomicU64,
    over: &'static AtomicU64,
}

impl Counts {
    fn tried<T>(&self, what: &str, result: user::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.worked.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(Errno::ENOMEM | Errno::EAGAIN | Errno::EMFILE) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(errno) => fail!("{what}: {errno}"),
        }
    }

    /// A child may be killed for want of a page.
    fn ended(&self, child: process::Pid) {
        match process::wait(child).or_fail("waiting") {
            Status::Exited(0) => {}
            Status::Killed(SIGKILL) => {
                self.killed.fetch_add(1, Ordering::Relaxed);
            }
            status => fail!("child {child} {status}"),
        }
    }
}

fn main(args: Args) {
    let words = args.words();
    let (steps, helpers) = match *words {
        [steps] => (args.number(steps), 0),
        [steps, helpers] => (args.number(steps), args.number(helpers)),
        _ => args.usage(),
    };
    let shared = Pages::map_shared(1).or_fail("mapping the counters");
    let counter = |word| shared.atomic(0, word);
    let counts = Counts {
        big: counter(0),
        small: counter(1),
        worked: counter(2),
        refused: counter(3),
        killed: counter(4),
        reached: counter(5),
        over: counter(6),
    };
    attempt_all(&args, &counts);
    check!(
        counts.refused.load(Ordering::Relaxed) + counts.killed.load(Ordering::Relaxed) == 0,
        "refused with memory for all"
    );
    if steps > 0 {
        // It starts when this process has written to all the pages that it still will.
        let start = file::pipe2(0).or_fail("making a pipe");
        let child = process::fork_child(|| {
            let read = file::read(start.reader, &mut [0]);
            check!(read == Ok(1), "no start: {read:?}");
            fill(&args, &counts, steps, CHAIN)
        })
        .or_fail("forking");
        let mut helping = [None; MOST_HELPERS];
        for helper in &mut helping[..helpers] {
            *helper = Some(process::fork_child(|| help(&args, &counts)).or_fail("forking"));
        }
        file::write_all(start.writer, b"!").or_fail("starting");
        counts.ended(child);
        counts.over.store(1, Ordering::Relaxed);
        for helper in helping.into_iter().flatten() {
            counts.ended(helper);
        }
        check!(
            counts.reached.load(Ordering::Relaxed) > 0,
            "the edge was never reached"
        );
        attempt_all(&args, &counts);
    }
    let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "exhaust: {} full and {} small pipes, {} calls worked, {} were refused, {} processes killed",
        value(counts.big),
        value(counts.small),
        value(counts.worked),
        value(counts.refused),
        value(counts.killed)
    );
}

/// Waits for the edge, and makes all calls there until it is over.
fn help(args: &Args, counts: &Counts) -> i32 {
    while counts.over.load(Ordering::Relaxed) == 0 {
        if counts.reached.load(Ordering::Relaxed) == 0 {
            process::sched_yield();
        } else {
            attempt_all(args, counts);
        }
    }
    0
}

/// Fills pipes until there is no more memory, or no more descriptors: then a child goes on.
fn fill(args: &Args, counts: &Counts, steps: usize, more: usize) -> i32 {
    // To give back at the edge.
    let pool = Pages::map(steps).or_fail("mapping pages");
    for page in 0..steps {
        pool.write(page, 1);
    }
    let mut pipes = [None; DESCRIPTORS / 2];
    let mut made = 0;
    let mut size = PIPE;
    while made < pipes.len() - SPARE {
        match full_pipe(size) {
            Ok(pipe) => {
                pipes[made] = Some(pipe);
                made += 1;
                if size == PIPE {
                    counts.big.fetch_add(1, Ordering::Relaxed);
                } else {
                    counts.small.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(Errno::EMFILE) => break,
            // Where no page fits, a small buffer may.
            Err(Errno::ENOMEM) if size > 1 => size /= 8,
            Err(Errno::ENOMEM) => {
                counts.reached.fetch_add(1, Ordering::Relaxed);
                for page in 0..steps {
                    // In a process of its own, in this one's memory: it may be killed.
                    let child = process::vfork(|| {
                        attempt_all(args, counts);
                        0
                    });
                    if let Some(child) = counts.tried("vfork", child) {
                        counts.ended(child);
                    }
                    pool.part(page, 1).unmap().or_fail("giving a page back");
                }
                return 0;
            }
            Err(errno) => fail!("filling pipe {made}: {errno}"),
        }
    }
    check!(more > 0, "no end of memory");
    while counts.reached.load(Ordering::Relaxed) == 0 {
        // The child closes what it inherits; the pipes are full as long as the parent has them.
        let child = counts.tried(
            "forking to go on",
            process::fork_child(|| {
                for pipe in pipes.into_iter().flatten() {
                    close(pipe);
                }
                pool.unmap().or_fail("unmapping pages");
                fill(args, counts, steps, more - 1)
            }),
        );
        if let Some(child) = child {
            counts.ended(child);
        }
        // A child that could not even begin, or died of want before the edge, gets a little more:
        // what was filled last, since the kernel's heap shrinks from its end.
        match pipes.iter_mut().rev().find_map(Option::take) {
            Some(pipe) => close(pipe),
            None => break,
        }
    }
    0
}

/// A pipe with `size` bytes in it.
fn full_pipe(size: usize) -> user::Result<Pipe> {
    static ZEROS: [u8; PIPE] = [0; PIPE];
    let pipe = file::pipe2(O_NONBLOCK)?;
    let mut rest = size;
    while rest > 0 {
        match file::write(pipe.writer, &ZEROS[..rest]) {
            Ok(written) => rest -= written,
            Err(errno) => {
                close(pipe);
                return Err(errno);
            }
        }
    }
    Ok(pipe)
}

fn close(pipe: Pipe) {
    file::close(pipe.reader).or_fail("closing the reader");
    file::close(pipe.writer).or_fail("closing the writer");
}

/// Makes each of the calls that need memory once.
fn attempt_all(args: &Args, counts: &Counts) {
    if let Some(fd) = counts.tried("open", file::open(c"/dev/null", file::O_RDONLY)) {
        // SAFETY: touches no memory.
        let copy = unsafe { syscall(__NR_dup, [fd as usize]) };
        if let Some(copy) = counts.tried("dup", copy) {
            file::close(copy as i32).or_fail("closing");
        }
        let high = counts.tried("dup3", file::dup3(fd, DESCRIPTORS as i32 - 1, 0));
        if let Some(high) = high {
            file::close(high).or_fail("closing");
        }
        file::close(fd).or_fail("closing");
    }
    if let Some(pipe) = counts.tried("pipe2", file::pipe2(O_NONBLOCK)) {
        counts.tried("write", file::write(pipe.writer, &[0; 5000]));
        close(pipe);
    }
    for (len, prot) in [(1, PROT_READ), (3, PROT_NONE), (100_000, PROT_READ)] {
        let pages = Pages::map_with(len, prot, MAP_PRIVATE | MAP_ANONYMOUS);
        if let Some(pages) = counts.tried("mmap", pages) {
            // Three mappings of one, and back.
            let part = pages.part(len / 2, len.div_ceil(3));
            counts.tried("mprotect", part.protect(PROT_READ | PROT_NONE));
            counts.tried("munmap of a part", part.unmap());
            counts.tried("munmap", pages.unmap());
        }
    }
    if let Some(fd) = counts.tried("open", file::open(args.executable(), file::O_RDONLY)) {
        // SAFETY: no address is asked for, so nothing that exists is replaced.
        let mapped = unsafe { mmap(0, 8192, PROT_READ, MAP_PRIVATE, fd, 0) };
        if let Some(start) = counts.tried("mmap of a file", mapped) {
            // SAFETY: nothing of ours lies there.
            counts.tried("munmap", unsafe { Pages::at(start, 2) }.unmap());
        }
        file::close(fd).or_fail("closing");
    }
    let time = [0u64, 1];
    // SAFETY: the kernel only reads the time.
    let slept = unsafe { syscall(__NR_nanosleep, [time.as_ptr() as usize, 0]) };
    counts.tried("nanosleep", slept);
    counts.tried("sigaction", process::ignore_signal(SIGHUP));
    let forked = process::fork_child(|| 0);
    if let Some(child) = counts.tried("fork", forked) {
        counts.ended(child);
    }
    let spawned = process::spawn(c"/bin/true", args.argv, args.envp);
    if let Some(child) = counts.tried("spawn", spawned) {
        counts.ended(child);
    }
}
