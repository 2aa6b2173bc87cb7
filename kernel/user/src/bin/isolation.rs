//! Forks trees of processes that write patterns to many pages in random order, and checks that each
//! sees only its own.
//!
//! The oracle needs no second copy of the pages, which a broken kernel could break in the same way.
//! A process fills all pages in rounds, each in an order and with words computed from the round's
//! seed; a child knows how far its parent had come when it forked. So every process can compute
//! what each word must be from a few numbers. The forks, writes and checks are counted in a page
//! that all processes share.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use user::memory::{Pages, WORDS};
use user::process::{self, Pid};
use user::{Args, OrFail, Rng, check, fail, println};

user::program!(
    main,
    "usage: isolation FORKS PAGES SEED\n\nForks FORKS processes, several alive at once, each of which writes PAGES pages."
);

/// The most children that a process has at one time.
const CHILDREN: usize = 4;
/// The most processes below a child, so that trees stay small.
const DESCENDANTS: usize = 6;

fn main(args: Args) {
    let words = args.words();
    let [forks, pages, seed] = *words else {
        args.usage()
    };
    let (forks, pages, seed) = (args.number(forks), args.number(pages), args.number(seed));
    if pages == 0 {
        args.usage();
    }
    let totals = Totals::new();
    let pages = Pages::map(pages).or_fail("mapping the pages");
    for page in 0..pages.count() {
        for word in 0..WORDS {
            pages.write_word(page, word, pattern(seed, page, word));
        }
    }
    process_tree(pages, Past::new(seed, pages.count()), seed, forks, totals);

    let counted = totals.forks.load(Relaxed);
    check!(
        counted == forks as u64,
        "{counted} processes ran, not {forks}"
    );
    println!(
        "isolation: {counted} forks, {} pages written, {} words checked: each process saw only its own writes",
        totals.writes.load(Relaxed),
        totals.checks.load(Relaxed)
    );
}

/// The life of one process: rounds of writes, with forks in the middle, until `forks` processes
/// have been forked here and below.
fn process_tree(pages: Pages, mut past: Past, seed: u64, forks: usize, totals: Totals) {
    let mut rng = Rng::with_seed(seed);
    let mut left = forks;
    check_pages(pages, &past, &mut rng, totals);
    loop {
        past.new_round(rng.u64(..));
        let mut children = [None; CHILDREN];
        let wanted = left.min(rng.usize(1..=CHILDREN));
        for slot in &mut children[..wanted] {
            write_pages(pages, &mut past, rng.usize(..=pages.count()), totals);
            left -= 1;
            let below = left.min(rng.usize(..=DESCENDANTS));
            left -= below;
            *slot = Some(fork_child(pages, past, rng.u64(..), below, totals));
            if left == 0 {
                break;
            }
        }
        write_pages(pages, &mut past, pages.count(), totals);
        check_pages(pages, &past, &mut rng, totals);
        for child in children.into_iter().flatten() {
            process::expect_success(child);
        }
        check_pages(pages, &past, &mut rng, totals);
        if left == 0 {
            return;
        }
    }
}

fn fork_child(pages: Pages, past: Past, seed: u64, forks: usize, totals: Totals) -> Pid {
    let child = process::fork_child(|| {
        totals.forks.fetch_add(1, Relaxed);
        process_tree(pages, past, seed, forks, totals);
        0
    });
    child.or_fail("fork")
}

/// Writes pages until the current round has written `target`.
#[inline(never)]
fn write_pages(pages: Pages, past: &mut Past, target: usize, totals: Totals) {
    let round = past.current();
    let first = round.written;
    while round.written < target {
        let page = round.order.page(round.written);
        for word in written_words(page) {
            pages.write_word(page, word, pattern(round.seed, page, word));
        }
        round.written += 1;
    }
    totals
        .writes
        .fetch_add((round.written - first) as u64, Relaxed);
}

/// Checks the written words of every page, in random order, and all words of one.
#[inline(never)]
fn check_pages(pages: Pages, past: &Past, rng: &mut Rng, totals: Totals) {
    let order = Order::new(rng.u64(..), pages.count());
    let whole = rng.usize(..pages.count());
    let mut checks = 0;
    let mut check = |page, word, seed| {
        let (seen, expected) = (pages.read_word(page, word), pattern(seed, page, word));
        if seen != expected {
            fail!(
                "word {word} of page {page} at {:#x} has {seen:#x}, not {expected:#x}",
                pages.address(page)
            );
        }
        checks += 1;
    };
    for step in 0..pages.count() {
        let page = order.page(step);
        let written = written_words(page);
        for word in written {
            check(page, word, past.seed(page));
        }
        if page == whole {
            for word in (0..WORDS).filter(|word| !written.contains(word)) {
                check(page, word, past.start);
            }
        }
    }
    totals.checks.fetch_add(checks, Relaxed);
}

/// What was written to the pages of a process, by it and its ancestors, as far as it can still be
/// seen.
#[derive(Clone, Copy)]
struct Past {
    /// The seed of everything before the first round.
    start: u64,
    /// The rounds, the oldest first: each hides part of those before it.
    rounds: [Round; MOST_ROUNDS],
    count: usize,
}

/// A round of writes to all pages, perhaps not finished.
#[derive(Clone, Copy)]
struct Round {
    seed: u64,
    order: Order,
    /// How many pages it has written.
    written: usize,
}

/// A process starts no round before it has finished the last, so there is one for each ancestor at
/// most.
const MOST_ROUNDS: usize = DESCENDANTS + 3;

impl Past {
    fn new(seed: u64, pages: usize) -> Self {
        let round = Round {
            seed,
            order: Order::new(seed, pages),
            written: pages,
        };
        Self {
            start: seed,
            rounds: [round; MOST_ROUNDS],
            count: 1,
        }
    }

    fn current(&mut self) -> &mut Round {
        &mut self.rounds[self.count - 1]
    }

    /// Starts a round. A finished one hides all before it, which can be forgotten.
    fn new_round(&mut self, seed: u64) {
        let last = *self.current();
        let pages = last.order.count;
        if last.written == pages {
            self.rounds[0] = last;
            self.count = 1;
        }
        self.rounds[self.count] = Round {
            seed,
            order: Order::new(seed, pages),
            written: 0,
        };
        self.count += 1;
    }

    /// The seed of the last write to a page.
    fn seed(&self, page: usize) -> u64 {
        let rounds = self.rounds[..self.count].iter().rev();
        let mut seeds = rounds
            .filter(|round| round.order.step(page) < round.written)
            .map(|round| round.seed);
        seeds.next().unwrap_or(self.start)
    }
}

/// The words of a page that are written: the first, the last, and one in between.
fn written_words(page: usize) -> [usize; 3] {
    [0, 1 + page % (WORDS - 2), WORDS - 1]
}

/// The word that a process with this seed writes.
fn pattern(seed: u64, page: usize, word: usize) -> u64 {
    Rng::with_seed(seed ^ ((page as u64) << 16) ^ word as u64).u64(..)
}

/// An order of the pages: the step-th is (step * stride + start) modulo their number, the stride
/// coprime with it.
#[derive(Clone, Copy)]
struct Order {
    stride: usize,
    inverse: usize,
    start: usize,
    count: usize,
}

impl Order {
    fn new(seed: u64, count: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        loop {
            let stride = rng.usize(1..=count);
            if let Some(inverse) = inverse(stride, count) {
                return Self {
                    stride,
                    inverse,
                    start: rng.usize(..count),
                    count,
                };
            }
        }
    }

    fn page(&self, step: usize) -> usize {
        (step * self.stride + self.start) % self.count
    }

    /// The step that has this page.
    fn step(&self, page: usize) -> usize {
        (page + self.count - self.start) * self.inverse % self.count
    }
}

/// The number that gives 1 modulo `modulus` when multiplied with `value`, if they are coprime:
/// Euclid's algorithm.
fn inverse(value: usize, modulus: usize) -> Option<usize> {
    let (mut a, mut b) = (value as i64, modulus as i64);
    let (mut x, mut y) = (1, 0);
    while b != 0 {
        let quotient = a / b;
        (a, b) = (b, a - quotient * b);
        (x, y) = (y, x - quotient * y);
    }
    (a == 1).then(|| x.rem_euclid(modulus as i64) as usize)
}

/// Counters in a page that all processes share.
#[derive(Clone, Copy)]
struct Totals {
    forks: &'static AtomicU64,
    writes: &'static AtomicU64,
    checks: &'static AtomicU64,
}

impl Totals {
    fn new() -> Self {
        let page = Pages::map_shared(1).or_fail("mapping a shared page");
        Self {
            forks: page.atomic(0, 0),
            writes: page.atomic(0, 1),
            checks: page.atomic(0, 2),
        }
    }
}
