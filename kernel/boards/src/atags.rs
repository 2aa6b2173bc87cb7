//! ATAGs: what QEMU gives a Raspberry Pi that it boots without a device tree.

use super::Board;

/// The tag every list begins with.
pub const CORE: u32 = 0x5441_0001;
const MEM: u32 = 0x5441_0002;
const INITRD2: u32 = 0x5442_0005;
const CMDLINE: u32 = 0x5441_0009;

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(4)?;
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?).into())
}

/// Reads a list: per tag its size in words, its kind, its contents.
pub fn read(board: &mut Board, bytes: &'static [u8]) {
    let mut rest = bytes;
    while let (Some(words), Some(kind)) = (word(rest, 0), word(rest, 1)) {
        // A tag shorter than its own header would never end the loop.
        let len = words as usize * 4;
        if len < 8 || len > rest.len() {
            return;
        }
        let (tag, next) = rest.split_at(len);
        let body = &tag[8..];
        match (kind as u32, word(body, 0), word(body, 1)) {
            // Size, start.
            (MEM, Some(size), Some(start)) => {
                board.ram.add(start..start.saturating_add(size));
                board.free = board.ram.clone();
            }
            // Start, size.
            (INITRD2, Some(start), Some(size)) => {
                board.initrd = start..start.saturating_add(size);
            }
            (CMDLINE, ..) => {
                let end = body
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(body.len());
                board.bootargs = core::str::from_utf8(&body[..end]).unwrap_or("");
            }
            _ => {}
        }
        rest = next;
    }
}
