//! The vDSO: a page of code that every program gets, right above its stack. Handlers return through
//! it, and C libraries read the clocks with it.

use super::clock;
use super::image::{STACK_TOP_HIGH, STACK_TOP_LOW};
use super::space::Space;
use super::thread::Thread;
use crate::arch::{heap, vdso};
use crate::syscall::errno::Errno;
use alloc::{boxed::Box, sync::Arc};
use memory::{Backing, Mapping, PAGE_BYTES, PAGE_SIZE, PageCache, Prot, Region, Source};
use spin::Once;

/// The page, filled when the first program touches it.
struct Page;

impl Source for Page {
    fn fill(&self, _offset: u64, page: &mut [u8; PAGE_BYTES]) {
        let image = vdso::image();
        page[..image.len()].copy_from_slice(image);
        let epoch = clock::epoch();
        let at = vdso::epoch_offset();
        page[at..at + 8].copy_from_slice(&(epoch / 1_000_000_000).to_le_bytes());
        page[at + 8..at + 16].copy_from_slice(&(epoch % 1_000_000_000).to_le_bytes());
    }
}

static CACHE: Once<Arc<PageCache>> = Once::new();

/// Maps it at `start`.
pub fn map(space: &Space, start: u64) -> Result<(), Errno> {
    let cache = CACHE.try_call_once(|| {
        let len = vdso::image().len() as u64;
        // It is no file that anybody could name: 0 in the trace.
        heap::try_arc(PageCache::new(0, len, Box::new(Page))).ok_or(Errno::ENOMEM)
    })?;
    space.map(Mapping {
        start,
        end: start + PAGE_SIZE,
        prot: Prot::READ.union(Prot::EXEC),
        shared: false,
        may_write: true,
        backing: Backing::File {
            cache: cache.clone(),
            offset: 0,
        },
        region: Region::Vdso,
        charged: false,
    })
}

/// Where a handler of this thread returns to. 0 if the program has unmapped it.
pub fn sigreturn(thread: &Thread) -> u64 {
    let Some(space) = thread.space() else {
        return 0;
    };
    let inner = space.lock();
    let mappings = inner.map.mappings();
    let mapped = |&start: &u64| {
        let at = mappings.partition_point(|mapping| mapping.end <= start);
        mappings
            .get(at)
            .is_some_and(|mapping| mapping.start == start && mapping.region == Region::Vdso)
    };
    [STACK_TOP_LOW, STACK_TOP_HIGH]
        .into_iter()
        .find(mapped)
        .map_or(0, |start| start + vdso::sigreturn_offset())
}
