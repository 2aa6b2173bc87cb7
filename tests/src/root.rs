//! Root file systems of Debian's arm64 packages.

use std::path::PathBuf;

use tools::progress::Progress;
use tools::setup::debian;

/// The root file system with these packages, fetched if it is not there yet.
pub fn root(packages: &[&str]) -> PathBuf {
    let names: Vec<_> = packages.iter().map(|name| (*name).to_owned()).collect();
    match debian::root(&names, &Progress::new(false)) {
        Ok(root) => root,
        Err(error) => panic!("there is no root file system with {packages:?}: {error:#}"),
    }
}
