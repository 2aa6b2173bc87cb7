//! The kernel's own translation tables: the linear map, and single pages in the windows.
//!
//! Only kernel mappings (global, never changed in place). User tables belong to `memory`.

use super::layout::{self, LINEAR, LINEAR_END};
use crate::board::Ranges;
use aarch64_cpu::asm::barrier;
use core::sync::atomic::{AtomicU64, Ordering};
use memory::{Lock, Rank};

/// MAIR_EL1: 0 normal write-back, 1 Device-nGnRE, 2 normal non-cacheable.
pub const MAIR: u64 = 0x44_04_ff;

const VALID: u64 = 1;
const PAGE: u64 = 3;
const TABLE: u64 = 3;
const DEVICE: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Page attributes of kernel text.
pub const KERNEL_RX: u64 = PAGE | READ_ONLY | INNER_SHAREABLE | ACCESSED | UXN;
/// Page attributes of constants.
pub const KERNEL_RO: u64 = KERNEL_RX | PXN;
/// Page attributes of data.
pub const KERNEL_RW: u64 = PAGE | INNER_SHAREABLE | ACCESSED | UXN | PXN;
/// Page attributes of device registers.
pub const KERNEL_DEVICE: u64 = KERNEL_RW | DEVICE;

const KIB4: u64 = 1 << 12;
const MIB2: u64 = 1 << 21;
const GIB: u64 = 1 << 30;

/// Why a kernel page was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No frame for a table.
    OutOfMemory,
    /// Something is mapped there.
    Occupied,
}

/// Physical address of the image, from the head.
static IMAGE_AT: AtomicU64 = AtomicU64::new(0);

/// Tables for what has to be mapped before there is an allocator: they serve the windows, and
/// every GiB and 2 MiB that the linear map covers only in part.
const EARLY_TABLES: usize = 40;

#[repr(C, align(4096))]
struct Table([u64; 512]);

static mut EARLY: [Table; EARLY_TABLES] = [const { Table([0; 512]) }; EARLY_TABLES];

/// The one writer of kernel tables, with the count of early tables used.
static TABLES: Lock<usize> = Lock::new(Rank::KernelTables, 0);

/// Tells where the image was loaded. First thing in `kernel_main`.
pub fn init(image_at: u64) {
    IMAGE_AT.store(image_at, Ordering::Relaxed);
}

/// The physical address of something in the image.
pub fn image_physical(va: u64) -> u64 {
    va - layout::IMAGE + IMAGE_AT.load(Ordering::Relaxed)
}

/// Physical range of the image.
pub fn image_range() -> core::ops::Range<u64> {
    image_physical(layout::image_start())..image_physical(layout::image_end())
}

/// The address to reach a table by: the image's tables are mapped before the linear map is.
fn table_at(physical: u64) -> *mut u64 {
    let image = image_range();
    if image.contains(&physical) {
        (physical - image.start + layout::IMAGE) as *mut u64
    } else {
        layout::linear(physical) as *mut u64
    }
}

fn root() -> u64 {
    image_physical(layout::boot_tables()) + 3 * KIB4
}

fn read(table: u64, index: u64) -> u64 {
    // SAFETY: `table` is a kernel table of 512 entries, reached by a mapped address; `index` is
    // below 512 by construction.
    unsafe { table_at(table).add(index as usize).read_volatile() }
}

fn write(table: u64, index: u64, value: u64) {
    // SAFETY: as in `read`; TABLES is locked, so nobody else writes.
    unsafe { table_at(table).add(index as usize).write_volatile(value) }
}

/// A zeroed table: from the early pool, later from the allocator.
fn new_table(used: &mut usize) -> Result<u64, Error> {
    let early = *used;
    if early < EARLY_TABLES {
        *used += 1;
        // SAFETY: only the address is taken.
        let va = unsafe { &raw const EARLY[early] } as u64;
        return Ok(image_physical(va));
    }
    let memory = super::mmu::try_memory().ok_or(Error::OutOfMemory)?;
    let frame = memory.alloc().ok_or(Error::OutOfMemory)?;
    memory::Mmu::zero_frame(&memory.mmu, frame);
    Ok(frame.addr())
}

/// Writes the entry for `va` at the level whose entries span `size` bytes.
fn map_one(
    used: &mut usize,
    va: u64,
    physical: u64,
    size: u64,
    attributes: u64,
) -> Result<(), Error> {
    let mut table = root();
    let mut span = GIB;
    while span > size {
        let index = (va / span) & 511;
        let entry = read(table, index);
        table = if entry & 3 == TABLE {
            entry & ADDRESS
        } else if entry & VALID == 0 {
            let new = new_table(used)?;
            // The zeroes before the pointer to them, for the walker.
            barrier::dmb(barrier::ISHST);
            write(table, index, new | TABLE);
            new
        } else {
            return Err(Error::Occupied);
        };
        span /= 512;
    }
    let index = (va / span) & 511;
    if read(table, index) & VALID != 0 {
        return Err(Error::Occupied);
    }
    // A block differs from a page in bit 1.
    let kind = if size == KIB4 { 0 } else { 2 };
    let entry = physical | (attributes & !kind);
    if size == KIB4 {
        super::mmu::kernel_page(va, 0, entry);
    }
    write(table, index, entry);
    Ok(())
}

/// Maps `[va, va + len)` to `physical` in pages; all three are multiples of 4 KiB.
pub fn map_pages(va: u64, physical: u64, len: u64, attributes: u64) -> Result<(), Error> {
    let mut used = TABLES.lock();
    for offset in (0..len).step_by(KIB4 as usize) {
        map_one(&mut used, va + offset, physical + offset, KIB4, attributes)?;
    }
    super::mmu::publish_kernel_pages();
    Ok(())
}

/// Unmaps one page of a window and gives back the physical address it had.
pub fn unmap_page(va: u64) -> Option<u64> {
    let _tables = TABLES.lock();
    let mut table = root();
    for span in [GIB, MIB2] {
        let entry = read(table, (va / span) & 511);
        if entry & 3 != TABLE {
            return None;
        }
        table = entry & ADDRESS;
    }
    let index = (va / KIB4) & 511;
    let old = read(table, index);
    if old & VALID == 0 {
        return None;
    }
    super::mmu::kernel_page(va, old, 0);
    write(table, index, 0);
    super::mmu::forget_kernel_page(va);
    Some(old & ADDRESS)
}

/// Maps RAM linearly, in the largest blocks that fit; the alias of the image's text and constants
/// is read-only. Returns the bytes that found no place (no early table left).
pub fn map_linear(ram: &Ranges) -> u64 {
    let mut used = TABLES.lock();
    let image = image_range();
    let constants = image.start..image_physical(layout::rodata_end());
    let mut lost = 0;
    for range in ram.iter() {
        let end = range.end.min(LINEAR_END);
        let mut at = range.start.min(end);
        while at < end {
            let fits = |size: u64| {
                at.is_multiple_of(size)
                    && at + size <= end
                    && (at + size <= constants.start || at >= constants.end)
            };
            let size = [GIB, MIB2, KIB4].into_iter().find(|&size| fits(size));
            let (size, attributes) = match size {
                Some(size) => (size, KERNEL_RW),
                None => (KIB4, KERNEL_RO),
            };
            if map_one(&mut used, LINEAR + at, at, size, attributes).is_err() {
                lost += size;
            }
            at += size;
        }
    }
    super::mmu::publish_kernel_pages();
    lost
}

/// The next free address of the device window.
static DEVICE_NEXT: AtomicU64 = AtomicU64::new(layout::DEVICES.start);

fn map_window(physical: u64, len: u64, attributes: u64) -> Result<u64, Error> {
    let first = physical & !(KIB4 - 1);
    let len = (physical + len).next_multiple_of(KIB4) - first;
    // A hole of one page between neighbours.
    let va = DEVICE_NEXT.fetch_add(len + KIB4, Ordering::Relaxed);
    if va + len > layout::DEVICES.end {
        return Err(Error::OutOfMemory);
    }
    map_pages(va, first, len, attributes)?;
    Ok(va + (physical - first))
}

/// Maps device registers, for good.
pub fn map_device(physical: u64, len: u64) -> Result<u64, Error> {
    map_window(physical, len, KERNEL_DEVICE)
}

/// Maps something the firmware left in RAM, read-only, for good: reachable before the linear map.
pub fn map_firmware(physical: u64, len: u64) -> Result<u64, Error> {
    map_window(physical, len, KERNEL_RO)
}
