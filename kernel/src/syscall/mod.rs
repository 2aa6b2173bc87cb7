//! The system calls: Linux's numbers, structures and error codes for arm64, a file per family.

pub mod errno;
mod file;
mod futex;
mod identity;
mod info;
mod memory;
mod process;
mod signals;
mod time;
mod timers;
pub mod user;

use crate::arch::trap::TrapFrame;
use crate::fs;
use crate::process::signal;
use crate::process::thread::{Current, current};
use crate::trace;
use ::memory::Refusal;
use errno::Errno;
use file::{attribute, descriptor, directory, event, io, name, open, poll, socket, splice, stat};
use identity::Kind;
use linux_raw_sys::general as nr;
use wire::event::{Event, Refused};

/// What a system call returns in x0.
type Result = core::result::Result<u64, Errno>;

/// The numbers of the calls that only look at something, and that come here without the caller's
/// registers: they follow each other.
pub const SHORT: core::ops::RangeInclusive<u32> = nr::__NR_getpid..=nr::__NR_gettid;

/// Runs a call of [`SHORT`].
#[inline(always)]
pub fn short(thread: &Current, number: u32) -> Result {
    match number {
        nr::__NR_getpid => Ok(thread.process.pid.into()),
        nr::__NR_gettid => Ok(thread.tid().into()),
        nr::__NR_getppid => process::getppid(thread),
        nr::__NR_getuid => identity::real(Kind::User),
        nr::__NR_geteuid => identity::effective(Kind::User),
        nr::__NR_getgid => identity::real(Kind::Group),
        nr::__NR_getegid => identity::effective(Kind::Group),
        _ => Err(Errno::ENOSYS),
    }
}

/// The number of a call that is tried with [`read_at_once`] first.
pub const READ: u32 = nr::__NR_read;
/// That of one that is tried with [`write_at_once`] first: the next number.
pub const WRITE: u32 = nr::__NR_write;

/// Runs a read if it is a small one that does not fail. `None`: nothing has happened.
#[inline(always)]
pub fn read_at_once(thread: &Current, frame: &TrapFrame) -> Option<u64> {
    let [fd, addr, len, ..] = frame.x;
    io::read_at_once(thread, fd, addr, len)
}

/// Runs a write if it is a small one that neither sleeps nor fails. `None`: nothing has happened.
#[inline(always)]
pub fn write_at_once(thread: &Current, frame: &TrapFrame) -> Option<u64> {
    let [fd, addr, len, ..] = frame.x;
    io::write_at_once(thread, fd, addr, len)
}

/// Runs the system call that the registers ask for.
#[inline]
pub fn dispatch(thread: &Current, frame: &mut TrapFrame) {
    let result = match frame.x[8] as u32 {
        nr::__NR_sched_yield => process::sched_yield(),
        _ => {
            thread.usage.enter_kernel();
            let mut result = call(frame);
            if result == Err(Errno::ENOMEM) {
                result = try_again(thread, frame);
            }
            thread.usage.leave_kernel();
            result
        }
    };
    frame.x[0] = match result {
        Ok(value) => value,
        // The registers are still those of the call, which may have to be made again.
        Err(Errno::EINTR) => return signal::deliver_interrupted(thread, frame),
        Err(error) => error.register(),
    };
}

#[inline(never)]
fn call(frame: &mut TrapFrame) -> Result {
    let [a, b, c, d, e, f, ..] = frame.x;
    match frame.x[8] as u32 {
        number @ nr::__NR_getpid..=nr::__NR_gettid => short(&current(), number),
        nr::__NR_exit => crate::process::exit::exit_thread(a as u32),
        nr::__NR_exit_group => crate::process::exit::exit(a as u32),
        nr::__NR_clone => process::clone(frame),
        nr::__NR_clone3 => process::clone3(frame),
        nr::__NR_execve => process::execve(frame, a, b, c),
        nr::__NR_wait4 => process::wait4(a, b, c as u32, d),
        nr::__NR_waitid => process::waitid(a as u32, b as u32, c, d as u32, e),
        nr::__NR_getpgid => process::getpgid(a as u32),
        nr::__NR_setpgid => process::setpgid(a as u32, b as u32),
        nr::__NR_getsid => process::getsid(a as u32),
        nr::__NR_setsid => process::setsid(),
        nr::__NR_set_tid_address => process::set_tid_address(a),
        nr::__NR_set_robust_list => futex::set_robust_list(a, b),
        nr::__NR_get_robust_list => futex::get_robust_list(a as u32, b, c),
        nr::__NR_futex => match futex::futex(a, b as u32, c as u32, d, e, f as u32) {
            // Those with priority inheritance.
            Err(Errno::ENOSYS) => unimplemented(frame, nr::__NR_futex),
            result => result,
        },
        nr::__NR_rseq => Err(Errno::ENOSYS),
        nr::__NR_sched_getaffinity => process::sched_getaffinity(a as u32, b, c),
        nr::__NR_sched_setaffinity => process::sched_setaffinity(a as u32, b, c),
        nr::__NR_membarrier => process::membarrier(a as u32, b as u32),
        nr::__NR_getcpu => process::getcpu(a, b),
        nr::__NR_prctl => process::prctl(a as u32, [b, c, d, e]),
        nr::__NR_getpriority => process::getpriority(a as u32, b as u32),
        nr::__NR_setpriority => process::setpriority(a as u32, b as u32, c as i32),

        nr::__NR_setuid => identity::set(Kind::User, a as u32),
        nr::__NR_setgid => identity::set(Kind::Group, a as u32),
        nr::__NR_setreuid => identity::set_two(Kind::User, a as u32, b as u32),
        nr::__NR_setregid => identity::set_two(Kind::Group, a as u32, b as u32),
        nr::__NR_setresuid => identity::set_three(Kind::User, a as u32, b as u32, c as u32),
        nr::__NR_setresgid => identity::set_three(Kind::Group, a as u32, b as u32, c as u32),
        nr::__NR_getresuid => identity::get_three(Kind::User, [a, b, c]),
        nr::__NR_getresgid => identity::get_three(Kind::Group, [a, b, c]),
        nr::__NR_setfsuid => identity::set_files(Kind::User, a as u32),
        nr::__NR_setfsgid => identity::set_files(Kind::Group, a as u32),
        nr::__NR_getgroups => identity::getgroups(a as u32, b),
        nr::__NR_setgroups => identity::setgroups(a as u32 as u64, b),

        nr::__NR_brk => memory::brk(frame, a),
        nr::__NR_mmap if d as u32 & nr::MAP_POPULATE != 0 => {
            memory::mmap_now(a, b, c, d as u32, e, f)
        }
        nr::__NR_mmap => memory::mmap(a, b, c, d as u32, e, f),
        nr::__NR_munmap => memory::munmap(a, b),
        nr::__NR_mprotect => memory::mprotect(a, b, c),
        nr::__NR_mremap => memory::mremap(a, b, c, d as u32, e),
        nr::__NR_msync => memory::msync(a, b, c as u32),
        nr::__NR_mlock => memory::mlock(a, b, 0),
        nr::__NR_mlock2 => memory::mlock(a, b, c as u32),
        nr::__NR_munlock => memory::mlock(a, b, 0),
        nr::__NR_mlockall => memory::mlockall(a as u32),
        nr::__NR_munlockall => Ok(0),
        nr::__NR_mincore => memory::mincore(a, b, c),
        nr::__NR_madvise => memory::madvise(a, b, c as u32),

        nr::__NR_read => io::read(a, b, c),
        nr::__NR_write => io::write(a, b, c),
        nr::__NR_readv => io::readv(a, b, c),
        nr::__NR_writev => io::writev(a, b, c),
        nr::__NR_pread64 => io::pread64(a, b, c, d),
        nr::__NR_pwrite64 => io::pwrite64(a, b, c, d),
        nr::__NR_preadv => io::preadv(a, b, c, d),
        nr::__NR_pwritev => io::pwritev(a, b, c, d),
        nr::__NR_preadv2 => io::preadv2(a, b, c, d, f as u32),
        nr::__NR_pwritev2 => io::pwritev2(a, b, c, d, f as u32),
        nr::__NR_lseek => io::lseek(a, b as i64, c as u32),
        nr::__NR_fsync | nr::__NR_fdatasync => io::fsync(a),
        nr::__NR_sync => Ok(0),
        nr::__NR_syncfs => file::any_file(a).map(|_| 0),
        nr::__NR_fadvise64 => io::fadvise64(a, c, d as u32),
        nr::__NR_fallocate => io::fallocate(a, b as u32, c, d),
        nr::__NR_sendfile => io::sendfile(a, b, c, d),
        nr::__NR_copy_file_range => io::copy_file_range(a, b, c, d, e, f as u32),
        nr::__NR_splice => splice::splice(a, b, c, d, e, f as u32),
        nr::__NR_tee => splice::tee(a, b, c, d as u32),
        nr::__NR_vmsplice => splice::vmsplice(a, b, c, d as u32),
        nr::__NR_ppoll => poll::ppoll(a, b, c, d, e),
        nr::__NR_pselect6 => poll::pselect6(a, [b, c, d], e, f),
        nr::__NR_epoll_create1 => event::epoll_create1(a as u32),
        nr::__NR_epoll_ctl => event::epoll_ctl(a, b as u32, c, d),
        nr::__NR_epoll_pwait => event::epoll_pwait(a, b, c, d as i32, e, f),
        nr::__NR_epoll_pwait2 => event::epoll_pwait2(a, b, c, d, e, f),
        nr::__NR_eventfd2 => event::eventfd2(a as u32, b as u32),
        nr::__NR_timerfd_create => event::timerfd_create(a as u32, b as u32),
        nr::__NR_timerfd_settime => event::timerfd_settime(a, b as u32, c, d),
        nr::__NR_timerfd_gettime => event::timerfd_gettime(a, b),
        nr::__NR_signalfd4 => event::signalfd4(a, b, c, d as u32),
        nr::__NR_openat => open::openat(a, b, c as u32, d as u32),
        nr::__NR_close => open::close(a),
        nr::__NR_close_range => open::close_range(a as u32, b as u32, c as u32),
        nr::__NR_dup => descriptor::dup(a),
        nr::__NR_dup3 => descriptor::dup3(a, b, c as u32),
        nr::__NR_pipe2 => descriptor::pipe2(a, b as u32),
        nr::__NR_fcntl => descriptor::fcntl(a, b as u32, c),
        nr::__NR_flock => descriptor::flock(a, b as u32),
        nr::__NR_ioctl => descriptor::ioctl(a, b as u32, c),
        nr::__NR_socket => socket::socket(a as u32, b as u32, c as u32),
        nr::__NR_socketpair => socket::socketpair(a as u32, b as u32, c as u32, d),
        nr::__NR_bind => socket::bind(a, b, c),
        nr::__NR_listen => socket::listen(a, b as u32),
        nr::__NR_accept => socket::accept4(a, b, c, 0),
        nr::__NR_accept4 => socket::accept4(a, b, c, d as u32),
        nr::__NR_connect => socket::connect(a, b, c),
        nr::__NR_getsockname => socket::getsockname(a, b, c),
        nr::__NR_getpeername => socket::getpeername(a, b, c),
        nr::__NR_sendto => socket::sendto(a, b, c, d as u32, e, f),
        nr::__NR_recvfrom => socket::recvfrom(a, b, c, d as u32, e, f),
        nr::__NR_sendmsg => socket::sendmsg(a, b, c as u32),
        nr::__NR_recvmsg => socket::recvmsg(a, b, c as u32),
        nr::__NR_shutdown => socket::shutdown(a, b as u32),
        nr::__NR_setsockopt => socket::setsockopt(a, b as u32, c as u32, d, e),
        nr::__NR_getsockopt => socket::getsockopt(a, b as u32, c as u32, d, e),
        nr::__NR_fstat => stat::fstat(a, b),
        nr::__NR_newfstatat => stat::newfstatat(a, b, c, d as u32),
        nr::__NR_statx => stat::statx(a, b, c as u32, d as u32, e),
        nr::__NR_statfs => stat::statfs(a, b),
        nr::__NR_fstatfs => stat::fstatfs(a, b),
        nr::__NR_faccessat => stat::faccessat2(a, b, c as u32, 0),
        nr::__NR_faccessat2 => stat::faccessat2(a, b, c as u32, d as u32),
        nr::__NR_getxattr => stat::getxattr(a, b, true),
        nr::__NR_lgetxattr => stat::getxattr(a, b, false),
        nr::__NR_fgetxattr => stat::fgetxattr(a, b),
        nr::__NR_listxattr => stat::listxattr(a, true),
        nr::__NR_llistxattr => stat::listxattr(a, false),
        nr::__NR_mkdirat => name::mkdirat(a, b, c as u32),
        nr::__NR_mknodat => name::mknodat(a, b, c as u32, d),
        nr::__NR_symlinkat => name::symlinkat(a, b, c),
        nr::__NR_linkat => name::linkat(a, b, c, d, e as u32),
        nr::__NR_unlinkat => name::unlinkat(a, b, c as u32),
        nr::__NR_renameat => name::renameat2(a, b, c, d, 0),
        nr::__NR_renameat2 => name::renameat2(a, b, c, d, e as u32),
        nr::__NR_readlinkat => name::readlinkat(a, b, c, d),
        nr::__NR_fchmod => attribute::fchmod(a, b as u32),
        nr::__NR_fchmodat => attribute::fchmodat2(a, b, c as u32, 0),
        nr::__NR_fchmodat2 => attribute::fchmodat2(a, b, c as u32, d as u32),
        nr::__NR_fchown => attribute::fchown(a, b as u32, c as u32),
        nr::__NR_fchownat => attribute::fchownat(a, b, c as u32, d as u32, e as u32),
        nr::__NR_utimensat => attribute::utimensat(a, b, c, d as u32),
        nr::__NR_truncate => attribute::truncate(a, b),
        nr::__NR_ftruncate => attribute::ftruncate(a, b),
        nr::__NR_umask => attribute::umask(a as u32),
        nr::__NR_getcwd => directory::getcwd(a, b),
        nr::__NR_chdir => directory::chdir(a),
        nr::__NR_fchdir => directory::fchdir(a),
        nr::__NR_chroot => directory::chroot(a),
        nr::__NR_getdents64 => directory::getdents64(a, b, c),

        nr::__NR_clock_gettime => time::clock_gettime(a as u32, b),
        nr::__NR_clock_getres => time::clock_getres(a as u32, b),
        nr::__NR_gettimeofday => time::gettimeofday(a, b),
        nr::__NR_nanosleep => time::nanosleep(a, b),
        nr::__NR_clock_nanosleep => time::clock_nanosleep(a as u32, b as u32, c, d),
        nr::__NR_times => time::times(a),
        nr::__NR_getitimer => timers::getitimer(a as u32, b),
        nr::__NR_setitimer => timers::setitimer(a as u32, b, c),
        nr::__NR_timer_create => timers::timer_create(a as u32, b, c),
        nr::__NR_timer_settime => timers::timer_settime(a as u32, b as u32, c, d),
        nr::__NR_timer_gettime => timers::timer_gettime(a as u32, b),
        nr::__NR_timer_getoverrun => timers::timer_getoverrun(a as u32),
        nr::__NR_timer_delete => timers::timer_delete(a as u32),

        nr::__NR_kill => signals::kill(a as i32, b as u32),
        nr::__NR_tkill => signals::tkill(a as i32, b as u32),
        nr::__NR_tgkill => signals::tgkill(a as i32, b as i32, c as u32),
        nr::__NR_rt_sigaction => signals::rt_sigaction(a as u32, b, c, d),
        nr::__NR_rt_sigprocmask => signals::rt_sigprocmask(a as u32, b, c, d),
        nr::__NR_rt_sigpending => signals::rt_sigpending(a, b),
        nr::__NR_rt_sigsuspend => signals::rt_sigsuspend(a, b),
        nr::__NR_rt_sigtimedwait => signals::rt_sigtimedwait(a, b, c, d),
        nr::__NR_rt_sigqueueinfo => signals::rt_sigqueueinfo(a as i32, b as u32, c),
        nr::__NR_rt_tgsigqueueinfo => signals::rt_tgsigqueueinfo(a as i32, b as i32, c as u32, d),
        nr::__NR_rt_sigreturn => signals::rt_sigreturn(frame),
        nr::__NR_sigaltstack => signals::sigaltstack(frame.sp, a, b),
        nr::__NR_restart_syscall => time::restart_syscall(&frame.x),

        nr::__NR_uname => info::uname(a),
        nr::__NR_getrandom => info::getrandom(a, b, c as u32),
        nr::__NR_prlimit64 => info::prlimit64(a as u32, b as u32, c, d),
        nr::__NR_getrlimit => info::getrlimit(a as u32, b),
        nr::__NR_setrlimit => info::setrlimit(a as u32, b),
        nr::__NR_getrusage => info::getrusage(a as i32, b),
        nr::__NR_sysinfo => info::sysinfo(a),
        number => unimplemented(frame, number),
    }
}

/// A call has failed for want of memory, or of mappings: once more if there is some then.
#[cold]
fn try_again(thread: &Current, frame: &mut TrapFrame) -> Result {
    let result = match fs::regular::reclaim() {
        true => call(frame),
        false => Err(Errno::ENOMEM),
    };
    let refusal = thread.take_refusal();
    if result == Err(Errno::ENOMEM) {
        tell_refusal(thread, frame, refusal);
    }
    result
}

/// Puts on record what memory the call was refused, if that is why it has failed.
#[cold]
fn tell_refusal(thread: &Current, frame: &TrapFrame, refusal: Option<Refusal>) {
    let Some(Refusal { pages, left }) = refusal else {
        return;
    };
    let (pid, number) = (thread.process.pid, frame.x[8] as u32);
    defmt::warn!(
        "process {=u32}: no memory for system call {=u32}: {=u64} pages asked for, {=u64} can be promised",
        pid,
        number,
        pages,
        left
    );
    trace::emit(Event::Refused(Refused {
        pid,
        number,
        pages,
        left,
        pc: frame.pc,
        stack: trace::stack::of(frame),
    }));
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
