//! Processes with threads: all write, map and fork at once, and end in the middle of it.

use super::Totals;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use user::linux::{PROT_READ, PROT_WRITE, SIGILL, SIGKILL, SIGUSR1};
use user::memory::Pages;
use user::process::{self, Status};
use user::signal::{self, Action, Context, Info};
use user::thread::{self, Mutex, Thread};
use user::{OrFail, Rng, Strings, check};

/// Pages that each thread writes.
const PAGES: usize = 48;
/// Threads of a process at most.
const MOST: usize = 4;

/// What the threads of a process have in common. Plain data: a thread has a copy.
#[derive(Clone, Copy)]
struct Crew {
    /// Lock, count under the lock, "go on", signals that were handled.
    common: Pages,
    /// For all, to meet in faults.
    meeting: Pages,
    totals: Totals,
}

impl Crew {
    fn word(self, index: usize) -> &'static AtomicU32 {
        // SAFETY: the first half of a word of eight bytes that nobody uses as such.
        unsafe { AtomicU32::from_ptr(self.common.atomic(0, index).as_ptr().cast()) }
    }
}

/// Signals that threads of this process have handled.
static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handle(_: u32, _: &mut Info, _: &mut Context) {
    HANDLED.fetch_add(1, Relaxed);
}

/// A child with threads; it ends as `rng` says, and as it should.
pub fn run(rng: &mut Rng, totals: Totals) {
    let (seed, ending) = (rng.u64(..), rng.u32(..6));
    totals.started.fetch_add(1, Relaxed);
    let child = process::fork_child(|| crew(seed, ending, totals)).or_fail("fork");
    let expected = match ending {
        0 => Status::Exited(7),
        1 => Status::Killed(SIGILL),
        2 => Status::Killed(SIGKILL),
        _ => Status::Exited(0),
    };
    process::expect(child, expected);
}

/// The process; what it returns, or how it ends before that.
fn crew(seed: u64, ending: u32, totals: Totals) -> i32 {
    const PATH: &CStr = c"/bin/true";
    let mut rng = Rng::with_seed(seed);
    let crew = Crew {
        common: Pages::map(1).or_fail("mmap"),
        meeting: Pages::map(PAGES).or_fail("mmap"),
        totals,
    };
    HANDLED.store(0, Relaxed);
    signal::set_action(SIGUSR1, &Action::call(handle, user::linux::SA_RESTART))
        .or_fail("rt_sigaction");
    let count = rng.usize(1..=MOST);
    let threads: [Option<Thread>; MOST] = core::array::from_fn(|index| {
        let seed = rng.u64(..);
        let work = move || member(crew, Rng::with_seed(seed));
        (index < count).then(|| Thread::spawn(work).or_fail("clone"))
    });
    for _ in 0..rng.usize(1..=4) {
        // A thread may have ended.
        let target = &threads[rng.usize(..count)];
        let tid = target.as_ref().map_or(0, Thread::tid);
        let _ = thread::kill(process::getpid(), tid, SIGUSR1);
        process::sched_yield();
    }
    totals.ended.fetch_add(1, Relaxed);
    // In the middle of everything, from here or from another thread.
    match ending {
        0 => process::exit(7),
        1 => {
            Thread::spawn(|| super::illegal()).or_fail("clone");
            pause()
        }
        2 => {
            signal::kill(process::getpid(), SIGKILL).or_fail("kill");
            pause()
        }
        3 => {
            let execute = || {
                let error = process::exec(PATH, &[PATH], Strings::EMPTY);
                user::fail!("execve: {error:?}")
            };
            Thread::spawn(execute).or_fail("clone");
            pause()
        }
        _ => {}
    }
    for thread in threads.into_iter().flatten() {
        thread.join().or_fail("munmap");
    }
    let counted = crew.common.read_word(0, 1);
    let met = crew.meeting.read(0);
    check!(
        counted == met && counted > 0,
        "{counted} under the lock, {met} met"
    );
    // The last thread to end ends the process.
    if ending == 4 {
        Thread::spawn(|| ()).or_fail("clone");
        thread::exit(0)
    }
    0
}

fn pause() -> ! {
    loop {
        // Something ends it.
        let _ = user::time::sleep(1_000_000_000);
    }
}

/// A thread.
fn member(crew: Crew, mut rng: Rng) {
    let pages = Pages::map(PAGES).or_fail("mmap");
    let mut round = 0;
    for _ in 0..rng.usize(2..=6) {
        match rng.u32(..5) {
            0 => meet(crew),
            1 => {
                round += 1;
                sweep(pages, round);
            }
            2 => fork(crew, pages, round),
            3 => churn(&mut rng),
            _ => thread::wait_for(crew.word(2), 1),
        }
        check_all(crew, pages, round);
    }
    meet(crew);
    pages.unmap().or_fail("munmap");
}

/// Writes what others write as well, at the same time.
fn meet(crew: Crew) {
    for page in 0..PAGES {
        crew.meeting.atomic(page, 0).fetch_add(1, SeqCst);
    }
    Mutex(crew.word(0)).with(|| {
        let before = crew.common.read_word(0, 1);
        crew.common.write_word(0, 1, before + 1);
    });
}

/// Every page in turn.
fn sweep(pages: Pages, round: u64) {
    for page in 0..PAGES {
        pages.write_word(page, page, round);
    }
}

fn check_all(crew: Crew, pages: Pages, round: u64) {
    for page in 0..PAGES {
        let found = pages.read_word(page, page);
        check!(found == round, "page {page} holds {found}, not {round}");
    }
    crew.totals.checked.fetch_add(PAGES as u64, Relaxed);
}

/// A child that has what this thread has written, while the others write on.
fn fork(crew: Crew, pages: Pages, round: u64) {
    let child = process::fork_child(|| {
        check_all(crew, pages, round);
        let before = crew.meeting.read(PAGES - 1);
        sweep(pages, round + 1);
        check_all(crew, pages, round + 1);
        i32::from(crew.meeting.read(PAGES - 1) != before)
    });
    process::expect_success(child.or_fail("fork"));
}

/// Mappings that come, change and go while the other threads do the same.
fn churn(rng: &mut Rng) {
    for _ in 0..rng.usize(1..=4) {
        let count = rng.usize(1..=40);
        let pages = Pages::map(count).or_fail("mmap");
        for page in 0..count {
            check!(pages.read(page) == 0, "a new page is not empty");
            pages.write(page, page as u64 + 1);
        }
        pages.protect(PROT_READ).or_fail("mprotect");
        process::sched_yield();
        for page in 0..count {
            check!(pages.read(page) == page as u64 + 1, "a page changed");
        }
        pages.protect(PROT_READ | PROT_WRITE).or_fail("mprotect");
        pages.write(0, 9);
        pages.unmap().or_fail("munmap");
    }
}
