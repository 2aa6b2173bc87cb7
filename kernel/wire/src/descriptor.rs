//! A descriptor is its output frame, which changes from page to page, and its attributes, which do
//! not: bits 47:12, and the others packed together.

const FRAME_MASK: u64 = 0x0000_ffff_ffff_f000;

pub(crate) const fn frame_of(descriptor: u64) -> u64 {
    (descriptor & FRAME_MASK) >> 12
}

pub(crate) const fn attributes_of(descriptor: u64) -> u32 {
    ((descriptor >> 48) << 12 | descriptor & 0xfff) as u32
}

pub(crate) const fn descriptor(frame: u64, attributes: u32) -> u64 {
    let attributes = attributes as u64;
    ((attributes >> 12) & 0xffff) << 48 | (frame << 12) & FRAME_MASK | attributes & 0xfff
}
