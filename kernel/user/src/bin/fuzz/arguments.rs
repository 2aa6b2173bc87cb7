//! Arguments: a letter says what kind of thing a call wants.

use core::ffi::CStr;
use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::{OrFail, Result, Rng, process};

/// Pages that the calls are given: to read and write; shared; to read; a hole; not accessible.
const WRITABLE: usize = 8;
const PAGES: usize = WRITABLE + 6;
/// Where they are: a handler of faults must know.
const START: usize = 0x2000_0000;

/// Names of what is there, and of what is not.
const PATHS: [&CStr; 20] = [
    c"file",
    c"other",
    c"folder",
    c"folder/inner",
    c"folder/..",
    c"link",
    c"fifo",
    c"new",
    c"newer",
    c"socket",
    c".",
    c"..",
    c"",
    c"/",
    c"/proc/self/maps",
    c"/proc/self/fd",
    c"/proc/self/smaps",
    c"/proc",
    c"/dev/zero",
    c"/proc/self/exe",
];

fn map(start: usize, pages: usize, kind: u32) -> Result<usize> {
    let flags = MAP_ANONYMOUS | MAP_FIXED | kind;
    // SAFETY: no Rust object lies there; the programs are linked, and have their stacks, elsewhere.
    unsafe {
        memory::mmap(
            start,
            pages * PAGE_SIZE,
            PROT_READ | PROT_WRITE,
            flags,
            -1,
            0,
        )
    }
}

/// Maps a page again that a call has taken away: whether it was one of these.
pub fn mend(address: usize) -> bool {
    let page = address & !(PAGE_SIZE - 1);
    (START..START + PAGES * PAGE_SIZE).contains(&page) && map(page, 1, MAP_PRIVATE).is_ok()
}

/// Memory and names for one process.
pub struct Arguments {
    rng: Rng,
    pages: Pages,
}

impl Arguments {
    /// Maps the pages.
    pub fn new(rng: Rng) -> Arguments {
        map(START, PAGES, MAP_PRIVATE).or_fail("mapping pages");
        map(START + PAGE_SIZE * WRITABLE, 1, MAP_SHARED).or_fail("mapping a page");
        // SAFETY: as they have just been mapped, no Rust object lies in them.
        let pages = unsafe { Pages::at(START, PAGES) };
        let change = |first, prot| pages.part(first, 1).protect(prot).or_fail("mprotect");
        pages.part(WRITABLE + 1, 1).unmap().or_fail("munmap");
        change(WRITABLE + 2, PROT_READ);
        change(WRITABLE + 4, PROT_NONE);
        Arguments { rng, pages }
    }

    /// A child goes its own way.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = Rng::with_seed(self.rng.u64(..) ^ seed);
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.rng.usize(..end)
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Anything.
    pub fn noise(&mut self) -> usize {
        let shift = self.rng.u32(..64);
        let value = self.rng.usize(..) >> shift;
        match self.below(3) {
            0 => value.wrapping_neg(),
            1 => 1usize.rotate_left(shift),
            _ => value,
        }
    }

    fn page(&mut self) -> usize {
        let page = self.below(PAGES);
        self.pages.address(page)
    }

    fn good(&mut self, align: usize) -> usize {
        let page = self.below(WRITABLE);
        self.pages.address(page) + self.below(PAGE_SIZE / align / 2) * align
    }

    fn pointer(&mut self) -> usize {
        match self.below(12) {
            0 => 0,
            1 => self.page() + PAGE_SIZE - self.below(40),
            2 => 0xffff_ff80_0000_0000 + self.below(1 << 30),
            3 => self.page() + self.below(PAGE_SIZE),
            4 => self.noise(),
            _ => self.good(8),
        }
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        for (at, &byte) in (at..).zip(bytes) {
            // SAFETY: `good` is in pages where no Rust object lies. If a call has taken them away, or
            // made them read-only, that is SIGSEGV, whose handler mends it, or the process's end.
            unsafe { (at as *mut u8).write_volatile(byte) };
        }
    }

    fn words(&mut self, words: &[usize]) -> usize {
        let at = self.good(8);
        for (index, word) in words.iter().enumerate() {
            self.bytes(at + 8 * index, &word.to_le_bytes());
        }
        at
    }

    fn path(&mut self) -> usize {
        let path = PATHS[self.below(PATHS.len())];
        let at = self.good(1);
        self.bytes(at, path.to_bytes_with_nul());
        at
    }

    /// A structure of whatever fits many calls: small numbers, pointers, a family and a path.
    fn structure(&mut self) -> usize {
        match self.below(5) {
            0 => {
                let at = self.good(8);
                self.bytes(at, &[1, 0]);
                let start = self.below(2);
                self.bytes(at + 2, [&b"socket\0"[..], b"\0abstract"][start]);
                at
            }
            1 => {
                let (first, second) = (self.pointer(), self.good(8));
                let (third, fourth) = (self.vector(), self.pointer());
                self.words(&[first, 16, third, 2, second, 24, fourth])
            }
            2 => {
                let words: [usize; 8] = core::array::from_fn(|_| self.below(40));
                self.words(&words)
            }
            3 => {
                let fd = self.below(40);
                let events = self.below(64) << 32;
                self.words(&[fd | events, fd, 24 | 1 << 32, fd << 32])
            }
            _ => self.pointer(),
        }
    }

    fn vector(&mut self) -> usize {
        let words: [usize; 6] = core::array::from_fn(|index| match index % 2 {
            0 => self.pointer(),
            _ => self.length(),
        });
        self.words(&words)
    }

    fn length(&mut self) -> usize {
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => PAGE_SIZE * self.below(40),
            3 => self.noise(),
            4 => 65536 + self.below(100),
            _ => self.below(5000),
        }
    }

    fn flags(&mut self) -> usize {
        match self.below(5) {
            0 | 1 => 0,
            2 => 1 << self.below(32),
            3 => 1 << self.below(20) | 1 << self.below(20),
            _ => self.below(16) | (O_CREAT | O_CLOEXEC | O_NONBLOCK) as usize,
        }
    }

    /// An argument of a kind.
    pub fn of(&mut self, kind: u8) -> usize {
        if self.once_in(12) {
            return match self.below(3) {
                0 => self.pointer(),
                1 => self.below(100),
                _ => self.noise(),
            };
        }
        match kind {
            b'0' => 0,
            b'8' => 8,
            b'f' => self.below(44),
            b'd' if self.once_in(4) => self.below(44),
            b'd' => AT_FDCWD as usize,
            b'p' => self.path(),
            b'b' => self.structure(),
            b'w' => self.good(4),
            b'v' => self.vector(),
            b't' => {
                let nanoseconds = self.below(2_000_000);
                self.words(&[0, nanoseconds, 0, nanoseconds / 1000])
            }
            b'n' => self.length(),
            b'o' => match self.below(4) {
                0 => PAGE_SIZE * self.below(8),
                1 => self.noise(),
                _ => self.below(30_000),
            },
            b'i' => self.below(20),
            b's' => self.below(66),
            b'g' => self.flags(),
            b'm' => self.below(8),
            b'a' => self.page(),
            b'y' => [0x22, 0x21, 0x02, 0x01, 0x12, 0x32][self.below(6)],
            b'z' => [
                SIGCHLD,
                SIGCHLD | CLONE_VFORK | CLONE_VM,
                CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD,
            ][self.below(3)] as usize,
            b'r' => {
                let base = [0x5400, 0x5420, 0x5450, 0x8000_0000][self.below(4)];
                base + self.below(64)
            }
            b'k' => match self.below(6) {
                0 => 0,
                1 => usize::MAX,
                2 => self.below(1 << 15),
                3 => process::getppid() as usize,
                4 => process::getpid() as usize + self.below(4),
                _ => process::getpid() as usize,
            },
            _ => self.noise(),
        }
    }
}
