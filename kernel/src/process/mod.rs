//! Processes: their life from fork to wait.

pub mod clock;
pub mod credentials;
pub mod elf;
pub mod entry;
pub mod exec;
pub mod exit;
pub mod fault;
pub mod fork;
pub mod futex;
pub mod group;
pub mod image;
pub mod limits;
pub mod membarrier;
pub mod options;
pub mod random;
pub mod scheduler;
pub mod script;
pub mod signal;
pub mod space;
pub mod table;
pub mod thread;
pub mod threads;
pub mod timer;
pub mod timers;
pub mod usage;
pub mod vdso;
pub mod wait;

use crate::fs::access::Caller;
use crate::fs::node::{Content, Node};
use crate::fs::running::Program;
use crate::fs::tree::{self, Entry, Start};
use crate::fs::{self, Descriptor, FileTable, Object, initramfs};
use crate::syscall::errno::Errno;
use crate::trace::meta::{Meta, ProcessMeta};
use crate::{board, trace};
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use credentials::Credentials;
use limits::Limits;
use linux_raw_sys::general::{O_RDONLY, O_RDWR, O_WRONLY, SIGCHLD};
use memory::{Lock, Rank};
use space::Space;
use thread::Thread;
use wire::event::{Event, ForkMode};

/// A process.
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's number; 0: none.
    pub parent: AtomicU32,
    /// Its process group.
    pub group: AtomicU32,
    /// Its session.
    pub session: AtomicU32,
    /// Its wait status, once it has ended.
    pub status: AtomicU32,
    /// It has, or had, more threads than one.
    pub threaded: AtomicBool,
    /// A thread of it sleeps in wait for a child, or did.
    pub waiting: AtomicBool,
    /// Its descriptors.
    pub files: Lock<FileTable>,
    /// Its signals, and its threads, which they are for.
    pub signals: signal::OfProcess,
    /// Who it is to others.
    pub credentials: Lock<Credentials>,
    /// Wait status of its last stop or continuation, until somebody has waited for it; 0: none.
    pub report: AtomicU32,
    /// The signal that its end sends to its parent; 0: none.
    pub end_signal: AtomicU32,
    /// Its limits.
    pub limits: Lock<Limits>,
    /// Its timers.
    pub timers: timers::Timers,
    /// What it has used.
    pub usage: usage::OfProcess,
    /// The signal that it gets when its parent ends (PR_SET_PDEATHSIG); 0: none.
    pub death_signal: AtomicU32,
    /// Orphans among its descendants become its children (PR_SET_CHILD_SUBREAPER).
    pub subreaper: AtomicBool,
    /// It may not gain rights by exec (PR_SET_NO_NEW_PRIVS).
    pub no_new_rights: AtomicBool,
    /// The terminal is its controlling terminal, if it is its session's.
    pub terminal: AtomicBool,
    /// PR_SET_DUMPABLE.
    pub dumpable: AtomicU32,
    /// It has run a program of its own since it was forked.
    pub executed: AtomicBool,
    /// -20 to 19, kept for those who ask: all have the same share of the CPUs.
    pub nice: AtomicI32,
    /// The rest.
    pub state: Lock<State>,
}

/// What of a process changes with exec, and what few ask for.
pub struct State {
    /// What `ps` shows (prctl PR_SET_NAME), padded with NUL.
    pub name: [u8; 16],
    /// Its program.
    pub program: Option<Program>,
    /// Its working directory.
    pub directory: Arc<Entry>,
    /// Its root directory.
    pub root: Arc<Entry>,
    /// The file mode bits it clears at creation.
    pub umask: u32,
    /// Serial number, root frame and ASID of its address space.
    pub space: (u32, u64, u16),
    /// How its forks copy it (PR_SET_FORK_MODE). Its children inherit that; exec keeps it.
    pub fork_mode: ForkMode,
    /// Where its arguments and its environment are in its memory: first byte, and one past the last.
    pub strings: ((u64, u64), (u64, u64)),
    /// Its address space, for those who look at it from outside.
    pub memory: Weak<Space>,
    /// The thread that waits in vfork for exec or the end of this process.
    pub vfork_parent: Option<Arc<Thread>>,
}

impl Process {
    /// Tells the trace of it.
    pub fn announce(&self) {
        let state = self.state.lock();
        let meta = ProcessMeta {
            pid: self.pid,
            parent: self.parent.load(Ordering::Relaxed),
            space: state.space,
            file: state
                .program
                .as_ref()
                .map_or(0, |program| program.entry().node.id),
            name: state.name,
        };
        // Under the lock: nobody tells what is true no more after what is.
        trace::meta(Meta::Process(meta));
    }

    /// Tells the trace of it and of all its threads.
    pub fn announce_all(&self) {
        self.announce();
        let mut last = 0;
        loop {
            let next = self.signals.lock().threads.after(last);
            let Some(tid) = next else { break };
            if tid != self.pid {
                threads::announce(self, tid);
            }
            last = tid;
        }
    }

    /// Its user.
    pub fn real_uid(&self) -> u32 {
        self.credentials.lock().uid.real
    }

    /// Whether it has ended, collected or not.
    pub fn has_ended(&self) -> bool {
        self.signals.lock().threads.is_empty()
    }

    /// Whether it may have more threads than the one that asks.
    #[inline]
    pub fn has_threads(&self) -> bool {
        self.threaded.load(Ordering::Relaxed)
    }

    /// Its first thread, or another if that has ended.
    pub fn thread(&self) -> Option<Arc<Thread>> {
        self.signals.lock().threads.any().cloned()
    }
}

/// The pid of `/init`.
pub const INIT: u32 = 1;

/// Starts the first process, and runs the machine.
pub fn start() -> ! {
    let board = board::board();
    let options = options::init(board.bootargs);
    clock::init();
    let frames = crate::arch::mmu::memory().frames.total();
    fs::limit_memory(frames);
    table::init(frames);
    initramfs::build(board::initrd(board));
    trace::start();
    for word in &options.unknown {
        defmt::warn!("unknown boot argument {=str}", word.as_str());
    }
    if let Err(error) = spawn_init(options) {
        let path = options.init.as_str();
        defmt::error!(
            "cannot start {=str}: error {=u16}; is it in the initramfs?",
            path,
            error.code()
        );
        exit::machine(127);
    }
    scheduler::run()
}

/// The start of lookups of the kernel's own.
pub fn from_root() -> Start {
    Start {
        root: tree::root().clone(),
        directory: tree::root().clone(),
        caller: Caller::ROOT,
    }
}

fn spawn_init(options: &options::Options) -> Result<(), Errno> {
    let mut files = FileTable::default();
    let start = from_root();
    let console = tree::lookup(&start, b"/dev/console", true)?;
    for fd in 0..3 {
        let number = fd as u8;
        let file = if options.terminals[fd] {
            fs::File::new(Object::Tty(number), console.clone(), O_RDWR)?
        } else {
            let id = fs::node::next_id();
            let content = Content::Stream(number);
            let node = Node::with_id(id, fs::PIPE_DEVICE, content, 0o600, 0, 0)?;
            node.change(|attributes| attributes.links = 1);
            let name = alloc::format!("pipe:[{id}]");
            let access = if fd == 0 { O_RDONLY } else { O_WRONLY };
            fs::File::unnamed(Object::Stream(number), node, name.as_bytes(), access)?
        };
        files.replace(
            fd,
            Descriptor {
                file,
                close_on_exec: false,
            },
        )?;
    }
    let program = tree::lookup(&start, options.init.as_bytes(), true)?;
    let reserved = table::allocate()?;
    let pid = reserved.number();
    let process = Arc::new(Process {
        pid,
        parent: AtomicU32::new(0),
        group: AtomicU32::new(pid),
        session: AtomicU32::new(pid),
        status: AtomicU32::new(0),
        threaded: AtomicBool::new(false),
        waiting: AtomicBool::new(false),
        files: Lock::new(Rank::Descriptors, files),
        signals: signal::OfProcess::new(None),
        credentials: Lock::new(Rank::Credentials, Credentials::default()),
        report: AtomicU32::new(0),
        end_signal: AtomicU32::new(SIGCHLD),
        limits: Lock::new(Rank::Limits, Limits::initial()),
        timers: timers::Timers::default(),
        usage: usage::OfProcess::default(),
        death_signal: AtomicU32::new(0),
        subreaper: AtomicBool::new(false),
        no_new_rights: AtomicBool::new(false),
        terminal: AtomicBool::new(false),
        dumpable: AtomicU32::new(1),
        executed: AtomicBool::new(true),
        nice: AtomicI32::new(0),
        state: Lock::new(
            Rank::Process,
            State {
                name: exec::short_name(&program.name()?),
                program: Some(Program::new(program)?),
                directory: tree::root().clone(),
                root: tree::root().clone(),
                umask: 0o22,
                space: (0, 0, 0),
                fork_mode: options.fork,
                strings: ((0, 0), (0, 0)),
                memory: Weak::new(),
                vfork_parent: None,
            },
        ),
    });
    // A thread with an empty address space execs its program as any other would: the first thing
    // it does is to run `exec::first`.
    let space = Space::new()?;
    {
        let mut state = process.state.lock();
        state.space = space.identity();
        state.memory = Arc::downgrade(&space);
    }
    trace::emit(Event::Spawn {
        pid,
        space: space.serial,
    });
    process.announce();
    let start = thread::Start {
        entry: exec::first,
        ..Default::default()
    };
    let thread = Thread::new(pid, process.clone(), Some(space), &start)?;
    process.signals.lock().threads.begin(thread.clone());
    table::insert(reserved, process, 0);
    scheduler::start(thread);
    Ok(())
}
