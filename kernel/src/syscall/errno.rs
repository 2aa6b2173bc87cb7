//! Linux's error codes.

use crate::arch::uaccess::Fault;

/// An error as a system call returns it: the negated value goes to x0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

macro_rules! codes {
    ($($name:ident)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno(linux_raw_sys::errno::$name as u16);)*
        }
    };
}

codes! {
    E2BIG EACCES EAGAIN EBADF EBUSY ECHILD EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE
    ENAMETOOLONG ENODATA ENODEV ENOENT ENOEXEC ENOLCK ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENOTTY
    ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE ERANGE ESPIPE ESRCH ETXTBSY EXDEV
    EIO ELIBBAD ETIMEDOUT
    EADDRINUSE EAFNOSUPPORT ECONNREFUSED ECONNRESET EISCONN EMSGSIZE ENOBUFS ENOPROTOOPT ENOTCONN
    ENOTSOCK EPROTONOSUPPORT EPROTOTYPE ESOCKTNOSUPPORT
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Errno::EFAULT
    }
}
