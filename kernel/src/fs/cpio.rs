//! The "newc" cpio format of an initramfs: a bounds-checked iterator over its entries.
//!
//! Format: cpio(5), "New ASCII Format". Several archives may follow each other, with zero
//! padding between them, as Linux's `initramfs-buffer-format` document allows.

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// One member of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path, as stored (no NUL).
    pub name: &'a [u8],
    /// Contents; the target of a symbolic link.
    pub data: &'a [u8],
    /// Device and inode number: equal for hard links to one file.
    pub identity: (u32, u32, u32),
    /// File type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of links.
    pub links: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Of a device node: major and minor number.
    pub device: (u32, u32),
}

/// Why an archive cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The archive ends in the middle of an entry.
    Truncated,
    /// An entry does not start with 070701 or 070702.
    Magic,
    /// A header field is not hexadecimal.
    Number,
    /// A name is empty or does not end with NUL.
    Name,
}

/// The entries of an archive. After an error it ends.
pub struct Entries<'a> {
    rest: &'a [u8],
}

/// Reads `archive`.
pub fn entries(archive: &[u8]) -> Entries<'_> {
    Entries { rest: archive }
}

impl<'a> Entries<'a> {
    fn parse(&mut self) -> Result<Option<Entry<'a>>, Error> {
        loop {
            let Some(start) = self.rest.iter().position(|&byte| byte != 0) else {
                return Ok(None);
            };
            let archive = &self.rest[start..];
            let header = archive.get(..HEADER).ok_or(Error::Truncated)?;
            if !matches!(&header[..6], b"070701" | b"070702") {
                return Err(Error::Magic);
            }
            let field = |index: usize| number(&header[6 + 8 * index..14 + 8 * index]);
            let (data_len, name_len) = (field(6)? as usize, field(11)? as usize);
            // Both parts are padded so that what follows is aligned to 4 in the archive.
            let name_end = HEADER.checked_add(name_len).ok_or(Error::Truncated)?;
            let data_start = name_end
                .checked_next_multiple_of(4)
                .ok_or(Error::Truncated)?;
            let data_end = data_start.checked_add(data_len).ok_or(Error::Truncated)?;
            let name = archive.get(HEADER..name_end).ok_or(Error::Truncated)?;
            let data = archive.get(data_start..data_end).ok_or(Error::Truncated)?;
            let next = data_end.next_multiple_of(4).min(archive.len());
            let (name, end) = name
                .split_at_checked(name_len.wrapping_sub(1))
                .ok_or(Error::Name)?;
            if end != [0] || name.is_empty() {
                return Err(Error::Name);
            }
            self.rest = &archive[next..];
            if name == TRAILER {
                continue;
            }
            return Ok(Some(Entry {
                name,
                data,
                identity: (field(7)?, field(8)?, field(0)?),
                mode: field(1)?,
                uid: field(2)?,
                gid: field(3)?,
                links: field(4)?,
                mtime: field(5)?,
                device: (field(9)?, field(10)?),
            }));
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.parse().transpose();
        if matches!(entry, Some(Err(_))) {
            self.rest = &[];
        }
        entry
    }
}

fn number(digits: &[u8]) -> Result<u32, Error> {
    digits.iter().try_fold(0u32, |value, &digit| {
        let digit = (digit as char).to_digit(16).ok_or(Error::Number)?;
        Ok(value << 4 | digit)
    })
}
