//! The kernel's parsers of what comes from outside, on damaged input: they end, with an error that
//! says what it is, and never panic.

#[path = "../../kernel/src/fs/cpio.rs"]
mod cpio;
#[path = "../../kernel/src/process/elf.rs"]
mod program;
#[path = "../../kernel/src/process/script.rs"]
mod script;

extern crate alloc;

/// What the parsers use of the kernel.
mod syscall {
    pub mod errno {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Errno(pub u16);

        impl Errno {
            pub const ENOEXEC: Errno = Errno(8);
            pub const ENOMEM: Errno = Errno(12);
        }
    }
}

use fastrand::Rng;
use memory::{PAGE_SIZE, Prot, USER_END};
use program::{Contents, Elf};
use script::Script;
use syscall::errno::Errno;

const MUTATIONS: u32 = 200_000;

/// Changes a few bytes, words or the length: mostly in the first `hot` bytes.
fn damage(bytes: &mut Vec<u8>, hot: usize, rng: &mut Rng) {
    const WORDS: [u64; 8] = [
        0,
        1,
        0xfff,
        u32::MAX as u64,
        i64::MAX as u64,
        u64::MAX,
        u64::MAX - 0xfff,
        1 << 39,
    ];
    for _ in 0..rng.u32(1..5) {
        if bytes.is_empty() {
            return;
        }
        let limit = if rng.u32(0..8) > 0 { hot } else { bytes.len() };
        let at = rng.usize(0..limit.min(bytes.len()));
        match rng.u32(0..8) {
            0 => bytes.truncate(at),
            1..=3 => bytes[at] ^= 1 << rng.u32(0..8),
            4 => bytes[at] = rng.u8(..),
            _ => {
                let word = rng.choice(WORDS).unwrap_or(0).to_le_bytes();
                let at = at & !(if rng.bool() { 7 } else { 3 });
                let end = bytes.len().min(at + rng.choice([2, 4, 8]).unwrap_or(8));
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
        }
    }
}

fn entry(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"070701".to_vec();
    let fields = [
        1,
        mode,
        0,
        0,
        1,
        0,
        data.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    for field in fields {
        bytes.extend(format!("{field:08x}").bytes());
    }
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn cpio_archives() {
    let mut good = entry("bin", 0o40755, b"");
    good.extend(entry("bin/true", 0o100755, b"contents"));
    good.extend(entry("TRAILER!!!", 0, b""));
    let names: Vec<_> = cpio::entries(&good)
        .map(|e| e.expect("a good archive").name)
        .collect();
    assert_eq!(names, [&b"bin"[..], b"bin/true"]);

    let mut rng = Rng::with_seed(1);
    let mut errors = [0u32; 4];
    let mut read = 0;
    for _ in 0..MUTATIONS {
        let mut bytes = good.clone();
        let len = bytes.len();
        damage(&mut bytes, len, &mut rng);
        let mut failed = false;
        for entry in cpio::entries(&bytes) {
            assert!(!failed, "after an error it ends");
            match entry {
                Ok(entry) => {
                    assert!(!entry.name.is_empty() && entry.data.len() <= bytes.len());
                    read += 1;
                }
                Err(error) => {
                    errors[error as usize] += 1;
                    failed = true;
                }
            }
        }
    }
    assert!(
        read > 10_000 && errors.iter().all(|&n| n > 100),
        "{read} {errors:?}"
    );
}

/// A program as our linker makes it, cut down to its headers and a little of its contents: two
/// PT_LOADs and a PT_NOTE.
fn program_file() -> Vec<u8> {
    let mut bytes = vec![0; 3 * PAGE_SIZE as usize];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &183u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &0x40_1000u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    for (at, value) in [(52, 64u16), (54, 56), (56, 3)] {
        put(at, &value.to_le_bytes());
    }
    let page = PAGE_SIZE;
    for (index, (kind, flags, offset, addr, file, len)) in [
        (1u32, 5u32, 0u64, 0x40_0000u64, 2 * page, 2 * page),
        (1, 6, 2 * page, 0x40_2000, page, 5 * page),
        (4, 4, 0x200, 0x40_0200, 36, 36),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 64 + 56 * index;
        put(at, &kind.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (field, value) in [offset, addr, addr, file, len, 4].into_iter().enumerate() {
            put(at + 8 + 8 * field, &value.to_le_bytes());
        }
    }
    for (at, value) in [(0x200, 4u32), (0x204, 20), (0x208, 3)] {
        put(at, &value.to_le_bytes());
    }
    put(0x20c, b"GNU\0");
    put(0x210, &[7; 20]);
    bytes
}

/// What the kernel relies on of a program it has accepted.
fn check(elf: &Elf, len: u64) {
    assert!(!elf.loads.is_empty());
    let mut end = 0;
    for segment in &elf.loads {
        assert!(
            segment.addr - segment.addr % PAGE_SIZE >= end,
            "{segment:?}"
        );
        end = segment.addr + segment.len;
        assert!(end < USER_END && segment.len > 0 && segment.file_len <= segment.len);
        assert!(segment.offset + segment.file_len <= len);
        assert_eq!(segment.offset % PAGE_SIZE, segment.addr % PAGE_SIZE);
        end = end.next_multiple_of(PAGE_SIZE);
        let (write, exec) = (Prot::WRITE, Prot::EXEC);
        assert!(!(segment.prot.contains(write) && segment.prot.contains(exec)));
    }
}

struct Bytes<'a>(&'a [u8]);

impl Contents for Bytes<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Errno> {
        let start = offset as usize;
        to.copy_from_slice(&self.0[start..start + to.len()]);
        Ok(())
    }
}

#[test]
fn elf_files() {
    let good = program_file();
    let elf = Elf::parse(&Bytes(&good)).expect("a good program");
    assert_eq!((elf.entry, elf.loads.len(), elf.headers), (0x40_1000, 2, 3));
    assert_eq!(elf.build_id, [7; 20]);
    assert_eq!(elf.headers_addr, Some(0x40_0040));
    assert!(!elf.relocatable && elf.header_size == 56);

    let mut rng = Rng::with_seed(2);
    let (mut accepted, mut refused) = (0u32, 0u32);
    for _ in 0..MUTATIONS {
        let mut bytes = good.clone();
        damage(&mut bytes, 0x240, &mut rng);
        match Elf::parse(&Bytes(&bytes)) {
            Ok(elf) => {
                check(&elf, bytes.len() as u64);
                accepted += 1;
            }
            Err(error) => {
                assert_eq!(error, Errno::ENOEXEC);
                refused += 1;
            }
        }
    }
    assert!(
        accepted > 10_000 && refused > 10_000,
        "{accepted} {refused}"
    );
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 64]] {
        assert_eq!(Elf::parse(&Bytes(bytes)).err(), Some(Errno::ENOEXEC));
    }
}

/// The program with a PT_INTERP of `len` bytes in the place of its PT_NOTE.
fn dynamic(path: &[u8], len: u64) -> Vec<u8> {
    const HEADER: usize = 64 + 2 * 56;
    let mut bytes = program_file();
    bytes[HEADER..HEADER + 4].copy_from_slice(&3u32.to_le_bytes());
    bytes[HEADER + 32..HEADER + 40].copy_from_slice(&len.to_le_bytes());
    bytes[0x200..0x240].fill(b'x');
    bytes[0x200..0x200 + path.len()].copy_from_slice(path);
    bytes
}

#[test]
fn dynamic_linkers() {
    let of = |path: &[u8], len| Elf::parse(&Bytes(&dynamic(path, len))).map(|elf| elf.interpreter);
    assert_eq!(of(b"/lib/ld.so\0", 11), Ok(Some(b"/lib/ld.so".to_vec())));
    assert_eq!(of(b"/lib\0ld.so\0", 11), Ok(Some(b"/lib".to_vec())));
    for (path, len) in [
        (&b"/lib/ld.so\0"[..], 10),
        (b"/lib/ld.so\0", 1 << 40),
        (b"/lib/ld.so\0", u64::MAX),
        (b"\0", 1),
        (b"", 0),
        (b"/lib/ld.so\0", 4097),
    ] {
        assert_eq!(of(path, len), Err(Errno::ENOEXEC), "{path:?} {len}");
    }
}

#[test]
fn first_lines_of_scripts() {
    let parse = |text: &'static str| {
        let script = Script::parse(text.as_bytes())?;
        let text = |bytes| str::from_utf8(bytes).expect("text");
        Some((text(script.interpreter), script.argument.map(text)))
    };
    assert_eq!(parse("#!/bin/sh\n"), Some(("/bin/sh", None)));
    assert_eq!(parse("#! \t/bin/sh\t \necho"), Some(("/bin/sh", None)));
    assert_eq!(
        parse("#!/bin/sh -e  -x \n"),
        Some(("/bin/sh", Some("-e  -x")))
    );
    assert_eq!(parse("#!/bin/sh"), Some(("/bin/sh", None)));
    assert_eq!(parse("#!sh\0 -x\n"), Some(("sh", None)));
    assert_eq!(parse("#!sh -x\0y\n"), Some(("sh", Some("-x"))));
    for none in [
        "",
        "#",
        "#!",
        "#!\n/bin/sh",
        "#!  \n",
        " #!/bin/sh\n",
        "\x7fELF",
    ] {
        assert_eq!(parse(none), None, "{none:?}");
    }
    // A path that ends behind what is looked at may be another one; an argument is cut off.
    let long =
        |start: &str| -> &'static str { (start.to_owned() + &"x".repeat(300) + "\n").leak() };
    assert_eq!(parse(long("#!/")), None);
    let cut = parse(long("#!/bin/sh "));
    assert_eq!(
        cut.map(|(_, argument)| argument.map(str::len)),
        Some(Some(246))
    );
}
