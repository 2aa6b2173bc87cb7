//! Running another program in a process.

use super::credentials::Rights;
use super::elf::{self, Elf};
use super::image::{Arguments, Image, Loadable, Strings};
use super::script::{HEAD, Script};
use super::space::Space;
use super::thread::{self, Current, current};
use super::{exit, futex, options, scheduler, signal, threads, timers, usage};
use crate::arch::{self, trap::TrapFrame};
use crate::fs::access::{self, Caller};
use crate::fs::label;
use crate::fs::node::Content;
use crate::fs::regular::Regular;
use crate::fs::running::Program;
use crate::fs::tree::{self, Entry, Start};
use crate::syscall::errno::Errno;
use crate::trace;
use alloc::{sync::Arc, vec::Vec};
use core::ptr;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{SIGCHLD, X_OK};
use wire::event::Event;

/// How often one script may be run by another one (fs/exec.c, `exec_binprm`).
const MAX_SCRIPTS: usize = 5;

/// A file that may be executed.
struct Executable {
    entry: Arc<Entry>,
    /// Nobody writes it meanwhile.
    running: Program,
}

/// `execve`: replaces the program of the current process by `program`, which `arguments.path` leads to
/// from `start`. On an error everything is as it was.
pub fn exec(
    frame: &mut TrapFrame,
    from: &Start,
    program: Arc<Entry>,
    mut arguments: Arguments,
) -> Result<(), Errno> {
    let start = arch::time::cycles();
    let program = interpreted(from, Executable::new(program)?, &mut arguments)?;
    let elf = program.file()?.program()?;
    let interpreter = match &elf.interpreter {
        Some(path) => Some(dynamic_linker(from, path)?),
        None => None,
    };
    label::announce(&program.entry)?;
    let interpreter = match &interpreter {
        Some((linker, elf)) => {
            label::announce(&linker.entry)?;
            let file = linker.file()?;
            Some(Loadable { file, elf })
        }
        None => None,
    };
    let loadable = Loadable {
        file: program.file()?,
        elf: &elf,
    };
    arguments.rights = Rights::by_exec(&current().process, &program.entry.node.attributes());
    let rights = arguments.rights;
    let name = short_name(arguments.name());
    let space = Space::new()?;
    let (sp, entry, old) = match load(&space, loadable, interpreter, &arguments) {
        Ok(loaded) => loaded,
        Err(error) => {
            Space::release(space);
            return Err(error);
        }
    };
    let node = program.entry.node.clone();
    let running = program.running;
    let thread = current();
    let process = &thread.process;
    let loading = arch::time::cycles().wrapping_sub(start);
    if let Err(error) = leave_threads(&thread, &old) {
        drop(thread.replace_space(Some(old)));
        Space::release(space);
        return Err(error);
    }
    // It may have been another CPU's counter until here.
    let start = arch::time::cycles().wrapping_sub(loading);
    let last = Arc::strong_count(&old) == 1;
    if last {
        old.report_resident();
    }
    trace::emit(Event::Exec {
        pid: process.pid,
        old_space: old.serial,
        space: space.serial,
        file: node.id,
        cost: arch::time::cycles().wrapping_sub(start) as u32,
    });
    {
        let mut state = process.state.lock();
        let before = state.program.replace(running);
        state.name = name;
        state.space = space.identity();
        state.memory = Arc::downgrade(&space);
        drop(state);
        drop(before);
    }
    process.announce();
    space.report_resident();
    drop(space);
    Space::release(old);
    exit::release_vfork_parent(process);
    loop {
        // One at a time, and dropped without the table's lock.
        let closed = process.files.lock().take_close_on_exec();
        match closed {
            Some(closed) => closed.close(),
            None => break,
        }
    }
    signal::exec(&thread);
    timers::exec(process);
    process.executed.store(true, Ordering::Relaxed);
    rights.give(process);
    process.end_signal.store(SIGCHLD, Ordering::Relaxed);
    thread.clear_child_tid.store(0, Ordering::Relaxed);
    thread.reset_user_state();
    *frame = TrapFrame {
        pc: entry,
        sp,
        ..TrapFrame::default()
    };
    Ok(())
}

/// Nothing that may fail is left: ends the other threads of the process, which see the address space
/// that they share as it was, and does there what an ending thread owes. EAGAIN: the process ends.
fn leave_threads(thread: &Current, old: &Arc<Space>) -> Result<(), Errno> {
    threads::end_others(thread)?;
    thread.process.threaded.store(false, Ordering::Relaxed);
    let shared = Arc::strong_count(old) > 1;
    if futex::owes(thread, shared) {
        let new = thread.replace_space(Some(old.clone()));
        futex::leave_memory(thread, shared);
        drop(thread.replace_space(new));
    }
    Ok(())
}

impl Executable {
    fn new(entry: Arc<Entry>) -> Result<Executable, Errno> {
        if !matches!(entry.node.content, Content::Regular(_)) {
            return Err(Errno::EACCES);
        }
        access::check(&entry.node, &Caller::current(), X_OK)?;
        let running = Program::new(entry.clone())?;
        Ok(Executable { entry, running })
    }

    fn file(&self) -> Result<&Regular, Errno> {
        match &self.entry.node.content {
            Content::Regular(file) => Ok(file),
            _ => Err(Errno::EACCES),
        }
    }
}

/// The program, or of a script its interpreter, with the arguments that the script's first line gives it.
fn interpreted(
    from: &Start,
    mut program: Executable,
    arguments: &mut Arguments,
) -> Result<Executable, Errno> {
    let mut called: Option<Vec<u8>> = None;
    for _ in 0..=MAX_SCRIPTS {
        let cache = program.file()?.cache();
        let head =
            elf::Contents::get(&**cache, 0, HEAD.min(elf::Contents::len(&**cache) as usize))?;
        let Some(script) = Script::parse(&head) else {
            return Ok(program);
        };
        arguments.run_by(&script, called.as_deref())?;
        let mut path = Vec::new();
        path.try_reserve_exact(script.interpreter.len())
            .map_err(|_| Errno::ENOMEM)?;
        path.extend_from_slice(script.interpreter);
        program = Executable::new(tree::lookup(from, &path, true)?)?;
        called = Some(path);
    }
    Err(Errno::ELOOP)
}

/// The dynamic linker of a program, with Linux's errors for one that is none.
fn dynamic_linker(from: &Start, path: &[u8]) -> Result<(Executable, Arc<Elf>), Errno> {
    /// Bytes of an ELF header.
    const HEADER: u64 = 64;
    let linker = Executable::new(tree::lookup(from, path, true)?)?;
    let file = linker.file()?;
    if elf::Contents::len(&**file.cache()) < HEADER {
        return Err(Errno::EIO);
    }
    let elf = file.program().map_err(|error| match error {
        Errno::ENOEXEC => Errno::ELIBBAD,
        error => error,
    })?;
    Ok((linker, elf))
}

/// Loads the program into `space` and makes it the current thread's. Returns the stack pointer, the
/// entry point, and the address space that was left.
fn load(
    space: &Arc<Space>,
    program: Loadable<'_>,
    interpreter: Option<Loadable<'_>>,
    arguments: &Arguments,
) -> Result<(u64, u64, Arc<Space>), Errno> {
    let image = Image::map(space, program, interpreter, arguments.stack_len())?;
    let thread = current();
    // The new address space is filled as its program would do it: through its own mappings.
    usage::note_resident(&thread.process, &thread);
    let old = thread.replace_space(Some(space.clone()));
    thread.loading.store(true, Ordering::Relaxed);
    let filled = image.fill(program.elf, arguments);
    thread.loading.store(false, Ordering::Relaxed);
    match (filled, old) {
        (Ok(sp), Some(old)) => {
            thread.process.state.lock().strings = image.strings(arguments);
            Ok((sp, image.start(), old))
        }
        (filled, old) => {
            drop(thread.replace_space(old));
            Err(filled.err().unwrap_or(Errno::EFAULT))
        }
    }
}

/// The name of a process: the last component of its program's path, clipped to 15 bytes.
pub fn short_name(name: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    let len = name.len().min(15);
    short[..len].copy_from_slice(&name[..len]);
    short
}

/// Where the first thread of the machine starts: it runs `/init`.
pub extern "C" fn first(frame: usize) -> ! {
    scheduler::finish_switch();
    // SAFETY: `Thread::new` put a frame there, at the top of this thread's stack.
    let frame = unsafe { &mut *ptr::with_exposed_provenance_mut::<TrapFrame>(frame) };
    if let Err(error) = run_init(frame) {
        let path = options::options().init.as_str();
        defmt::error!("cannot run {=str}: error {=u16}", path, error.code());
        exit::machine(127);
    }
    thread::return_to_user(frame)
}

fn run_init(frame: &mut TrapFrame) -> Result<(), Errno> {
    let options = options::options();
    let mut arguments = Arguments {
        rights: Default::default(),
        path: Strings::default(),
        arguments: Strings::default(),
        environment: Strings::default(),
    };
    arguments.path.push(options.init.as_bytes())?;
    arguments.arguments.push(options.init.as_bytes())?;
    for word in &options.arguments {
        arguments.arguments.push(word.as_bytes())?;
    }
    for word in &options.environment {
        arguments.environment.push(word.as_bytes())?;
    }
    let start = super::from_root();
    let program = tree::lookup(&start, options.init.as_bytes(), true)?;
    exec(frame, &start, program, arguments)
}
