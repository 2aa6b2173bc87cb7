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

type Segments<'a> = SegmentTable<'a, LittleEndian>;

/// Where a program is read from.
pub trait Contents {
    /// Bytes in all.
    fn len(&self) -> u64;

    /// Reads all of `to` from `offset` on, where that many bytes are.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Errno>;

    /// The bytes of a range; ENOEXEC if it is not all there.
    fn get(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(Errno::ENOEXEC);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Bytes of `e_ident`.
const IDENT: usize = 16;
/// The most bytes of an interpreter's path, with its NUL (PATH_MAX).
const PATH_MAX: u64 = 4096;
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
    /// The path of its interpreter, the dynamic linker, without the NUL at its end.
    pub interpreter: Option<Vec<u8>>,
    /// Its GNU build id; empty if it has none.
    pub build_id: Vec<u8>,
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
    pub fn parse(file: &impl Contents) -> Result<Elf, Errno> {
        let start = file.get(0, IDENT + ELF64_EHDR_TAILSIZE)?;
        let (ident, tail) = start.split_at(IDENT);
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| Errno::ENOEXEC)?;
        let class = ident.1;
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
        let table = file.get(header.e_phoff, size * usize::from(header.e_phnum))?;
        let segments = SegmentTable::new(LittleEndian, class, &table);
        let mut loads = Vec::new();
        let mut end = 0;
        for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
            end = check(&segment, file.len(), end)?;
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
            interpreter: interpreter(file, &segments)?,
            build_id: build_id(file, &segments)?,
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
    segments: &Segments<'_>,
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

/// The path in the first PT_INTERP, checked as Linux does (fs/binfmt_elf.c, `load_elf_binary`).
fn interpreter(file: &impl Contents, segments: &Segments<'_>) -> Result<Option<Vec<u8>>, Errno> {
    let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_INTERP) else {
        return Ok(None);
    };
    if !(2..=PATH_MAX).contains(&segment.p_filesz) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = file.get(segment.p_offset, segment.p_filesz as usize)?;
    if path.pop() != Some(0) {
        return Err(Errno::ENOEXEC);
    }
    // What is behind an earlier NUL is not part of it.
    let end = path.iter().position(|&byte| byte == 0);
    path.truncate(end.unwrap_or(path.len()));
    Ok(Some(path))
}

fn build_id(file: &impl Contents, segments: &Segments<'_>) -> Result<Vec<u8>, Errno> {
    /// A note that is longer is not looked at to its end.
    const NOTES_MAX: u64 = PAGE_SIZE;
    let mut build_id = Vec::new();
    for segment in segments.iter().filter(|segment| segment.p_type == PT_NOTE) {
        let Ok(notes) = file.get(segment.p_offset, segment.p_filesz.min(NOTES_MAX) as usize) else {
            break;
        };
        let align = if segment.p_align == 8 { 8 } else { 4 };
        for note in NoteIterator::new(LittleEndian, Class::ELF64, align, &notes) {
            if let Note::GnuBuildId(id) = note {
                build_id
                    .try_reserve_exact(id.0.len())
                    .map_err(|_| Errno::ENOMEM)?;
                build_id.extend_from_slice(id.0);
                return Ok(build_id);
            }
        }
    }
    Ok(build_id)
}
