//! What the guest finds when it starts: its root file system, the program to run, and the program's
//! arguments and environment.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, anyhow};

use super::{Built, Entry, Initramfs, flat, tree};
use crate::exit::{unreadable, usage};
use crate::machine::{Board, BootArgs};
use crate::progress::Progress;

/// A file of the host that a program should find in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// Its path here.
    pub host: PathBuf,
    /// Its path there.
    pub guest: String,
}

impl FromStr for GuestFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':') {
            Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok(Self {
                host: host.into(),
                guest: guest.to_owned(),
            }),
            _ => Err("write it like ./data.bin:/etc/data.bin".to_owned()),
        }
    }
}

/// What a user asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The directory that becomes `/`, if it is not only our programs.
    pub root: Option<&'a Path>,
    /// More files.
    pub files: &'a [GuestFile],
    /// `NAME=VALUE`.
    pub environment: &'a [String],
    /// The program and its arguments; none: the demonstration.
    pub program: &'a [String],
}

/// What a machine boots, besides the kernel.
#[derive(Debug)]
pub struct Guest {
    /// The root file system.
    pub root: Initramfs,
    /// ELF files that may run in it, other than our own and those of the user's root file system.
    pub elves: Vec<PathBuf>,
    /// The program is the demonstration.
    pub is_story: bool,
    /// The program is the user's.
    pub is_foreign: bool,
    /// The first program, unless it is `/init`.
    init: Option<String>,
    words: Vec<String>,
    environment: Vec<String>,
}

/// The program of ours that is the demonstration.
const STORY: &str = "story";
/// The directory for what is ours in a root file system that is not.
const OURS: &str = "/.cowscope";
/// The file that tells the first program what boot arguments cannot.
const ARGUMENTS: &str = "/.cowscope/arguments";
/// Where programs are looked for, as on Debian; ours last.
const PATH: [&str; 7] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/.cowscope/bin",
];
/// Directories that programs expect, and their permissions.
const DIRECTORIES: [(&str, u32); 5] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/proc", 0o755),
    ("/root", 0o700),
    ("/tmp", 0o1777),
];

impl Guest {
    /// Puts together what is wanted.
    pub fn new(wanted: Wanted<'_>, built: &Built, progress: &Progress) -> Result<Self> {
        let mut guest = match wanted.root {
            Some(dir) => Self::with_root(dir, built, progress)?,
            None => Self {
                root: super::root(&built.programs)?,
                elves: Vec::new(),
                is_story: false,
                is_foreign: false,
                init: None,
                words: Vec::new(),
                environment: Vec::new(),
            },
        };
        for file in wanted.files {
            guest.add_file(file)?;
        }
        guest.choose(wanted.program, built)?;
        for variable in wanted.environment {
            match variable.split_once('=') {
                Some((name, _)) if !name.is_empty() => guest.set(name, variable),
                _ => return Err(usage(format!("--env {variable}: write NAME=VALUE"))),
            }
        }
        Ok(guest)
    }

    /// The user's directory as `/`; ours has a place of its own in it.
    fn with_root(dir: &Path, built: &Built, progress: &Progress) -> Result<Self> {
        let mut root = Initramfs::new();
        tree::add(&mut root, dir, progress)?;
        for (path, mode) in DIRECTORIES {
            if root.resolve(path.as_bytes()).is_none() {
                let made = root.insert(path.as_bytes(), Entry::Directory(mode));
                made.map_err(|error| usage(format!("{}: {error}", dir.display())))?;
            }
        }
        for (name, file) in &built.programs {
            let program = super::packed(file)?;
            root.file(&format!("{OURS}{}", super::guest_path(name)), program)?;
        }
        let mut guest = Self {
            root,
            elves: Vec::new(),
            is_story: false,
            is_foreign: true,
            init: Some(format!("{OURS}/init")),
            words: Vec::new(),
            environment: Vec::new(),
        };
        guest.set("PATH", &format!("PATH={}", PATH.join(":")));
        guest.set("HOME", "HOME=/root");
        Ok(guest)
    }

    /// Sets a variable of the program's environment.
    fn set(&mut self, name: &str, variable: &str) {
        let same = |old: &String| old.split('=').next() == Some(name);
        self.environment.retain(|old| !same(old));
        self.environment.push(variable.to_owned());
    }

    /// Sets a variable, unless the user has.
    pub fn set_default(&mut self, name: &str, value: &str) {
        let prefix = format!("{name}=");
        if !self.environment.iter().any(|old| old.starts_with(&prefix)) {
            self.environment.push(prefix + value);
        }
    }

    fn add_file(&mut self, file: &GuestFile) -> Result<()> {
        let shown = file.host.display();
        let contents = std::fs::read(&file.host)
            .map_err(|error| unreadable(format!("cannot read {shown}: {error}")))?;
        if flat::is_elf(&contents) {
            self.elves.push(file.host.clone());
        }
        self.root
            .file(&file.guest, contents)
            .map_err(|error| usage(format!("--file: {error}")))
    }

    /// Finds the program, in the guest or on this machine, and makes sure that it can run.
    fn choose(&mut self, words: &[String], built: &Built) -> Result<()> {
        let Some((name, arguments)) = words.split_first() else {
            if self.is_foreign {
                return Err(usage(
                    "what is to run? Name a program of the root file system: \
                     cowscope run … -- sh -c 'echo hello'",
                ));
            }
            self.is_story = true;
            return Ok(());
        };
        let ours = self.init.is_none() && built.programs.contains_key(name);
        let called = if ours {
            self.is_story = name == STORY;
            name.clone()
        } else if let Some(path) = self.find(name)? {
            self.is_foreign = true;
            self.check(&path, &path)?;
            name.clone()
        } else if name.contains('/') || Path::new(name).is_file() || self.init.is_none() {
            self.is_foreign = true;
            self.add_program(Path::new(name), built)?
        } else {
            return Err(usage(format!(
                "there is no program `{name}` in the root file system (in {}): add the package that \
                 has it with --package, or name a file",
                PATH.join(":")
            )));
        };
        self.words = [&[called], arguments].concat();
        Ok(())
    }

    /// The path of a program in the guest: a path, or a name in one of the directories.
    fn find(&self, name: &str) -> Result<Option<String>> {
        let candidates: Vec<String> = match name.contains('/') {
            true => vec![name.to_owned()],
            false if self.init.is_some() => {
                PATH.iter().map(|dir| format!("{dir}/{name}")).collect()
            }
            false => vec![format!("/bin/{name}"), format!("/{name}")],
        };
        let mut refused = None;
        for path in candidates {
            match self.root.get(path.as_bytes()) {
                Some(Entry::File(mode, _)) if mode & 0o111 != 0 => return Ok(Some(path)),
                Some(Entry::File(..)) => refused = refused.or(Some(path)),
                _ => {}
            }
        }
        match refused {
            Some(path) => Err(unreadable(format!(
                "{path} has no permission to be executed: chmod +x"
            ))),
            None => Ok(None),
        }
    }

    /// Puts a program of this machine into the guest; returns its path there.
    fn add_program(&mut self, file: &Path, built: &Built) -> Result<String> {
        let shown = file.display();
        let program = std::fs::read(file).map_err(|error| {
            let ours: Vec<_> = built.programs.keys().map(String::as_str).collect();
            let ours = ours.join(", ");
            unreadable(format!(
                "cannot read the program {shown}: {error} (our own are: {ours})"
            ))
        })?;
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| anyhow!("{shown}: the name of a program must be text"))?;
        // Apart from ours, and from what else the guest has.
        let guest = match self.init {
            Some(_) => format!("{OURS}/program/{name}"),
            None => format!("/usr/bin/{name}"),
        };
        self.root.file(&guest, program)?;
        self.check(&guest, &shown.to_string())?;
        self.elves.push(file.to_owned());
        Ok(guest)
    }

    /// Checks that a program can run, with what it needs to be loaded or interpreted.
    fn check(&self, path: &str, shown: &str) -> Result<()> {
        let Some(Entry::File(_, program)) = self.root.get(path.as_bytes()) else {
            return Ok(());
        };
        let cannot = |why: String| unreadable(format!("cannot run {shown}: {why}"));
        if let Some(line) = program.strip_prefix(b"#!") {
            let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let mut words = line.split(|&byte| byte == b' ' || byte == b'\t');
            let interpreter = words.find(|word| !word.is_empty()).unwrap_or_default();
            if matches!(self.root.get(interpreter), Some(Entry::File(..))) {
                return Ok(());
            }
            let interpreter = String::from_utf8_lossy(interpreter);
            return Err(cannot(format!(
                "it is a script for {interpreter}, which the root file system does not have: add \
                 its package, such as --package dash for /bin/sh"
            )));
        }
        match flat::check_program(program) {
            Err(error) => Err(cannot(error.to_string())),
            Ok(Some(loader)) if self.root.get(&loader).is_none() => {
                let loader = String::from_utf8_lossy(&loader);
                Err(cannot(format!(
                    "it needs the dynamic linker {loader}: link it with -static, or give it a root \
                     file system with its libraries, such as --package libc6"
                )))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Adds the program to the boot arguments: itself, or a file that says all that they cannot.
    pub fn boot(&mut self, arguments: &mut BootArgs, board: Board) -> Result<()> {
        if let Some(init) = &self.init {
            arguments.set("init", init)?;
        }
        if self.environment.is_empty() {
            let mut plain = arguments.clone();
            if plain.program(&self.words).is_ok() && plain.line(board).is_ok() {
                *arguments = plain;
                return Ok(());
            }
        }
        let mut file = Vec::new();
        let environment = self.environment.iter().map(String::as_str);
        for string in environment
            .chain([""])
            .chain(self.words.iter().map(String::as_str))
        {
            file.extend_from_slice(string.as_bytes());
            file.push(0);
        }
        self.root
            .insert(ARGUMENTS.as_bytes(), Entry::File(0o644, file))?;
        arguments.program(&[format!("@{ARGUMENTS}")])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Exit, status};
    use crate::image::flat::tests::elf;
    use object::elf::{EM_AARCH64, PT_INTERP, PT_LOAD};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn built(dir: &Path) -> Built {
        let program = dir.join("ours");
        fs::write(&program, elf(EM_AARCH64, &[(PT_LOAD, 0, b"code", 4)])).unwrap();
        Built {
            kernel: "k".into(),
            programs: ["init", "story"]
                .map(|name| (name.to_owned(), program.clone()))
                .into(),
        }
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    fn line(guest: &mut Guest) -> String {
        let mut arguments = BootArgs::new();
        guest.boot(&mut arguments, Board::Virt).unwrap();
        arguments.line(Board::Virt).unwrap()
    }

    fn file(guest: &Guest, path: &str) -> Vec<u8> {
        match guest.root.get(path.as_bytes()) {
            Some(Entry::File(_, contents)) => contents.clone(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn guest_files() {
        let file = |host: &str, guest: &str| GuestFile {
            host: host.into(),
            guest: guest.into(),
        };
        assert_eq!("a:/b".parse(), Ok(file("a", "/b")));
        assert_eq!("c:/x:/b".parse(), Ok(file("c:/x", "/b")));
        for text in ["a", "a:", ":/b", "a:b"] {
            assert!(text.parse::<GuestFile>().is_err(), "{text}");
        }
    }

    #[test]
    fn without_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let built = built(dir.path());
        let progress = Progress::new(true);
        let run = |list: &[&str]| {
            let program = words(list);
            let wanted = Wanted {
                program: &program,
                ..Wanted::default()
            };
            Guest::new(wanted, &built, &progress)
        };
        let mut nothing = run(&[]).unwrap();
        assert!(nothing.is_story && !nothing.is_foreign);
        assert_eq!(line(&mut nothing), "");
        let mut story = run(&["story", "parent"]).unwrap();
        assert!(story.is_story && !story.is_foreign);
        assert_eq!(line(&mut story), " -- story parent");
        // What boot arguments cannot say.
        let mut story = run(&["story", "\"two\"\n", ""]).unwrap();
        assert_eq!(line(&mut story), " -- @/.cowscope/arguments");
        assert_eq!(file(&story, ARGUMENTS), b"\0story\0\"two\"\n\0\0");

        let error = run(&["stroy"]).unwrap_err();
        assert_eq!(status(&error), Some(Exit::Unreadable));
        assert!(
            error.to_string().contains("our own are: init, story"),
            "{error}"
        );

        let theirs = dir.path().join("theirs");
        let name = theirs.to_str().unwrap();
        let load = (PT_LOAD, 0x40_0000, b"code".as_slice(), 4);
        fs::write(&theirs, elf(EM_AARCH64, &[load])).unwrap();
        let mut guest = run(&[name, "x"]).unwrap();
        assert!(guest.is_foreign && guest.elves == [theirs.clone()]);
        assert_eq!(line(&mut guest), " -- /usr/bin/theirs x");
        for (contents, why) in [
            (b"#!/bin/sh\n".to_vec(), "a script for /bin/sh"),
            (b"text".to_vec(), "no ELF"),
            (
                elf(EM_AARCH64, &[load, (PT_INTERP, 0, b"/lib/ld.so\0", 11)]),
                "--package libc6",
            ),
        ] {
            fs::write(&theirs, contents).unwrap();
            let error = run(&[name]).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn with_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let built = built(dir.path());
        let progress = Progress::new(true);
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("box", root.join("usr/bin/sh")).unwrap();
        fs::write(
            root.join("usr/bin/box"),
            elf(EM_AARCH64, &[(PT_LOAD, 0, b"code", 4)]),
        )
        .unwrap();
        let permit = |mode| {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(root.join("usr/bin/box"), permissions).unwrap();
        };
        permit(0o755);
        let run = |list: &[&str], environment: &[&str]| {
            let (program, environment) = (words(list), words(environment));
            let wanted = Wanted {
                root: Some(&root),
                program: &program,
                environment: &environment,
                ..Wanted::default()
            };
            Guest::new(wanted, &built, &progress)
        };
        let mut guest = run(&["sh", "-c", "x"], &["A=b", "HOME=/h"]).unwrap();
        assert!(guest.is_foreign);
        assert_eq!(
            line(&mut guest),
            "init=/.cowscope/init -- @/.cowscope/arguments"
        );
        let path = PATH.join(":");
        let expected = format!("PATH={path}\0A=b\0HOME=/h\0\0sh\0-c\0x\0");
        assert_eq!(file(&guest, ARGUMENTS), expected.as_bytes());
        assert!(guest.root.has_file("/.cowscope/bin/story"));
        assert!(!guest.root.has_file("/bin/story"));
        assert!(run(&["story"], &[]).is_ok());

        let why =
            |list: &[&str], environment: &[&str]| run(list, environment).unwrap_err().to_string();
        assert!(why(&[], &[]).contains("what is to run?"));
        assert!(why(&["absent"], &[]).contains("no program `absent`"));
        assert!(why(&["sh"], &["novalue"]).contains("NAME=VALUE"));
        permit(0o644);
        assert!(why(&["sh"], &[]).contains("chmod +x"));
    }
}
