//! The directory that all works in.

use super::invoke;
use core::ffi::CStr;
use user::OrFail;
use user::file::{self, Fd};
use user::linux::*;

/// Where it is: the first thing in /tmp, which is emptied as a whole.
const FOLDER: &CStr = c"/tmp/fuzz";
const ALL: &CStr = c"/tmp";
const HERE: usize = AT_FDCWD as usize;
/// Bytes of a `struct linux_dirent64` before the name.
const HEADER: usize = 19;

fn at(path: &CStr) -> usize {
    path.as_ptr() as usize
}

/// Makes it, and works in it: for everybody, with something in it.
pub fn make_folder() {
    invoke(__NR_umask, [0]).or_fail("umask");
    invoke(__NR_mkdirat, [HERE, at(FOLDER), 0o777]).or_fail("mkdir");
    invoke(__NR_chdir, [at(FOLDER)]).or_fail("chdir");
    invoke(__NR_mkdirat, [HERE, at(c"folder"), 0o777]).or_fail("mkdir");
    invoke(__NR_mknodat, [HERE, at(c"fifo"), 0o10_666]).or_fail("mkfifo");
    invoke(__NR_symlinkat, [at(c"file"), HERE, at(c"link")]).or_fail("symlink");
    for name in [c"file", c"other"] {
        let flags = (O_CREAT | O_RDWR) as usize;
        let fd = invoke(__NR_openat, [HERE, at(name), flags, 0o666]).or_fail("open") as Fd;
        for _ in 0..20 {
            file::write_all(fd, &[b'.'; 997]).or_fail("write");
        }
        file::close(fd).or_fail("close");
    }
}

/// Empties /tmp.
pub fn remove_folder() {
    invoke(__NR_chdir, [at(c"/")]).or_fail("chdir");
    let fd = file::open(ALL, O_RDONLY | O_DIRECTORY).or_fail("open");
    empty(fd);
    file::close(fd).or_fail("close");
}

/// Removes all that is in a directory. There is no telling what: names may be anything.
fn empty(directory: Fd) {
    let mut entries = [0u8; 1024];
    loop {
        invoke(__NR_lseek, [directory as usize, 0, 0]).or_fail("lseek");
        let to = entries.as_mut_ptr() as usize;
        let size = entries.len();
        let used = invoke(__NR_getdents64, [directory as usize, to, size]).or_fail("getdents64");
        let mut removed = 0;
        let mut rest = &entries[..used];
        while rest.len() > HEADER {
            let len = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            let (entry, others) = rest.split_at(len);
            rest = others;
            let name = CStr::from_bytes_until_nul(&entry[HEADER..]).unwrap_or(c".");
            if name != c"." && name != c".." {
                remove(directory, name);
                removed += 1;
            }
        }
        if removed == 0 {
            return;
        }
    }
}

fn remove(directory: Fd, name: &CStr) {
    let unlink = |flags: u32| {
        invoke(
            __NR_unlinkat,
            [directory as usize, at(name), flags as usize],
        )
    };
    if unlink(0).is_ok() {
        return;
    }
    let flags = (O_RDONLY | O_DIRECTORY | O_NOFOLLOW) as usize;
    let inner = invoke(__NR_openat, [directory as usize, at(name), flags, 0]);
    let inner = inner.or_fail("opening what cannot be removed") as Fd;
    empty(inner);
    file::close(inner).or_fail("close");
    unlink(AT_REMOVEDIR).or_fail("rmdir");
}
