//! Mappings of files.

use super::{FAR, HERE, RW, advise, call, show, with_child, write};
use user::file::{self, Fd};
use user::linux::*;
use user::memory::{self, PAGE_SIZE, Pages};
use user::{OrFail, println};

const NAME: &core::ffi::CStr = c"/tmp/accounts";

/// A file of eight pages, each full of its number; the last has half.
fn make() -> Fd {
    let flags = (O_RDWR | O_CREAT | O_TRUNC) as usize;
    let arguments = [AT_FDCWD as usize, NAME.as_ptr() as usize, flags, 0o600];
    let fd = call(__NR_openat, arguments).or_fail("open") as Fd;
    for page in 0..8 {
        let len = if page == 7 { PAGE_SIZE / 2 } else { PAGE_SIZE };
        file::write_all(fd, &[page + 1; PAGE_SIZE][..len]).or_fail("write");
    }
    fd
}

fn map(fd: Fd, at: usize, count: usize, prot: u32, flags: u32, offset: usize) -> Pages {
    let flags = flags | MAP_FIXED_NOREPLACE;
    let offset = offset * PAGE_SIZE;
    // SAFETY: nothing is there.
    unsafe { memory::mmap(at, count * PAGE_SIZE, prot, flags, fd, offset) }.or_fail("mmap");
    // SAFETY: nobody else knows of them.
    unsafe { Pages::at(at, count) }
}

pub fn all() {
    let fd = make();
    let pages = map(fd, HERE, 8, PROT_READ, MAP_PRIVATE, 0);
    show("a file, untouched", HERE);
    for page in 0..3 {
        pages.read(page);
    }
    show("a file, read", HERE);
    with_child(
        || {
            show("a file, inherited", HERE);
            for page in 0..3 {
                pages.read(page);
            }
            show("a file, read in a child", HERE);
        },
        || show("a file, read by two", HERE),
    );
    pages.protect(RW).or_fail("mprotect");
    write(pages, 2..5);
    show("a file, written", HERE);
    with_child(
        || {
            write(pages, 2..3);
            show("a file, written in a child", HERE);
        },
        || show("a file, written before", HERE),
    );
    println!("dontneed: {:?}", advise(pages, MADV_DONTNEED));
    println!("the file's again: {:x}", pages.read(2));
    show("a file, given back", HERE);
    pages.unmap().or_fail("munmap");

    let pages = map(fd, HERE, 8, RW, MAP_SHARED, 0);
    show("a shared file, untouched", HERE);
    pages.read(0);
    write(pages, 1..3);
    show("a shared file", HERE);
    let again = map(fd, FAR, 4, PROT_READ, MAP_SHARED, 1);
    println!("written: {}", again.read(0));
    show("mapped twice", FAR);
    show("mapped twice", HERE);
    with_child(
        || {
            pages.read(0);
            write(pages, 1..4);
            again.read(0);
            show("a shared file, in a child", HERE);
            show("the other, in a child", FAR);
        },
        || {
            println!("the child's: {}", again.read(2));
            show("a shared file, in a parent", HERE);
        },
    );
    again.unmap().or_fail("munmap");
    let mut bytes = [0; 16];
    call(
        __NR_pread64,
        [fd as usize, bytes.as_mut_ptr() as usize, 16, PAGE_SIZE],
    )
    .or_fail("pread");
    println!("in the file: {bytes:?}");
    // Behind the end of the file: what is written there is the page's, not the file's.
    pages.write_word(7, 300, 7);
    let mut stat = [0u64; 16];
    call(__NR_fstat, [fd as usize, stat.as_mut_ptr() as usize]).or_fail("fstat");
    println!("its size: {}", stat[6]);
    println!(
        "msync: {:?}",
        call(__NR_msync, [HERE, 8 * PAGE_SIZE, MS_SYNC as usize])
    );
    call(
        __NR_unlinkat,
        [AT_FDCWD as usize, NAME.as_ptr() as usize, 0],
    )
    .or_fail("unlink");
    show("without a name", HERE);
    file::close(fd).or_fail("close");
    show("closed", HERE);
    pages.unmap().or_fail("munmap");
}
