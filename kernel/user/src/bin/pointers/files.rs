//! Calls on files.

use super::{HERE, hooks};
use crate::kinds::*;
use user::ioctl;
use user::linux::*;

const FILE_NAME: Memory = Text("file\0");
const NEW_NAME: Memory = Text("new\0");
const BUFFER: &[u8] = &[b'y'; NESTED];
const LOCK: &[u64] = &[0, 0, 1, 0];

/// How much room there is, in 32 bits.
const LENGTH: Memory = Memory::Room;
/// An address that nobody has.
const NOBODY: &[u8] = b"\x01\0\0pointers";
/// A message of one byte, and one that is to be received: both without a vector.
const MESSAGE: &[u64] = &[0; 7];

/// All of them.
pub const CALLS: &[Call] = &[
    plain("socket"),
    plain("listen"),
    plain("shutdown"),
    call("socketpair", __NR_socketpair, [1, 1, 0], &[at(3, Space(8))]),
    call("bind", __NR_bind, [0, 0, 2], &[at(1, Bytes(b"\x01\0"))]).before(hooks::socket),
    call("connect", __NR_connect, [0, 0, 11], &[at(1, Bytes(NOBODY))]).before(hooks::socket),
    // What comes back is a peer without a name: two bytes.
    call(
        "getsockname",
        __NR_getsockname,
        [ONE],
        &[at(1, Space(2)), at(2, LENGTH)],
    ),
    call(
        "getpeername",
        __NR_getpeername,
        [ONE],
        &[at(1, Space(2)), at(2, LENGTH)],
    ),
    call(
        "accept",
        __NR_accept,
        [LISTENER],
        &[at(1, Space(2)).optional(), at(2, LENGTH)],
    )
    .before(hooks::somebody_connects)
    .after(hooks::closed),
    call(
        "accept4",
        __NR_accept4,
        [LISTENER],
        &[at(1, Space(2)).optional(), at(2, LENGTH)],
    )
    .before(hooks::somebody_connects)
    .after(hooks::closed),
    call(
        "sendto",
        __NR_sendto,
        [ONE, 0, ROOM],
        &[at(1, Bytes(BUFFER))],
    )
    .after(hooks::received),
    call(
        "recvfrom",
        __NR_recvfrom,
        [OTHER_END, 0, ROOM],
        &[at(1, Space(ROOM)), at(4, Untouched), at(5, LENGTH)],
    )
    .before(hooks::sent),
    call("sendmsg", __NR_sendmsg, [ONE], &[at(1, Words(MESSAGE))]).after(hooks::received),
    call(
        "recvmsg",
        __NR_recvmsg,
        [OTHER_END],
        &[at(1, Exchange(MESSAGE))],
    )
    .before(hooks::sent),
    call(
        "setsockopt",
        __NR_setsockopt,
        [ONE, 1, 16, 0, 4],
        &[at(3, Bytes(ONES))],
    ),
    call(
        "getsockopt",
        __NR_getsockopt,
        [ONE, 1, 3],
        &[at(3, Space(4)), at(4, LENGTH)],
    ),
    call(
        "read",
        __NR_read,
        [ZERO, 0, ROOM],
        &[at(1, Space(ROOM)).but(PART)],
    )
    .of("device "),
    call("read", __NR_read, [READER, 0, ROOM], &[at(1, Space(ROOM))])
        .of("pipe ")
        .before(hooks::bytes_in_the_pipe),
    call(
        "read",
        __NR_read,
        [FILE, 0, ROOM],
        &[at(1, Space(ROOM)).but(PART)],
    )
    .before(hooks::from_the_start),
    call("read", __NR_read, [EVENT, 0, 8], &[at(1, Space(8))])
        .of("eventfd ")
        .before(hooks::counted),
    // Nothing looks at it, but whether it is the user's.
    call(
        "write",
        __NR_write,
        [NULL, 0, ROOM],
        &[at(1, Bytes(BUFFER)).but(&[(Null, Same), (Unmapped, Same), (Straddle, Same)])],
    )
    .of("device "),
    call(
        "write",
        __NR_write,
        [WRITER, 0, ROOM],
        &[at(1, Bytes(BUFFER))],
    )
    .of("pipe ")
    .before(hooks::room_in_the_pipe),
    call(
        "write",
        __NR_write,
        [FILE, 0, ROOM],
        &[at(1, Bytes(BUFFER)).but(PART)],
    )
    .before(hooks::from_the_start),
    call("write", __NR_write, [EVENT, 0, 8], &[at(1, Words(&[1]))]).of("eventfd "),
    call(
        "readv",
        __NR_readv,
        [FILE, 0, 1],
        &[at(1, Vector), at(1, Sink).but(PART)],
    )
    .before(hooks::from_the_start),
    call(
        "writev",
        __NR_writev,
        [FILE, 0, 1],
        &[at(1, Vector), at(1, Source).but(PART)],
    )
    .before(hooks::from_the_start),
    call(
        "pread64",
        __NR_pread64,
        [FILE, 0, ROOM, 8],
        &[at(1, Space(ROOM)).but(PART)],
    ),
    call(
        "pwrite64",
        __NR_pwrite64,
        [FILE, 0, ROOM, 8],
        &[at(1, Bytes(BUFFER)).but(PART)],
    ),
    call(
        "preadv",
        __NR_preadv,
        [FILE, 0, 1, 8],
        &[at(1, Vector), at(1, Sink).but(PART)],
    ),
    call(
        "pwritev",
        __NR_pwritev,
        [FILE, 0, 1, 8],
        &[at(1, Vector), at(1, Source).but(PART)],
    ),
    call(
        "preadv2",
        __NR_preadv2,
        [FILE, 0, 1, 8],
        &[at(1, Vector), at(1, Sink).but(PART)],
    ),
    call(
        "pwritev2",
        __NR_pwritev2,
        [FILE, 0, 1, 8],
        &[at(1, Vector), at(1, Source).but(PART)],
    ),
    call(
        "sendfile",
        __NR_sendfile,
        [NULL, FILE, 0, 8],
        &[at(2, Exchange(&[8])).optional()],
    )
    .before(hooks::from_the_start),
    call(
        "copy_file_range",
        __NR_copy_file_range,
        [FILE, 0, OTHER, 0, 8],
        &[
            at(1, Exchange(&[8])).optional(),
            at(3, Exchange(&[8])).optional(),
        ],
    )
    .before(hooks::from_the_start),
    call(
        "splice",
        __NR_splice,
        [FILE, 0, WRITER, 0, 8],
        &[at(1, Exchange(&[8])).optional()],
    )
    .of("in ")
    .before(hooks::room_in_the_pipe),
    call(
        "splice",
        __NR_splice,
        [READER, 0, OTHER, 0, 8],
        &[at(3, Exchange(&[8])).optional()],
    )
    .of("out ")
    .before(hooks::bytes_in_the_pipe),
    plain("tee"),
    call(
        "vmsplice",
        __NR_vmsplice,
        [WRITER, 0, 1],
        &[at(1, Vector), at(1, Source)],
    )
    .before(hooks::room_in_the_pipe),
    call(
        "ppoll",
        __NR_ppoll,
        [0, 1, 0, 0, 8],
        &[
            at(0, Exchange(&[EVENT as u64 | 1 << 32])),
            at(2, Words(NOTHING)).optional(),
            at(3, Words(&[0])).optional(),
        ],
    ),
    call(
        "pselect6",
        __NR_pselect6,
        [EVENT + 1],
        &[
            at(1, Exchange(&[1 << EVENT])).optional(),
            at(2, Exchange(&[1 << EVENT])).optional(),
            at(3, Exchange(&[1 << EVENT])).optional(),
            at(4, Words(NOTHING)).optional(),
            at(5, Words(NOTHING)).optional(),
        ],
    ),
    call(
        "epoll_ctl",
        __NR_epoll_ctl,
        [EPOLL, EPOLL_CTL_ADD as usize, READER],
        &[at(3, Words(SECOND))],
    )
    .before(hooks::not_watched),
    call(
        "epoll_pwait",
        __NR_epoll_pwait,
        [EPOLL, 0, 1, 0, 0, 8],
        &[at(1, Space(16)), at(4, Words(&[0])).optional()],
    ),
    call(
        "epoll_pwait2",
        __NR_epoll_pwait2,
        [EPOLL, 0, 1, 0, 0, 8],
        &[
            at(1, Space(16)),
            at(3, Words(NOTHING)).optional(),
            at(4, Words(&[0])).optional(),
        ],
    ),
    call(
        "timerfd_settime",
        __NR_timerfd_settime,
        [TIMER],
        &[at(2, Words(&[0; 4])), at(3, Space(32)).optional()],
    ),
    call(
        "timerfd_gettime",
        __NR_timerfd_gettime,
        [TIMER],
        &[at(1, Space(32))],
    ),
    call(
        "signalfd4",
        __NR_signalfd4,
        [usize::MAX, 0, 8],
        &[at(1, Words(&[1]))],
    )
    .after(hooks::closed),
    call("openat", __NR_openat, [HERE], &[at(1, FILE_NAME)]).after(hooks::closed),
    call("pipe2", __NR_pipe2, [], &[at(0, Space(8))]),
    call(
        "fcntl",
        __NR_fcntl,
        [FILE, F_GETLK as usize],
        &[at(2, Exchange(LOCK))],
    )
    .of("ask "),
    call(
        "fcntl",
        __NR_fcntl,
        [FILE, F_SETLK as usize],
        &[at(2, Words(LOCK))],
    )
    .of("lock "),
    call(
        "fcntl",
        __NR_fcntl,
        [FILE, F_OFD_SETLK as usize],
        &[at(2, Words(LOCK))],
    )
    .of("own "),
    call(
        "ioctl",
        __NR_ioctl,
        [EVENT, ioctl::FIONBIO as usize],
        &[at(2, Bytes(ONES))],
    )
    .of("FIONBIO "),
    call(
        "ioctl",
        __NR_ioctl,
        [READER, ioctl::FIONREAD as usize],
        &[at(2, Space(4))],
    )
    .of("FIONREAD "),
    call("fstat", __NR_fstat, [FILE], &[at(1, Space(128))]),
    call(
        "newfstatat",
        __NR_newfstatat,
        [HERE],
        &[at(1, FILE_NAME), at(2, Space(128))],
    ),
    call(
        "statx",
        __NR_statx,
        [HERE, 0, 0, STATX_BASIC_STATS as usize],
        &[at(1, FILE_NAME), at(4, Space(256))],
    ),
    call(
        "statfs",
        __NR_statfs,
        [],
        &[at(0, FILE_NAME), at(1, Space(120))],
    ),
    call("fstatfs", __NR_fstatfs, [FILE], &[at(1, Space(120))]),
    call("faccessat", __NR_faccessat, [HERE], &[at(1, FILE_NAME)]),
    call("faccessat2", __NR_faccessat2, [HERE], &[at(1, FILE_NAME)]),
    call(
        "getxattr",
        __NR_getxattr,
        [0, 0, 0, 8],
        &[
            at(0, FILE_NAME),
            at(1, Text("user.name\0")),
            at(2, Untouched),
        ],
    ),
    call(
        "lgetxattr",
        __NR_lgetxattr,
        [0, 0, 0, 8],
        &[
            at(0, FILE_NAME),
            at(1, Text("user.name\0")),
            at(2, Untouched),
        ],
    ),
    call(
        "fgetxattr",
        __NR_fgetxattr,
        [FILE, 0, 0, 8],
        &[at(1, Text("user.name\0")), at(2, Untouched)],
    ),
    call(
        "listxattr",
        __NR_listxattr,
        [0, 0, 8],
        &[at(0, FILE_NAME), at(1, Untouched)],
    ),
    call(
        "llistxattr",
        __NR_llistxattr,
        [0, 0, 8],
        &[at(0, FILE_NAME), at(1, Untouched)],
    ),
    call(
        "mkdirat",
        __NR_mkdirat,
        [HERE, 0, 0o755],
        &[at(1, NEW_NAME)],
    )
    .before(hooks::no_new_name)
    .after(hooks::removed),
    call(
        "mknodat",
        __NR_mknodat,
        [HERE, 0, 0o10_0644],
        &[at(1, NEW_NAME)],
    )
    .before(hooks::no_new_name)
    .after(hooks::removed),
    call(
        "symlinkat",
        __NR_symlinkat,
        [0, HERE],
        &[at(0, FILE_NAME), at(2, NEW_NAME)],
    )
    .before(hooks::no_new_name)
    .after(hooks::removed),
    call(
        "linkat",
        __NR_linkat,
        [HERE, 0, HERE],
        &[at(1, FILE_NAME), at(3, NEW_NAME)],
    )
    .before(hooks::no_new_name)
    .after(hooks::removed),
    call("unlinkat", __NR_unlinkat, [HERE], &[at(1, NEW_NAME)])
        .before(hooks::new_name)
        .after(hooks::removed),
    call(
        "renameat",
        __NR_renameat,
        [HERE, 0, HERE],
        &[at(1, NEW_NAME), at(3, Text("moved\0"))],
    )
    .before(hooks::new_name)
    .after(hooks::removed),
    call(
        "renameat2",
        __NR_renameat2,
        [HERE, 0, HERE],
        &[at(1, NEW_NAME), at(3, Text("moved\0"))],
    )
    .before(hooks::new_name)
    .after(hooks::removed),
    call(
        "readlinkat",
        __NR_readlinkat,
        [HERE, 0, 0, ROOM],
        // As long as the target.
        &[at(1, Text("link\0")), at(2, Space(6))],
    ),
    call(
        "fchmodat",
        __NR_fchmodat,
        [HERE, 0, 0o644],
        &[at(1, FILE_NAME)],
    ),
    call(
        "fchmodat2",
        __NR_fchmodat2,
        [HERE, 0, 0o644],
        &[at(1, FILE_NAME)],
    ),
    call(
        "fchownat",
        __NR_fchownat,
        [HERE, 0, usize::MAX, usize::MAX],
        &[at(1, FILE_NAME)],
    ),
    call(
        "utimensat",
        __NR_utimensat,
        [HERE],
        &[at(1, FILE_NAME), at(2, Words(&[0; 4])).optional()],
    ),
    call("truncate", __NR_truncate, [0, 64], &[at(0, FILE_NAME)]),
    // The first two bytes of it: no path is shorter.
    call("getcwd", __NR_getcwd, [0, 100], &[at(0, Space(2))]),
    call("chdir", __NR_chdir, [], &[at(0, Text(".\0"))]),
    call("chroot", __NR_chroot, [], &[at(0, Text("/\0"))]),
    // The first entry, ".".
    call(
        "getdents64",
        __NR_getdents64,
        [DIRECTORY, 0, 24],
        &[at(1, Space(24))],
    )
    .before(hooks::from_the_start),
];
