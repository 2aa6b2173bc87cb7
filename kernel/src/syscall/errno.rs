//! Linux's error codes.

use crate::arch::uaccess::Fault;
use core::num::NonZeroU64;

/// An error as a system call returns it: the negated value goes to x0.
///
/// As wide as what the calls return, so that a result is in two registers, not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(NonZeroU64);

macro_rules! codes {
    ($($name:ident)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno =
                Errno(NonZeroU64::new(linux_raw_sys::errno::$name as u64).unwrap());)*
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
    const FINAL: u64 = 1 << 12;
    /// EINTR, and the call is not made again whatever the handler's flags say.
    pub const EINTR_FINAL: Errno =
        Errno(NonZeroU64::new(Errno::EINTR.0.get() | Errno::FINAL).unwrap());

    /// The number that programs know.
    pub fn code(self) -> u16 {
        (self.0.get() & !Errno::FINAL) as u16
    }

    /// What a call that fails returns in x0.
    pub fn register(self) -> u64 {
        u64::from(self.code()).wrapping_neg()
    }
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Errno::EFAULT
    }
}
