//! A server that forks its workers beforehand, like Apache, Unicorn or Puma, and answers from a table
//! that is filled at the first need.
//!
//! `cold`, each worker fills it for itself, and each copies all of its pages. `warm`, the server
//! fills it before it forks, and nobody copies anything but a page to work on.
#![no_std]
#![no_main]

use user::file::{self, Pipe};
use user::memory::Pages;
use user::process::{self, Status};
use user::{Args, OrFail, check, distinct, println};

user::program!(
    main,
    "usage: prefork [WORKERS [cold|warm]]   (default: 4 cold)"
);

/// Pages of the table, and requests that each worker answers.
const PAGES: usize = 64;
const REQUESTS: u64 = 256;

fn main(args: Args) {
    let words = args.words();
    let workers: u64 = words.first().map_or(4, |word| args.number(word));
    let warm = match *words {
        [] | [_] | [_, "cold"] => false,
        [_, "warm"] => true,
        _ => args.usage(),
    };
    let server = Server {
        table: Pages::map(PAGES).or_fail("mapping the table"),
        scratch: Pages::map(1).or_fail("mapping a page"),
    };
    server.start();
    if warm {
        server.fill_table();
    }
    let requests = file::pipe2(0).or_fail("making a pipe");
    for _ in 0..workers {
        process::fork_child(|| server.work(requests)).or_fail("fork");
    }
    file::close(requests.reader).or_fail("closing the pipe");
    // Closed, it sends each worker home: so all live at the same time.
    file::close(requests.writer).or_fail("closing the pipe");
    for _ in 0..workers {
        let (pid, status) = process::wait_any().or_fail("waiting for a worker");
        check!(status == Status::Exited(0), "worker {pid} {status}");
    }
    println!("prefork: {workers} workers answered {REQUESTS} requests each");
}

#[derive(Clone, Copy)]
struct Server {
    table: Pages,
    scratch: Pages,
}

impl Server {
    /// What every server has done long before it forks: all pages are there.
    #[inline(never)]
    fn start(self) {
        distinct!();
        for page in 0..PAGES {
            self.table.write(page, 0);
        }
        self.scratch.write(0, 0);
    }

    #[inline(never)]
    fn fill_table(self) {
        distinct!();
        for page in 0..PAGES {
            if self.table.read(page) == 0 {
                self.table.write(page, page as u64 + 1);
            }
        }
    }

    #[inline(never)]
    fn work(self, requests: Pipe) -> i32 {
        distinct!();
        file::close(requests.writer).or_fail("closing the pipe");
        // At the first request.
        self.fill_table();
        for request in 0..REQUESTS {
            self.answer(request);
        }
        let end = file::read(requests.reader, &mut [0]).or_fail("waiting for the end");
        check!(end == 0, "a pipe that nobody writes to had a byte");
        0
    }

    #[inline(never)]
    fn answer(self, request: u64) {
        distinct!();
        let page = request as usize % PAGES;
        let found = self.table.read(page);
        check!(found == page as u64 + 1, "page {page} has {found}");
        self.scratch.write(0, found);
    }
}
