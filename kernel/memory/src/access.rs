//! The kernel reads and writes a program's memory by the program's own rules, whether or not the
//! address space is active. (Where it is, LDTR and STTR are cheaper.)

use crate::USER_END;
use crate::descriptor::Leaf;
use crate::fault::{Handled, permits};
use crate::frame::{Frame, PAGE_BYTES, PAGE_SIZE};
use crate::mapping::Access;
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::space::AddressSpace;
use crate::tables::{Walk, walk};

impl AddressSpace {
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
        let handled = self.fault_again(mem, addr, access);
        match Leaf::from_bits(handled.new) {
            Some(leaf) if handled.succeeded() && permits(leaf, access) => Ok(leaf.frame()),
            _ => Err(handled),
        }
    }
}
