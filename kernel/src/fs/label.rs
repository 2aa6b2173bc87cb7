//! The names of files in the trace: of those that were mapped or executed.

use super::node::Content;
use super::tree::{self, Entry};
use crate::arch::heap;
use crate::syscall::errno::Errno;
use crate::trace::{self, meta::Meta};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::AtomicBool;
use memory::{Lock, Rank};

/// What a file that is mapped is called. The list has them all, so that no other holder (the
/// trace, with its locks) drops the last reference.
pub struct Label {
    /// Its number.
    pub id: u32,
    /// Its path when it was first mapped.
    pub path: Vec<u8>,
    /// The build id, if it was a program with one.
    pub build_id: Vec<u8>,
    /// It has no name any more.
    pub deleted: AtomicBool,
}

static LABELS: Lock<Vec<Arc<Label>>> = Lock::new(Rank::Labels, Vec::new());

/// Tells the trace of a regular file, once.
pub fn announce(entry: &Arc<Entry>) -> Result<(), Errno> {
    let Content::Regular(file) = &entry.node.content else {
        return Ok(());
    };
    if file.label().is_some() {
        return Ok(());
    }
    let (path, linked) = entry.path(tree::root())?;
    let build_id = match file.program() {
        Ok(elf) => tree::copy(&elf.build_id)?,
        Err(_) => Vec::new(),
    };
    let label = heap::try_arc(Label {
        id: entry.node.id,
        path,
        build_id,
        deleted: AtomicBool::new(!linked),
    })
    .ok_or(Errno::ENOMEM)?;
    let mut first = false;
    file.cache().label().call_once(|| {
        first = true;
        label.clone() as Arc<dyn Any + Send + Sync>
    });
    if first {
        let mut labels = LABELS.lock();
        labels.retain(|label| Arc::strong_count(label) > 1);
        labels.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        labels.push(label.clone());
        drop(labels);
        trace::meta(Meta::File(label));
    }
    Ok(())
}

/// The file with the lowest number above `after` that the trace knows.
pub fn next(after: u32) -> Option<Arc<Label>> {
    let labels = LABELS.lock();
    let later = labels.iter().filter(|label| label.id > after);
    later.min_by_key(|label| label.id).cloned()
}
