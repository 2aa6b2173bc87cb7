//! A runtime that counts references, like CPython: its workers only read the objects that they
//! inherit, and copy their pages all the same.
//!
//! `inside`, the count is in each object's header. `apart`, the counts are in a table of their own.
//! `frozen`, the worker leaves the counts of what it inherited alone.
#![no_std]
#![no_main]

use user::memory::{PAGE_SIZE, Pages};
use user::{Args, OrFail, check, distinct, println, process};

user::program!(
    main,
    "usage: refcount [PAGES [inside|apart|frozen]]   (default: 128 inside)"
);

/// Bytes and words of an object: its count, and what it holds.
const OBJECT: usize = 256;
const WORDS: usize = OBJECT / size_of::<u64>();
/// Objects of a page, counts of a page.
const OBJECTS: usize = PAGE_SIZE / OBJECT;
const COUNTS: usize = PAGE_SIZE / size_of::<u64>();

fn main(args: Args) {
    let words = args.words();
    let count: usize = words.first().map_or(128, |word| args.number(word));
    let counts = match *words {
        [] | [_] | [_, "inside"] => Counts::Inside,
        [_, "apart"] => Counts::Apart,
        [_, "frozen"] => Counts::Frozen,
        _ => args.usage(),
    };
    let heap = Heap {
        objects: Pages::map(count).or_fail("mapping the objects"),
        table: Pages::map((count * OBJECTS).div_ceil(COUNTS)).or_fail("mapping the counts"),
        counts,
    };
    heap.make_objects();
    let worker = process::fork_child(|| {
        let sum = heap.sum();
        let expected = count * OBJECTS;
        check!(
            sum == expected as u64,
            "the objects hold {sum}, not {expected}"
        );
        0
    });
    process::expect_success(worker.or_fail("fork"));
    println!(
        "refcount: a worker read {} objects on {count} pages",
        count * OBJECTS
    );
}

#[derive(Clone, Copy)]
enum Counts {
    Inside,
    Apart,
    Frozen,
}

#[derive(Clone, Copy)]
struct Heap {
    objects: Pages,
    table: Pages,
    counts: Counts,
}

impl Heap {
    #[inline(never)]
    fn make_objects(self) {
        distinct!();
        for object in 0..self.objects.count() * OBJECTS {
            self.reference(object);
            self.objects
                .write_word(object / OBJECTS, object % OBJECTS * WORDS + 1, 1);
        }
    }

    /// All that the worker does: it reads. A reference to the first object of each page stays, in a
    /// cache of the runtime's, say; the others go as they came.
    #[inline(never)]
    fn sum(self) -> u64 {
        distinct!();
        let mut sum = 0;
        for object in 0..self.objects.count() * OBJECTS {
            if let Counts::Inside | Counts::Apart = self.counts {
                self.reference(object);
            }
            sum += self
                .objects
                .read_word(object / OBJECTS, object % OBJECTS * WORDS + 1);
            if let Counts::Inside | Counts::Apart = self.counts
                && object % OBJECTS != 0
            {
                self.let_go(object);
            }
        }
        sum
    }

    fn count(self, object: usize) -> (Pages, usize, usize) {
        match self.counts {
            Counts::Apart => (self.table, object / COUNTS, object % COUNTS),
            _ => (self.objects, object / OBJECTS, object % OBJECTS * WORDS),
        }
    }

    #[inline(never)]
    fn reference(self, object: usize) {
        distinct!();
        let (pages, page, word) = self.count(object);
        pages.write_word(page, word, pages.read_word(page, word) + 1);
    }

    #[inline(never)]
    fn let_go(self, object: usize) {
        distinct!();
        let (pages, page, word) = self.count(object);
        pages.write_word(page, word, pages.read_word(page, word) - 1);
    }
}
