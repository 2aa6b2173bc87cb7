//! The system calls: Linux's numbers, structures and error codes for arm64, a file per family.

pub mod errno;
mod file;
mod info;
mod memory;
mod process;
mod signal;
mod time;
mod user;

use crate::arch::trap::TrapFrame;
use crate::process::thread::{Current, current};
use crate::trace;
use errno::Errno;
use linux_raw_sys::general as nr;
use wire::event::Event;

/// What a system call returns in x0.
type Result = core::result::Result<u64, Errno>;

/// Runs the system call that the registers ask for.
#[inline]
pub fn dispatch(thread: &Current, frame: &mut TrapFrame) {
    // The shortest calls need no registers of the caller's saved, which those below do.
    let result = match frame.x[8] as u32 {
        nr::__NR_getpid => Ok(thread.process.pid.into()),
        nr::__NR_gettid => Ok(thread.tid.into()),
        nr::__NR_getppid => process::getppid(thread),
        nr::__NR_getuid | nr::__NR_geteuid | nr::__NR_getgid | nr::__NR_getegid => Ok(0),
        nr::__NR_sched_yield => process::sched_yield(),
        _ => call(frame),
    };
    frame.x[0] = match result {
        Ok(value) => value,
        Err(Errno(code)) => (-i64::from(code)) as u64,
    };
}

#[inline(never)]
fn call(frame: &mut TrapFrame) -> Result {
    let [a, b, c, d, e, f, ..] = frame.x;
    match frame.x[8] as u32 {
        nr::__NR_exit | nr::__NR_exit_group => crate::process::exit::exit(a as u32),
        nr::__NR_clone => process::clone(frame),
        nr::__NR_execve => process::execve(frame, a, b, c),
        nr::__NR_wait4 => process::wait4(a, b, c as u32, d),
        nr::__NR_waitid => process::waitid(a as u32, b as u32, c, d as u32, e),
        nr::__NR_getpgid => process::getpgid(a as u32),
        nr::__NR_setpgid => process::setpgid(a as u32, b as u32),
        nr::__NR_getsid => process::getsid(a as u32),
        nr::__NR_setsid => process::setsid(),
        nr::__NR_set_tid_address => process::set_tid_address(a),
        nr::__NR_set_robust_list => process::set_robust_list(b),
        nr::__NR_rseq => Err(Errno::ENOSYS),
        nr::__NR_sched_getaffinity => process::sched_getaffinity(a as u32, b, c),
        nr::__NR_sched_setaffinity => process::sched_setaffinity(a as u32, b, c),
        nr::__NR_getcpu => process::getcpu(a, b),
        nr::__NR_prctl => process::prctl(a as u32, b, c),

        nr::__NR_brk => memory::brk(a),
        nr::__NR_mmap => memory::mmap(a, b, c, d as u32, e, f),
        nr::__NR_munmap => memory::munmap(a, b),
        nr::__NR_mprotect => memory::mprotect(a, b, c),
        nr::__NR_mremap => memory::mremap(a, b, c, d as u32, e),
        nr::__NR_madvise => memory::madvise(a, b, c as u32),

        nr::__NR_read => file::read(a, b, c),
        nr::__NR_write => file::write(a, b, c),
        nr::__NR_readv => file::readv(a, b, c),
        nr::__NR_writev => file::writev(a, b, c),
        nr::__NR_pread64 => file::pread64(a, b, c, d),
        nr::__NR_openat => file::openat(a, b, c as u32),
        nr::__NR_close => file::close(a),
        nr::__NR_dup => file::dup(a),
        nr::__NR_dup3 => file::dup3(a, b, c as u32),
        nr::__NR_lseek => file::lseek(a, b as i64, c as u32),
        nr::__NR_fstat => file::fstat(a, b),
        nr::__NR_newfstatat => file::newfstatat(a, b, c, d as u32),
        nr::__NR_faccessat => file::faccessat(a, b, c as u32),
        nr::__NR_pipe2 => file::pipe2(a, b as u32),
        nr::__NR_fcntl => file::fcntl(a, b as u32, c),
        nr::__NR_ioctl => file::ioctl(a, b as u32, c),
        nr::__NR_getcwd => file::getcwd(a, b),
        nr::__NR_chdir => file::chdir(a),
        nr::__NR_readlinkat => file::readlinkat(a, b, c, d),
        nr::__NR_getdents64 => file::getdents64(a, b, c),
        nr::__NR_umask => file::umask(a as u32),

        nr::__NR_clock_gettime => time::clock_gettime(a as u32, b),
        nr::__NR_clock_getres => time::clock_getres(a as u32, b),
        nr::__NR_gettimeofday => time::gettimeofday(a),
        nr::__NR_nanosleep => time::nanosleep(a, b),
        nr::__NR_clock_nanosleep => time::clock_nanosleep(a as u32, b as u32, c, d),
        nr::__NR_times => time::times(a),

        nr::__NR_kill => signal::kill(a as i32, b as u32),
        nr::__NR_tkill => signal::tgkill(a as u32, a as u32, b as u32),
        nr::__NR_tgkill => signal::tgkill(a as u32, b as u32, c as u32),
        nr::__NR_rt_sigaction => signal::rt_sigaction(a as u32, b, c, d),
        nr::__NR_rt_sigprocmask => signal::rt_sigprocmask(a as u32, b, c, d),
        nr::__NR_rt_sigpending => signal::rt_sigpending(a, b),
        nr::__NR_sigaltstack => signal::sigaltstack(b),

        nr::__NR_uname => info::uname(a),
        nr::__NR_getrandom => info::getrandom(a, b, c as u32),
        nr::__NR_prlimit64 => info::prlimit64(a as u32, b as u32, c, d),
        nr::__NR_getrusage => info::getrusage(a as i32, b),
        nr::__NR_sysinfo => info::sysinfo(a),
        number => unimplemented(frame, number),
    }
}

#[cold]
fn unimplemented(frame: &TrapFrame, number: u32) -> Result {
    trace::emit(Event::Unimplemented {
        pid: current().process.pid,
        number,
        pc: frame.pc,
    });
    Err(Errno::ENOSYS)
}
