//! Threads and the memory that they share: faults at the same pages at once, and forks meanwhile.

use super::*;

/// All touch the same pages, fresh ones and such as were shared by a fork, at once.
pub fn faults() {
    const THREADS: usize = 4;
    const PAGES: usize = 300;
    const ROUNDS: u32 = 3;
    let (pages, page) = (Pages::map(PAGES).or_fail("mmap"), words());
    let turn = word(page, 0);
    let done = word(page, 1);
    let threads: [Thread; THREADS] = core::array::from_fn(|_| {
        spawn(move || {
            for round in 1..=ROUNDS {
                until(|| turn.load(SeqCst) >= round);
                for at in 0..PAGES {
                    pages.atomic(at, 0).fetch_add(1, SeqCst);
                }
                done.fetch_add(1, SeqCst);
            }
        })
    });
    let mut wrong = 0;
    for round in 1..=ROUNDS {
        // In the child nobody writes: it keeps what was there before the round.
        let child = process::fork_child(|| {
            let before = u64::from(round - 1) * THREADS as u64;
            until(|| done.load(SeqCst) == round * THREADS as u32);
            let same = (0..PAGES).all(|at| pages.read(at) == before);
            i32::from(!same)
        });
        turn.store(round, SeqCst);
        wrong += process::wait(child.or_fail("fork")).or_fail("wait4").code();
    }
    for thread in threads {
        thread.join().or_fail("munmap");
    }
    let sum = (0..PAGES).map(|at| pages.read(at)).sum::<u64>();
    println!(
        "faults: {} missing, {wrong} children saw them",
        (THREADS * PAGES) as u64 * u64::from(ROUNDS) - sum
    );
}

/// While threads write pages in turn, forks see all of it up to a moment, and nothing after it.
pub fn snapshots() {
    const WRITERS: usize = 3;
    const PAGES: usize = 40;
    const FORKS: usize = 25;
    let page = words();
    let stop = word(page, 0);
    let pages = [(); WRITERS].map(|()| Pages::map(PAGES).or_fail("mmap"));
    let threads = pages.map(|pages| {
        spawn(move || {
            let mut round = 0;
            while stop.load(SeqCst) == 0 {
                round += 1;
                for at in 0..PAGES {
                    pages.atomic(at, at).store(round, SeqCst);
                }
            }
        })
    });
    until(|| {
        pages
            .iter()
            .all(|pages| pages.atomic(PAGES - 1, PAGES - 1).load(SeqCst) > 0)
    });
    let mut torn = 0;
    for _ in 0..FORKS {
        let code = status(|| {
            let whole = || {
                pages.iter().all(|pages| {
                    let words = (0..PAGES).map(|at| pages.read_word(at, at));
                    let (first, last) =
                        (pages.read_word(0, 0), pages.read_word(PAGES - 1, PAGES - 1));
                    words.is_sorted_by(|a, b| a >= b) && first - last <= 1
                })
            };
            let before = pages.map(|pages| pages.read(0));
            let first = whole();
            process::sched_yield();
            let same = pages.map(|pages| pages.read(0)) == before;
            i32::from(!(first && same && whole()))
        });
        torn += u32::from(code != 0);
    }
    stop.store(1, SeqCst);
    for thread in threads {
        thread.join().or_fail("munmap");
    }
    println!("snapshots: {torn} torn");
}

/// Dirty COW (CVE-2016-5195): the kernel writes to a private page of a file for one thread while
/// another drops it again and again. Whatever the two meet, the write goes to a copy.
pub fn dirty_cow() {
    const ROUNDS: u64 = 1000;
    let file = file::open(c"/proc/self/exe", O_RDONLY).or_fail("open");
    let map = || Pages::map_file(file, 1).or_fail("mmap");
    let (seen, own) = (map(), map());
    own.protect(PROT_READ | PROT_WRITE).or_fail("mprotect");
    let before = seen.read(0);
    let page = words();
    let stop = word(page, 0);
    let dropper = spawn(move || {
        while stop.load(SeqCst) == 0 {
            let drop = [
                own.address(0),
                own.address(1) - own.address(0),
                MADV_DONTNEED as usize,
            ];
            call(__NR_madvise, drop).or_fail("madvise");
        }
    });
    let pipe = file::pipe2(0).or_fail("pipe2");
    let mut reached = 0;
    for round in 1..=ROUNDS {
        file::write_all(pipe.writer, &round.to_ne_bytes()).or_fail("write");
        let into = [pipe.reader as usize, own.address(0), size_of_val(&round)];
        call(__NR_read, into).or_fail("read");
        reached += u32::from(seen.read(0) != before);
    }
    stop.store(1, SeqCst);
    dropper.join().or_fail("munmap");
    println!("dirty cow: {reached} writes reached the file");
}

/// A child has the thread that forked, and no other.
pub fn child_is_alone() {
    let page = words();
    let other = spawn(move || {
        while word(page, 0).load(SeqCst) == 0 {
            word(page, 1).fetch_add(1, SeqCst);
        }
    });
    let forker = spawn(move || {
        let code = status(|| {
            let first = thread::gettid() == process::getpid();
            (count() == 1 && first) as i32
        });
        word(page, 2).store(code, SeqCst);
    });
    forker.join().or_fail("munmap");
    // What is left of it for a moment counts, too.
    until(|| count() == 2);
    println!("threads: {}", count());
    word(page, 0).store(1, SeqCst);
    other.join().or_fail("munmap");
    println!(
        "in the child: one is {}",
        word(page, 2).load(SeqCst) == 1 << 8
    );
}
