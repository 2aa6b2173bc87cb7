//! A zygote, like Android's: it loads what all apps need, and each app starts as a fork of it.
//!
//! Most of what it loaded is only ever read. The few objects that apps write lie among the others
//! (`mixed`), so that each of them takes a page of clean objects with it, or by themselves (`sorted`).
//! All apps live at the same time.
#![no_std]
#![no_main]

use user::memory::{PAGE_SIZE, Pages};
use user::process;
use user::sync::Conversation;
use user::{Args, OrFail, check, distinct, println};

user::program!(
    main,
    "usage: zygote [APPS [mixed|sorted]]   (default: 3 mixed)"
);

/// Pages of loaded objects.
const PAGES: usize = 256;
/// Words of an object; objects of a page.
const WORDS: usize = 16;
const OBJECTS: usize = PAGE_SIZE / size_of::<u64>() / WORDS;
/// Objects that each app writes, and the most apps.
const WRITTEN: usize = 64;
const MOST: usize = 16;

fn main(args: Args) {
    let words = args.words();
    let apps: usize = words.first().map_or(3, |word| args.number(word));
    let sorted = match *words {
        [] | [_] | [_, "mixed"] => false,
        [_, "sorted"] => true,
        _ => args.usage(),
    };
    if apps > MOST {
        args.usage();
    }
    let zygote = Zygote {
        objects: Pages::map(PAGES).or_fail("mapping the objects"),
        sorted,
    };
    zygote.preload();
    zygote.start(apps);
    println!("zygote: {apps} apps shared {PAGES} pages and wrote {WRITTEN} objects each");
}

#[derive(Clone, Copy)]
struct Zygote {
    objects: Pages,
    sorted: bool,
}

impl Zygote {
    #[inline(never)]
    fn preload(self) {
        distinct!();
        for page in 0..PAGES {
            for object in 0..OBJECTS {
                self.objects.write_word(page, object * WORDS, 1);
            }
        }
    }

    /// Starts one app after the other, each while those before it live.
    fn start(self, left: usize) {
        if left == 0 {
            return;
        }
        let turns = Conversation::new();
        match process::fork().or_fail("fork") {
            process::Fork::Child => {
                let zygote = turns.child_side();
                self.app();
                zygote.tell();
                zygote.wait();
                process::exit(0)
            }
            process::Fork::Parent(app) => {
                let side = turns.parent_side();
                side.wait();
                self.start(left - 1);
                side.tell();
                process::expect_success(app);
            }
        }
    }

    #[inline(never)]
    fn app(self) {
        distinct!();
        for written in 0..WRITTEN {
            self.touch(written);
        }
        for page in 0..PAGES {
            let last = self.objects.read_word(page, (OBJECTS - 1) * WORDS + 1);
            check!(last == 0, "page {page} has {last}");
        }
    }

    #[inline(never)]
    fn touch(self, written: usize) {
        distinct!();
        let (page, object) = match self.sorted {
            true => (written / OBJECTS, written % OBJECTS),
            false => (written * (PAGES / WRITTEN), 0),
        };
        self.objects.write_word(page, object * WORDS, 2);
    }
}
