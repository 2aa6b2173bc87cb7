//! What an emulator does for the machine: here, to read a file of the host's (Arm's "Semihosting for AArch32
//! and AArch64"). Only where the boot arguments say that somebody listens.

use core::arch::asm;

const SYS_OPEN: u64 = 0x01;
const SYS_READ: u64 = 0x06;
const SYS_GET_CMDLINE: u64 = 0x15;
/// SYS_OPEN's mode "rb".
const READ_BINARY: u64 = 1;

/// An open file of the host's.
#[derive(Clone, Copy, Debug)]
pub struct File(u64);

/// # Safety
/// `block` must be what the operation wants, and the memory that it names the caller's.
unsafe fn call(operation: u64, block: &mut [u64]) -> u64 {
    let result;
    // SAFETY: the caller's; x0 is the result.
    unsafe {
        asm!(
            "hlt #0xf000",
            inout("x0") operation => result,
            in("x1") block.as_mut_ptr(),
            options(nostack)
        );
    }
    result
}

impl File {
    /// Opens the file whose name is the emulator's semihosting command line.
    pub fn named_by_command_line() -> Option<File> {
        let mut name = [0_u8; 1024];
        let mut block = [name.as_mut_ptr().addr() as u64, name.len() as u64];
        // SAFETY: the buffer is ours, and as long as the block says.
        let found = unsafe { call(SYS_GET_CMDLINE, &mut block) } == 0;
        let len = name.iter().position(|&byte| byte == 0)?;
        if !found || len == 0 {
            return None;
        }
        let mut block = [name.as_ptr().addr() as u64, READ_BINARY, len as u64];
        // SAFETY: a string with its NUL.
        match unsafe { call(SYS_OPEN, &mut block) } {
            u64::MAX => None,
            handle => Some(File(handle)),
        }
    }

    /// Reads; the emulator waits if there is nothing. How much.
    pub fn read(self, to: &mut [u8]) -> usize {
        let mut block = [self.0, to.as_mut_ptr().addr() as u64, to.len() as u64];
        // SAFETY: the buffer is ours, and as long as the block says.
        let left = unsafe { call(SYS_READ, &mut block) };
        to.len()
            .saturating_sub(usize::try_from(left).unwrap_or(usize::MAX))
    }
}
