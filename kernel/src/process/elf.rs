//! ELF files: what the kernel has to know of a program, checked.

use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use elf::abi::{
    EM_AARCH64, ET_DYN, ET_EXEC, PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_NOTE, PT_PHDR,
};
use elf::endian::LittleEndian;
use elf::file::{Class, ELF64_EHDR_TAILSIZE, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::parse::ParseAt;
use elf::segment::{ProgramHeader, SegmentTable};
use memory::{PAGE_SIZE, Prot, USER_END};

type Segments = SegmentTable<'static, LittleEndian>;

/// Bytes of `e_ident`.
const IDENT: usize = 16;
/// The most program headers, as on Linux: one page of them.
const MAX_HEADERS: u16 = (PAGE_SIZE / 56) as u16;

/// A program for this machine, checked.
pub struct Elf {
    /// Where execution starts, before any bias.
    pub entry: u64,
    /// Whether it may be loaded anywhere.
    pub relocatable: bool,
    /// The address of the program headers in memory, before any bias; none if they are not loaded.
    pub headers_addr: Option<u64>,
    /// How many program headers there are.
    pub headers: u16,
    /// Bytes of each.
    pub header_size: u16,
    /// Its PT_LOAD segments, in ascending order; at least one.
    pub loads: Vec<Segment>,
    /// Its GNU build id.
    pub build_id: Option<&'static [u8]>,
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
        let segments = SegmentTable::new(LittleEndian, class, table);
        // Dynamic programs need a loader that the kernel does not start yet.
        if segments.iter().any(|segment| segment.p_type == PT_INTERP) {
            return Err(Errno::ENOEXEC);
        }
        let mut loads = Vec::new();
        let mut end = 0;
        for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
            end = check(&segment, bytes.len() as u64, end)?;
            if segment.p_memsz > 0 {
                loads.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                loads.push(Segment::new(&segment));
            }
        }
        if loads.is_empty() {
            return Err(Errno::ENOEXEC);
        }
        Ok(Elf {
            entry: header.e_entry,
            relocatable: header.e_type == ET_DYN,
            headers_addr: headers_addr(&header, &segments, &loads),
            headers: header.e_phnum,
            header_size: header.e_phentsize,
            build_id: build_id(bytes, &segments),
            loads,
        })
    }
}

/// Checks a PT_LOAD; the segments before it end at `lowest`. Returns the end of its last page.
fn check(segment: &ProgramHeader, file_len: u64, lowest: u64) -> Result<u64, Errno> {
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
    if !in_file || !congruent || !ascending || writable_code || segment.p_filesz > segment.p_memsz {
        return Err(Errno::ENOEXEC);
    }
    Ok(end)
}

impl Segment {
    fn new(segment: &ProgramHeader) -> Segment {
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
    }
}

fn headers_addr(
    header: &FileHeader<LittleEndian>,
    segments: &Segments,
    loads: &[Segment],
) -> Option<u64> {
    if let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_PHDR) {
        return Some(segment.p_vaddr);
    }
    let offset = header.e_phoff;
    let holds =
        |segment: &&Segment| (segment.offset..segment.offset + segment.file_len).contains(&offset);
    loads
        .iter()
        .find(holds)
        .map(|segment| segment.addr + (offset - segment.offset))
}

fn build_id(bytes: &'static [u8], segments: &Segments) -> Option<&'static [u8]> {
    for segment in segments.iter().filter(|segment| segment.p_type == PT_NOTE) {
        let start = usize::try_from(segment.p_offset).ok()?;
        let end = start.checked_add(usize::try_from(segment.p_filesz).ok()?)?;
        let notes = bytes.get(start..end)?;
        let align = if segment.p_align == 8 { 8 } else { 4 };
        for note in NoteIterator::new(LittleEndian, Class::ELF64, align, notes) {
            if let Note::GnuBuildId(id) = note {
                return Some(id.0);
            }
        }
    }
    None
}
