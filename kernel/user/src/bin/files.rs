//! What the file system answers, a line per case: names, contents, links, renames, locks, listings.
//! Run on Linux and here, it must print the same.
//!
//! It works in a directory of its own below the one given, which it removes again.
#![no_std]
#![no_main]

use core::ffi::CStr;
use core::fmt::Display;
use user::file::{self, Fd};
use user::linux::*;
use user::memory::{self, PAGE_SIZE};
use user::process::{self, Fork};
use user::{Args, Errno, OrFail, Result, fail, println, syscall, text::Text};

user::program!(main, "usage: files [DIRECTORY]");

const HERE: usize = AT_FDCWD as usize;

fn main(args: Args) {
    let words = args.words();
    let base = match words.len() {
        0 => "/tmp",
        1 => words[0],
        _ => args.usage(),
    };
    let base = Text::new(base);
    chdir(base.as_c_str()).or_fail("chdir");
    let own = Text::new(format_args!("files-{}", process::getpid()));
    mkdir(own.as_c_str(), 0o755).or_fail("mkdir");
    chdir(own.as_c_str()).or_fail("chdir");
    making();
    contents();
    holes();
    vectors();
    cutting();
    links();
    chains();
    removing();
    renaming();
    attributes();
    listing();
    unnamed();
    descriptors();
    record_locks();
    fifos();
    chdir(c"..").or_fail("chdir");
    show("the directory is empty again", rmdir(own.as_c_str()));
}

/// What the program prints of a case.
fn show(case: impl Display, result: Result<usize>) {
    match result {
        Ok(value) => println!("{case}: {value}"),
        Err(errno) => println!("{case}: {errno}"),
    }
}

/// A system call that only touches what its arguments name.
fn call<const N: usize>(number: u32, arguments: [usize; N]) -> Result<usize> {
    // SAFETY: the callers below pass strings and buffers of their own.
    unsafe { syscall(number, arguments) }
}

fn at(path: &CStr) -> usize {
    path.as_ptr() as usize
}

fn open(path: &CStr, flags: u32) -> Result<usize> {
    call(__NR_openat, [HERE, at(path), flags as usize, 0o644])
}

/// Opens, which must succeed.
#[track_caller]
fn opened(path: &CStr, flags: u32) -> Fd {
    open(path, flags).or_fail("opening") as Fd
}

fn closed(result: Result<usize>) -> Result<usize> {
    result.map(|fd| {
        file::close(fd as Fd).or_fail("closing");
        0
    })
}

fn mkdir(path: &CStr, mode: usize) -> Result<usize> {
    call(__NR_mkdirat, [HERE, at(path), mode])
}

fn unlink(path: &CStr) -> Result<usize> {
    call(__NR_unlinkat, [HERE, at(path), 0])
}

fn rmdir(path: &CStr) -> Result<usize> {
    call(__NR_unlinkat, [HERE, at(path), AT_REMOVEDIR as usize])
}

fn symlink(target: &CStr, path: &CStr) -> Result<usize> {
    call(__NR_symlinkat, [at(target), HERE, at(path)])
}

fn link(old: &CStr, new: &CStr) -> Result<usize> {
    call(__NR_linkat, [HERE, at(old), HERE, at(new), 0])
}

fn rename(old: &CStr, new: &CStr, flags: u32) -> Result<usize> {
    call(
        __NR_renameat2,
        [HERE, at(old), HERE, at(new), flags as usize],
    )
}

fn chdir(path: &CStr) -> Result<usize> {
    call(__NR_chdir, [at(path)])
}

fn seek(fd: Fd, offset: isize, whence: u32) -> Result<usize> {
    call(__NR_lseek, [fd as usize, offset as usize, whence as usize])
}

fn truncate(fd: Fd, len: usize) -> Result<usize> {
    call(__NR_ftruncate, [fd as usize, len])
}

/// What `stat` says, by the descriptor.
fn status(fd: Fd) -> stat {
    // SAFETY: a structure of integers.
    let mut status: stat = unsafe { core::mem::zeroed() };
    call(__NR_fstat, [fd as usize, &raw mut status as usize]).or_fail("fstat");
    status
}

/// By the path, not following a link.
fn status_of(path: &CStr) -> Result<stat> {
    // SAFETY: a structure of integers.
    let mut status: stat = unsafe { core::mem::zeroed() };
    call(
        __NR_newfstatat,
        [
            HERE,
            at(path),
            &raw mut status as usize,
            AT_SYMLINK_NOFOLLOW as usize,
        ],
    )?;
    Ok(status)
}

/// Makes a file with contents.
fn make(path: &CStr, contents: &[u8]) {
    let fd = opened(path, O_CREAT | O_TRUNC | O_WRONLY);
    file::write_all(fd, contents).or_fail("writing");
    file::close(fd).or_fail("closing");
}

/// The first bytes of a file, as text.
fn start_of<'b>(path: &CStr, buffer: &'b mut [u8]) -> &'b str {
    let fd = opened(path, O_RDONLY);
    let count = file::read(fd, buffer).or_fail("reading");
    file::close(fd).or_fail("closing");
    core::str::from_utf8(&buffer[..count]).unwrap_or("(no text)")
}

fn making() {
    let exclusive = O_CREAT | O_EXCL | O_WRONLY;
    show("open a missing file", open(c"a", O_RDONLY));
    show("make it", closed(open(c"a", exclusive)));
    show("make it again", open(c"a", exclusive));
    show("open it as a directory", open(c"a", O_DIRECTORY));
    show("open it with a slash", open(c"a/", O_RDONLY));
    show("make one with a slash", open(c"b/", O_CREAT | O_WRONLY));
    show("make one below a file", open(c"a/b", O_CREAT | O_WRONLY));
    show("make one below nothing", open(c"no/b", O_CREAT | O_WRONLY));
    show("mkdir", mkdir(c"d", 0o755));
    show("mkdir again", mkdir(c"d", 0o755));
    show("mkdir over a file", mkdir(c"a", 0o755));
    show("mkdir with a slash", mkdir(c"e/", 0o755));
    show("mkdir below nothing", mkdir(c"no/d", 0o755));
    show("mkdir .", mkdir(c".", 0o755));
    show("mkdir ..", mkdir(c"..", 0o755));
    show("mkdir /", mkdir(c"/", 0o755));
    show("mkdir without a name", mkdir(c"", 0o755));
    show("write a directory", open(c"d", O_WRONLY));
    show("make a directory by open", open(c"d", O_CREAT | O_RDONLY));
    show("cut a directory off", open(c"d", O_TRUNC | O_RDONLY));
    show(
        "open a directory",
        closed(open(c"d", O_RDONLY | O_DIRECTORY)),
    );
    let fd = opened(c"d", O_RDONLY);
    let mut byte = [0];
    show("read a directory", file::read(fd, &mut byte));
    show("write to it", file::write(fd, b"x"));
    file::close(fd).or_fail("closing");
    let long = [b'n'; 256];
    let mut name = [0; 257];
    name[..256].copy_from_slice(&long);
    let name = CStr::from_bytes_with_nul(&name).unwrap_or(c"");
    show("a name of 256 bytes", open(name, O_CREAT | O_WRONLY));
    let name = CStr::from_bytes_with_nul(&name.to_bytes_with_nul()[1..]).unwrap_or(c"");
    show("of 255", closed(open(name, O_CREAT | O_WRONLY)));
    show("removed", unlink(name));
    let mut path = [b'/'; PATH_MAX as usize];
    path[PATH_MAX as usize - 1] = 0;
    let longest = CStr::from_bytes_with_nul(&path).unwrap_or(c"");
    show("a path of 4095 bytes", closed(open(longest, O_RDONLY)));
    let missing = call(
        __NR_mknodat,
        [HERE, at(c"n"), (S_IFDIR | 0o644) as usize, 0],
    );
    show("mknod of a directory", missing);
    let plain = call(__NR_mknodat, [HERE, at(c"n"), 0o644, 0]);
    show("mknod of a file", plain);
    show("it is there", unlink(c"n"));
    show("rmdir of e", rmdir(c"e"));
    show("rmdir of d", rmdir(c"d"));
    show("unlink of a", unlink(c"a"));
}

fn contents() {
    let fd = opened(c"c", O_CREAT | O_RDWR);
    show("write 10 bytes", file::write(fd, b"0123456789"));
    let mut buffer = [0; 16];
    show("read at the end", file::read(fd, &mut buffer));
    show("seek to 4", seek(fd, 4, SEEK_SET));
    show("read the rest", file::read(fd, &mut buffer));
    show("seek back by 3", seek(fd, -3, SEEK_CUR));
    show("seek before the start", seek(fd, -11, SEEK_END));
    show("seek by a wrong word", seek(fd, 0, 99));
    let pread = |offset: isize, buffer: &mut [u8]| {
        call(
            __NR_pread64,
            [
                fd as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                offset as usize,
            ],
        )
    };
    show("pread of 3 at 8", pread(8, &mut buffer[..3]));
    show("pread past the end", pread(100, &mut buffer));
    show("pread at -1", pread(-1, &mut buffer));
    let pwrite = |offset: isize, bytes: &[u8]| {
        call(
            __NR_pwrite64,
            [
                fd as usize,
                bytes.as_ptr() as usize,
                bytes.len(),
                offset as usize,
            ],
        )
    };
    show("pwrite of 2 at 1", pwrite(1, b"ab"));
    println!("it is {}", start_of(c"c", &mut buffer));
    let append = opened(c"c", O_WRONLY | O_APPEND);
    show("append 2", file::write(append, b"yz"));
    show("pwrite of an appender", {
        let bytes = b"!";
        call(
            __NR_pwrite64,
            [append as usize, bytes.as_ptr() as usize, 1, 0],
        )
    });
    println!("it is {}", start_of(c"c", &mut buffer));
    show("read what is for writing", file::read(append, &mut buffer));
    file::close(append).or_fail("closing");
    show("write of nothing to it", file::write(fd, b""));
    let bad = call(__NR_read, [fd as usize, 8, 4]);
    show("read to a bad address at the end", bad);
    seek(fd, 0, SEEK_SET).or_fail("seeking");
    show("and not there", call(__NR_read, [fd as usize, 8, 4]));
    show("write from one", call(__NR_write, [fd as usize, 8, 4]));
    show("the length", Ok(status(fd).st_size as usize));
    file::close(fd).or_fail("closing");
    show("cut off by open", closed(open(c"c", O_TRUNC | O_WRONLY)));
    println!("it is \"{}\"", start_of(c"c", &mut buffer));
    unlink(c"c").or_fail("unlink");
}

fn holes() {
    let fd = opened(c"h", O_CREAT | O_RDWR);
    let far = 1 << 20;
    show("seek past the end", seek(fd, far, SEEK_SET));
    show("the length is the same", Ok(status(fd).st_size as usize));
    show("write there", file::write(fd, b"end"));
    show("the length", Ok(status(fd).st_size as usize));
    let mut buffer = [1; 8];
    seek(fd, far - 5, SEEK_SET).or_fail("seeking");
    show("read across", file::read(fd, &mut buffer));
    println!("it is {:?}", &buffer);
    show("the first data", seek(fd, 0, SEEK_DATA));
    show("the first hole", seek(fd, 0, SEEK_HOLE));
    show("the hole after the data", seek(fd, far, SEEK_HOLE));
    show("data past the end", seek(fd, far + 3, SEEK_DATA));
    show("a hole past the end", seek(fd, far + 4, SEEK_HOLE));
    show("write at the largest offset", {
        let most = i64::MAX as usize;
        call(
            __NR_pwrite64,
            [fd as usize, buffer.as_ptr() as usize, 8, most],
        )
    });
    let punch = (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) as usize;
    show("allocate", call(__NR_fallocate, [fd as usize, 0, 0, 8192]));
    show("no length", call(__NR_fallocate, [fd as usize, 0, 0, 0]));
    show("the data now", seek(fd, 0, SEEK_DATA));
    show(
        "punch it",
        call(__NR_fallocate, [fd as usize, punch, 0, 8192]),
    );
    show("the data then", seek(fd, 0, SEEK_DATA));
    show("punch and grow", {
        let wrong = FALLOC_FL_PUNCH_HOLE as usize;
        call(__NR_fallocate, [fd as usize, wrong, 0, 8192])
    });
    file::close(fd).or_fail("closing");
    unlink(c"h").or_fail("unlink");
}

fn vectors() {
    let fd = opened(c"v", O_CREAT | O_RDWR);
    let (one, two) = (*b"one", *b"two");
    let vector = [one.as_ptr() as usize, 3, 8, 0, two.as_ptr() as usize, 3];
    let vector = vector.as_ptr() as usize;
    show("writev", call(__NR_writev, [fd as usize, vector, 3]));
    show(
        "pwritev",
        call(__NR_pwritev, [fd as usize, vector, 1, 6, 0]),
    );
    let (mut three, mut four) = ([0; 4], [0; 8]);
    let vector = [
        three.as_mut_ptr() as usize,
        4,
        four.as_mut_ptr() as usize,
        8,
    ];
    let vector = vector.as_ptr() as usize;
    show("preadv", call(__NR_preadv, [fd as usize, vector, 2, 1, 0]));
    println!("it is {:?} {:?}", three.as_slice(), four.as_slice());
    show("preadv2 at the position", {
        seek(fd, 7, SEEK_SET).or_fail("seeking");
        call(
            __NR_preadv2,
            [fd as usize, vector, 2, usize::MAX, usize::MAX, 0],
        )
    });
    show("preadv2 with a wrong flag", {
        call(__NR_preadv2, [fd as usize, vector, 2, 0, 0, 0x4000])
    });
    let wrong = [three.as_mut_ptr() as usize, usize::MAX];
    let wrong = wrong.as_ptr() as usize;
    show(
        "a negative length",
        call(__NR_readv, [fd as usize, wrong, 1]),
    );
    show("no buffers", call(__NR_readv, [fd as usize, vector, 0]));
    show("a bad vector", call(__NR_readv, [fd as usize, 8, 1]));
    file::close(fd).or_fail("closing");
    make(c"w", b"copied");
    let (from, to) = (opened(c"w", O_RDONLY), opened(c"v", O_WRONLY | O_TRUNC));
    let sent = call(__NR_sendfile, [to as usize, from as usize, 0, 100]);
    show("sendfile", sent);
    let mut offset = 2usize;
    let place = &raw mut offset as usize;
    let sent = call(__NR_sendfile, [to as usize, from as usize, place, 3]);
    show("sendfile from 2", sent);
    show("where it ended", Ok(offset));
    let mut buffer = [0; 16];
    println!("it is {}", start_of(c"v", &mut buffer));
    let mut offset = 0usize;
    let place = &raw mut offset as usize;
    let range = call(
        __NR_copy_file_range,
        [from as usize, place, to as usize, 0, 4, 0],
    );
    show("copy_file_range", range);
    println!("it is {}", start_of(c"v", &mut buffer));
    file::close(from).or_fail("closing");
    file::close(to).or_fail("closing");
    unlink(c"v").or_fail("unlink");
    unlink(c"w").or_fail("unlink");
}

fn cutting() {
    let fd = opened(c"t", O_CREAT | O_RDWR);
    file::write_all(fd, &[7; 6000]).or_fail("writing");
    // SAFETY: no Rust object lies in the pages.
    let pages =
        unsafe { memory::mmap(0, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) }
            .or_fail("mmap");
    // SAFETY: the two pages that were mapped.
    let byte = |n: usize| unsafe { (pages as *mut u8).add(n) };
    // SAFETY: mapped, and in the file.
    unsafe { byte(5000).write_volatile(9) };
    let mut one = [0];
    seek(fd, 5000, SEEK_SET).or_fail("seeking");
    file::read(fd, &mut one).or_fail("reading");
    println!("a store is read as {}", one[0]);
    show("cut off at 100", truncate(fd, 100));
    // SAFETY: in the file's last page.
    println!("past the end: {}", unsafe { byte(200).read_volatile() });
    let touch = |n: usize| {
        let child = process::fork_child(|| {
            // SAFETY: mapped; whether the file has it is the question.
            i32::from(unsafe { byte(n).read_volatile() })
        });
        process::wait(child.or_fail("fork")).or_fail("wait")
    };
    println!("its first page: {}", touch(0));
    println!("its second page: {}", touch(5000));
    show("grown to 6000", truncate(fd, 6000));
    println!("its second page: {}", touch(5000));
    println!("what was cut off: {}", touch(200));
    show("cut off at -1", truncate(fd, usize::MAX));
    let reader = opened(c"t", O_RDONLY);
    show("cut off by a reader", truncate(reader, 0));
    show("by path", call(__NR_truncate, [at(c"t"), 3]));
    show("a directory", call(__NR_truncate, [at(c"."), 3]));
    show("nothing", call(__NR_truncate, [at(c"no"), 3]));
    show("the length", Ok(status(fd).st_size as usize));
    file::close(reader).or_fail("closing");
    file::close(fd).or_fail("closing");
    unlink(c"t").or_fail("unlink");
}

fn links() {
    make(c"f", b"linked");
    let mut buffer = [0; 64];
    show("link", link(c"f", c"g"));
    show("link over a name", link(c"f", c"g"));
    show("link of nothing", link(c"no", c"i"));
    show("link of a directory", link(c".", c"i"));
    let count = |path: &CStr| status_of(path).map(|status| status.st_nlink as usize);
    show("links", count(c"f"));
    let same = status_of(c"f").or_fail("stat").st_ino == status_of(c"g").or_fail("stat").st_ino;
    println!("one file: {same}");
    show("unlink the first", unlink(c"f"));
    println!("the second is {}", start_of(c"g", &mut buffer));
    show("links", count(c"g"));
    show("symlink", symlink(c"g", c"s"));
    show("symlink over a name", symlink(c"g", c"s"));
    show("symlink to no name", symlink(c"", c"z"));
    println!("it leads to {}", start_of(c"s", &mut buffer));
    let readlink = |path: &CStr, buffer: &mut [u8]| {
        call(
            __NR_readlinkat,
            [HERE, at(path), buffer.as_mut_ptr() as usize, buffer.len()],
        )
    };
    show("readlink", readlink(c"s", &mut buffer));
    show("readlink of a file", readlink(c"g", &mut buffer));
    show("readlink to no room", readlink(c"s", &mut buffer[..0]));
    show(
        "its length",
        status_of(c"s").map(|status| status.st_size as usize),
    );
    show("not followed", open(c"s", O_RDONLY | O_NOFOLLOW));
    show("but for its place", closed(open(c"s", O_PATH | O_NOFOLLOW)));
    show("made exclusively", open(c"s", O_CREAT | O_EXCL | O_WRONLY));
    show("a link to nothing", symlink(c"new", c"m"));
    show("opened", open(c"m", O_RDONLY));
    show("made through it", closed(open(c"m", O_CREAT | O_WRONLY)));
    show("what it made", unlink(c"new"));
    show("a link with a slash", open(c"s/", O_RDONLY));
    show("hard link to a link", link(c"s", c"s2"));
    show("is one", readlink(c"s2", &mut buffer));
    for name in [c"g", c"s", c"s2", c"m"] {
        unlink(name).or_fail("unlink");
    }
}

fn chains() {
    make(c"l0", b"x");
    for n in 1..=41 {
        let (from, to) = (
            Text::new(format_args!("l{}", n - 1)),
            Text::new(format_args!("l{n}")),
        );
        symlink(from.as_c_str(), to.as_c_str()).or_fail("symlink");
    }
    for n in [1, 39, 40, 41] {
        let name = Text::new(format_args!("l{n}"));
        show(
            format_args!("{n} links"),
            closed(open(name.as_c_str(), O_RDONLY)),
        );
    }
    for n in 0..=41 {
        unlink(Text::new(format_args!("l{n}")).as_c_str()).or_fail("unlink");
    }
    symlink(c"loop", c"loop").or_fail("symlink");
    show("a loop", open(c"loop", O_RDONLY));
    show("below it", open(c"loop/x", O_RDONLY));
    show("made in it", open(c"loop", O_CREAT | O_WRONLY));
    unlink(c"loop").or_fail("unlink");
    mkdir(c"deep", 0o755).or_fail("mkdir");
    symlink(c"../deep", c"deep/up").or_fail("symlink");
    show(
        "40 in the middle",
        closed(open(c"deep/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/.", O_RDONLY)),
    );
    show(
        "41",
        open(c"deep/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/up/.", O_RDONLY),
    );
    unlink(c"deep/up").or_fail("unlink");
    rmdir(c"deep").or_fail("rmdir");
}

fn removing() {
    let mut buffer = [0; 8];
    make(c"f", b"open");
    let fd = opened(c"f", O_RDWR);
    show("unlink an open file", unlink(c"f"));
    show("again", unlink(c"f"));
    show("its links", Ok(status(fd).st_nlink as usize));
    show("read it", file::read(fd, &mut buffer));
    show("write it", file::write(fd, b"more"));
    file::close(fd).or_fail("closing");
    mkdir(c"d", 0o755).or_fail("mkdir");
    make(c"d/f", b"");
    show("unlink a directory", unlink(c"d"));
    show("rmdir of one in use", rmdir(c"d"));
    show("rmdir of a file", rmdir(c"d/f"));
    show("unlink with a slash", unlink(c"d/f/"));
    show("unlink .", unlink(c"d/."));
    show("rmdir .", rmdir(c"d/."));
    show("rmdir ..", rmdir(c"d/.."));
    show("unlink below", unlink(c"d/f"));
    let fd = opened(c"d", O_RDONLY);
    show("rmdir of an open one", rmdir(c"d/"));
    show(
        "make in it",
        call(
            __NR_openat,
            [fd as usize, at(c"f"), (O_CREAT | O_WRONLY) as usize, 0o644],
        ),
    );
    show(
        "list it",
        call(
            __NR_getdents64,
            [fd as usize, buffer.as_mut_ptr() as usize, 8],
        ),
    );
    show("go there", call(__NR_fchdir, [fd as usize]));
    show(
        "where is that",
        call(__NR_getcwd, [buffer.as_mut_ptr() as usize, 8]),
    );
    show("up from there", chdir(c".."));
    file::close(fd).or_fail("closing");
    show("wrong flags", call(__NR_unlinkat, [HERE, at(c"d"), 1]));
}

fn renaming() {
    let mut buffer = [0; 16];
    make(c"a", b"a");
    make(c"b", b"b");
    mkdir(c"d", 0o755).or_fail("mkdir");
    mkdir(c"d/e", 0o755).or_fail("mkdir");
    mkdir(c"x", 0o755).or_fail("mkdir");
    show("not over another", rename(c"a", c"b", RENAME_NOREPLACE));
    show("over another", rename(c"a", c"b", 0));
    println!("it is {}", start_of(c"b", &mut buffer));
    show("of nothing", rename(c"a", c"c", 0));
    show("to itself", rename(c"b", c"b", 0));
    show("a file over a directory", rename(c"b", c"d", 0));
    show("a directory over a file", rename(c"d", c"b", 0));
    show("a directory over one in use", rename(c"x", c"d", 0));
    show("over an empty one", rename(c"d", c"x", 0));
    show("its own below it", rename(c"x", c"x/e/f", 0));
    show("over what is above", rename(c"x/e", c"x", 0));
    show("a dot", rename(c"x/.", c"y", 0));
    show("to a dot", rename(c"b", c"x/..", 0));
    show("a file with a slash", rename(c"b/", c"y", 0));
    show("to a slash", rename(c"b", c"y/", 0));
    show("a directory to a slash", rename(c"x", c"y/", 0));
    show(
        "exchange with nothing",
        rename(c"b", c"no", RENAME_EXCHANGE),
    );
    show(
        "exchange with a directory",
        rename(c"b", c"y", RENAME_EXCHANGE),
    );
    println!("it is {}", start_of(c"y", &mut buffer));
    show("below is", closed(open(c"b/e", O_DIRECTORY)));
    show(
        "wrong flags",
        rename(c"b", c"y", RENAME_EXCHANGE | RENAME_NOREPLACE),
    );
    link(c"y", c"z").or_fail("link");
    show("to its other name", rename(c"y", c"z", 0));
    show("which stays", unlink(c"y"));
    show("and this one", unlink(c"z"));
    let links = |path: &CStr| status_of(path).map(|status| status.st_nlink as usize);
    show("links of the upper one", links(c"b"));
    show("move out", rename(c"b/e", c"e", 0));
    show("links then", links(c"b"));
    show("links here", links(c"."));
    rmdir(c"b").or_fail("rmdir");
    rmdir(c"e").or_fail("rmdir");
}

fn attributes() {
    make(c"p", b"");
    let mode = |path: &CStr| status_of(path).map(|status| (status.st_mode & 0o7777) as usize);
    show("mode", mode(c"p"));
    show("chmod", call(__NR_fchmodat, [HERE, at(c"p"), 0o4711]));
    show("mode", mode(c"p"));
    show("umask", call(__NR_umask, [0o77]));
    show("makes", closed(open(c"q", O_CREAT | O_WRONLY)));
    show("mode", mode(c"q"));
    show("umask back", call(__NR_umask, [0o22]));
    let times = [1_000_000_000usize, 5, 2_000_000_000, 7];
    let set = |times: &[usize; 4], flags: usize| {
        call(
            __NR_utimensat,
            [HERE, at(c"p"), times.as_ptr() as usize, flags],
        )
    };
    show("utimensat", set(&times, 0));
    let seen = status_of(c"p").or_fail("stat");
    println!(
        "{}.{} {}.{}",
        seen.st_atime, seen.st_atime_nsec, seen.st_mtime, seen.st_mtime_nsec
    );
    show(
        "keep both",
        set(&[0, UTIME_OMIT as usize, 0, UTIME_OMIT as usize], 0),
    );
    show("too many nanoseconds", set(&[0, 1_000_000_000, 0, 0], 0));
    show("keep one", set(&[3, 0, 0, UTIME_OMIT as usize], 0));
    let seen = status_of(c"p").or_fail("stat");
    println!("{} {}", seen.st_atime, seen.st_mtime);
    show("wrong flags", set(&times, 1));
    for mode in [R_OK, W_OK, X_OK, 8] {
        let access = call(__NR_faccessat, [HERE, at(c"q"), mode as usize]);
        show(format_args!("access {mode}"), access);
    }
    let missing = call(__NR_faccessat, [HERE, at(c"no"), 0]);
    show("access of nothing", missing);
    // SAFETY: a structure of integers.
    let mut seen: statx = unsafe { core::mem::zeroed() };
    let place = &raw mut seen as usize;
    let all = STATX_BASIC_STATS as usize;
    show("statx", call(__NR_statx, [HERE, at(c"p"), 0, all, place]));
    println!("{:o} {}", seen.stx_mode, seen.stx_mtime.tv_sec);
    show(
        "by descriptor",
        call(__NR_statx, [0, at(c""), AT_EMPTY_PATH as usize, all, place]),
    );
    show(
        "wrong mask",
        call(__NR_statx, [HERE, at(c"p"), 0, 1 << 31, place]),
    );
    show("no path", call(__NR_newfstatat, [HERE, at(c""), place, 0]));
    unlink(c"p").or_fail("unlink");
    unlink(c"q").or_fail("unlink");
}

/// Lists a directory: how many entries, and the sum of their lengths.
fn list(path: &CStr, room: usize) -> Result<(usize, usize)> {
    let fd = opened(path, O_RDONLY | O_DIRECTORY);
    let mut buffer = [0u8; 1024];
    let (mut count, mut sum) = (0, 0);
    let result = loop {
        let got = call(
            __NR_getdents64,
            [fd as usize, buffer.as_mut_ptr() as usize, room],
        );
        match got {
            Ok(0) => break Ok((count, sum)),
            Err(errno) => break Err(errno),
            Ok(len) => {
                let mut at = 0;
                while at < len {
                    let size = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
                    let name = &buffer[at + 19..at + size];
                    sum += name.iter().position(|&byte| byte == 0).unwrap_or(0);
                    count += 1;
                    at += size;
                }
            }
        }
    };
    file::close(fd).or_fail("closing");
    result
}

fn listing() {
    mkdir(c"d", 0o755).or_fail("mkdir");
    let name = |n: usize| Text::new(format_args!("d/file-{n}"));
    for n in 0..100 {
        make(name(n).as_c_str(), b"");
    }
    println!("all at once: {:?}", list(c"d", 1024));
    println!("little by little: {:?}", list(c"d", 48));
    println!("no room: {:?}", list(c"d", 16));
    let fd = opened(c"d", O_RDONLY);
    let mut buffer = [0u8; 256];
    let mut removed = 0;
    // As `rm -r` does: what is listed is removed before the listing goes on.
    loop {
        let len = call(
            __NR_getdents64,
            [fd as usize, buffer.as_mut_ptr() as usize, 256],
        )
        .or_fail("getdents64");
        if len == 0 {
            break;
        }
        let mut from = 0;
        while from < len {
            let size = usize::from(u16::from_ne_bytes([buffer[from + 16], buffer[from + 17]]));
            let name = CStr::from_bytes_until_nul(&buffer[from + 19..from + size]).unwrap_or(c"");
            if !matches!(name.to_bytes(), b"." | b"..") {
                call(__NR_unlinkat, [fd as usize, at(name), 0]).or_fail("unlinkat");
                removed += 1;
            }
            from += size;
        }
    }
    file::close(fd).or_fail("closing");
    println!("removed while listed: {removed}");
    show("and it is empty", rmdir(c"d"));
    let fd = opened(c"f", O_CREAT | O_RDWR);
    show(
        "list a file",
        call(
            __NR_getdents64,
            [fd as usize, buffer.as_mut_ptr() as usize, 256],
        ),
    );
    show("go to a file", chdir(c"f"));
    show("go to nothing", chdir(c"no"));
    show(
        "no room for the path",
        call(__NR_getcwd, [buffer.as_mut_ptr() as usize, 2]),
    );
    show(
        "no room at all",
        call(__NR_getcwd, [buffer.as_mut_ptr() as usize, 0]),
    );
    file::close(fd).or_fail("closing");
    unlink(c"f").or_fail("unlink");
}

fn unnamed() {
    let flags = O_TMPFILE_BITS | O_RDWR;
    let fd = opened(c".", flags);
    show("write to it", file::write(fd, b"no name"));
    show("its links", Ok(status(fd).st_nlink as usize));
    let path = Text::new(format_args!("/proc/self/fd/{fd}"));
    let follow = AT_SYMLINK_FOLLOW as usize;
    let named = call(
        __NR_linkat,
        [HERE, at(path.as_c_str()), HERE, at(c"named"), follow],
    );
    show("give it one", named);
    let mut buffer = [0; 16];
    println!("it is {}", start_of(c"named", &mut buffer));
    show("for reading only", open(c".", O_TMPFILE_BITS | O_RDONLY));
    file::close(fd).or_fail("closing");
    unlink(c"named").or_fail("unlink");
}

/// O_TMPFILE, which the headers hide.
const O_TMPFILE_BITS: u32 = 0o20_000_000 | O_DIRECTORY;

fn descriptors() {
    let fd = opened(c"f", O_CREAT | O_RDWR);
    let fcntl =
        |command: u32, argument: usize| call(__NR_fcntl, [fd as usize, command as usize, argument]);
    show("no flags", fcntl(F_GETFD, 0));
    show("set one", fcntl(F_SETFD, 1));
    show("it is set", fcntl(F_GETFD, 0));
    show("not in a copy", {
        let copy = fcntl(F_DUPFD, 100).or_fail("F_DUPFD");
        let flags = call(__NR_fcntl, [copy, F_GETFD as usize, 0]);
        file::close(copy as Fd).or_fail("closing");
        flags.map(|flags| flags + copy)
    });
    show("a copy below nothing", fcntl(F_DUPFD, usize::MAX));
    show("append", fcntl(F_SETFL, O_APPEND as usize));
    show(
        "flags",
        fcntl(F_GETFL, 0).map(|flags| flags & (O_APPEND | O_ACCMODE) as usize),
    );
    show("a pipe's size of a file", fcntl(F_GETPIPE_SZ, 0));
    show("a wrong command", fcntl(9999, 0));
    show(
        "dup3 to itself",
        call(__NR_dup3, [fd as usize, fd as usize, 0]),
    );
    show(
        "dup3 to 50",
        call(__NR_dup3, [fd as usize, 50, O_CLOEXEC as usize]),
    );
    show("dup3 of nothing", call(__NR_dup3, [98, 50, 0]));
    show("close_range", call(__NR_close_range, [50, 60, 0]));
    show("it is closed", call(__NR_close, [50]));
    show("the wrong way round", call(__NR_close_range, [60, 50, 0]));
    let path = opened(c"f", O_PATH);
    let mut byte = [0];
    show("read a place", file::read(path, &mut byte));
    show(
        "its flags",
        call(__NR_fcntl, [path as usize, F_GETFL as usize, 0]).map(|flags| flags & O_PATH as usize),
    );
    show("stat it", Ok(status(path).st_size as usize));
    file::close(path).or_fail("closing");
    file::close(fd).or_fail("closing");
    unlink(c"f").or_fail("unlink");
    let pipe = file::pipe2(0).or_fail("pipe");
    show("seek a pipe", seek(pipe.reader, 0, SEEK_CUR));
    let size = |command: u32, argument: usize| {
        call(
            __NR_fcntl,
            [pipe.writer as usize, command as usize, argument],
        )
    };
    show("a pipe's size", size(F_GETPIPE_SZ, 0));
    show("another", size(F_SETPIPE_SZ, 5000));
    show("none", size(F_SETPIPE_SZ, 0));
    file::close(pipe.reader).or_fail("closing");
    file::close(pipe.writer).or_fail("closing");
}

/// `struct flock`: kind and whence, start, length, process.
fn record(kind: u32, start: u64, len: u64) -> [u64; 4] {
    [u64::from(kind), start, len, 0]
}

fn record_locks() {
    make(c"k", &[0; 100]);
    let fd = opened(c"k", O_RDWR);
    let lock = |command: u32, record: &mut [u64; 4]| {
        call(
            __NR_fcntl,
            [fd as usize, command as usize, record.as_mut_ptr() as usize],
        )
    };
    show("lock 10 to 20", lock(F_SETLK, &mut record(F_WRLCK, 10, 10)));
    show(
        "unlock 12 to 14",
        lock(F_SETLK, &mut record(F_UNLCK, 12, 2)),
    );
    show("what kind is 5", lock(F_SETLK, &mut record(5, 0, 0)));
    let child = process::fork_child(|| {
        show(
            "the child's 0 to 10",
            lock(F_SETLK, &mut record(F_RDLCK, 0, 10)),
        );
        show("its 12 to 14", lock(F_SETLK, &mut record(F_WRLCK, 12, 2)));
        show("its 13 to 15", lock(F_SETLK, &mut record(F_WRLCK, 13, 2)));
        let mut asked = record(F_RDLCK, 0, 0);
        show("who is in the way", lock(F_GETLK, &mut asked));
        println!("{} from {} for {}", asked[0] & 0xffff, asked[1], asked[2]);
        println!(
            "the parent: {}",
            asked[3] as u32 == process::getppid() as u32
        );
        show("the description's own", {
            let other = opened(c"k", O_RDWR);
            let mut wanted = record(F_WRLCK, 50, 10);
            let place = wanted.as_mut_ptr() as usize;
            call(__NR_fcntl, [other as usize, F_OFD_SETLK as usize, place])
        });
        0
    });
    process::expect_success(child.or_fail("fork"));
    let other = opened(c"k", O_RDONLY);
    file::close(other).or_fail("closing");
    let child = process::fork_child(|| {
        show("after any close", lock(F_SETLK, &mut record(F_WRLCK, 0, 0)));
        0
    });
    process::expect_success(child.or_fail("fork"));
    show("flock", call(__NR_flock, [fd as usize, LOCK_EX as usize]));
    let other = opened(c"k", O_RDONLY);
    let busy = (LOCK_SH | LOCK_NB) as usize;
    show("another's", call(__NR_flock, [other as usize, busy]));
    show("shared", call(__NR_flock, [fd as usize, LOCK_SH as usize]));
    show("another's", call(__NR_flock, [other as usize, busy]));
    show("nonsense", call(__NR_flock, [fd as usize, 0]));
    file::close(other).or_fail("closing");
    file::close(fd).or_fail("closing");
    unlink(c"k").or_fail("unlink");
}

fn fifos() {
    let mode = (S_IFIFO | 0o644) as usize;
    show("mkfifo", call(__NR_mknodat, [HERE, at(c"fifo"), mode, 0]));
    show("write for nobody", open(c"fifo", O_WRONLY | O_NONBLOCK));
    let reader = opened(c"fifo", O_RDONLY | O_NONBLOCK);
    let mut buffer = [0; 16];
    show("read without a writer", file::read(reader, &mut buffer));
    let writer = opened(c"fifo", O_WRONLY | O_NONBLOCK);
    show("read without data", file::read(reader, &mut buffer));
    show("write", file::write(writer, b"through"));
    show("read", file::read(reader, &mut buffer));
    file::close(writer).or_fail("closing");
    show("read at the end", file::read(reader, &mut buffer));
    file::close(reader).or_fail("closing");
    match process::fork().or_fail("fork") {
        Fork::Child => {
            let fd = opened(c"fifo", O_WRONLY);
            file::write_all(fd, b"met").or_fail("writing");
            process::exit(0);
        }
        Fork::Parent(child) => {
            let fd = opened(c"fifo", O_RDONLY);
            show("read from who came", file::read(fd, &mut buffer));
            process::expect_success(child);
            show("and then the end", file::read(fd, &mut buffer));
            file::close(fd).or_fail("closing");
        }
    }
    if unlink(c"fifo").is_err() {
        fail(format_args!("the fifo is gone: {}", Errno::ENOENT));
    }
}
