//! The file that a view goes into: whole, or not at all.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use tempfile::NamedTempFile;

use crate::exit::usage;

/// Where a view goes.
#[derive(Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// Write to this file; - is standard output [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the file
    #[arg(short, long)]
    pub force: bool,
}

impl OutputArgs {
    fn file(&self) -> Option<&Path> {
        self.output.as_deref().filter(|path| *path != "-")
    }

    /// Text: a file, or standard output.
    pub fn text(&self) -> Result<Output> {
        match self.file() {
            Some(path) => self.create(path),
            None => Ok(Output::Standard(BufWriter::new(io::stdout()))),
        }
    }

    /// Bytes, which no terminal shows.
    pub fn binary(&self) -> Result<Output> {
        if self.file().is_none() && io::stdout().is_terminal() {
            return Err(usage("this is no text: name a file with -o FILE"));
        }
        self.text()
    }

    /// Bytes that need a file.
    pub fn seekable(&self) -> Result<Output> {
        match self.file() {
            Some(path) => self.create(path),
            None => Err(usage("this format needs a file: -o FILE")),
        }
    }

    fn create(&self, path: &Path) -> Result<Output> {
        if path.is_dir() {
            let name = path.display();
            return Err(usage(format!("{name} is a folder: name a file in it")));
        }
        if path.exists() && !self.force {
            return Err(exists(path));
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder
            .prefix(".cowscope-")
            .tempfile_in(folder)
            .map_err(|error| usage(format!("cannot write {}: {error}", path.display())))?;
        Ok(Output::File {
            file: BufWriter::new(file),
            path: path.to_owned(),
            overwrite: self.force,
        })
    }
}

fn exists(path: &Path) -> anyhow::Error {
    usage(format!("{} exists: --force overwrites it", path.display()))
}

/// What is being written. Dropped before [`keep`](Self::keep), it leaves no file.
pub enum Output {
    /// Standard output.
    Standard(BufWriter<Stdout>),
    /// A file that gets its name when it is whole.
    File {
        /// It.
        file: BufWriter<NamedTempFile>,
        /// Its name.
        path: PathBuf,
        /// Whether another file of that name may go.
        overwrite: bool,
    },
}

impl Output {
    /// The file itself.
    pub fn file(&self) -> Result<File> {
        match self {
            Output::Standard(_) => Err(usage("this format needs a file: -o FILE")),
            Output::File { file, .. } => {
                Ok(file.get_ref().as_file().try_clone().context("the output")?)
            }
        }
    }

    /// All is written.
    pub fn keep(self) -> Result<()> {
        let (file, path, overwrite) = match self {
            Output::Standard(mut out) => return Ok(out.flush()?),
            Output::File {
                file,
                path,
                overwrite,
            } => (file, path, overwrite),
        };
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let kept = match overwrite {
            true => file.persist(&path),
            false => file.persist_noclobber(&path),
        };
        match kept {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(error) => Err(error.error).with_context(|| path.display().to_string()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Standard(out) => out.write(bytes),
            Output::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Standard(out) => out.flush(),
            Output::File { file, .. } => file.flush(),
        }
    }
}
