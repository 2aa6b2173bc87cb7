//! What a call is, what its pointers lead to, and what is expected of bad ones.

use user::{Errno, Result};

/// A regular file of 64 bytes.
pub const FILE: usize = 10;
/// Another.
pub const OTHER: usize = 11;
/// The directory that the program works in.
pub const DIRECTORY: usize = 12;
/// A pipe's ends.
pub const READER: usize = 13;
/// The other one.
pub const WRITER: usize = 14;
/// An eventfd that is readable.
pub const EVENT: usize = 15;
/// An epoll that watches it.
pub const EPOLL: usize = 16;
/// A timerfd.
pub const TIMER: usize = 17;
/// /dev/null.
pub const NULL: usize = 18;
/// /dev/zero.
pub const ZERO: usize = 19;

/// Two datagram sockets that are connected.
pub const ONE: usize = 20;
/// The other one.
pub const OTHER_END: usize = 21;
/// A socket that listens.
pub const LISTENER: usize = 22;

/// Bytes behind a vector.
pub const NESTED: usize = 16;

/// Where a pointer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// To a page of its own, as it should.
    Valid,
    /// Null.
    Null,
    /// Where nothing is mapped.
    Unmapped,
    /// Into the kernel's half.
    Kernel,
    /// To a page that may only be read.
    ReadOnly,
    /// To the end of a page, and on to one that is not mapped.
    Straddle,
    /// To an odd address.
    Unaligned,
}

impl Case {
    /// All but the valid one.
    pub const BAD: [Case; 6] = [Null, Unmapped, Case::Kernel, ReadOnly, Straddle, Unaligned];
}

/// What a pointer leads to.
#[derive(Clone, Copy)]
pub enum Memory {
    /// A string that is read, its NUL with it.
    Text(&'static str),
    /// Bytes that are read.
    Bytes(&'static [u8]),
    /// Words that are read.
    Words(&'static [u64]),
    /// So many bytes that are written.
    Space(usize),
    /// Words that are read and written.
    Exchange(&'static [u64]),
    /// A number of 32 bits that is read and written: 16.
    Room,
    /// A vector of one buffer, which is the nested pointer of the call.
    Vector,
    /// The nested pointer: NESTED bytes that are read.
    Source,
    /// The same, written.
    Sink,
    /// Nothing that the call would look at.
    Untouched,
}

impl Memory {
    /// Bytes.
    pub fn size(self) -> usize {
        match self {
            Text(text) => text.len(),
            Bytes(bytes) => bytes.len(),
            Words(words) | Exchange(words) => 8 * words.len(),
            Space(size) => size,
            Memory::Room => 4,
            Vector | Source | Sink => NESTED,
            Untouched => 8,
        }
    }

    /// Bytes of it that are still mapped when it straddles.
    pub fn before_hole(self) -> usize {
        match self {
            Text(text) => text.len() - 1,
            _ => self.size() / 2,
        }
    }
}

/// What Linux does.
#[derive(Clone, Copy)]
pub enum Expected {
    /// This error.
    Error(Errno),
    /// The same as with a valid pointer.
    Same,
    /// This result.
    Value(usize),
    /// Would not come back.
    Skipped,
}

pub use Case::{Null, ReadOnly, Straddle, Unaligned, Unmapped};
pub use Expected::{Error, Same, Skipped, Value};
pub use Memory::{Bytes, Exchange, Sink, Source, Space, Text, Untouched, Vector, Words};

/// A pointer argument.
pub struct Pointer {
    /// Which argument.
    pub at: usize,
    /// To what.
    pub memory: Memory,
    unlike: &'static [(Case, Expected)],
}

impl Pointer {
    /// Null will do.
    pub const fn optional(self) -> Pointer {
        self.but(&[(Null, Same)])
    }

    /// What is not EFAULT.
    pub const fn but(mut self, unlike: &'static [(Case, Expected)]) -> Pointer {
        self.unlike = unlike;
        self
    }

    /// Whether it is in memory that another one leads to.
    pub fn is_nested(&self) -> bool {
        matches!(self.memory, Source | Sink)
    }

    /// Which one, in the output.
    pub fn name(&self) -> &'static str {
        const NAMES: [&str; 6] = ["1st", "2nd", "3rd", "4th", "5th", "6th"];
        if self.is_nested() {
            "nested"
        } else {
            NAMES[self.at]
        }
    }

    /// What Linux does in this case.
    pub fn expected(&self, case: Case) -> Expected {
        if let Some((_, expected)) = self.unlike.iter().find(|(unlike, _)| *unlike == case) {
            return *expected;
        }
        let reads = matches!(self.memory, Text(_) | Bytes(_) | Words(_) | Vector | Source);
        match (self.memory, case) {
            (Untouched, _) | (_, Unaligned) => Same,
            (_, ReadOnly) if reads => Same,
            _ => Error(Errno::EFAULT),
        }
    }
}

/// A pointer argument.
pub const fn at(at: usize, memory: Memory) -> Pointer {
    Pointer {
        at,
        memory,
        unlike: &[],
    }
}

/// A call, with arguments that are right; those that are pointers are put in.
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// What of it is called, if it does many things: a word and a space.
    pub note: &'static str,
    /// Its number.
    pub number: u32,
    /// What is no pointer.
    pub arguments: [usize; 6],
    /// The pointers.
    pub pointers: &'static [Pointer],
    /// What must have happened before it.
    pub before: Option<fn(&mut [usize; 6])>,
    /// And after it.
    pub after: Option<fn(Result<usize>)>,
    /// It does not come back if nothing is wrong.
    pub leaves: bool,
}

impl Call {
    /// What of it is called.
    pub const fn of(mut self, note: &'static str) -> Call {
        self.note = note;
        self
    }

    /// What must have happened.
    pub const fn before(mut self, before: fn(&mut [usize; 6])) -> Call {
        self.before = Some(before);
        self
    }

    /// It does not come back if nothing is wrong.
    pub const fn leaves(mut self) -> Call {
        self.leaves = true;
        self
    }

    /// What follows.
    pub const fn after(mut self, after: fn(Result<usize>)) -> Call {
        self.after = Some(after);
        self
    }
}

/// A call.
pub const fn call<const N: usize>(
    name: &'static str,
    number: u32,
    given: [usize; N],
    pointers: &'static [Pointer],
) -> Call {
    let mut arguments = [0; 6];
    let mut index = 0;
    while index < N {
        arguments[index] = given[index];
        index += 1;
    }
    Call {
        name,
        note: "",
        number,
        arguments,
        pointers,
        before: None,
        after: None,
        leaves: false,
    }
}

/// A call without pointers that it would follow. (Addresses of memory to map and the like are
/// numbers; `syscalls` and `mapping` have them.)
pub const fn plain(name: &'static str) -> Call {
    call(name, 0, [], &[])
}

/// Of a transfer, what comes before the hole counts.
pub const PART: &[(Case, Expected)] = &[(Straddle, Value(NESTED / 2))];
/// Two words of nothing: a time, a limit.
pub const NOTHING: &[u64] = &[0, 0];
/// A second, or whatever else has one and nothing.
pub const SECOND: &[u64] = &[1, 0];
/// A word of 32 bits.
pub const ONES: &[u8] = &[1, 0, 0, 0];
/// Bytes of a transfer.
pub const ROOM: usize = NESTED;
