//! Who a process is: user, group, and what that lets it do (credentials(7)).

use super::Process;
use crate::syscall::errno::Errno;
use alloc::vec::Vec;

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
