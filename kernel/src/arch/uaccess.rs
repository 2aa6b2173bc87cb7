//! User memory, touched with the user's own permissions (LDTR, STTR), so that a store into a
//! copy-on-write page takes the same fault as the program's own store.

use super::cpu;
use memory::USER_END;

/// The user's memory cannot be read or written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Bytes of a number, where they are one load or store: the kernel is built for memory that permits
/// no unaligned ones.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

unsafe extern "C" {
    fn uaccess_read(to: *mut u8, from: u64, len: usize) -> isize;
    fn uaccess_write(to: u64, from: *const u8, len: usize) -> isize;
    fn uaccess_zero(to: u64, len: usize) -> isize;
    fn uaccess_read_cstr(to: *mut u8, from: u64, len: usize) -> isize;
    fn uaccess_exchange(at: u64, from: u32, to: u32) -> isize;
    static uaccess_start: u8;
    static uaccess_end: u8;
    static uaccess_fault: u8;
}

/// Where an abort at `pc` goes on when it cannot be resolved, if `pc` is a user access.
pub(super) fn fix_up(pc: u64) -> Option<u64> {
    let start = &raw const uaccess_start as u64;
    let end = &raw const uaccess_end as u64;
    (start..end)
        .contains(&pc)
        .then_some(&raw const uaccess_fault as u64)
}

fn check(address: u64, len: usize) -> Result<(), Fault> {
    match address.checked_add(len as u64) {
        Some(end) if end <= USER_END => Ok(()),
        _ => Err(Fault),
    }
}

fn done(result: isize) -> Result<(), Fault> {
    if result == 0 { Ok(()) } else { Err(Fault) }
}

/// Reads user memory. After a fault, part of `to` may have been written.
pub fn read(to: &mut [u8], from: u64) -> Result<(), Fault> {
    check(from, to.len())?;
    // SAFETY: `to` is ours; the user's side is checked by the MMU, with a fix-up for faults.
    done(unsafe { uaccess_read(to.as_mut_ptr(), from, to.len()) })
}

/// Writes user memory. After a fault, part of it may have been written.
pub fn write(to: u64, from: &[u8]) -> Result<(), Fault> {
    check(to, from.len())?;
    // SAFETY: `from` is ours; the user's side is checked by the MMU, with a fix-up for faults.
    done(unsafe { uaccess_write(to, from.as_ptr(), from.len()) })
}

/// Clears user memory.
pub fn zero(to: u64, len: usize) -> Result<(), Fault> {
    check(to, len)?;
    // SAFETY: the user's memory is checked by the MMU, with a fix-up for faults.
    done(unsafe { uaccess_zero(to, len) })
}

/// Reads a little-endian 32-bit value, in one access if it is aligned.
pub fn read_u32(from: u64) -> Result<u32, Fault> {
    let mut bytes = Aligned([0; 4]);
    read(&mut bytes.0, from)?;
    Ok(u32::from_le_bytes(bytes.0))
}

/// Replaces the 32-bit value at an aligned address by `to`, if it is `from`, as one step for the
/// program's other threads. What it was.
pub fn exchange_u32(at: u64, from: u32, to: u32) -> Result<u32, Fault> {
    check(at, 4)?;
    if !at.is_multiple_of(4) {
        return Err(Fault);
    }
    // There are no exclusive accesses with the user's permissions, but on a user's page they are
    // the same: what the kernel may write, the program may.
    let result = cpu::with_user_access(|| {
        // SAFETY: the user's memory is checked by the MMU, with a fix-up for faults.
        unsafe { uaccess_exchange(at, from, to) }
    });
    u32::try_from(result).map_err(|_| Fault)
}

/// Reads a little-endian 64-bit value.
pub fn read_u64(from: u64) -> Result<u64, Fault> {
    let mut bytes = Aligned([0; 8]);
    read(&mut bytes.0, from)?;
    Ok(u64::from_le_bytes(bytes.0))
}

/// Writes a little-endian 64-bit value.
pub fn write_u64(to: u64, value: u64) -> Result<(), Fault> {
    write(to, &Aligned(value.to_le_bytes()).0)
}

/// Writes a little-endian 32-bit value.
pub fn write_u32(to: u64, value: u32) -> Result<(), Fault> {
    write(to, &Aligned(value.to_le_bytes()).0)
}

/// Reads a string up to its NUL into `to`, and says how long it is (without the NUL). A length
/// equal to `to.len()` means that no NUL was found.
pub fn read_cstr(from: u64, to: &mut [u8]) -> Result<usize, Fault> {
    // A string may end anywhere before the end of the user's half.
    let room = USER_END.checked_sub(from).ok_or(Fault)?;
    let len = to.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    // SAFETY: `to` has `len` bytes; the user's side is checked by the MMU, with a fix-up.
    let count = unsafe { uaccess_read_cstr(to.as_mut_ptr(), from, len) };
    match usize::try_from(count) {
        Ok(count) if count == len && len < to.len() => Err(Fault),
        Ok(count) => Ok(count),
        Err(_) => Err(Fault),
    }
}
