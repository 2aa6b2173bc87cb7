//! Processes that do everything at once, on all CPUs: fork trees, threads, copy-on-write storms, pipes,
//! mappings that come, change and go, and ends of every kind, in an order that the seed decides.
//!
//! Every page of a process holds a word that names who wrote it and when: a process checks what it
//! inherited when it starts, what it wrote before it ends, and that each child ended as it was told
//! to. What is counted in a shared page must add up in the end.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use user::file::{self, Pipe};
use user::linux::{PROT_READ, PROT_WRITE, SIGILL, SIGSEGV};
use user::memory::{Pages, WORDS};
use user::process::{self, Pid, Status};
use user::{Args, OrFail, Rng, check, println, time};

mod crew;

user::program!(
    main,
    "usage: stress PROCESSES ROUNDS SEED\n\nPROCESSES families at a time, each of which goes through ROUNDS rounds. With an s, as in 600s, it\nis so many seconds instead."
);

/// Pages that a family writes: two last-level tables, so that some are shared and some copied.
const PAGES: usize = 600;
/// Generations below the first of a family.
const DEPTH: usize = 2;

/// What is counted by all processes together.
#[derive(Clone, Copy)]
struct Totals {
    started: &'static AtomicU64,
    ended: &'static AtomicU64,
    checked: &'static AtomicU64,
}

fn main(args: Args) {
    let [families, rounds, seed] = *args.words() else {
        args.usage()
    };
    let families: usize = args.number(families);
    let until = match rounds.strip_suffix('s') {
        Some(seconds) => {
            let seconds: u64 = args.number(seconds);
            Until::Time(now() + seconds * 1_000_000_000)
        }
        None => Until::Round(args.number(rounds)),
    };
    let seed: u64 = args.number(seed);
    if families == 0 || families > 64 {
        args.usage();
    }
    let page = Pages::map_shared(1).or_fail("mapping a shared page");
    let totals = Totals {
        started: page.atomic(0, 0),
        ended: page.atomic(0, 8),
        checked: page.atomic(0, 16),
    };
    let mut children = [0; 64];
    for (number, child) in children[..families].iter_mut().enumerate() {
        let start = || family(seed ^ (number as u64) << 32, until, totals);
        *child = process::fork_child(start).or_fail("fork");
    }
    for child in &children[..families] {
        process::expect_success(*child);
    }
    let (started, ended) = (totals.started.load(Relaxed), totals.ended.load(Relaxed));
    check!(
        started == ended,
        "{started} processes started, {ended} ended"
    );
    println!(
        "stress: {families} families, {started} descendants, {} words checked: contents and ends are right",
        totals.checked.load(Relaxed)
    );
}

/// When it is enough.
#[derive(Clone, Copy)]
enum Until {
    /// After so many rounds.
    Round(u64),
    /// At a time, in nanoseconds since boot.
    Time(u64),
}

fn now() -> u64 {
    time::now().or_fail("clock_gettime")
}

/// The first of a family: it has all pages, and starts over in each round.
fn family(seed: u64, until: Until, totals: Totals) -> i32 {
    let pages = Pages::map(PAGES).or_fail("mapping the pages");
    let mut member = Member {
        rng: Rng::with_seed(seed),
        pages,
        written: [0; PAGES],
        totals,
    };
    let mut round = 0;
    while match until {
        Until::Round(last) => round < last,
        Until::Time(end) => now() < end,
    } {
        member.live(DEPTH);
        round += 1;
    }
    member.check_all();
    0
}

/// A process, and what its pages must hold.
struct Member {
    rng: Rng,
    pages: Pages,
    /// The word that was written to each page last; 0: none.
    written: [u64; PAGES],
    totals: Totals,
}

impl Member {
    fn live(&mut self, depth: usize) {
        for _ in 0..self.rng.usize(1..=4) {
            match self.rng.u32(..9) {
                0 | 1 => self.storm(),
                2 => self.talk(),
                3 => self.churn(),
                4 => process::sched_yield(),
                8 => crew::run(&mut self.rng, self.totals),
                5 if depth > 0 => self.abandon(),
                _ if depth > 0 => self.fork_and_race(depth - 1),
                _ => self.check_some(),
            }
        }
    }

    /// Writes many pages, which separates them from whoever else has them.
    fn storm(&mut self) {
        let first = self.rng.usize(..PAGES);
        for page in first..(first + self.rng.usize(1..=200)).min(PAGES) {
            self.write(page);
        }
    }

    fn write(&mut self, page: usize) {
        let word = self.rng.u64(1..);
        self.pages.write_word(page, word as usize % WORDS, word);
        // What it held before in that place is someone's business no more.
        let last = self.written[page] as usize % WORDS;
        if self.written[page] != 0 && last != word as usize % WORDS {
            self.pages.write_word(page, last, 0);
        }
        self.written[page] = word;
    }

    fn check_page(&self, page: usize) {
        let word = self.written[page];
        let found = self.pages.read_word(page, word as usize % WORDS);
        check!(
            found == word,
            "pid {}: page {page} holds {found:#x}, not {word:#x}",
            process::getpid()
        );
        self.totals.checked.fetch_add(1, Relaxed);
    }

    fn check_some(&mut self) {
        for _ in 0..50 {
            let page = self.rng.usize(..PAGES);
            self.check_page(page);
        }
    }

    fn check_all(&self) {
        (0..PAGES).for_each(|page| self.check_page(page));
    }

    /// A child that goes its own way, while this process writes the pages that they share.
    fn fork_and_race(&mut self, depth: usize) {
        let ending = self.rng.u32(..4);
        let code = self.rng.i32(0..100);
        let seed = self.rng.u64(..);
        self.totals.started.fetch_add(1, Relaxed);
        let child = process::fork_child(|| {
            self.rng = Rng::with_seed(seed);
            self.check_all();
            self.live(depth);
            self.check_all();
            self.totals.ended.fetch_add(1, Relaxed);
            match ending {
                0 => self.crash(),
                1 => illegal(),
                _ => code,
            }
        });
        let child = child.or_fail("fork");
        self.storm();
        self.check_some();
        let expected = match ending {
            0 => Status::Killed(SIGSEGV),
            1 => Status::Killed(SIGILL),
            _ => Status::Exited(code),
        };
        process::expect(child, expected);
        self.check_all();
    }

    /// Writes where it may only read.
    fn crash(&self) -> ! {
        let page = Pages::map(1).or_fail("mmap");
        page.protect(PROT_READ).or_fail("mprotect");
        page.write(0, 1);
        process::exit(0)
    }

    /// A child that `/init` inherits: nobody waits for the grandchild but through a pipe.
    fn abandon(&mut self) {
        let Pipe { reader, writer } = file::pipe2(0).or_fail("pipe2");
        self.totals.started.fetch_add(2, Relaxed);
        let child = process::fork_child(|| {
            let grandchild = process::fork_child(|| {
                self.check_some();
                self.totals.ended.fetch_add(1, Relaxed);
                file::write_all(writer, &[1]).or_fail("write");
                0
            });
            grandchild.or_fail("fork");
            self.totals.ended.fetch_add(1, Relaxed);
            0
        });
        file::close(writer).or_fail("close");
        process::expect_success(child.or_fail("fork"));
        let mut byte = [0; 2];
        let mut heard = 0;
        loop {
            match file::read(reader, &mut byte).or_fail("read") {
                0 => break,
                count => heard += count,
            }
        }
        check!(heard == 1, "{heard} bytes from a grandchild");
        file::close(reader).or_fail("close");
    }

    /// A child that sends back what it was told, through pipes of which one fills up.
    fn talk(&mut self) {
        const LEN: usize = 3000;
        let (there, back) = (
            file::pipe2(0).or_fail("pipe2"),
            file::pipe2(0).or_fail("pipe2"),
        );
        self.totals.started.fetch_add(1, Relaxed);
        let times = self.rng.usize(1..=40);
        let child: Pid = process::fork_child(|| {
            file::close(there.writer).or_fail("close");
            file::close(back.reader).or_fail("close");
            let mut bytes = [0; LEN];
            loop {
                match file::read(there.reader, &mut bytes).or_fail("read") {
                    0 => break,
                    count => file::write_all(back.writer, &bytes[..count]).or_fail("write"),
                }
            }
            self.totals.ended.fetch_add(1, Relaxed);
            0
        })
        .or_fail("fork");
        file::close(there.reader).or_fail("close");
        file::close(back.writer).or_fail("close");
        for _ in 0..times {
            let fill = self.rng.u8(..);
            let mut bytes = [fill; LEN];
            file::write_all(there.writer, &bytes).or_fail("write");
            let mut heard = 0;
            while heard < LEN {
                bytes[heard..].fill(!fill);
                let count = file::read(back.reader, &mut bytes[heard..]).or_fail("read");
                check!(count > 0, "the pipe ended after {heard} bytes");
                heard += count;
            }
            check!(
                bytes.iter().all(|byte| *byte == fill),
                "other bytes came back"
            );
        }
        file::close(there.writer).or_fail("close");
        file::close(back.reader).or_fail("close");
        process::expect_success(child);
    }

    /// Mappings that come, change their protection and go.
    fn churn(&mut self) {
        for _ in 0..self.rng.usize(1..=8) {
            let count = self.rng.usize(1..=80);
            let pages = Pages::map(count).or_fail("mmap");
            for page in 0..count {
                check!(pages.read(page) == 0, "a new page is not empty");
                pages.write(page, page as u64 + 1);
            }
            let half = pages.part(0, count / 2 + 1);
            half.protect(PROT_READ).or_fail("mprotect");
            for page in 0..count {
                check!(
                    pages.read(page) == page as u64 + 1,
                    "a protected page changed"
                );
            }
            half.protect(PROT_READ | PROT_WRITE).or_fail("mprotect");
            pages.write(0, 7);
            half.unmap().or_fail("munmap");
            let rest = count - (count / 2 + 1);
            if rest > 0 {
                pages.part(count / 2 + 1, rest).unmap().or_fail("munmap");
            }
        }
    }
}

/// Ends by an instruction that does not exist.
fn illegal() -> ! {
    // SAFETY: it ends the process.
    unsafe { core::arch::asm!("udf #0", options(noreturn)) }
}
