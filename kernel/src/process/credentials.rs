//! Who a process is: user, group, and what that lets it do (credentials(7)).

use super::Process;
use crate::fs::node::Attributes;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general::{S_ISGID, S_ISUID, S_IXGRP};

/// The user, or the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Whose process it is.
    pub real: u32,
    /// By whose rights it acts.
    pub effective: u32,
    /// Whose it may take back.
    pub saved: u32,
    /// By whose rights it uses files.
    pub files: u32,
}

impl Ids {
    /// Whether it is one of the three.
    pub fn has(&self, id: u32) -> bool {
        id == self.real || id == self.effective || id == self.saved
    }
}

/// The credentials of a process. The default is root.
#[derive(Debug, Default)]
pub struct Credentials {
    /// User.
    pub uid: Ids,
    /// Group.
    pub gid: Ids,
    /// Supplementary groups, in ascending order.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// A copy for a child.
    pub fn try_clone(&self) -> Result<Credentials, Errno> {
        let mut groups = Vec::new();
        groups
            .try_reserve_exact(self.groups.len())
            .map_err(|_| Errno::ENOMEM)?;
        groups.extend_from_slice(&self.groups);
        Ok(Credentials {
            uid: self.uid,
            gid: self.gid,
            groups,
        })
    }

    /// Whether it has all rights: there are no capabilities of their own.
    pub fn is_root(&self) -> bool {
        self.uid.effective == 0
    }
}

/// Who a process is once it runs another program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rights {
    /// User.
    pub uid: Ids,
    /// Group.
    pub gid: Ids,
    /// The program gives it rights (AT_SECURE).
    pub gained: bool,
}

impl Rights {
    /// By a program of this mode and this owner: the set-user-id and set-group-id bits, unless the
    /// process may not gain rights.
    pub fn by_exec(process: &Process, program: &Attributes) -> Rights {
        let (mut uid, mut gid) = {
            let credentials = process.credentials.lock();
            (credentials.uid, credentials.gid)
        };
        if !process.no_new_rights.load(Relaxed) {
            if program.mode & S_ISUID != 0 {
                uid.effective = program.uid;
            }
            if program.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
                gid.effective = program.gid;
            }
        }
        for ids in [&mut uid, &mut gid] {
            (ids.saved, ids.files) = (ids.effective, ids.effective);
        }
        Rights {
            uid,
            gid,
            gained: uid.real != uid.effective || gid.real != gid.effective,
        }
    }

    /// Gives them to the process.
    pub fn give(&self, process: &Process) {
        let mut credentials = process.credentials.lock();
        (credentials.uid, credentials.gid) = (self.uid, self.gid);
        process.dumpable.store(u32::from(!self.gained), Relaxed);
    }
}

/// Whether `from` may send signals to `to` (kill(2)).
pub fn may_signal(from: &Process, to: &Process) -> bool {
    if from.pid == to.pid {
        return true;
    }
    let sender = from.credentials.lock().uid;
    let target = to.credentials.lock().uid;
    sender.effective == 0
        || [sender.real, sender.effective]
            .iter()
            .any(|&id| id == target.real || id == target.saved)
}
