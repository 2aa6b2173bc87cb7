//! A program's first address space: segments, stack, arguments, auxiliary vector.

use super::credentials::Rights;
use super::elf::{Elf, Segment};
use super::random;
use super::script::Script;
use super::signal;
use super::space::Space;
use super::vdso;
use crate::arch::{self, uaccess};
use crate::fs::regular::Regular;
use crate::syscall::{errno::Errno, user};
use alloc::vec::Vec;
use core::mem;
use linux_raw_sys::auxvec::{
    AT_BASE, AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_EXECFN, AT_FLAGS, AT_GID, AT_HWCAP,
    AT_HWCAP2, AT_MINSIGSTKSZ, AT_NULL, AT_PAGESZ, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PLATFORM,
    AT_RANDOM, AT_SECURE, AT_SYSINFO_EHDR, AT_UID,
};
use memory::{Backing, Mapping, PAGE_SIZE, Prot, Region, USER_END};

/// One past the highest byte of the stack of a program that is linked low, as most are: in the
/// same GiB, so that a small process needs a level 2 table less. A heap that meets the stack goes
/// on elsewhere: `malloc` takes to mmap when brk fails.
pub const STACK_TOP_LOW: u64 = (1 << 30) - PAGE_SIZE;
/// And of a program that needs the room, or is somewhere else. The vDSO is right above.
pub const STACK_TOP_HIGH: u64 = USER_END - PAGE_SIZE;
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

    /// Puts these in the place of the first one, if there is one.
    pub fn replace_first(&mut self, strings: &[&[u8]]) -> Result<(), Errno> {
        let old = mem::take(self);
        for string in strings {
            self.push(string)?;
        }
        let rest = old.bytes.iter().position(|&byte| byte == 0);
        let rest = rest.map_or(&[][..], |end| &old.bytes[end + 1..]);
        self.bytes
            .try_reserve(rest.len())
            .map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(rest);
        self.count += old.count.saturating_sub(1);
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
    /// Who runs it.
    pub rights: Rights,
}

/// A file that holds a program.
#[derive(Clone, Copy)]
pub struct Loadable<'a> {
    /// The file.
    pub file: &'a Regular,
    /// What it holds.
    pub elf: &'a Elf,
}

/// A program's mappings, made; what is left is to fill them.
pub struct Image {
    /// Where execution starts: in the program, or in its interpreter.
    start: u64,
    entry: u64,
    bias: u64,
    /// Where the interpreter is; 0 if there is none.
    interpreter: u64,
    stack_top: u64,
    /// Ranges to clear: from the end of a segment's file bytes to the end of their page.
    tails: Vec<(u64, u64)>,
}

impl Image {
    /// Makes the mappings of a program, and of its interpreter if it has one, in an empty address
    /// space, with `stack` bytes more than usual of stack.
    pub fn map(
        space: &Space,
        program: Loadable<'_>,
        interpreter: Option<Loadable<'_>>,
        stack: u64,
    ) -> Result<Image, Errno> {
        let elf = program.elf;
        let first = elf.loads.first().map_or(0, |segment| segment.addr);
        let bias = if elf.relocatable {
            RELOCATABLE_BASE.wrapping_sub(first & !0xffff)
        } else {
            0
        };
        let entry = elf.entry.wrapping_add(bias);
        let mut image = Image {
            start: entry,
            entry,
            bias,
            interpreter: 0,
            stack_top: stack_top(elf, bias),
            tails: Vec::new(),
        };
        let heap = image.segments(space, program, bias, Region::Program)?;
        space.map(Mapping {
            start: image.stack_top - stack.next_multiple_of(PAGE_SIZE),
            end: image.stack_top,
            prot: Prot::READ.union(Prot::WRITE),
            shared: false,
            may_write: true,
            backing: Backing::Anonymous,
            region: Region::Stack,
            charged: false,
        })?;
        {
            let mut inner = space.lock();
            inner.heap = (heap, heap);
            inner.map.set_stack_limit(STACK_LIMIT);
        }
        vdso::map(space, image.stack_top)?;
        if let Some(interpreter) = interpreter {
            let bias = free_bias(space, interpreter.elf)?;
            image.segments(space, interpreter, bias, Region::Mmap)?;
            image.start = interpreter.elf.entry.wrapping_add(bias);
            image.interpreter = bias;
        }
        Ok(image)
    }

    /// Maps the segments of a file; returns the end of the last one.
    fn segments(
        &mut self,
        space: &Space,
        program: Loadable<'_>,
        bias: u64,
        region: Region,
    ) -> Result<u64, Errno> {
        let mut last = 0;
        for segment in &program.elf.loads {
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
            if end > STACK_TOP_HIGH - STACK_LIMIT && region == Region::Program || end <= start {
                return Err(Errno::ENOMEM);
            }
            let part = |start, end, backing| {
                let mapping = Mapping {
                    start,
                    end,
                    prot: segment.prot,
                    shared: false,
                    may_write: true,
                    backing,
                    region,
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
                    cache: program.file.cache().clone(),
                    offset,
                },
            )?;
            part(middle, end, Backing::Anonymous)?;
            let tail = (addr + segment.file_len).min(middle);
            if segment.len > segment.file_len && tail < middle && segment.prot.contains(Prot::WRITE)
            {
                self.tails.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.tails.push((tail, middle));
            }
            last = last.max(end);
        }
        Ok(last)
    }

    /// Where execution starts.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Fills the mappings, through the user's addresses: the address space is the active one.
    /// Returns the stack pointer.
    pub fn fill(&self, elf: &Elf, arguments: &Arguments) -> Result<u64, Errno> {
        for &(start, end) in &self.tails {
            uaccess::zero(start, (end - start) as usize).map_err(|_| Errno::ENOMEM)?;
        }
        self.stack(elf, arguments).map_err(|_| Errno::ENOMEM)
    }

    /// Where the arguments and the environment are: first byte, and one past the last.
    pub fn strings(&self, arguments: &Arguments) -> ((u64, u64), (u64, u64)) {
        let end = self.stack_top - 8 - arguments.path.bytes.len() as u64;
        let environment = end - arguments.environment.bytes.len() as u64;
        let start = environment - arguments.arguments.bytes.len() as u64;
        ((start, environment), (environment, end))
    }

    /// Writes the initial stack; its address.
    fn stack(&self, elf: &Elf, arguments: &Arguments) -> Result<u64, Errno> {
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
        let rights = &arguments.rights;
        let auxiliary: [[u64; 2]; _] = [
            [AT_PHDR.into(), headers],
            [AT_PHENT.into(), elf.header_size.into()],
            [AT_PHNUM.into(), elf.headers.into()],
            [AT_PAGESZ.into(), PAGE_SIZE],
            [AT_BASE.into(), self.interpreter],
            [AT_FLAGS.into(), 0],
            [AT_ENTRY.into(), self.entry],
            [AT_UID.into(), rights.uid.real.into()],
            [AT_EUID.into(), rights.uid.effective.into()],
            [AT_GID.into(), rights.gid.real.into()],
            [AT_EGID.into(), rights.gid.effective.into()],
            [AT_SECURE.into(), rights.gained.into()],
            [AT_CLKTCK.into(), USER_HZ],
            [AT_HWCAP.into(), arch::cpu::hwcap()],
            [AT_HWCAP2.into(), 0],
            [AT_SYSINFO_EHDR.into(), self.stack_top],
            [AT_MINSIGSTKSZ.into(), signal::frame::LEN_MAX],
            [AT_RANDOM.into(), random],
            [AT_EXECFN.into(), path],
            [AT_PLATFORM.into(), platform],
            [AT_NULL.into(), 0],
        ];
        let strings_count = arguments.arguments.count + arguments.environment.count;
        let words = 1 + strings_count + 2 + 2 * auxiliary.len();
        let sp = (random - 8 * words as u64) & !15;
        let mut vectors: Vec<u64> = Vec::new();
        vectors
            .try_reserve_exact(words)
            .map_err(|_| Errno::ENOMEM)?;
        vectors.push(arguments.arguments.count as u64);
        for (list, mut addr) in lists.into_iter().zip([strings, environment]) {
            for string in list.bytes.split_inclusive(|&byte| byte == 0) {
                vectors.push(addr);
                addr += string.len() as u64;
            }
            vectors.push(0);
        }
        vectors.extend_from_slice(auxiliary.as_flattened());
        user::write_slice(sp, &vectors)?;
        let mut seed = [0; 16];
        random::fill(&mut seed);
        for (addr, part) in [
            (random, &seed[..]),
            (platform, PLATFORM),
            (strings, &lists[0].bytes),
            (environment, &lists[1].bytes),
            (path, &arguments.path.bytes),
        ] {
            uaccess::write(addr, part)?;
        }
        Ok(sp)
    }
}

/// What to add to the addresses of an interpreter, so that it lies where nothing else is.
fn free_bias(space: &Space, elf: &Elf) -> Result<u64, Errno> {
    let (Some(first), Some(last)) = (elf.loads.first(), elf.loads.last()) else {
        return Err(Errno::ELIBBAD);
    };
    let start = first.addr & !(PAGE_SIZE - 1);
    let len = (last.addr + last.len).next_multiple_of(PAGE_SIZE) - start;
    let inner = space.lock();
    if elf.relocatable {
        let free = inner.map.find_free(len, 0).ok_or(Errno::ENOMEM)?;
        Ok(free.wrapping_sub(start))
    } else if inner.overlaps(start, start + len) {
        // Linux kills the process then, as it has no program any more to return an error to.
        Err(Errno::ENOMEM)
    } else {
        Ok(0)
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
    /// As on Linux since 5.18, an empty argument list gets an empty first argument.
    pub fn complete(&mut self) -> Result<(), Errno> {
        if self.arguments.count == 0 {
            self.arguments.push(b"")?;
        }
        Ok(())
    }

    /// The path, without its NUL.
    pub fn path(&self) -> &[u8] {
        self.path.bytes.strip_suffix(b"\0").unwrap_or_default()
    }

    /// The last part of the path: what the process is called.
    pub fn name(&self) -> &[u8] {
        self.path()
            .rsplit(|&byte| byte == b'/')
            .next()
            .unwrap_or_default()
    }

    /// Puts the interpreter of a script, and its argument, before the script's path, which takes
    /// the place of the first argument. The path is `script`, or the one that the program was called by.
    pub fn run_by(&mut self, line: &Script<'_>, script: Option<&[u8]>) -> Result<(), Errno> {
        let Arguments {
            path, arguments, ..
        } = self;
        let script = script.unwrap_or(path.bytes.strip_suffix(b"\0").unwrap_or_default());
        match line.argument {
            Some(argument) => arguments.replace_first(&[line.interpreter, argument, script]),
            None => arguments.replace_first(&[line.interpreter, script]),
        }
    }

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
