//! Debian's arm64 packages as a root file system for the guest. The machine's apt says where they
//! come from and checks their signatures; everything it writes stays below `target/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{self, Apt, Rights};
use super::complete;
use crate::exit::usage;
use crate::paths;
use crate::progress::Progress;

/// What no program needs to run, and what would take the guest's memory.
const LEFT_OUT: [&str; 5] = ["doc", "info", "lintian", "locale", "man"];
/// The longest name of a folder that we make; ext4 takes 255 bytes.
const LONGEST: usize = 200;

/// The root file system with these packages and all that they depend on: from the cache, or made.
pub fn root(packages: &[String], progress: &Progress) -> Result<PathBuf> {
    let mut names = packages.to_vec();
    names.sort();
    names.dedup();
    for name in &names {
        if !is_package_name(name) {
            return Err(usage(format!("`{name}` is no name of a Debian package")));
        }
    }
    let cache = paths::own()?.join("packages");
    let place = cache.join(folder(&names));
    let root = place.join("root");
    if root.is_dir() {
        return Ok(root);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = cache.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    if lock.try_lock().is_err() {
        progress.step("waiting for another cowscope that fetches packages");
        lock.lock().context("cannot wait for the other one")?;
    }
    if !root.is_dir() {
        make(&names, &cache, &place, progress)
            .with_context(|| format!("cannot get the packages {}", names.join(", ")))?;
    }
    Ok(root)
}

/// The root file systems that were made before.
pub fn roots() -> Vec<PathBuf> {
    let Ok(own) = paths::own() else {
        return Vec::new();
    };
    let places = fs::read_dir(own.join("packages"));
    let places = places.into_iter().flatten().flatten();
    let mut roots: Vec<_> = places.map(|place| place.path().join("root")).collect();
    roots.retain(|root| root.is_dir());
    roots.sort();
    roots
}

/// Debian Policy, section 5.6.1. Nothing else reaches apt, least of all an option.
fn is_package_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() >= 2
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || "+-.".contains(c))
}

/// The name of the folder for a set of packages. No package has an underscore in its name.
fn folder(names: &[String]) -> String {
    use std::hash::{Hash, Hasher};
    let name = names.join("_");
    if name.len() <= LONGEST {
        return name;
    }
    let mut hasher = rustc_hash::FxHasher::default();
    names.hash(&mut hasher);
    format!("{}-packages-{:016x}", names.len(), hasher.finish())
}

fn make(names: &[String], cache: &Path, place: &Path, progress: &Progress) -> Result<()> {
    let Some(host) = Apt::find() else {
        bail!(
            "there is no apt here, and they are not in the cache ({}). Where there is apt, the same \
             command makes the root file system {}: copy it from there, or put the programs and \
             their libraries into a folder yourself, and name it with --root",
            cache.display(),
            place.display()
        );
    };
    for program in ["dpkg-deb", "tar"] {
        ensure!(
            paths::program(program).is_some(),
            "there is no {program} to unpack them with: install it"
        );
    }
    let private = Private::new(cache, host.rights)?;
    let debs = private.download(names, progress)?;

    // Whatever is left of a run that was cut off, ours since we hold the lock.
    let staging = cache.join("new");
    remove(&staging)?;
    let root = staging.join("root");
    progress.step(&format!("unpacking {} packages", debs.len()));
    complete::merge_usr(&root)?;
    for deb in &debs {
        unpack(deb, &root).with_context(|| format!("cannot unpack {}", deb.display()))?;
    }
    let scripts: Vec<_> = debs.iter().map(|deb| postinst(deb)).collect();
    complete::complete(&root, &scripts, progress)?;
    let list: String = debs
        .iter()
        .filter_map(|deb| Some(format!("{}\n", deb.file_name()?.to_str()?)))
        .collect();
    fs::write(staging.join("packages"), list).context("cannot write the list of packages")?;
    remove(place)?;
    fs::rename(&staging, place)
        .with_context(|| format!("cannot move the packages to {}", place.display()))?;
    progress.note(&format!(
        "unpacked {} arm64 packages into {}",
        debs.len(),
        place.display()
    ));
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// apt for arm64 with its lists, its cache and its idea of what is installed (nothing) below
/// `target/`; sources, keys and proxies are the machine's.
pub(super) struct Private {
    dir: PathBuf,
    config: PathBuf,
}

impl Private {
    fn new(cache: &Path, rights: Rights) -> Result<Self> {
        Self::in_folder(cache.join("apt"), rights, None)
    }

    /// In a folder of its own, with these sources (in the deb822 format) instead of the machine's.
    pub(super) fn in_folder(dir: PathBuf, rights: Rights, sources: Option<&str>) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let dir = dir.join(part);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let status = dir.join("state/status");
        fs::write(&status, "").with_context(|| format!("cannot write {}", status.display()))?;
        let config = dir.join("apt.conf");
        let mut text = configuration(&dir, rights);
        if let Some(sources) = sources {
            let file = dir.join("own.sources");
            fs::write(&file, sources)
                .with_context(|| format!("cannot write {}", file.display()))?;
            text += &format!(
                "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\n",
                file.display()
            );
        }
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        Ok(Self { dir, config })
    }

    fn command(&self, words: &[&str], packages: &[String]) -> Command {
        let mut command = self.program("apt-get");
        command.args(words).args(packages);
        command
    }

    /// One of apt's programs, with this configuration.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("LC_ALL", "C").arg("-c").arg(&self.config);
        command
    }

    /// The packages and all that they depend on, downloaded unless they were before.
    fn download(&self, names: &[String], progress: &Progress) -> Result<Vec<PathBuf>> {
        let mut updated = false;
        if !self.has_lists() {
            self.update(progress);
            updated = true;
        }
        let first = self.fetch(names, progress);
        if first.is_ok() || updated {
            return first;
        }
        // A name that the old lists do not have, or a version that the server no longer has.
        self.update(progress);
        self.fetch(names, progress)
    }

    fn has_lists(&self) -> bool {
        let lists = fs::read_dir(self.dir.join("state/lists"));
        let mut names = lists
            .into_iter()
            .flatten()
            .flatten()
            .map(|list| list.file_name());
        names.any(|name| name.to_string_lossy().contains("_Packages"))
    }

    /// Some source of the machine may be broken, or have nothing for arm64, without harm: what is
    /// known afterwards counts.
    pub(super) fn update(&self, progress: &Progress) {
        progress.step("apt-get update, for arm64");
        if let Err(error) = apt::run(&mut self.command(&["update"], &[])) {
            progress.warn(&format!("{error:#}"));
        }
    }

    fn fetch(&self, names: &[String], progress: &Progress) -> Result<Vec<PathBuf>> {
        let mut simulation = self.command(&["--simulate", "install"], names);
        let output = simulation.output().context("cannot run apt-get")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("apt-get says: {}", errors.trim());
        }
        let debs: Vec<_> = said.lines().filter_map(file_name).collect();
        ensure!(!debs.is_empty(), "apt-get would install nothing");
        let archives = self.dir.join("cache/archives");
        let debs: Vec<_> = debs.into_iter().map(|deb| archives.join(deb)).collect();
        let missing = debs.iter().filter(|deb| !deb.is_file()).count();
        if missing > 0 {
            progress.step(&format!("downloading {missing} packages"));
            let words = ["--yes", "--download-only", "install"];
            apt::run(&mut self.command(&words, names))?;
        }
        match debs.iter().find(|deb| !deb.is_file()) {
            Some(deb) => bail!("apt-get did not download {}", deb.display()),
            None => Ok(debs),
        }
    }
}

/// apt.conf(5). It is read after the machine's own, whose commands after an update or an
/// installation are for the machine's own lists and packages.
fn configuration(dir: &Path, rights: Rights) -> String {
    let mut text = String::new();
    for hook in [
        "APT::Update::Pre-Invoke",
        "APT::Update::Post-Invoke",
        "APT::Update::Post-Invoke-Success",
        "DPkg::Pre-Invoke",
        "DPkg::Pre-Install-Pkgs",
        "DPkg::Post-Invoke",
        "APT::Architectures",
        "Acquire::Languages",
    ] {
        text += &format!("#clear {hook};\n");
    }
    text += "APT::Architecture \"arm64\";\nAPT::Architectures { \"arm64\"; };\n\
             APT::Install-Recommends \"false\";\nAPT::Install-Suggests \"false\";\n\
             APT::Keep-Downloaded-Packages \"true\";\nAcquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n";
    if rights == Rights::Root {
        // Else apt downloads as a user who may not write into our folders.
        text += "APT::Sandbox::User \"root\";\n";
    }
    let dir = dir.display();
    text += &format!(
        "Dir::State \"{dir}/state/\";\nDir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}/cache/\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
         Dir::Cache::archives \"archives/\";\n"
    );
    text
}

/// The file of a package in `apt-get --simulate`'s words: `Inst name (version source, ... [arch])`.
fn file_name(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let (_, rest) = rest.split_once('(')?;
    let (version, rest) = rest.split_once(' ')?;
    // Behind it there may be names of packages in brackets, too.
    let (rest, _) = rest.split_once("])")?;
    let (_, arch) = rest.rsplit_once('[')?;
    let name = name.split(':').next()?;
    // apt writes the colon of an epoch as URLs do.
    Some(format!("{name}_{}_{arch}.deb", version.replace(':', "%3a")))
}

fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let pipe = archive.stdout.take().context("dpkg-deb has no output")?;
    let left_out = LEFT_OUT.map(|name| format!("--exclude=./usr/share/{name}/*"));
    let tar = Command::new("tar")
        // Packages still have files in /bin and /lib, which are links to directories here.
        .args(["-x", "--keep-directory-symlink", "--no-same-owner"])
        .args(left_out)
        .arg("-C")
        .arg(root)
        .stdin(pipe)
        .output()
        .context("cannot run tar")?;
    let unpacked = archive.wait().context("cannot wait for dpkg-deb")?;
    ensure!(
        tar.status.success() && unpacked.success(),
        "{}",
        String::from_utf8_lossy(&tar.stderr).trim()
    );
    Ok(())
}

/// What a package runs after its installation; empty if nothing.
fn postinst(deb: &Path) -> String {
    let output = Command::new("dpkg-deb")
        .arg("--info")
        .arg(deb)
        .arg("postinst")
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["bash", "lua5.4", "libstdc++6", "0ad"] {
            assert!(is_package_name(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "-y",
            "../x",
            "a/b",
            "a b",
            "bash:arm64",
            "Bash",
            "a_b",
        ] {
            assert!(!is_package_name(bad), "{bad}");
        }
    }

    #[test]
    fn folders() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(folder(&names(&["bash", "dash"])), "bash_dash");
        let many: Vec<_> = (0..100).map(|n| format!("package{n}")).collect();
        let other: Vec<_> = (1..101).map(|n| format!("package{n}")).collect();
        assert!(folder(&many).len() <= LONGEST);
        assert_ne!(folder(&many), folder(&other));
    }

    #[test]
    fn simulations() {
        let line = "Inst busybox-static (1:1.35.0-4+b1 Debian:12.1/stable, Other:1/x [arm64])";
        assert_eq!(
            file_name(line).as_deref(),
            Some("busybox-static_1%3a1.35.0-4+b1_arm64.deb")
        );
        let line = "Inst libc6 (2.36-9 Debian:12.1/stable [arm64]) [libgcc-s1:arm64 ]";
        assert_eq!(file_name(line).as_deref(), Some("libc6_2.36-9_arm64.deb"));
        let line = "Inst tzdata (2024a-0 Debian:12.1/stable [all])";
        assert_eq!(file_name(line).as_deref(), Some("tzdata_2024a-0_all.deb"));
        assert_eq!(
            file_name("Conf tzdata (2024a-0 Debian:12.1/stable [all])"),
            None
        );
        assert_eq!(file_name("Inst "), None);
    }
}
