//! Where things are: the source tree this binary was built from, and what it writes under `target/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The workspace: the folder above `tools/`.
///
/// The tool builds the kernel from source, so it belongs to one source tree. That is the one it was
/// compiled in, or, when that has moved, the one around the current folder.
pub fn workspace() -> Result<PathBuf> {
    let compiled = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"));
    if is_workspace(compiled) {
        return Ok(compiled.to_owned());
    }
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    match here.ancestors().find(|dir| is_workspace(dir)) {
        Some(dir) => Ok(dir.to_owned()),
        None => bail!(
            "the Cowscope source tree is neither at {} nor around {}: run this inside a clone of it",
            compiled.display(),
            here.display()
        ),
    }
}

fn is_workspace(dir: &Path) -> bool {
    dir.join("kernel/memory/Cargo.toml").is_file() && dir.join("linker").is_dir()
}

/// Cargo's target folder.
pub fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).with_context(|| format!("CARGO_TARGET_DIR={dir:?}")),
        None => Ok(workspace()?.join("target")),
    }
}

/// Cargo's target folder of the kernel and the user programs: its own, so that building them and
/// building the tool never wait for each other's lock.
pub fn image_target() -> Result<PathBuf> {
    Ok(target()?.join("image"))
}

/// The tool's own files: toolchain, images, the last trace. Created when missing.
pub fn own() -> Result<PathBuf> {
    let dir = target()?.join("cowscope");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// The trace that `run` writes unless told otherwise, and that `report` reads.
pub fn last_trace() -> Result<PathBuf> {
    Ok(own()?.join("last.cow"))
}

/// Finds a program in `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}
