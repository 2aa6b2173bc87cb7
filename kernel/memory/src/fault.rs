//! The fault handler: a state machine with a name for every outcome.
//!
//! The mapping says what is allowed, the leaf what the hardware knows; a fault brings the leaf up
//! to date, as little as the access needs. Whether a page may be written in place is decided here
//! and nowhere else, by reference counts and nothing else (not by dirty bits or flags: see
//! CVE-2022-2590).
//!
//! Whatever can fail (frames, tables, counters) is taken before the first descriptor is written,
//! so a fault that runs out of memory changes nothing.

use crate::asid::Context;
use crate::cache::{Held, NoPage, PageCache};
use crate::change::{Flush, Slot, forget_local, make, relax, replace};
use crate::commit::Charge;
use crate::descriptor::{Content, Leaf, Rights};
use crate::frame::{Frame, FrameMeta, Kind, PAGE_SIZE};
use crate::mapping::{Access, Backing, MAP_MIN, Mapping, Prot, Region};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::{AddressSpace, STACK_GUARD, Tally};
use crate::tables::{L2_SPAN, L3_SPAN, Owned, Reserve, Walk, walk};
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

    #[inline]
    fn out_of_memory(old: u64) -> Handled {
        Handled::new(Outcome::OutOfMemory, old, old, 0, 0)
    }

    #[cold]
    fn denied(denial: Denial, old: u64) -> Handled {
        Handled {
            denial: Some(denial),
            ..Handled::new(Outcome::Denied, old, old, 0, 0)
        }
    }
}

/// A fault that is not common, and its level 3 table if there is one, of this address space alone.
#[derive(Clone, Copy, Debug)]
pub struct Rare(Option<Frame>);

/// One page of one address space, while its fault is handled.
struct Page<'a, M: Mmu> {
    mem: &'a Memory<M>,
    context: &'a Context,
    va: u64,
    access: Access,
    prot: Prot,
    slot: Slot,
}

// Not derived: that would want M to be copied.
impl<M: Mmu> Copy for Page<'_, M> {}
impl<M: Mmu> Clone for Page<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl AddressSpace {
    /// Handles a fault of this address space. On return the access can be retried, unless the
    /// outcome is `Denied` or `OutOfMemory`.
    ///
    #[inline(always)]
    pub fn fault<M: Mmu>(&mut self, mem: &Memory<M>, request: Request) -> Handled {
        match self.fault_common(mem, request) {
            Ok(handled) => handled,
            Err(rare) => self.fault_rarely(mem, request, rare),
        }
    }

    /// `fault`, of what is common. `Err`: it is `fault_rarely`'s; nothing was done.
    ///
    /// Inlined into the exception handler, and made so that nothing in there has to be in memory.
    #[inline(always)]
    pub fn fault_common<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        request: Request,
    ) -> Result<Handled, Rare> {
        let Request { addr, access } = request;
        let va = addr & !(PAGE_SIZE - 1);
        let Some(mapping) = self.mappings.find(va) else {
            return Err(Rare(None));
        };
        if !mapping.prot.allows(access) {
            return Err(Rare(None));
        }
        let Walk::Page(slot) = walk(&mem.mmu, self.root, va) else {
            return Err(Rare(None));
        };
        let page = Page {
            mem,
            context: self.context,
            va,
            access,
            prot: mapping.prot,
            slot,
        };
        match (Leaf::from_bits(slot.read(&mem.mmu)), &mapping.backing) {
            (Some(leaf), _) if access == Access::Write => Ok(page.write(leaf, &mut self.resident)),
            (None, Backing::Anonymous) => Ok(page.fill_anonymous(&mut self.resident)),
            _ => Err(Rare(Some(slot.table))),
        }
    }

    /// `fault`, whatever it is: what `fault_common` has left.
    #[inline(never)]
    pub fn fault_rarely<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        request: Request,
        rare: Rare,
    ) -> Handled {
        let Request { addr, access } = request;
        let va = addr & !(PAGE_SIZE - 1);
        let Some(mapping) = self.mappings.find(va) else {
            return self.grow_stack(mem, va, access);
        };
        if !mapping.prot.allows(access) {
            return Handled::denied(Denial::Forbidden, self.leaf(mem, va));
        }
        let walk = match rare {
            Rare(Some(table)) => Walk::Page(Slot::new(table, 3, va)),
            Rare(None) => walk(&mem.mmu, self.root, va),
        };
        let slot = match walk {
            Walk::Page(slot) => slot,
            Walk::Shared(_) => return self.fault_below_shared(mem, va, access),
            Walk::NoTable(slot) => return self.fault_without_table(mem, slot, va, access),
        };
        let page = Page {
            mem,
            context: self.context,
            va,
            access,
            prot: mapping.prot,
            slot,
        };
        page.handle(mapping, &mut self.resident)
    }

    /// `fault`, at the same time as others of this address space: its lock is only read. Those of
    /// one table come one after the other; `tell` is called before the next one's turn. `None`: this
    /// fault is one that changes more than a leaf, or none, and is `fault`'s; nothing was done.
    #[inline(never)]
    pub fn fault_beside<M: Mmu>(
        &self,
        mem: &Memory<M>,
        request: Request,
        tell: impl FnOnce(&Handled),
    ) -> Option<Handled> {
        let Request { addr, access } = request;
        let va = addr & !(PAGE_SIZE - 1);
        let mapping = self.mappings.find(va)?;
        if !mapping.prot.allows(access) {
            return None;
        }
        // It stays so: whoever changes tables has the lock for itself.
        let Walk::Page(slot) = walk(&mem.mmu, self.root, va) else {
            return None;
        };
        let _turn = mem.frames.lock_table(slot.table);
        let page = Page {
            mem,
            context: self.context,
            va,
            access,
            prot: mapping.prot,
            slot,
        };
        let handled = page.handle(mapping, &self.resident);
        tell(&handled);
        Some(handled)
    }

    /// `fault`, where it need not be fast.
    #[cold]
    pub(crate) fn fault_again<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        addr: u64,
        access: Access,
    ) -> Handled {
        self.fault_rarely(mem, Request { addr, access }, Rare(None))
    }

    /// The first page of a range at which an access would fault, for who wants pages before they are
    /// accessed (MADV_POPULATE_READ and _WRITE). `Err`: nothing is mapped at a page before that, or
    /// without the right to this access; another right that implies it is not enough.
    pub fn next_fault<M: Mmu>(
        &self,
        mem: &Memory<M>,
        start: u64,
        end: u64,
        access: Access,
    ) -> Result<Option<u64>, Denial> {
        let right = match access {
            Access::Read => Prot::READ,
            Access::Write => Prot::WRITE,
            Access::Exec => Prot::EXEC,
        };
        let mut va = start;
        while va < end {
            let mapping = self.mappings.find(va).ok_or(Denial::Unmapped)?;
            if !mapping.prot.contains(right) {
                return Err(Denial::Forbidden);
            }
            let until = mapping.end.min(end);
            while va < until {
                if !self.is_ready(mem, va, access) {
                    return Ok(Some(va));
                }
                va += PAGE_SIZE;
            }
        }
        Ok(None)
    }

    /// Whether the descriptors permit an access.
    fn is_ready<M: Mmu>(&self, mem: &Memory<M>, va: u64, access: Access) -> bool {
        let walk = walk(&mem.mmu, self.root, va);
        let frozen = access == Access::Write && matches!(walk, Walk::Shared(_));
        Leaf::from_bits(walk.read(&mem.mmu)).is_some_and(|leaf| permits(leaf, access) && !frozen)
    }

    /// A fault where level 2 or 3 tables are missing: first the tables, then the leaf.
    #[cold]
    fn fault_without_table<M: Mmu>(
        &mut self,
        mem: &Memory<M>,
        slot: Slot,
        va: u64,
        access: Access,
    ) -> Handled {
        let charged = [L2_SPAN, L3_SPAN].map(|span| self.mappings.table_charged(va, span));
        let Some(reserve) = Reserve::new(mem, slot, charged) else {
            return Handled::out_of_memory(0);
        };
        // What would fail below must not leave empty tables behind.
        let past_end = self.mappings.find(va).is_some_and(|mapping| {
            matches!(&mapping.backing, Backing::File { cache, offset }
                if offset + (va - mapping.start) >= cache.len())
        });
        if past_end || (access == Access::Write && !mem.frames.any_free(mem.mmu.cpu())) {
            reserve.cancel(mem);
            return match past_end {
                true => Handled::denied(Denial::PastEnd, 0),
                false => Handled::out_of_memory(0),
            };
        }
        reserve.install(&mem.mmu, va);
        self.fault_again(mem, va, access)
    }

    /// A fault below a shared table: first the table, then the leaf.
    #[cold]
    fn fault_below_shared<M: Mmu>(&mut self, mem: &Memory<M>, va: u64, access: Access) -> Handled {
        let before = self.leaf(mem, va);
        // Before a copy of the table counts as well.
        let refs_before = Leaf::from_bits(before).map_or(0, |leaf| refs(mem, leaf));
        if let Some(leaf) = Leaf::from_bits(before)
            && access != Access::Write
            && permits(leaf, access)
        {
            // The table forbids nothing but writing.
            return spurious(mem, va, self.context, leaf);
        }
        let outcome = match self.own(mem, va) {
            Ok(Owned::Reused) => Outcome::TableReuse,
            Ok(_) => Outcome::TableUnshare,
            Err(OutOfMemory) => return Handled::out_of_memory(before),
        };
        if let Some(leaf) = Leaf::from_bits(self.leaf(mem, va))
            && permits(leaf, access)
        {
            let refs = refs(mem, leaf);
            return Handled::new(outcome, before, leaf.bits(), refs_before, refs);
        }
        let handled = self.fault_again(mem, va, access);
        if handled.succeeded() {
            Handled {
                outcome,
                old: before,
                refs: refs_before,
                ..handled
            }
        } else {
            // The outcome is another, but the table is its own from now on.
            let copied = outcome == Outcome::TableUnshare;
            mem.mmu.table_owned(self.serial, va, copied);
            handled
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
        let grown = Mapping {
            start: va,
            end: start,
            ..stack.clone()
        };
        let (old, new) = (Charge::default(), self.mappings.charge_with(&grown));
        if self.charge_more(mem, old, new).is_err() {
            return Handled::out_of_memory(0);
        }
        self.mappings.set_start(index, va);
        self.settle(mem, (va, start), old, new);
        let handled = self.fault_again(mem, va, access);
        if handled.outcome == Outcome::OutOfMemory {
            self.mappings.set_start(index, start);
            self.release_unused_tables(mem, va);
            self.settle(mem, (va, start), new, old);
            return handled;
        }
        Handled {
            outcome: Outcome::StackGrow,
            grown: Some((va, end)),
            ..handled
        }
    }
}

/// The leaf lets EL0 do this.
#[inline]
pub(crate) fn permits(leaf: Leaf, access: Access) -> bool {
    match access {
        Access::Read => leaf.accessible(),
        Access::Write => leaf.writable(),
        Access::Exec => leaf.executable(),
    }
}

/// References to a leaf's frame; 0 for the zero page, which is not counted.
fn refs<M: Mmu>(mem: &Memory<M>, leaf: Leaf) -> u32 {
    if leaf.counted() {
        mem.frames.refs(leaf.frame())
    } else {
        0
    }
}

/// The descriptors permit what has faulted: this CPU's TLB had an older idea.
#[inline(always)]
fn spurious<M: Mmu>(mem: &Memory<M>, va: u64, context: &Context, leaf: Leaf) -> Handled {
    #[cold]
    fn forget<M: Mmu>(mem: &Memory<M>, va: u64, context: &Context, leaf: Leaf) -> u32 {
        forget_local(&mem.mmu, va, context);
        refs(mem, leaf)
    }
    let refs = forget(mem, va, context, leaf);
    Handled::new(Outcome::Spurious, leaf.bits(), leaf.bits(), refs, refs)
}

/// W xor X: what gains one right and loses the other must lose it on all CPUs.
#[cold]
fn set_rights_everywhere<M: Mmu>(
    mem: &Memory<M>,
    context: &Context,
    slot: Slot,
    va: u64,
    new: Leaf,
) {
    let mut flush = Flush::new(context);
    flush.set_rights(&mem.mmu, slot, va, new);
    let _ = flush.complete(&mem.mmu);
}

/// Instruction fetches must see the frame's contents: once per frame and contents.
fn clean<M: Mmu>(mem: &Memory<M>, frame: Frame) {
    if !mem.frames.icache_clean(frame) {
        mem.mmu.sync_icache(frame);
        mem.frames.set_icache_clean(frame);
    }
}

/// By value, so that what is inlined keeps its page in registers. `resident` is kept in step.
impl<M: Mmu> Page<'_, M> {
    /// All cases where the table is there, and the mapping allows the access.
    #[inline(always)]
    fn handle(self, mapping: &Mapping, resident: impl Tally) -> Handled {
        match (
            Leaf::from_bits(self.slot.read(&self.mem.mmu)),
            &mapping.backing,
        ) {
            (Some(leaf), _) => match self.access {
                Access::Write => self.write(leaf, resident),
                Access::Exec => self.exec(leaf),
                // A leaf without any rights is of a PROT_NONE mapping, which has denied the access.
                Access::Read => self.spurious(leaf),
            },
            (None, Backing::Anonymous) => self.fill_anonymous(resident),
            (None, Backing::File { cache, offset }) => {
                let at = offset + (self.va - mapping.start);
                self.fill_from(cache, at, mapping.shared, resident)
            }
        }
    }

    #[inline(always)]
    fn spurious(self, leaf: Leaf) -> Handled {
        spurious(self.mem, self.va, self.context, leaf)
    }

    /// A write to a page that is present.
    #[inline(always)]
    fn write(self, old: Leaf, resident: impl Tally) -> Handled {
        if old.writable() {
            return self.spurious(old);
        }
        let content = old.content();
        match content {
            // The cache's own reference keeps a frame of a file shared even if no one else maps it.
            Content::Anon | Content::File => {
                let meta = self.mem.frames.meta(old.frame());
                let refs = meta.refs();
                match content == Content::Anon && refs == 1 {
                    true => self.make_writable(old, meta, Outcome::CowReuse, refs),
                    false => self.copy(old, refs, resident),
                }
            }
            Content::Shared => {
                let meta = self.mem.frames.meta(old.frame());
                meta.set_written();
                self.make_writable(old, meta, Outcome::SharedWrite, meta.refs())
            }
            Content::Zero => {
                let Some(fresh) = self.mem.take(Kind::Anon) else {
                    return Handled::out_of_memory(old.bits());
                };
                self.mem.mmu.zero_frame(fresh.frame());
                let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
                self.swap(old, new, resident);
                Handled::new(Outcome::CowZero, old.bits(), new.bits(), 0, 0)
            }
        }
    }

    /// The frame is this address space's own (or everybody's): write it where it is.
    #[inline(always)]
    fn make_writable(self, old: Leaf, meta: &FrameMeta, outcome: Outcome, refs: u32) -> Handled {
        meta.clear_icache_clean();
        let new = old.with(Rights::Write);
        if old.executable() {
            set_rights_everywhere(self.mem, self.context, self.slot, self.va, new);
        } else {
            relax(&self.mem.mmu, self.slot, self.va, self.context, new);
        }
        Handled::new(outcome, old.bits(), new.bits(), refs, refs)
    }

    /// Somebody else maps the frame too: this address space gets a copy.
    #[inline(always)]
    fn copy(self, old: Leaf, refs: u32, resident: impl Tally) -> Handled {
        let Some(fresh) = self.mem.take(Kind::Anon) else {
            return Handled::out_of_memory(old.bits());
        };
        self.mem.mmu.copy_frame(old.frame(), fresh.frame());
        let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
        self.swap(old, new, resident);
        Handled::new(Outcome::CowCopy, old.bits(), new.bits(), refs, refs - 1)
    }

    /// Break-before-make, then the old frame's reference is dropped: not earlier.
    #[inline(always)]
    fn swap(self, old: Leaf, new: Leaf, resident: impl Tally) {
        resident.swap(old, new);
        let (retired, flushed) = replace(&self.mem.mmu, self.slot, self.va, self.context, old, new);
        self.mem.release(retired, &flushed);
    }

    /// An instruction fetch from a page that is present.
    fn exec(self, old: Leaf) -> Handled {
        if old.executable() {
            return self.spurious(old);
        }
        let cow = old.content() != Content::Shared;
        if old.writable() {
            // Nobody may write while the caches are cleaned, nor afterwards.
            let new = old.with(Rights::Read { exec: false, cow });
            set_rights_everywhere(self.mem, self.context, self.slot, self.va, new);
        }
        clean(self.mem, old.frame());
        let new = old.with(Rights::Read { exec: true, cow });
        relax(&self.mem.mmu, self.slot, self.va, self.context, new);
        let refs = refs(self.mem, old);
        Handled::new(Outcome::Exec, old.bits(), new.bits(), refs, refs)
    }

    /// The first access to an anonymous page.
    #[inline(always)]
    fn fill_anonymous(self, resident: impl Tally) -> Handled {
        if self.access != Access::Write {
            let new = self.readable(self.mem.zero_page(), Content::Zero);
            return self.make(Outcome::ZeroPage, new, resident);
        }
        let Some(fresh) = self.mem.take(Kind::Anon) else {
            return Handled::out_of_memory(0);
        };
        self.mem.mmu.zero_frame(fresh.frame());
        let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
        self.make(Outcome::ZeroFill, new, resident)
    }

    /// The first access to a page of a file.
    fn fill_from(self, cache: &PageCache, at: u64, shared: bool, resident: impl Tally) -> Handled {
        if at >= cache.len() {
            return Handled::denied(Denial::PastEnd, 0);
        }
        match cache.frame(self.mem, at / PAGE_SIZE) {
            Ok(held) => self.fill_file(held, shared, resident),
            // Its own frame is charged to it, the cache's to nobody.
            Err(_) if self.access == Access::Write && !shared => {
                self.fill_uncached(cache, at / PAGE_SIZE, resident)
            }
            Err(NoPage::OutOfMemory) => Handled::out_of_memory(0),
            // As on Linux, a store that the file system has no room for is a bus error.
            Err(NoPage::Full) => Handled::denied(Denial::PastEnd, 0),
        }
    }

    /// `held` is the cache's frame.
    fn fill_file(self, held: Held, shared: bool, resident: impl Tally) -> Handled {
        if self.access == Access::Write && !shared {
            let Some(fresh) = self.mem.take(Kind::Anon) else {
                held.let_go(self.mem);
                return Handled::out_of_memory(0);
            };
            self.mem.mmu.copy_frame(held.frame(), fresh.frame());
            held.let_go(self.mem);
            let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
            return self.make(Outcome::FileCopy, new, resident);
        }
        let frame = held.into_frame();
        if self.access == Access::Write {
            self.mem.frames.meta(frame).clear_icache_clean();
            self.mem.frames.meta(frame).set_written();
            let new = Leaf::new(frame, Content::Shared, Rights::Write);
            return self.make(Outcome::SharedWrite, new, resident);
        }
        let new = self.readable(
            frame,
            if shared {
                Content::Shared
            } else {
                Content::File
            },
        );
        let exec = self.access == Access::Exec;
        self.make(
            if exec {
                Outcome::Exec
            } else {
                Outcome::FileRead
            },
            new,
            resident,
        )
    }

    /// A private page of a file whose cache found no frame for it.
    #[cold]
    fn fill_uncached(self, cache: &PageCache, index: u64, resident: impl Tally) -> Handled {
        let Some(fresh) = self.mem.take(Kind::Anon) else {
            return Handled::out_of_memory(0);
        };
        cache.copy_page(self.mem, index, fresh.frame());
        let new = Leaf::new(fresh.into_frame(), Content::Anon, Rights::Write);
        self.make(Outcome::FileCopy, new, resident)
    }

    /// A read-only leaf; executable if the mapping is, which saves code that is read first a fault.
    #[inline(always)]
    fn readable(&self, frame: Frame, content: Content) -> Leaf {
        let exec = self.prot.contains(Prot::EXEC);
        if exec {
            clean(self.mem, frame);
        }
        let cow = content != Content::Shared;
        Leaf::new(frame, content, Rights::Read { exec, cow })
    }

    #[inline(always)]
    fn make(self, outcome: Outcome, new: Leaf, resident: impl Tally) -> Handled {
        resident.add(new);
        make(&self.mem.mmu, self.slot, new);
        Handled::new(outcome, 0, new.bits(), 0, 0)
    }
}
