//! Changes of the tree: making, linking, removing and renaming.

use super::access::{self, Caller};
use super::node::{Content, Node};
use super::tree::{self, Directory, Entry, Last, Walk};
use crate::syscall::errno::Errno;
use alloc::sync::Arc;
use linux_raw_sys::general::{RENAME_EXCHANGE, RENAME_NOREPLACE};
use memory::Lock;

/// The entries of a directory that can be changed.
fn directory(node: &Node) -> Result<&Lock<Directory>, Errno> {
    match &node.content {
        Content::Directory(directory) => Ok(directory),
        // /proc takes no names.
        Content::Proc(_) => Err(Errno::EPERM),
        _ => Err(Errno::ENOTDIR),
    }
}

/// A directory that names can be put into: it is locked with the tree, and has room for one.
fn prepare(parent: &Arc<Entry>, caller: &Caller) -> Result<(), Errno> {
    access::check_names(&parent.node, caller, None)?;
    if !parent.is_linked() {
        return Err(Errno::ENOENT);
    }
    directory(&parent.node)?.lock().reserve()
}

fn one_more(parent: &Node, child: &Node) {
    child.change(|attributes| attributes.links += 1);
    if child.is_directory() {
        child.change(|attributes| attributes.links += 1);
        parent.change(|attributes| attributes.links += 1);
    }
}

fn one_less(parent: &Node, child: &Node) {
    let links = child.change(|attributes| {
        attributes.links = attributes.links.saturating_sub(1);
        attributes.changed = super::node::Time::now();
        attributes.links
    });
    if child.is_directory() {
        child.change(|attributes| attributes.links = 0);
        parent.change(|attributes| attributes.links -= 1);
    } else if links == 0
        && let Content::Regular(file) = &child.content
    {
        file.set_deleted();
    }
}

/// Gives a new file its first name. EEXIST if the name is taken.
pub fn create(at: &Walk, caller: &Caller, node: Arc<Node>) -> Result<Arc<Entry>, Errno> {
    if at.last != Last::Name || at.entry.is_some() {
        return Err(Errno::EEXIST);
    }
    if at.slash && !node.is_directory() {
        return Err(Errno::ENOENT);
    }
    add(at, caller, node)
}

fn add(at: &Walk, caller: &Caller, node: Arc<Node>) -> Result<Arc<Entry>, Errno> {
    let parent = &at.parent;
    let entry = Entry::new(node, Some(parent.clone()), &[])?;
    let name = tree::copy(&at.name)?;
    let _tree = tree::lock();
    if parent.child(&name)?.is_some() {
        return Err(Errno::EEXIST);
    }
    prepare(parent, caller)?;
    one_more(&parent.node, &entry.node);
    entry.attach(parent, name);
    parent.node.touch_modified();
    Ok(entry)
}

/// Gives a file one more name.
pub fn link(node: &Arc<Node>, at: &Walk, caller: &Caller, unnamed: bool) -> Result<(), Errno> {
    if at.last != Last::Name || at.entry.is_some() {
        return Err(Errno::EEXIST);
    }
    if at.slash {
        return Err(Errno::ENOENT);
    }
    if node.device != at.parent.node.device {
        return Err(Errno::EXDEV);
    }
    if node.is_directory() {
        return Err(Errno::EPERM);
    }
    if node.attributes().links == 0 && !unnamed {
        return Err(Errno::ENOENT);
    }
    add(at, caller, node.clone())?;
    node.change(|attributes| attributes.changed = super::node::Time::now());
    Ok(())
}

/// Removes a name: of a directory if `rmdir`, else of anything but a directory.
pub fn unlink(at: &Walk, caller: &Caller, rmdir: bool) -> Result<(), Errno> {
    match at.last {
        Last::Dot if rmdir && !at.is_root() => return Err(Errno::EINVAL),
        Last::Dot if rmdir => return Err(Errno::EBUSY),
        Last::DotDot if rmdir => return Err(Errno::ENOTEMPTY),
        Last::Dot | Last::DotDot => return Err(Errno::EISDIR),
        Last::Name => {}
    }
    let gone = {
        let _tree = tree::lock();
        let parent = &at.parent;
        let entry = parent.child(&at.name)?.ok_or(Errno::ENOENT)?;
        let node = &entry.node;
        if at.slash && !rmdir {
            return Err(if node.is_directory() {
                Errno::EISDIR
            } else {
                Errno::ENOTDIR
            });
        }
        access::check_names(&parent.node, caller, Some(node))?;
        match (rmdir, node.is_directory()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ => {}
        }
        directory(&parent.node)?;
        if rmdir {
            check_empty(node)?;
        }
        entry.detach();
        one_less(&parent.node, node);
        parent.node.touch_modified();
        entry
    };
    // The last reference may take the contents with it.
    drop(gone);
    Ok(())
}

fn check_empty(node: &Node) -> Result<(), Errno> {
    match &node.content {
        Content::Directory(directory) if directory.lock().is_empty() => Ok(()),
        Content::Directory(_) => Err(Errno::ENOTEMPTY),
        // Something is mounted there.
        _ => Err(Errno::EBUSY),
    }
}

/// Gives what is at `from` the name `to`, in place of what had it.
pub fn rename(from: &Walk, to: &Walk, caller: &Caller, flags: u32) -> Result<(), Errno> {
    if from.parent.node.device != to.parent.node.device {
        return Err(Errno::EXDEV);
    }
    if from.last != Last::Name {
        return Err(Errno::EBUSY);
    }
    if to.last != Last::Name {
        return Err(if flags & RENAME_NOREPLACE != 0 {
            Errno::EEXIST
        } else {
            Errno::EBUSY
        });
    }
    let exchange = flags & RENAME_EXCHANGE != 0;
    let new_name = tree::copy(&to.name)?;
    let old_name = tree::copy(&from.name)?;
    let gone = {
        let _tree = tree::lock();
        let old = from.parent.child(&from.name)?.ok_or(Errno::ENOENT)?;
        let new = to.parent.child(&to.name)?;
        if new.is_some() && flags & RENAME_NOREPLACE != 0 {
            return Err(Errno::EEXIST);
        }
        if new.is_none() && exchange {
            return Err(Errno::ENOENT);
        }
        let is_directory = old.node.is_directory();
        // A slash at the end asks for a directory.
        if !is_directory && (from.slash || !exchange && to.slash) {
            return Err(Errno::ENOTDIR);
        }
        if exchange && to.slash && new.as_ref().is_some_and(|new| !new.node.is_directory()) {
            return Err(Errno::ENOTDIR);
        }
        if old.holds(&to.parent) {
            return Err(Errno::EINVAL);
        }
        if let Some(new) = &new
            && new.holds(&from.parent)
        {
            return Err(if exchange {
                Errno::EINVAL
            } else {
                Errno::ENOTEMPTY
            });
        }
        for entry in [Some(&old), new.as_ref()].into_iter().flatten() {
            if entry.node.device != from.parent.node.device {
                return Err(Errno::EBUSY);
            }
        }
        if new
            .as_ref()
            .is_some_and(|new| Arc::ptr_eq(&new.node, &old.node))
        {
            return Ok(());
        }
        let victim = new.as_ref().map(|new| &*new.node);
        access::check_names(&from.parent.node, caller, Some(&old.node))?;
        access::check_names(&to.parent.node, caller, victim)?;
        if let Some(new) = victim
            && !exchange
        {
            match (is_directory, new.is_directory()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) => check_empty(new)?,
                _ => {}
            }
        }
        prepare(&to.parent, caller)?;
        if exchange {
            prepare(&from.parent, caller)?;
        }
        let (from_node, to_node) = (&from.parent.node, &to.parent.node);
        let moves = |child: &Arc<Entry>, from: &Node, to: &Node| {
            if child.node.is_directory() {
                from.change(|attributes| attributes.links -= 1);
                to.change(|attributes| attributes.links += 1);
            }
            child.node.change(|attributes| {
                attributes.changed = super::node::Time::now();
            });
        };
        old.detach();
        moves(&old, from_node, to_node);
        if let Some(new) = &new {
            new.detach();
            if exchange {
                moves(new, to_node, from_node);
                new.attach(&from.parent, old_name);
            } else {
                one_less(to_node, &new.node);
            }
        }
        old.attach(&to.parent, new_name);
        from_node.touch_modified();
        to_node.touch_modified();
        (old, new)
    };
    drop(gone);
    Ok(())
}
