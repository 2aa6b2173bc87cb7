//! `cowscope image`: a card that a Raspberry Pi boots.

mod device;
pub mod disk;
pub mod model;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::ImageArgs;
use crate::exit::{Exit, usage};
use crate::image;
use crate::machine::BootArgs;
use crate::payload::{Payload, boot_arguments};
use crate::progress::Progress;
use crate::setup::firmware::{self, FIRMWARE_LICENCE};

use device::{Card, Host};
pub use model::Model;

/// `cowscope image`
pub fn run(args: &ImageArgs) -> Result<ExitCode> {
    // What cannot be written is said before anything is built.
    if let Some(output) = &args.output
        && output.exists()
        && !args.force
    {
        return Err(usage(format!(
            "{} exists: choose another name, or --force to overwrite it",
            output.display()
        )));
    }
    if let Some(device) = &args.write {
        Card::find(&Host::this(), device, 0)?;
    }
    let progress = Progress::new(args.quiet);
    let files = files(args, &progress)?;
    progress.step("writing the image");
    match (&args.output, &args.write) {
        (Some(output), None) => {
            to_file(&files, output)?;
            progress.finish();
            progress.note(&format!("{}: {}", output.display(), list(&files)));
        }
        (None, Some(device)) => {
            let mut image = tempfile::tempfile().context("cannot create a temporary file")?;
            disk::write(&files, &mut image)?;
            let size = image.metadata().context("cannot read the image")?.len();
            // Once more, since building takes long enough for somebody to mount it.
            let card = Card::find(&Host::this(), device, size)?;
            progress.finish();
            if !args.yes && !agreed(&card)? {
                progress.note("nothing was written");
                return Ok(Exit::Finding.into());
            }
            card.write(&mut image, &progress)?;
            progress.finish();
            progress.note(&format!("{}: {}", card.describe(), list(&files)));
        }
        _ => return Err(usage("where to? -o FILE, or --write DEVICE")),
    }
    Ok(Exit::Ok.into())
}

/// What the card has on it, by name.
fn files(args: &ImageArgs, progress: &Progress) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = match &args.firmware {
        Some(folder) => folder.clone(),
        None => firmware::folder(progress)?,
    };
    let found = args.board.collect(&folder)?;
    let mut files = found.files;
    if let Some(name) = [FIRMWARE_LICENCE, "LICENCE.broadcom"]
        .into_iter()
        .find(|&name| files.contains_key(name))
    {
        progress.note(&format!(
            "the firmware is Raspberry Pi's and Broadcom's, not free, and for use with Raspberry Pi \
             devices only: {} (it is on the card, too)",
            folder.join(name).display()
        ));
    }
    if args.loader {
        files.insert(model::KERNEL.to_owned(), image::build_loader(progress)?);
        let config = args.board.config(found.upstream, false);
        files.insert(model::CONFIG.to_owned(), config.into_bytes());
        return Ok(files);
    }
    let temporary = tempfile::tempdir().context("cannot create a temporary folder")?;
    let machine = args.board.machine();
    let mut payload = Payload::build(&args.payload, temporary.path(), progress)?;
    let mut bootargs = BootArgs::new();
    bootargs.set("baud", args.baud)?;
    boot_arguments(&args.payload, args.payload.seed, &mut bootargs)?;
    payload.guest.boot(&mut bootargs, machine)?;
    let archive = payload.guest.root.archive();
    model::check_initramfs(archive.len())?;
    files.insert(model::INITRAMFS.to_owned(), archive);
    files.insert(
        model::CMDLINE.to_owned(),
        (bootargs.line(machine)? + "\n").into_bytes(),
    );
    files.insert(model::KERNEL.to_owned(), image::read(&payload.kernel)?);
    files.insert(
        model::CONFIG.to_owned(),
        args.board.config(found.upstream, true).into_bytes(),
    );
    Ok(files)
}

fn list(files: &BTreeMap<String, Vec<u8>>) -> String {
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    names.join(" ")
}

/// The image in its file, whole or not at all.
fn to_file(files: &BTreeMap<String, Vec<u8>>, output: &Path) -> Result<()> {
    let why = || format!("cannot write {}", output.display());
    let folder = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut new = tempfile::NamedTempFile::new_in(folder).with_context(why)?;
    disk::write(files, new.as_file_mut())?;
    readable(new.as_file())?;
    new.persist(output).with_context(why)?;
    Ok(())
}

/// A temporary file is its owner's alone; an image need not be.
fn readable(file: &File) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o644);
        file.set_permissions(mode)
            .context("cannot set the image's permissions")?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

/// Whether the user wants this card overwritten.
fn agreed(card: &Card) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(usage(format!(
            "{} would be overwritten, and there is nobody to ask: --yes says that it may be",
            card.describe()
        )));
    }
    let mut out = std::io::stderr().lock();
    write!(
        out,
        "All that is on {} will be lost. Overwrite it? Type yes: ",
        card.describe()
    )?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
