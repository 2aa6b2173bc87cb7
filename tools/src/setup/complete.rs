//! What the installation of Debian packages does besides unpacking them, as far as programs miss it:
//! the merged `/usr`, alternatives, a shell, users. Their scripts cannot run here, as they are for
//! another processor.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

use crate::progress::Progress;

/// Directories of `/` that are links into `/usr` (Debian since 12, file-hierarchy(7)).
const MERGED: [&str; 3] = ["bin", "lib", "sbin"];
/// Where programs are, most important first.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];
/// Directories that base-files makes on a whole system, and their permissions.
const DIRECTORIES: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
];
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n";

/// Makes the root directory, with what must be there before anything is unpacked.
pub fn merge_usr(root: &Path) -> Result<()> {
    for name in MERGED {
        let target = format!("usr/{name}");
        let directory = root.join(&target);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        link(&target, &root.join(name))?;
    }
    Ok(())
}

/// Completes what was unpacked. `scripts`: the packages' postinst scripts.
pub fn complete(root: &Path, scripts: &[String], progress: &Progress) -> Result<()> {
    for (name, mode) in DIRECTORIES {
        let path = root.join(name);
        if !path.exists() {
            fs::create_dir_all(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
    }
    for (name, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        let path = root.join(name);
        if !path.exists() {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    for (place, (_, target)) in alternatives(scripts) {
        let place = root.join(place.trim_start_matches('/'));
        if exists(&place) || !root.join(target.trim_start_matches('/')).exists() {
            continue;
        }
        if let Some(above) = place.parent() {
            fs::create_dir_all(above)
                .with_context(|| format!("cannot create {}", above.display()))?;
        }
        link(&target, &place)?;
    }
    busybox(root, progress)?;
    let shells = ["dash", "bash"];
    let shell = shells
        .iter()
        .find(|name| root.join("usr/bin").join(name).exists());
    if let Some(shell) = shell
        && !exists(&root.join("usr/bin/sh"))
    {
        link(shell, &root.join("usr/bin/sh"))?;
    }
    Ok(())
}

/// Whether anything is there, be it a link to nowhere.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn link(target: &str, place: &Path) -> Result<()> {
    symlink(target, place).with_context(|| format!("cannot create {}", place.display()))
}

/// The links that `update-alternatives --install` in these scripts would make: by place, the
/// highest priority and its target (update-alternatives(1)).
fn alternatives(scripts: &[String]) -> BTreeMap<String, (i64, String)> {
    let mut best: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for script in scripts {
        for line in script.replace("\\\n", " ").lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let Some(at) = words.iter().position(|word| *word == "--install") else {
                continue;
            };
            let [place, _name, target, priority, rest @ ..] = &words[at + 1..] else {
                continue;
            };
            let Ok(priority) = priority.parse() else {
                continue;
            };
            let slaves = rest.windows(4).filter(|words| words[0] == "--slave");
            let links = slaves.map(|words| (words[1], words[3]));
            for (place, target) in [(*place, *target)].into_iter().chain(links) {
                // A variable of the script is no path.
                if !place.starts_with('/') || !target.starts_with('/') || line.contains('$') {
                    continue;
                }
                match best.get(place) {
                    Some((other, _)) if *other >= priority => {}
                    _ => {
                        best.insert(place.to_owned(), (priority, target.to_owned()));
                    }
                }
            }
        }
    }
    best
}

/// Links for the programs that are in busybox, where no package has brought a real one.
fn busybox(root: &Path, progress: &Progress) -> Result<()> {
    let Ok(program) = fs::read(root.join("usr/bin/busybox")) else {
        return Ok(());
    };
    let applets = applets(&program);
    if applets.is_empty() {
        progress.warn("this busybox does not say what programs it has: write `busybox PROGRAM`");
    }
    for name in applets {
        if !PROGRAMS
            .iter()
            .any(|dir| exists(&root.join(dir).join(&name)))
        {
            link("busybox", &root.join("usr/bin").join(&name))?;
        }
    }
    Ok(())
}

/// The names in the table of a busybox (`applet_names` in its source): sorted, each with a zero at
/// its end, `[` and `[[` first.
fn applets(program: &[u8]) -> Vec<String> {
    const START: &[u8] = b"\0[\0[[\0";
    let Some(start) = program.windows(START.len()).position(|at| at == START) else {
        return Vec::new();
    };
    let mut names: Vec<String> = Vec::new();
    for name in program[start + 1..].split(|&byte| byte == 0) {
        let is_name = |name: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "[_-.".contains(c);
            !name.is_empty() && name.len() < 32 && name.chars().all(plain)
        };
        match str::from_utf8(name) {
            Ok(name) if is_name(name) && names.last().is_none_or(|last| &**last < name) => {
                names.push(name.to_owned());
            }
            _ => break,
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_are_those_of_the_table() {
        let program = b"\x7fELF junk\0[\0[[\0ar\0awk\0zcat\0\0other\0strings\0";
        assert_eq!(applets(program), ["[", "[[", "ar", "awk", "zcat"]);
        assert!(applets(b"\x7fELF no table").is_empty());
        assert_eq!(applets(b"\0[\0[[\0b\0a\0"), ["[", "[[", "b"]);
    }

    #[test]
    fn the_best_alternative_is_taken() {
        let mawk = "if true; then\n\tupdate-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\\n\
                    \t--slave /usr/bin/nawk nawk /usr/bin/mawk\nfi\n";
        let gawk = "update-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10\n\
                    update-alternatives --install $link x /usr/bin/x 10\n\
                    update-alternatives --install /usr/bin/y y\n";
        let found = alternatives(&[mawk.to_owned(), gawk.to_owned()]);
        let expected = [
            ("/usr/bin/awk", (10, "/usr/bin/gawk")),
            ("/usr/bin/nawk", (5, "/usr/bin/mawk")),
        ];
        let expected = expected.map(|(at, (n, to))| (at.to_owned(), (n, to.to_owned())));
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn an_unpacked_root_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        merge_usr(root).unwrap();
        fs::write(
            root.join("bin/busybox"),
            b"\x7fELF\0[\0[[\0ls\0mount\0sh\0\0",
        )
        .unwrap();
        fs::write(root.join("sbin/mount"), "real").unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "theirs").unwrap();
        complete(root, &[], &Progress::new(true)).unwrap();

        assert_eq!(
            fs::read_link(root.join("bin/ls")).unwrap(),
            Path::new("busybox")
        );
        assert_eq!(
            fs::read_link(root.join("bin/sh")).unwrap(),
            Path::new("busybox")
        );
        assert!(!exists(&root.join("usr/bin/mount")));
        assert_eq!(
            fs::read_to_string(root.join("etc/passwd")).unwrap(),
            "theirs"
        );
        let mode = fs::metadata(root.join("tmp")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
    }
}
