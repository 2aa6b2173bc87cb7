//! Arguments from a file: for what is longer, or stranger, than boot arguments can be.

use crate::memory::{PAGE_SIZE, Pages};
use crate::{OrFail, Strings, fail, file};
use core::ffi::{CStr, c_char};
use core::ptr;

/// Room for the strings, and for the pointers to them; twice what exec takes.
const PAGES: usize = 1024;

/// The strings of a file, each with a NUL at its end.
pub struct File {
    at: usize,
    end: usize,
}

impl File {
    /// Reads the file; ends the program if it cannot.
    pub fn read(path: &CStr) -> File {
        let at = Pages::map(PAGES)
            .or_fail("room for the arguments")
            .address(0);
        let fd = file::open(path, file::O_RDONLY).or_fail("opening the file of arguments");
        let mut len = 0;
        loop {
            let room = PAGES * PAGE_SIZE - 1 - len;
            // SAFETY: the rest of the mapping, which nobody else knows of; its last byte stays NUL.
            let count = unsafe { file::read_at(fd, at + len, room) };
            match count.or_fail("reading the arguments") {
                0 if room == 0 => fail(format_args!("the arguments are too long")),
                0 => break,
                count => len += count,
            }
        }
        // Left open, it would be the next program's, too.
        file::close(fd).or_fail("closing the file of arguments");
        File { at, end: at + len }
    }
}

impl Iterator for File {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        if self.at >= self.end {
            return None;
        }
        // SAFETY: within the mapping, which stays, unchanged from now on, and has a NUL at its end.
        let string = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(self.at)) };
        self.at += string.count_bytes() + 1;
        Some(string)
    }
}

/// Vectors of strings in the making, one after the other.
pub struct Vectors {
    base: *mut *const c_char,
    /// Where the one in the making begins.
    start: usize,
    used: usize,
}

impl Vectors {
    /// None yet.
    #[expect(clippy::new_without_default, reason = "it maps memory")]
    pub fn new() -> Vectors {
        let base = Pages::map(PAGES)
            .or_fail("room for the arguments")
            .address(0);
        Vectors {
            base: ptr::with_exposed_provenance_mut(base),
            start: 0,
            used: 0,
        }
    }

    /// Appends a string.
    pub fn push(&mut self, string: &'static CStr) {
        self.put(string.as_ptr());
    }

    fn put(&mut self, string: *const c_char) {
        if self.used == PAGES * PAGE_SIZE / size_of::<*const c_char>() {
            fail(format_args!("there are too many arguments"));
        }
        // SAFETY: within the mapping; nothing that was finished lies there.
        unsafe { self.base.add(self.used).write(string) };
        self.used += 1;
    }

    /// The strings that were pushed since the last time.
    pub fn finish(&mut self) -> Strings {
        self.put(ptr::null());
        // SAFETY: it ends with the null pointer, and nobody changes it any more.
        let strings = unsafe { Strings::new(self.base.add(self.start)) };
        self.start = self.used;
        strings
    }
}
