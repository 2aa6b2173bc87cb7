//! What each kind of step does to the processes, and to the oracle beside them.

use std::cell::RefCell;
use std::rc::Rc;

use memory::{
    Access, AddressSpace, Backing, ForkMode, Handled, MapError, Mapping, Outcome, PAGE_SIZE, Prot,
    Refusal, Region, SpaceError,
};

use model::checker::Operation;

use super::story::mode as fork_mode;
use super::{PROCESSES, Process, Result, World};
use crate::oracle::{GROUP, OFFSETS, Page, Pages, va};
use crate::program::{Back, Op};

impl World {
    pub(super) fn cpu(&mut self, cpu: usize) -> usize {
        let cpu = cpu % self.running.len();
        self.mem.mmu.machine.borrow_mut().set_cpu(cpu);
        cpu
    }

    /// What a step does, to both sides.
    pub(super) fn execute(&mut self, op: Op) -> Result {
        let count = self.processes.len();
        match op {
            Op::Starve { left } => {
                while self.mem.frames.free_count() > left
                    && let Some(hog) = self.mem.alloc()
                {
                    self.shortage.hogs.push(hog);
                }
            }
            Op::FileWrite {
                cpu,
                file,
                page,
                value,
            } => {
                self.cpu(cpu);
                self.mem.mmu.machine.borrow_mut().synchronise();
                let (cache, object) = &self.files[file];
                if page < object.borrow().len()
                    && cache
                        .write(&self.mem, page as u64 * PAGE_SIZE + OFFSETS[1], &[value])
                        .is_ok()
                {
                    object.borrow_mut()[page][1] = value;
                }
            }
            Op::Reclaim { cpu } => {
                self.cpu(cpu);
                for (cache, _) in &self.files {
                    let given = cache.reclaim(&self.mem) as u32;
                    *self.outcomes.entry("reclaim").or_default() += given;
                }
            }
            _ if count == 0 => {}
            Op::Read {
                cpu,
                process,
                page,
                offset,
            } => {
                self.access(cpu, process % count, page, offset, Access::Read, 0)?;
            }
            Op::Write {
                cpu,
                process,
                page,
                offset,
                value,
            } => {
                self.access(cpu, process % count, page, offset, Access::Write, value)?;
            }
            Op::Fetch { cpu, process, page } => {
                self.access(cpu, process % count, page, 0, Access::Exec, 0)?;
            }
            Op::KernelWrite {
                cpu,
                process,
                page,
                value,
            } => {
                self.run(cpu, process % count);
                self.mem.mmu.machine.borrow_mut().synchronise();
                let number = process % count;
                let starved = self.may_starve(number, page, Access::Write);
                let process = &mut self.processes[number];
                let done = process.space.write(&self.mem, va(page), &[value, value]);
                let permitted = process.pages.reaches(page, Access::Write);
                if done.is_ok() && permitted {
                    process.pages.grow(page, Access::Write);
                    process.pages.write(page, 0, value);
                    process.pages.write(page, 1, value);
                }
                self.expect(permitted, starved, done)?;
            }
            Op::KernelRead { cpu, process, page } => {
                self.run(cpu, process % count);
                self.mem.mmu.machine.borrow_mut().synchronise();
                let number = process % count;
                let starved = self.may_starve(number, page, Access::Read);
                let process = &mut self.processes[number];
                let mut bytes = [0; 2];
                let done = process.space.read(&self.mem, va(page), &mut bytes);
                let permitted = process.pages.reaches(page, Access::Read);
                if done.is_ok() && permitted {
                    process.pages.grow(page, Access::Read);
                    if bytes[..] != process.pages.0[&page].bytes()[..2] {
                        return Err(format!("the kernel reads {bytes:?} at page {page}"));
                    }
                }
                self.expect(permitted, starved, done)?;
            }
            Op::Map {
                cpu,
                process,
                page,
                count: pages,
                prot,
                back,
            } => {
                self.run(cpu, process % count);
                self.map(process % count, page, pages, Prot::from_bits(prot), back)?;
            }
            Op::Stack { cpu, process, page } => {
                self.run(cpu, process % count);
                self.stack(process % count, page)?;
            }
            Op::Unmap {
                cpu,
                process,
                page,
                count: pages,
            } => {
                self.run(cpu, process % count);
                let process = &mut self.processes[process % count];
                let (start, end) = (va(page), va(page) + pages as u64 * PAGE_SIZE);
                match process.space.unmap(&self.mem, start, end) {
                    Ok(_) => {}
                    Err(MapError::OutOfMemory) if self.shortage.any() => return Ok(()),
                    Err(MapError::Refused(refusal)) if self.strict => return honest(refusal),
                    Err(error) => return Err(format!("unmap: {error}")),
                }
                process
                    .pages
                    .0
                    .retain(|at, _| !(page..page + pages).contains(at));
            }
            Op::Protect {
                cpu,
                process,
                page,
                count: pages,
                prot,
            } => {
                self.run(cpu, process % count);
                let process = &mut self.processes[process % count];
                let (start, end) = (va(page), va(page) + pages as u64 * PAGE_SIZE);
                let prot = Prot::from_bits(prot);
                let run = process.pages.protectable(page, pages, prot);
                let denied = process.pages.run(page, pages) > run;
                let done = process.space.protect(&self.mem, start, end, prot);
                if done == Err(MapError::OutOfMemory) && self.shortage.any() {
                    return Ok(());
                }
                if let Err(MapError::Refused(refusal)) = done
                    && self.strict
                {
                    return honest(refusal);
                }
                let until = done.map(|done| (done.end, done.denied));
                let expected = match run {
                    0 if denied => Err(MapError::Denied),
                    0 => Err(MapError::NotMapped),
                    run => Ok((start + run as u64 * PAGE_SIZE, denied)),
                };
                if until != expected {
                    return Err(format!("protect up to {until:x?}, not {expected:x?}"));
                }
                if denied {
                    *self.outcomes.entry("protect-denied").or_default() += 1;
                }
                process
                    .pages
                    .0
                    .range_mut(page..page + run)
                    .for_each(|(_, page)| page.prot = prot);
            }
            Op::Discard {
                cpu,
                process,
                page,
                count: pages,
            } => {
                self.run(cpu, process % count);
                let process = &mut self.processes[process % count];
                let (start, end) = (va(page), va(page) + pages as u64 * PAGE_SIZE);
                match process.space.discard(&self.mem, start, end) {
                    Ok(done) if done.whole != (process.pages.run(page, pages) == pages) => {
                        return Err(format!("discard says {done:?}"));
                    }
                    Ok(_) => process.pages.discard(page, pages),
                    Err(MapError::OutOfMemory) if self.shortage.any() => return Ok(()),
                    Err(error) => return Err(format!("discard: {error}")),
                }
                *self.outcomes.entry("discard").or_default() += 1;
            }
            Op::Populate {
                cpu,
                process,
                page,
                count: pages,
                write,
            } => {
                let access = if write { Access::Write } else { Access::Read };
                self.populate(cpu, process % count, page, pages, access)?;
            }
            Op::Remap {
                cpu,
                process,
                page,
                count: pages,
                new_count,
                to,
            } => {
                self.run(cpu, process % count);
                self.remap(process % count, page, pages, new_count, to)?;
            }
            Op::Fork {
                cpu,
                process,
                page,
                mode,
            } => {
                self.run(cpu, process % count);
                self.fork(process % count, fork_mode(mode))?;
                // The parent goes on where it was, and finds its memory without another fault.
                self.access(cpu, process % count, page, 0, Access::Read, 0)?;
            }
            Op::Exec { cpu, process } => {
                let cpu = self.cpu(cpu);
                match AddressSpace::new(&self.mem) {
                    Ok(space) => {
                        self.mem.mmu.born(&space);
                        let old =
                            std::mem::replace(&mut self.processes[process % count].space, space);
                        self.processes[process % count].pages = Pages::default();
                        self.destroy(cpu, old);
                    }
                    Err(SpaceError::OutOfMemory) => {}
                    Err(SpaceError::Refused(refusal)) if self.strict => honest(refusal)?,
                    Err(error) => return Err(format!("exec: {error}")),
                }
            }
            Op::Everywhere {
                process,
                page,
                value,
            } => {
                for access in [Access::Read, Access::Write] {
                    for cpu in 0..self.running.len() {
                        self.access(cpu, process % count, page, 0, access, value)?;
                    }
                }
            }
            Op::Exit { cpu, process } => {
                let cpu = self.cpu(cpu);
                let process = self.processes.remove(process % count);
                self.destroy(cpu, process.space);
            }
        }
        Ok(())
    }

    /// No CPU may have it in TTBR0 when it ends.
    pub(super) fn destroy(&mut self, cpu: usize, space: AddressSpace) {
        for other in 0..self.running.len() {
            if self.running[other] == Some(space.serial()) {
                self.mem.mmu.machine.borrow_mut().set_cpu(other);
                self.mem.mmu.activate(None);
                self.running[other] = None;
            }
        }
        self.cpu(cpu);
        space.destroy(&self.mem);
        self.mem.mmu.done(Operation::End);
    }

    /// `starved`: there was too little memory before.
    fn expect(
        &self,
        permitted: bool,
        starved: bool,
        done: std::result::Result<(), Handled>,
    ) -> Result {
        let starved = starved || self.shortage.any();
        match done {
            Ok(()) if permitted => Ok(()),
            Err(handled) if handled.outcome == Outcome::Denied && !permitted => Ok(()),
            Err(handled) if handled.outcome == Outcome::OutOfMemory && starved => Ok(()),
            _ => Err(format!(
                "permitted = {permitted}, but the fault handler says {done:?}"
            )),
        }
    }

    pub fn map(
        &mut self,
        process: usize,
        page: usize,
        count: usize,
        prot: Prot,
        back: Back,
    ) -> Result {
        let (start, end) = (va(page), va(page) + count as u64 * PAGE_SIZE);
        let (backing, shared, object) = match back {
            Back::Anonymous => (Backing::Anonymous, false, None),
            Back::Shared => {
                let object = Rc::new(RefCell::new(vec![[0; OFFSETS.len()]; count]));
                (Backing::Anonymous, true, Some((object, 0)))
            }
            Back::File { file, from, shared } => {
                let (cache, object) = &self.files[file];
                let offset = from as u64 * PAGE_SIZE;
                (
                    Backing::File {
                        cache: cache.clone(),
                        offset,
                    },
                    shared,
                    Some((object.clone(), from)),
                )
            }
        };
        let process = &mut self.processes[process];
        // Who maps the second file shared and read-only has opened it to read.
        let read_only = matches!(
            back,
            Back::File {
                file: 1,
                shared: true,
                ..
            }
        );
        let may_write = !read_only || prot.contains(Prot::WRITE);
        let mapping = Mapping {
            start,
            end,
            prot,
            shared,
            may_write,
            backing,
            region: Region::Mmap,
            charged: false,
        };
        match process.space.map(&self.mem, mapping) {
            Ok(_) => {}
            Err(MapError::OutOfMemory) if self.shortage.any() => return Ok(()),
            Err(MapError::Refused(refusal)) if self.strict => return honest(refusal),
            Err(error) => return Err(format!("map: {error}")),
        }
        for at in 0..count {
            let object = object
                .as_ref()
                .map(|(object, from)| (object.clone(), from + at));
            process.pages.0.insert(
                page + at,
                Page {
                    prot,
                    shared,
                    stack: false,
                    may_write,
                    object,
                    own: None,
                },
            );
        }
        Ok(())
    }

    /// Nothing in the group of a page but a stack, from behind the page to the group's end.
    fn stack(&mut self, process: usize, page: usize) -> Result {
        let first = page / GROUP * GROUP;
        let (from, to) = ((page + 1).min(first + GROUP - 1), first + GROUP);
        let process = &mut self.processes[process];
        let mapping = Mapping {
            start: va(from),
            end: va(first) + GROUP as u64 * PAGE_SIZE,
            prot: Prot::READ.union(Prot::WRITE),
            shared: false,
            may_write: true,
            backing: Backing::Anonymous,
            region: Region::Stack,
            charged: false,
        };
        let (start, end) = (va(first), mapping.end);
        let done = match process.space.unmap(&self.mem, start, end) {
            Ok(_) => {
                process.pages.unmap(first, GROUP);
                process.space.map(&self.mem, mapping)
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(_) => {}
            Err(MapError::OutOfMemory) if self.shortage.any() => return Ok(()),
            Err(MapError::Refused(refusal)) if self.strict => return honest(refusal),
            Err(error) => return Err(format!("a stack: {error}")),
        }
        process.pages.0.extend((from..to).map(|at| {
            let new = Page {
                prot: Prot::READ.union(Prot::WRITE),
                shared: false,
                stack: true,
                may_write: true,
                object: None,
                own: None,
            };
            (at, new)
        }));
        Ok(())
    }

    fn next_name(&mut self) -> usize {
        self.born += 1;
        self.born - 1
    }

    /// One more process, with an address space of its own.
    pub fn adopt(&mut self, space: AddressSpace) {
        let pages = Pages::default();
        let name = self.next_name();
        self.processes.push(Process { name, space, pages });
    }

    pub fn fork(&mut self, parent: usize, mode: ForkMode) -> Result {
        if self.processes.len() >= PROCESSES {
            return Ok(());
        }
        let parent = &mut self.processes[parent];
        match parent.space.fork(&self.mem, mode) {
            Ok((space, _)) => {
                if space.resident() != parent.space.resident() {
                    return Err("the child's resident counts differ".into());
                }
                let pages = parent.pages.clone();
                let name = self.next_name();
                self.mem.mmu.born(&space);
                self.processes.push(Process { name, space, pages });
                Ok(())
            }
            Err(SpaceError::OutOfMemory) if self.shortage.any() => Ok(()),
            Err(SpaceError::Refused(refusal)) if self.strict => honest(refusal),
            Err(error) => Err(format!("fork: {error}")),
        }
    }
}

/// A refusal is one only if there is too little.
pub(super) fn honest(refusal: Refusal) -> Result {
    if refusal.pages > refusal.left {
        return Ok(());
    }
    Err(format!("{refusal:?} for nothing"))
}
