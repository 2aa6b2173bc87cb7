//! A store that saves itself like Redis: it forks, the child writes out all pages as they were, and
//! the parent goes on serving writes.
//!
//! Each page that the parent writes while the child is saving is copied. What that costs depends on
//! where the busy values lie: `spread` over all pages, or `packed` on few.
#![no_std]
#![no_main]

use user::memory::{PAGE_SIZE, Pages};
use user::process::{self, Fork};
use user::sync::{Conversation, Side};
use user::{Args, OrFail, check, distinct, println};

user::program!(
    main,
    "usage: store [PAGES [spread|packed]]   (default: 512 spread)"
);

/// Bytes and words of a value.
const VALUE: usize = 64;
const WORDS: usize = VALUE / size_of::<u64>();
/// Values of a page.
const VALUES: usize = PAGE_SIZE / VALUE;
/// The child saves so many pages, then the parent serves the writes that came in meanwhile.
const CHUNK: usize = 16;

fn main(args: Args) {
    let words = args.words();
    let count = words.first().map_or(512, |word| args.number(word));
    let store = Store {
        pages: Pages::map(count).or_fail("mapping the pages"),
        packed: match *words {
            [] | [_] | [_, "spread"] => false,
            [_, "packed"] => true,
            _ => args.usage(),
        },
    };
    store.load();
    let turns = Conversation::new();
    match process::fork().or_fail("fork") {
        Fork::Child => process::exit(store.save(&turns.child_side())),
        Fork::Parent(child) => {
            store.serve(&turns.parent_side());
            process::expect_success(child);
        }
    }
    println!(
        "store: {count} pages saved as they were while {} values changed",
        store.busy()
    );
}

/// Values in pages: every 64th one is written again and again.
#[derive(Clone, Copy)]
struct Store {
    pages: Pages,
    packed: bool,
}

impl Store {
    /// How many values are written often: as many as there are pages.
    fn busy(self) -> usize {
        self.pages.count()
    }

    /// Where a busy value is.
    fn place(self, key: usize) -> (usize, usize) {
        match self.packed {
            true => (key / VALUES, key % VALUES * WORDS),
            false => (key, key % VALUES * WORDS),
        }
    }

    #[inline(never)]
    fn load(self) {
        distinct!();
        for page in 0..self.pages.count() {
            for value in 0..VALUES {
                self.pages.write_word(page, value * WORDS, 1);
            }
        }
    }

    /// The child: reads all, which copies nothing. A real one writes to a file.
    #[inline(never)]
    fn save(self, parent: &Side) -> i32 {
        distinct!();
        for page in 0..self.pages.count() {
            if page % CHUNK == 0 {
                parent.tell();
                parent.wait();
            }
            for value in 0..VALUES {
                let seen = self.pages.read_word(page, value * WORDS);
                check!(seen == 1, "value {value} of page {page} is {seen}");
            }
        }
        0
    }

    /// The parent: so many writes for each chunk that the child saves.
    #[inline(never)]
    fn serve(self, child: &Side) {
        distinct!();
        for first in (0..self.busy()).step_by(CHUNK) {
            child.wait();
            for key in first..self.busy().min(first + CHUNK) {
                self.set(key, 2);
            }
            child.tell();
        }
    }

    #[inline(never)]
    fn set(self, key: usize, value: u64) {
        distinct!();
        let (page, word) = self.place(key);
        self.pages.write_word(page, word, value);
    }
}
