//! A small kernel of the imagination: it keeps its own page maps and reference counts, says what
//! it does through the wire's own encoder, and so is an oracle for what the tools rebuild.

use std::collections::BTreeMap;

use wire::batch::Encoder;
use wire::event::{
    Access, Backing, Event, Fault, Fork, ForkMode, KINDS, Map, Origin, Outcome, Record, Region,
    Stack,
};
use wire::frame::{
    Body, Contention, End, Envelope, Hello, MAX_FRAME, Meta, Snapshot, TraceLevel, encode,
};

pub const HZ: u64 = 62_500_000;
pub const PAGE: u64 = 4096;
const BASE: u64 = 0x0060_0000_0000_0f43;
const READ_ONLY: u64 = 1 << 7;
const COW: u64 = 1 << 55;
const ANON: u64 = 1 << 56;
const SPECIAL: u64 = 1 << 58;
const ZERO_FRAME: u64 = 0x40010;

pub fn frame_of(descriptor: u64) -> u64 {
    (descriptor & 0x0000_ffff_ffff_f000) >> 12
}

#[derive(Clone, Default)]
pub struct Space {
    pub root: u64,
    pub asid: u16,
    pub pages: BTreeMap<u64, u64>,
}

pub struct Kernel {
    pub spaces: BTreeMap<u32, Space>,
    /// Address space by pid.
    pub processes: BTreeMap<u32, u32>,
    pub refs: BTreeMap<u64, u32>,
    pub bytes: Vec<u8>,
    /// Where in `bytes` each frame begins.
    pub frames: Vec<usize>,
    pub dropped: [u64; KINDS],
    emitted: [u64; KINDS],
    encoder: Encoder,
    time: u64,
    /// The thread that runs.
    tid: u32,
    seq: u32,
    tlbis: u64,
    next: (u32, u32, u64),
}

impl Kernel {
    /// Booted, with `/init` as pid 1.
    pub fn boot() -> Kernel {
        Kernel::boot_as(7, wire::MINOR)
    }

    /// The same, with another number of the boot and another minor version of the wire.
    pub fn boot_as(nonce: u64, minor: u8) -> Kernel {
        let mut kernel = Kernel {
            spaces: BTreeMap::new(),
            processes: BTreeMap::new(),
            refs: BTreeMap::new(),
            bytes: b"boot loader says hello\r\n".to_vec(),
            frames: Vec::new(),
            dropped: [0; KINDS],
            emitted: [0; KINDS],
            encoder: Encoder::new(),
            time: 1_000_000,
            tid: 1,
            seq: 0,
            tlbis: 100,
            next: (1, 1, 0x40100),
        };
        kernel.hello_as(nonce, minor);
        kernel.send(Body::Meta(Meta::File {
            id: 1,
            path: "/init",
            build_id: &[0xab; 20],
        }));
        let space = kernel.new_space();
        kernel.event(Event::Spawn { pid: 1, space });
        kernel.processes.insert(1, space);
        kernel.next.0 = 2;
        kernel.event(Event::Exec {
            pid: 1,
            old_space: 0,
            space,
            file: 1,
            cost: 900,
        });
        kernel.name(1, 0, "init");
        kernel
    }

    pub fn hello(&mut self, boot_nonce: u64) {
        self.hello_as(boot_nonce, wire::MINOR);
    }

    fn hello_as(&mut self, boot_nonce: u64, minor: u8) {
        self.send(Body::Hello(Hello {
            major: wire::MAJOR,
            minor,
            schema: Hello::SCHEMA,
            build_id: [0xcd; 20],
            board: "imaginary,board",
            midr: 0x410f_d083,
            cpus: 1,
            counter_hz: HZ,
            ram_bytes: 1 << 30,
            asid_bits: 16,
            trace: TraceLevel::Faults,
            lossless: false,
            ring: 16384,
            fork: ForkMode::Classic,
            boot_nonce,
            bootargs: "init=/init",
            time: 1_000_000,
        }));
    }

    fn name(&mut self, pid: u32, parent: u32, name: &str) {
        let id = self.processes[&pid];
        let Space { root, asid, .. } = self.spaces[&id].clone();
        self.send(Body::Meta(Meta::Process {
            pid,
            parent,
            space: id,
            root,
            asid,
            file: 1,
            name,
        }));
    }

    /// The process has one more thread, which goes on from here.
    pub fn thread(&mut self, pid: u32, tid: u32, name: &str) {
        let by = self.tid;
        self.event(Event::ThreadStart { pid, tid, by });
        self.send(Body::Meta(Meta::Thread { pid, tid, name }));
        self.tid = tid;
    }

    /// What waiting for a lock has cost.
    pub fn contention(&mut self, lock: &str, waits: u64, ticks: u64) {
        self.send(Body::Contention(Contention {
            lock,
            waits,
            attempts: 10 * waits,
            ticks,
            longest: ticks / 2,
        }));
    }

    fn send(&mut self, body: Body<'_>) {
        self.flush();
        self.send_now(body);
    }

    fn send_now(&mut self, body: Body<'_>) {
        let mut out = [0; MAX_FRAME];
        let len = encode(&Envelope::new(0, self.seq, body), &mut out).expect("it fits");
        self.frames.push(self.bytes.len());
        self.bytes.extend_from_slice(&out[..len]);
        self.seq += 1;
    }

    /// Sends the batch as it is.
    pub fn flush(&mut self) {
        if self.encoder.is_empty() {
            return;
        }
        let mut out = [0; MAX_FRAME];
        let dropped = self.dropped.iter().sum();
        let len = self.encoder.finish(0, self.seq, dropped, &mut out);
        self.frames.push(self.bytes.len());
        self.bytes.extend_from_slice(&out[..len]);
        self.seq += 1;
    }

    pub fn event(&mut self, event: Event) {
        self.time += 625;
        self.emitted[event.kind()] += 1;
        let record = Record {
            time: self.time,
            cpu: 0,
            tid: self.tid,
            event,
        };
        if self.encoder.push(&record).is_err() {
            self.flush();
            self.encoder.push(&record).expect("an empty batch has room");
        }
    }

    fn new_space(&mut self) -> u32 {
        let id = self.next.1;
        let (root, asid) = (0x50000 + u64::from(id), id as u16);
        self.next.1 += 1;
        self.spaces.insert(
            id,
            Space {
                root,
                asid,
                pages: BTreeMap::new(),
            },
        );
        self.event(Event::SpaceNew {
            space: id,
            root,
            asid,
        });
        id
    }

    fn new_frame(&mut self) -> u64 {
        self.next.2 += 1;
        self.refs.insert(self.next.2, 1);
        self.next.2
    }

    pub fn map(&mut self, pid: u32, start: u64, pages: u64) {
        let space = self.processes[&pid];
        self.event(Event::Map(Map {
            space,
            start,
            end: start + pages * PAGE,
            prot: 3,
            shared: false,
            backing: Backing::Anonymous,
            region: Region::Mmap,
        }));
    }

    /// An access to a page; the outcome, if it faulted.
    pub fn access(&mut self, pid: u32, addr: u64, write: bool) -> Option<Outcome> {
        let space = self.processes[&pid];
        let page = addr / PAGE * PAGE;
        let old = self.spaces[&space].pages.get(&page).copied().unwrap_or(0);
        let refs = if old == 0 || old & SPECIAL != 0 {
            0
        } else {
            self.refs[&frame_of(old)]
        };
        if old != 0 && (!write || old & READ_ONLY == 0) {
            return None;
        }
        let (outcome, new, after) = if old == 0 && !write {
            (
                Outcome::ZeroPage,
                BASE | SPECIAL | READ_ONLY | COW | ZERO_FRAME << 12,
                0,
            )
        } else if old == 0 {
            (Outcome::ZeroFill, BASE | ANON | self.new_frame() << 12, 0)
        } else if old & SPECIAL != 0 {
            (Outcome::CowZero, BASE | ANON | self.new_frame() << 12, 0)
        } else if refs == 1 {
            (Outcome::CowReuse, old & !(READ_ONLY | COW), 1)
        } else {
            self.refs.insert(frame_of(old), refs - 1);
            (
                Outcome::CowCopy,
                BASE | ANON | self.new_frame() << 12,
                refs - 1,
            )
        };
        let tlbis = u8::from(old != 0);
        self.tlbis += u64::from(tlbis);
        let entry = self.spaces.get_mut(&space).expect("it is alive");
        entry.pages.insert(page, new);
        let asid = entry.asid;
        let cost = match outcome {
            Outcome::CowCopy => 4000,
            Outcome::CowReuse => 1000,
            _ => 2000,
        };
        let status = if old == 0 { 0x07 } else { 0x0f };
        self.event(Event::Fault(Fault {
            outcome,
            access: if write { Access::Write } else { Access::Read },
            origin: Origin::User,
            pid,
            space,
            asid,
            cost,
            // Of a program that ends somewhere.
            pc: 0x40_1000 + u64::from(pid % 1024) * 4,
            addr,
            esr: 0x9200_0000 | u32::from(write) << 6 | status,
            old,
            new,
            refs,
            refs_after: after,
            tlbis,
            stack: Stack {
                depth: 3,
                pcs: [0x40_1100, 0x40_1200, 0x40_1300, 0, 0, 0, 0, 0],
            },
        }));
        Some(outcome)
    }

    pub fn fork(&mut self, parent: u32, mode: ForkMode) -> u32 {
        let child = self.next.0;
        self.next.0 += 1;
        let parent_space = self.processes[&parent];
        let mut fork = Fork {
            mode,
            parent,
            child,
            parent_space,
            child_space: parent_space,
            shared: 0,
            protected: 0,
            leaves: 0,
            copied: 0,
            tables: 0,
            tables_shared: 0,
            cost: 500,
            pc: 0x40_2000,
            stack: Stack::default(),
        };
        if mode != ForkMode::Vfork {
            let child_space = self.new_space();
            let mut pages = self.spaces[&parent_space].pages.clone();
            for descriptor in pages.values_mut() {
                fork.leaves += 1;
                let counted = *descriptor & SPECIAL == 0;
                if counted && mode == ForkMode::Eager {
                    fork.copied += 1;
                    let refs = self.refs[&frame_of(*descriptor)];
                    if refs == 1 {
                        let page = *descriptor & !(READ_ONLY | COW);
                        let parent = self.spaces.get_mut(&parent_space).expect("alive");
                        parent
                            .pages
                            .values_mut()
                            .filter(|d| **d == *descriptor)
                            .for_each(|d| *d = page);
                    }
                    *descriptor = BASE | ANON | self.new_frame() << 12;
                    continue;
                }
                fork.shared += u32::from(counted);
                fork.protected += u32::from(*descriptor & READ_ONLY == 0);
                *descriptor |= READ_ONLY | COW;
                if counted {
                    *self.refs.get_mut(&frame_of(*descriptor)).expect("counted") += 1;
                }
            }
            if mode == ForkMode::Classic {
                self.spaces.get_mut(&parent_space).expect("alive").pages = pages.clone();
            }
            self.spaces.get_mut(&child_space).expect("alive").pages = pages;
            fork.child_space = child_space;
            fork.tables = 4;
            fork.cost = 5000 + 100 * fork.leaves;
            self.tlbis += 1;
        }
        self.event(Event::Fork(fork));
        self.processes.insert(child, fork.child_space);
        self.name(child, parent, "child");
        child
    }

    pub fn switch(&mut self, from: u32, to: u32) {
        let space = self.processes[&to];
        let Space { root, asid, .. } = self.spaces[&space];
        let ttbr0 = u64::from(asid) << 48 | root << 12;
        self.event(Event::Switch {
            from,
            to,
            space,
            ttbr0,
            tlbis: self.tlbis,
        });
    }

    fn drop_pages(&mut self, pages: impl IntoIterator<Item = u64>) -> (u32, u32) {
        let (mut dropped, mut freed) = (0, 0);
        for descriptor in pages
            .into_iter()
            .filter(|descriptor| descriptor & SPECIAL == 0)
        {
            dropped += 1;
            let refs = self.refs.get_mut(&frame_of(descriptor)).expect("counted");
            *refs -= 1;
            if *refs == 0 {
                freed += 1;
                self.refs.remove(&frame_of(descriptor));
            }
        }
        (dropped, freed)
    }

    pub fn unmap(&mut self, pid: u32, start: u64, pages: u64) {
        let space = self.processes[&pid];
        let end = start + pages * PAGE;
        let entry = self.spaces.get_mut(&space).expect("alive");
        let gone: Vec<u64> = entry.pages.range(start..end).map(|(_, d)| *d).collect();
        entry.pages.retain(|page, _| !(start..end).contains(page));
        let (dropped, freed) = self.drop_pages(gone);
        self.event(Event::Unmap {
            space,
            start,
            end,
            dropped,
            freed,
        });
    }

    /// Ends the process's use of its address space.
    fn leave(&mut self, pid: u32) {
        let space = self.processes.remove(&pid).expect("it is alive");
        if self.processes.values().any(|other| *other == space) {
            return;
        }
        let entry = self.spaces.remove(&space).expect("alive");
        let (dropped, freed) = self.drop_pages(entry.pages.into_values());
        self.event(Event::SpaceEnd {
            space,
            asid: entry.asid,
            dropped,
            freed,
            tables: 4,
            cost: 300,
        });
    }

    pub fn exec(&mut self, pid: u32) {
        let old_space = self.processes[&pid];
        let space = self.new_space();
        self.event(Event::Exec {
            pid,
            old_space,
            space,
            file: 1,
            cost: 900,
        });
        self.leave(pid);
        self.processes.insert(pid, space);
    }

    pub fn exit(&mut self, pid: u32, by: u32, status: u32) {
        let space = self.processes[&pid];
        self.event(Event::Exit { pid, space, status });
        self.leave(pid);
        self.event(Event::Reap { pid, by });
    }

    pub fn resident(&mut self, pid: u32) {
        let space = self.processes[&pid];
        let pages = &self.spaces[&space].pages;
        let zero = pages.values().filter(|d| **d & SPECIAL != 0).count() as u32;
        let anon = pages.len() as u32 - zero;
        self.event(Event::Resident {
            space,
            anon,
            file: 0,
            zero,
        });
    }

    pub fn snapshot(&mut self) {
        self.flush();
        let (emitted, dropped) = (self.emitted, self.dropped);
        self.send(Body::Snapshot(Snapshot {
            time: self.time,
            free_frames: 1000,
            total_frames: 2000,
            kernel_heap_bytes: 4096,
            processes: self.processes.len() as u32,
            emitted,
            dropped,
            ring_high_water: 17,
        }));
    }

    /// The machine stops; its trace.
    pub fn end(&mut self) -> Vec<u8> {
        self.flush();
        let (emitted, dropped) = (self.emitted, self.dropped);
        let frames_sent = u64::from(self.seq) + 1;
        let time = self.time;
        self.send(Body::End(End {
            code: 0,
            time,
            free_frames: 1000,
            emitted,
            dropped,
            frames_sent,
        }));
        self.bytes.clone()
    }

    /// An event that the kernel drops because its ring is full.
    pub fn lose(&mut self, work: impl FnOnce(&mut Kernel)) {
        self.flush();
        let before = self.emitted;
        work(self);
        let lost = self
            .emitted
            .iter()
            .zip(&before)
            .map(|(after, before)| after - before);
        self.dropped
            .iter_mut()
            .zip(lost)
            .for_each(|(sum, lost)| *sum += lost);
        self.emitted = before;
        self.encoder = Encoder::new();
    }
}
