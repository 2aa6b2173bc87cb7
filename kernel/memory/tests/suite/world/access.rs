//! Accesses of programs, and the faults they take.

use memory::{Access, Denial, Handled, Outcome, PAGE_SIZE, Prot, Request};
use model::checker::Operation;

use super::{Result, World};
use crate::oracle::{OFFSETS, va};

impl World {
    /// Makes a process current on a CPU.
    pub fn run(&mut self, cpu: usize, process: usize) -> usize {
        let cpu = self.cpu(cpu);
        let space = &self.processes[process].space;
        // Also where it is active already, as a kernel that has been in another thread does.
        let before = self.mem.asids.generation();
        self.mem.activate(space.root(), cpu);
        let rolled = self.mem.asids.generation() - before;
        *self.outcomes.entry("rollover").or_default() += rolled as u32;
        if self.running[cpu] != Some(space.serial()) {
            let ttbr0 = space.root().ttbr0();
            self.mem.mmu.activate(Some(ttbr0));
            self.mem.mmu.done(Operation::Switch);
            self.running[cpu] = Some(space.serial());
        }
        cpu
    }

    /// An access of a program, with at most one fault. What the fault handler did, if it was called.
    pub fn access(
        &mut self,
        cpu: usize,
        process: usize,
        page: usize,
        offset: usize,
        access: Access,
        value: u8,
    ) -> Result<Option<Handled>> {
        let cpu = self.run(cpu, process);
        let permitted = self.processes[process].pages.reaches(page, access);
        let addr = va(page) + OFFSETS[offset];
        let mut last: Option<Handled> = None;
        loop {
            let done = {
                let mut machine = self.mem.mmu.machine.borrow_mut();
                match access {
                    Access::Read => machine.load(cpu, addr).map(Some),
                    Access::Write => machine.store_byte(cpu, addr, value).map(|()| None),
                    Access::Exec => machine.fetch(cpu, addr).map(|()| None),
                }
            };
            let pages = &mut self.processes[process].pages;
            match done {
                Ok(_) if !permitted => {
                    return Err(format!(
                        "{access:?} of page {page} is not permitted, but works"
                    ));
                }
                Ok(read) => {
                    if access == Access::Write {
                        pages.write(page, offset, value);
                    } else if let Some(read) = read
                        && read != pages.read(page, offset)
                    {
                        return Err(format!(
                            "process {process} reads {read:#x} at page {page}, not {:#x}",
                            pages.read(page, offset)
                        ));
                    }
                    return Ok(last);
                }
                Err(fault) if last.is_some() => {
                    return Err(format!("{fault:?} again after {last:?}"));
                }
                Err(_) => {}
            }
            let space = &mut self.processes[process].space;
            let request = Request { addr, access };
            // Some as threads have them, that share the address space's lock.
            let beside = match (page + offset) % 2 {
                0 => space.fault_beside(&self.mem, request, |_| ()),
                _ => None,
            };
            let handled = match beside {
                Some(handled) => handled,
                None => space.fault(&self.mem, request),
            };
            let spurious = handled.outcome == Outcome::Spurious;
            self.mem.mmu.done(Operation::Fault { va: addr, spurious });
            *self.outcomes.entry(name(handled.outcome)).or_default() += 1;
            match handled.outcome {
                Outcome::Denied if !permitted => return Ok(Some(handled)),
                Outcome::OutOfMemory if self.may_starve(process, page, access) => {
                    return Ok(Some(handled));
                }
                Outcome::StackGrow => {
                    let pages = &mut self.processes[process].pages;
                    if !pages.grows(page, access) {
                        return Err(format!("a stack grows down to page {page}"));
                    }
                    pages.grow(page, access);
                    last = Some(handled);
                }
                Outcome::Denied | Outcome::OutOfMemory => {
                    return Err(format!("{access:?} of page {page}: {handled:?}"));
                }
                Outcome::Spurious if self.running.len() == 1 => {
                    return Err("a spurious fault with one CPU".into());
                }
                _ => last = Some(handled),
            }
        }
    }

    /// Has pages there before they are accessed, up to the first that cannot be.
    pub fn populate(
        &mut self,
        cpu: usize,
        process: usize,
        page: usize,
        count: usize,
        access: Access,
    ) -> Result {
        let cpu = self.run(cpu, process);
        self.mem.mmu.machine.borrow_mut().synchronise();
        let right = match access {
            Access::Write => Prot::WRITE,
            _ => Prot::READ,
        };
        let mapped = &self.processes[process].pages.0;
        let refused = (page..page + count).find_map(|at| match mapped.get(&at) {
            None => Some((at, Denial::Unmapped)),
            Some(page) if !page.prot.contains(right) => Some((at, Denial::Forbidden)),
            Some(page) if page.past_end() => Some((at, Denial::PastEnd)),
            Some(_) => None,
        });
        let end = va(page) + count as u64 * PAGE_SIZE;
        let done = loop {
            let space = &mut self.processes[process].space;
            let addr = match space.next_fault(&self.mem, va(page), end, access) {
                Ok(Some(addr)) => addr,
                Ok(None) => break None,
                Err(denial) => break Some(denial),
            };
            let handled = space.fault(&self.mem, Request { addr, access });
            let spurious = handled.outcome == Outcome::Spurious;
            self.mem.mmu.done(Operation::Fault { va: addr, spurious });
            let at = page + ((addr - va(page)) / PAGE_SIZE) as usize;
            match handled.outcome {
                Outcome::Denied => break handled.denial,
                Outcome::OutOfMemory if self.may_starve(process, at, access) => return Ok(()),
                Outcome::OutOfMemory | Outcome::Spurious => {
                    return Err(format!("populate says {handled:?} at page {at}"));
                }
                // What its file becomes later is not seen.
                _ if access == Access::Write => self.processes[process].pages.own(at),
                _ => {}
            }
        };
        if done != refused.map(|(_, denial)| denial) {
            return Err(format!("populate ends with {done:?}, not {refused:?}"));
        }
        let name = match done {
            None => "populate",
            Some(_) => "populate-refused",
        };
        *self.outcomes.entry(name).or_default() += 1;
        if refused.is_none_or(|(at, _)| at > page) {
            let handled = self.access(cpu, process, page, 0, access, 0x50)?;
            if let Some(handled) = handled.filter(|handled| handled.outcome != Outcome::Spurious) {
                return Err(format!(
                    "page {page} is populated, but there is {handled:?}"
                ));
            }
        }
        Ok(())
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Spurious => "spurious",
        Outcome::ZeroFill => "zero-fill",
        Outcome::ZeroPage => "zero-page",
        Outcome::CowCopy => "cow-copy",
        Outcome::CowZero => "cow-zero",
        Outcome::CowReuse => "cow-reuse",
        Outcome::TableUnshare => "table-unshare",
        Outcome::TableReuse => "table-reuse",
        Outcome::SharedWrite => "shared-write",
        Outcome::FileRead => "file-read",
        Outcome::FileCopy => "file-copy",
        Outcome::Exec => "exec",
        Outcome::StackGrow => "stack-grow",
        Outcome::Denied => "denied",
        Outcome::OutOfMemory => "out-of-memory",
    }
}
