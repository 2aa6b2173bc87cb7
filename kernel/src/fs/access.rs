//! Who may do what with a file: the permission bits, as path_resolution(7) has them.

use super::node::{Attributes, Node};
use crate::process::credentials::Credentials;
use crate::process::thread;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use linux_raw_sys::general::{S_IFDIR, S_IFMT, S_ISVTX, W_OK, X_OK};

/// On whose behalf files are used. User 0 may do all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User (fsuid).
    pub uid: u32,
    /// Group (fsgid).
    pub gid: u32,
    /// Supplementary groups, in ascending order. Root needs none.
    groups: Vec<u32>,
}

impl Caller {
    /// Root.
    pub const ROOT: Caller = Caller {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };

    /// Whether permissions do not matter (CAP_DAC_OVERRIDE, CAP_FOWNER).
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the caller may change attributes of a file.
    pub fn owns(&self, attributes: &Attributes) -> bool {
        self.is_root() || self.uid == attributes.uid
    }

    /// Whether the caller is in a group.
    pub fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.binary_search(&group).is_ok()
    }
}

/// EACCES unless `caller` has all of `mask` (R_OK, W_OK, X_OK).
pub fn check(node: &Node, caller: &Caller, mask: u32) -> Result<(), Errno> {
    let attributes = node.attributes();
    let directory = attributes.mode & S_IFMT == S_IFDIR;
    if caller.is_root() {
        // Even root executes only what somebody may.
        let executes = mask & X_OK != 0 && !directory;
        return if executes && attributes.mode & 0o111 == 0 {
            Err(Errno::EACCES)
        } else {
            Ok(())
        };
    }
    let shift = if caller.uid == attributes.uid {
        6
    } else if caller.is_in(attributes.gid) {
        3
    } else {
        0
    };
    if attributes.mode >> shift & mask & 7 == mask & 7 {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// Whether `caller` may change the names in a directory: EACCES if not. With the sticky bit, only
/// names of the caller's own files, or in his own directory: EPERM.
pub fn check_names(directory: &Node, caller: &Caller, victim: Option<&Node>) -> Result<(), Errno> {
    check(directory, caller, W_OK | X_OK)?;
    let attributes = directory.attributes();
    match victim {
        Some(victim)
            if attributes.mode & S_ISVTX != 0
                && !caller.owns(&attributes)
                && !caller.owns(&victim.attributes()) =>
        {
            Err(Errno::EPERM)
        }
        _ => Ok(()),
    }
}

impl Caller {
    /// Who makes the current system call.
    pub fn current() -> Caller {
        let thread = thread::current();
        let credentials = thread.process.credentials.lock();
        Caller::new(credentials.uid.files, credentials.gid.files, &credentials)
    }

    /// The same, by the real ids.
    pub fn real() -> Caller {
        let thread = thread::current();
        let credentials = thread.process.credentials.lock();
        Caller::new(credentials.uid.real, credentials.gid.real, &credentials)
    }

    fn new(uid: u32, gid: u32, credentials: &Credentials) -> Caller {
        let mut groups = Vec::new();
        // Without memory for them, they give no rights.
        if uid != 0 && groups.try_reserve_exact(credentials.groups.len()).is_ok() {
            groups.extend_from_slice(&credentials.groups);
        }
        Caller { uid, gid, groups }
    }

    /// Whether the current system call is one of root's.
    pub fn is_current_root() -> bool {
        thread::current().process.credentials.lock().uid.files == 0
    }
}
