//! What the bits say: leaf descriptors, TTBR0_EL1 and ESR_EL1 in words.
//!
//! Only what the trace carries is decoded: level-3 page descriptors of the 4 KiB granule with a
//! 48-bit output address (Arm ARM D8.3), and the software bits the kernel keeps in 58:55.

use std::fmt;

/// Bytes per page.
pub const PAGE_SIZE: u64 = 4096;
/// Pages below one last-level table (2 MiB).
pub const LEAVES: u64 = 512;

/// Output address bits of a page descriptor.
const OUTPUT: u64 = 0x0000_ffff_ffff_f000;
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
const ACCESS_FLAG: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const UXN: u64 = 1 << 54;
/// Software: private, so that a write has to see whether it must copy.
const COW: u64 = 1 << 55;
const ANON: u64 = 1 << 56;
const SHARED: u64 = 1 << 57;
const SPECIAL: u64 = 1 << 58;

/// A level-3 page descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Whether it maps anything.
    pub const fn valid(self) -> bool {
        self.0 & 1 == 1
    }

    /// The frame it maps (meaningless unless valid).
    pub const fn frame(self) -> u64 {
        (self.0 & OUTPUT) >> 12
    }

    /// Whether EL0 may write through it (tables above it permitting).
    pub const fn writable(self) -> bool {
        self.valid() && self.0 & (READ_ONLY | USER) == USER
    }

    /// Whether it belongs to a mapping with MAP_SHARED.
    pub const fn shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// Whether it maps the zero page, which is not counted.
    pub const fn zero(self) -> bool {
        self.valid() && self.0 & SPECIAL != 0
    }

    /// Whether it maps an anonymous or privately copied frame.
    pub const fn anonymous(self) -> bool {
        self.valid() && self.0 & ANON != 0
    }

    /// Whether it maps a frame of the page cache.
    pub const fn file(self) -> bool {
        self.valid() && self.0 & (ANON | SPECIAL) == 0
    }

    /// The same page as fork leaves it in both address spaces: a private one loses its write
    /// permission, whether or not it had one.
    pub const fn forked(self) -> Descriptor {
        if self.0 & SHARED != 0 || self.0 & USER == 0 {
            return self;
        }
        Descriptor(self.0 | READ_ONLY | COW)
    }

    /// The same page after `mprotect(prot)`, which only takes permissions away (and gives back
    /// reading after PROT_NONE).
    pub const fn tightened(self, prot: u8) -> Descriptor {
        let Descriptor(bits) = self;
        if prot == 0 {
            return Descriptor(bits & !(USER | COW) | READ_ONLY | UXN);
        }
        if bits & USER == 0 {
            let cow = if bits & SHARED == 0 { COW } else { 0 };
            return Descriptor(bits | USER | READ_ONLY | UXN | cow);
        }
        let loses_write = bits & READ_ONLY == 0 && prot & 2 == 0;
        let loses_exec = bits & UXN == 0 && prot & 4 == 0;
        if loses_write || loses_exec {
            Descriptor(bits | READ_ONLY | UXN)
        } else {
            self
        }
    }

    /// The same permissions for another frame.
    pub const fn at(self, frame: u64) -> Descriptor {
        Descriptor(self.0 & !OUTPUT | frame << 12 & OUTPUT)
    }

    /// The same frame, writable.
    pub const fn written(self) -> Descriptor {
        Descriptor(self.0 & !(READ_ONLY | COW) | USER | UXN)
    }

    /// Equal in what the MMU does with it and in its frame; software bits aside.
    pub const fn same_translation(self, other: Descriptor) -> bool {
        if !self.valid() || !other.valid() {
            return self.valid() == other.valid();
        }
        self.frame() == other.frame() && self.writable() == other.writable()
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.valid() {
            return f.write_str("invalid");
        }
        f.write_str(match (self.0 & USER != 0, self.0 & READ_ONLY == 0) {
            (true, true) => "AP=RW",
            (true, false) => "AP=RO",
            (false, true) => "AP=RW/EL1",
            (false, false) => "AP=RO/EL1",
        })?;
        let flags = [
            (UXN, false, " X"),
            (NOT_GLOBAL, true, " nG"),
            (ACCESS_FLAG, true, " AF"),
            (COW, true, " COW"),
            (SPECIAL, true, " ZERO"),
            (SHARED, true, " SHARED"),
        ];
        for (bit, set, name) in flags {
            if (self.0 & bit != 0) == set {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// TTBR0_EL1 as the kernel writes it: the root table's address, and the ASID in 63:48.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ttbr0(pub u64);

impl Ttbr0 {
    /// The register value for a root table and an ASID.
    pub const fn new(root: u64, asid: u16) -> Ttbr0 {
        Ttbr0((asid as u64) << 48 | root << 12)
    }

    /// Frame of the root table.
    pub const fn root(self) -> u64 {
        (self.0 & OUTPUT) >> 12
    }

    /// Address space identifier.
    pub const fn asid(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// ESR_EL1 of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(pub u32);

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = match self.0 >> 26 {
            0x20 => (false, "instruction abort from EL0"),
            0x21 => (false, "instruction abort at EL1"),
            0x24 => (true, "data abort from EL0"),
            0x25 => (true, "data abort at EL1"),
            class => return write!(f, "exception class {class:#04x}"),
        };
        f.write_str(data.1)?;
        if data.0 {
            let maintenance = self.0 >> 8 & 1 == 1;
            let write = self.0 >> 6 & 1 == 1;
            f.write_str(match (write, maintenance) {
                (true, true) => ", cache maintenance",
                (true, false) => ", write",
                (false, _) => ", read",
            })?;
        }
        let status = self.0 & 0x3f;
        match status {
            0x00..=0x03 => write!(f, ", address size fault, level {status}"),
            0x04..=0x07 => write!(f, ", translation fault, level {}", status & 3),
            0x08..=0x0b => write!(f, ", access flag fault, level {}", status & 3),
            0x0c..=0x0f => write!(f, ", permission fault, level {}", status & 3),
            0x10 => f.write_str(", external abort"),
            0x21 => f.write_str(", alignment fault"),
            0x30 => f.write_str(", TLB conflict"),
            _ => write!(f, ", fault status {status:#04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_in_words() {
        let writable = Descriptor(0x0060_0000_4010_0f43 | ANON);
        assert_eq!(writable.to_string(), "AP=RW nG AF");
        assert_eq!(writable.frame(), 0x40100);
        assert_eq!(writable.forked().to_string(), "AP=RO nG AF COW");
        assert!(!writable.same_translation(writable.forked()));
        assert_eq!(Descriptor(0).to_string(), "invalid");
        assert_eq!(
            Descriptor(0x0020_0000_4010_0fc3).to_string(),
            "AP=RO X nG AF"
        );
    }

    #[test]
    fn registers_in_words() {
        let ttbr0 = Ttbr0::new(0x40123, 7);
        assert_eq!(
            (ttbr0.0, ttbr0.root(), ttbr0.asid()),
            (0x0007_0000_4012_3000, 0x40123, 7)
        );
        assert_eq!(
            Syndrome(0x9200_004f).to_string(),
            "data abort from EL0, write, permission fault, level 3"
        );
        assert_eq!(
            Syndrome(0x8200_0007).to_string(),
            "instruction abort from EL0, translation fault, level 3"
        );
    }
}
