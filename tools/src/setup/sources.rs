//! The machine's own apt sources, read so that its backports can be added beside them: the same
//! servers, components and keys, another suite.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One source of packages, in the terms of `sources.list(5)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Servers, as written.
    pub uris: Vec<String>,
    /// Suites, such as `bookworm`.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// Everything else that says how to reach and trust it, such as `Signed-By`, by its name in
    /// the deb822 format. A value may have more lines, indented.
    pub options: Vec<(String, String)>,
}

impl Source {
    /// This source with another suite, in the deb822 format.
    pub fn with_suite(&self, suite: &str) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: {}\n",
            self.uris.join(" "),
            self.components.join(" ")
        );
        for (name, value) in &self.options {
            text += &format!("{name}: {value}\n");
        }
        text
    }
}

/// All sources of binary packages that this machine has switched on.
pub fn read(apt: &Path) -> Result<Vec<Source>> {
    let mut files = vec![apt.join("sources.list")];
    let parts = apt.join("sources.list.d");
    if let Ok(dir) = fs::read_dir(&parts) {
        let mut found = dir
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .with_context(|| format!("cannot read {}", parts.display()))?;
        found.sort();
        files.extend(found);
    }
    let mut sources = Vec::new();
    for file in files {
        let parse = match file.extension().and_then(|e| e.to_str()) {
            Some("list") => parse_lines,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        // One that may not be read, or that is no text, is not one we can copy from.
        if let Ok(text) = fs::read_to_string(&file) {
            sources.extend(parse(&text));
        }
    }
    Ok(sources)
}

/// Parses a `.sources` file.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    // A blank line ends a stanza; one more at the end ends the last.
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza(std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: Vec<(String, String)>) -> Option<Source> {
    let mut source = Source::default();
    let words = |value: &str| {
        value
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut binary = false;
    for (name, value) in fields {
        match name.to_ascii_lowercase().as_str() {
            "types" => binary = words(&value).iter().any(|w| w == "deb"),
            "uris" => source.uris = words(&value),
            "suites" => source.suites = words(&value),
            "components" => source.components = words(&value),
            "enabled" if matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0") => {
                return None;
            }
            "enabled" => {}
            _ => source.options.push((name, value)),
        }
    }
    (binary && !source.uris.is_empty() && !source.suites.is_empty()).then_some(source)
}

/// Parses a `.list` file: `deb [option=value …] uri suite component …`.
fn parse_lines(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| parse_line(line.split('#').next().unwrap_or_default()))
        .collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None; // deb-src
    }
    let mut source = Source::default();
    let mut rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        for option in options.split_whitespace() {
            let (name, value) = option.split_once('=')?;
            source
                .options
                .push((deb822_name(name)?.to_owned(), value.replace(',', " ")));
        }
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    source.uris.push(words.next()?);
    source.suites.push(words.next()?);
    source.components = words.collect();
    Some(source)
}

/// The deb822 name of a one-line option. One that we do not know makes the source one that we
/// cannot copy faithfully, and so must not.
fn deb822_name(option: &str) -> Option<&'static str> {
    Some(match option {
        "arch" => "Architectures",
        "lang" => "Languages",
        "target" => "Targets",
        "signed-by" => "Signed-By",
        "trusted" => "Trusted",
        "by-hash" => "By-Hash",
        "check-valid-until" => "Check-Valid-Until",
        "allow-insecure" => "Allow-Insecure",
        _ => return None,
    })
}

/// The sources entry that adds the backports of this release, and the name of their suite: taken
/// from the first source of the release itself.
pub fn backports(sources: &[Source], codename: &str) -> Option<(String, String)> {
    // A release can be named by its place as well.
    let names = [codename, "stable", "oldstable"];
    let (source, suite) = sources.iter().find_map(|source| {
        let suite = source
            .suites
            .iter()
            .find(|suite| names.contains(&suite.as_str()))?;
        (!source.components.is_empty()).then_some((source, suite))
    })?;
    let suite = format!("{suite}-backports");
    Some((source.with_suite(&suite), suite))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
Types: deb
# a comment inside a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb deb-src
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQENBFt

Types: deb-src
URIs: http://mirror.example/sources
Suites: bookworm
Components: main

Types: deb
Enabled: no
URIs: http://mirror.example/off
Suites: bookworm
Components: main
";

    #[test]
    fn deb822() {
        let sources = parse_deb822(DEBIAN);
        assert_eq!(
            sources.len(),
            2,
            "sources only, and switched off, are left out"
        );
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[1].components, ["main", "contrib"]);
        let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQENBFt";
        assert_eq!(sources[1].options, [("Signed-By".into(), key.into())]);
        // What is written reads back as the same.
        let again = parse_deb822(&sources[1].with_suite("bookworm-security"));
        assert_eq!(again, sources[1..]);
    }

    #[test]
    fn one_line() {
        let sources = parse_lines(
            "# comment\n\
             deb http://mirror.example/debian trixie main contrib # the rest\n\
             deb-src http://mirror.example/debian trixie main\n\
             deb [arch=amd64,arm64 signed-by=/k.gpg] https://other.example stable main\n\
             deb [mystery=1] http://other.example trixie main\n\
             deb http://flat.example ./\n\
             deb\n",
        );
        assert_eq!(sources.len(), 3);
        assert_eq!(sources[0].uris, ["http://mirror.example/debian"]);
        assert_eq!(
            sources[1].options,
            [
                ("Architectures".to_owned(), "amd64 arm64".to_owned()),
                ("Signed-By".to_owned(), "/k.gpg".to_owned())
            ]
        );
    }

    #[test]
    fn backports_are_beside_the_release() {
        let (text, suite) = backports(&parse_deb822(DEBIAN), "bookworm").unwrap();
        assert_eq!(suite, "bookworm-backports");
        assert_eq!(
            text,
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n\
             Components: main\nSigned-By: /usr/share/keyrings/archive.gpg\n"
        );
        let listed = parse_lines("deb http://mirror.example/debian stable main\n");
        assert_eq!(backports(&listed, "trixie").unwrap().1, "stable-backports");
        assert_eq!(backports(&parse_deb822(DEBIAN), "trixie"), None);
    }

    #[test]
    fn reads_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(
            dir.path().join("sources.list"),
            "deb http://one.example bookworm main\n",
        )
        .unwrap();
        fs::write(parts.join("b.sources"), DEBIAN).unwrap();
        fs::write(
            parts.join("a.list"),
            "deb http://two.example bookworm main\n",
        )
        .unwrap();
        fs::write(
            parts.join("a.list.save"),
            "deb http://three.example bookworm main\n",
        )
        .unwrap();
        let uris: Vec<_> = read(dir.path())
            .unwrap()
            .into_iter()
            .flat_map(|s| s.uris)
            .collect();
        assert_eq!(uris[..2], ["http://one.example", "http://two.example"]);
        assert_eq!(uris.len(), 4);
    }
}
