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
    E2BIG EACCES EAGAIN EBADF EBUSY ECHILD EDOM EEXIST EFAULT EFBIG EINTR EINVAL EISDIR ELOOP EMFILE
    ENAMETOOLONG ENODATA ENODEV ENOENT ENOEXEC ENOLCK ENOMEM ENOSPC ENOSYS ENOTDIR ENOTEMPTY ENOTTY
    ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE ERANGE ESPIPE ESRCH ETXTBSY EXDEV
    EIO ELIBBAD ETIMEDOUT
    EADDRINUSE EAFNOSUPPORT ECONNREFUSED ECONNRESET EISCONN EMSGSIZE ENOBUFS ENOPROTOOPT ENOTCONN
    ENOTSOCK EPROTONOSUPPORT EPROTOTYPE ESOCKTNOSUPPORT
}

impl Errno {
    /// Above what Linux knows.
    const FINAL: u16 = 1 << 12;
    /// EINTR, and the call is not made again whatever the handler's flags say.
    pub const EINTR_FINAL: Errno = Errno(Errno::EINTR.0 | Errno::FINAL);

    /// The number that programs know.
    #[inline]
    pub fn code(self) -> u16 {
        self.0 & !Errno::FINAL
    }
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Errno::EFAULT
    }
}
