//! System calls on memory.

use super::Result;
use super::errno::Errno;
use crate::arch::{trap::TrapFrame, uaccess};
use crate::fs::regular;
use crate::process::space::Space;
use crate::process::thread::{Current, current};
use crate::process::{entry, limits};
use alloc::sync::Arc;
use core::ops::Range;
use linux_raw_sys::general::{
    MADV_COLD, MADV_DODUMP, MADV_DONTDUMP, MADV_DONTNEED, MADV_FREE, MADV_NORMAL, MADV_PAGEOUT,
    MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_WILLNEED, MAP_ANONYMOUS, MAP_FIXED,
    MAP_FIXED_NOREPLACE, MAP_NONBLOCK, MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE,
    MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT, MREMAP_DONTUNMAP, MREMAP_FIXED,
    MREMAP_MAYMOVE, MS_ASYNC, MS_INVALIDATE, MS_SYNC, PROT_EXEC, PROT_READ, PROT_WRITE,
    RLIMIT_DATA,
};
use memory::{Backing, MAP_MIN, Mapping, PAGE_SIZE, Place, Prot, Region, Remap, USER_END};

fn space(thread: &Current) -> core::result::Result<&Arc<Space>, Errno> {
    thread.space().ok_or(Errno::ENOMEM)
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
pub fn brk(frame: &TrapFrame, wanted: u64) -> Result {
    let thread = current();
    let space = space(&thread)?;
    let before = space.set_break(0);
    // The heap itself is data, even where RLIMIT_DATA lets mmap pass.
    let most = limits::soft(&thread.process, RLIMIT_DATA);
    if wanted > before && wanted - space.lock().heap.0 > most {
        return Ok(before);
    }
    if wanted > before && !limits::may_map(space, wanted - before, 0, true) {
        return Ok(before);
    }
    let mut now = space.set_break(wanted);
    if now < wanted && regular::reclaim() {
        now = space.set_break(wanted);
    }
    let refusal = thread.take_refusal();
    if now < wanted {
        // It has no error that says so.
        super::tell_refusal(&thread, frame, refusal);
    }
    Ok(now)
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
    let (backing, may_write) = if flags & MAP_ANONYMOUS != 0 {
        (Backing::Anonymous, true)
    } else {
        let backing = file_backing(fd, offset, shared, prot)?;
        if offset > i64::MAX as u64 - len {
            return Err(Errno::EOVERFLOW);
        }
        backing
    };
    let thread = current();
    let space = space(&thread)?;
    let fixed = if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        if !hint.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
        let Some(end) = range_end(hint, len) else {
            return Err(Errno::ENOMEM);
        };
        if hint < MAP_MIN {
            return Err(Errno::EPERM);
        }
        Some(hint..end)
    } else {
        None
    };
    let replaced = fixed.clone().map_or(0, |range| mapped(space, &range));
    if !limits::may_map(space, len, replaced, !shared && prot.contains(Prot::WRITE)) {
        return Err(Errno::ENOMEM);
    }
    let mut inner = space.lock();
    let start = match fixed {
        Some(range) => {
            if flags & MAP_FIXED_NOREPLACE != 0 && inner.overlaps(range.start, range.end) {
                return Err(Errno::EEXIST);
            }
            range.start
        }
        None => inner.map.find_free(len, hint).ok_or(Errno::ENOMEM)?,
    };
    let mapping = Mapping {
        start,
        end: start + len,
        prot,
        shared,
        may_write,
        backing,
        region: Region::Mmap,
        charged: false,
    };
    space.map_locked(&mut inner, mapping)?;
    Ok(start)
}

/// mmap with MAP_POPULATE. As on Linux (mm/gup.c, `populate_vma_page_range`) what is private is
/// copied at once, and what cannot be had now is no error.
#[cold]
pub fn mmap_now(hint: u64, len: u64, protection: u64, flags: u32, fd: u64, offset: u64) -> Result {
    let start = mmap(hint, len, protection, flags, fd, offset)?;
    if flags & MAP_NONBLOCK == 0 {
        let write = flags & MAP_TYPE == MAP_PRIVATE && protection & u64::from(PROT_WRITE) != 0;
        let end = start + pages(len).unwrap_or(0);
        let _ = entry::populate(&current(), start..end, write);
    }
    Ok(start)
}

/// How much of a range is mapped, bytes.
fn mapped(space: &Space, range: &Range<u64>) -> u64 {
    let inner = space.lock();
    let mappings = inner.map.mappings_in(range.start, range.end);
    mappings
        .map(|mapping| mapping.end.min(range.end) - mapping.start.max(range.start))
        .sum()
}

/// The pages of an open file, and whether they may ever be written there.
fn file_backing(
    fd: u64,
    offset: u64,
    shared: bool,
    prot: Prot,
) -> core::result::Result<(Backing, bool), Errno> {
    let file = current().process.files.lock().get(fd)?;
    file.backing(offset, shared, prot.contains(Prot::WRITE))
}

/// munmap(address, length).
pub fn munmap(start: u64, len: u64) -> Result {
    let end = range_end(start, len).filter(|_| start.is_multiple_of(PAGE_SIZE) && len > 0);
    space(&current())?.unmap(start, end.ok_or(Errno::EINVAL)?)?;
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
    let thread = current();
    let space = space(&thread)?;
    if prot.contains(Prot::WRITE) && !limits::may_write(space, start, end) {
        return Err(Errno::ENOMEM);
    }
    space.protect(start, end, prot)?;
    Ok(0)
}

/// madvise(address, length, advice).
pub fn madvise(start: u64, len: u64, advice: u32) -> Result {
    let end = range_end(start, len)
        .filter(|_| start.is_multiple_of(PAGE_SIZE))
        .ok_or(Errno::EINVAL)?;
    let thread = current();
    let space = space(&thread)?;
    let drops = match advice {
        MADV_POPULATE_READ | MADV_POPULATE_WRITE => {
            entry::populate(&thread, start..end, advice == MADV_POPULATE_WRITE)?;
            return Ok(0);
        }
        // Advice that may be ignored, but for the mappings that must be there: nothing is read ahead,
        // swapped out or dumped.
        MADV_NORMAL..=MADV_WILLNEED | MADV_DONTDUMP | MADV_DODUMP | MADV_COLD | MADV_PAGEOUT => {
            false
        }
        MADV_DONTNEED => true,
        // Pages that nobody writes again may go whenever the kernel likes: here at once.
        MADV_FREE => {
            let inner = space.lock();
            let mut mappings = inner.map.mappings().iter();
            if mappings.any(|m| {
                m.start < end
                    && m.end > start
                    && (m.shared || !matches!(m.backing, Backing::Anonymous))
            }) {
                return Err(Errno::EINVAL);
            }
            true
        }
        _ => return Err(Errno::EINVAL),
    };
    if start == end {
        return Ok(0);
    }
    let whole = match drops {
        true => space.discard(start, end)?,
        false => space.lock().covers(start, end),
    };
    // Over holes, it did the rest.
    if whole { Ok(0) } else { Err(Errno::ENOMEM) }
}

/// msync(address, length, flags): what is written is in the file at once.
pub fn msync(start: u64, len: u64, flags: u32) -> Result {
    if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
        || !start.is_multiple_of(PAGE_SIZE)
        || flags & MS_ASYNC != 0 && flags & MS_SYNC != 0
    {
        return Err(Errno::EINVAL);
    }
    all_mapped(start, pages(len).ok_or(Errno::ENOMEM)?)
}

/// mincore(address, length, bytes): 1 for each page that is there, or comes without being read from
/// anywhere. (Whose file it is does not matter here: Linux says 1 of all if it is not the caller's.)
pub fn mincore(start: u64, len: u64, mut to: u64) -> Result {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let end = range_end(start, len).ok_or(Errno::ENOMEM)?;
    let bytes_end = to.checked_add((end - start) / PAGE_SIZE);
    if bytes_end.is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    let thread = current();
    let space = space(&thread)?;
    let mut bytes = [0; 256];
    let mut at = start;
    while at < end {
        let count = space.lock().in_core(at, end, &mut bytes);
        if count == 0 {
            return Err(Errno::ENOMEM);
        }
        uaccess::write(to, &bytes[..count])?;
        at += count as u64 * PAGE_SIZE;
        to += count as u64;
    }
    Ok(0)
}

/// mlock(address, length), mlock2, munlock: nothing is ever swapped out.
pub fn mlock(start: u64, len: u64, flags: u32) -> Result {
    if flags & !MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    let first = start & !(PAGE_SIZE - 1);
    let len = len.checked_add(start - first).and_then(pages);
    // Linux, which rounds without a look, finds nothing to do.
    all_mapped(first, len.unwrap_or(0))
}

/// mlockall(flags).
pub fn mlockall(flags: u32) -> Result {
    let known = flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
    if !known || flags & (MCL_CURRENT | MCL_FUTURE) == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// ENOMEM unless all of a range is mapped.
fn all_mapped(start: u64, len: u64) -> Result {
    let end = start.checked_add(len).ok_or(Errno::ENOMEM)?;
    if end == start {
        return Ok(0);
    }
    match end <= USER_END && space(&current())?.lock().covers(start, end) {
        true => Ok(0),
        false => Err(Errno::ENOMEM),
    }
}

/// mremap(address, length, new length, flags, new address). A length of 0, which on Linux maps
/// shared memory once more, is EINVAL.
pub fn mremap(start: u64, len: u64, new_len: u64, flags: u32, to: u64) -> Result {
    const ALL: u32 = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    let may_move = flags & MREMAP_MAYMOVE != 0;
    let keep = flags & MREMAP_DONTUNMAP != 0;
    let len = pages(len).ok_or(Errno::EINVAL)?;
    let new_len = pages(new_len).ok_or(Errno::EINVAL)?;
    if flags & !ALL != 0
        || (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 && !may_move)
        || (keep && len != new_len)
        || !start.is_multiple_of(PAGE_SIZE)
        || new_len == 0
        || len == 0
    {
        return Err(Errno::EINVAL);
    }
    // As Linux sees it: first whether anything is there at all.
    if start.checked_add(len).is_none_or(|end| end > USER_END) {
        return Err(Errno::EFAULT);
    }
    let place = match (flags & MREMAP_FIXED != 0, may_move) {
        (true, _) => Place::At(to),
        (_, true) => Place::Anywhere,
        _ => Place::Here,
    };
    let thread = current();
    let space = space(&thread)?;
    if new_len > len && !limits::may_map(space, new_len - len, 0, true) {
        return Err(Errno::ENOMEM);
    }
    space.remap(Remap {
        start,
        len,
        new_len,
        place,
        keep,
    })
}
