//! Regular files: their contents are a page cache's, for read and write, mmap and exec alike.

use super::buffer::Buffer;
use super::label::Label;
use super::lock::Locks;
use super::node::next_id;
use crate::arch::{heap, mmu};
use crate::process::elf::{self, Elf};
use crate::process::space;
use crate::syscall::errno::Errno;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use memory::{Lock, NoPage, PAGE_SIZE, PageCache, Quota, Rank};

/// The longest file, bytes (MAX_LFS_FILESIZE).
pub const MAX_LEN: u64 = i64::MAX as u64;

/// What all files together may hold.
pub static QUOTA: Quota = Quota::new(u64::MAX);

/// The pages of the files of the initramfs, which has their contents still when nobody wrote them.
static ARCHIVED: Lock<Vec<Weak<PageCache>>> = Lock::new(Rank::Archived, Vec::new());

/// Whether whoever failed for want of memory should try again: if somebody was refused memory since
/// this was last called, frames of files that nobody maps are given back.
#[cold]
pub fn reclaim() -> bool {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let memory = mmu::memory();
    let refusals = memory.frames.refusals();
    if SEEN.swap(refusals, Ordering::Relaxed) == refusals {
        return false;
    }
    let mut given = 0;
    ARCHIVED.lock().retain(|archived| {
        let Some(cache) = archived.upgrade() else {
            return false;
        };
        given += cache.reclaim(memory);
        // It may be the last one by now.
        PageCache::release(cache, memory);
        true
    });
    if given > 0 {
        defmt::info!(
            "memory is short: {=u64} frames of files that nobody maps were given back",
            given
        );
    }
    given > 0
}

/// A regular file.
pub struct Regular {
    cache: Option<Arc<PageCache>>,
    modified: AtomicBool,
    program: Lock<Option<Arc<Elf>>>,
    /// Descriptions that may write it; or, negative, programs that run from it.
    writers: AtomicI32,
    /// One write, or change of the length, at a time.
    writing: Lock<()>,
    /// Who locked what of it.
    pub locks: Locks,
}

impl Regular {
    /// An empty file.
    pub fn empty() -> Result<Regular, Errno> {
        Regular::new(PageCache::zeroed(next_id(), 0))
    }

    /// A file of the initramfs.
    pub fn archived(bytes: &'static [u8]) -> Result<Regular, Errno> {
        if bytes.is_empty() {
            return Regular::empty();
        }
        let source = heap::try_box(Archive(bytes)).ok_or(Errno::ENOMEM)?;
        let file = Regular::new(PageCache::new(next_id(), bytes.len() as u64, source))?;
        let mut archived = ARCHIVED.lock();
        archived.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        archived.push(Arc::downgrade(file.cache()));
        Ok(file)
    }

    fn new(cache: PageCache) -> Result<Regular, Errno> {
        let cache = heap::try_arc(cache.with_quota(&QUOTA)).ok_or(Errno::ENOMEM)?;
        Ok(Regular {
            cache: Some(cache),
            modified: AtomicBool::new(false),
            program: Lock::new(Rank::Attributes, None),
            writers: AtomicI32::new(0),
            writing: Lock::new(Rank::FileWriting, ()),
            locks: Locks::new(),
        })
    }

    /// Its pages, shared by all who map it.
    pub fn cache(&self) -> &Arc<PageCache> {
        self.cache
            .as_ref()
            .expect("a file has its pages until it goes")
    }

    /// Its name in the trace, if that knows it.
    pub fn label(&self) -> Option<Arc<Label>> {
        self.cache().label().get()?.clone().downcast().ok()
    }

    /// No name leads to it any more.
    pub fn set_deleted(&self) {
        if let Some(label) = self.label() {
            label.deleted.store(true, Ordering::Relaxed);
        }
    }

    /// The file as a program. ENOEXEC if it is none.
    pub fn program(&self) -> Result<Arc<Elf>, Errno> {
        if self.modified.load(Ordering::Acquire) {
            return read_program(self.cache());
        }
        let known = self.program.lock().clone();
        if let Some(elf) = known {
            return Ok(elf);
        }
        let elf = read_program(self.cache())?;
        *self.program.lock() = Some(elf.clone());
        Ok(elf)
    }

    /// One more that may write it. ETXTBSY if a program runs from it.
    pub fn open_for_writing(&self) -> Result<(), Errno> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
                (count >= 0).then_some(count + 1)
            })
            .map_err(|_| Errno::ETXTBSY)?;
        // What is known of the program may not be so any more.
        self.modified.store(true, Ordering::Release);
        *self.program.lock() = None;
        Ok(())
    }

    /// One less.
    pub fn close_for_writing(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }

    /// A program runs from it. ETXTBSY if somebody may write it.
    pub fn deny_writing(&self) -> Result<(), Errno> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |count| {
                (count <= 0).then_some(count - 1)
            })
            .map(drop)
            .map_err(|_| Errno::ETXTBSY)
    }

    /// It does no more.
    pub fn allow_writing(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads from `offset` on.
    pub fn read(&self, offset: u64, to: &mut Buffer<'_>) -> Result<usize, Errno> {
        let mut done = 0;
        while to.left() > 0 {
            let at = offset + done as u64;
            let rest = self.cache().len().saturating_sub(at);
            let start = (at % PAGE_SIZE) as usize;
            let count = ((PAGE_SIZE as usize - start).min(to.left()) as u64).min(rest) as usize;
            if count == 0 {
                break;
            }
            let mut copied = Ok(0);
            let lent = self
                .cache()
                .with_page(mmu::memory(), at / PAGE_SIZE, &mut |page| {
                    let bytes = page.get(start..).unwrap_or(&[]);
                    let bytes = &bytes[..bytes.len().min(count)];
                    copied = to.put(bytes).map(|some| {
                        if some < bytes.len() {
                            return some;
                        }
                        // Of the zeros, a fault costs only what is behind it.
                        let zeros = to.put_zeros(count - some);
                        some + zeros.unwrap_or(0)
                    });
                });
            match lent.map_err(no_page).and(copied) {
                Ok(some) => {
                    done += some;
                    if some < count {
                        return if done > 0 {
                            Ok(done)
                        } else {
                            Err(Errno::EFAULT)
                        };
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes at `offset`, or at the end (`None`). Returns how much, and where it ends.
    pub fn write(&self, offset: Option<u64>, from: &mut Buffer<'_>) -> Result<(usize, u64), Errno> {
        let _writing = self.writing.lock();
        let cache = self.cache();
        let start = offset.unwrap_or_else(|| cache.len());
        if from.left() == 0 {
            return Ok((0, start));
        }
        let room = MAX_LEN.saturating_sub(start);
        if room == 0 {
            return Err(Errno::EFBIG);
        }
        from.limit(usize::try_from(room).unwrap_or(usize::MAX));
        let mut done = 0;
        while from.left() > 0 {
            let at = start + done as u64;
            let first = (at % PAGE_SIZE) as usize;
            let count = (PAGE_SIZE as usize - first).min(from.left());
            let mut copied = Ok(0);
            let lent = cache.with_page_mut(mmu::memory(), at / PAGE_SIZE, &mut |page| {
                copied = from.take(&mut page[first..first + count]);
            });
            match lent.map_err(no_page).and(copied) {
                Ok(some) => {
                    done += some;
                    cache.grow(at + some as u64);
                    if some < count {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok((done, start + done as u64))
    }

    /// Sets the length. Nobody sees what was cut off from then on: accesses to mapped pages past
    /// the end fault.
    pub fn set_len(&self, len: u64) -> Result<(), Errno> {
        if len > MAX_LEN {
            return Err(Errno::EFBIG);
        }
        let _writing = self.writing.lock();
        let cache = self.cache();
        let before = cache.len();
        if len >= before {
            cache.grow(len);
            return Ok(());
        }
        cache.close_from(len);
        let result = self.drop_mapped(len.next_multiple_of(PAGE_SIZE), u64::MAX, true);
        cache.set_len(mmu::memory(), len);
        result
    }

    /// fallocate: makes room for a range, and lets the file end no earlier than it if `grow`.
    pub fn allocate(&self, from: u64, to: u64, grow: bool) -> Result<(), Errno> {
        let _writing = self.writing.lock();
        let cache = self.cache();
        for page in from / PAGE_SIZE..to.div_ceil(PAGE_SIZE) {
            cache.reserve(mmu::memory(), page).map_err(no_page)?;
        }
        if grow {
            cache.grow(to);
        }
        Ok(())
    }

    /// fallocate: makes a range zeros, and gives its pages back. Copies that private mappings have made
    /// stay, as on Linux.
    pub fn punch(&self, from: u64, to: u64) -> Result<(), Errno> {
        let _writing = self.writing.lock();
        self.drop_mapped(
            from.next_multiple_of(PAGE_SIZE),
            to / PAGE_SIZE * PAGE_SIZE,
            false,
        )?;
        self.cache().punch(mmu::memory(), from, to).map_err(no_page)
    }

    /// Drops pages of a range of the file from all mappings of it, with their own `copies` or without.
    fn drop_mapped(&self, from: u64, to: u64, copies: bool) -> Result<(), Errno> {
        if from >= to || Arc::strong_count(self.cache()) == 1 {
            return Ok(());
        }
        space::drop_file_pages(self.cache(), from, to, copies)
    }
}

impl Drop for Regular {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.take() {
            PageCache::release(cache, mmu::memory());
        }
    }
}

/// Why there is no page.
pub fn no_page(error: NoPage) -> Errno {
    match error {
        NoPage::OutOfMemory => Errno::ENOMEM,
        NoPage::Full => Errno::ENOSPC,
    }
}

fn read_program(cache: &PageCache) -> Result<Arc<Elf>, Errno> {
    heap::try_arc(Elf::parse(cache)?).ok_or(Errno::ENOMEM)
}

impl elf::Contents for PageCache {
    fn len(&self) -> u64 {
        self.len()
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Errno> {
        let read = self.read(mmu::memory(), offset, to);
        match read.map_err(|_| Errno::ENOMEM)? {
            count if count == to.len() => Ok(()),
            _ => Err(Errno::ENOEXEC),
        }
    }
}

/// The bytes of a file in the archive, as the page cache's source.
struct Archive(&'static [u8]);

impl memory::Source for Archive {
    fn fill(&self, offset: u64, page: &mut [u8; 4096]) {
        let rest = self.lend(offset).unwrap_or(&[]);
        let len = rest.len().min(page.len());
        page[..len].copy_from_slice(&rest[..len]);
    }

    fn lend(&self, offset: u64) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        Some(self.0.get(offset..).unwrap_or(&[]))
    }
}
