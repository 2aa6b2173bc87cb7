//! The files of /proc/self, read.

use core::str;
use user::file::{self, O_RDONLY};
use user::memory::{PAGE_SIZE, Pages};
use user::{OrFail, print, println};

/// Pages for the text.
const ROOM: usize = 16;
/// Where they are: not beside what is looked at.
const PLACE: usize = 0x18_0000_0000;

/// What smaps says of a mapping, and what is the same wherever it is.
const FIELDS: [&str; 11] = [
    "Size",
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Anonymous",
    "LazyFree",
    "Locked",
];

/// Reads a file of /proc/self, whole.
fn read(path: &core::ffi::CStr) -> &'static str {
    let room = room();
    let fd = file::open(path, O_RDONLY).or_fail("opening a file of /proc");
    let mut used = 0;
    loop {
        let rest = ROOM * PAGE_SIZE - used;
        // SAFETY: the pages are for this alone, and what was read before is no longer used.
        match unsafe { file::read_at(fd, room + used, rest) }.or_fail("reading a file of /proc") {
            0 => break,
            count => used += count,
        }
    }
    file::close(fd).or_fail("close");
    // SAFETY: these bytes have just been read, and are used until the next call only.
    let bytes = unsafe { core::slice::from_raw_parts(room as *const u8, used) };
    str::from_utf8(bytes).unwrap_or("")
}

/// The pages, mapped and touched by the first who asks.
fn room() -> usize {
    use user::linux::*;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    // SAFETY: no Rust object is there.
    let mapped = unsafe {
        user::memory::mmap(
            PLACE,
            ROOM * PAGE_SIZE,
            PROT_READ | PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if mapped.is_ok() {
        // SAFETY: they are there.
        let pages = unsafe { Pages::at(PLACE, ROOM) };
        for page in 0..ROOM {
            pages.write(page, 0);
        }
    }
    PLACE
}

/// The range of a mapping's first line.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// The lines of smaps on the mapping at an address.
fn lines_on(address: usize) -> impl Iterator<Item = &'static str> {
    let holds = move |line: &str| range(line).is_some_and(|(a, b)| (a..b).contains(&address));
    let mut lines = read(c"/proc/self/smaps").lines();
    let first = lines.find(|line| holds(line));
    let rest = lines.take_while(|line| range(line).is_none());
    first
        .into_iter()
        .chain(rest.filter(move |_| first.is_some()))
}

/// Prints what smaps says of a mapping, at an address that is the same everywhere: its range, its
/// rights, its offset and its name too.
pub fn show(what: &str, address: usize) {
    let mut lines = lines_on(address);
    let Some(first) = lines.next() else {
        println!("{what}: nothing is there");
        return;
    };
    let mut words = first.split_whitespace();
    print!("{what}:");
    // Then the device and the inode, which are the file system's affair.
    for _ in 0..3 {
        print!(" {}", words.next().unwrap_or(""));
    }
    for word in words.skip(2) {
        print!(" {word}");
    }
    show_lines(lines);
}

/// The same without the first line.
pub fn show_fields(what: &str, address: usize) {
    print!("{what}:");
    show_lines(lines_on(address).skip(1));
}

fn show_lines(lines: impl Iterator<Item = &'static str>) {
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        if name == "VmFlags" {
            print!(" {value}");
        } else if FIELDS.contains(&name) && value != "0 kB" {
            print!(" {name} {}", value.trim_end_matches(" kB"));
        }
    }
    print!("\n");
}

/// Whether something is mapped at an address.
pub fn is_mapped(address: usize) -> bool {
    lines_on(address).next().is_some()
}

fn number(line: &str) -> Option<u64> {
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// A number of /proc/self/status, if it is said.
pub fn status(name: &str) -> Option<u64> {
    let mut lines = read(c"/proc/self/status").lines();
    lines.find_map(|line| number(line.strip_prefix(name)?.strip_prefix(':')?))
}

/// /proc/self/statm.
pub fn statm() -> [u64; 7] {
    let mut numbers = [0; 7];
    let words = read(c"/proc/self/statm").split_whitespace();
    for (number, word) in numbers.iter_mut().zip(words) {
        *number = word.parse().unwrap_or(u64::MAX);
    }
    numbers
}

/// Prints some lines of /proc/self/smaps_rollup.
pub fn rollup(what: &str, names: &[&str]) {
    let text = read(c"/proc/self/smaps_rollup");
    for name in names {
        let mut lines = text.lines();
        let value = lines.find_map(|line| number(line.strip_prefix(name)?.strip_prefix(':')?));
        println!("{what}: {name} {value:?}");
    }
}
