//! From the head's tables to the kernel's memory.

use super::{cpu::MAX_CPUS, heap, layout, mmu, table};
use crate::board::Board;
use memory::{Frame, FrameMeta, Frames, PAGE_SIZE};

/// Bytes of heap to start with.
const HEAP_START: u64 = 128 * 1024;

/// Maps RAM, gives what is free to the allocator, and drops the identity map. `asid_bits` is at
/// most what the core has.
pub fn memory(board: &mut Board, asid_bits: u8, overcommit: bool) -> Result<(), &'static str> {
    let lost = table::map_linear(&board.ram);
    if lost != 0 {
        return Err("RAM in more pieces than the boot tables can map");
    }
    mmu::drop_identity_map();

    // What lies beyond the linear map cannot be used.
    board.free.remove(&(layout::LINEAR_END..u64::MAX));
    let first = board.free.iter().next().ok_or("no free RAM")?.start;
    let end = board.free.iter().last().ok_or("no free RAM")?.end;
    let count = ((end - first) / PAGE_SIZE) as usize;
    let bytes = (count * size_of::<FrameMeta>()) as u64;
    let meta = board
        .free
        .take(bytes)
        .ok_or("no room for the frames' metadata")?;
    let meta = layout::linear(meta);
    for page in (meta..meta + bytes).step_by(PAGE_SIZE as usize) {
        memory::Mmu::zero_frame(&mmu::Arch, Frame::containing(page - layout::LINEAR));
    }
    // SAFETY: `count` entries of RAM that nobody else has, mapped, zeroed: a valid value each.
    let meta = unsafe { core::slice::from_raw_parts(meta as *const FrameMeta, count) };

    // The ASID pool is on the heap, and the heap grows by frames: give it a start.
    let heap = board.free.take(HEAP_START).ok_or("no room for the heap")?;
    heap::init(heap, HEAP_START).map_err(|_| "the heap cannot be mapped")?;

    let mut frames = Frames::new(meta, Frame::containing(first));
    if overcommit {
        frames.set_overcommit();
    }
    for range in board.free.iter() {
        frames.add(Frame::containing(range.start)..Frame::containing(range.end));
    }
    let memory = memory::Memory::new(mmu::Arch, frames, asid_bits, MAX_CPUS.min(board.cpus))
        .map_err(|_| "no free RAM")?;
    mmu::set_memory(memory);
    Ok(())
}
