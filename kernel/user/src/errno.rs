//! Linux's error numbers, with names.

use core::fmt;
use linux_raw_sys::errno;

/// Why a system call failed: one of Linux's error numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u32);

/// The result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! names {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("Linux's ", stringify!($name), ".")] pub const $name: Errno = Errno(errno::$name);)*

            /// The symbolic name, if it is one that the programs meet.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(errno::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    EPERM ENOENT ESRCH EINTR EIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY EFBIG ENOSPC ESPIPE EROFS EPIPE ERANGE
    ENAMETOOLONG ENOSYS ELOOP EOVERFLOW EOPNOTSUPP EDEADLK ENODATA ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
    ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EAFNOSUPPORT EADDRINUSE ECONNRESET EISCONN ENOTCONN
    ECONNREFUSED
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
