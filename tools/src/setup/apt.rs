//! Debian's package tools, as their user.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::version::Version;
use crate::paths;

/// What we may do to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// We are root.
    Root,
    /// `sudo` works without a password.
    Sudo,
    /// Look, but do not touch.
    None,
}

/// apt of this machine.
#[derive(Clone, Debug)]
pub struct Apt {
    /// What we may do.
    pub rights: Rights,
    /// Where the package lists are kept, when they are our own instead of the machine's.
    private: Option<PathBuf>,
}

impl Apt {
    /// apt, on a machine that has it.
    pub fn find() -> Option<Self> {
        paths::program("apt-get")?;
        paths::program("apt-cache")?;
        Some(Self {
            rights: rights(),
            private: None,
        })
    }

    /// With package lists of our own below `dir`, which need no rights to update.
    pub fn with_private_lists(&self, dir: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let dir = dir.join(part);
            std::fs::create_dir_all(&dir)
                .with_context(|| format!("cannot create {}", dir.display()))?;
        }
        Ok(Self {
            rights: self.rights,
            private: Some(dir.to_owned()),
        })
    }

    /// A command of apt, by the user we are.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(dir) = &self.private {
            let option = |name: &str, sub: &str| format!("{name}={}", dir.join(sub).display());
            command.args(["-o", &option("Dir::State::lists", "lists")]);
            command.args(["-o", &option("Dir::Cache", "cache")]);
        }
        if self.rights == Rights::Root {
            // Else apt downloads as a user who may not write into our folders.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    }

    /// What is known of a package. Nothing known is no error.
    pub fn policy(&self, package: &str) -> Result<Policy> {
        let output = self
            .command("apt-cache")
            .args(["policy", package])
            .output()
            .context("cannot run apt-cache")?;
        Ok(Policy::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The control fields of a package, in this version or the one apt would choose.
    pub fn show(&self, package: &str, version: Option<&str>) -> Result<String> {
        let wanted = match version {
            Some(version) => format!("{package}={version}"),
            None => package.to_owned(),
        };
        let output = self
            .command("apt-cache")
            .args(["show", "--no-all-versions", &wanted])
            .output()
            .context("cannot run apt-cache")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Reads the package lists anew. Some source of the machine may be broken without ours being:
    /// so a failure is for the caller to judge, by what is known afterwards.
    pub fn update(&self) -> Result<()> {
        let mut command = match &self.private {
            Some(_) => self.command("apt-get"),
            None => privileged(self.rights, &["apt-get"])?,
        };
        run(command.arg("update"))
    }

    /// Downloads packages (`name=version`) into a folder.
    pub fn download(&self, packages: &[String], dir: &Path) -> Result<()> {
        run(self
            .command("apt-get")
            .arg("download")
            .args(packages)
            .current_dir(dir))
    }
}

/// Whether a package is installed.
pub fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("install ok installed"))
}

fn rights() -> Rights {
    let prints = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if prints("id", &["-u"]).as_deref() == Some("0") {
        Rights::Root
    } else if prints("sudo", &["-n", "true"]).is_some() {
        Rights::Sudo
    } else {
        Rights::None
    }
}

/// A command that changes the machine.
pub fn privileged(rights: Rights, words: &[&str]) -> Result<Command> {
    let (first, rest) = words.split_first().context("an empty command")?;
    let mut command = match rights {
        Rights::Root => Command::new(first),
        Rights::Sudo => {
            let mut command = Command::new("sudo");
            command.args([
                "-n",
                "--",
                "env",
                "LC_ALL=C",
                "DEBIAN_FRONTEND=noninteractive",
                first,
            ]);
            command
        }
        Rights::None => bail!("`{}` needs root", words.join(" ")),
    };
    command
        .args(rest)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

/// Runs a command silently. If it fails, the error has the end of what it said.
pub fn run(command: &mut Command) -> Result<()> {
    let words = words(command);
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{words}`"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n  ");
    bail!("`{words}` failed ({}):\n  {last}", output.status)
}

fn words(command: &Command) -> String {
    let args = command.get_args().map(OsStr::to_string_lossy);
    [command.get_program().to_string_lossy()]
        .into_iter()
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What `apt-cache policy` says of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The version that a plain install would take.
    pub candidate: Option<String>,
    /// All versions that can be had, and the suites that have them.
    pub versions: Vec<(String, Vec<String>)>,
}

impl Policy {
    fn parse(text: &str) -> Self {
        let mut policy = Self::default();
        let mut in_table = false;
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                ["Candidate:", version] if *version != "(none)" => {
                    policy.candidate = Some((*version).to_owned());
                }
                ["Version", "table:"] => in_table = true,
                // `500 http://server/debian suite/component arch Packages`
                [_priority, _server, place, _arch, "Packages"] if in_table => {
                    let suite = place.split('/').next().unwrap_or(place);
                    if let Some((_, suites)) = policy.versions.last_mut() {
                        suites.push(suite.to_owned());
                    }
                }
                // `*** version priority`, or the same without stars
                [.., version, priority]
                    if in_table
                        && priority.parse::<i32>().is_ok()
                        && Version::of_package(version).is_some() =>
                {
                    policy.versions.push(((*version).to_owned(), Vec::new()));
                }
                _ => {}
            }
        }
        policy
    }

    /// The newest version that is at least `least`.
    pub fn at_least(&self, least: Version) -> Option<&str> {
        let parsed = self
            .versions
            .iter()
            .filter_map(|(v, s)| Some((Version::of_package(v)?, v, s)));
        // One that only dpkg's own list has cannot be downloaded.
        let good = parsed.filter(|(version, _, suites)| *version >= least && !suites.is_empty());
        good.max_by_key(|(version, ..)| *version)
            .map(|(_, text, _)| text.as_str())
    }
}

/// A dependency, as control fields have it: the first alternative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// The package.
    pub name: String,
    /// The version, if it must be exactly this.
    pub exactly: Option<String>,
}

/// The dependencies in the control fields of a package.
pub fn dependencies(control: &str) -> Vec<Dependency> {
    let fields = control.lines().filter_map(|line| {
        line.strip_prefix("Depends:")
            .or_else(|| line.strip_prefix("Pre-Depends:"))
    });
    let one = |text: &str| {
        let first = text.split('|').next().unwrap_or_default().trim();
        let (name, constraint) = first.split_once('(').unwrap_or((first, ""));
        let name = name.trim().split(':').next().unwrap_or_default().to_owned();
        let exactly = constraint
            .trim()
            .strip_prefix('=')
            .map(|v| v.trim_end_matches(')').trim().to_owned());
        (!name.is_empty()).then_some(Dependency { name, exactly })
    };
    fields
        .flat_map(|field| field.split(',').filter_map(one))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
qemu-system-arm:
  Installed: (none)
  Candidate: 1:7.2+dfsg-7+deb12u18+b3
  Version table:
     1:10.0.2+ds-2+deb13u1~bpo12+1 100
        100 http://mirror.example/debian bookworm-backports/main amd64 Packages
 *** 1:9.9 100
        100 /var/lib/dpkg/status
     1:7.2+dfsg-7+deb12u18+b3 500
        500 http://mirror.example/debian bookworm/main amd64 Packages
        500 http://mirror.example/debian-security bookworm-security/main amd64 Packages
";

    #[test]
    fn policy() {
        let policy = Policy::parse(POLICY);
        assert_eq!(
            policy.candidate.as_deref(),
            Some("1:7.2+dfsg-7+deb12u18+b3")
        );
        assert_eq!(policy.versions.len(), 3);
        assert_eq!(policy.versions[0].1, ["bookworm-backports"]);
        assert_eq!(policy.versions[2].1, ["bookworm", "bookworm-security"]);
        assert_eq!(
            policy.at_least(Version(9, 0, 0)),
            Some("1:10.0.2+ds-2+deb13u1~bpo12+1")
        );
        assert_eq!(policy.at_least(Version(11, 0, 0)), None);
        assert_eq!(Policy::parse(""), Policy::default());
        let none = "x:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert_eq!(Policy::parse(none), Policy::default());
    }

    #[test]
    fn depends() {
        let control = "\
Package: rustc-web
Version: 1.96.0+dfsg1-1~deb12u2
Depends: libc6 (>= 2.34), libstd-rust-web-dev (= 1.96.0+dfsg1-1~deb12u2), gcc | clang, libx:any
Recommends: cargo-web
";
        let found = dependencies(control);
        let names: Vec<_> = found.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["libc6", "libstd-rust-web-dev", "gcc", "libx"]);
        assert_eq!(found[1].exactly.as_deref(), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(found[0].exactly, None);
    }

    #[test]
    fn without_rights_nothing_is_changed() {
        assert!(privileged(Rights::None, &["apt-get", "install"]).is_err());
    }
}
