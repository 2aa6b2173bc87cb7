//! From the rings to the serial line: frames, in one sequence, through a queue of bytes.
//!
//! Nothing here may log: the logger ends up in this file.

use super::meta::{self, Meta, Rotation};
use super::ring::ring;
use crate::arch::{self, time};
use crate::driver::uart;
use crate::process::options::{Level, Options};
use crate::process::{self, random};
use alloc::collections::VecDeque;
use memory::{Lock, Rank};
use wire::batch::Encoder;
use wire::event::KINDS;
use wire::frame::{self, Body, Envelope, Hello, MAX_CONTENT, MAX_FRAME, TraceLevel};
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
    rotation: Rotation,
    next_hello: u64,
    next_snapshot: u64,
    early: [u8; EARLY],
    early_len: usize,
    early_lost: u32,
}

/// The stream of this machine. Lock order: last of all, but for the process table, which the
/// rotation looks into (and nothing emits an event while it holds the table).
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
            rotation: Rotation::Done,
            next_hello: 0,
            next_snapshot: 0,
            early: [0; EARLY],
            early_len: 0,
            early_lost: 0,
        }
    }

    /// Says hello, and what was logged before; returns how many log frames were lost by then.
    pub fn start(&mut self) -> u32 {
        self.queue.reserve(QUEUE);
        self.nonce = random::number();
        self.started = true;
        let now = time::now();
        self.next_hello = now;
        self.next_snapshot = now + time::hz();
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

    /// Moves events from this CPU's ring to the line: at most `batches` of them, and with
    /// `Wait::No` only while the queue has room. True if the ring is empty.
    pub fn drain(&mut self, batches: usize, wait: Wait) -> bool {
        for _ in 0..batches {
            if wait == Wait::No && !self.has_room() {
                return false;
            }
            let mut ring = ring();
            while let Some(record) = ring.front() {
                let kind = record.event.kind();
                if self.encoder.push(record).is_err() {
                    break;
                }
                ring.emitted[kind] += 1;
                ring.pop();
            }
            if self.encoder.is_empty() {
                let meta = ring.pop_meta();
                drop(ring);
                match meta {
                    Some(meta) => self.meta(&meta, wait),
                    None => return true,
                }
                continue;
            }
            let dropped = ring.dropped.iter().sum();
            drop(ring);
            let cpu = arch::cpu::id() as u8;
            let len = self
                .encoder
                .finish(cpu, self.sequence, dropped, &mut self.frame);
            self.sent(len, wait);
        }
        ring().is_empty()
    }

    /// What is due: a hello, a snapshot, a piece of the rotation.
    pub fn heartbeat(&mut self, now: u64) {
        if now >= self.next_hello && self.has_room() {
            self.next_hello = now + 2 * time::hz();
            self.hello(now);
            if matches!(self.rotation, Rotation::Done)
                && process::options::options().level > Level::Off
            {
                self.rotation = Rotation::Processes(0);
            }
        }
        if now >= self.next_snapshot && self.has_room() {
            self.next_snapshot = now + time::hz();
            self.snapshot(now);
        }
        if self.has_room()
            && let Some(meta) = self.rotation.next()
        {
            self.meta(&meta, Wait::No);
        }
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
            cpus: board.cpus as u8,
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
            ring: ring().capacity() as u32,
            fork: options.fork,
            boot_nonce: self.nonce,
            bootargs: frame::clip(board.bootargs, MAX_CONTENT / 2),
            time: now,
        };
        self.send(Body::Hello(hello), Wait::Yes);
    }

    fn snapshot(&mut self, now: u64) {
        let memory = arch::mmu::memory();
        let ring = ring();
        let snapshot = frame::Snapshot {
            time: now,
            free_frames: memory.frames.free_count(),
            total_frames: memory.frames.total(),
            kernel_heap_bytes: arch::heap::bytes(),
            processes: process::table::count(),
            emitted: ring.emitted,
            dropped: ring.dropped,
            ring_high_water: ring.high_water as u32,
        };
        drop(ring);
        self.send(Body::Snapshot(snapshot), Wait::Yes);
    }

    /// The last words: totals, and everything down the line.
    pub fn end(&mut self, code: i32) {
        self.drain(usize::MAX, Wait::Yes);
        let now = time::now();
        self.snapshot(now);
        let ring = ring();
        let (emitted, dropped): ([u64; KINDS], [u64; KINDS]) = (ring.emitted, ring.dropped);
        drop(ring);
        let free_frames = arch::mmu::memory().frames.free_count();
        let frames_sent = self.frames + 1;
        self.send(
            Body::End(frame::End {
                code,
                time: now,
                free_frames,
                emitted,
                dropped,
                frames_sent,
            }),
            Wait::Yes,
        );
        while !self.pump() {}
    }

    /// Sends one frame.
    pub fn send(&mut self, body: Body<'_>, wait: Wait) {
        let envelope = Envelope::new(arch::cpu::id() as u8, self.sequence, body);
        if let Ok(len) = frame::encode(&envelope, &mut self.frame) {
            self.sent(len, wait);
        }
    }

    /// Counts the frame in the buffer, and puts its `len` bytes on the line or into the queue.
    fn sent(&mut self, len: usize, wait: Wait) {
        self.sequence = self.sequence.wrapping_add(1);
        self.frames += 1;
        let mut at = 0;
        if self.pump() {
            while at < len && uart::wire_uart().try_put(self.frame[at]) {
                at += 1;
            }
        }
        while wait == Wait::Yes && self.queue.len() + len - at > QUEUE {
            self.pump();
        }
        // Without waiting, the caller has looked for room: a frame is sent whole or not at all.
        self.queue.extend(&self.frame[at..len]);
    }

    /// Whether a frame of any size fits in the queue.
    fn has_room(&self) -> bool {
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
