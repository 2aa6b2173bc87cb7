//! How threads end, and processes that have several.

use super::*;
use user::file;
use user::signal;

/// Threads that wait in every way there is, and one that does not.
fn busy() -> [Thread; 6] {
    let page = own_words();
    let pipe = file::pipe2(0).or_fail("pipe2");
    [
        spawn(move || {
            loop {
                long(page, 0).fetch_add(1, SeqCst);
            }
        }),
        spawn(|| pause()),
        spawn(move || thread::wait_for(word(page, 1), 0)),
        spawn(move || {
            let mut byte = [0];
            let _ = file::read(pipe.reader, &mut byte);
        }),
        spawn(|| {
            let parent = process::getpid();
            let child = process::fork_child(|| {
                until(|| process::getppid() != parent);
                0
            });
            child.or_fail("fork");
            let _ = process::wait_any();
        }),
        spawn(|| {
            let _ = signal::suspend(0);
        }),
    ]
}

/// One thread ends, and the others do not.
pub fn of_threads() {
    let first = status(|| {
        let last = spawn(|| {
            until(|| count() == 1);
            thread::exit(7)
        });
        check!(last.tid() != process::getpid(), "two with one number");
        thread::exit(3)
    });
    println!("the first before the last: {first:#x}");
    // The process is what is waited for, not the thread that it began with.
    let page = words();
    let child = process::fork_child(|| {
        spawn(move || {
            until(|| word(page, 0).load(SeqCst) != 0);
            process::exit(5)
        });
        thread::exit(3)
    });
    let child = child.or_fail("fork");
    nap();
    nap();
    let early = process::wait_raw(child, WNOHANG).or_fail("wait4");
    let sent = signal::kill(child, 0);
    let there = thread::kill(child, child, 0);
    word(page, 0).store(1, SeqCst);
    println!(
        "not yet: {early:?} {sent:?} {there:?}, then {:#x}",
        process::wait_raw(child, 0).or_fail("wait4").1
    );
    let tid = {
        let gone = spawn(|| {});
        let tid = gone.tid();
        gone.join().or_fail("munmap");
        until(|| count() == 1);
        tid
    };
    println!(
        "a thread that has ended: {:?} {:?}",
        thread::kill(process::getpid(), tid, 0),
        process::wait_raw(tid, WNOHANG)
    );
    println!(
        "made and gone: {}",
        (0..200).all(|_| {
            spawn(|| {}).join().or_fail("munmap");
            true
        })
    );
}

/// All end at once, whatever they do.
pub fn of_all() {
    let code = status(|| {
        busy();
        nap();
        spawn(|| process::exit(9));
        pause()
    });
    println!("exit_group: {code:#x}");
    let code = status(|| {
        busy();
        nap();
        spawn(|| {
            // SAFETY: it ends the process.
            unsafe { core::arch::asm!("udf #0", options(noreturn)) }
        });
        pause()
    });
    println!("an illegal instruction: {code:#x}");
    let child = process::fork_child(|| {
        busy();
        pause()
    });
    let child = child.or_fail("fork");
    nap();
    signal::kill(child, SIGTERM).or_fail("kill");
    println!(
        "SIGTERM: {:#x}",
        process::wait_raw(child, 0).or_fail("wait4").1
    );
    // Many at once: one of them decides, and nobody waits for ever.
    let mut codes = 0;
    for _ in 0..20 {
        let code = status(|| {
            for code in 1..=4 {
                spawn(move || process::exit(code));
            }
            pause()
        });
        check!((1..=4).contains(&(code >> 8)), "status {code:#x}");
        codes += 1;
    }
    println!("decided: {codes}");
}

/// Runs this program anew, which says whether it has the number that it should.
fn execute(args: Args, pid: Pid) -> user::Errno {
    let mut digits = [0; 12];
    process::exec_self(&args, &[c"executed", decimal(pid, &mut digits)])
}

/// A new program has one thread: whoever executed it, with the process's number.
pub fn by_exec(args: &Args) {
    let args = *args;
    let code = status(|| {
        busy();
        nap();
        user::fail!("execve: {:?}", execute(args, process::getpid()))
    });
    println!("by the first: {code:#x}");
    let code = status(|| {
        busy();
        spawn(move || user::fail!("execve: {:?}", execute(args, process::getpid())));
        pause()
    });
    println!("by another: {code:#x}");
    let code = status(|| {
        let first = process::getpid();
        spawn(move || {
            nap();
            user::fail!("execve: {:?}", execute(args, first))
        });
        thread::exit(0)
    });
    println!("after the first has ended: {code:#x}");
    // Several at once: one program runs, and nothing is left of the others.
    for _ in 0..5 {
        let code = status(|| {
            for _ in 0..3 {
                spawn(move || {
                    execute(args, process::getpid());
                });
            }
            pause()
        });
        check!(code == 0, "status {code:#x}");
    }
}

/// A number as a C string.
fn decimal(number: Pid, digits: &mut [u8; 12]) -> &core::ffi::CStr {
    let mut at = digits.len() - 1;
    let mut rest = number;
    while at > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    core::ffi::CStr::from_bytes_with_nul(&digits[at..]).unwrap_or(c"0")
}

/// Kinds of clone that Linux refuses, or that there are not.
pub fn clones() {
    let all = thread::FLAGS & !(CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID);
    for (what, flags) in [
        ("no handlers", all & !CLONE_SIGHAND),
        ("no memory", all & !CLONE_VM),
        ("a namespace", all | CLONE_NEWNS),
    ] {
        println!(
            "{what}: {:?}",
            call(__NR_clone, [flags as usize, 0, 0, 0, 0])
        );
    }
    // clone_args: flags, pidfd, child, parent, signal, stack, its size, TLS.
    let mut arguments = [0_u64; 8];
    (arguments[0], arguments[4]) = (u64::from(all), SIGCHLD.into());
    println!(
        "a signal at the end: {:?}",
        call(__NR_clone3, [(&raw const arguments).addr(), 64])
    );
}
