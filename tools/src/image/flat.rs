//! ELF files: the kernel's to a flat image, and what a program must be to run.

use anyhow::{Result, bail, ensure};
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, U64};

type Header = FileHeader64<Endianness>;

/// The largest flat image that makes sense. A kernel with sections far apart would make a huge one.
const MOST_BYTES: u64 = 64 << 20;

fn parse(elf: &[u8]) -> Result<(&Header, Endianness, &[ProgramHeader64<Endianness>])> {
    let Ok(header) = Header::parse(elf) else {
        bail!("it is no 64-bit ELF file")
    };
    let Ok(endian) = header.endian() else {
        bail!("its byte order is unknown")
    };
    ensure!(
        endian == Endianness::Little && header.e_machine(endian) == elf::EM_AARCH64,
        "it is for another processor: AArch64 (arm64), little-endian, is wanted"
    );
    let Ok(segments) = header.program_headers(endian, elf) else {
        bail!("its program headers are damaged")
    };
    Ok((header, endian, segments))
}

/// The bytes of a kernel's ELF file as they lie in memory from the lowest load address on, without
/// the zeros at the end that the image's header asks for by its size.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let (_, endian, segments) = parse(elf)?;
    let loaded: Vec<_> = segments
        .iter()
        .filter(|s| s.p_type(endian) == elf::PT_LOAD && s.p_filesz(endian) > 0)
        .collect();
    let Some(base) = loaded.iter().map(|s| s.p_paddr(endian)).min() else {
        bail!("it has no segment to load");
    };
    let mut image = Vec::new();
    for segment in loaded {
        let Ok(data) = segment.data(endian, elf) else {
            bail!("it is cut off")
        };
        let start = segment.p_paddr(endian) - base;
        let end = start.saturating_add(data.len() as u64);
        ensure!(
            end <= MOST_BYTES,
            "its segments span {} MiB: the linker script leaves a gap",
            end >> 20
        );
        let (start, end) = (start as usize, end as usize);
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start..end].copy_from_slice(data);
    }
    Ok(image)
}

/// Whether these are an arm64 Image, which the boot protocol wants.
pub fn is_arm64_image(image: &[u8]) -> bool {
    image.get(56..60) == Some(b"ARM\x64")
}

/// Whether this is an ELF file of any kind.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(&elf::ELFMAG)
}

/// Checks that a user's file is a program our kernel can load. Returns the path of its dynamic
/// linker, if it wants one.
pub fn check_program(elf: &[u8]) -> Result<Option<Vec<u8>>> {
    ensure!(
        is_elf(elf),
        "it is no ELF file, and no script that begins with #!"
    );
    let (header, endian, segments) = parse(elf)?;
    let kind = header.e_type(endian);
    ensure!(
        kind == elf::ET_EXEC || kind == elf::ET_DYN,
        "it is no program, but an object file or a core dump"
    );
    ensure!(
        segments.iter().any(|s| s.p_type(endian) == elf::PT_LOAD),
        "it has nothing to load"
    );
    let Some(interpreter) = segments.iter().find(|s| s.p_type(endian) == elf::PT_INTERP) else {
        return Ok(None);
    };
    let Ok(path) = interpreter.data(endian, elf) else {
        bail!("it is cut off")
    };
    Ok(Some(
        path.split(|&byte| byte == 0)
            .next()
            .unwrap_or_default()
            .to_vec(),
    ))
}

/// A program without its sections: only what is loaded, and the headers that say so. Debug
/// information stays on the host, so that it takes none of the guest's memory.
pub fn without_sections(elf: &[u8]) -> Result<Vec<u8>> {
    let (header, endian, segments) = parse(elf)?;
    let table = header.e_phoff(endian)
        + u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
    let end = segments
        .iter()
        .map(|s| s.p_offset(endian).saturating_add(s.p_filesz(endian)))
        .fold(table, u64::max);
    let Some(kept) = usize::try_from(end).ok().and_then(|end| elf.get(..end)) else {
        bail!("it is cut off");
    };
    let mut header = *header;
    header.e_shoff = U64::new(endian, 0);
    header.e_shnum = object::U16::new(endian, 0);
    header.e_shstrndx = object::U16::new(endian, elf::SHN_UNDEF);
    let head = object::bytes_of(&header);
    let mut stripped = kept.to_vec();
    stripped[..head.len()].copy_from_slice(head);
    Ok(stripped)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use object::U32;

    /// An ELF file with these segments: type, physical address, contents, bytes of memory.
    pub(crate) fn elf(
        machine: elf::Machine,
        segments: &[(elf::ProgramType, u64, &[u8], u64)],
    ) -> Vec<u8> {
        let e = Endianness::Little;
        let phsize = size_of::<ProgramHeader64<Endianness>>();
        let first = 64 + phsize * segments.len();
        let header = Header {
            e_ident: elf::Ident {
                magic: elf::ELFMAG,
                class: elf::ELFCLASS64,
                data: elf::ELFDATA2LSB,
                version: elf::EV_CURRENT,
                os_abi: elf::ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: object::U16::new(e, elf::ET_EXEC),
            e_machine: object::U16::new(e, machine),
            e_version: U32::new(e, 1),
            e_entry: U64::new(e, 0x40_0000),
            e_phoff: U64::new(e, 64),
            e_shoff: U64::new(e, 0x9999),
            e_flags: U32::new(e, elf::FileFlags(0)),
            e_ehsize: object::U16::new(e, 64),
            e_phentsize: object::U16::new(e, phsize as u16),
            e_phnum: object::U16::new(e, segments.len() as u16),
            e_shentsize: object::U16::new(e, 64),
            e_shnum: object::U16::new(e, 9),
            e_shstrndx: object::U16::new(e, elf::SymbolSection(8)),
        };
        let mut file = object::bytes_of(&header).to_vec();
        let mut offset = first as u64;
        for &(kind, address, data, memsz) in segments {
            let segment = ProgramHeader64 {
                p_type: U32::new(e, kind),
                p_flags: U32::new(e, elf::ProgramFlags(7)),
                p_offset: U64::new(e, offset),
                p_vaddr: U64::new(e, address),
                p_paddr: U64::new(e, address),
                p_filesz: U64::new(e, data.len() as u64),
                p_memsz: U64::new(e, memsz),
                p_align: U64::new(e, 1),
            };
            file.extend_from_slice(object::bytes_of(&segment));
            offset += data.len() as u64;
        }
        for (_, _, data, _) in segments {
            file.extend_from_slice(data);
        }
        file
    }

    const HIGH: u64 = 0xffff_ffff_8000_0000;

    #[test]
    fn segments_lie_where_they_are_linked() {
        let file = elf(
            elf::EM_AARCH64,
            &[
                (elf::PT_LOAD, HIGH + 0x20, b"data", 4),
                (elf::PT_LOAD, HIGH, b"text", 4),
                (elf::PT_LOAD, HIGH + 0x1000, b"", 0x4000_0000),
                (elf::PT_NOTE, 0, b"note", 4),
            ],
        );
        let image = flatten(&file).unwrap();
        assert_eq!(image.len(), 0x24, "bss and notes do not belong in the file");
        assert_eq!(&image[..4], b"text");
        assert_eq!(&image[4..0x20], &[0; 0x1c]);
        assert_eq!(&image[0x20..], b"data");
    }

    #[test]
    fn nonsense_is_refused() {
        let far = [
            (elf::PT_LOAD, 0, b"a".as_slice(), 1),
            (elf::PT_LOAD, HIGH, b"b", 1),
        ];
        assert!(
            flatten(&elf(elf::EM_AARCH64, &far))
                .unwrap_err()
                .to_string()
                .contains("gap")
        );
        assert!(flatten(b"\x7fELF but no").is_err());
        assert!(flatten(&elf(elf::EM_AARCH64, &[])).is_err());
        let good = elf(elf::EM_AARCH64, &[(elf::PT_LOAD, 0, b"abcd", 4)]);
        for cut in 0..good.len() {
            assert!(flatten(&good[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn programs_that_cannot_run() {
        let why = |file: &[u8]| check_program(file).unwrap_err().to_string();
        let load = (elf::PT_LOAD, 0x40_0000, b"code".as_slice(), 4);
        assert!(check_program(&elf(elf::EM_AARCH64, &[load])).is_ok());
        assert!(why(&elf(elf::EM_X86_64, &[load])).contains("AArch64"));
        let interpreter = (elf::PT_INTERP, 0, b"/lib/ld.so\0".as_slice(), 11);
        let dynamic = elf(elf::EM_AARCH64, &[load, interpreter]);
        let linker = check_program(&dynamic).unwrap();
        assert_eq!(linker.as_deref(), Some(&b"/lib/ld.so"[..]));
        assert!(why(b"#!/bin/sh\n").contains("no ELF"));
    }

    #[test]
    fn stripping_keeps_what_is_loaded() {
        let mut file = elf(elf::EM_AARCH64, &[(elf::PT_LOAD, 0x40_0000, b"code", 4)]);
        let length = file.len();
        file.extend_from_slice(b"debug information, sections");
        let stripped = without_sections(&file).unwrap();
        assert_eq!(stripped.len(), length);
        assert!(stripped.ends_with(b"code"));
        let (header, endian, segments) = parse(&stripped).unwrap();
        assert_eq!((header.e_shoff(endian), header.e_shnum(endian)), (0, 0));
        assert_eq!(segments.len(), 1);
        check_program(&stripped).unwrap();
    }
}
