//! Versions, as programs print them and as Debian writes them.

use std::fmt;

/// Major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Parses a version at the start of `text`: `10.0.2`, `1.95`, `9.2.0-rc1`. Missing parts are 0.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let mut parts = text[..end].split('.');
        let major = parts.next()?.parse().ok()?;
        let mut next = || match parts.next() {
            None | Some("") => Some(0),
            Some(part) => part.parse().ok(),
        };
        Some(Self(major, next()?, next()?))
    }

    /// Of a Debian package: `1:10.0.2+ds-2+deb13u1` is 10.0.2.
    pub fn of_package(text: &str) -> Option<Self> {
        let text = text.trim();
        Self::parse(text.split_once(':').map_or(text, |(_epoch, rest)| rest))
    }

    /// From the first line of a program's `--version`: the first word that is a version.
    pub fn of_output(text: &str) -> Option<Self> {
        text.lines()
            .next()?
            .split_whitespace()
            .find_map(Self::parse)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_programs() {
        for (text, version) in [
            (
                "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright",
                Version(10, 0, 2),
            ),
            (
                "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u15)",
                Version(7, 2, 19),
            ),
            ("QEMU emulator version 9.2.0-rc1", Version(9, 2, 0)),
            ("rustc 1.95.0 (59807616e 2026-04-14)", Version(1, 95, 0)),
            (
                "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)",
                Version(1, 97, 0),
            ),
        ] {
            assert_eq!(Version::of_output(text), Some(version), "{text}");
        }
        assert_eq!(Version::of_output("command not found"), None);
        assert_eq!(Version::of_output(""), None);
        assert_eq!(Version::parse("99999999999.1"), None);
    }

    #[test]
    fn of_packages() {
        assert_eq!(
            Version::of_package("1:10.0.2+ds-2+deb13u1~bpo12+1"),
            Some(Version(10, 0, 2))
        );
        assert_eq!(
            Version::of_package("1:7.2+dfsg-7+deb12u18+b3"),
            Some(Version(7, 2, 0))
        );
        assert_eq!(
            Version::of_package("1.96.0+dfsg1-1~deb12u2"),
            Some(Version(1, 96, 0))
        );
        assert_eq!(Version::of_package("(none)"), None);
        assert!(Version(10, 0, 2) > Version(9, 2, 4));
        assert!(Version(1, 100, 0) > Version(1, 96, 0));
    }
}
