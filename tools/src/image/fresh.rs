//! Whether what was built is still what would be built: cargo takes most of a second to say so, twice.
//!
//! As cargo does it, by the files' times and lengths: of all sources, of what tells cargo how, of this
//! program, which says with which options, and of what came of it. Only the compiler is not looked at:
//! what an older one has made of the same sources stays good until they change.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};

use super::{Built, Variant, write_if_changed};
use crate::paths;

/// What kernel and programs are made from, in the workspace.
const SOURCES: [&str; 6] = [
    "kernel",
    "linker",
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
];

/// Variables that change what cargo makes.
const VARIABLES: [&str; 3] = ["DEFMT_LOG", "COWSCOPE_TOOLCHAIN", "CARGO_HOME"];
/// And those that begin so.
const PREFIX: &str = "CARGO_PROFILE_";

/// What was built, and from what.
#[derive(Serialize, Deserialize)]
struct Record {
    sources: u64,
    results: u64,
    kernel: PathBuf,
    programs: BTreeMap<String, PathBuf>,
}

/// What the sources are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources(u64);

impl Sources {
    /// Looks at all of them.
    pub fn now() -> Result<Self> {
        let workspace = paths::workspace()?;
        let mut hasher = FxHasher::default();
        workspace.hash(&mut hasher);
        for name in SOURCES {
            add(&mut hasher, &workspace.join(name))?;
        }
        if let Ok(own) = std::env::current_exe() {
            add(&mut hasher, &own)?;
        }
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        for file in home.into_iter().map(|home| home.join("config.toml")) {
            if file.exists() {
                add(&mut hasher, &file)?;
            }
        }
        let mut variables: Vec<_> = std::env::vars_os()
            .filter(|(name, _)| {
                let name = name.to_string_lossy();
                VARIABLES.contains(&&*name) || name.starts_with(PREFIX)
            })
            .collect();
        variables.sort();
        variables.hash(&mut hasher);
        Ok(Self(hasher.finish()))
    }

    /// What was built from them, if it is there as it was.
    pub fn built(self, variant: Variant) -> Option<Built> {
        let record = fs::read(file(variant).ok()?).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        let built = Built {
            kernel: record.kernel,
            programs: record.programs,
        };
        let same = record.sources == self.0 && results(&built).ok()? == record.results;
        same.then_some(built)
    }

    /// Remembers what was built from them.
    pub fn remember(self, variant: Variant, built: &Built) -> Result<()> {
        let record = Record {
            sources: self.0,
            results: results(built)?,
            kernel: built.kernel.clone(),
            programs: built.programs.clone(),
        };
        write_if_changed(&file(variant)?, &serde_json::to_vec(&record)?)
    }
}

fn file(variant: Variant) -> Result<PathBuf> {
    let name = match variant {
        Variant::Plain => "built.json",
        Variant::Checks => "built-checks.json",
    };
    Ok(paths::own()?.join(name))
}

fn results(built: &Built) -> Result<u64> {
    let mut hasher = FxHasher::default();
    for file in [&built.kernel].into_iter().chain(built.programs.values()) {
        add(&mut hasher, file)?;
    }
    Ok(hasher.finish())
}

/// A file, or everything below a directory.
fn add(hasher: &mut FxHasher, path: &Path) -> Result<()> {
    let why = || format!("cannot look at {}", path.display());
    let found = fs::metadata(path).with_context(why)?;
    path.hash(hasher);
    if !found.is_dir() {
        state(&found).hash(hasher);
        return Ok(());
    }
    let mut entries = fs::read_dir(path)
        .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
        .with_context(why)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        add(hasher, &entry.path())?;
    }
    Ok(())
}

fn state(found: &Metadata) -> (u64, Option<std::time::SystemTime>) {
    (found.len(), found.modified().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn hash(path: &Path) -> u64 {
        let mut hasher = FxHasher::default();
        add(&mut hasher, path).unwrap();
        hasher.finish()
    }

    #[test]
    fn every_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("file");
        fs::write(&file, "one").unwrap();
        let mut seen = vec![hash(dir.path())];
        assert_eq!(hash(dir.path()), seen[0]);
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(later)
            .unwrap();
        seen.push(hash(dir.path()));
        fs::write(inner.join("another"), "").unwrap();
        seen.push(hash(dir.path()));
        fs::rename(&file, inner.join("renamed")).unwrap();
        seen.push(hash(dir.path()));
        fs::remove_file(inner.join("another")).unwrap();
        seen.push(hash(dir.path()));
        let different: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(different.len(), seen.len(), "{seen:?}");
    }

    #[test]
    fn a_result_that_is_gone_or_another_is_built_again() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        fs::write(&kernel, "one").unwrap();
        let built = Built {
            kernel: kernel.clone(),
            programs: BTreeMap::new(),
        };
        let before = results(&built).unwrap();
        fs::write(&kernel, "longer").unwrap();
        assert_ne!(results(&built).unwrap(), before);
        fs::remove_file(&kernel).unwrap();
        assert!(results(&built).is_err());
    }
}
