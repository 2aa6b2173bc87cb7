//! From the rings to the serial line: frames, in one sequence, through a queue of bytes.
//!
//! Nothing here may log: the logger ends up in this file.

use super::meta::{self, Meta};
use super::ring::{Merge, Ring, ring, rings};
use crate::arch::{self, time};
use crate::driver::uart;
use crate::fs::name::MadeUp;
use crate::process;
use crate::process::options::{Level, Options};
use crate::watchdog;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU64, Ordering};
use memory::{Lock, Rank};
use wire::batch::Encoder;
use wire::event::KINDS;
use wire::frame::{self, Body, Contention, Envelope, Hello, MAX_CONTENT, MAX_FRAME, TraceLevel};
use wire::{MAJOR, MINOR};

/// Bytes that may wait for the line.
const QUEUE: usize = 64 * 1024;
/// Bytes of log frames kept from before the stream starts.
const EARLY: usize = 2048;

/// Whether to wait for a line that is slower than we are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until all is on the line, or in the queue.
    Yes,
    /// Not at all.
    No,
}

/// The stream.
pub struct Output {
    started: bool,
    sequence: u32,
    frames: u64,
    nonce: u64,
    encoder: Encoder,
    frame: [u8; MAX_FRAME],
    queue: VecDeque<u8>,
    next_hello: u64,
    early: [u8; EARLY],
    early_len: usize,
    early_lost: u32,
}

/// When the next snapshot is due. Only the boot CPU's tick uses it.
static NEXT_SNAPSHOT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Whether a snapshot is due.
pub fn snapshot_due(now: u64) -> bool {
    now >= NEXT_SNAPSHOT.load(Ordering::Relaxed)
}

/// What a snapshot says of the machine, to be known before the output is locked.
pub struct Facts {
    free_frames: u64,
    total_frames: u64,
    heap_bytes: u64,
    processes: u32,
}

impl Facts {
    /// As of now.
    pub fn gather() -> Facts {
        let memory = arch::mmu::memory();
        Facts {
            free_frames: memory.frames.free_count(),
            total_frames: memory.frames.total(),
            heap_bytes: arch::heap::bytes(),
            processes: process::table::count(),
        }
    }
}

/// The stream of this machine. Lock order: last of all, but for the `Meta`s that wait.
pub static OUTPUT: Lock<Output> = Lock::new(Rank::Output, Output::new());

impl Output {
    const fn new() -> Output {
        Output {
            started: false,
            sequence: 0,
            frames: 0,
            nonce: 0,
            encoder: Encoder::new(),
            frame: [0; MAX_FRAME],
            queue: VecDeque::new(),
            next_hello: 0,
            early: [0; EARLY],
            early_len: 0,
            early_lost: 0,
        }
    }

    /// Room for what is to be sent: allocated before the output is locked, since the heap's lock
    /// comes before that.
    pub fn room() -> VecDeque<u8> {
        VecDeque::with_capacity(QUEUE)
    }

    /// Says hello, and what was logged before; returns how many log frames were lost by then.
    pub fn start(&mut self, nonce: u64, room: VecDeque<u8>) -> u32 {
        self.queue = room;
        self.nonce = nonce;
        self.started = true;
        let now = time::now();
        self.next_hello = now;
        NEXT_SNAPSHOT.store(now + time::hz(), Ordering::Relaxed);
        self.hello(now);
        let mut at = 0;
        while at + 2 <= self.early_len {
            let len = usize::from(u16::from_le_bytes([self.early[at], self.early[at + 1]]));
            let mut bytes = [0; MAX_CONTENT];
            bytes[..len].copy_from_slice(&self.early[at + 2..at + 2 + len]);
            self.send(Body::Log(&bytes[..len]), Wait::Yes);
            at += 2 + len;
        }
        self.early_lost
    }

    /// Sends a log frame, or keeps it until the stream starts.
    pub fn log(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MAX_CONTENT)];
        if self.started {
            self.send(Body::Log(bytes), Wait::Yes);
        } else if let Some(room) = self
            .early
            .get_mut(self.early_len..self.early_len + 2 + bytes.len())
        {
            room[..2].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
            room[2..].copy_from_slice(bytes);
            self.early_len += room.len();
        } else {
            self.early_lost += 1;
        }
    }

    /// Moves events from the rings to the line, in order: at most `batches` of them, and with
    /// `Wait::No` only while the queue has room. True if all that there were are gone.
    pub fn drain(&mut self, batches: usize, wait: Wait) -> bool {
        let mut merge = Merge::new();
        for _ in 0..batches {
            if wait == Wait::No && !self.has_room() {
                return false;
            }
            let until = meta::first();
            while let Some(record) = merge.front(until) {
                if self.encoder.push(record).is_err() {
                    break;
                }
                merge.pop(record.event.kind());
            }
            if self.encoder.is_empty() {
                if until >= merge.horizon() {
                    return true;
                }
                if let Some(meta) = meta::pop() {
                    self.meta(&meta, wait);
                }
                continue;
            }
            let dropped = rings().iter().flat_map(Ring::dropped).sum();
            let cpu = arch::cpu::id() as u8;
            let len = self
                .encoder
                .finish(cpu, self.sequence, dropped, &mut self.frame);
            self.sent(len, wait);
        }
        false
    }

    /// What is due: a hello, a snapshot. Whether it said hello.
    pub fn heartbeat(&mut self, now: u64, facts: Option<Facts>) -> bool {
        if let Some(facts) = facts
            && self.has_room()
        {
            NEXT_SNAPSHOT.store(now + time::hz(), Ordering::Relaxed);
            self.snapshots(now, &facts);
        }
        let due = now >= self.next_hello && self.has_room();
        if due {
            self.next_hello = now + 2 * time::hz();
            self.hello(now);
        }
        due
    }

    fn meta(&mut self, meta: &Meta, wait: Wait) {
        meta::with_wire(meta, |meta| self.send(Body::Meta(meta), wait));
    }

    fn hello(&mut self, now: u64) {
        let options: &Options = process::options::options();
        let board = crate::board::board();
        let memory = arch::mmu::memory();
        let hello = Hello {
            major: MAJOR,
            minor: MINOR,
            schema: Hello::SCHEMA,
            build_id: arch::layout::build_id(),
            board: frame::clip(board.name, MAX_CONTENT / 4),
            midr: arch::cpu::midr(),
            cpus: rings().len() as u8,
            counter_hz: time::hz(),
            ram_bytes: memory.frames.total() * memory::PAGE_SIZE,
            asid_bits: memory.asids.bits(),
            trace: match options.level {
                Level::Off => TraceLevel::Off,
                Level::Life => TraceLevel::Life,
                Level::Faults => TraceLevel::Faults,
                Level::Mmu => TraceLevel::Mmu,
            },
            lossless: options.lossless,
            ring: ring(0).capacity() as u32,
            fork: options.fork,
            boot_nonce: self.nonce,
            bootargs: frame::clip(board.bootargs, MAX_CONTENT / 2),
            time: now,
        };
        self.send(Body::Hello(hello), Wait::Yes);
    }

    /// A snapshot of each CPU.
    fn snapshots(&mut self, now: u64, facts: &Facts) {
        for (cpu, ring) in rings().iter().enumerate() {
            let snapshot = frame::Snapshot {
                time: now,
                free_frames: facts.free_frames,
                total_frames: facts.total_frames,
                kernel_heap_bytes: facts.heap_bytes,
                processes: facts.processes,
                emitted: ring.emitted(),
                dropped: ring.dropped(),
                ring_high_water: ring.high_water() as u32,
            };
            self.send_as(cpu as u8, Body::Snapshot(snapshot), Wait::Yes);
        }
    }

    /// The last words: totals, and everything down the line.
    pub fn end(&mut self, code: i32, facts: Facts) {
        self.drain(usize::MAX, Wait::Yes);
        let now = time::now();
        self.snapshots(now, &facts);
        for cost in watchdog::costs() {
            let name = MadeUp::new(format_args!("{:?}", cost.rank));
            let contention = Contention {
                lock: str::from_utf8(&name).unwrap_or_default(),
                waits: cost.waits,
                attempts: cost.attempts,
                ticks: cost.ticks,
                longest: cost.longest,
            };
            self.send(Body::Contention(contention), Wait::Yes);
        }
        let total = |of: fn(&Ring) -> [u64; KINDS]| {
            rings().iter().map(of).fold([0; KINDS], |sum, counts| {
                core::array::from_fn(|kind| sum[kind] + counts[kind])
            })
        };
        let frames_sent = self.frames + 1;
        self.send(
            Body::End(frame::End {
                code,
                time: now,
                free_frames: facts.free_frames,
                emitted: total(Ring::emitted),
                dropped: total(Ring::dropped),
                frames_sent,
            }),
            Wait::Yes,
        );
        while !self.pump() {}
    }

    /// Sends one frame.
    pub fn send(&mut self, body: Body<'_>, wait: Wait) {
        self.send_as(arch::cpu::id() as u8, body, wait);
    }

    fn send_as(&mut self, cpu: u8, body: Body<'_>, wait: Wait) {
        let envelope = Envelope::new(cpu, self.sequence, body);
        if let Ok(len) = frame::encode(&envelope, &mut self.frame) {
            self.sent(len, wait);
        }
    }

    /// Counts the frame in the buffer, and puts its `len` bytes on the line or into the queue.
    fn sent(&mut self, len: usize, wait: Wait) {
        self.sequence = self.sequence.wrapping_add(1);
        self.frames += 1;
        let mut at = 0;
        watchdog::at_the_wire(true);
        if self.pump() {
            while at < len && uart::wire_uart().try_put(self.frame[at]) {
                at += 1;
            }
        }
        while wait == Wait::Yes && self.queue.len() + len - at > QUEUE {
            self.pump();
        }
        watchdog::at_the_wire(false);
        // Without waiting, the caller has looked for room: a frame is sent whole or not at all.
        self.queue.extend(&self.frame[at..len]);
    }

    /// Whether a frame of any size fits in the queue.
    pub fn has_room(&self) -> bool {
        QUEUE - self.queue.len() >= MAX_FRAME
    }

    /// Puts queued bytes on the line, as many as it takes now. True if none are left.
    pub fn pump(&mut self) -> bool {
        while let Some(&byte) = self.queue.front() {
            if !uart::wire_uart().try_put(byte) {
                return false;
            }
            self.queue.pop_front();
        }
        true
    }
}
