//! `cowscope doctor`: what this machine has of all that is needed, and how to get the rest.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use serde_json::json;

use crate::cli::{DoctorArgs, DoctorFormat};
use crate::exit::Exit;
use crate::paths;
use crate::progress::Progress;
use crate::setup::{Version, linux, qemu, rust};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    /// Nothing works without it.
    required: bool,
    ok: bool,
    /// What was found, or what is wrong.
    found: String,
    /// How to get it, when it is not there.
    fix: String,
}

/// Free space that a first build takes, with the compiler from packages.
const SPACE: u64 = 3 << 30;

/// `cowscope doctor`
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if let Some(line) = &args.board {
        return crate::boot::doctor::run(line, args.format);
    }
    if args.fix {
        // On stderr, like all progress, so that `--format json` stays JSON.
        let progress = Progress::new(false);
        for result in [
            qemu::prepare(None, &progress).map(drop),
            rust::prepare(&progress).map(drop),
        ] {
            if let Err(error) = result {
                progress.warn(&format!("{error:#}"));
            }
        }
    }
    let checks = checks();
    match args.format {
        DoctorFormat::Text => std::io::stdout().write_all(text(&checks).as_bytes())?,
        DoctorFormat::Json => writeln!(std::io::stdout(), "{:#}", json(&checks))?,
    }
    let healthy = checks.iter().all(|check| check.ok || !check.required);
    Ok(if healthy { Exit::Ok } else { Exit::Finding }.into())
}

fn checks() -> Vec<Check> {
    vec![
        cargo(),
        compiler(),
        qemu_version(),
        space(),
        ports(),
        optional(
            "qemu-aarch64",
            "runs the programs on Linux, for comparison",
            "qemu-user",
        ),
        debian_kernel(),
        optional("gdb-multiarch", "debugs the kernel", "gdb-multiarch"),
    ]
}

fn cargo() -> Check {
    let found = rust::cargo().and_then(|mut cargo| Ok(cargo.arg("--version").output()?));
    let said = found.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let said = said.unwrap_or_default();
    let ok = Version::of_output(&said).is_some_and(|version| version >= rust::least());
    Check {
        name: "cargo",
        required: true,
        ok,
        found: if said.is_empty() {
            "not found".to_owned()
        } else {
            said
        },
        fix: format!("install Rust {} or newer by rustup", rust::least()),
    }
}

fn compiler() -> Check {
    let (ok, found) = match rust::find() {
        Ok(toolchain) => (true, toolchain.name),
        Err(error) => (false, format!("{error:#}")),
    };
    Check {
        name: "compiler for AArch64",
        required: true,
        ok,
        found,
        fix: format!(
            "`cowscope run` and `doctor --fix` install it: with rustup, or from Debian's packages into \
             target/ ({}=rustup|packages to choose)",
            rust::CHOICE
        ),
    }
}

fn qemu_version() -> Check {
    let wanted = std::env::var_os("COWSCOPE_QEMU");
    let (ok, found) = match qemu::find(wanted.as_deref().map(Path::new)) {
        Ok(qemu) => (
            qemu.version >= qemu::LEAST,
            format!(
                "{} ({}); {} is needed",
                qemu.version,
                qemu.path.display(),
                qemu::LEAST
            ),
        ),
        Err(error) => (false, format!("{error:#}")),
    };
    Check {
        name: "QEMU",
        required: true,
        ok,
        found,
        fix: qemu::hint(),
    }
}

fn space() -> Check {
    let free = paths::own().ok().and_then(|dir| free_bytes(&dir));
    let (ok, found) = match free {
        Some(free) => (free >= SPACE, format!("{:.1} GB free", free as f64 / 1e9)),
        // Not to know it is no reason to refuse.
        None => (true, "unknown".to_owned()),
    };
    Check {
        name: "disk space for target/",
        required: true,
        ok,
        found,
        fix: format!(
            "{} GB are needed; CARGO_TARGET_DIR can be elsewhere",
            SPACE >> 30
        ),
    }
}

/// As `df` has it: POSIX, so that it is the same everywhere.
fn free_bytes(dir: &Path) -> Option<u64> {
    let output = Command::new("df").arg("-Pk").arg(dir).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// Serial adapters, for boards: there need not be one, but one that is there should be usable.
fn ports() -> Check {
    let mut usable = Vec::new();
    let mut closed = Vec::new();
    for entry in Path::new("/dev").read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let adapter = ["ttyUSB", "ttyACM", "cu.usb"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if adapter {
            // Looked at, not opened: opening pulls the lines that reset some boards.
            let list = if may_use(&entry.path()) {
                &mut usable
            } else {
                &mut closed
            };
            list.push(entry.path().display().to_string());
        }
    }
    usable.sort();
    let found = match (usable.as_slice(), closed.as_slice()) {
        ([], []) => "none plugged in (needed for boards only)".to_owned(),
        (_, []) => usable.join(" "),
        (_, closed) => format!("no permission for {}", closed.join(" ")),
    };
    Check {
        name: "serial ports",
        required: false,
        ok: closed.is_empty(),
        found,
        fix:
            "the port's group is often `dialout`: sudo usermod -aG dialout $USER, and log in again"
                .to_owned(),
    }
}

fn may_use(port: &Path) -> bool {
    Command::new("test")
        .arg("-w")
        .arg(port)
        .status()
        .is_ok_and(|status| status.success())
}

fn debian_kernel() -> Check {
    let path = linux::find();
    Check {
        name: "Debian's arm64 kernel",
        required: false,
        ok: path.is_some(),
        found: match path {
            Some(path) => path.display().to_string(),
            None => "not in the cache; tests compare our kernel with it".to_owned(),
        },
        fix: "`cargo test -p tests --test debian` fetches it (28 MB, by apt, into target/)"
            .to_owned(),
    }
}

fn optional(program: &'static str, what: &str, package: &str) -> Check {
    let path = paths::program(program);
    Check {
        name: program,
        required: false,
        ok: path.is_some(),
        found: match path {
            Some(path) => path.display().to_string(),
            None => format!("not found; it {what}"),
        },
        fix: format!("Debian's package {package}"),
    }
}

fn text(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let state = match (check.ok, check.required) {
            (true, _) => "ok      ",
            (false, true) => "MISSING ",
            (false, false) => "optional",
        };
        text += &format!("{state}  {:width$}  {}\n", check.name, check.found);
        if !check.ok {
            text += &format!("{:8}  {:width$}  -> {}\n", "", "", check.fix);
        }
    }
    text
}

fn json(checks: &[Check]) -> serde_json::Value {
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "required": check.required,
                "ok": check.ok,
                "found": check.found,
                "fix": if check.ok { None } else { Some(&check.fix) },
            })
        })
        .collect();
    let healthy = checks.iter().all(|check| check.ok || !check.required);
    json!({ "schema_version": 1, "ok": healthy, "checks": list })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_cure() {
        let check = |ok, required| Check {
            name: "thing",
            required,
            ok,
            found: "seen".into(),
            fix: "get it".into(),
        };
        assert_eq!(text(&[check(true, true)]), "ok        thing  seen\n");
        assert!(text(&[check(false, true)]).contains("MISSING   thing  seen\n"));
        assert!(text(&[check(false, false)]).contains("-> get it"));
        let report = json(&[check(true, true), check(false, false)]);
        assert_eq!(report["ok"], true);
        assert_eq!(report["checks"][0]["fix"], serde_json::Value::Null);
        assert_eq!(report["checks"][1]["fix"], "get it");
        assert_eq!(json(&[check(false, true)])["ok"], false);
    }

    #[test]
    fn there_is_some_space_here() {
        assert!(free_bytes(&std::env::temp_dir()).is_some_and(|free| free > 0));
    }
}
