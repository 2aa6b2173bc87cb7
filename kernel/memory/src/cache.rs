//! The pages of a file, or of anonymous shared memory: one frame per page, shared by all who map it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;

use crate::OutOfMemory;
use crate::frame::{Frame, Kind, PAGE_BYTES, PAGE_SIZE};
use crate::lock::{Lock, Rank};
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::sync::AtomicU64;

/// Where the pages of a file come from.
pub trait Source: Send + Sync {
    /// Fills the page at `offset` (a multiple of the page size). It arrives zeroed: what lies past
    /// the end of the file needs no care.
    fn fill(&self, offset: u64, page: &mut [u8; PAGE_BYTES]);
}

/// Pages per second-level array: sparse files stay small, and no array is long.
const CHUNK: usize = 512;

/// No frame yet.
const EMPTY: u64 = 0;

/// The frames of a file's pages. It holds one reference to each, so that a frame in use by the
/// cache is never exclusive to a process.
///
/// The last owner must hand it to [`PageCache::release`], which an address space does for its
/// mappings: a cache cannot give frames back by itself when it is dropped.
pub struct PageCache {
    id: u32,
    len: AtomicU64,
    source: Option<Box<dyn Source>>,
    /// Frame number plus one by page index; 0: none.
    chunks: Lock<Vec<Vec<u64>>>,
}

impl PageCache {
    /// The pages of a file of `len` bytes. `id` is for the trace.
    pub fn new(id: u32, len: u64, source: Box<dyn Source>) -> PageCache {
        PageCache {
            id,
            len: AtomicU64::new(len),
            source: Some(source),
            chunks: Lock::new(Rank::PageCache, Vec::new()),
        }
    }

    /// `len` bytes of zeros, to be shared: MAP_SHARED | MAP_ANONYMOUS, or a file in memory.
    pub fn zeroed(id: u32, len: u64) -> PageCache {
        PageCache {
            id,
            len: AtomicU64::new(len),
            source: None,
            chunks: Lock::new(Rank::PageCache, Vec::new()),
        }
    }

    /// `Arc::new`, but an exhausted heap is an error.
    pub fn try_arc(self) -> Result<Arc<PageCache>, OutOfMemory> {
        refuse!(Err(OutOfMemory));
        // There is no fallible `Arc::new` in stable Rust. The heap has room for a block of this
        // size now if it takes one of twice the size; another CPU may still win the race for it.
        let mut probe: Vec<u8> = Vec::new();
        probe
            .try_reserve_exact(2 * size_of::<PageCache>())
            .map_err(|_| OutOfMemory)?;
        drop(probe);
        Ok(Arc::new(self))
    }

    /// The id given at creation.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// No bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the length in bytes. Pages that were cut off keep their frames until the cache goes;
    /// the new end's page is zeroed past the end, as POSIX wants of a file that grows again.
    pub fn set_len<M: Mmu>(&self, mem: &Memory<M>, len: u64) {
        let before = self.len.swap(len, Ordering::Relaxed);
        let mut at = len;
        while at < before {
            let next = (at / PAGE_SIZE + 1) * PAGE_SIZE;
            if let Some(frame) = self.present(at / PAGE_SIZE) {
                let from = (at % PAGE_SIZE) as usize;
                mem.frames.clear_icache_clean(frame);
                mem.mmu
                    .with_frame(frame, &mut |bytes| bytes[from..].fill(0));
            }
            at = next;
        }
    }

    /// Reads bytes of the file; fewer than asked for at its end.
    pub fn read<M: Mmu>(
        &self,
        mem: &Memory<M>,
        offset: u64,
        to: &mut [u8],
    ) -> Result<usize, OutOfMemory> {
        let count = self.len().saturating_sub(offset).min(to.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let from = (at % PAGE_SIZE) as usize;
            let n = (PAGE_BYTES - from).min(count - done);
            let frame = self.frame(mem, at / PAGE_SIZE)?;
            let to = &mut to[done..done + n];
            mem.mmu.with_frame(frame, &mut |bytes| {
                to.copy_from_slice(&bytes[from..from + n])
            });
            done += n;
        }
        Ok(done)
    }

    /// Writes bytes of the file, and makes it longer if they end past its end. On an error what came before it is written.
    pub fn write<M: Mmu>(
        &self,
        mem: &Memory<M>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, OutOfMemory> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let from = (at % PAGE_SIZE) as usize;
            let n = (PAGE_BYTES - from).min(bytes.len() - done);
            let frame = match self.frame(mem, at / PAGE_SIZE) {
                Ok(frame) => frame,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            mem.frames.clear_icache_clean(frame);
            let part = &bytes[done..done + n];
            mem.mmu.with_frame(frame, &mut |page| {
                page[from..from + n].copy_from_slice(part)
            });
            done += n;
            self.len.fetch_max(at + n as u64, Ordering::Relaxed);
        }
        Ok(done)
    }

    fn present(&self, page: u64) -> Option<Frame> {
        let chunks = self.chunks.lock();
        let entry = *chunks
            .get(page as usize / CHUNK)?
            .get(page as usize % CHUNK)?;
        (entry != EMPTY).then(|| Frame::new(entry - 1))
    }

    /// The frame of a page, filled at the first use. The caller may use it while it holds the cache.
    pub(crate) fn frame<M: Mmu>(&self, mem: &Memory<M>, page: u64) -> Result<Frame, OutOfMemory> {
        let mut chunks = self.chunks.lock();
        let (chunk, index) = (
            usize::try_from(page / CHUNK as u64).map_err(|_| OutOfMemory)?,
            page as usize % CHUNK,
        );
        if chunk >= chunks.len() {
            refuse!(Err(OutOfMemory));
            let more = chunk + 1 - chunks.len();
            chunks.try_reserve(more).map_err(|_| OutOfMemory)?;
            chunks.resize_with(chunk + 1, Vec::new);
        }
        let chunk = &mut chunks[chunk];
        if chunk.is_empty() {
            refuse!(Err(OutOfMemory));
            chunk.try_reserve_exact(CHUNK).map_err(|_| OutOfMemory)?;
            chunk.resize(CHUNK, EMPTY);
        }
        if chunk[index] == EMPTY {
            // The frame's reference is the cache's own.
            let frame = mem.take(Kind::Cache).ok_or(OutOfMemory)?.into_frame();
            mem.mmu.zero_frame(frame);
            if let Some(source) = &self.source {
                mem.mmu
                    .with_frame(frame, &mut |bytes| source.fill(page * PAGE_SIZE, bytes));
            }
            chunk[index] = frame.number() + 1;
        }
        Ok(Frame::new(chunk[index] - 1))
    }

    /// Drops a reference to a cache; the last one gives the frames back (those that are still
    /// mapped go when they are unmapped).
    pub fn release<M: Mmu>(this: Arc<PageCache>, mem: &Memory<M>) {
        let Some(mut cache) = Arc::into_inner(this) else {
            return;
        };
        for entry in core::mem::take(cache.chunks.get_mut())
            .into_iter()
            .flatten()
        {
            if entry != EMPTY {
                mem.drop_hold(Frame::new(entry - 1));
            }
        }
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        // A test that fails has said so already.
        #[cfg(feature = "mutate")]
        if std::thread::panicking() {
            return;
        }
        debug_assert!(
            self.chunks.get_mut().is_empty(),
            "a page cache was dropped, not released"
        );
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache")
            .field("id", &self.id)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
