//! QEMU: found, or installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{self, Apt, Policy, Rights};
use super::sources;
use super::version::Version;
use crate::paths;
use crate::progress::Progress;

/// The first version that has `raspi4b`.
pub const LEAST: Version = Version(9, 0, 0);
const PROGRAM: &str = "qemu-system-aarch64";
const PACKAGE: &str = "qemu-system-arm";
const APT: &str = "/etc/apt";
const ADDED: &str = "/etc/apt/sources.list.d/cowscope-backports.sources";

/// A QEMU of this machine.
#[derive(Clone, Debug)]
pub struct Qemu {
    /// Its path.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// What there is: a QEMU of any version, or why not.
pub fn find(wanted: Option<&Path>) -> Result<Qemu> {
    let path = match wanted {
        Some(path) => path.to_owned(),
        None => paths::program(PROGRAM).with_context(|| format!("{PROGRAM} is not installed"))?,
    };
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(version) = Version::of_output(&said) else {
        bail!("{} does not say its version: is it QEMU?", path.display());
    };
    Ok(Qemu { path, version })
}

/// A QEMU that is new enough: installed if need be, unless the user wants a certain one.
pub fn prepare(wanted: Option<&Path>, progress: &Progress) -> Result<Qemu> {
    match find(wanted) {
        Ok(qemu) if qemu.version >= LEAST => Ok(qemu),
        Ok(qemu) if wanted.is_some() => {
            bail!(
                "{} is QEMU {}, and {LEAST} is needed",
                qemu.path.display(),
                qemu.version
            )
        }
        Err(error) if wanted.is_some() => Err(error),
        found => {
            let found = match found {
                Ok(qemu) => format!("{} is version {}", qemu.path.display(), qemu.version),
                Err(error) => format!("{error:#}"),
            };
            progress.note(&format!("{found}, and QEMU {LEAST} or newer is needed"));
            install(progress)?;
            let qemu = find(None)?;
            if qemu.version < LEAST {
                bail!(
                    "{} is still QEMU {}: another one is before the installed one in PATH",
                    qemu.path.display(),
                    qemu.version
                );
            }
            progress.note(&format!(
                "installed QEMU {} ({})",
                qemu.version,
                qemu.path.display()
            ));
            Ok(qemu)
        }
    }
}

/// How to get QEMU on this machine, for people.
pub fn hint() -> String {
    let known = [
        ("dnf", "dnf install qemu-system-aarch64-core"),
        ("pacman", "pacman -S qemu-system-aarch64"),
        ("zypper", "zypper install qemu-arm"),
        ("apk", "apk add qemu-system-aarch64"),
        ("brew", "brew install qemu"),
        ("port", "port install qemu"),
    ];
    if paths::program("apt-get").is_some() {
        return format!(
            "apt-get install {PACKAGE} (from the release's backports, if its own is too old)"
        );
    }
    match known
        .iter()
        .find(|(manager, _)| paths::program(manager).is_some())
    {
        Some((_, command)) => (*command).to_owned(),
        None => format!("install QEMU {LEAST} or newer, with {PROGRAM} in PATH"),
    }
}

fn install(progress: &Progress) -> Result<()> {
    let Some(apt) = Apt::find() else {
        bail!("QEMU {LEAST} or newer is needed. To install it: {}", hint());
    };
    let policy = apt.policy(PACKAGE)?;
    if apt.rights == Rights::None {
        bail!(
            "QEMU {LEAST} or newer is needed, and installing it takes root. Run these, and then try again:\n{}",
            commands(&policy, &backports()?)
        );
    }
    if let Some(choice) = choose(&policy) {
        return install_from(&apt, &choice, progress);
    }
    progress.step("apt-get update");
    updated(&apt, progress);
    if let Some(choice) = choose(&apt.policy(PACKAGE)?) {
        return install_from(&apt, &choice, progress);
    }

    let (stanza, suite) = backports()?.context(
        "this release's QEMU is too old, and its sources name no place that could have backports",
    )?;
    progress.note(&format!("adding {suite} to the package sources ({ADDED})"));
    write_privileged(&apt, &stanza)?;
    progress.step("apt-get update");
    updated(&apt, progress);
    match choose(&apt.policy(PACKAGE)?) {
        Some(choice) => install_from(&apt, &choice, progress),
        None => {
            apt::run(&mut apt::privileged(apt.rights, &["rm", "-f", ADDED])?)
                .context("cannot take the backports out again")?;
            bail!(
                "neither this release nor {suite} has QEMU {LEAST} or newer (the sources are as they \
                 were): use a newer release, or build QEMU and name it with --qemu"
            )
        }
    }
}

fn updated(apt: &Apt, progress: &Progress) {
    if let Err(error) = apt.update() {
        progress.warn(&format!("{error:#}"));
    }
}

/// From where to install: the default, or a suite that apt would not choose by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Default,
    Suite(String),
}

/// The way to a QEMU that is new enough, among what apt knows.
fn choose(policy: &Policy) -> Option<Choice> {
    let candidate = policy.candidate.as_deref().and_then(Version::of_package);
    let installable = policy
        .versions
        .iter()
        .any(|(version, suites)| Some(version) == policy.candidate.as_ref() && !suites.is_empty());
    if candidate.is_some_and(|version| version >= LEAST) && installable {
        return Some(Choice::Default);
    }
    let version = policy.at_least(LEAST)?;
    let (_, suites) = policy.versions.iter().find(|(v, _)| v == version)?;
    Some(Choice::Suite(suites.first()?.clone()))
}

fn install_words(choice: &Choice) -> Vec<&str> {
    let mut words = vec!["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y"];
    words.push("--no-install-recommends");
    if let Choice::Suite(suite) = choice {
        words.extend(["-t", suite]);
    }
    words.push(PACKAGE);
    words
}

fn install_from(apt: &Apt, choice: &Choice, progress: &Progress) -> Result<()> {
    let words = install_words(choice);
    progress.step(&words.join(" "));
    let mut command = apt::privileged(apt.rights, &words)?;
    apt::run(&mut command).context("cannot install QEMU")
}

/// What the user would have to run, as root or with sudo.
fn commands(policy: &Policy, backports: &Option<(String, String)>) -> String {
    let sudo = |words: Vec<&str>| format!("  sudo {}\n", words.join(" "));
    if let Some(choice) = choose(policy) {
        return sudo(install_words(&choice));
    }
    let mut text = sudo(vec!["apt-get", "update"]);
    match backports {
        // The lists may be old, or this release's own QEMU may do: a user will see.
        Some((stanza, suite)) => {
            text = format!("  sudo tee {ADDED} >/dev/null <<'END'\n{stanza}END\n{text}");
            text += &sudo(install_words(&Choice::Suite(suite.clone())));
        }
        None => text += &sudo(install_words(&Choice::Default)),
    }
    text
}

/// The name of this machine's release, such as `bookworm`.
pub(super) fn release() -> Option<String> {
    codename(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
}

fn backports() -> Result<Option<(String, String)>> {
    let Some(codename) = release() else {
        return Ok(None);
    };
    Ok(sources::backports(
        &sources::read(Path::new(APT))?,
        &codename,
    ))
}

fn codename(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let name = value.trim().trim_matches('"');
    (!name.is_empty()).then(|| name.to_owned())
}

fn write_privileged(apt: &Apt, stanza: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    std::io::Write::write_all(&mut file, stanza.as_bytes())
        .context("cannot write a temporary file")?;
    let mut command = apt::privileged(apt.rights, &["install", "-m", "644"])?;
    apt::run(command.arg(file.path()).arg(ADDED)).with_context(|| format!("cannot write {ADDED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(candidate: &str, versions: &[(&str, &str)]) -> Policy {
        let suites = |s: &str| s.split_whitespace().map(str::to_owned).collect();
        Policy {
            candidate: Some(candidate.to_owned()),
            versions: versions
                .iter()
                .map(|(v, s)| ((*v).to_owned(), suites(s)))
                .collect(),
        }
    }

    #[test]
    fn a_good_candidate_is_taken_as_it_is() {
        let policy = policy(
            "1:10.0.7+ds-0+deb13u1",
            &[("1:10.0.7+ds-0+deb13u1", "trixie")],
        );
        assert_eq!(choose(&policy), Some(Choice::Default));
        assert!(!install_words(&Choice::Default).contains(&"-t"));
    }

    #[test]
    fn backports_are_asked_for_by_name() {
        let versions = [
            ("1:10.0.2+ds-2~bpo12+1", "bookworm-backports"),
            ("1:7.2+dfsg-7", "bookworm"),
        ];
        let choice = choose(&policy("1:7.2+dfsg-7", &versions)).unwrap();
        assert_eq!(choice, Choice::Suite("bookworm-backports".into()));
        assert!(install_words(&choice).ends_with(&["-t", "bookworm-backports", PACKAGE]));
    }

    #[test]
    fn too_old_is_not_taken() {
        assert_eq!(
            choose(&policy("1:7.2+dfsg-7", &[("1:7.2+dfsg-7", "bookworm")])),
            None
        );
        assert_eq!(choose(&Policy::default()), None);
        // Known only because it was installed once: it cannot be had.
        assert_eq!(choose(&policy("1:9.9", &[("1:9.9", "")])), None);
    }

    #[test]
    fn without_root_the_commands_are_complete() {
        let old = policy("1:7.2+dfsg-7", &[("1:7.2+dfsg-7", "bookworm")]);
        let stanza = "Types: deb\nURIs: http://mirror.example/debian\n".to_owned();
        let text = commands(&old, &Some((stanza, "bookworm-backports".into())));
        let order = [
            "tee ",
            "Types: deb\n",
            "\nEND\n",
            "apt-get update",
            "-t bookworm-backports",
        ];
        let places: Vec<_> = order
            .iter()
            .map(|word| text.find(word).expect(word))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn release_names() {
        assert_eq!(
            codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(),
            Some("bookworm")
        );
        assert_eq!(
            codename("VERSION_CODENAME=\"noble\"").as_deref(),
            Some("noble")
        );
        assert_eq!(codename("ID=arch\n"), None);
    }
}
