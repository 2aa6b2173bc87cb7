//! Cargo, for the kernel and the programs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::progress::Progress;
use crate::setup::{Toolchain, rust};

/// What a cargo above us, or the user for the host's sake, may have set: it would replace the
/// flags that the kernel needs.
const FOREIGN: [&str; 9] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_BUILD_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_TARGET_AARCH64_UNKNOWN_NONE_RUSTFLAGS",
    "CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_RUSTFLAGS",
    "CLIPPY_ARGS",
];

/// What is built of a package, and for which target.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The package.
    pub package: &'static str,
    /// The target triple.
    pub target: &'static str,
    /// With its feature `checks`. What comes of it lies beside the other one, and what the two
    /// have in common is built once.
    pub checks: bool,
}

fn command(toolchain: &Toolchain, verb: &str, wanted: Wanted) -> Result<Command> {
    let Wanted {
        package, target, ..
    } = wanted;
    let mut command = rust::cargo()?;
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.arg(verb).args([
        "--package",
        package,
        "--target",
        target,
        "--profile",
        "image",
    ]);
    let folder = paths::image_target()?;
    if wanted.checks {
        command.args(["--features", "checks"]);
        command.arg("--target-dir").arg(folder.join("checks"));
        command.env("CARGO_BUILD_BUILD_DIR", folder);
    } else {
        command.arg("--target-dir").arg(folder);
    }
    command.args(&toolchain.args);
    command.envs(toolchain.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null());
    Ok(command)
}

/// Builds all programs of a package: their ELF files by name.
pub fn build(
    toolchain: &Toolchain,
    wanted: Wanted,
    progress: &Progress,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = command(toolchain, "build", wanted)?;
    command.args(["--bins", "--message-format", "json-render-diagnostics"]);
    if std::io::stderr().is_terminal() {
        command.args(["--color", "always"]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        bail!("cargo has no output");
    };
    let (said, built) = thread::scope(|scope| {
        let said = scope.spawn(|| {
            let mut said = String::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                progress.state(line.trim());
                said.push_str(&line);
                said.push('\n');
            }
            said
        });
        let mut built = BTreeMap::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            built.extend(executable(&line));
        }
        (said.join().unwrap_or_default(), built)
    });
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("{} does not build:\n{}", wanted.package, said.trim_end());
    }
    Ok(built)
}

/// The program that a message of cargo says was built.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let file = message["executable"].as_str()?;
    Some((
        message["target"]["name"].as_str()?.to_owned(),
        PathBuf::from(file),
    ))
}

/// Runs clippy on a package, with its output shown; whether it found nothing.
pub fn clippy(toolchain: &Toolchain, wanted: Wanted) -> Result<bool> {
    let mut command = match &toolchain.clippy_driver {
        None => {
            let mut command = command(toolchain, "clippy", wanted)?;
            command.args(["--", "-D", "warnings"]);
            command
        }
        // What `cargo clippy` does, with the clippy that belongs to the compiler.
        Some(driver) => {
            let mut command = command(toolchain, "check", wanted)?;
            command.env("RUSTC_WORKSPACE_WRAPPER", driver);
            command.env(
                "CLIPPY_ARGS",
                "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
            );
            command
        }
    };
    Ok(command.status().context("cannot run cargo")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"story"},"executable":"/t/story"}"#;
        assert_eq!(
            executable(program),
            Some(("story".into(), "/t/story".into()))
        );
        for other in [
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"user"},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "not json",
        ] {
            assert_eq!(executable(other), None, "{other}");
        }
    }
}
