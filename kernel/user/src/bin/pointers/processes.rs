//! Calls on processes, signals, time and the machine.

use super::hooks;
use crate::kinds::*;
use user::Errno;
use user::linux::*;
use user::memory::PAGE_SIZE;

/// A wake-up, or a key, does not read the word; but it must be a word of the user's.
const KEY: &[(Case, Expected)] = &[
    (Null, Same),
    (Unmapped, Same),
    (Straddle, Error(Errno::EINVAL)),
    (Unaligned, Error(Errno::EINVAL)),
];
/// A word must be aligned.
const WORD: &[(Case, Expected)] = &[
    (Straddle, Error(Errno::EINVAL)),
    (Unaligned, Error(Errno::EINVAL)),
];
/// It starts another program if nothing is wrong. (An empty list ends before a hole.)
const EXEC: &[(Case, Expected)] = &[
    (Null, Skipped),
    (ReadOnly, Skipped),
    (Straddle, Skipped),
    (Unaligned, Skipped),
];

const ANY_CPU: &[u64] = &[u64::MAX];

/// All of them.
pub const CALLS: &[Call] = &[
    plain("exit"),
    plain("exit_group"),
    plain("getpid"),
    plain("gettid"),
    plain("getppid"),
    plain("getuid"),
    plain("geteuid"),
    plain("getgid"),
    plain("getegid"),
    plain("sched_yield"),
    plain("membarrier"),
    plain("getpgid"),
    plain("setpgid"),
    plain("getsid"),
    plain("setsid"),
    plain("rseq"),
    plain("getpriority"),
    plain("setpriority"),
    plain("setuid"),
    plain("setgid"),
    plain("setreuid"),
    plain("setregid"),
    plain("setresuid"),
    plain("setresgid"),
    plain("setfsuid"),
    plain("setfsgid"),
    plain("brk"),
    plain("mmap"),
    plain("munmap"),
    plain("mprotect"),
    plain("mremap"),
    plain("madvise"),
    plain("msync"),
    call(
        "mincore",
        __NR_mincore,
        [0, 16 * PAGE_SIZE],
        &[at(2, Space(16))],
    )
    .before(hooks::mapped_pages),
    plain("mlock"),
    plain("mlock2"),
    plain("munlock"),
    plain("mlockall"),
    plain("munlockall"),
    plain("lseek"),
    plain("fsync"),
    plain("fdatasync"),
    plain("sync"),
    plain("syncfs"),
    plain("fadvise64"),
    plain("fallocate"),
    plain("epoll_create1"),
    plain("eventfd2"),
    plain("timerfd_create"),
    plain("close"),
    plain("close_range"),
    plain("dup"),
    plain("dup3"),
    plain("flock"),
    plain("fchmod"),
    plain("fchown"),
    plain("ftruncate"),
    plain("umask"),
    plain("fchdir"),
    plain("timer_getoverrun"),
    plain("timer_delete"),
    plain("kill"),
    plain("tkill"),
    plain("tgkill"),
    plain("rt_sigreturn"),
    plain("restart_syscall"),
    // The ids of the child are written if they can be.
    call(
        "clone",
        __NR_clone,
        [(CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD) as usize],
        &[at(2, Untouched), at(4, Untouched)],
    ),
    call(
        "clone3",
        __NR_clone3,
        [0, 64],
        &[at(0, Words(&[0, 0, 0, 0, SIGCHLD as u64, 0, 0, 0]))],
    ),
    call(
        "execve",
        __NR_execve,
        [0, 0, 0],
        &[at(0, Text("nothing/like/it\0"))],
    ),
    call(
        "execve",
        __NR_execve,
        [],
        &[at(1, Words(NOTHING)).but(EXEC)],
    )
    .of("arguments ")
    .before(hooks::own_program)
    .leaves(),
    call(
        "execve",
        __NR_execve,
        [],
        &[at(2, Words(NOTHING)).but(EXEC)],
    )
    .of("environment ")
    .before(hooks::own_program)
    .leaves(),
    call(
        "wait4",
        __NR_wait4,
        [usize::MAX, 0, 0],
        &[at(1, Space(4)).optional(), at(3, Space(144)).optional()],
    )
    .before(hooks::child_that_ended),
    call(
        "waitid",
        __NR_waitid,
        [P_ALL as usize, 0, 0, WEXITED as usize],
        // All that it writes of a siginfo_t.
        &[at(2, Space(28)).optional(), at(4, Space(144)).optional()],
    )
    .before(hooks::child_that_ended),
    call(
        "set_tid_address",
        __NR_set_tid_address,
        [],
        &[at(0, Untouched)],
    ),
    call(
        "set_robust_list",
        __NR_set_robust_list,
        [0, 24],
        &[at(0, Untouched)],
    ),
    call(
        "get_robust_list",
        __NR_get_robust_list,
        [],
        &[at(1, Space(8)), at(2, Space(8))],
    ),
    call(
        "futex",
        __NR_futex,
        [0, (FUTEX_WAKE | FUTEX_PRIVATE_FLAG) as usize, 1],
        &[at(0, Bytes(ONES)).but(KEY)],
    )
    .of("wake "),
    call(
        "futex",
        __NR_futex,
        [0, (FUTEX_WAIT | FUTEX_PRIVATE_FLAG) as usize, 2],
        &[
            at(0, Bytes(ONES)).but(WORD),
            at(3, Words(SECOND)).optional(),
        ],
    )
    .of("wait "),
    call(
        "futex",
        __NR_futex,
        [
            0,
            (FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG) as usize,
            1,
            1,
            0,
            1,
        ],
        &[at(0, Bytes(ONES)).but(WORD), at(4, Bytes(ONES)).but(KEY)],
    )
    .of("requeue "),
    call(
        "sched_getaffinity",
        __NR_sched_getaffinity,
        [0, 8],
        &[at(2, Space(8))],
    ),
    call(
        "sched_setaffinity",
        __NR_sched_setaffinity,
        [0, 8],
        &[at(2, Words(ANY_CPU))],
    ),
    call(
        "getcpu",
        __NR_getcpu,
        [],
        &[
            at(0, Space(4)).optional(),
            at(1, Space(4)).optional(),
            at(2, Untouched),
        ],
    ),
    call("prctl", __NR_prctl, [PR_SET_NAME], &[at(1, Text("name\0"))]).of("name "),
    call("prctl", __NR_prctl, [PR_GET_NAME], &[at(1, Space(16))]).of("its-name "),
    call("prctl", __NR_prctl, [PR_GET_PDEATHSIG], &[at(1, Space(4))]).of("signal "),
    call(
        "prctl",
        __NR_prctl,
        [PR_GET_CHILD_SUBREAPER],
        &[at(1, Space(4))],
    )
    .of("reaper "),
    call(
        "getresuid",
        __NR_getresuid,
        [],
        &[at(0, Space(4)), at(1, Space(4)), at(2, Space(4))],
    ),
    call(
        "getresgid",
        __NR_getresgid,
        [],
        &[at(0, Space(4)), at(1, Space(4)), at(2, Space(4))],
    ),
    call("setgroups", __NR_setgroups, [1], &[at(1, Bytes(ONES))]),
    call("getgroups", __NR_getgroups, [8], &[at(1, Space(4))]).before(hooks::one_group),
    call(
        "clock_gettime",
        __NR_clock_gettime,
        [0],
        &[at(1, Space(16))],
    ),
    call(
        "clock_getres",
        __NR_clock_getres,
        [0],
        &[at(1, Space(16)).optional()],
    ),
    call(
        "gettimeofday",
        __NR_gettimeofday,
        [],
        &[at(0, Space(16)).optional(), at(1, Space(8)).optional()],
    ),
    // What is left is only written when a signal ends the sleep.
    call(
        "nanosleep",
        __NR_nanosleep,
        [],
        &[at(0, Words(NOTHING)), at(1, Untouched)],
    ),
    call(
        "clock_nanosleep",
        __NR_clock_nanosleep,
        [CLOCK_MONOTONIC as usize],
        &[at(2, Words(NOTHING)), at(3, Untouched)],
    ),
    call("times", __NR_times, [], &[at(0, Space(32)).optional()]),
    call("getitimer", __NR_getitimer, [], &[at(1, Space(32))]),
    call(
        "setitimer",
        __NR_setitimer,
        [],
        &[
            at(1, Words(&[0; 4])).optional(),
            at(2, Space(32)).optional(),
        ],
    ),
    call(
        "timer_create",
        __NR_timer_create,
        [CLOCK_MONOTONIC as usize],
        &[
            at(1, Words(&[0, SIGUSR1 as u64, 0, 0, 0, 0, 0, 0])).optional(),
            at(2, Space(4)),
        ],
    ),
    call(
        "timer_settime",
        __NR_timer_settime,
        [],
        &[
            at(2, Words(&[0; 4])).but(&[(Null, Error(Errno::EINVAL))]),
            at(3, Space(32)).optional(),
        ],
    )
    .before(hooks::timer),
    call("timer_gettime", __NR_timer_gettime, [], &[at(1, Space(32))]).before(hooks::timer),
    call(
        "rt_sigaction",
        __NR_rt_sigaction,
        [SIGUSR2 as usize, 0, 0, 8],
        &[
            at(1, Words(&[1, 0, 0, 0])).optional(),
            at(2, Space(32)).optional(),
        ],
    ),
    call(
        "rt_sigprocmask",
        __NR_rt_sigprocmask,
        [SIG_BLOCK as usize, 0, 0, 8],
        &[at(1, Words(&[0])).optional(), at(2, Space(8)).optional()],
    ),
    call(
        "rt_sigpending",
        __NR_rt_sigpending,
        [0, 8],
        &[at(0, Space(8))],
    ),
    call(
        "rt_sigsuspend",
        __NR_rt_sigsuspend,
        [0, 8],
        &[at(0, Words(&[0]))],
    )
    .before(hooks::pending_signal),
    call(
        "rt_sigtimedwait",
        __NR_rt_sigtimedwait,
        [0, 0, 0, 8],
        &[
            at(0, Words(&[1 << (SIGUSR1 - 1)])),
            at(1, Space(128)).optional(),
            at(2, Words(NOTHING)).optional(),
        ],
    )
    .before(hooks::pending_signal),
    // Signal 0: only whether it could be sent.
    call(
        "rt_sigqueueinfo",
        __NR_rt_sigqueueinfo,
        [0, 0],
        &[at(2, INFO)],
    )
    .before(hooks::to_this_process),
    call(
        "rt_tgsigqueueinfo",
        __NR_rt_tgsigqueueinfo,
        [0, 0, 0],
        &[at(3, INFO)],
    )
    .before(hooks::to_this_thread),
    call(
        "sigaltstack",
        __NR_sigaltstack,
        [],
        &[
            at(0, Words(&[0, SS_DISABLE as u64, 0])).optional(),
            at(1, Space(24)).optional(),
        ],
    ),
    call("uname", __NR_uname, [], &[at(0, Space(390))]),
    call(
        "getrandom",
        __NR_getrandom,
        [0, ROOM],
        &[at(0, Space(ROOM)).but(PART)],
    ),
    call(
        "prlimit64",
        __NR_prlimit64,
        [0, RLIMIT_CORE as usize],
        &[
            at(2, Words(NOTHING)).optional(),
            at(3, Space(16)).optional(),
        ],
    ),
    call(
        "getrlimit",
        __NR_getrlimit,
        [RLIMIT_CORE as usize],
        &[at(1, Space(16))],
    ),
    call(
        "setrlimit",
        __NR_setrlimit,
        [RLIMIT_CORE as usize],
        &[at(1, Words(NOTHING))],
    ),
    call("getrusage", __NR_getrusage, [], &[at(1, Space(144))]),
    call("sysinfo", __NR_sysinfo, [], &[at(0, Space(112))]),
];

/// The part of a siginfo_t that is read, with SI_QUEUE.
const INFO: Memory = Words(&[0, 0xffff_ffff, 0, 0, 0, 0]);

const PR_SET_NAME: usize = 15;
const PR_GET_NAME: usize = 16;
const PR_GET_PDEATHSIG: usize = 2;
const PR_GET_CHILD_SUBREAPER: usize = 37;
