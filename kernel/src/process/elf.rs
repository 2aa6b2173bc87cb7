//! ELF files: what the kernel has to know of a program, checked.

use crate::fs::tree::{Content, Node};
use crate::syscall::errno::Errno;
use elf::abi::{
    EM_AARCH64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_NOTE, PT_PHDR,
};
use elf::endian::LittleEndian;
use elf::file::{Class, ELF64_EHDR_TAILSIZE, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::parse::ParseAt;
use elf::segment::{ProgramHeader, SegmentTable};
use memory::{PAGE_SIZE, Prot, USER_END};

/// Bytes of `e_ident`.
const IDENT: usize = 16;
/// The most program headers, as on Linux: one page of them.
const MAX_HEADERS: u16 = (PAGE_SIZE / 56) as u16;

/// A program for this machine.
pub struct Elf {
    header: FileHeader<LittleEndian>,
    segments: SegmentTable<'static, LittleEndian>,
}

/// A PT_LOAD segment, with its numbers checked: nothing overflows, all file bytes exist.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Address of its first byte, before any bias.
    pub addr: u64,
    /// Offset in the file of its first byte, congruent to `addr` modulo the page size.
    pub offset: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Bytes in memory.
    pub len: u64,
    /// Permissions.
    pub prot: Prot,
}

impl Elf {
    /// Checks the headers; ENOEXEC if this is no program for us.
    pub fn parse(bytes: &'static [u8]) -> Result<Elf, Errno> {
        let ident = bytes.get(..IDENT).ok_or(Errno::ENOEXEC)?;
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| Errno::ENOEXEC)?;
        let class = ident.1;
        let tail = bytes
            .get(IDENT..IDENT + ELF64_EHDR_TAILSIZE)
            .ok_or(Errno::ENOEXEC)?;
        if class != Class::ELF64 {
            return Err(Errno::ENOEXEC);
        }
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| Errno::ENOEXEC)?;
        let program = matches!(header.e_type, ET_EXEC | ET_DYN) && header.e_machine == EM_AARCH64;
        let size = ProgramHeader::size_for(class);
        if !program
            || usize::from(header.e_phentsize) != size
            || !(1..=MAX_HEADERS).contains(&header.e_phnum)
        {
            return Err(Errno::ENOEXEC);
        }
        let start = usize::try_from(header.e_phoff).map_err(|_| Errno::ENOEXEC)?;
        let end = start
            .checked_add(size * usize::from(header.e_phnum))
            .ok_or(Errno::ENOEXEC)?;
        let table = bytes.get(start..end).ok_or(Errno::ENOEXEC)?;
        let elf = Elf {
            segments: SegmentTable::new(LittleEndian, class, table),
            header,
        };
        let mut end = 0;
        for segment in elf
            .segments
            .iter()
            .filter(|segment| segment.p_type == PT_LOAD)
        {
            end = elf.check(&segment, bytes.len() as u64, end)?;
        }
        // Dynamic programs need a loader that the kernel does not start yet.
        if end == 0
            || elf
                .segments
                .iter()
                .any(|segment| segment.p_type == PT_INTERP)
        {
            return Err(Errno::ENOEXEC);
        }
        Ok(elf)
    }

    /// Checks a PT_LOAD; the segments before it end at `lowest`. Returns the end of its last page.
    fn check(&self, segment: &ProgramHeader, file_len: u64, lowest: u64) -> Result<u64, Errno> {
        let in_file = segment
            .p_offset
            .checked_add(segment.p_filesz)
            .is_some_and(|end| end <= file_len);
        let end = segment
            .p_vaddr
            .checked_add(segment.p_memsz)
            .filter(|&end| end <= USER_END - PAGE_SIZE);
        let end = end.ok_or(Errno::ENOEXEC)?.next_multiple_of(PAGE_SIZE);
        let congruent = segment.p_vaddr % PAGE_SIZE == segment.p_offset % PAGE_SIZE;
        // Pages belong to one segment, in ascending order, so that each can have its own permissions.
        let ascending = segment.p_vaddr - segment.p_vaddr % PAGE_SIZE >= lowest;
        let writable_code = segment.p_flags & (PF_W | PF_X) == PF_W | PF_X;
        if !in_file
            || !congruent
            || !ascending
            || writable_code
            || segment.p_filesz > segment.p_memsz
        {
            return Err(Errno::ENOEXEC);
        }
        Ok(end)
    }

    /// The PT_LOAD segments, in ascending order.
    pub fn loads(&self) -> impl Iterator<Item = Segment> {
        self.segments
            .iter()
            .filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0)
            .map(|segment| {
                let mut prot = Prot::NONE;
                for (flag, one) in [(PF_R, Prot::READ), (PF_W, Prot::WRITE), (PF_X, Prot::EXEC)] {
                    if segment.p_flags & flag != 0 {
                        prot = prot.union(one);
                    }
                }
                Segment {
                    addr: segment.p_vaddr,
                    offset: segment.p_offset,
                    file_len: segment.p_filesz,
                    len: segment.p_memsz,
                    prot,
                }
            })
    }

    /// Where execution starts, before any bias.
    pub fn entry(&self) -> u64 {
        self.header.e_entry
    }

    /// Whether it may be loaded anywhere.
    pub fn is_relocatable(&self) -> bool {
        self.header.e_type == ET_DYN
    }

    /// The address of the program headers in memory, before any bias; 0 if they are not loaded.
    pub fn headers_addr(&self) -> u64 {
        if let Some(segment) = self
            .segments
            .iter()
            .find(|segment| segment.p_type == PT_PHDR)
        {
            return segment.p_vaddr;
        }
        let offset = self.header.e_phoff;
        let holds = |segment: &Segment| {
            (segment.offset..segment.offset + segment.file_len).contains(&offset)
        };
        self.loads()
            .find(holds)
            .map_or(0, |segment| segment.addr + (offset - segment.offset))
    }

    /// How many program headers there are.
    pub fn headers(&self) -> u16 {
        self.header.e_phnum
    }

    /// Bytes of each.
    pub fn header_size(&self) -> u16 {
        self.header.e_phentsize
    }
}

/// The GNU build id of a program.
pub fn build_id(node: &'static Node) -> Option<&'static [u8]> {
    let Content::Regular(file) = &node.content else {
        return None;
    };
    let elf = Elf::parse(file.bytes).ok()?;
    for segment in elf
        .segments
        .iter()
        .filter(|segment| segment.p_type == PT_NOTE)
    {
        let start = usize::try_from(segment.p_offset).ok()?;
        let end = start.checked_add(usize::try_from(segment.p_filesz).ok()?)?;
        let notes = file.bytes.get(start..end)?;
        let align = usize::try_from(segment.p_align).ok()?.clamp(4, 8);
        for note in NoteIterator::new(LittleEndian, Class::ELF64, align, notes) {
            if let Note::GnuBuildId(id) = note {
                return Some(id.0);
            }
        }
    }
    None
}
