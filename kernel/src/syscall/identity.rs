//! System calls on users and groups (credentials(7)). There are no capabilities: root has all.

use super::errno::Errno;
use super::{Result, user};
use crate::process::credentials::{Credentials, Ids};
use crate::process::thread::current;
use alloc::vec::Vec;

/// The argument that leaves an id as it is.
const KEEP: u32 = u32::MAX;
/// NGROUPS_MAX.
const GROUPS_MAX: u64 = 65536;

/// Which of the two kinds of ids.
#[derive(Clone, Copy)]
pub enum Kind {
    /// The user.
    User,
    /// The group.
    Group,
}

fn ids(credentials: &mut Credentials, kind: Kind) -> &mut Ids {
    match kind {
        Kind::User => &mut credentials.uid,
        Kind::Group => &mut credentials.gid,
    }
}

/// getuid(), getgid().
pub fn real(kind: Kind) -> Result {
    let thread = current();
    let mut credentials = thread.process.credentials.lock();
    Ok(ids(&mut credentials, kind).real.into())
}

/// geteuid(), getegid().
pub fn effective(kind: Kind) -> Result {
    let thread = current();
    let mut credentials = thread.process.credentials.lock();
    Ok(ids(&mut credentials, kind).effective.into())
}

/// Changes ids: `f` gets them and whether the caller is root. What files are used by follows.
fn change(kind: Kind, f: impl FnOnce(&mut Ids, bool) -> core::result::Result<(), Errno>) -> Result {
    let thread = current();
    let mut credentials = thread.process.credentials.lock();
    let root = credentials.is_root();
    let ids = ids(&mut credentials, kind);
    let mut new = *ids;
    f(&mut new, root)?;
    new.files = new.effective;
    *ids = new;
    Ok(0)
}

/// setuid(id), setgid(id): all three for root, else the effective one.
pub fn set(kind: Kind, id: u32) -> Result {
    if id == KEEP {
        return Err(Errno::EINVAL);
    }
    change(kind, |ids, root| {
        if root {
            (ids.real, ids.saved) = (id, id);
        } else if id != ids.real && id != ids.saved {
            return Err(Errno::EPERM);
        }
        ids.effective = id;
        Ok(())
    })
}

/// setreuid(real, effective), setregid.
pub fn set_two(kind: Kind, real: u32, effective: u32) -> Result {
    change(kind, |ids, root| {
        let before = *ids;
        if real != KEEP {
            if !root && real != before.real && real != before.effective {
                return Err(Errno::EPERM);
            }
            ids.real = real;
        }
        if effective != KEEP {
            if !root && !before.has(effective) {
                return Err(Errno::EPERM);
            }
            ids.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != before.real) {
            ids.saved = ids.effective;
        }
        Ok(())
    })
}

/// setresuid(real, effective, saved), setresgid.
pub fn set_three(kind: Kind, real: u32, effective: u32, saved: u32) -> Result {
    change(kind, |ids, root| {
        let before = *ids;
        for (id, slot) in [
            (real, &mut ids.real),
            (effective, &mut ids.effective),
            (saved, &mut ids.saved),
        ] {
            if id == KEEP {
                continue;
            }
            if !root && !before.has(id) {
                return Err(Errno::EPERM);
            }
            *slot = id;
        }
        Ok(())
    })
}

/// getresuid(real, effective, saved), getresgid.
pub fn get_three(kind: Kind, addrs: [u64; 3]) -> Result {
    let found = *ids(&mut current().process.credentials.lock(), kind);
    let values = [found.real, found.effective, found.saved];
    for (addr, value) in addrs.into_iter().zip(values) {
        user::write(addr, &value)?;
    }
    Ok(0)
}

/// setfsuid(id), setfsgid: returns the one before, whatever happens.
pub fn set_files(kind: Kind, id: u32) -> Result {
    let thread = current();
    let mut credentials = thread.process.credentials.lock();
    let root = credentials.is_root();
    let ids = ids(&mut credentials, kind);
    let before = ids.files;
    if id != KEEP && (root || ids.has(id) || id == before) {
        ids.files = id;
    }
    Ok(before.into())
}

/// getgroups(count, groups).
pub fn getgroups(count: u32, addr: u64) -> Result {
    if (count as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let thread = current();
    let mut groups = Vec::new();
    {
        let credentials = thread.process.credentials.lock();
        let len = credentials.groups.len();
        if count != 0 && len > count as usize {
            return Err(Errno::EINVAL);
        }
        if count == 0 {
            return Ok(len as u64);
        }
        groups.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        groups.extend_from_slice(&credentials.groups);
    }
    for (n, group) in groups.iter().enumerate() {
        user::write(addr.wrapping_add(4 * n as u64), group)?;
    }
    Ok(groups.len() as u64)
}

/// setgroups(count, groups).
pub fn setgroups(count: u64, addr: u64) -> Result {
    let process = &current().process;
    if !process.credentials.lock().is_root() {
        return Err(Errno::EPERM);
    }
    if count > GROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut groups = Vec::new();
    groups
        .try_reserve_exact(count as usize)
        .map_err(|_| Errno::ENOMEM)?;
    for n in 0..count {
        groups.push(user::read::<u32>(addr.wrapping_add(4 * n))?);
    }
    groups.sort_unstable();
    let before = core::mem::replace(&mut process.credentials.lock().groups, groups);
    drop(before);
    Ok(0)
}
