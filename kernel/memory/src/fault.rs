//! The fault handler: a state machine with a name for every outcome.
//!
//! The mapping says what is allowed, the leaf what the hardware knows; a fault brings the leaf up
//! to date, as little as the access needs. Whether a page may be written in place is decided here
//! and nowhere else, by reference counts and nothing else (not by dirty bits or flags: see
//! CVE-2022-2590).
//!
//! Whatever can fail (frames, tables, counters) is taken before the first descriptor is written,
//! so a fault that runs out of memory changes nothing.

use crate::change::{Flush, Slot, forget_local, make, relax, replace};
use crate::descriptor::{Content, Leaf, Rights};
use crate::frame::{Frame, Kind, PAGE_BYTES, PAGE_SIZE};
use crate::mapping::{Access, Backing, MAP_MIN, Prot, Region};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::{AddressSpace, STACK_GUARD};
use crate::tables::{Owned, Reserve, Walk, own, walk};
use crate::{OutOfMemory, USER_END};

/// A fault to handle.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The address (FAR_EL1).
    pub addr: u64,
    /// What the access wants. The same on each retry: write intent is never dropped (CVE-2016-5195).
    pub access: Access,
}

/// What the fault handler did. The same names as the trace's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The leaf already permits the access: another CPU was faster, or this one's TLB was late.
    Spurious,
    /// Write to an empty anonymous page: a zeroed frame.
    ZeroFill,
    /// Read of an empty anonymous page: the zero page, read-only.
    ZeroPage,
    /// Write to a shared frame: copied to a new one.
    CowCopy,
    /// Write to the zero page: a new zeroed frame in its place.
    CowZero,
    /// Write by the last owner: made writable in place.
    CowReuse,
    /// Write below a shared last-level table: the table was copied, and then the leaf's case.
    TableUnshare,
    /// Write below a last-level table that nobody else uses any more: the table is writable again,
    /// and then the leaf's case, if it has one.
    TableReuse,
    /// Write to a shared mapping: made writable in place.
    SharedWrite,
    /// Read of a file page: the page-cache frame.
    FileRead,
    /// First access to a private file page is a write: copied from the page cache.
    FileCopy,
    /// Instruction fetch: the page was made executable.
    Exec,
    /// The stack grew, then a zero fill.
    StackGrow,
    /// No mapping, or the mapping forbids the access: the process gets a signal.
    Denied,
    /// No frame was to be had: the process is killed.
    OutOfMemory,
}

/// Why an access was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// Nothing is mapped there (SIGSEGV, SEGV_MAPERR).
    Unmapped,
    /// The mapping forbids it (SIGSEGV, SEGV_ACCERR).
    Forbidden,
    /// Past the last page of the file (SIGBUS, BUS_ADRERR).
    PastEnd,
}

/// A fault, handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// What was done.
    pub outcome: Outcome,
    /// The leaf descriptor before (0: none).
    pub old: u64,
    /// The leaf descriptor after (0: none).
    pub new: u64,
    /// References to the old frame before (0: there was none, or it is the zero page).
    pub refs: u32,
    /// References to the old frame after.
    pub refs_after: u32,
    /// The stack mapping as it is now, if it grew.
    pub grown: Option<(u64, u64)>,
    /// Why, if the outcome is [`Outcome::Denied`].
    pub denial: Option<Denial>,
}

impl Handled {
    #[inline]
    fn new(outcome: Outcome, old: u64, new: u64, refs: u32, refs_after: u32) -> Handled {
        Handled {
            outcome,
            old,
            new,
            refs,
            refs_after,
            grown: None,
            denial: None,
        }
    }

    /// The access can be retried.
    pub fn succeeded(&self) -> bool {
        !matches!(self.outcome, Outcome::Denied | Outcome::OutOfMemory)
    }

    #[cold]
    fn denied(denial: Denial, old: u64) -> Handled {
        Handled {
            denial: Some(denial),
            ..Handled::new(Outcome::Denied, old, old, 0, 0)
        }
    }
}

/// One page of one address space, while its fault is handled.
struct Page<'a, M: Mmu> {
    mem: &'a Memory<M>,
    asid: u16,
    va: u64,
    access: Access,
    prot: Prot,
}

impl AddressSpace {
    /// Handles a fault of this address space. On return the access can be retried, unless the
    /// outcome is `Denied` or `OutOfMemory`.
    pub fn fault<M: Mmu>(&mut self, mem: &Memory<M>, request: Request) -> Handled {
        let va = request.addr & !(PAGE_SIZE - 1);
        let Some(index) = self.mappings.find(va) else {
            return self.grow_stack(mem, va, request.access);
        };
        self.fault_in(mem, index, va, request.access)
    }

    fn fault_in<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        index: usize,
        va: u64,
        access: Access,
    ) -> Handled {
        let mapping = self.mappings.get(index);
        let page = Page {
            mem,
            asid: self.asid.number(),
            va,
            access,
            prot: mapping.prot,
        };
        let walk = walk(&mem.mmu, self.root, va);
        let old = walk.read(&mem.mmu);
        if !mapping.prot.allows(access) {
            return Handled::denied(Denial::Forbidden, old);
        }
        let handled = match (walk, Leaf::from_bits(old)) {
            (Walk::Page(slot), Some(leaf)) => match access {
                Access::Write => page.write(slot, leaf),
                Access::Exec => page.exec(slot, leaf),
                Access::Read => Ok(page.read(slot, leaf)),
            },
            (Walk::Shared(_), leaf) => match leaf {
                // The table forbids nothing but writing.
                Some(leaf) if access != Access::Write && permits(leaf, access) => {
                    Ok(page.spurious(leaf))
                }
                _ => return self.fault_below_shared(mem, index, va, access),
            },
            _ => match &mapping.backing {
                Backing::Anonymous => page.fill_anonymous(walk),
                Backing::File { cache, offset } => {
                    let at = offset + (va - mapping.start);
                    if at >= cache.len() {
                        return Handled::denied(Denial::PastEnd, old);
                    }
                    match cache.frame(mem, at / PAGE_SIZE) {
                        Ok(frame) => page.fill_file(walk, frame, mapping.shared),
                        Err(error) => Err(error),
                    }
                }
            },
        };
        match handled {
            Ok(handled) => {
                self.count(handled.old, handled.new);
                handled
            }
            Err(OutOfMemory) => Handled::new(Outcome::OutOfMemory, old, old, 0, 0),
        }
    }

    /// A fault below a shared table: first the table, then the leaf.
    #[cold]
    fn fault_below_shared<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        index: usize,
        va: u64,
        access: Access,
    ) -> Handled {
        let before = walk(&mem.mmu, self.root, va).read(&mem.mmu);
        let outcome = match own(mem, self.root, self.asid(), va) {
            Ok(Owned::Reused) => Outcome::TableReuse,
            Ok(_) => Outcome::TableUnshare,
            Err(OutOfMemory) => return Handled::new(Outcome::OutOfMemory, before, before, 0, 0),
        };
        let leaf = Leaf::from_bits(walk(&mem.mmu, self.root, va).read(&mem.mmu));
        if let Some(leaf) = leaf
            && permits(leaf, access)
        {
            let refs = self.refs(mem, leaf);
            return Handled::new(outcome, before, leaf.bits(), refs, refs);
        }
        let handled = self.fault_in(mem, index, va, access);
        match handled.outcome {
            Outcome::Denied | Outcome::OutOfMemory => handled,
            _ => Handled {
                outcome,
                old: before,
                ..handled
            },
        }
    }

    fn refs<M: Mmu>(&self, mem: &Memory<M>, leaf: Leaf) -> u32 {
        if leaf.counted() {
            mem.frames.refs(leaf.frame())
        } else {
            0
        }
    }

    /// Keeps [`Resident`](crate::Resident) in step with a leaf that changed.
    #[inline]
    fn count(&mut self, old: u64, new: u64) {
        if old == new {
            return;
        }
        if let Some(leaf) = Leaf::from_bits(old) {
            self.resident.remove(leaf.content());
        }
        if let Some(leaf) = Leaf::from_bits(new) {
            self.resident.add(leaf.content());
        }
    }

    /// A fault where nothing is mapped: right below a stack, within its limit and clear of what is below, it grows.
    #[cold]
    fn grow_stack<M: Mmu>(&mut self, mem: &Memory<M>, va: u64, access: Access) -> Handled {
        if !(MAP_MIN..USER_END).contains(&va) {
            return Handled::denied(Denial::Unmapped, 0);
        }
        let index = self.mappings.after(va);
        let Some(stack) = self
            .mappings
            .as_slice()
            .get(index)
            .filter(|m| m.region == Region::Stack)
        else {
            return Handled::denied(Denial::Unmapped, 0);
        };
        let (start, end) = (stack.start, stack.end);
        let below = if index == 0 {
            0
        } else {
            self.mappings.get(index - 1).end
        };
        let fits = end - va <= self.stack_limit && va >= below.saturating_add(STACK_GUARD);
        if !fits || !stack.prot.allows(access) || !matches!(stack.backing, Backing::Anonymous) {
            return Handled::denied(Denial::Unmapped, 0);
        }
        self.mappings.set_start(index, va);
        let handled = self.fault_in(mem, index, va, access);
        if handled.outcome == Outcome::OutOfMemory {
            self.mappings.set_start(index, start);
            return handled;
        }
        Handled {
            outcome: Outcome::StackGrow,
            grown: Some((va, end)),
            ..handled
        }
    }

    /// Writes bytes as the program would, faults included, whether or not the address space is
    /// active: for a new program's stack. On an error what came before it is written.
    pub fn write<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        addr: u64,
        bytes: &[u8],
    ) -> Result<(), Handled> {
        self.access(
            mem,
            addr,
            bytes.len(),
            Access::Write,
            |page, from, range| {
                page[from..from + range.len()].copy_from_slice(&bytes[range]);
            },
        )
    }

    /// Reads bytes as the program would, faults included, whether or not the address space is active.
    pub fn read<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        addr: u64,
        to: &mut [u8],
    ) -> Result<(), Handled> {
        self.access(mem, addr, to.len(), Access::Read, |page, from, range| {
            let len = range.len();
            to[range].copy_from_slice(&page[from..from + len]);
        })
    }

    fn access<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        addr: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(&mut [u8; PAGE_BYTES], usize, core::ops::Range<usize>),
    ) -> Result<(), Handled> {
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let from = (at % PAGE_SIZE) as usize;
            let n = (PAGE_BYTES - from).min(len - done);
            let frame = self.resolve(mem, at, access)?;
            mem.mmu
                .with_frame(frame, &mut |page| f(page, from, done..done + n));
            done += n;
        }
        Ok(())
    }

    /// The frame that an access reaches, after its fault if it has one.
    fn resolve<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        addr: u64,
        access: Access,
    ) -> Result<Frame, Handled> {
        let present = match walk(&mem.mmu, self.root, addr) {
            _ if addr >= USER_END => None,
            Walk::Shared(_) if access == Access::Write => None,
            walk => Leaf::from_bits(walk.read(&mem.mmu)),
        };
        if let Some(leaf) = present
            && permits(leaf, access)
        {
            return Ok(leaf.frame());
        }
        let handled = self.fault(mem, Request { addr, access });
        match Leaf::from_bits(handled.new) {
            Some(leaf) if handled.succeeded() && permits(leaf, access) => Ok(leaf.frame()),
            _ => Err(handled),
        }
    }
}

/// The leaf lets EL0 do this.
#[inline]
fn permits(leaf: Leaf, access: Access) -> bool {
    match access {
        Access::Read => leaf.accessible(),
        Access::Write => leaf.writable(),
        Access::Exec => leaf.executable(),
    }
}

impl<M: Mmu> Page<'_, M> {
    /// A write to a page that is present.
    #[inline]
    fn write(&self, slot: Slot, old: Leaf) -> Result<Handled, OutOfMemory> {
        if old.writable() {
            return Ok(self.spurious(old));
        }
        match old.content() {
            Content::Shared => {
                let refs = self.mem.frames.refs(old.frame());
                Ok(self.make_writable(slot, old, Outcome::SharedWrite, refs))
            }
            Content::Anon => match self.mem.frames.refs(old.frame()) {
                1 => Ok(self.make_writable(slot, old, Outcome::CowReuse, 1)),
                refs => self.copy(slot, old, refs),
            },
            // The cache's own reference keeps such a frame shared even if no one else maps it.
            Content::File => self.copy(slot, old, self.mem.frames.refs(old.frame())),
            Content::Zero => {
                let fresh = self.mem.take(Kind::Anon).ok_or(OutOfMemory)?;
                self.mem.mmu.zero_frame(fresh.frame());
                let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
                self.swap(slot, old, new);
                Ok(Handled::new(Outcome::CowZero, old.bits(), new.bits(), 0, 0))
            }
        }
    }

    /// The frame is this address space's own (or everybody's): write it where it is.
    #[inline]
    fn make_writable(&self, slot: Slot, old: Leaf, outcome: Outcome, refs: u32) -> Handled {
        self.mem.frames.clear_icache_clean(old.frame());
        let new = old.with(Rights::Write);
        if old.executable() {
            // It loses a right as well: W xor X, on all CPUs.
            let mut flush = Flush::new(self.asid);
            flush.set_rights(&self.mem.mmu, slot, self.va, new);
            let _ = flush.complete(&self.mem.mmu);
        } else {
            relax(&self.mem.mmu, slot, self.va, self.asid, new);
        }
        Handled::new(outcome, old.bits(), new.bits(), refs, refs)
    }

    /// Somebody else maps the frame too: this address space gets a copy.
    #[inline]
    fn copy(&self, slot: Slot, old: Leaf, refs: u32) -> Result<Handled, OutOfMemory> {
        let fresh = self.mem.take(Kind::Anon).ok_or(OutOfMemory)?;
        self.mem.mmu.copy_frame(old.frame(), fresh.frame());
        let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
        self.swap(slot, old, new);
        Ok(Handled::new(
            Outcome::CowCopy,
            old.bits(),
            new.bits(),
            refs,
            refs - 1,
        ))
    }

    /// Break-before-make, then the old frame's reference is dropped: not earlier.
    #[inline]
    fn swap(&self, slot: Slot, old: Leaf, new: Leaf) {
        let (retired, flushed) = replace(&self.mem.mmu, slot, self.va, self.asid, old, new);
        self.mem.release(retired, &flushed);
    }

    /// An instruction fetch from a page that is present.
    fn exec(&self, slot: Slot, old: Leaf) -> Result<Handled, OutOfMemory> {
        if old.executable() {
            return Ok(self.spurious(old));
        }
        let mmu = &self.mem.mmu;
        let cow = old.content() != Content::Shared;
        let read_only = old.with(Rights::Read { exec: false, cow });
        if old.writable() {
            // Nobody may write while the caches are cleaned, nor afterwards: W xor X.
            let mut flush = Flush::new(self.asid);
            flush.set_rights(mmu, slot, self.va, read_only);
            let _ = flush.complete(mmu);
        }
        self.clean(old.frame());
        let new = old.with(Rights::Read { exec: true, cow });
        relax(mmu, slot, self.va, self.asid, new);
        let refs = if old.counted() {
            self.mem.frames.refs(old.frame())
        } else {
            0
        };
        Ok(Handled::new(
            Outcome::Exec,
            old.bits(),
            new.bits(),
            refs,
            refs,
        ))
    }

    /// A read of a page that is present. (A leaf without any rights is of a PROT_NONE mapping,
    /// which has denied the access before.)
    fn read(&self, _: Slot, old: Leaf) -> Handled {
        debug_assert!(old.accessible());
        self.spurious(old)
    }

    /// The descriptors permit what has faulted: this CPU's TLB had an older idea.
    #[cold]
    fn spurious(&self, leaf: Leaf) -> Handled {
        forget_local(&self.mem.mmu, self.va, self.asid);
        let refs = if leaf.counted() {
            self.mem.frames.refs(leaf.frame())
        } else {
            0
        };
        Handled::new(Outcome::Spurious, leaf.bits(), leaf.bits(), refs, refs)
    }

    /// The first access to an anonymous page.
    #[inline]
    fn fill_anonymous(&self, walk: Walk) -> Result<Handled, OutOfMemory> {
        let reserve = Reserve::new(self.mem, walk).ok_or(OutOfMemory)?;
        if self.access != Access::Write {
            let new = self.readable(self.mem.zero_page(), Content::Zero);
            return Ok(self.make(reserve, Outcome::ZeroPage, new));
        }
        let Some(fresh) = self.mem.take(Kind::Anon) else {
            reserve.give_back(self.mem);
            return Err(OutOfMemory);
        };
        self.mem.mmu.zero_frame(fresh.frame());
        let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
        Ok(self.make(reserve, Outcome::ZeroFill, new))
    }

    /// The first access to a page of a file; `frame` is the cache's.
    fn fill_file(&self, walk: Walk, frame: Frame, shared: bool) -> Result<Handled, OutOfMemory> {
        let reserve = Reserve::new(self.mem, walk).ok_or(OutOfMemory)?;
        if self.access == Access::Write && !shared {
            let Some(fresh) = self.mem.take(Kind::Anon) else {
                reserve.give_back(self.mem);
                return Err(OutOfMemory);
            };
            self.mem.mmu.copy_frame(frame, fresh.frame());
            let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
            return Ok(self.make(reserve, Outcome::FileCopy, new));
        }
        if self.mem.share(frame).is_err() {
            reserve.give_back(self.mem);
            return Err(OutOfMemory);
        }
        if self.access == Access::Write {
            self.mem.frames.clear_icache_clean(frame);
            let new = Leaf::new(frame, Content::Shared, Rights::Write);
            return Ok(self.make(reserve, Outcome::SharedWrite, new));
        }
        let new = self.readable(
            frame,
            if shared {
                Content::Shared
            } else {
                Content::File
            },
        );
        let outcome = if self.access == Access::Exec {
            Outcome::Exec
        } else {
            Outcome::FileRead
        };
        Ok(self.make(reserve, outcome, new))
    }

    /// A read-only leaf; executable if the mapping is, which saves code that is read first a fault.
    #[inline]
    fn readable(&self, frame: Frame, content: Content) -> Leaf {
        let exec = self.prot.contains(Prot::EXEC);
        if exec {
            self.clean(frame);
        }
        Leaf::new(
            frame,
            content,
            Rights::Read {
                exec,
                cow: content != Content::Shared,
            },
        )
    }

    #[inline]
    fn make(&self, reserve: Reserve, outcome: Outcome, new: Leaf) -> Handled {
        let slot = reserve.install(&self.mem.mmu, self.va);
        make(&self.mem.mmu, slot, new);
        Handled::new(outcome, 0, new.bits(), 0, 0)
    }

    /// Instruction fetches must see the frame's contents: once per frame and contents.
    fn clean(&self, frame: Frame) {
        if !self.mem.frames.icache_clean(frame) {
            self.mem.mmu.sync_icache(frame);
            self.mem.frames.set_icache_clean(frame);
        }
    }
}
