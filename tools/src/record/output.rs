//! The file that a trace goes into.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::usage;
use crate::paths;

/// A place for a trace.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    overwrite: bool,
}

impl Output {
    /// The user's file, which is not overwritten unless they say so; or the one for the last trace,
    /// which always is.
    pub fn choose(wanted: Option<&Path>, force: bool) -> Result<Self> {
        let Some(path) = wanted else {
            return Ok(Self {
                path: paths::last_trace()?,
                overwrite: true,
            });
        };
        if path == Path::new("-") {
            return Err(usage(
                "the trace needs a file, as it is read again for the report: -o FILE",
            ));
        }
        if path.is_dir() {
            return Err(usage(format!(
                "{} is a folder: name a file in it",
                path.display()
            )));
        }
        if path.exists() && !force {
            return Err(exists(path));
        }
        Ok(Self {
            path: path.to_owned(),
            overwrite: force,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `other` is the same file.
    pub fn is(&self, other: &Path) -> bool {
        match (fs::canonicalize(&self.path), fs::canonicalize(other)) {
            (Ok(one), Ok(two)) => one == two,
            _ => false,
        }
    }

    /// Creates it, empty. It stays ours until the file is closed: two that record into the same
    /// file would make one that is neither's.
    pub fn create(&self) -> Result<File> {
        let path = &self.path;
        let mut options = OpenOptions::new();
        options.write(true);
        match self.overwrite {
            true => options.create(true).truncate(false),
            false => options.create_new(true),
        };
        let file = options.open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(path),
            _ => usage(format!("cannot write {}: {error}", path.display())),
        })?;
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(usage(format!(
                "another cowscope is writing {}: name another file with -o",
                path.display()
            )));
        }
        // A device or a pipe has no length to set.
        if file.metadata().is_ok_and(|m| m.is_file()) {
            file.set_len(0)
                .with_context(|| format!("cannot empty {}", path.display()))?;
        }
        Ok(file)
    }
}

fn exists(path: &Path) -> anyhow::Error {
    usage(format!(
        "{} exists: choose another name, or --force to overwrite it",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, status};
    use std::io::Write;

    #[test]
    fn a_trace_is_not_lost_by_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cow");
        let output = Output::choose(Some(&path), false).unwrap();
        output.create().unwrap().write_all(b"precious").unwrap();

        assert!(output.create().is_err(), "it came to be in the meantime");
        let error = Output::choose(Some(&path), false).unwrap_err();
        assert_eq!(status(&error), Some(Exit::Usage));
        assert!(error.to_string().contains("--force"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        Output::choose(Some(&path), true).unwrap().create().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn two_do_not_write_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cow");
        let first = Output::choose(Some(&path), true).unwrap();
        let mut file = first.create().unwrap();
        file.write_all(b"first").unwrap();
        assert!(Output::choose(Some(&path), true).unwrap().create().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        drop(file);
        assert!(first.create().is_ok());
    }

    #[test]
    fn places_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Output::choose(Some(Path::new("-")), false).is_err());
        assert!(Output::choose(Some(dir.path()), true).is_err());
        let nowhere = Output::choose(Some(&dir.path().join("no/such")), false).unwrap();
        assert_eq!(status(&nowhere.create().unwrap_err()), Some(Exit::Usage));
    }
}
