//! Clocks and timers.

use super::{COUNT, MILLISECOND, SECOND, call, pause, status};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
use user::linux::*;
use user::signal::{self, Action, Context, Info, set};
use user::{Errno, OrFail, Result, check, println, time};

static CODE: AtomicI32 = AtomicI32::new(0);

static VALUE: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_: u32, info: &mut Info, _: &mut Context) {
    COUNT.fetch_add(1, Relaxed);
    CODE.store(info.code, Relaxed);
    VALUE.store(info.second, Relaxed);
}

pub fn install(signal: u32) {
    signal::set_action(signal, &Action::call(note, SA_SIGINFO)).or_fail("rt_sigaction");
    COUNT.store(0, Relaxed);
}

/// Seconds and microseconds.
type Timeval = [u64; 2];

fn set_interval(which: u32, interval: Timeval, value: Timeval) -> Result<[Timeval; 2]> {
    let new = [interval, value];
    let mut old = [[0u64; 2]; 2];
    let arguments = [
        which as usize,
        new.as_ptr() as usize,
        old.as_mut_ptr() as usize,
    ];
    call(__NR_setitimer, arguments).map(|_| old)
}

/// Works until a handler has run `times` times.
fn work(times: u32) {
    while COUNT.load(Relaxed) < times {
        core::hint::spin_loop();
    }
}

pub fn interval_timers() {
    for (which, signal) in [
        (ITIMER_REAL, SIGALRM),
        (ITIMER_VIRTUAL, SIGVTALRM),
        (ITIMER_PROF, SIGPROF),
    ] {
        install(signal);
        set_interval(which, [0, 0], [0, 20_000]).or_fail("setitimer");
        work(1);
        println!("timer {which} rang");
        let after = set_interval(which, [0, 10_000], [0, 10_000]).or_fail("setitimer");
        println!("once: {after:?}");
        COUNT.store(0, Relaxed);
        work(3);
        let [interval, left] = set_interval(which, [0, 0], [0, 0]).or_fail("setitimer");
        println!("again: {interval:?}, something left: {}", left != [0, 0]);
        signal::set_action(signal, &Action::DEFAULT).or_fail("rt_sigaction");
    }
    println!(
        "not a time: {:?}",
        set_interval(0, [0, 0], [0, 1_000_000]).err()
    );
    println!("no such timer: {:?}", set_interval(3, [0, 0], [0, 0]).err());
    set_interval(0, [0, 0], [1000, 0]).or_fail("setitimer");
    println!(
        "a child has none: {:x}",
        status(|| i32::from(set_interval(0, [0, 0], [0, 0]) != Ok([[0; 2]; 2])))
    );
    let [_, left] = set_interval(0, [0, 0], [0, 0]).or_fail("setitimer");
    println!("its parent has: {}", left[0] > 900 && left[0] < 1001);
    println!(
        "nobody catches it: {:x}",
        status(|| {
            set_interval(0, [0, 0], [0, 1000]).or_fail("setitimer");
            pause()
        })
    );
}

fn create(clock: u32, signal: u32, notify: u32, value: u64) -> Result<i32> {
    // struct sigevent.
    let mut event = [0u64; 8];
    event[0] = value;
    event[1] = u64::from(signal) | u64::from(notify) << 32;
    let mut id = 0i32;
    let arguments = [
        clock as usize,
        event.as_ptr() as usize,
        (&raw mut id) as usize,
    ];
    call(__NR_timer_create, arguments).map(|_| id)
}

fn start(id: i32, flags: u32, interval: u64, value: u64) -> Result<usize> {
    let new = [
        interval / SECOND,
        interval % SECOND,
        value / SECOND,
        value % SECOND,
    ];
    call(
        __NR_timer_settime,
        [id as usize, flags as usize, new.as_ptr() as usize, 0],
    )
}

pub fn numbered_timers() {
    install(SIGUSR1);
    let id = create(CLOCK_MONOTONIC, SIGUSR1, SIGEV_SIGNAL, 0x77).or_fail("timer_create");
    start(id, 0, 0, MILLISECOND).or_fail("timer_settime");
    work(1);
    println!(
        "rang: code {}, value {:#x}",
        CODE.load(Relaxed),
        VALUE.load(Relaxed)
    );
    let now = time::now().or_fail("clock_gettime");
    start(id, TIMER_ABSTIME, 0, now + 2 * MILLISECOND).or_fail("timer_settime");
    work(2);
    println!(
        "in time: {}",
        time::now().or_fail("clock_gettime") >= now + 2 * MILLISECOND
    );
    start(id, TIMER_ABSTIME, 0, 1).or_fail("timer_settime");
    work(3);
    println!("a time that is past");
    signal::block(set(SIGUSR1)).or_fail("mask");
    start(id, 0, 2 * MILLISECOND, 2 * MILLISECOND).or_fail("timer_settime");
    let _ = time::sleep(30 * MILLISECOND);
    // Taken while it is blocked, so that no other comes before it is asked for what it missed.
    signal::wait(set(SIGUSR1), SECOND).or_fail("rt_sigtimedwait");
    let missed = call(__NR_timer_getoverrun, [id as usize]).or_fail("timer_getoverrun");
    println!("missed some: {}", missed >= 5);
    signal::unblock(set(SIGUSR1)).or_fail("mask");
    work(4);
    work(6);
    let mut left = [0u64; 4];
    call(
        __NR_timer_gettime,
        [id as usize, left.as_mut_ptr() as usize],
    )
    .or_fail("timer_gettime");
    println!("every {} ns, something left: {}", left[1], left[3] > 0);
    println!("delete: {:?}", call(__NR_timer_delete, [id as usize]));
    println!("again: {:?}", call(__NR_timer_delete, [id as usize]));
    println!("gone: {:?}", start(id, 0, 0, 1));
    println!("no clock: {:?}", create(77, SIGUSR1, SIGEV_SIGNAL, 0));
    println!(
        "no signal: {:?}",
        create(CLOCK_MONOTONIC, 65, SIGEV_SIGNAL, 0)
    );
    println!("no way: {:?}", create(CLOCK_MONOTONIC, SIGUSR1, 9, 0));
    let silent = create(CLOCK_REALTIME, 0, SIGEV_NONE, 0).or_fail("timer_create");
    println!("silent: {:?}", start(silent, 0, 0, SECOND * 1000));
    println!(
        "not a time: {:?}",
        call(__NR_timer_settime, [silent as usize, 0, 0, 0])
    );
    println!(
        "a child has none: {:x}",
        status(|| i32::from(start(silent, 0, 0, 1) != Err(Errno::EINVAL)))
    );
    call(__NR_timer_delete, [silent as usize]).or_fail("timer_delete");
    signal::set_action(SIGUSR1, &Action::DEFAULT).or_fail("rt_sigaction");
}

pub fn clock(id: u32) -> Result<u64> {
    let mut time = [0u64; 2];
    call(
        __NR_clock_gettime,
        [id as usize, time.as_mut_ptr() as usize],
    )
    .map(|_| time[0] * SECOND + time[1])
}

pub fn clocks() {
    for id in 0..8 {
        let (first, second) = (
            clock(id).or_fail("clock_gettime"),
            clock(id).or_fail("clock_gettime"),
        );
        check!(first <= second, "clock {id} goes back");
        let mut resolution = [0u64; 2];
        call(
            __NR_clock_getres,
            [id as usize, resolution.as_mut_ptr() as usize],
        )
        .or_fail("clock_getres");
        check!(
            resolution[0] == 0 && resolution[1] > 0,
            "clock {id}: {resolution:?}"
        );
    }
    println!("no clock: {:?} {:?}", clock(50), clock(12));
    let now = clock(CLOCK_MONOTONIC).or_fail("clock_gettime");
    let until = now + 3 * MILLISECOND;
    let request = [until / SECOND, until % SECOND];
    let sleep = |clock: u32, flags: u32, request: &[u64; 2]| {
        call(
            __NR_clock_nanosleep,
            [clock as usize, flags as usize, request.as_ptr() as usize, 0],
        )
    };
    println!(
        "until a time: {:?}",
        sleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &request)
    );
    println!(
        "it is: {}",
        clock(CLOCK_MONOTONIC).or_fail("clock_gettime") >= until
    );
    println!(
        "already past: {:?}",
        sleep(CLOCK_REALTIME, TIMER_ABSTIME, &[1, 0])
    );
    println!("not a time: {:?}", sleep(CLOCK_REALTIME, 0, &[0, SECOND]));
    println!("no clock: {:?}", sleep(33, 0, &[0, 0]));
    println!("own time: {:?}", sleep(CLOCK_THREAD_CPUTIME_ID, 0, &[0, 0]));
    // The CPU's time passes by work, not by sleep.
    let before = clock(CLOCK_PROCESS_CPUTIME_ID).or_fail("clock_gettime");
    let _ = time::sleep(50 * MILLISECOND);
    let slept = clock(CLOCK_PROCESS_CPUTIME_ID).or_fail("clock_gettime");
    while clock(CLOCK_PROCESS_CPUTIME_ID).or_fail("clock_gettime") < slept + 5 * MILLISECOND {}
    println!(
        "asleep, time stands still: {}",
        slept - before < 40 * MILLISECOND
    );
}
