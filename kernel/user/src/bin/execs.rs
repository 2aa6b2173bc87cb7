//! exec, many times: in children, and in place, where the process stays and its memory goes.
//!
//! Under `qemu-aarch64` it fails unless the host can execute arm64 files.
#![no_std]
#![no_main]

use user::memory::Pages;
use user::process::{self, Pid, Status};
use user::text::Text;
use user::{Args, Errno, OrFail, check, println};

user::program!(main, "usage: execs [N]   (default: 50)");

const PAGES: usize = 16;

fn main(args: Args) -> i32 {
    let words = args.words();
    let count: u32 = match *words {
        [] => 50,
        ["--exit-with", code] => return args.number(code),
        ["--again", count, pid] => return again(&args, args.number(count), args.number(pid)),
        [count] => args.number(count),
        _ => args.usage(),
    };
    for number in 0..count {
        let code = (number % 100) as i32;
        let child =
            process::fork_child(|| exec(&args, &[c"--exit-with", Text::new(code).as_c_str()]));
        process::expect(child.or_fail("fork"), Status::Exited(code));
    }
    failed_exec_changes_nothing(&args);
    let chain = process::fork_child(|| again(&args, count, process::getpid()));
    process::expect_success(chain.or_fail("fork"));
    println!("execs: {count} children that exec, and one that execs {count} times");
    0
}

/// Execs itself `count` more times; the id must stay, and pages that it maps must be new each time.
fn again(args: &Args, count: u32, pid: Pid) -> i32 {
    check!(
        process::getpid() == pid,
        "process {pid} became {} by exec",
        process::getpid()
    );
    let pages = Pages::map(PAGES).or_fail("mapping pages");
    for page in 0..PAGES {
        let seen = pages.read(page);
        check!(seen == 0, "a new page has {seen:#x}");
        pages.write(page, 0xdead_beef);
    }
    match count {
        0 => 0,
        _ => exec(
            args,
            &[
                c"--again",
                Text::new(count - 1).as_c_str(),
                Text::new(pid).as_c_str(),
            ],
        ),
    }
}

fn failed_exec_changes_nothing(args: &Args) {
    let page = Pages::map(1).or_fail("mapping a page");
    page.write(0, 5);
    let errno = process::exec(c"/no/such/program", &[c"program"], args.envp);
    check!(
        errno == Errno::ENOENT,
        "exec of a file that does not exist gave {errno}"
    );
    check!(page.read(0) == 5, "a failed exec changed memory");
}

fn exec(args: &Args, arguments: &[&core::ffi::CStr]) -> i32 {
    let errno = process::exec_self(args, arguments);
    user::fail!("exec of {:?}: {errno}", args.executable())
}
