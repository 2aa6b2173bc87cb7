//! What the kernel hands to a new program: arguments, environment, auxiliary vector.

use crate::{eprintln, print, process};
use core::ffi::{CStr, c_char};
use core::ops::Deref;
use linux_raw_sys::auxvec::AT_NULL;

/// A NULL-terminated vector of C strings, as `execve` takes it and the initial stack holds it.
#[derive(Clone, Copy)]
pub struct Strings(*const *const c_char);

impl Strings {
    /// None.
    pub const EMPTY: Strings = Strings(&core::ptr::null());

    /// # Safety
    ///
    /// `vector` must point to a NULL-terminated vector of C strings that stays unchanged for the
    /// rest of the program.
    pub unsafe fn new(vector: *const *const c_char) -> Self {
        Self(vector)
    }

    /// The vector itself.
    pub fn as_ptr(self) -> *const *const c_char {
        self.0
    }

    /// The vector without its first string; an empty vector stays empty.
    pub fn tail(self) -> Self {
        match self.first() {
            // SAFETY: there is a string here, so the next pointer is part of the vector.
            Some(_) => Self(unsafe { self.0.add(1) }),
            None => self,
        }
    }

    /// The first string.
    pub fn first(self) -> Option<&'static CStr> {
        // SAFETY: `new`'s condition: a valid pointer to a C string, or NULL.
        unsafe {
            let string = *self.0;
            (!string.is_null()).then(|| CStr::from_ptr(string))
        }
    }
}

impl Iterator for Strings {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        let first = self.first();
        *self = self.tail();
        first
    }
}

/// The arguments of the program.
#[derive(Clone, Copy)]
pub struct Args {
    /// The arguments, the program's name first.
    pub argv: Strings,
    /// The environment.
    pub envp: Strings,
    auxv: *const [usize; 2],
    usage: &'static str,
}

// SAFETY: what it points to is the initial stack's, which stays and which nobody writes.
unsafe impl Send for Args {}

impl Args {
    /// # Safety
    ///
    /// `stack` must be the initial stack pointer.
    pub(crate) unsafe fn from_stack(stack: *const usize, usage: &'static str) -> Self {
        // SAFETY: argc, argv[argc], NULL, envp[], NULL, auxv[] lie on the initial stack, in this
        // order, and nobody changes them.
        unsafe {
            let argc = *stack;
            let argv = stack.add(1).cast();
            let envp: *const *const c_char = stack.add(1 + argc + 1).cast();
            let mut end = envp;
            while !(*end).is_null() {
                end = end.add(1);
            }
            Self {
                argv: Strings::new(argv),
                envp: Strings::new(envp),
                auxv: end.add(1).cast(),
                usage,
            }
        }
    }

    /// The entries of the auxiliary vector, as (AT_ number, value).
    pub fn auxv(&self) -> impl Iterator<Item = (u32, usize)> + use<> {
        let mut next = self.auxv;
        core::iter::from_fn(move || {
            // SAFETY: `next` never moves past the AT_NULL entry that ends the vector.
            let [kind, value] = unsafe { *next };
            (kind != AT_NULL as usize).then(|| {
                // SAFETY: this was not the last entry.
                next = unsafe { next.add(1) };
                (kind as u32, value)
            })
        })
    }

    /// One value of the auxiliary vector.
    pub fn aux(&self, kind: u32) -> Option<usize> {
        self.auxv()
            .find(|&(k, _)| k == kind)
            .map(|(_, value)| value)
    }

    /// The path by which this program was executed.
    pub fn executable(&self) -> &'static CStr {
        match self.aux(linux_raw_sys::auxvec::AT_EXECFN) {
            // SAFETY: AT_EXECFN is the address of a C string above the initial stack.
            Some(path) if path != 0 => unsafe { CStr::from_ptr(path as *const c_char) },
            _ => crate::fail(format_args!("the auxiliary vector has no AT_EXECFN")),
        }
    }

    /// The arguments after the program's name, as text. Ends the program with its usage if one is
    /// not UTF-8 or there are more than any program takes.
    pub fn words(&self) -> Words {
        let mut words = Words {
            words: [""; MOST_WORDS],
            count: 0,
        };
        for argument in self.argv.tail() {
            match argument.to_str() {
                Ok(word) if words.count < MOST_WORDS => words.words[words.count] = word,
                _ => self.usage(),
            }
            words.count += 1;
        }
        words
    }

    /// `word` as a number, or the program ends with its usage.
    pub fn number<T: core::str::FromStr>(&self, word: &str) -> T {
        word.parse().unwrap_or_else(|_| {
            eprintln!("'{word}' is not a number that fits here");
            self.usage()
        })
    }

    /// Ends the program because its arguments are wrong: the usage on fd 2, exit code 2.
    pub fn usage(&self) -> ! {
        eprintln!("{}", self.usage);
        process::exit(2)
    }

    /// Answers `--help`: the usage on fd 1, exit code 0.
    pub(crate) fn help(&self) {
        if !self.usage.is_empty() && self.argv.tail().first() == Some(c"--help") {
            print(1, format_args!("{}\n", self.usage));
            process::exit(0)
        }
    }
}

const MOST_WORDS: usize = 8;

/// Arguments as text; a slice of `&str`.
pub struct Words {
    words: [&'static str; MOST_WORDS],
    count: usize,
}

impl Deref for Words {
    type Target = [&'static str];

    fn deref(&self) -> &[&'static str] {
        &self.words[..self.count]
    }
}
