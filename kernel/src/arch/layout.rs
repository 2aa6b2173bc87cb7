//! The kernel's half of the address space (TTBR1, 39 bits).
//!
//! | from                    | what                                                  |
//! |-------------------------|-------------------------------------------------------|
//! | `0xffff_ff80_0000_0000` | all RAM, linearly                                      |
//! | `0xffff_fffe_8000_0000` | kernel stacks, each above a guard                      |
//! | `0xffff_ffff_8000_0000` | the image                                              |
//! | `0xffff_ffff_d000_0000` | the heap                                               |
//! | `0xffff_ffff_f000_0000` | devices and the firmware's tables                      |

use core::ops::Range;

/// Where physical address 0 appears.
pub const LINEAR: u64 = 0xffff_ff80_0000_0000;
/// RAM above this physical address has no place in the linear map: the last six GiB of the half
/// are the image's and the windows'.
pub const LINEAR_END: u64 = 506 << 30;
/// Where the image is linked.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// Kernel stacks: room for 131,072.
pub const STACKS: Range<u64> = 0xffff_fffe_8000_0000..0xffff_ffff_8000_0000;
/// The heap.
pub const HEAP: Range<u64> = 0xffff_ffff_d000_0000..0xffff_ffff_f000_0000;
/// Devices, the device tree, the ATAGs.
pub const DEVICES: Range<u64> = 0xffff_ffff_f000_0000..0xffff_ffff_f800_0000;

/// The kernel's address of a physical one, in the linear map.
#[inline(always)]
pub const fn linear(physical: u64) -> u64 {
    LINEAR + physical
}

macro_rules! linker_symbols {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {
        $(
            $(#[$doc])*
            pub fn $name() -> u64 {
                unsafe extern "C" {
                    static $symbol: u8;
                }
                &raw const $symbol as u64
            }
        )*
    };
}

linker_symbols! {
    /// First byte of the image.
    image_start = __image_start;
    /// End of the text.
    text_end = __text_end;
    /// End of the read-only pages.
    rodata_end = __rodata_end;
    /// End of the image, bss and boot stack included.
    image_end = __image_end;
    /// First byte of the boot stack.
    boot_stack = __boot_stack;
    /// The head's translation tables.
    boot_tables = __boot_tables;
    /// The GNU build-id note.
    build_id_start = __build_id_start;
    /// Its end.
    build_id_end = __build_id_end;
}

/// The image's GNU build-id (SHA-1), by which the tools find the ELF file; zeros if it was linked
/// without one.
pub fn build_id() -> [u8; 20] {
    let len = (build_id_end() - build_id_start()) as usize;
    // SAFETY: the two symbols bound a section of the image, which is mapped read-only.
    let note = unsafe { core::slice::from_raw_parts(build_id_start() as *const u8, len) };
    // namesz, descsz, type, "GNU\0", then the id.
    note.get(16..36)
        .and_then(|id| id.try_into().ok())
        .unwrap_or_default()
}
