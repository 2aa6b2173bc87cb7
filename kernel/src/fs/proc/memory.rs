//! What a process has mapped, and what of it it uses: maps, smaps, statm.

use super::text::Window;
use crate::arch::mmu;
use crate::fs::FIRST_DEVICE;
use crate::fs::label::Label;
use crate::process::Process;
use crate::process::space::Space;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering;
use memory::{Backing, Mapping, PAGE_SIZE, Prot, Region, Usage};

/// Calls `f` with the address space of a process, if it still has one.
pub fn with_space<T>(process: &Process, f: impl FnOnce(&Space) -> T) -> Option<T> {
    let space = process.state.lock().memory.upgrade()?;
    let result = f(&space);
    Space::release(space);
    Some(result)
}

/// Calls `f` for each mapping in order, with what it uses if that is `counted`. The address space is
/// locked for one at a time.
fn for_each(
    space: &Space,
    counted: bool,
    mut f: impl FnMut(&Mapping, &Usage) -> fmt::Result,
) -> fmt::Result {
    let mut at = 0;
    loop {
        let (mapping, usage) = {
            let inner = space.lock();
            let mappings = inner.map.mappings();
            let next = mappings.partition_point(|mapping| mapping.end <= at);
            let Some(mapping) = mappings.get(next) else {
                return Ok(());
            };
            let usage = match counted {
                true => inner.map.usage(mmu::memory(), mapping.start, mapping.end),
                false => Usage::default(),
            };
            (mapping.clone(), usage)
        };
        at = mapping.end;
        let result = f(&mapping, &usage);
        // It may be the last reference to the pages.
        if let Backing::File { cache, .. } = mapping.backing {
            memory::PageCache::release(cache, mmu::memory());
        }
        result?;
    }
}

/// The line of a mapping.
fn line(to: &mut Window, mapping: &Mapping) -> fmt::Result {
    let right = |right, letter| {
        if mapping.prot.contains(right) {
            letter
        } else {
            '-'
        }
    };
    let shared = if mapping.shared { 's' } else { 'p' };
    let (id, offset, label) = match &mapping.backing {
        Backing::Anonymous => (0, 0, None),
        Backing::File { cache, offset } => {
            let label = cache.label().get().cloned();
            (cache.id(), *offset, label)
        }
    };
    let device = if id == 0 { 0 } else { FIRST_DEVICE };
    let mut start = Counted { to, len: 0 };
    write!(
        start,
        "{:08x}-{:08x} {}{}{}{shared} {offset:08x} 00:{device:02x} {id} ",
        mapping.start,
        mapping.end,
        right(Prot::READ, 'r'),
        right(Prot::WRITE, 'w'),
        right(Prot::EXEC, 'x'),
    )?;
    let len = start.len;
    let label = label.and_then(|label| label.downcast::<Label>().ok());
    let name: &[u8] = match (&label, mapping.region) {
        (Some(label), _) => &label.path,
        (None, Region::Heap) => b"[heap]",
        (None, Region::Stack) => b"[stack]",
        (None, Region::Vdso) => b"[vdso]",
        (None, _) if mapping.shared => b"/dev/zero (deleted)",
        _ => b"",
    };
    if !name.is_empty() {
        /// Where names begin.
        const COLUMN: usize = 73;
        write!(to, "{:1$}", "", COLUMN.saturating_sub(len))?;
        to.push(name)?;
        if label.is_some_and(|label| label.deleted.load(Ordering::Relaxed)) {
            to.push(b" (deleted)")?;
        }
    }
    to.push(b"\n")
}

/// Counts what passes.
struct Counted<'a> {
    to: &'a mut Window,
    len: usize,
}

impl Write for Counted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.len += text.len();
        self.to.write_str(text)
    }
}

/// /proc/PID/maps.
pub fn maps(to: &mut Window, space: &Space) -> fmt::Result {
    for_each(space, false, |mapping, _| line(to, mapping))
}

const PAGE_KB: u64 = PAGE_SIZE / 1024;

/// The lines of a usage that smaps and smaps_rollup share.
fn usage_lines(to: &mut Window, usage: &Usage) -> fmt::Result {
    let share = |share: u64| share >> Usage::SHIFT >> 10;
    let zero = [
        "KSM",
        "LazyFree",
        "AnonHugePages",
        "ShmemPmdMapped",
        "FilePmdMapped",
        "Shared_Hugetlb",
        "Private_Hugetlb",
        "Swap",
        "SwapPss",
        "Locked",
    ];
    for (name, kilobytes) in [
        ("Rss", usage.resident * PAGE_KB),
        ("Pss", share(usage.proportional)),
        ("Pss_Dirty", share(usage.proportional_dirty)),
        ("Shared_Clean", usage.shared_clean * PAGE_KB),
        ("Shared_Dirty", usage.shared_dirty * PAGE_KB),
        ("Private_Clean", usage.private_clean * PAGE_KB),
        ("Private_Dirty", usage.private_dirty * PAGE_KB),
        ("Referenced", usage.resident * PAGE_KB),
        ("Anonymous", usage.anonymous * PAGE_KB),
    ]
    .into_iter()
    .chain(zero.map(|name| (name, 0)))
    {
        size(to, name, kilobytes)?;
    }
    Ok(())
}

fn size(to: &mut Window, name: &str, kilobytes: u64) -> fmt::Result {
    // The colon is part of the column.
    write!(to, "{name}:{:1$}", "", 15usize.saturating_sub(name.len()))?;
    writeln!(to, "{kilobytes:8} kB")
}

/// /proc/PID/smaps.
pub fn smaps(to: &mut Window, space: &Space) -> fmt::Result {
    for_each(space, true, |mapping, usage| {
        line(to, mapping)?;
        size(to, "Size", mapping.len() / 1024)?;
        size(to, "KernelPageSize", PAGE_KB)?;
        size(to, "MMUPageSize", PAGE_KB)?;
        usage_lines(to, usage)?;
        to.write_str("THPeligible:           0\nVmFlags: ")?;
        for (right, flag) in [
            (Prot::READ, "rd "),
            (Prot::WRITE, "wr "),
            (Prot::EXEC, "ex "),
        ] {
            if mapping.prot.contains(right) {
                to.write_str(flag)?;
            }
        }
        if mapping.shared {
            to.write_str("sh ")?;
        }
        to.write_str(if mapping.may_write {
            "mr mw me "
        } else {
            "mr me "
        })?;
        if mapping.shared {
            to.write_str("ms ")?;
        }
        if mapping.region == Region::Stack {
            to.write_str("gd ")?;
        }
        if mapping.charged && !mapping.shared {
            to.write_str("ac ")?;
        }
        to.write_str("\n")
    })
}

/// What a whole address space uses, and where it begins and ends.
pub fn total(space: &Space) -> (Usage, u64, u64) {
    let mut sum = Usage::default();
    let (mut first, mut last) = (0, 0);
    // Nothing here fails.
    let _ = for_each(space, true, |mapping, usage| {
        sum.add(usage);
        first = if last == 0 { mapping.start } else { first };
        last = mapping.end;
        Ok(())
    });
    (sum, first, last)
}

/// /proc/PID/smaps_rollup.
pub fn rollup(to: &mut Window, space: &Space) -> fmt::Result {
    let (usage, start, end) = total(space);
    writeln!(
        to,
        "{start:08x}-{end:08x} ---p 00000000 00:00 0 {:1$}[rollup]",
        "", 30
    )?;
    usage_lines(to, &usage)
}

/// Sizes in pages: mapped, resident, of files, code, and data with stack.
pub struct Sizes {
    /// Mapped.
    pub size: u64,
    /// Resident.
    pub resident: u64,
    /// Of these, not private memory.
    pub file: u64,
    /// Code.
    pub text: u64,
    /// Private and writable.
    pub data: u64,
    /// Of these, stack.
    pub stack: u64,
}

/// The sizes of an address space.
pub fn sizes(space: &Space) -> Sizes {
    let inner = space.lock();
    let resident = inner.map.resident();
    let mut sizes = Sizes {
        size: 0,
        resident: u64::from(resident.anon) + u64::from(resident.file),
        file: resident.file.into(),
        text: 0,
        data: 0,
        stack: 0,
    };
    for mapping in inner.map.mappings() {
        let pages = mapping.len() / PAGE_SIZE;
        sizes.size += pages;
        if mapping.prot.contains(Prot::EXEC) {
            sizes.text += pages;
        } else if mapping.prot.contains(Prot::WRITE) && !mapping.shared {
            sizes.data += pages;
        }
        if mapping.region == Region::Stack {
            sizes.stack += pages;
        }
    }
    sizes
}
