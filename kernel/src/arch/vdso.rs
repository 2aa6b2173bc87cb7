//! The bytes of the vDSO, from `vdso.s`.

use core::arch::global_asm;

global_asm!(include_str!("vdso.s"));

unsafe extern "C" {
    static vdso_start: u8;
    static vdso_end: u8;
    static vdso_epoch: u8;
    static vdso_sigreturn: u8;
}

/// Distance of a label from the start.
fn offset(label: *const u8) -> usize {
    label.addr() - (&raw const vdso_start).addr()
}

/// The ELF file.
pub fn image() -> &'static [u8] {
    let len = offset(&raw const vdso_end);
    // SAFETY: the two labels bound bytes of the image's read-only data.
    unsafe { core::slice::from_raw_parts(&raw const vdso_start, len) }
}

/// Where in it the time of day at counter value 0 belongs: seconds, nanoseconds.
pub fn epoch_offset() -> usize {
    offset(&raw const vdso_epoch)
}

/// Where in it handlers return to that bring no restorer.
pub fn sigreturn_offset() -> u64 {
    offset(&raw const vdso_sigreturn) as u64
}
