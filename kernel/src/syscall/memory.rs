//! System calls on memory.

use super::Result;
use super::errno::Errno;
use crate::fs::Object;
use crate::fs::tree::Content;
use crate::process::space::Space;
use crate::process::thread::current;
use crate::trace::{self, meta::Meta};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    MADV_DONTNEED, MADV_FREE, MADV_NORMAL, MADV_WILLNEED, MAP_ANONYMOUS, MAP_FIXED,
    MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE, PROT_EXEC,
    PROT_READ, PROT_WRITE,
};
use memory::{Backing, MAP_MIN, Mapping, PAGE_SIZE, Prot, Region, USER_END};

fn space() -> core::result::Result<Arc<Space>, Errno> {
    current().space().cloned().ok_or(Errno::ENOMEM)
}

/// `len` rounded up to pages; None if that overflows.
fn pages(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(PAGE_SIZE)
}

/// The end of a range of pages that lies in the user's half.
fn range_end(start: u64, len: u64) -> Option<u64> {
    start
        .checked_add(pages(len)?)
        .filter(|&end| end <= USER_END)
}

/// The permissions that `mmap` and `mprotect` ask for. Code that can be written is refused: W^X.
fn prot(bits: u64) -> core::result::Result<Prot, Errno> {
    let all = u64::from(PROT_READ | PROT_WRITE | PROT_EXEC);
    let code = u64::from(PROT_WRITE | PROT_EXEC);
    if bits & !all != 0 {
        return Err(Errno::EINVAL);
    }
    if bits & code == code {
        return Err(Errno::EACCES);
    }
    Ok(Prot::from_bits(bits as u8))
}

/// brk(address): returns the break, moved if that was possible.
pub fn brk(wanted: u64) -> Result {
    let space = space()?;
    let (start, end) = space.lock().heap;
    if wanted < start || wanted > USER_END {
        return Ok(end);
    }
    let (old, new) = (pages(end).unwrap_or(end), pages(wanted).unwrap_or(wanted));
    if new > old {
        let inner = space.lock();
        // Nor may it take the room that a stack above it has for growth.
        let free = inner.map.find_free(new - old, old) == Some(old);
        if !free || inner.overlaps(old, new + PAGE_SIZE) {
            return Ok(end);
        }
        drop(inner);
        let grown = Mapping {
            start: old,
            end: new,
            prot: Prot::READ.union(Prot::WRITE),
            shared: false,
            backing: Backing::Anonymous,
            region: Region::Heap,
        };
        if space.map(grown).is_err() {
            return Ok(end);
        }
    } else if new < old && space.unmap(new, old).is_err() {
        return Ok(end);
    }
    space.lock().heap.1 = wanted;
    Ok(wanted)
}

/// mmap(address, length, protection, flags, fd, offset).
pub fn mmap(hint: u64, len: u64, protection: u64, flags: u32, fd: u64, offset: u64) -> Result {
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = pages(len)
        .filter(|&len| len <= USER_END)
        .ok_or(Errno::ENOMEM)?;
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let prot = prot(protection)?;
    let shared = match flags & MAP_TYPE {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    let backing = if flags & MAP_ANONYMOUS != 0 {
        Backing::Anonymous
    } else {
        file_backing(fd, offset, shared, prot)?
    };
    let space = space()?;
    let start = if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        if !hint.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let end = range_end(hint, len).ok_or(Errno::ENOMEM)?;
        if hint < MAP_MIN {
            return Err(Errno::EPERM);
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && space.lock().overlaps(hint, end) {
            return Err(Errno::EEXIST);
        }
        hint
    } else {
        space.lock().map.find_free(len, hint).ok_or(Errno::ENOMEM)?
    };
    space.map(Mapping {
        start,
        end: start + len,
        prot,
        shared,
        backing,
        region: Region::Mmap,
    })?;
    Ok(start)
}

/// The pages of an open file.
fn file_backing(
    fd: u64,
    offset: u64,
    shared: bool,
    prot: Prot,
) -> core::result::Result<Backing, Errno> {
    let file = current().process.files.lock().get(fd)?;
    match &file.object {
        Object::Node(node) => {
            let Content::Regular(regular) = &node.content else {
                return Err(Errno::ENODEV);
            };
            // The files are read-only: their pages can be shared, but not to be written.
            if shared && prot.contains(Prot::WRITE) {
                return Err(Errno::EACCES);
            }
            if !node.announced.swap(true, Ordering::Relaxed) {
                trace::meta(Meta::File(node));
            }
            Ok(Backing::File {
                cache: regular.cache(node.id)?.clone(),
                offset,
            })
        }
        Object::Zero => Ok(Backing::Anonymous),
        _ => Err(Errno::ENODEV),
    }
}

/// munmap(address, length).
pub fn munmap(start: u64, len: u64) -> Result {
    let end = range_end(start, len).filter(|_| start.is_multiple_of(PAGE_SIZE) && len > 0);
    space()?.unmap(start, end.ok_or(Errno::EINVAL)?)?;
    Ok(0)
}

/// mprotect(address, length, protection).
pub fn mprotect(start: u64, len: u64, protection: u64) -> Result {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let end = range_end(start, len).ok_or(Errno::ENOMEM)?;
    let prot = prot(protection)?;
    if start == end {
        return Ok(0);
    }
    let space = space()?;
    let raises_file = prot.contains(Prot::WRITE) && {
        let inner = space.lock();
        let mappings = inner.map.mappings();
        let first = mappings.partition_point(|mapping| mapping.end <= start);
        mappings[first..]
            .iter()
            .take_while(|mapping| mapping.start < end)
            .any(|mapping| {
                mapping.shared
                    && matches!(&mapping.backing, Backing::File { cache, .. } if cache.id() != 0)
            })
    };
    if raises_file {
        return Err(Errno::EACCES);
    }
    space.protect(start, end, prot)?;
    Ok(0)
}

/// madvise(address, length, advice).
pub fn madvise(start: u64, len: u64, advice: u32) -> Result {
    let end = range_end(start, len)
        .filter(|_| start.is_multiple_of(PAGE_SIZE))
        .ok_or(Errno::EINVAL)?;
    match advice {
        // Advice that may be ignored, but for the mapping that must be there.
        MADV_NORMAL..=MADV_WILLNEED | MADV_FREE => {}
        MADV_DONTNEED => return discard(start, end),
        _ => return Err(Errno::EINVAL),
    }
    if start < end && !space()?.lock().overlaps(start, end) {
        return Err(Errno::ENOMEM);
    }
    Ok(0)
}

/// Drops the pages of a range: each mapping in it is made anew in its place.
fn discard(start: u64, end: u64) -> Result {
    let space = space()?;
    let mut at = start;
    let mut whole = true;
    while at < end {
        let part = {
            let inner = space.lock();
            let mappings = inner.map.mappings();
            let index = mappings.partition_point(|mapping| mapping.end <= at);
            mappings
                .get(index)
                .filter(|mapping| mapping.start < end)
                .cloned()
        };
        let Some(mut part) = part else {
            whole = false;
            break;
        };
        whole &= part.start <= at;
        let (from, to) = (part.start.max(at), part.end.min(end));
        if let Backing::File { offset, .. } = &mut part.backing {
            *offset += from - part.start;
        }
        (part.start, part.end) = (from, to);
        space.map(part)?;
        at = to;
    }
    if whole { Ok(0) } else { Err(Errno::ENOMEM) }
}
