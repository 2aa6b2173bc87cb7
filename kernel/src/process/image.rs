//! A program's first address space: segments, stack, arguments, auxiliary vector.

use super::elf::{Elf, Segment};
use super::random;
use super::space::Space;
use crate::arch::{self, uaccess};
use crate::fs::regular::Regular;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use linux_raw_sys::auxvec::{
    AT_BASE, AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_EXECFN, AT_FLAGS, AT_GID, AT_HWCAP,
    AT_HWCAP2, AT_NULL, AT_PAGESZ, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PLATFORM, AT_RANDOM, AT_SECURE,
    AT_UID,
};
use memory::{Backing, Mapping, PAGE_SIZE, Prot, Region, USER_END};

/// One past the highest byte of the stack of a program that is linked low, as most are: in the
/// same GiB, so that a small process needs a level 2 table less. A heap that meets the stack goes
/// on elsewhere: `malloc` takes to mmap when brk fails.
const STACK_TOP_LOW: u64 = (1 << 30) - PAGE_SIZE;
/// And of a program that needs the room, or is somewhere else. A page is left unmapped above.
const STACK_TOP_HIGH: u64 = USER_END - PAGE_SIZE;
/// How large the stack may grow (RLIMIT_STACK).
pub const STACK_LIMIT: u64 = 8 << 20;
/// What the auxiliary vector takes of it, with argc, the ends of the lists, random bytes, the
/// platform's name and alignment. No more is mapped from the start than this and the arguments: what
/// is mapped is charged, to each forked child again, and the stack grows by itself.
const AUXILIARY: u64 = 512;
/// Where programs go that may go anywhere: two thirds up, as on Linux.
const RELOCATABLE_BASE: u64 = (USER_END / 3 * 2) & !0xffff;
/// Clock ticks per second that `times` counts in.
pub const USER_HZ: u64 = 100;
/// The most bytes of arguments and environment, pointers included: a quarter of the stack.
const STRINGS_MAX: usize = STACK_LIMIT as usize / 4;
/// The most bytes of one string, with its NUL.
pub const STRING_MAX: usize = 32 * PAGE_SIZE as usize;

/// Strings, each ending with NUL: arguments, or an environment.
#[derive(Default)]
pub struct Strings {
    bytes: Vec<u8>,
    count: usize,
}

impl Strings {
    /// Appends one.
    pub fn push(&mut self, string: &[u8]) -> Result<(), Errno> {
        self.bytes
            .try_reserve(string.len() + 1)
            .map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        self.check()
    }

    /// Appends the strings of a user's array of pointers, up to the null pointer. A null array is an empty one.
    pub fn push_user(&mut self, mut array: u64) -> Result<(), Errno> {
        if array == 0 {
            return Ok(());
        }
        loop {
            let string = uaccess::read_u64(array)?;
            if string == 0 {
                return Ok(());
            }
            self.push_user_string(string)?;
            array = array.wrapping_add(8);
        }
    }

    fn push_user_string(&mut self, addr: u64) -> Result<(), Errno> {
        /// Most strings are shorter.
        const STEP: usize = 256;
        let start = self.bytes.len();
        loop {
            let at = self.bytes.len();
            if at - start >= STRING_MAX {
                return Err(Errno::E2BIG);
            }
            self.bytes.try_reserve(STEP).map_err(|_| Errno::ENOMEM)?;
            self.bytes.resize(at + STEP, 0);
            let len = uaccess::read_cstr(addr + (at - start) as u64, &mut self.bytes[at..])?;
            if len < STEP {
                self.bytes.truncate(at + len + 1);
                self.count += 1;
                return self.check();
            }
        }
    }

    fn check(&self) -> Result<(), Errno> {
        if self.bytes.len() + 8 * self.count > STRINGS_MAX {
            Err(Errno::E2BIG)
        } else {
            Ok(())
        }
    }
}

/// What a program is started with.
pub struct Arguments {
    /// The path it was called by.
    pub path: Strings,
    /// argv.
    pub arguments: Strings,
    /// envp.
    pub environment: Strings,
}

/// A program's mappings, made; what is left is to fill them.
pub struct Image {
    entry: u64,
    bias: u64,
    stack_top: u64,
    /// Ranges to clear: from the end of a segment's file bytes to the end of their page.
    tails: Vec<(u64, u64)>,
}

impl Image {
    /// Makes the mappings of a program in an empty address space.
    pub fn map(space: &Space, file: &Regular, elf: &Elf, stack: u64) -> Result<Image, Errno> {
        let first = elf.loads.first().map_or(0, |segment| segment.addr);
        let bias = if elf.relocatable {
            RELOCATABLE_BASE.wrapping_sub(first & !0xffff)
        } else {
            0
        };
        let mut image = Image {
            entry: elf.entry.wrapping_add(bias),
            bias,
            stack_top: stack_top(elf, bias),
            tails: Vec::new(),
        };
        let mut heap = 0;
        for segment in &elf.loads {
            let addr = segment.addr.wrapping_add(bias);
            let start = addr & !(PAGE_SIZE - 1);
            let end = (addr + segment.len).next_multiple_of(PAGE_SIZE);
            let file_end = (addr + segment.file_len)
                .next_multiple_of(PAGE_SIZE)
                .min(end);
            let middle = if segment.file_len > 0 {
                file_end
            } else {
                start
            };
            if end > STACK_TOP_HIGH - STACK_LIMIT || end <= start {
                return Err(Errno::ENOMEM);
            }
            let part = |start, end, backing| {
                let mapping = Mapping {
                    start,
                    end,
                    prot: segment.prot,
                    shared: false,
                    backing,
                    region: Region::Program,
                    charged: false,
                };
                if start < end {
                    space.map(mapping)
                } else {
                    Ok(())
                }
            };
            let offset = segment.offset & !(PAGE_SIZE - 1);
            part(
                start,
                middle,
                Backing::File {
                    cache: file.cache().clone(),
                    offset,
                },
            )?;
            part(middle, end, Backing::Anonymous)?;
            let tail = (addr + segment.file_len).min(middle);
            if segment.len > segment.file_len && tail < middle && segment.prot.contains(Prot::WRITE)
            {
                image.tails.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                image.tails.push((tail, middle));
            }
            heap = heap.max(end);
        }
        space.map(Mapping {
            start: image.stack_top - stack.next_multiple_of(PAGE_SIZE),
            end: image.stack_top,
            prot: Prot::READ.union(Prot::WRITE),
            shared: false,
            backing: Backing::Anonymous,
            region: Region::Stack,
            charged: false,
        })?;
        let mut inner = space.lock();
        inner.heap = (heap, heap);
        inner.map.set_stack_limit(STACK_LIMIT);
        Ok(image)
    }

    /// Where execution starts.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Fills the mappings, through the user's addresses: the address space is the active one.
    /// Returns the stack pointer.
    pub fn fill(&self, elf: &Elf, arguments: &Arguments) -> Result<u64, Errno> {
        for &(start, end) in &self.tails {
            uaccess::zero(start, (end - start) as usize).map_err(|_| Errno::ENOMEM)?;
        }
        let (sp, bytes) = self.stack(elf, arguments)?;
        uaccess::write(sp, &bytes).map_err(|_| Errno::ENOMEM)?;
        Ok(sp)
    }

    /// Where the arguments and the environment are: first byte, and one past the last.
    pub fn strings(&self, arguments: &Arguments) -> ((u64, u64), (u64, u64)) {
        let end = self.stack_top - 8 - arguments.path.bytes.len() as u64;
        let environment = end - arguments.environment.bytes.len() as u64;
        let start = environment - arguments.arguments.bytes.len() as u64;
        ((start, environment), (environment, end))
    }

    /// The initial stack: its address and contents.
    fn stack(&self, elf: &Elf, arguments: &Arguments) -> Result<(u64, Vec<u8>), Errno> {
        const PLATFORM: &[u8] = b"aarch64\0";
        let lists = [&arguments.arguments, &arguments.environment];
        let [argv, envp] = lists.map(|list| list.bytes.len() as u64);
        // From the top: path, environment, arguments, platform, random bytes.
        let path = self.stack_top - 8 - arguments.path.bytes.len() as u64;
        let environment = path - envp;
        let strings = environment - argv;
        let platform = strings - PLATFORM.len() as u64;
        let random = (platform - 16) & !15;
        let headers = elf
            .headers_addr
            .map_or(0, |addr| addr.wrapping_add(self.bias));
        let auxiliary = [
            (AT_PHDR, headers),
            (AT_PHENT, elf.header_size.into()),
            (AT_PHNUM, elf.headers.into()),
            (AT_PAGESZ, PAGE_SIZE),
            (AT_BASE, 0),
            (AT_FLAGS, 0),
            (AT_ENTRY, self.entry),
            (AT_UID, 0),
            (AT_EUID, 0),
            (AT_GID, 0),
            (AT_EGID, 0),
            (AT_SECURE, 0),
            (AT_CLKTCK, USER_HZ),
            (AT_HWCAP, arch::cpu::hwcap()),
            (AT_HWCAP2, 0),
            (AT_RANDOM, random),
            (AT_EXECFN, path),
            (AT_PLATFORM, platform),
            (AT_NULL, 0),
        ];
        let words = 1
            + arguments.arguments.count
            + 1
            + arguments.environment.count
            + 1
            + 2 * auxiliary.len();
        let sp = (random - 8 * words as u64) & !15;
        let mut bytes = Vec::new();
        let len = (self.stack_top - sp) as usize;
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        let mut slots = bytes.chunks_exact_mut(8);
        let mut word = |value: u64| {
            if let Some(slot) = slots.next() {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        };
        word(arguments.arguments.count as u64);
        for (list, mut addr) in lists.into_iter().zip([strings, environment]) {
            for string in list.bytes.split_inclusive(|&byte| byte == 0) {
                word(addr);
                addr += string.len() as u64;
            }
            word(0);
        }
        for (kind, value) in auxiliary {
            word(kind.into());
            word(value);
        }
        let at = |addr: u64| (addr - sp) as usize;
        random::fill(&mut bytes[at(random)..at(random) + 16]);
        for (addr, part) in [
            (platform, PLATFORM),
            (strings, &lists[0].bytes),
            (environment, &lists[1].bytes),
            (path, &arguments.path.bytes),
        ] {
            bytes[at(addr)..at(addr) + part.len()].copy_from_slice(part);
        }
        Ok((sp, bytes))
    }
}

/// Where the stack of a program goes: low if half a GiB is left below it.
fn stack_top(elf: &Elf, bias: u64) -> u64 {
    let end = |segment: &Segment| segment.addr.wrapping_add(bias).checked_add(segment.len);
    let low = |segment| end(segment).is_some_and(|end| end <= STACK_TOP_LOW / 2);
    if elf.loads.iter().all(low) {
        STACK_TOP_LOW
    } else {
        STACK_TOP_HIGH
    }
}

impl Arguments {
    /// E2BIG if arguments and environment together are too long.
    pub fn check(&self) -> Result<(), Errno> {
        if self.stack_len() > STRINGS_MAX as u64 {
            Err(Errno::E2BIG)
        } else {
            Ok(())
        }
    }

    /// Bytes that the stack starts with, at most.
    pub fn stack_len(&self) -> u64 {
        let lists = [&self.path, &self.arguments, &self.environment];
        lists
            .iter()
            .map(|list| (list.bytes.len() + 8 * list.count) as u64)
            .sum::<u64>()
            + AUXILIARY
    }
}
