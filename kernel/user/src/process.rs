//! Processes: fork, vfork, exec, wait, exit.

use crate::print::OrFail;
use crate::{Args, Errno, Result, Strings, fail, syscall};
use core::arch::naked_asm;
use core::ffi::{CStr, c_char};
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use linux_raw_sys::general::{
    __NR_clone, __NR_execve, __NR_exit_group, __NR_getcpu, __NR_getpid, __NR_getppid, __NR_ioctl,
    __NR_prctl, __NR_rt_sigaction, __NR_sched_getaffinity, __NR_sched_setaffinity,
    __NR_sched_yield, __NR_setsid, __NR_wait4, CLONE_VFORK, CLONE_VM, SIGCHLD, termios,
};

use linux_raw_sys::ioctl::{TCGETS, TIOCSCTTY};

/// A process id.
pub type Pid = i32;

/// What `fork` returns, in each of the two processes.
pub enum Fork {
    /// This is the child.
    Child,
    /// This is the parent; the child's id.
    Parent(Pid),
}

/// Makes a copy of this process: same memory contents, same descriptors.
pub fn fork() -> Result<Fork> {
    // SAFETY: without CLONE_VM the child has its own memory and returns on its own copy of the
    // stack.
    match unsafe { syscall(__NR_clone, [SIGCHLD as usize, 0, 0, 0, 0]) }? {
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent(child as Pid)),
    }
}

/// Forks a child that runs `child` and exits with its result; returns the child's id.
pub fn fork_child(child: impl FnOnce() -> i32) -> Result<Pid> {
    match fork()? {
        Fork::Child => exit(child()),
        Fork::Parent(pid) => Ok(pid),
    }
}

/// How fork copies an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkMode {
    /// Every descriptor is copied; the pages are shared until they are written.
    Classic = 0,
    /// Whole last-level tables are shared, until the first write in 2 MiB.
    Shared = 1,
    /// Every page is copied at once.
    Eager = 2,
}

/// PR_SET_FORK_MODE and PR_GET_FORK_MODE, which only our kernel has: `kernel/src/syscall/process.rs`.
const SET_FORK_MODE: usize = 0x436f_7753;
const GET_FORK_MODE: usize = 0x436f_7747;

/// Sets how this process forks from now on, and the children that it makes then. EINVAL on Linux,
/// which has one way.
pub fn set_fork_mode(mode: ForkMode) -> Result<()> {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_prctl, [SET_FORK_MODE, mode as usize]) }.map(drop)
}

/// How this process forks, as a number of [`ForkMode`].
pub fn fork_mode() -> Result<usize> {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_prctl, [GET_FORK_MODE]) }
}

/// Runs `child` in a new process that borrows this process's memory and stack, while this one
/// stands still; the child exits with the result of `child`, or leaves by `execve`.
///
/// `qemu-aarch64` runs this as a fork: there, what the child writes is lost.
pub fn vfork<F: FnOnce() -> i32>(child: F) -> Result<Pid> {
    extern "C" fn call<F: FnOnce() -> i32>(child: *mut ManuallyDrop<F>) -> i32 {
        // SAFETY: `child` points into the parent's frame below, which stands still while we run; we
        // are the only one to take it, and ManuallyDrop keeps the parent from dropping it again.
        let child = unsafe { ManuallyDrop::take(&mut *child) };
        child()
    }
    let mut child = ManuallyDrop::new(child);
    let address: *mut ManuallyDrop<F> = &mut child;
    // SAFETY: `call::<F>` fits `address`, and `address` is valid throughout.
    let result = unsafe { vfork_call(call::<F> as *const () as usize, address.cast()) };
    match -result {
        errno @ 1..=4095 => {
            // There was no child to take the closure.
            // SAFETY: it is initialised and not used again.
            unsafe { ManuallyDrop::drop(&mut child) };
            Err(Errno(errno as u32))
        }
        _ => Ok(result as Pid),
    }
}

/// The part of vfork that no compiler may touch. A `vfork` that returned twice would let the child
/// pop and overwrite the frames that the parent still has to return through. Here, only the parent
/// returns: the child calls `function` with its frames *below* the stack pointer, where the parent
/// has nothing, and then exits. What the parent needs is in its registers, which the kernel keeps
/// for it.
///
/// # Safety
///
/// `function` must be the address of an `extern "C" fn(*mut T) -> i32`, and `argument` fit it.
#[unsafe(naked)]
unsafe extern "C" fn vfork_call(function: usize, argument: *mut ()) -> isize {
    naked_asm!(
        "mov x9, x0",
        "mov x10, x1",
        "mov x0, {flags}",
        "mov x1, #0", // the stack: the parent's
        "mov x2, #0",
        "mov x3, #0",
        "mov x4, #0",
        "mov x8, {clone}",
        "svc #0",
        "cbz x0, 1f",
        "ret",
        "1: stp x29, x30, [sp, #-16]!", // a frame record, so that the child's call stack can be walked
        "mov x29, sp",
        "mov x0, x10",
        "blr x9",
        "mov x8, {exit_group}",
        "svc #0",
        "brk #1",
        flags = const CLONE_VM | CLONE_VFORK | SIGCHLD,
        clone = const __NR_clone,
        exit_group = const __NR_exit_group,
    )
}

/// The most arguments that [`exec`] takes.
pub const MOST_ARGUMENTS: usize = 15;

/// Replaces this program; returns only if that failed.
pub fn exec(path: &CStr, argv: &[&CStr], envp: Strings) -> Errno {
    if argv.len() > MOST_ARGUMENTS {
        return Errno::E2BIG;
    }
    let mut vector = [core::ptr::null::<c_char>(); MOST_ARGUMENTS + 1];
    for (slot, argument) in vector.iter_mut().zip(argv) {
        *slot = argument.as_ptr();
    }
    execve(path, vector.as_ptr(), envp.as_ptr())
}

/// The same, with vectors as they are.
pub fn exec_strings(path: &CStr, argv: Strings, envp: Strings) -> Errno {
    execve(path, argv.as_ptr(), envp.as_ptr())
}

fn execve(path: &CStr, argv: *const *const c_char, envp: *const *const c_char) -> Errno {
    // SAFETY: the kernel only reads the strings; on success nothing of this program is left to be
    // harmed.
    match unsafe {
        syscall(
            __NR_execve,
            [path.as_ptr() as usize, argv as usize, envp as usize],
        )
    } {
        Err(errno) => errno,
        Ok(value) => fail(format_args!("execve returned {value}")),
    }
}

/// Starts a program in a new process, by vfork and exec.
///
/// The child runs in our memory until it execs, so it can leave its error in our variable. Where
/// vfork is a fork (`qemu-aarch64`), an exec that failed shows as exit code 127 instead.
pub fn spawn(path: &CStr, argv: Strings, envp: Strings) -> Result<Pid> {
    spawn_after(|| {}, path, argv, envp)
}

/// The same in a session of its own, whose controlling terminal is the one that this program has, if it
/// has one.
pub fn spawn_in_session(path: &CStr, argv: Strings, envp: Strings) -> Result<Pid> {
    spawn_after(become_leader, path, argv, envp)
}

/// Without a terminal, all stays as it is.
fn become_leader() {
    let mut settings = MaybeUninit::<termios>::uninit();
    let address = settings.as_mut_ptr() as usize;
    // SAFETY: TCGETS fills in a `termios`.
    let is_terminal =
        |fd: &usize| unsafe { syscall(__NR_ioctl, [*fd, TCGETS as usize, address]) }.is_ok();
    if let Some(fd) = (0..3).find(is_terminal) {
        // SAFETY: neither touches memory. A child of vfork leads nothing yet; and a terminal that
        // somebody else has stays theirs.
        unsafe {
            let _ = syscall(__NR_setsid, []);
            let _ = syscall(__NR_ioctl, [fd, TIOCSCTTY as usize, 0]);
        }
    }
}

/// The same after `prepare`, which runs in the child and must change nothing in our memory.
pub fn spawn_after(
    prepare: impl FnOnce(),
    path: &CStr,
    argv: Strings,
    envp: Strings,
) -> Result<Pid> {
    let mut error = None;
    let slot: *mut Option<Errno> = &mut error;
    let child = vfork(|| {
        prepare();
        let errno = exec_strings(path, argv, envp);
        // SAFETY: the parent stands still, and its frame with `error` in it is there.
        unsafe { slot.write_volatile(Some(errno)) };
        127
    })?;
    // SAFETY: our own variable; volatile, because the child wrote it behind the compiler's back.
    match unsafe { slot.read_volatile() } {
        Some(errno) => {
            wait(child)?;
            Err(errno)
        }
        None => Ok(child),
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It called exit.
    Exited(i32),
    /// A signal killed it.
    Killed(u32),
}

impl Status {
    /// What wait4's word says of a process that has ended: the signal in bits 6:0 (bit 7: core dumped), or
    /// 0 and the exit code in bits 15:8.
    pub fn of(word: u32) -> Self {
        match word & 0x7f {
            0 => Status::Exited((word >> 8 & 0xff) as i32),
            signal => Status::Killed(signal),
        }
    }

    /// The exit code; 128 + n after signal n, as shells have it.
    pub fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Killed(signal) => 128 + signal as i32,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exited with {code}"),
            Status::Killed(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

fn wait4(pid: Pid) -> Result<(Pid, Status)> {
    let mut status = 0u32;
    loop {
        // SAFETY: the kernel writes one word, to `status`.
        match unsafe { syscall(__NR_wait4, [pid as usize, &raw mut status as usize, 0, 0]) } {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(pid) => return Ok((pid as Pid, Status::of(status))),
        }
    }
}

/// Waits for a child with options (WNOHANG, WUNTRACED, ...); the status as the kernel gives it.
pub fn wait_raw(pid: Pid, options: u32) -> Result<(Pid, u32)> {
    let mut status = 0u32;
    // SAFETY: the kernel writes one word, to `status`.
    let child = unsafe {
        syscall(
            __NR_wait4,
            [
                pid as usize,
                (&raw mut status) as usize,
                options as usize,
                0,
            ],
        )
    }?;
    Ok((child as Pid, status))
}

/// Waits for the end of one child.
pub fn wait(child: Pid) -> Result<Status> {
    wait4(child).map(|(_, status)| status)
}

/// Waits for the end of any child.
pub fn wait_any() -> Result<(Pid, Status)> {
    wait4(-1)
}

/// Waits for one child, which must end as expected.
#[track_caller]
pub fn expect(child: Pid, expected: Status) {
    match wait(child) {
        Ok(status) if status == expected => {}
        Ok(status) => fail(format_args!("child {child} {status}; expected: {expected}")),
        Err(errno) => fail(format_args!("waiting for child {child}: {errno}")),
    }
}

/// Waits for one child, which must succeed.
#[track_caller]
pub fn expect_success(child: Pid) {
    expect(child, Status::Exited(0));
}

/// Starts this very program in place of itself, with other arguments; returns only if that failed.
pub fn exec_self(args: &Args, arguments: &[&CStr]) -> Errno {
    let path = args.executable();
    let mut argv = [path; MOST_ARGUMENTS];
    let Some(rest) = argv.get_mut(1..=arguments.len()) else {
        return Errno::E2BIG;
    };
    rest.copy_from_slice(arguments);
    exec(path, &argv[..=arguments.len()], args.envp)
}

/// Ends this process.
pub fn exit(code: i32) -> ! {
    // SAFETY: nothing runs after this.
    let _ = unsafe { syscall(__NR_exit_group, [code as usize]) };
    unreachable!("exit_group returned")
}

/// This process's id.
pub fn getpid() -> Pid {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_getpid, []) }.map_or(0, |pid| pid as Pid)
}

/// The parent's id.
pub fn getppid() -> Pid {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_getppid, []) }.map_or(0, |pid| pid as Pid)
}

/// Lets other processes run.
pub fn sched_yield() {
    // SAFETY: touches no memory.
    unsafe { syscall(__NR_sched_yield, []) }.or_fail("sched_yield");
}

/// Ignores a signal from now on.
pub fn ignore_signal(signal: u32) -> Result<()> {
    // struct sigaction: handler (1 is SIG_IGN), flags, restorer, mask.
    let action = [1usize, 0, 0, 0];
    // SAFETY: the kernel reads `action` and installs no handler.
    unsafe {
        syscall(
            __NR_rt_sigaction,
            [signal as usize, action.as_ptr() as usize, 0, 8],
        )
    }
    .map(drop)
}

/// The CPU that this runs on, or did a moment ago.
pub fn cpu() -> Result<usize> {
    let mut cpu = 0_u32;
    // SAFETY: the kernel writes the number there, and nothing where the null pointers are.
    unsafe { syscall(__NR_getcpu, [&raw mut cpu as usize, 0, 0]) }?;
    Ok(cpu as usize)
}

/// The CPUs that this process may run on, a bit each.
pub fn cpus() -> Result<u64> {
    // As many as Linux may have.
    let mut mask = [0_u64; 16];
    let len = size_of_val(&mask);
    // SAFETY: the kernel writes at most `len` bytes there.
    unsafe { syscall(__NR_sched_getaffinity, [0, len, mask.as_mut_ptr() as usize]) }?;
    Ok(mask[0])
}

/// Lets this process and the children that it will have run on these CPUs only.
pub fn run_on(cpus: u64) -> Result<()> {
    let mask = &raw const cpus as usize;
    // SAFETY: the kernel reads eight bytes there.
    unsafe { syscall(__NR_sched_setaffinity, [0, size_of::<u64>(), mask]) }?;
    Ok(())
}

/// Stays on the CPU that this runs on, with the children that it will have: they take turns.
pub fn stay_on_one_cpu() -> Result<()> {
    run_on(1 << cpu()?)
}
